r"""Effective ranks, noise edges, and whether a matrix is finite, each with few reads of it.

The effective rank is exp H, H = −Σ pᵢ log pᵢ, p = σ/Σσ. With S = Σσ and L = Σ σ log σ, H = log S − L/S. Where the
smaller side N is short all σ come from the Gram matrix in float64. Elsewhere S and L are traces of functions of AᵀA,
√λ and √λ log √λ, and come from stochastic Lanczos quadrature: the k triplets known count as they are, random unit
vectors see the rest. √λ makes Gauss's rule an upper bound of S and Gauss–Radau's with a node at 0 a lower one; the
middle of both effective ranks is reported, and half their distance is part of the error beside the standard error over
the vectors.

cost    M·N² flops, or one read of the matrix a step with 8 vectors, at most 24 of them.
source  Roy & Vetterli (2007); Golub & Meurant (1994); Ubaru, Chen & Saad (2017).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from flatcore import _core
from flatcore._checks import FloatArray, chunks
from flatcore._linalg import matmul
from flatcore._threads import serial_blas
from flatcore.checkpoints.products import effective_rank_of
from flatcore.spectral._density import Recurrences
from flatcore.spectral._scaled import ScaledOperator
from flatcore.spectral._svd_operator import StoredOperator
from flatcore.spectral._vectors import HostVectors
from flatcore.weights.spectra import Svd

_PANEL_ENTRIES, _CACHED_ENTRIES, _LARGE = 1 << 20, 1 << 15, 1 << 20
_LOST_FLOAT32, _LOST_FLOAT64 = 1e-28, 1e-290  # mean squares 10¹⁰ times those that vanish, or larger, lost nothing
_EXACT_SIDE, _EXACT_FLOPS = 1024, 1e9
_PROBES, _STEPS, _LOOKS = 8, 24, (8, 12, 16, 20, 24)
_TRACY_WIDOM_99 = 2.0234  # its 99 % quantile for real entries (β = 1)
_CLOSE = 0.01  # relative distance of the two rules below which more steps are not worth their reads


class Survey(NamedTuple):
    """‖A‖_F, and what is wrong with its entries; empty where all are finite."""

    frobenius: float
    fault: str


class Estimate(NamedTuple):
    """A value and its error, 0 where it was computed, and passes over the matrix."""

    value: float
    error: float
    reads: int = 0


class Edge(NamedTuple):
    """Where the singular values of noise would end, and how many lie beyond it."""

    edge: float
    outliers: int


def survey(array: FloatArray) -> Survey:
    """One pass over an array of any shape: its norm, and which entries are not finite.

    The norm is computed in float64; of large float32 and bfloat16 arrays its square is a sum of short sums in float32,
    of which so many leave a relative error of 1e-8, and of 1.3e-7 in bfloat16, whose squares round to one side.
    """
    flat = array.ravel(order="K")
    if flat.size >= _LARGE and flat.dtype.name in ("float32", "bfloat16"):
        total, least = _large_sum_of_squares(flat), _LOST_FLOAT32 * flat.size
    else:
        total, least = _sum_of_squares(flat), _LOST_FLOAT64 * flat.size
    return Survey(math.sqrt(total), "") if least < total < math.inf else _careful_survey(array, flat)


def _large_sum_of_squares(flat: FloatArray) -> float:
    """Of float32, and of bfloat16, which is the upper half of it."""
    if flat.dtype == np.float32:
        return float(_core.gram(flat[None], flat[None])[0, 0])
    total = 0.0
    for part in chunks(flat.size, _LARGE):
        codes = flat[part].view(np.uint16).astype(np.uint32)
        codes <<= 16
        piece = codes.view(np.float32)[None]
        total += float(_core.gram(piece, piece)[0, 0])
    return total


def _sum_of_squares(flat: FloatArray) -> float:
    """In float64, converted in cache."""
    buffer, total = np.empty(min(flat.size, _CACHED_ENTRIES)), 0.0
    with np.errstate(over="ignore"):
        for part in chunks(flat.size, _CACHED_ENTRIES):
            piece = buffer[: part.stop - part.start]
            np.copyto(piece, flat[part])
            total += float(np.einsum("i,i->", piece, piece))  # NumPy's BLAS would wake threads of its own
    return total


def _careful_survey(array: FloatArray, flat: FloatArray) -> Survey:
    """The same where squares vanish or overflow, or where something is not finite."""
    norms = []
    for part in chunks(flat.size, _PANEL_ENTRIES):
        panel = flat[part].astype(np.float64)
        if not np.isfinite(panel).all():
            return Survey(math.nan, _fault(array))
        norms.append(scipy.linalg.norm(panel, check_finite=False))
    return Survey(float(scipy.linalg.norm(norms)), "")


def _fault(array: FloatArray) -> str:
    """How many entries are NaN and infinite, and where the first one is."""
    nan = infinite = 0
    first: tuple[int, ...] | None = None
    rows = max(1, _PANEL_ENTRIES // max(1, array[:1].size))
    for part in chunks(len(array), rows):
        panel = array[part].astype(np.float64)
        bad = ~np.isfinite(panel)
        if first is None and bad.any():
            index = np.argwhere(bad)[0]
            first = (int(index[0]) + part.start, *(int(i) for i in index[1:]))
        nan += int(np.isnan(panel).sum())
        infinite += int(np.isinf(panel).sum())
    counts = [(nan, "NaN"), (infinite, "infinite")]
    texts = [f"{n} entr{'y is' if n == 1 else 'ies are'} {what}" for n, what in counts if n]
    return f"{' and '.join(texts)}, the first at {list(first or ())}"


def noise_edge(values: FloatArray, frobenius: float, shape: tuple[int, int]) -> Edge:
    """The level that the largest singular value of Gaussian noise of the same size exceeds once in a hundred.

    s(√m + √n) and a little more, by the Tracy–Widom law as Johnstone (2001) centres and scales it. s² is the mean
    square of the entries without the values beyond the edge, which are taken out until no more are: one strong
    direction alone would raise the edge above all others.
    """
    m, n = shape
    root = math.sqrt(max(m, n) - 1 or 1) + math.sqrt(min(m, n))
    scale = root * (1.0 / math.sqrt(max(m, n) - 1 or 1) + 1.0 / math.sqrt(min(m, n))) ** (1.0 / 3.0)
    unit = math.sqrt((root**2 + _TRACY_WIDOM_99 * scale) / (m * n))
    largest = float(values[0]) or 1.0  # so that no square overflows or vanishes
    sizes, total, outliers = values / largest, frobenius / largest, 0
    while True:
        edge = unit * math.sqrt(max(total**2 - float((sizes[:outliers] ** 2).sum()), 0.0))
        beyond = int((sizes > edge * (1.0 + 1e-6)).sum())
        if beyond <= outliers:
            return Edge(edge * largest, outliers)
        outliers = beyond


def effective_rank(matrix: FloatArray, known: Svd, seed: int = 0) -> Estimate:
    """The effective rank of a finite matrix that is not zero.

    Parameters
    ----------
    matrix
        (m, n), read in place.
    known
        Its top singular triplets.
    seed
        Of the random vectors.

    """
    M, N = max(matrix.shape), min(matrix.shape)
    if N <= _EXACT_SIDE and float(M) * N * N <= _EXACT_FLOPS:
        return Estimate(effective_rank_of(_all_values(matrix, float(known.s[0]))), 0.0, 1)
    return _estimate(matrix, known, seed)


def _all_values(matrix: FloatArray, scale: float) -> FloatArray:
    """All singular values over `scale`, from the Gram matrix of the smaller side; those that are rounding are zero."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    N = tall.shape[1]
    G = np.zeros((N, N))
    for part in chunks(tall.shape[0], max(1, _PANEL_ENTRIES // N)):
        panel = np.ascontiguousarray(tall[part], dtype=np.float64) / scale
        G += matmul(panel.T, panel)
    with serial_blas():
        squares = scipy.linalg.eigvalsh((G + G.T) / 2, overwrite_a=True, check_finite=False)
    squares[squares < 4.0 * N * np.finfo(float).eps * squares[-1]] = 0.0
    return np.asarray(np.sqrt(squares))


class _Rest:
    """s²AᵀA between the complements of what is known, for the Lanczos recurrences."""

    def __init__(self, operator: StoredOperator, known: FloatArray) -> None:
        self._operator, self._known = operator, known
        self.shape, self.dtype = (operator.cols, operator.cols), operator.dtype

    def block_vectors(self, dtype: Any) -> HostVectors:
        return HostVectors(self._operator.cols, dtype)

    def rows_product(self, rows: FloatArray) -> FloatArray:
        image = self._operator.normal(self._without(rows))
        return self._without(image)

    def _without(self, rows: FloatArray) -> FloatArray:
        out: FloatArray = rows - matmul(matmul(rows, self._known.T), self._known)
        return out


def _estimate(matrix: FloatArray, known: Svd, seed: int) -> Estimate:
    operator = StoredOperator("matrix", matrix)
    vectors = known.U.T if operator.transposed else known.Vt
    rest = ScaledOperator(_Rest(operator, np.ascontiguousarray(vectors, dtype=operator.dtype)))
    process = Recurrences(rest, _PROBES, min(_STEPS, operator.cols), seed)
    values = known.s.astype(float) * operator.scale
    estimate = Estimate(math.nan, math.nan)
    while process.running:
        process.step()
        if process.steps in _LOOKS or not process.running:
            estimate, truncation = _bracketed(process, values, rest.scale, operator.cols)
            if truncation <= _CLOSE * estimate.value:
                break
    return estimate._replace(reads=operator.reads)


def _bracketed(process: Recurrences, known: FloatArray, scale: float, N: int) -> tuple[Estimate, float]:
    """The middle of both rules' effective ranks with its error, and half their distance."""
    upper = _of_rule(process, known, scale, N, radau=False)
    lower = _of_rule(process, known, scale, N, radau=True)
    truncation = abs(upper.value - lower.value) / 2.0
    return Estimate(
        (upper.value + lower.value) / 2.0, math.hypot(max(upper.error, lower.error), truncation)
    ), truncation


def _of_rule(process: Recurrences, known: FloatArray, scale: float, N: int, radau: bool) -> Estimate:
    """Exp H with its standard error over the random vectors, by one rule."""
    sums = []
    for alpha, beta, n in zip(process.alpha, process.beta, process.lengths, strict=True):
        squares, weights = _rule(alpha[:n].astype(float), beta[:n].astype(float), radau)
        sigma = np.sqrt(np.maximum(squares * scale, 0.0))
        sums.append((N * float(weights @ sigma), N * float(weights @ _xlogx(sigma))))
    S = np.array([s for s, _ in sums]) + float(known.sum())
    L = np.array([entropy for _, entropy in sums]) + float(_xlogx(known).sum())
    s, entropy = float(S.mean()), float(L.mean())
    value = math.exp(math.log(s) - entropy / s)
    single = (S - s) / s * (1.0 + entropy / s) - (L - entropy) / s  # how each vector moves H
    return Estimate(value, value * float(single.std(ddof=1)) / math.sqrt(len(S)))


def _rule(alpha: FloatArray, beta: FloatArray, radau: bool) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights of Gauss's rule, or of Gauss–Radau's with a node at 0."""
    if radau and beta[-1] > 0.0:
        pivot = alpha[0]
        for a, b in zip(alpha[1:], beta[:-1], strict=True):
            pivot = a - b * b / pivot
        if pivot > 0.0:
            alpha = np.append(alpha, beta[-1] ** 2 / pivot)
    nodes, vectors = scipy.linalg.eigh_tridiagonal(alpha, beta[: len(alpha) - 1])
    return nodes, vectors[0] ** 2


def _xlogx(x: FloatArray) -> FloatArray:
    return np.asarray(x * np.log(np.where(x > 0.0, x, 1.0)))
