"""The solvers' small dense problems, by LAPACK on one thread.

Between two of them the kernels' own threads are at work. BLAS threads that were woken for a matrix of a hundred rows go
on spinning for a while and take the cores from them: steps took up to four times as long.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import scipy.linalg
import scipy.linalg.lapack

from flatcore._checks import FloatArray
from flatcore._threads import serial_blas

_TINY = 16  # rows for which no BLAS starts threads


def eigh(A: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Eigenvalues ascending, eigenvectors orthonormal to rounding (SciPy's default driver loses that in clusters).

    The LAPACK routine itself: for a handful of rows SciPy's interface takes three times as long as the routine.
    """
    if len(A) == 0:
        return np.zeros(0), np.zeros((0, 0))
    with serial_blas() if len(A) > _TINY else nullcontext():
        values, vectors, info = scipy.linalg.lapack.dsyevd(A, lower=1)
    if info != 0:
        raise np.linalg.LinAlgError(f"LAPACK's dsyevd did not converge on {len(A)} rows (info {info})")
    return values, vectors


def svd(A: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The thin singular value decomposition."""
    with serial_blas():
        U, s, Vt = scipy.linalg.svd(A, full_matrices=False, check_finite=False)
    return U, s, Vt


def orthonormal_columns(A: FloatArray) -> FloatArray:
    """Q of the thin QR decomposition."""
    with serial_blas():
        Q: FloatArray = scipy.linalg.qr(A, mode="economic", check_finite=False)[0]
    return Q
