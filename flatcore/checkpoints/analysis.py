"""The analysis of a checkpoint: one tensor in memory at a time, products by their thin factors, pairs of layers.

Tensors are read in natural order of their names, mapped from their files where these hold them as they are in memory,
and given back before the next; of each its right singular vectors stay, and its left ones until its pairs are done.

cost    for every tensor one read for its norm, top_svd's block steps (4 rows each), and where the smaller side is long
        up to 18 reads more for the effective rank; heads and pairs as their modules say.
memory  the largest tensor, once more where it is stored in a format that has to be converted, and vectors.
source  docs/checkpoints.md.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from flatcore._atomic import PathLike
from flatcore._checks import FloatArray, as_float_array, as_path, check_count, check_finite, check_flags, check_progress
from flatcore._threads import limit_threads
from flatcore.checkpoints.adapters import analyze_adapter
from flatcore.checkpoints.heads import Heads, compositions, head_products
from flatcore.checkpoints.products import tail_of
from flatcore.checkpoints.ranks import Estimate, Survey, effective_rank, noise_edge, survey
from flatcore.checkpoints.rules import Rules
from flatcore.checkpoints.structure import Attention, Consecutive, Part, Structure, extents_of, recognise
from flatcore.io import Checkpoint, bias_name, open_checkpoint
from flatcore.io.roles import EMBEDDING
from flatcore.results import (
    CheckpointAnalysis,
    FailedTensor,
    HeadComposition,
    LayerPair,
    ProductSpectrum,
    TensorSpectrum,
    read_only,
)
from flatcore.spectral._tolerance import checked_tol
from flatcore.spectral._top_svd import search
from flatcore.weights.layers import Kernel, Layer, kernel_rows, offsets_text
from flatcore.weights.pairs import Member, Triplets, layer_pair, top_triplets

Progress = Callable[[str, float], None]
_BALANCE_FLOPS = 5e9  # beyond which a pair's gap is estimated
_HEADS_SHARE = 0.25  # of a byte's time in a tensor's spectrum that it takes in products of heads, for the progress


def analyze_checkpoint(
    checkpoint: Checkpoint | PathLike,
    k: int = 8,
    *,
    rules: Rules | None = None,
    tol: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    starts: Mapping[str, FloatArray] | None = None,
    spectra_only: bool = False,
    progress: Progress | None = None,
) -> CheckpointAnalysis:
    """Spectra of a checkpoint's tensors, products of its heads and adapters, coupling and balance of its layers.

    Parameters
    ----------
    checkpoint
        From :func:`flatcore.io.open_checkpoint`, or a path, which is opened and closed.
    k
        Singular triplets a tensor (fewer where it has fewer).
    rules
        What is known beyond names, shapes and the configuration beside the files.
    tol, seed, threads
        As in :func:`flatcore.top_svd`.
    starts
        Right singular vectors (b, n) by name, such as ``right`` of a nearby checkpoint's analysis, to start with. What
        has another shape by now is left out, and a note says so.
    spectra_only
        Leave out what takes as long as the searches or longer: effective ranks (NaN), heads and pairs.
    progress
        Called with what is being done and the fraction of all done, by bytes.

    Returns
    -------
    CheckpointAnalysis
        Tensors that are not finite, cannot be read, or are missing from the shard that an index has them in, are
        ``failed``; the rest goes on.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        A bad argument, rules that fit nothing, a damaged checkpoint, one without any matrix.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/m.npz", W1=np.diag([3.0, 2.0]), W2=np.eye(2))
    ...     found = analyze_checkpoint(f"{folder}/m.npz", k=1)
    >>> found.tensors[0].values, found.tensors[0].stable_rank.__round__(4), found.pairs[0].width
    (array([3.]), 1.4444, 2)

    """
    check_count("k", k)
    seed = check_count("seed", seed, 0)
    checked_tol(tol, np.dtype(np.float32))
    Rules.check(rules)
    check_flags(spectra_only=spectra_only)
    check_progress(progress)
    vectors = _checked_starts(starts)
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = as_path("checkpoint", checkpoint, "a checkpoint or ")
    opened = nullcontext(checkpoint) if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    with opened as found, limit_threads(threads):
        structure = recognise(found, rules)
        if not structure.analysed:
            raise ValueError(_nothing_to_analyse(found, structure))
        if spectra_only:
            structure = dataclasses.replace(structure, consecutive=(), attentions=())
        return _Run(found, structure, k, tol, seed, vectors, not spectra_only, progress).result()


def _checked_starts(starts: Any) -> dict[str, FloatArray]:
    """Two-dimensional arrays of finite numbers by name."""
    if not isinstance(starts, Mapping | None):
        raise ValueError(f"starts is a {type(starts).__name__}; expected a mapping of names to vectors (b, n), or None")
    found = {name: as_float_array(f"starts[{name!r}]", rows, 2) for name, rows in (starts or {}).items()}
    for name, rows in found.items():
        check_finite(f"starts[{name!r}]", rows)
    return found


def _nothing_to_analyse(checkpoint: Checkpoint, structure: Structure) -> str:
    reasons = [*checkpoint.missing.items(), *structure.not_analysed]
    why = "; ".join(f"{name}: {reason}" for name, reason in reasons[:4]) or "it is empty"
    return f"{checkpoint.path} holds no matrix that can be analysed ({why}); expected at least one"


class _Run:
    """One analysis."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        structure: Structure,
        k: int,
        tol: float | None,
        seed: int,
        starts: Mapping[str, FloatArray],
        ranks: bool,
        progress: Progress | None,
    ) -> None:
        self.checkpoint, self.structure = checkpoint, structure
        self.k, self.tol, self.seed, self.starts, self._progress = k, tol, seed, starts, progress
        self._ranks = ranks
        self.failed = {name: FailedTensor.missing(name, reason) for name, reason in checkpoint.missing.items()}
        self.notes = [*checkpoint.notes, *structure.notes]
        self.right: dict[str, FloatArray] = {}
        self._tops: dict[str, Triplets] = {}
        self._pairs_of: dict[str, list[Consecutive]] = {}
        for pair in structure.consecutive:
            for name in {pair.lower.tensor, pair.upper.tensor}:
                self._pairs_of.setdefault(name, []).append(pair)
        self._waiting = {name: len(pairs) for name, pairs in self._pairs_of.items()}
        self._done, self._total = 0.0, self._work()

    def result(self) -> CheckpointAnalysis:
        began = time.perf_counter()
        tensors: list[TensorSpectrum] = []
        pairs: list[LayerPair] = []
        for name in self.structure.analysed:
            spectrum = self._tensor(name)
            if spectrum is not None:
                tensors.append(spectrum)
            pairs += self._finished_pairs(name)
        products, composed = self._heads()
        products += self._adapters()
        self._tell("done", 0.0)
        return CheckpointAnalysis(
            path=str(self.checkpoint.path),
            kind=self.checkpoint.kind,
            family=self.structure.family,
            k=self.k,
            seed=self.seed,
            tensors=tuple(tensors),
            products=tuple(products),
            compositions=tuple(composed),
            pairs=tuple(pairs),
            failed=tuple(self.failed.values()),
            not_analysed=self.structure.not_analysed,
            unknown=self.structure.unknown,
            notes=tuple(dict.fromkeys(self.notes)),
            seconds=time.perf_counter() - began,
            right=self.right,
        )

    # -- progress ----------------------------------------------------------------------------------------------------

    def _work(self) -> float:
        heads = sum(self._bytes_of(attention) for attention in self.structure.attentions)
        return sum(self.checkpoint[name].nbytes for name in self.structure.analysed) + _HEADS_SHARE * heads

    def _bytes_of(self, attention: Attention) -> int:
        names = {p.tensor for p in (attention.query, attention.key, attention.value, attention.output)}
        return sum(self.checkpoint[name].nbytes for name in names)

    def _tell(self, what: str, work: float) -> None:
        """Say what begins, and count its work for the next time."""
        if self._progress is not None:
            self._progress(what, 1.0 if what == "done" else self._done / self._total)
        self._done += work

    # -- tensors -----------------------------------------------------------------------------------------------------

    def _tensor(self, name: str) -> TensorSpectrum | None:
        tensor, began = self.checkpoint[name], time.perf_counter()
        self._tell(name, tensor.nbytes)
        try:
            array = self.structure.array(self.checkpoint, name)
            found = survey(array)
            if not found.fault:
                return self._spectrum(name, array, found, began)
            reason = found.fault
        except (ValueError, MemoryError, OSError, ArithmeticError) as error:
            reason = str(error) or type(error).__name__
        self.failed[name] = FailedTensor(name, self.structure.roles[name], tensor.shape, tensor.dtype, reason)
        return None

    def _spectrum(self, name: str, array: FloatArray, size: Survey, began: float) -> TensorSpectrum:
        part, frobenius = self._whole(name), size.frobenius
        layer, kernel = self._layer(part), self._kernel(part, array)
        (matrix,) = kernel_rows(kernel.weight)
        found, run = search(
            name,
            matrix,
            k=min(self.k, *matrix.shape),
            tol=self.tol,
            seed=self.seed,
            v0=self._start(name, matrix.shape[1]),
            largest=size.largest,
        )
        if self.tol is not None and found.tol > self.tol:
            self.notes.append(f"tol {self.tol:g} is below what {run.operator.dtype} attains; {found.tol:g} was used")
        top = Triplets.of(found)
        spectral, values = float(top.svd.s[0]), top.svd.s.astype(float)
        known, edge = spectral > 0.0, noise_edge(values, frobenius, matrix.shape, found.tol * spectral)
        rank = effective_rank(found, run, frobenius) if known and self._ranks else Estimate(math.nan, 0.0)
        tail = tail_of(values, frobenius) if known else math.nan
        self.right[name] = read_only(top.svd.Vt)
        if name in self._waiting:
            self._tops[name] = top
        return TensorSpectrum(
            name=name,
            role=self.structure.roles[name],
            shape=self.checkpoint[name].shape,
            dtype=self.checkpoint[name].dtype,
            matrix=self._description(name, layer),
            values=read_only(top.svd.s),
            residuals=read_only(top.residuals),
            converged=read_only(top.converged),
            status=top.status,
            spectral=spectral,
            frobenius=frobenius,
            stable_rank=(frobenius / spectral) ** 2 if known else math.nan,
            effective_rank=rank.value,
            effective_rank_error=rank.error,
            tail=tail,
            edge=edge.edge,
            outliers=edge.outliers,
            reads=top.reads,
            rank_reads=rank.reads,
            seconds=time.perf_counter() - began,
        )

    def _description(self, name: str, layer: Layer) -> str:
        if name in self.structure.in_out:
            return "weight stored (in, out), taken as (out, in)"
        if self.structure.roles[name] == EMBEDDING:
            return "embedding (entries, features)"
        return layer.unfolding()

    def _start(self, name: str, inputs: int) -> FloatArray | None:
        start = self.starts.get(name)
        if start is None or len(start) == 0:
            return None
        if start.shape[1] != inputs:
            self.notes.append(f"{name}: start vectors of shape {start.shape} are left out; expected (b, {inputs})")
            return None
        return start.T

    def _whole(self, name: str) -> Part:
        extents = extents_of(self.checkpoint[name].shape, self.structure.roles[name])
        rows, inputs = extents[0], math.prod(extents[1:])
        return Part(name, 0, inputs, rows, "") if name in self.structure.in_out else Part(name, 0, rows, inputs, "")

    def _matrix(self, part: Part) -> FloatArray:
        """Rows of a tensor's matrix (out, in), in place."""
        array = self.structure.array(self.checkpoint, part.tensor)
        matrix = array.T if part.tensor in self.structure.in_out else array.reshape(len(array), -1)
        return matrix[part.first : part.last]

    # -- pairs -------------------------------------------------------------------------------------------------------

    def _layer(self, part: Part) -> Layer:
        tensor = self.checkpoint[part.tensor]
        extents = extents_of(tensor.shape, self.structure.roles[part.tensor])
        offsets = math.prod(extents[2:])
        return Layer(
            name=part.name,
            kind="matrix" if len(extents) == 2 else f"kernel of a Conv{len(extents) - 2}d",
            shape=tensor.shape,
            dtype=tensor.dtype,
            dims=(1, part.rows, part.inputs // offsets, offsets),
            offsets=offsets_text(len(extents) - 2),
            load=lambda: self._kernel(part, self.structure.array(self.checkpoint, part.tensor)),
        )

    def _kernel(self, part: Part, array: FloatArray) -> Kernel:
        """Weights (1, out, in, offsets) and the bias beside them, as far as it fits."""
        whole = array.T if part.tensor in self.structure.in_out else array
        rows = whole[part.first : part.last]
        weight = rows.reshape(1, rows.shape[0], rows.shape[1], -1) if rows.ndim > 2 else rows[None, :, :, None]
        return Kernel(weight, self._bias(part, len(whole)))

    def _bias(self, part: Part, outputs: int) -> FloatArray | None:
        stored = self.checkpoint.get(bias_name(part.tensor) or "")
        if stored is None or stored.shape != (outputs,) or not stored.is_floating:
            return None
        bias = as_float_array(stored.name, stored.load(), 1)[part.first : part.last]
        return bias if bool(np.isfinite(bias).all()) else None

    def _finished_pairs(self, name: str) -> Iterator[LayerPair]:
        """Pairs whose other layer was analysed before this one."""
        for pair in self._pairs_of.pop(name, []):
            other = pair.upper.tensor if pair.lower.tensor == name else pair.lower.tensor
            if other in self._pairs_of and other != name:
                continue
            yield from self._pair(pair)
            for used in {name, other}:
                self._waiting[used] -= 1
                if self._waiting[used] == 0:
                    self._tops.pop(used, None)

    def _pair(self, pair: Consecutive) -> Iterator[LayerPair]:
        used = (pair.lower.tensor, pair.upper.tensor, bias_name(pair.lower.tensor))
        unread = [name for name in used if name in self.failed]
        if unread:
            self.notes.append(f"{pair.lower.name} → {pair.upper.name}: no pair, as {', '.join(unread)} failed")
            return
        below, above = self._member(pair.lower), self._member(pair.upper)
        positions = above.layer.inputs // below.layer.outputs
        yield layer_pair(
            below,
            above,
            positions,
            k=self.k,
            tol=self.tol,
            seed=self.seed,
            balanced=pair.balanced,
            most_flops=_BALANCE_FLOPS,
        )

    def _member(self, part: Part) -> Member:
        layer = self._layer(part)
        kernel = layer.load()
        top = None if part.label else self._tops.get(part.tensor)
        return Member(layer, kernel, top or top_triplets(kernel_rows(kernel.weight), self.k, self.tol, self.seed))

    # -- products ----------------------------------------------------------------------------------------------------

    def _heads(self) -> tuple[list[ProductSpectrum], list[HeadComposition]]:
        products: list[ProductSpectrum] = []
        composed: list[HeadComposition] = []
        before: Heads | None = None
        for attention in self.structure.attentions:
            self._tell(f"heads of {attention.name}", _HEADS_SHARE * self._bytes_of(attention))
            here = self._heads_of(attention)
            if here is not None:
                with self._or_failed(attention.name, "heads", attention.query.tensor):
                    products += list(head_products(here, self.k))
                if before is not None and self._follows(before.layer, attention):
                    composed += compositions(before, here)
            before = here
        return products, composed

    def _heads_of(self, attention: Attention) -> Heads | None:
        parts = (attention.query, attention.key, attention.value, attention.output)
        unread = [part.tensor for part in parts if part.tensor in self.failed]
        if unread:
            self.notes.append(f"{attention.name}: no products of heads, as {', '.join(dict.fromkeys(unread))} failed")
            return None
        return Heads.of(attention, self._matrix)

    def _follows(self, lower: Attention, upper: Attention) -> bool:
        width = lower.output.rows
        readers = (upper.query, upper.key, upper.value)
        return self.structure.are_neighbours(lower, upper) and all(reader.inputs == width for reader in readers)

    def _adapters(self) -> list[ProductSpectrum]:
        products = []
        for adapter in self.structure.adapters:
            self._tell(f"adapter {adapter.name}", 0.0)
            unread = [name for name in (adapter.B, adapter.A) if name in self.failed]
            if unread:
                self.notes.append(f"{adapter.name}: no product, as {', '.join(unread)} failed")
            else:
                with self._or_failed(adapter.name, "LoRA s·B·A", adapter.B):
                    products.append(analyze_adapter(adapter, self.checkpoint, self.k))
        return products

    @contextmanager
    def _or_failed(self, name: str, role: str, factor: str) -> Iterator[None]:
        """A product beyond float64 has failed, and the rest goes on."""
        try:
            yield
        except ArithmeticError as error:
            tensor = self.checkpoint[factor]
            self.failed[name] = FailedTensor(name, role, tensor.shape, tensor.dtype, str(error))
