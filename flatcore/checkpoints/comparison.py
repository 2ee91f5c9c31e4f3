r"""Two checkpoints, tensor by tensor: spectra side by side, rotation of singular subspaces, the spectrum of the update.

Subspaces are compared as `rotation.py` says; adapters by what they add to a matrix, s·B·A (`adapter_triplets.py`), and
then by their factors.

The update B − A is written out once, panel by panel, in float32 (float64 beside float64): differences of bfloat16
numbers are no bfloat16 numbers, and top_svd's 30 to 100 reads would otherwise convert both matrices each time.

cost    three decompositions a tensor, none where both are the same, and five reads.
memory  the update, at most twice the bytes of a layer stored with 2 or 4 bytes an entry; what formats force to be
        converted (float8, compressed archives) comes to it for both.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from flatcore._atomic import PathLike
from flatcore._checks import FloatArray, as_path, check_count, check_progress, chunks, common_type
from flatcore._linalg import ratio
from flatcore._memory import check_memory
from flatcore._threads import limit_threads
from flatcore.checkpoints.adapter_triplets import Factors, adapter_triplets
from flatcore.checkpoints.adapters import Adapter
from flatcore.checkpoints.matching import match_names
from flatcore.checkpoints.products import tail_of
from flatcore.checkpoints.ranks import Survey, noise_edge, survey
from flatcore.checkpoints.rotation import Found, Turn, no_turn, overlap, turn_between
from flatcore.checkpoints.structure import Structure, extents_of, recognise
from flatcore.io import Checkpoint, natural_key, open_checkpoint
from flatcore.io.roles import EMBEDDING
from flatcore.results import (
    CheckpointComparison,
    FailedTensor,
    ProductChange,
    SvdResult,
    TensorChange,
    TopSpectrum,
    read_only,
)
from flatcore.spectral._tolerance import checked_tol
from flatcore.spectral._top_svd import search

Progress = Callable[[str, float], None]
_PANEL_ENTRIES = 1 << 20
LORA_UPDATE = "LoRA s·B·A"  # the role of a product
_RATIO_BEYOND = "‖B − A‖_F/‖A‖_F is beyond float64"


def compare_checkpoints(
    a: Checkpoint | PathLike,
    b: Checkpoint | PathLike,
    k: int = 8,
    *,
    tol: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> CheckpointComparison:
    """What changed from checkpoint A to checkpoint B: spectra, singular subspaces, and how large and low-rank it is.

    Parameters
    ----------
    a, b
        From :func:`flatcore.io.open_checkpoint`, or paths, which are opened and closed.
    k
        Singular triplets a tensor (fewer where it has fewer).
    tol, seed, threads
        As in :func:`flatcore.top_svd`.
    progress
        Called with what is being done and the fraction of all done, by bytes.

    Returns
    -------
    CheckpointComparison
        Of the updates s·B·A of all adapters that both hold, and
        of all matrices and kernels that both hold in the same shape, by name; where wrappers renamed them
        (``model.``, ``module.``), past the one prefix that fits most. Tensors that are not finite, cannot be read or
        are missing from the shard that an index has them in, are ``failed``; the rest goes on.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        A bad argument, a damaged checkpoint, two that share no matrix.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", W=np.diag([3.0, 2.0]))
    ...     np.savez(f"{folder}/b.npz", W=np.diag([3.0, 2.5]))
    ...     (change,) = compare_checkpoints(f"{folder}/a.npz", f"{folder}/b.npz", k=1).tensors
    >>> change.update.values.round(6), change.left_overlap.__round__(6)
    (array([0.5]), 1.0)

    """
    check_count("k", k)
    seed = check_count("seed", seed, 0)
    checked_tol(tol, np.dtype(np.float32))
    check_progress(progress)
    with ExitStack() as stack, limit_threads(threads):
        sides = (("a", a), ("b", b))
        opened = [c if isinstance(c, Checkpoint) else stack.enter_context(_open(name, c)) for name, c in sides]
        return _Comparison(opened[0], opened[1], k, tol, seed, progress).result()


def _open(name: str, path: PathLike) -> Checkpoint:
    return open_checkpoint(as_path(name, path, "a checkpoint or "))


class _Side(NamedTuple):
    """One checkpoint and what its tensors are."""

    label: str
    checkpoint: Checkpoint
    structure: Structure

    def adapters(self) -> dict[str, Adapter]:
        """Its adapters by the module they belong to."""
        return {adapter.name: adapter for adapter in self.structure.adapters}

    def product_shape(self, adapter: Adapter) -> tuple[int, int]:
        """The extents of B·A."""
        return self.checkpoint[adapter.B].shape[0], math.prod(self.checkpoint[adapter.A].shape[1:])

    def stored(self, name: str) -> FloatArray:
        """A tensor as a matrix, rows as stored."""
        array = self.structure.array(self.checkpoint, name)
        return array.reshape(len(array), math.prod(array.shape[1:]))


class _Measured(NamedTuple):
    """Spectra of A, B and B − A, and the rotation from A to B."""

    before: TopSpectrum
    after: TopSpectrum
    update: TopSpectrum
    turn: Turn

    def fields(self) -> dict[str, Any]:
        """Those of a change."""
        before, after, update, turn = self
        relative_change = ratio(update.frobenius, before.frobenius)
        beyond = before.frobenius > 0.0 and math.isnan(relative_change)
        return {
            "before": before,
            "after": after,
            "update": update,
            "relative_change": relative_change,
            "rank": turn.rank,
            "left_angles": read_only(turn.left),
            "right_angles": read_only(turn.right),
            "left_overlap": overlap(turn.left),
            "right_overlap": overlap(turn.right),
            "left_chance": turn.left_chance,
            "right_chance": turn.right_chance,
            "angle_error": turn.error,
            "status": f"{turn.status}; {_RATIO_BEYOND}" if beyond else turn.status,
        }


class _Comparison:
    """One comparison."""

    def __init__(
        self, a: Checkpoint, b: Checkpoint, k: int, tol: float | None, seed: int, progress: Progress | None
    ) -> None:
        self.a, self.b = (_Side(label, c, recognise(c)) for label, c in (("A", a), ("B", b)))
        self.k, self.tol, self.seed, self.progress = k, tol, seed, progress
        shapes = [{name: t.shape for name, t in c.items()} for c in (a, b)]
        self.matching = match_names(shapes[0], shapes[1])
        self.not_compared = dict(self.matching.only)
        self.pairs = sorted(self._matrices(), key=lambda pair: natural_key(pair[0]))
        sides = [{n: side.product_shape(x) for n, x in side.adapters().items()} for side in (self.a, self.b)]
        self.modules = match_names(sides[0], sides[1])
        self.failed: list[FailedTensor] = []

    def result(self) -> CheckpointComparison:
        began, (a, b) = time.perf_counter(), (self.a.checkpoint, self.b.checkpoint)
        products = tuple(self._products())
        if not (self.pairs or products):
            reasons = [f"{name}: {reason}" for name, reason in list(self.not_compared.items())[:4]]
            why = "; ".join(text for text in (self.matching.note, *reasons) if text)
            raise ValueError(f"{a.path} and {b.path} share no matrix ({why}); expected the same names and shapes")
        tensors = tuple(self._tensors())
        self._missing()
        if self.progress is not None:
            self.progress("done", 1.0)
        notes = (self.matching.note, self.modules.note, *a.notes, *b.notes)
        return CheckpointComparison(
            a=str(a.path),
            b=str(b.path),
            k=self.k,
            seed=self.seed,
            products=products,
            tensors=tensors,
            failed=tuple(self.failed),
            not_compared=tuple(self.not_compared.items()),
            notes=tuple(dict.fromkeys(note for note in notes if note)),
            seconds=time.perf_counter() - began,
        )

    def _missing(self) -> None:
        """What the index of either promises in vain has failed."""
        for side in (self.a, self.b):
            for name, reason in side.checkpoint.missing.items():
                self.not_compared.pop(name, None)
                self.failed.append(FailedTensor.missing(name, f"{side.label}: {reason}"))

    @contextmanager
    def _or_failed(self, name: str, role: str, shape: tuple[int, ...], dtype: str) -> Iterator[None]:
        """What cannot be measured has failed, and the rest goes on."""
        try:
            yield
        except (ValueError, MemoryError, OSError, ArithmeticError) as error:
            self.failed.append(FailedTensor(name, role, shape, dtype, str(error) or type(error).__name__))

    # -- adapters ----------------------------------------------------------------------------------------------------

    def _products(self) -> Iterator[ProductChange]:
        """The updates s·B·A of all adapters that both hold."""
        first, second = self.a.adapters(), self.b.adapters()
        for name, other in sorted(self.modules.pairs, key=lambda pair: natural_key(pair[0])):
            adapters = first[name], second[other]
            shapes = self.a.product_shape(adapters[0]), self.b.product_shape(adapters[1])
            if shapes[0] != shapes[1]:
                sizes = [" × ".join(map(str, shape)) for shape in shapes]
                self.not_compared[name] = f"{LORA_UPDATE} of {sizes[0]} in A, {sizes[1]} in B"
                continue
            if self.progress is not None:
                self.progress(name, 0.0)
            with self._or_failed(name, LORA_UPDATE, shapes[0], self.a.checkpoint[adapters[0].B].dtype):
                yield self._product(name, other, adapters, shapes[0])

    def _product(self, name: str, other: str, both: tuple[Adapter, Adapter], size: tuple[int, int]) -> ProductChange:
        began, sides = time.perf_counter(), (self.a, self.b)
        dtypes = (self.a.checkpoint[both[0].B].dtype, self.b.checkpoint[both[1].B].dtype)
        factors = [Factors.of(adapter, side.checkpoint) for adapter, side in zip(both, sides, strict=True)]
        k = min(self.k, *size, sum(adapter.rank for adapter in both))
        tol = checked_tol(self.tol, np.dtype(np.float64))[0]
        first, second, update = adapter_triplets(factors[0], factors[1], self.k + 1, tol)
        shared = min(k, both[0].rank, both[1].rank)
        if factors[0].same_as(factors[1]):
            same = _not_computed(first.frobenius)
            measured = _Measured(same, same, _zero_spectrum(k), no_turn(shared, size))
        else:
            before, after, change = (self._values(found, found.frobenius) for found in (first, second, update))
            turn = turn_between(first, second, shared)
            measured = _Measured(before, after, change, turn if change.frobenius > 0.0 else _same_up_to_rounding(turn))
        texts = [f"{adapter.scaling:.5g}·B·A of rank {adapter.rank}" for adapter in both]
        sources = dict.fromkeys(adapter.note for adapter in both if adapter.note)
        return ProductChange(
            name=name,
            other=other,
            role=LORA_UPDATE,
            shape=size,
            dtypes=dtypes,
            matrix=texts[0] if texts[0] == texts[1] else f"{texts[0]} in A, {texts[1]} in B",
            size=size,
            **measured.fields(),
            seconds=time.perf_counter() - began,
            factors=(both[0].B, both[0].A),
            ranks=(both[0].rank, both[1].rank),
            scalings=(both[0].scaling, both[1].scaling),
            note="; in B ".join(sources),
        )

    # -- tensors -----------------------------------------------------------------------------------------------------

    def _matrices(self) -> Iterator[tuple[str, str]]:
        """Matched names of matrices and kernels of one shape; of the others, why they are not compared."""
        left_out = [dict(side.structure.not_analysed) for side in (self.a, self.b)]
        for name, other in self.matching.pairs:
            shapes = self.a.checkpoint[name].shape, self.b.checkpoint[other].shape
            if shapes[0] != shapes[1]:
                sizes = [" × ".join(map(str, shape)) or "a number" for shape in shapes]
                self.not_compared[name] = f"{sizes[0]} in A, {sizes[1]} in B"
            elif name in left_out[0]:
                self.not_compared[name] = left_out[0][name]
            elif other in left_out[1]:
                self.not_compared[name] = f"in B {left_out[1][other]}"
            else:
                yield name, other

    def _tensors(self) -> Iterator[TensorChange]:
        a, done = self.a.checkpoint, 0
        total = sum(a[name].nbytes for name, _ in self.pairs)
        for name, other in self.pairs:
            if self.progress is not None:
                self.progress(name, done / total)
            with self._or_failed(name, self.a.structure.roles[name], a[name].shape, a[name].dtype):
                yield self._compared(name, other)
            done += a[name].nbytes

    def _compared(self, name: str, other: str) -> TensorChange:
        tensor, began = self.a.checkpoint[name], time.perf_counter()
        return TensorChange(
            name=name,
            other=other,
            role=self.a.structure.roles[name],
            shape=tensor.shape,
            dtypes=(tensor.dtype, self.b.checkpoint[other].dtype),
            matrix=self._matrix_text(name),
            size=self._size(name),
            **self._measured(name, other).fields(),
            seconds=time.perf_counter() - began,
        )

    def _size(self, name: str) -> tuple[int, int]:
        extents = extents_of(self.a.checkpoint[name].shape, self.a.structure.roles[name])
        rows, cols = extents[0], math.prod(extents[1:])
        return (cols, rows) if name in self.a.structure.in_out else (rows, cols)

    def _matrix_text(self, name: str) -> str:
        if name in self.a.structure.in_out:
            return "weight stored (in, out), taken as (out, in)"
        if self.a.structure.roles[name] == EMBEDDING:
            return "embedding (entries, features)"
        return "weight (out, in)" if len(self.a.checkpoint[name].shape) == 2 else "kernel reshaped (out, in·offsets)"

    def _measured(self, name: str, other: str) -> _Measured:
        A, B = self.a.stored(name), self.b.stored(other)
        size_a = _surveyed("A", A)
        transposed = name in self.a.structure.in_out
        if _identical(A, B):
            k = min(self.k, *A.shape)
            same = _not_computed(size_a.frobenius)
            return _Measured(same, same, _zero_spectrum(k), no_turn(k, self._size(name)))
        size_b = _surveyed("B", B)
        first = self._top(A.T if transposed else A, size_a)
        second = self._top(B.T if transposed else B, size_b, first.Vt.T)
        turn = turn_between(first, second, self.k)
        update = _update(name, A, B)
        del A, B  # what had to be copied into memory is given back
        size = _surveyed("B − A", update)
        before, after = self._spectrum(first, size_a.frobenius), self._spectrum(second, size_b.frobenius)
        last = self._top(update.T if transposed else update, size)
        return _Measured(before, after, self._spectrum(last, size.frobenius), turn)

    def _top(self, matrix: FloatArray, size: Survey, start: FloatArray | None = None) -> SvdResult:
        """One triplet more than asked for, which tells whether the last span ends in a gap."""
        k = min(self.k + 1, *matrix.shape)
        return search("matrix", matrix, k=k, tol=self.tol, seed=self.seed, v0=start, largest=size.largest)[0]

    def _spectrum(self, svd: SvdResult, frobenius: float) -> TopSpectrum:
        """Its values beside those of noise of the same size."""
        found = self._values(svd, frobenius)
        shape = svd.U.shape[0], svd.Vt.shape[1]
        edge = noise_edge(found.values, frobenius, shape, svd.tol * float(found.values[0]))
        return replace(found, edge=edge.edge, outliers=edge.outliers)

    def _values(self, svd: Found, frobenius: float) -> TopSpectrum:
        """Without an edge: noise of full rank says nothing about products of low rank."""
        values = svd.s[: self.k].astype(float)
        known = values[0] > 0.0
        return TopSpectrum(
            values=read_only(values),
            residuals=read_only(svd.residuals[: self.k]),
            converged=read_only(svd.converged[: self.k]),
            status=svd.status,
            frobenius=frobenius,
            stable_rank=(frobenius / values[0]) ** 2 if known else math.nan,
            tail=tail_of(values, frobenius) if known else math.nan,
            edge=math.nan,
            outliers=0,
        )


# -- one pair of matrices --------------------------------------------------------------------------------------------


def _surveyed(label: str, matrix: FloatArray) -> Survey:
    """Norm and largest entry; refused where they are not finite."""
    found = survey(matrix)
    if found.fault:
        raise ValueError(f"{label}: {found.fault}; expected finite numbers")
    return found


def _panels(matrix: FloatArray) -> Iterator[slice]:
    return chunks(len(matrix), max(1, _PANEL_ENTRIES // max(1, matrix.shape[1])))


def _identical(A: FloatArray, B: FloatArray) -> bool:
    """Whether all entries are the same numbers, however they are stored."""
    dtype = common_type(A, B)
    return all(np.array_equal(A[p].astype(dtype, copy=False), B[p].astype(dtype, copy=False)) for p in _panels(A))


def _update(name: str, A: FloatArray, B: FloatArray) -> FloatArray:
    """B − A in the wider precision, at least float32."""
    dtype = common_type(A, B)
    check_memory(f"the update of {name}", A.size * dtype.itemsize)
    out = np.empty(A.shape, dtype)
    with np.errstate(over="ignore"):  # an infinite entry is found by its norm
        for p in _panels(A):
            np.subtract(B[p].astype(dtype, copy=False), A[p].astype(dtype, copy=False), out=out[p])
    return out


def _not_computed(frobenius: float) -> TopSpectrum:
    no = np.zeros(0)
    return TopSpectrum(no, no, no.astype(bool), "identical", frobenius, math.nan, math.nan, math.nan, 0)


def _same_up_to_rounding(turn: Turn) -> Turn:
    status = "the same up to rounding"
    return turn._replace(status=status if turn.status == "computed" else f"{status}; {turn.status}")


def _zero_spectrum(k: int) -> TopSpectrum:
    zeros = read_only(np.zeros(k))
    return TopSpectrum(zeros, zeros, read_only(np.ones(k, bool)), "identical", 0.0, math.nan, math.nan, 0.0, 0)
