r"""Two checkpoints, tensor by tensor: spectra side by side, rotation of singular subspaces, the spectrum of the update.

The first r left singular vectors of A span U_A. Angles between U_A and U_B mean something where σ_r and σ_{r+1} are
apart in both: with residuals ρ_i the spans computed differ from the true ones by at most

    sin θ ≤ √(2 Σ_{i≤r} ρ_i²)/(σ_r − σ_{r+1}),

so one triplet more than asked for is computed, and the cut moves down to the largest r ≤ k where the sum of both bounds
is small. A bound that is met only by chance in a gap of rounding's size never is.

The update B − A is written out once, panel by panel, in float32 (float64 beside float64): differences of bfloat16
numbers are no bfloat16 numbers, and top_svd's 30 to 100 reads would otherwise convert both matrices each time.

cost    three decompositions a tensor, none where both are the same, and five reads.
memory  the update, at most twice the bytes of a layer stored with 2 or 4 bytes an entry; what formats force to be
        converted (float8, compressed archives) comes to it for both.
source  Wedin (1972); Björck & Golub (1973) for the angles.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import scipy.linalg

from flatcore._atomic import PathLike
from flatcore._checks import FloatArray, as_float_array, check_count, chunks, common_type
from flatcore._memory import check_memory
from flatcore._threads import limit_threads
from flatcore.checkpoints.matching import match_names
from flatcore.checkpoints.ranks import noise_edge, survey
from flatcore.checkpoints.structure import Structure, extents_of, recognise
from flatcore.io import Checkpoint, natural_key, open_checkpoint
from flatcore.io.roles import EMBEDDING
from flatcore.results import CheckpointComparison, FailedTensor, SvdResult, TensorChange, TopSpectrum, read_only
from flatcore.spectral import top_svd
from flatcore.spectral._tolerance import checked_tol
from flatcore.weights import angle_chance

Progress = Callable[[str, float], None]
_PANEL_ENTRIES = 1 << 20
_LARGEST_ERROR = 0.3  # sine of the angle by which residuals may turn both spans together
_ROUNDING = 1e-14  # of a full decomposition in float64, in units of σ_1


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
        Of all matrices and kernels that both hold in the same shape, by name; where wrappers renamed them
        (``model.``, ``module.``), past the one prefix that fits most. Tensors that are not finite or cannot be read
        are ``failed``; the rest goes on.

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
    with ExitStack() as stack, limit_threads(threads):
        opened = [c if isinstance(c, Checkpoint) else stack.enter_context(open_checkpoint(c)) for c in (a, b)]
        return _Comparison(opened[0], opened[1], k, tol, seed, progress).result()


class _Side(NamedTuple):
    """One checkpoint and what its tensors are."""

    label: str
    checkpoint: Checkpoint
    structure: Structure

    def stored(self, name: str) -> FloatArray:
        """A tensor as a matrix, rows as stored."""
        tensor = self.checkpoint[name]
        array = as_float_array(name, tensor.load(), len(tensor.shape), keep_half=True)
        extents = extents_of(tensor.shape, self.structure.roles[name])
        return array.reshape(extents[0], math.prod(extents[1:]))


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

    def result(self) -> CheckpointComparison:
        began, (a, b) = time.perf_counter(), (self.a.checkpoint, self.b.checkpoint)
        if not self.pairs:
            why = "; ".join(f"{name}: {reason}" for name, reason in list(self.not_compared.items())[:4])
            raise ValueError(f"{a.path} and {b.path} share no matrix ({why}); expected the same names and shapes")
        changes: list[TensorChange] = []
        failed: list[FailedTensor] = []
        done = 0
        total = sum(a[name].nbytes for name, _ in self.pairs)
        for name, other in self.pairs:
            if self.progress is not None:
                self.progress(name, done / total)
            found = self._compared(name, other)
            if isinstance(found, TensorChange):
                changes.append(found)
            else:
                failed.append(found)
            done += a[name].nbytes
        if self.progress is not None:
            self.progress("done", 1.0)
        return CheckpointComparison(
            a=str(a.path),
            b=str(b.path),
            k=self.k,
            seed=self.seed,
            tensors=tuple(changes),
            failed=tuple(failed),
            not_compared=tuple(self.not_compared.items()),
            notes=tuple(dict.fromkeys(note for note in (self.matching.note, *a.notes, *b.notes) if note)),
            seconds=time.perf_counter() - began,
        )

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

    def _compared(self, name: str, other: str) -> TensorChange | FailedTensor:
        tensor, role, began = self.a.checkpoint[name], self.a.structure.roles[name], time.perf_counter()
        try:
            measured = self._measured(name, other)
        except (ValueError, MemoryError, OSError, ArithmeticError) as error:
            return FailedTensor(name, role, tensor.shape, tensor.dtype, str(error) or type(error).__name__)
        before, after, update, turn = measured
        norm = before.frobenius
        return TensorChange(
            name=name,
            other=other,
            role=role,
            shape=tensor.shape,
            dtypes=(tensor.dtype, self.b.checkpoint[other].dtype),
            matrix=self._matrix_text(name),
            size=self._size(name),
            before=before,
            after=after,
            update=update,
            relative_change=update.frobenius / norm if norm > 0.0 else math.nan,
            rank=turn.rank,
            left_angles=read_only(turn.left),
            right_angles=read_only(turn.right),
            left_overlap=_overlap(turn.left),
            right_overlap=_overlap(turn.right),
            left_chance=turn.left_chance,
            right_chance=turn.right_chance,
            angle_error=turn.error,
            status=turn.status,
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

    def _measured(self, name: str, other: str) -> tuple[TopSpectrum, TopSpectrum, TopSpectrum, _Turn]:
        """Spectra of A, B and B − A, and the rotation from A to B."""
        A, B = self.a.stored(name), self.b.stored(other)
        norm_a = _norm("A", A)
        transposed = name in self.a.structure.in_out
        if _identical(A, B):
            k = min(self.k, *A.shape)
            same = _not_computed(norm_a)
            return same, same, _zero_spectrum(k), _no_turn(k, self._size(name))
        norm_b = _norm("B", B)
        first = self._top(A.T if transposed else A)
        second = self._top(B.T if transposed else B, first.Vt.T)
        turn = _turn_between(first, second, self.k)
        update = _update(name, A, B)
        del A, B  # what had to be copied into memory is given back
        norm = _norm("B − A", update)
        before, after = self._spectrum(first, norm_a), self._spectrum(second, norm_b)
        last = self._top(update.T if transposed else update)
        return before, after, self._spectrum(last, norm), turn

    def _top(self, matrix: FloatArray, start: FloatArray | None = None) -> SvdResult:
        """One triplet more than asked for, which tells whether the last span ends in a gap."""
        svd = top_svd(matrix, min(self.k + 1, *matrix.shape), tol=self.tol, seed=self.seed, v0=start)
        assert isinstance(svd, SvdResult)
        return svd

    def _spectrum(self, svd: SvdResult, frobenius: float) -> TopSpectrum:
        values = svd.s[: self.k].astype(float)
        edge = noise_edge(values, frobenius, (svd.U.shape[0], svd.Vt.shape[1]))
        known = values[0] > 0.0
        return TopSpectrum(
            values=read_only(values),
            residuals=read_only(svd.residuals[: self.k]),
            converged=read_only(svd.converged[: self.k]),
            status=svd.status,
            frobenius=frobenius,
            stable_rank=(frobenius / values[0]) ** 2 if known else math.nan,
            tail=max(0.0, 1.0 - float(((values / frobenius) ** 2).sum())) if known else math.nan,
            edge=edge.edge,
            outliers=min(edge.outliers, int((values > svd.tol * values[0]).sum())),  # smaller ones are not resolved
        )


# -- one pair of matrices --------------------------------------------------------------------------------------------


def _norm(label: str, matrix: FloatArray) -> float:
    """‖matrix‖_F; refused where it is not finite."""
    found = survey(matrix)
    if found.fault:
        raise ValueError(f"{label}: {found.fault}; expected finite numbers")
    return found.frobenius


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


def _zero_spectrum(k: int) -> TopSpectrum:
    zeros = read_only(np.zeros(k))
    return TopSpectrum(zeros, zeros, read_only(np.ones(k, bool)), "identical", 0.0, math.nan, math.nan, 0.0, 0)


# -- rotation --------------------------------------------------------------------------------------------------------


class _Turn(NamedTuple):
    """Principal angles of the spans of the first `rank` singular vectors, ascending, and a bound of their error."""

    rank: int
    left: FloatArray
    right: FloatArray
    left_chance: float
    right_chance: float
    error: float
    status: str


def _no_turn(k: int, shape: tuple[int, int]) -> _Turn:
    zeros = np.zeros(k)
    status = "identical in both: nothing was decomposed"
    return _Turn(k, zeros, zeros, _chance(shape[0], k), _chance(shape[1], k), 0.0, status)


def _turn_between(first: SvdResult, second: SvdResult, k: int) -> _Turn:
    """The rotation of the largest subspaces that both determine."""
    most = min(k, len(first.s))
    sines = [_cut_errors(svd)[:most] for svd in (first, second)]
    good = np.flatnonzero(sines[0] + sines[1] <= _LARGEST_ERROR)
    if not good.size:
        none = np.zeros(0)
        return _Turn(0, none, none, math.nan, math.nan, math.nan, _why_not(first, second, sines, most, 0))
    rank = int(good[-1]) + 1
    left, right = (
        scipy.linalg.subspace_angles(x[:, :rank].astype(float), y[:, :rank].astype(float))[::-1]
        for x, y in ((first.U, second.U), (first.Vt.T, second.Vt.T))
    )
    status = "computed" if rank == most else _why_not(first, second, sines, most, rank)
    error = math.asin(min(1.0, float(sines[0][rank - 1] + sines[1][rank - 1])))
    chances = (_chance(len(first.U), rank), _chance(first.Vt.shape[1], rank))
    return _Turn(rank, left, right, *chances, error, status)


def _cut_errors(svd: SvdResult) -> FloatArray:
    """How far the spans of the first r = 1, 2, … vectors may be from the true ones: sines by Wedin's theorem."""
    s = np.append(svd.s.astype(float), 0.0)  # beyond all of a matrix's singular values
    residuals = np.hypot(svd.residuals.astype(float), _ROUNDING * s[0])
    gaps = s[:-1] - s[1:]
    reach = np.sqrt(2.0 * np.cumsum(residuals**2))
    return np.asarray(np.divide(reach, gaps, out=np.full(len(gaps), np.inf), where=gaps > 0.0))


def _why_not(first: SvdResult, second: SvdResult, sines: list[FloatArray], most: int, rank: int) -> str:
    zero = [label for label, svd in (("A", first), ("B", second)) if svd.s[0] == 0.0]
    if zero:
        return f"zero in {' and '.join(zero)}: no singular subspaces"
    where = [label for label, sine in zip("AB", sines, strict=True) if sine[most - 1] > _LARGEST_ERROR / 2]
    kept = f"the first {rank} vectors are compared" if rank else "no subspace is compared"
    return f"σ_{most} and the next are tied, or too close to be told apart, in {' and '.join(where)}: {kept}"


def _chance(dimension: int, rank: int) -> float:
    """The typical first angle of random subspaces."""
    return math.acos(angle_chance(dimension, rank))


def _overlap(angles: FloatArray) -> float:
    return float(np.mean(np.cos(angles) ** 2)) if len(angles) else math.nan
