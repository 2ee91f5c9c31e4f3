"""What a checkpoint's tensors are to each other: attention heads, adapters, consecutive layers.

It is told by names, shapes and roles (`flatcore.io.roles`), by ``config.json`` and ``adapter_config.json`` beside the
files where these agree with the shapes, and by the user's rules, which win. Nothing is read but shapes. What names say
nothing about is analysed by its shape and listed.

An attention *unit* is what has one name up to its first part with "att" in it, a *block* what has one name up to that.
Consecutive layers are, at most eight pairs a block:

    up → down, gate → down, value → output (where every head has its own value),
    output → up or gate of the same block, down → query, key and value of the next: writers and readers of the residual;

and in models without attention one layer and the next in natural order of the names, where their widths fit.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from flatcore._checks import FloatArray, as_float_array, listed
from flatcore.checkpoints.adapters import Adapter, find_adapters
from flatcore.checkpoints.config import TEXT, ModelConfig, part_of, read_adapter_config, read_model_config
from flatcore.checkpoints.rules import Rules
from flatcore.io import Checkpoint, StoredTensor, bias_name, natural_key
from flatcore.io.parametrized import parametrized_of, why_set_aside
from flatcore.io.roles import (
    BIAS,
    BUFFER,
    DORA,
    DOWN,
    EMBEDDING,
    GATE,
    GATE_UP,
    KEY,
    LORA_A,
    LORA_ALPHA,
    LORA_B,
    NORM,
    OUTPUT,
    QKV,
    QUERY,
    UNKNOWN,
    UP,
    VALUE,
    role_of,
    roles_of,
)

_ATTENTION, _MLP = (QUERY, KEY, VALUE, OUTPUT, QKV), (UP, GATE, DOWN, GATE_UP)
_SHORT = {NORM: "a norm's vector", LORA_ALPHA: "an adapter's α", DORA: "an adapter's magnitudes"}  # not analysed
_CONV1D = re.compile(r"(?:.*[./])?(c_attn|c_proj|c_fc|q_attn)\.weight", re.DOTALL)
_INTERLEAVED = re.compile(r"(?:.*[./])?query_key_value\.weight", re.DOTALL)
_MOST_NOTES = 20
# Entries a head of the models that were published with a width, where no file says the number of heads.
_WIDE = {768: 64, 1024: 64, 192: 64, 384: 64}
_HEAD_DIMS: dict[str, dict[int, int]] = {
    "GPT-2": _WIDE | {1280: 64, 1600: 64},
    "BERT": _WIDE,
    "ViT": _WIDE | {1280: 80},
    "Llama or Mistral": {2048: 64, 3072: 128, 4096: 128, 5120: 128, 6656: 128, 8192: 128, 16384: 128},
    "Phi-3": {3072: 96, 4096: 128, 5120: 128},
}


@dataclass(frozen=True)
class Part:
    """Rows [first, last) of a tensor's matrix (out, in); the whole of it where they are all."""

    tensor: str
    first: int
    last: int
    inputs: int
    label: str

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.last - self.first

    @property
    def name(self) -> str:
        """The tensor, and which part of it."""
        return f"{self.tensor} [{self.label}]" if self.label else self.tensor


@dataclass(frozen=True)
class Attention:
    """One layer's heads: query and output (heads), key and value (kv_heads), which several query heads may share."""

    name: str
    query: Part
    key: Part
    value: Part
    output: Part
    heads: int
    kv_heads: int

    @property
    def head_dim(self) -> int:
        """Entries a head."""
        return self.query.rows // self.heads


@dataclass(frozen=True)
class Consecutive:
    """Two layers, and whether training keeps the difference of their Gram matrices."""

    lower: Part
    upper: Part
    balanced: bool


