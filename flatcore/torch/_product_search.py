"""The forms in which models hold products of matrices, recognised by class or by the names of their parts.

The names are those that PyTorch, Hugging Face models, peft and loralib use.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from flatcore.linear import LinearChain
from flatcore.results import Record
from flatcore.torch._chain import chain_of_tensors, join
from flatcore.torch._device_chain import DeviceChain
from flatcore.torch._forms import SEPARATE, Shape, gated
from flatcore.torch._product_matrices import (
    Matrix,
    UnreadError,
    has_layer,
    head_counts,
    host_shape,
    is_layer,
    low_rank_pair,
    matrix,
    part,
    scaling,
    thirds,
)

_LORA = (("lora_A", "lora_B"), ("lora_a", "lora_b"))
_FUSED = (("c_attn", "c_proj"), ("qkv", "proj"))  # queries, keys and values stacked in that order; the output


@dataclass(frozen=True, repr=False)
class Product(Record):
    """A product of weight matrices inside a model.

    ``name``: the module's name, what is multiplied and, in attention, the head; ``kind``: one of lora, query-key,
    value-output, linear; ``parameters``: names of the parameters in the order of the chain, ``scale``: what the model
    multiplies the product by (LoRA); ``scale_known``: False where the module does not say, and 1 is taken.
    """

    name: str
    kind: str
    module: str
    head: int | None
    parameters: tuple[str, ...]
    scale: float
    scale_known: bool
    matrices: tuple[Tensor, ...] = field(repr=False)

    @cached_property
    def chain(self) -> LinearChain | DeviceChain:
        """The chain: views of the model's tensors on the CPU, a :class:`DeviceChain` elsewhere; made when asked for."""
        return chain_of_tensors(self.matrices)

    def product(self) -> Any:
        """The scaled product itself, an array, or a tensor on the model's device."""
        Phi: Any = self.chain.product()
        return self.scale * Phi

    @property
    def dims(self) -> tuple[int, ...]:
        """Widths along the chain."""
        return (self.matrices[0].shape[1], *(W.shape[0] for W in self.matrices))

    def _title(self) -> str:
        return self.name

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "kind", self.kind
        yield "widths", " → ".join(str(d) for d in self.dims)
        yield "parameters", ", ".join(self.parameters)
        if not self.scale_known:
            yield "scale", "not known, taken as 1"
        elif self.scale != 1.0:
            yield "scale", f"{self.scale:g}"

    def __repr__(self) -> str:
        return f"Product({self.name!r}, {' → '.join(str(d) for d in self.dims)})"


