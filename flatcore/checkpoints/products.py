r"""Products of two thin factors, B·A with B (m, r) and A (r, n), from the r × r Gram matrices of the factors alone.

With S = BᵀB and T = AAᵀ the squares of the singular values of B·A are the eigenvalues of S T, and of the symmetric
S^{1/2} T S^{1/2}; ‖B·A‖_F² = tr S T. Nothing of extent m × n is formed. Gram matrices are summed in float64: values are
exact to about 1e-8 of the largest, which is below the rounding of weights stored in float32 or less.

cost    2·r²·(m + n) flops for the Gram matrices, some 10·r³ for the values, on one thread: with more, waking them
        takes longer than products of this size.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg

from flatcore._checks import FloatArray, chunks
from flatcore._linalg import matmul
from flatcore._threads import limit_threads
from flatcore.results import ProductSpectrum, read_only
from flatcore.spectral._small import eigh

_PANEL_ENTRIES = 1 << 21  # converted to float64 together


def gram(rows: FloatArray) -> FloatArray:
    """A Aᵀ (r, r) in float64 of thin rows A (r, n) in any precision and of any strides, panel by panel."""
    r, n = rows.shape
    out = np.zeros((r, r))
    with limit_threads(1):
        for part in chunks(n, max(1, _PANEL_ENTRIES // r)):
            panel = np.ascontiguousarray(rows[:, part], dtype=np.float64)
            out += matmul(panel, panel.T)
    return (out + out.T) / 2


def root(G: FloatArray) -> FloatArray:
    """R (r, r) with G = RᵀR, of a positive semidefinite matrix (r, r); rounding below zero counts as zero."""
    values, vectors = eigh(G)
    scaled: FloatArray = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    return scaled


def product_spectrum(
    S: FloatArray,
    T: FloatArray,
    k: int,
    *,
    name: str,
    kind: str,
    factors: tuple[str, str],
    shape: tuple[int, int],
    note: str,
    head: int = -1,
    scaling: float = 1.0,
) -> ProductSpectrum:
    """The spectrum of s·B·A, s = |scaling|, from S = BᵀB and T = AAᵀ, and the gap of the two; k values are kept."""
    with limit_threads(1):
        R = root(S)
        squares = scipy.linalg.eigvalsh(matmul(matmul(R, T), R.T), check_finite=False)[::-1]
    values = np.sqrt(np.maximum(squares, 0.0))
    frobenius = math.sqrt(max(float((S * T).sum()), 0.0))
    gap, size = norm(S - T), math.hypot(norm(S), norm(T))
    top, s = float(values[0]), abs(scaling)
    return ProductSpectrum(
        name=name,
        kind=kind,
        head=head,
        factors=factors,
        shape=shape,
        rank=len(S),
        values=read_only(s * values[:k]),
        spectral=s * top,
        frobenius=s * frobenius,
        stable_rank=(frobenius / top) ** 2 if top > 0.0 else math.nan,
        effective_rank=effective_rank_of(values),
        gap=gap,
        relative_gap=gap / size if size > 0.0 else 0.0,
        scaling=scaling,
        note=note,
    )


def norm(matrix: FloatArray) -> float:
    """‖matrix‖_F of a small one; NumPy's own wakes the threads of a second BLAS."""
    return math.sqrt(float(np.square(matrix).sum()))


def effective_rank_of(values: FloatArray) -> float:
    """Exp of the entropy of σ/Σσ over all singular values; NaN where all are zero (Roy & Vetterli 2007)."""
    total = float(values.sum())
    if total <= 0.0:
        return math.nan
    shares = values[values > 0.0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))