@dataclass(frozen=True)
class Structure:
    """What was recognised.

    Parameters
    ----------
    family
        What the names were taken for.
    roles
        Of every tensor.
    analysed
        Names of what has a spectrum, in natural order.
    in_out
        Those of them that are stored (in, out).
    attentions, adapters, consecutive
        Products and pairs.
    not_analysed
        Names of what has no spectrum, with the reason.
    unknown
        Names that say nothing.
    notes
        What else is to be said, guesses among it.

    """

    family: str
    roles: dict[str, str]
    analysed: tuple[str, ...]
    in_out: frozenset[str]
    attentions: tuple[Attention, ...]
    adapters: tuple[Adapter, ...]
    consecutive: tuple[Consecutive, ...]
    not_analysed: tuple[tuple[str, str], ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether the names are those of no known family: the tensors may be the layers of a chain."""
        return self.family in (SEQUENTIAL, NO_FAMILY)

    def array(self, checkpoint: Checkpoint, name: str) -> FloatArray:
        """A tensor as stored, without an embedding's leading ones."""
        tensor = checkpoint[name]
        array = as_float_array(name, tensor.load(), len(tensor.shape), keep_half=True)
        return array.reshape(extents_of(tensor.shape, self.roles[name]))

    def are_neighbours(self, lower: Attention, upper: Attention) -> bool:
        """Whether two attention units are one after the other in the same stack: names that differ in numbers alone."""
        return stack_of(lower.name) == stack_of(upper.name)


SEQUENTIAL, NO_FAMILY = "sequential layers", "no family that is known"


def recognise(checkpoint: Checkpoint, rules: Rules | None = None) -> Structure:
    """Tell what a checkpoint's tensors are to each other.

    Parameters
    ----------
    checkpoint
        From :func:`flatcore.io.open_checkpoint`.
    rules
        What the user says; wins over names and files.

    Returns
    -------
    Structure

    Raises
    ------
    ValueError
        Rules that are none, that no tensor fits, or that the shapes do not bear out.

    """
    Rules.check(rules)
    rules = rules or Rules()
    rules.check_used(checkpoint)
    return _Recogniser(checkpoint, rules).structure()


class _Recogniser:
    """The steps of `recognise`, which share what is known so far."""

    def __init__(self, checkpoint: Checkpoint, rules: Rules) -> None:
        self.checkpoint, self.rules = checkpoint, rules
        self.roles = {name: rules.role(name) or role for name, role in roles_of(checkpoint).items()}
        self.notes: list[str] = []
        self.parametrized = parametrized_of({name: tensor.shape for name, tensor in checkpoint.items()})
        self.left_out = dict(self._left_out())
        self.analysed = sorted((name for name in checkpoint if name not in self.left_out), key=natural_key)
        self.in_out = frozenset(self._stored_in_out())
        self.family = family_of(self.roles)
        folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
        self.config, notes = read_model_config(folder) if self._has(QUERY, QKV) else (ModelConfig(), ())
        self.notes += notes
        self.folder = folder

    def structure(self) -> Structure:
        units = list(self._units())
        attentions = [found for unit in units if (found := self._with_heads(*unit)) is not None]
        adapters = self._adapters()
        consecutive = list(self._ruled_pairs())
        if self._has(*_ATTENTION, *_MLP):
            consecutive += self._block_pairs([parts for _, parts in units])
        elif not self._has(LORA_A, LORA_B):
            consecutive += self._chain_pairs()
        return Structure(
            family=self.family,
            roles=self.roles,
            analysed=tuple(self.analysed),
            in_out=self.in_out,
            attentions=tuple(attentions),
            adapters=adapters,
            consecutive=tuple(dict.fromkeys(consecutive)),
            not_analysed=tuple((name, self.left_out[name]) for name in sorted(self.left_out, key=natural_key)),
            unknown=tuple(name for name, role in self.roles.items() if role == UNKNOWN),
            notes=tuple(dict.fromkeys(self.notes)),
        )

    # -- what is analysed --------------------------------------------------------------------------------------------

    def _has(self, *roles: str) -> bool:
        return any(role in roles for role in self.roles.values())

    def _left_out(self) -> Iterator[tuple[str, str]]:
        for name, reason in self.checkpoint.others.items():
            yield name, reason
        parts = {part: (weight, own) for weight, own in self.parametrized.items() for part in own}
        for name, tensor in self.checkpoint.items():
            if name in parts:
                yield name, f"of {parts[name][0]}: {why_set_aside(parts[name][1])}"
            elif reason := self._why_not(tensor):
                yield name, reason

    def _why_not(self, tensor: StoredTensor) -> str:
        role, extents = self.roles[tensor.name], extents_of(tensor.shape, self.roles[tensor.name])
        if tensor.name in self.checkpoint.tied:
            return f"the same memory as {self.checkpoint.tied[tensor.name]}"
        if role == BUFFER:
            return "a buffer"
        if not tensor.is_floating:
            return f"{tensor.dtype}: no floating-point numbers"
        if 0 in tensor.shape:
            return "no entries"
        if len(extents) < 2:
            return _SHORT.get(role) or ("a vector" if extents else "a number")
        if len(extents) > 5:
            return f"{len(extents)} extents: no matrix and no kernel of one to three offsets"
        return ""

    def _stored_in_out(self) -> Iterator[str]:
        """Names of matrices that are stored (in, out): GPT-2's Conv1D, which nn.Linear's of the same names are not."""
        stored = [n for n in self.analysed if _CONV1D.fullmatch(n) and len(self._shape(n)) == 2]
        votes = [vote for name in stored if (vote := self._vote(name)) is not None]
        conv1d = bool(votes) and votes[0]
        if conv1d and not all(votes):
            self.notes.append(
                "c_attn, c_proj, c_fc: shapes and biases disagree on how they are stored; taken as (in, out)"
            )
        for name in self.analysed:
            said = self.rules.in_out(name)
            if (conv1d and name in stored) if said is None else (said and len(self._shape(name)) == 2):
                yield name

    def _vote(self, name: str) -> bool | None:
        """Whether a matrix is stored (in, out), by its bias or by what its name says of its sides; None for square."""
        rows, cols = self._shape(name)
        bias = self.checkpoint.get(bias_name(name) or "")
        if rows == cols:
            return None
        if bias is not None and bias.shape in ((rows,), (cols,)):
            return bias.shape == (cols,)
        widens = bool(re.search(r"(c_attn|c_fc)\.weight$", name))
        return (cols > rows) == widens

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.checkpoint[name].shape

    # -- attention ---------------------------------------------------------------------------------------------------

    def _units(self) -> Iterator[tuple[str, dict[str, Part]]]:
        """Attention units that have one matrix of every kind, split into query, key, value and output."""
        units: dict[str, dict[str, list[str]]] = {}
        for name in self.analysed:
            if self.roles[name] in _ATTENTION and len(self._shape(name)) == 2:
                units.setdefault(unit_of(name), {}).setdefault(self.roles[name], []).append(name)
        incomplete = []
        for unit, names in units.items():
            kinds = {role: found[0] for role, found in names.items() if len(found) == 1}
            if (
                len(kinds) < len(names)
                or OUTPUT not in kinds
                or not (QKV in kinds or {QUERY, KEY, VALUE} <= set(kinds))
            ):
                incomplete.append(unit)
            elif (parts := self._split(kinds)) is not None:
                yield unit, parts
        if incomplete:
            self.notes.append(f"attention without one query, key, value and output each: {listed(incomplete)}")

    def _split(self, kinds: dict[str, str]) -> dict[str, Part] | None:
        output = self._whole(kinds[OUTPUT])
        if QKV not in kinds:
            return {role: self._whole(kinds[role]) for role in (QUERY, KEY, VALUE)} | {OUTPUT: output}
        fused = self._whole(kinds[QKV])
        shared = fused.rows - output.inputs
        if _INTERLEAVED.fullmatch(fused.tensor):
            self.notes.append("query_key_value: models interleave its heads in different ways; it is not split")
            return None
        if shared <= 0 or shared % 2:
            self.notes.append(
                f"{fused.tensor} has {fused.rows} rows, which {output.inputs} inputs of the output do not split"
            )
            return None
        q, k = output.inputs, output.inputs + shared // 2
        bounds = {QUERY: (0, q, "query"), KEY: (q, k, "key"), VALUE: (k, fused.rows, "value")}
        return {r: Part(fused.tensor, a, b, fused.inputs, label) for r, (a, b, label) in bounds.items()} | {
            OUTPUT: output
        }

    def _whole(self, name: str) -> Part:
        rows, inputs = self._matrix_shape(name)
        return Part(name, 0, rows, inputs, "")

    def _matrix_shape(self, name: str) -> tuple[int, int]:
        extents = extents_of(self._shape(name), self.roles[name])
        rows, inputs = extents[0], math.prod(extents[1:])
        return (inputs, rows) if name in self.in_out else (rows, inputs)

    def _with_heads(self, unit: str, parts: dict[str, Part]) -> Attention | None:
        query, key, value, output = (parts[role] for role in (QUERY, KEY, VALUE, OUTPUT))
        config = self.config.of(unit)
        heads, source = self._heads(query, config)
        if heads is None:
            of = "" if (part := part_of(unit)) == TEXT else f" of {part}"
            self.notes.append(
                f"the number of heads{of} is not known: no products of heads (--heads N, or heads = N in rules)"
            )
            return None
        reason = ""
        if query.rows % heads:
            reason = f"{query.rows} rows of the query are no multiple of {heads} heads"
        elif output.inputs != query.rows or key.rows != value.rows:
            reason = f"query {query.rows}, key {key.rows}, value {value.rows} rows and output {output.inputs} inputs"
        elif key.rows % (query.rows // heads) or heads % (kv := key.rows * heads // query.rows):
            reason = f"{key.rows} rows of the key are not those of heads that {heads} heads could share"
        elif (said := self._said_kv_heads(config)) is not None and said != kv:
            reason = f"{kv} heads of keys by their shape; expected {said}"
        elif source == "config.json" and config.head_dim not in (None, query.rows // heads):
            reason = f"{query.rows // heads} entries a head by their shape; expected {config.head_dim}"
        if not reason:
            return Attention(unit, query, key, value, output, heads, kv)
        if source == "rules":
            raise ValueError(f"{heads} heads: {unit}: {reason}")
        self.notes.append(f"{unit}: no products of heads: {reason} ({source})")
        return None

    def _said_kv_heads(self, config: ModelConfig) -> int | None:
        if self.rules.heads is not None:
            return self.rules.kv_heads
        return config.kv_heads if config.heads is not None else None

    def _heads(self, query: Part, config: ModelConfig) -> tuple[int | None, str]:
        """How many heads there are, and who says so."""
        if self.rules.heads is not None:
            return self.rules.heads, "rules"
        if config.heads is not None:
            return config.heads, "config.json"
        family = "ViT" if self.family.startswith("ViT") else self.family
        known = part_of(query.tensor) == TEXT or family == "ViT"
        each = _HEAD_DIMS.get(family, {}).get(query.inputs) if known else None
        if each is None or query.rows % each:
            return None, ""
        self.notes.append(
            f"{query.rows // each} heads of {each} entries are a guess: what published {family} models of width "
            f"{query.inputs} have (no config.json; --heads N says otherwise)"
        )
        return query.rows // each, "guessed"

    # -- pairs -------------------------------------------------------------------------------------------------------

    def _ruled_pairs(self) -> Iterator[Consecutive]:
        for rule in self.rules.pairs:
            for lower, upper in rule.matches(self.analysed):
                below, above = self._whole(lower), self._whole(upper)
                if not self._fits(below, above):
                    raise ValueError(
                        f"the pair {rule}: {lower} has {below.rows} outputs and {upper} {above.inputs} inputs; "
                        "expected as many"
                    )
                yield Consecutive(below, above, True)

    def _fits(self, lower: Part, upper: Part) -> bool:
        """Whether the widths fit; kernels have channels and offsets."""
        return lower.rows == self._channels(upper) or (
            len(self._shape(lower.tensor)) > 2
            and len(self._shape(upper.tensor)) == 2
            and upper.inputs % lower.rows == 0
        )

    def _channels(self, part: Part) -> int:
        shape = extents_of(self._shape(part.tensor), self.roles[part.tensor])
        return shape[1] if len(shape) > 2 else part.inputs

    def _block_pairs(self, units: list[dict[str, Part]]) -> Iterator[Consecutive]:
        """Pairs of transformers: inside attention and MLPs, and along the residual."""
        attention = {block_of(parts[OUTPUT].tensor): parts for parts in units}
        mlps = self._mlps()
        blocks = sorted({*attention, *mlps}, key=natural_key)
        for block in blocks:
            yield from _inside(attention.get(block), mlps.get(block))
        stacks: dict[str, list[str]] = {}
        for block in blocks:
            stacks.setdefault(stack_of(block), []).append(block)
        for lower, upper in (pair for stack in stacks.values() for pair in pairwise(stack)):
            down, readers = mlps.get(lower, {}).get(DOWN), attention.get(upper, {})
            for reader in _readers(readers):
                if down is not None and down.rows == reader.inputs:
                    yield Consecutive(down, reader, False)

    def _mlps(self) -> dict[str, dict[str, Part]]:
        """MLPs with one matrix of each kind, by block."""
        named: dict[str, dict[str, list[str]]] = {}
        for name in self.analysed:
            if self.roles[name] in _MLP and len(self._shape(name)) == 2:
                named.setdefault(block_of(name), {}).setdefault(self.roles[name], []).append(name)
        found = {}
        for block, names in named.items():
            if all(len(of_kind) == 1 for of_kind in names.values()):
                parts = {role: self._whole(of_kind[0]) for role, of_kind in names.items()}
                if GATE_UP in parts and (fused := parts[GATE_UP]).rows % 2 == 0:
                    half = fused.rows // 2
                    parts[GATE] = dataclasses.replace(fused, last=half, label="gate")
                    parts[UP] = dataclasses.replace(fused, first=half, label="up")
                found[block] = parts
        return found

    def _chain_pairs(self) -> Iterator[Consecutive]:
        """One layer and the next in natural order; none across a weight that is not analysed."""
        layers = [name for name in self.analysed if self.roles[name] != EMBEDDING]
        missing = (name for name in self.checkpoint.missing if role_of(name, (1,)) not in (BIAS, NORM))
        apart, unseen = [], [*self.parametrized, *missing]
        for lower, upper in pairwise(layers):
            between = [n for n in unseen if natural_key(lower) < natural_key(n) < natural_key(upper)]
            below, above = self._whole(lower), self._whole(upper)
            if between:
                apart.append(f"{lower} → {upper}: {', '.join(between)} between, not analysed")
            elif self._fits(below, above):
                yield Consecutive(below, above, True)
            else:
                apart.append(f"{lower} → {upper}: {below.rows} go out, {self._channels(above)} come in")
        if layers:
            self.notes.append(
                "the order of layers is that of the names; kernels are taken as convolutions without groups"
            )
        self.notes += [f"not consecutive: {text}" for text in apart[:_MOST_NOTES]]
        if len(apart) > _MOST_NOTES:
            self.notes.append(f"not consecutive: {len(apart) - _MOST_NOTES} more neighbours")

    # -- adapters ----------------------------------------------------------------------------------------------------

    def _adapters(self) -> tuple[Adapter, ...]:
        if not self._has(LORA_A, LORA_B):
            return ()
        config, notes = read_adapter_config(self.folder)
        found, more = find_adapters(self.checkpoint, self.roles, config)
        self.notes += [*notes, *more]
        return found


def family_of(roles: Mapping[str, str]) -> str:
    """What names and roles were taken for; of a model of several parts, that of texts."""
    roles = {name: role for name, role in roles.items() if part_of(name) == TEXT} or roles
    kinds = set(roles.values())

    def named(*endings: str) -> bool:
        return all(any(name.endswith(ending) for name in roles) for ending in endings)

    if {LORA_A, LORA_B} & kinds:
        return "LoRA adapters"
    if named("attn.c_attn.weight"):
        return "GPT-2"
    if named("in_proj_weight") and any("encoder_layer_" in name for name in roles):
        return "ViT (torchvision's)"
    if named("attn.qkv.weight", "attn.proj.weight"):
        return "ViT (timm's)"
    if named("attention.attention.query.weight"):
        return "ViT (transformers')"
    if named("attention.self.query.weight"):
        return "BERT"
    if named("self_attn.qkv_proj.weight", "gate_up_proj.weight"):
        return "Phi-3"
    if named("self_attn.q_proj.weight", "gate_proj.weight") or named("attention.wq.weight", "feed_forward.w1.weight"):
        return "Llama or Mistral"
    if kinds & {*_ATTENTION, *_MLP}:
        return "a transformer of no family that is known"
    if kinds <= {UNKNOWN, BUFFER}:
        return NO_FAMILY
    return "layers and embeddings" if EMBEDDING in kinds else SEQUENTIAL


def unit_of(name: str) -> str:
    """The attention unit of a matrix: its name up to the first part with "att" in it, or its module's parent.

    Examples
    --------
    >>> unit_of("encoder.layer.0.attention.output.dense.weight"), unit_of("tower.0.wq.weight")
    ('encoder.layer.0.attention', 'tower.0')

    """
    parts = re.split(r"([./])", name)
    for index in range(0, len(parts) - 2, 2):
        if "att" in parts[index].lower():
            return "".join(parts[: index + 1])
    return "".join(parts[:-4])


def block_of(name: str) -> str:
    """The block of a matrix: what comes before its attention or its MLP.

    Examples
    --------
    >>> block_of("h.0.attn.c_proj.weight"), block_of("h.0.mlp.c_fc.weight"), block_of("layer.1.output.dense.weight")
    ('h.0', 'h.0', 'layer.1')

    """
    parts = re.split(r"([./])", name)
    for index in range(0, len(parts) - 2, 2):
        part = parts[index].lower()
        if "att" in part or part in ("mlp", "ffn", "feed_forward", "intermediate", "output", "experts"):
            rest = parts[index + 1 :]
            if part == "mlp" and "experts" in rest:  # mlp.experts.3.up_proj.weight
                return "".join(parts[: index + 1 + rest.index("experts") + 3])
            return "".join(parts[: max(index - 1, 0)])
    return "".join(parts[:-4])


def stack_of(name: str) -> str:
    """A name without its numbers: what the layers of one stack share."""
    return re.sub("[0-9]+", "#", name)


def _readers(parts: Mapping[str, Part]) -> Iterable[Part]:
    """What reads the residual of an attention unit: a fused matrix once."""
    if parts and parts[QUERY].label:
        query = parts[QUERY]
        return [dataclasses.replace(query, first=0, last=parts[VALUE].last, label="")]
    return [parts[role] for role in (QUERY, KEY, VALUE) if role in parts]


def _inside(attention: Mapping[str, Part] | None, mlp: Mapping[str, Part] | None) -> Iterator[Consecutive]:
    """Pairs of one block."""
    attention, mlp = attention or {}, mlp or {}
    candidates = [
        (attention.get(VALUE), attention.get(OUTPUT), False),
        (attention.get(OUTPUT), mlp.get(GATE_UP) or mlp.get(GATE), False),
        (attention.get(OUTPUT), None if GATE_UP in mlp else mlp.get(UP), False),
        (mlp.get(UP), mlp.get(DOWN), True),
        (mlp.get(GATE), mlp.get(DOWN), False),
    ]
    for lower, upper, balanced in candidates:
        if lower is not None and upper is not None and lower.rows == upper.inputs:
            yield Consecutive(lower, upper, balanced)


def extents_of(shape: tuple[int, ...], role: str) -> tuple[int, ...]:
    """A tensor's extents; of embeddings without leading ones: (1, tokens, features) is a matrix."""
    while role == EMBEDDING and len(shape) > 1 and shape[0] == 1:
        shape = shape[1:]
    return shape
