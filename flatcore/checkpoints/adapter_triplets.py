r"""Two adapters as what they add to a matrix, s·B·A: singular triplets of both and of their difference.

With the thin QR decompositions [B₁ B₂] = Q_l R_l and [A₁ᵀ A₂ᵀ] = Q_r R_r every one of the three is Q_l C Q_rᵀ with

    C_i = s_i R_l,i R_r,iᵀ,    C = C₂ − C₁,

cores of at most r₁ + r₂ rows and columns, whose singular triplets LAPACK gives. Nothing of extent out × in is formed.
All is done in float64; factors and scalings are divided by powers of two, so that no product of entries overflows.
Residuals come from fresh products with the factors.

cost    some 8·(r₁ + r₂)²·(out + in) flops.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from flatcore._checks import FloatArray
from flatcore._linalg import matmul
from flatcore._threads import limit_threads
from flatcore.checkpoints.adapters import Adapter, factors_of
from flatcore.checkpoints.products import norm
from flatcore.checkpoints.ranks import survey
from flatcore.io import Checkpoint
from flatcore.spectral._small import orthonormal_columns, svd

_ROUNDING = 1e-14  # twice that of a product in float64, in units of |s|·‖B‖_F·‖A‖_F: of its values and its residuals


class Factors(NamedTuple):
    """s·B·A = 2^exponent · scaling · B·A with B (m, r) and A (r, n) in float64, of entries and scaling below 1."""

    B: FloatArray
    A: FloatArray
    scaling: float
    exponent: int

    @classmethod
    def of(cls, adapter: Adapter, checkpoint: Checkpoint) -> Factors:
        """Those of an adapter.

        Raises
        ------
        ValueError
            NaN or Inf, a damaged file.

        """
        scaling, exponent = math.frexp(adapter.scaling)
        scaled = []
        for name, factor in zip((adapter.B, adapter.A), factors_of(adapter, checkpoint), strict=True):
            if fault := survey(factor).fault:
                raise ValueError(f"{name}: {fault}; expected finite numbers")
            wide = factor.astype(np.float64)
            power = math.frexp(float(np.abs(wide).max()))[1]
            scaled.append(np.ldexp(wide, -power))
            exponent += power
        return cls(scaled[0], scaled[1], scaling, exponent)

    def same_as(self, other: Factors) -> bool:
        """Whether factors and scaling are the same numbers."""
        return (self.scaling, self.exponent) == (other.scaling, other.exponent) and all(
            np.array_equal(x, y) for x, y in ((self.B, other.B), (self.A, other.A))
        )

    @property
    def size(self) -> float:
        """What its product is known up to rounding of, ‖s·B‖_F·‖A‖_F without the power of two."""
        return abs(self.scaling) * norm(self.B) * norm(self.A)

    def image(self, vectors: FloatArray) -> FloatArray:
        """The product with columns (n, k), without the power of two."""
        return self.scaling * matmul(self.B, matmul(self.A, vectors))

    def transposed_image(self, vectors: FloatArray) -> FloatArray:
        """The transposed product with columns (m, k), without the power of two."""
        return self.scaling * matmul(self.A.T, matmul(self.B.T, vectors))


class ProductTriplets(NamedTuple):
    """Singular triplets of a product as :class:`flatcore.results.SvdResult` has those of a matrix, and ‖·‖_F."""

    U: FloatArray
    s: FloatArray
    Vt: FloatArray
    residuals: FloatArray
    converged: FloatArray
    status: str
    tol: float
    frobenius: float


def adapter_triplets(first: Factors, second: Factors, count: int, tol: float) -> tuple[ProductTriplets, ...]:
    """The top triplets of both products and of the second one minus the first.

    Parameters
    ----------
    first, second
        Products of one shape (m, n), of any ranks.
    count
        Triplets, fewer where m, n or the sum of both ranks is smaller. Values beyond a product's rank and those that
        are rounding are zero; where all are, so is the norm.
    tol
        In units of σ₁: a residual above it and above the rounding of the products has not converged.

    Raises
    ------
    OverflowError
        Values beyond float64.

    """
    with limit_threads(1):
        left = orthonormal_columns(np.hstack([first.B, second.B]))
        right = orthonormal_columns(np.vstack([first.A, second.A]).T)
        together = max(first.exponent, second.exponent)
        signed = (
            ((1.0, first),),
            ((1.0, second),),
            (
                (math.ldexp(1.0, second.exponent - together), second),
                (-math.ldexp(1.0, first.exponent - together), first),
            ),
        )
        exponents = (first.exponent, second.exponent, together)
        return tuple(
            _triplets(terms, left, right, count, tol, exponent)
            for terms, exponent in zip(signed, exponents, strict=True)
        )


def _triplets(
    terms: tuple[tuple[float, Factors], ...], left: FloatArray, right: FloatArray, count: int, tol: float, exponent: int
) -> ProductTriplets:
    """Of a sum of products with coefficients, in the coordinates of both frames."""
    core: Any = sum(c * f.scaling * matmul(matmul(left.T, f.B), matmul(f.A, right)) for c, f in terms)
    u, s, vt = (part[..., :count] if place < 2 else part[:count] for place, part in enumerate(svd(core)))
    rounding = _ROUNDING * sum(abs(c) * f.size for c, f in terms)
    known = (np.arange(len(s)) < sum(f.A.shape[0] for _, f in terms)) & (s > rounding / 2.0)
    s = np.where(known, s, 0.0)
    U, V = matmul(left, u), matmul(right, vt.T)
    forward: Any = sum(c * f.image(V) for c, f in terms)
    backward: Any = sum(c * f.transposed_image(U) for c, f in terms)
    residuals = np.maximum(np.linalg.norm(forward - U * s, axis=0), np.linalg.norm(backward - V * s, axis=0))
    converged = residuals <= max(tol * float(s[0]), rounding)
    status = "converged" if converged.all() else f"{int((~converged).sum())} residuals are above the tolerance"
    values, errors = _unscaled(s, exponent), _unscaled(residuals, exponent)
    whole = scipy.linalg.norm(core) if s[0] > 0.0 else 0.0
    size = float(_unscaled(np.array([whole]), exponent)[0])
    return ProductTriplets(U, values, V.T, errors, converged, status, tol, size)


def _unscaled(values: FloatArray, exponent: int) -> FloatArray:
    with np.errstate(over="ignore"):
        out = np.ldexp(values, exponent)
    if not np.isfinite(out).all():
        raise OverflowError(f"singular values near 2^{exponent}; expected them within float64")
    return np.asarray(out)
