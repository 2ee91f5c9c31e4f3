"""All singular values of one matrix and its top triplets, where that costs less than a search.

Of entries in single or half precision from the Gram matrix G = AᵀA in float64: σ_i is then known to ‖E‖/(2σ_i), with E
the rounding of G, at most (M + N)·eps·‖A‖_F² with that of its eigenvalues (Higham 2002, 3.5). With eps = 1e-16
that is far below what such entries can tell. Residuals are measured as those of a search are; where they do not reach
the tolerance, and of double precision, LAPACK decomposes A itself.

cost    2·M·N² flops and an eigenproblem of N rows; LAPACK's 6·M·N² + 20·N³ run at a fifth of that rate: 2048 × 64 takes
        0.7 ms for 7.6, 2048 × 512 37 for 222 (one thread).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import scipy.linalg

from flatcore import _core
from flatcore._checks import FloatArray
from flatcore._memory import check_memory
from flatcore._threads import serial_blas
from flatcore.spectral._small import eigh
from flatcore.spectral._svd_operator import StoredOperator
from flatcore.spectral._svd_run import MEASURED_BYTES, SvdRun, Triplets, measured

# Flop/s of one core: Gram matrices and their eigenproblems (measured at sizes from 64 to 1024, right to a factor of
# three), LAPACK's products with the matrix and the rest of it (from 100 to 20,000, a factor of two).
_GRAM_RATE, _EIGEN_RATE, _REDUCTION_RATE, _LAPACK_RATE = 4e10, 2e10, 2e10, 5e10
_SERIAL_FLOPS = 2e9  # up to which LAPACK's threads cost more than they save: 2048 × 64 took twice as long with two
_MOST_BYTES = 8e9  # beyond which a full decomposition is not considered


class Cost(NamedTuple):
    """Of a full decomposition."""

    flops: float
    seconds: float
    bytes: int

    @property
    def affordable(self) -> bool:
        """Whether it may be considered at all."""
        return self.bytes <= _MOST_BYTES


def full_cost(operator: StoredOperator, k: int) -> Cost:
    """From the Gram matrix in single precision, with k triplets measured; by LAPACK in double."""
    M, N = float(operator.rows), float(operator.cols)
    if operator.dtype == np.float32:
        gram, rest, measuring = 2.0 * M * N * N, 9.0 * N**3, 6.0 * M * k * k
        seconds = gram / _GRAM_RATE + rest / _EIGEN_RATE + measuring / _LAPACK_RATE
        return Cost(gram + rest + measuring, seconds, int(8 * 4 * N * N + MEASURED_BYTES * k * M))
    return _lapack_cost(operator)


def _lapack_cost(operator: StoredOperator) -> Cost:
    M, N = float(operator.rows), float(operator.cols)
    first, rest = 6.0 * M * N * N, 20.0 * N**3
    seconds = first / _REDUCTION_RATE + rest / _LAPACK_RATE
    return Cost(first + rest, seconds, int(8 * (4 * M * N + 5 * N * N)))


def decompose(run: SvdRun) -> tuple[Triplets, float]:
    """K triplets, and how far beyond the last one rounding may hide another value (scaled)."""
    if run.operator.dtype == np.float32:
        found, rounding = _from_gram(run)
        if found.within(run.tol):
            run.note("from AᵀA in float64.")
            return found, rounding
    run.note("by LAPACK.")
    found = _by_lapack(run)
    if not found.within(run.tol):
        run.status = "precision_limited"
    return found, 0.0


def _from_gram(run: SvdRun) -> tuple[Triplets, float]:
    operator = run.operator
    check_memory(f"the full decomposition of {operator.cols} columns", full_cost(operator, run.k).bytes)
    G = _gram(operator)
    squares, Y = eigh(G)
    error = _rounding(G, operator.rows)
    run.all_values, run.hidden = _roots(squares, error), float(np.sqrt(error))
    found = measured(run, Y[:, ::-1][:, : run.k])
    last = float(found.s[-1])
    return found, float(np.sqrt(last**2 + error)) - last


def values_from_gram(operator: StoredOperator) -> tuple[FloatArray, float]:
    """All singular values, scaled and descending, in any precision; zeros may be values up to the second result."""
    check_memory(f"the Gram matrix of {operator.cols} columns", 8 * 4 * operator.cols**2)
    G = _gram(operator)
    with serial_blas():
        squares = scipy.linalg.eigvalsh(G, check_finite=False)
    error = _rounding(G, operator.rows)
    return _roots(squares, error), float(np.sqrt(error))


def _gram(operator: StoredOperator) -> FloatArray:
    with _threads_for(2.0 * operator.rows * operator.cols**2):
        return operator.gram()


def _rounding(G: FloatArray, rows: int) -> float:
    """Of the eigenvalues of G; its trace stands for the largest one."""
    return float(np.finfo(float).eps * (rows + len(G)) * G.trace())


def _roots(squares: FloatArray, rounding: float) -> FloatArray:
    return np.asarray(np.sqrt(np.where(squares > rounding, squares, 0.0))[::-1])


def _by_lapack(run: SvdRun) -> Triplets:
    operator, k, cost = run.operator, run.k, _lapack_cost(run.operator)
    check_memory(f"the full decomposition of a {operator.rows} × {operator.cols} matrix", cost.bytes)
    with _threads_for(cost.flops):
        U, s, Vt = _core.thin_svd(operator.dense())
    run.all_values, run.hidden = s, 0.0
    u, v = np.ascontiguousarray(U[:, :k].T, dtype=operator.dtype), Vt[:k].astype(operator.dtype)
    s = s[:k].copy()
    left = np.linalg.norm(operator.forward(v.astype(np.float64)) - s[:, None] * u, axis=1)
    right = np.linalg.norm(operator.backward(u.astype(np.float64)) - s[:, None] * v, axis=1)
    return Triplets(u, s, v, np.maximum(left, right))


def _threads_for(flops: float) -> AbstractContextManager[None]:
    return serial_blas() if flops <= _SERIAL_FLOPS else nullcontext()
