r"""Products of two thin factors, B·A with B (m, r) and A (r, n), from the r × r Gram matrices of the factors alone.

With S = BᵀB and T = AAᵀ the squares of the singular values of B·A are the eigenvalues of S T, and of the symmetric
S^{1/2} T S^{1/2}; ‖B·A‖_F² = tr S T. Nothing of extent m × n is formed. Gram matrices are summed in float64: values are
exact to about 1e-8 of the largest, which is below the rounding of weights stored in float32 or less. Factors whose
squares would overflow or vanish are divided by powers of two.

cost    2·r²·(m + n) flops for the Gram matrices, some 10·r³ for the values, on one thread: with more, waking them
        takes longer than products of this size.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy.linalg

from flatcore._checks import FloatArray, chunks
from flatcore._linalg import divided, exponent_of, matmul, multiplied
from flatcore._threads import limit_threads
from flatcore.results import ProductSpectrum, read_only
from flatcore.spectral._small import eigh
from flatcore.weights.pairs import GAP_BEYOND

_PANEL_ENTRIES = 1 << 21  # converted to float64 together
_TAIL_ROUNDING = 1e-14  # of one minus squares that sum to one, with values exact to some units in the last place
_SMALL, _LARGE = 1e-9, 1e9  # of squared norms whose products of four stay within float32


class Gram(NamedTuple):
    """A Gram matrix 4^exponent · matrix (r, r)."""

    matrix: FloatArray
    exponent: int = 0


def scaled_gram(rows: FloatArray) -> Gram:
    """A Aᵀ, of rows divided by a power of two where its entries would be far from 1: squares overflow and vanish."""
    with np.errstate(over="ignore", invalid="ignore"):
        G = gram(rows)
    if _SMALL < float(np.diag(G).max()) < _LARGE:
        return Gram(G)
    exponent = exponent_of(rows)
    return Gram(gram(divided(rows, exponent)), exponent) if exponent else Gram(G)


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
    left: Gram,
    right: Gram,
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
    """The spectrum of s·B·A, s = |scaling|, from S = BᵀB and T = AAᵀ, and the gap of the two; k values are kept.

    Raises
    ------
    ArithmeticError
        Singular values beyond float64, or too small for it.

    """
    (S, _), (T, _) = left, right
    with limit_threads(1):
        R = root(S)
        squares = scipy.linalg.eigvalsh(matmul(matmul(R, T), R.T), check_finite=False)[::-1]
    values = np.sqrt(np.maximum(squares, 0.0))
    frobenius = math.sqrt(max(float((S * T).sum()), 0.0))
    common = max((g.exponent for g in (left, right) if g.matrix.any()), default=0)
    near = [G * 4.0 ** (e - common) if G.any() else G for G, e in (left, right)]
    gap, size = norm(near[0] - near[1]), math.hypot(norm(near[0]), norm(near[1]))
    whole_gap, top = multiplied(gap, 2 * common), float(values[0])
    mantissa, exponent = math.frexp(abs(scaling))
    exponent += left.exponent + right.exponent
    spectral, whole_norm = (multiplied(mantissa * x, exponent) for x in (top, frobenius))
    if math.isnan(spectral) or math.isnan(whole_norm):
        raise ArithmeticError(f"singular values near 2^{math.frexp(top)[1] + exponent} are beyond float64")
    return ProductSpectrum(
        name=name,
        kind=kind,
        head=head,
        factors=factors,
        shape=shape,
        rank=len(S),
        values=read_only(np.ldexp(mantissa * values[:k], exponent)),
        spectral=spectral,
        frobenius=whole_norm,
        stable_rank=(frobenius / top) ** 2 if top > 0.0 else math.nan,
        effective_rank=effective_rank_of(values),
        gap=whole_gap,
        relative_gap=gap / size if size > 0.0 else 0.0,
        scaling=scaling,
        note="; ".join(text for text in (note, GAP_BEYOND * math.isnan(whole_gap)) if text),
    )


def norm(matrix: FloatArray) -> float:
    """‖matrix‖_F of a small one; NumPy's own wakes the threads of a second BLAS."""
    return math.sqrt(float(np.square(matrix).sum()))


def tail_of(values: FloatArray, frobenius: float) -> float:
    """The share of ‖W‖_F² > 0 outside the values given; 0 where it is no more than their rounding."""
    share = 1.0 - float(((values / frobenius) ** 2).sum())
    return share if share > _TAIL_ROUNDING else 0.0


def effective_rank_of(values: FloatArray) -> float:
    """Exp of the entropy of σ/Σσ over all singular values; NaN where all are zero (Roy & Vetterli 2007)."""
    total = float(values.sum())
    if total <= 0.0:
        return math.nan
    shares = values[values > 0.0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))