class Search:
    """Entries found so far, and the layers they use."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.entries: list[Product] = []
        self.used: set[str] = set()
        self.unread: list[tuple[str, str]] = []

    def read(self, name: str, module: nn.Module) -> None:
        """Add the products of one module, where it has a known form."""
        for reader in (self._lora, self._multihead, self._separate, self._bert, self._fused):
            try:
                reader(name, module)
            except UnreadError as reason:
                self.unread.append((name, str(reason)))

    def layers(self) -> Iterator[tuple[str, nn.Module]]:
        """All layers that are a weight matrix."""
        return ((name, module) for name, module in self.model.named_modules() if is_layer(module))

    # -- LoRA ------------------------------------------------------------------------------------------------------

    def _lora(self, name: str, module: nn.Module) -> None:
        for low, high in _LORA:
            A, B = getattr(module, low, None), getattr(module, high, None)
            if isinstance(A, Tensor) and isinstance(B, Tensor):
                bare = (Matrix(A, join(name, low), None), Matrix(B, join(name, high), None))
                pair = low_rank_pair(*bare, host_shape(module))
                self._add_lora(name, "", pair, scaling(module, None, pair[0]))
            elif isinstance(A, nn.ModuleDict) and isinstance(B, nn.ModuleDict):
                for adapter in A:
                    down, up = join(name, low, adapter), join(name, high, adapter)
                    pair = (matrix(down, A[adapter]), matrix(up, B[adapter]))
                    self._add_lora(name, adapter, pair, scaling(module, adapter, pair[0]))
            elif isinstance(A, nn.Module) and isinstance(B, nn.Module) and is_layer(A) and is_layer(B):
                pair = (matrix(join(name, low), A), matrix(join(name, high), B))
                self._add_lora(name, "", pair, scaling(module, None, pair[0]))

    def _add_lora(self, name: str, adapter: str, pair: tuple[Matrix, Matrix], scale: float | None) -> None:
        self._add(f"{name or 'model'} lora {adapter}".rstrip(), "lora", name, None, pair, scale)

    # -- attention -------------------------------------------------------------------------------------------------

    def _multihead(self, name: str, module: nn.Module) -> None:
        if not isinstance(module, nn.MultiheadAttention):
            return
        out = matrix(join(name, "out_proj"), module.out_proj)
        if module.in_proj_weight is not None:
            stacked = Matrix(module.in_proj_weight, join(name, "in_proj_weight"), None)
            q, k, v = thirds(stacked, out)
        else:
            parts = (f"{part}_proj_weight" for part in "qkv")
            q, k, v = (Matrix(getattr(module, part), join(name, part), None) for part in parts)
        self._add_heads(name, (q, k, v, out), module.num_heads, module.num_heads)

    def _separate(self, name: str, module: nn.Module) -> None:
        for *inputs, outputs in SEPARATE:
            out = next((part for part in outputs if has_layer(module, part)), None)
            if out is not None and all(has_layer(module, str(part)) for part in inputs):
                names = [join(name, str(part)) for part in (*inputs, out)]
                q, k, v, o = (matrix(n, self.model.get_submodule(n)) for n in names)
                self._add_heads(name, (q, k, v, o), *head_counts(module, q, k))

    def _bert(self, name: str, module: nn.Module) -> None:
        """BERT's attention: `self` (ViT: `attention`) with query, key and value beside `output.dense`."""
        for inner in ("self", "attention"):
            heads, output = getattr(module, inner, None), getattr(module, "output", None)
            if not (isinstance(heads, nn.Module) and isinstance(output, nn.Module) and has_layer(output, "dense")):
                continue
            if all(has_layer(heads, part) for part in ("query", "key", "value")):
                names = [join(name, inner, part) for part in ("query", "key", "value")]
                names.append(join(name, "output", "dense"))
                q, k, v, o = (matrix(n, self.model.get_submodule(n)) for n in names)
                self._add_heads(name, (q, k, v, o), *head_counts(heads, q, k))

    def _fused(self, name: str, module: nn.Module) -> None:
        for inputs, output in _FUSED:
            if has_layer(module, inputs) and has_layer(module, output):
                stacked = matrix(join(name, inputs), getattr(module, inputs))
                out = matrix(join(name, output), getattr(module, output))
                q, k, v = thirds(stacked, out)
                self._add_heads(name, (q, k, v, out), *head_counts(module, q, k))

    def _add_heads(
        self, name: str, matrices: tuple[Matrix, Matrix, Matrix, Matrix], heads: int, key_heads: int
    ) -> None:
        q, k, v, o = matrices
        for one, count, what in ((q, heads, "queries"), (k, key_heads, "keys"), (v, key_heads, "values")):
            if count < 1 or one.tensor.shape[0] % count:
                raise UnreadError(f"{one.tensor.shape[0]} {what} do not divide into {count} heads")
        width, value_width = q.tensor.shape[0] // heads, v.tensor.shape[0] // key_heads
        if heads % key_heads or k.tensor.shape[0] // key_heads != width or o.tensor.shape[1] != heads * value_width:
            raise UnreadError(
                f"{heads} heads of {width} queries do not go with {key_heads} of "
                f"{k.tensor.shape[0] // key_heads} keys, {value_width} values and an output of "
                f"{o.tensor.shape[1]} columns"
            )
        for h in range(heads):
            g = h // (heads // key_heads)
            query, key = q.rows(part(h, width)), k.rows(part(g, width))
            back = Matrix(query.tensor.mT, q.parameter, q.owner)
            self._add(f"{name or 'model'} query-key head {h}", "query-key", name, h, (key, back))
        for h in range(heads):
            value = v.rows(part(h // (heads // key_heads), value_width))
            out = Matrix(o.tensor[:, part(h, value_width)], o.parameter, o.owner)
            self._add(f"{name or 'model'} value-output head {h}", "value-output", name, h, (value, out))

    # -- layers taken as linear ------------------------------------------------------------------------------------

    def take_as_linear(self, entry: str | nn.Module) -> None:
        """Add runs of consecutive free layers of the modules that `entry` means."""
        found = 0
        shapes = {name: host_shape(layer) or () for name, layer in self.layers()}
        for name, layers in self._groups(entry).items():
            for run in _runs([self._readable(layer) for layer in _in_order(layers, shapes)]):
                found += 1
                self._add(f"{name or 'model'} linear {_last(run[0])}–{_last(run[-1])}", "linear", name, None, run)
        if not found:
            raise ValueError(
                f"linear names {entry if isinstance(entry, str) else type(entry).__name__!r}, which has no two free "
                "Linear layers whose widths follow each other"
            )

    def _readable(self, layer: str) -> Matrix:
        try:
            return matrix(layer, self.model.get_submodule(layer))
        except UnreadError as reason:
            raise ValueError(f"linear asks for a layer that cannot be read: {reason}") from None

    def _groups(self, entry: str | nn.Module) -> dict[str, list[str]]:
        """Names of free layers, by the module that was named, or that layers named themselves lie in."""
        meant = [name for name, module in self.model.named_modules() if _means(entry, name, module)]
        if not meant:
            raise ValueError(f"linear names {entry!r}, which is no module of the model and matches none")
        free = [name for name, _ in self.layers() if name not in self.used]
        groups: dict[str, list[str]] = {}
        taken: set[str] = set()
        for name in meant:
            inside = [layer for layer in free if layer not in taken and (name in ("", layer) or _below(layer, name))]
            group = name.rpartition(".")[0] if inside == [name] else name
            groups.setdefault(group, []).extend(inside)
            taken.update(inside)
        return groups

    def _add(
        self,
        name: str,
        kind: str,
        module: str,
        head: int | None,
        matrices: Sequence[Matrix],
        scale: float | None = 1.0,
    ) -> None:
        for below, above in itertools.pairwise(matrices):
            if above.tensor.ndim != 2 or below.tensor.ndim != 2 or above.tensor.shape[1] != below.tensor.shape[0]:
                shapes = f"{tuple(above.tensor.shape)} and {tuple(below.tensor.shape)}"
                raise UnreadError(f"{above.parameter} and {below.parameter} have shapes {shapes}: no product")
        tensors = tuple(one.tensor.detach() for one in matrices)
        parameters = tuple(m.parameter for m in matrices)
        known, factor = scale is not None, 1.0 if scale is None else scale
        self.entries.append(Product(name, kind, module, head, parameters, factor, known, tensors))
        self.used.update(one.owner for one in matrices if one.owner is not None)


def _means(entry: Any, name: str, module: nn.Module) -> bool:
    if isinstance(entry, nn.Module):
        return entry is module
    if not isinstance(entry, str):
        raise ValueError(f"linear holds a {type(entry).__name__}; expected names, regular expressions or modules")
    try:
        return entry == name or re.fullmatch(entry, name) is not None
    except re.error as error:
        raise ValueError(f"linear names {entry!r}, which is no regular expression ({error}) and no module") from None


def _below(layer: str, name: str) -> bool:
    return layer.startswith(f"{name}.")


def _in_order(layers: list[str], shapes: dict[str, Shape]) -> list[str]:
    """Layers in the order of registration, but those of a gated MLP as (up, down), or (gate, down) without up."""
    ordered = list(layers)
    for parent in {name.rpartition(".")[0]: None for name in layers}:
        gate, up, down = gated(parent, shapes) or ("", "", "")
        inside = [name for name in ordered if name in (gate, up, down)]
        if inside:
            first = ordered.index(inside[0])
            ordered = [name for name in ordered if name not in inside]
            ordered[first:first] = [name for name in (up if up in inside else gate, down) if name in inside]
    return ordered


def _last(matrix: Matrix) -> str:
    """The layer's own name in its module."""
    return str(matrix.owner).rpartition(".")[2]


def _runs(matrices: list[Matrix]) -> Iterator[list[Matrix]]:
    """Longest stretches of at least two matrices whose widths follow each other."""
    run: list[Matrix] = []
    for one in matrices:
        if run and one.tensor.shape[1] != run[-1].tensor.shape[0]:
            if len(run) > 1:
                yield run
            run = []
        run.append(one)
    if len(run) > 1:
        yield run
