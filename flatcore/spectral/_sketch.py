r"""The range of an operator seen through random test vectors, and what it would be without each of them.

Rows ω_1 … ω_m (length N) are test vectors, the rows q_1 … q_r of Q an orthonormal basis of the span of the images:

    A ω_i = Σ_j C_ij q_j,    H = Q A Qᵀ,    W = Q Ωᵀ.

Q_(i), an orthonormal basis of what the images of all test vectors but ω_i span, need not be computed:

    Q_(i)ᵀ Q_(i) = Qᵀ (I − s_i s_iᵀ) Q,    s_i ⟂ the rows C_k, k ≠ i, ‖s_i‖ = 1,

and C s_i ∝ e_i makes s_i the normalised column i of C⁻¹. Where A ω_i lies in the span of the others (r < m), s_i = 0.
C has columns of very different sizes, the operator's decaying spectrum; dividing these out, C = B D, leaves B well
conditioned, and s_i ∝ D⁻¹ B⁺ e_i.

Test vectors are drawn again from their seeds where they are needed a second time.

cost: two products and 8·N·m flops a test vector; memory N·(m + 2·block), and N·m more where A Qᵀ is kept.
Source: Epperly, Tropp & Webber (2024); the form for symmetric operators and rows was derived here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from flatcore._checks import FloatArray
from flatcore.spectral._scaled import ScaledOperator, check_symmetric
from flatcore.spectral._small import eigh
from flatcore.spectral._vectors import BlockVectors

BLOCK = 8
_MOST_PASSES = 6
_LONG = 0.5  # what is left of unit rows that were orthogonal up to a small error
_INDEPENDENT = 1e-8  # 1 − (BB⁺)_ii, rounding where row i of B is independent of the others


def orthonormal_rows(vectors: BlockVectors, Y: Any, known: Any) -> tuple[FloatArray, FloatArray, Any]:
    """A, C, Q with Y = A·known + C·Q, Q orthonormal and orthogonal to the orthonormal rows `known`; overwrites Y.

    Rows are rotated to the eigenvectors of their Gram matrix, measured, normalised, and so again until a pass leaves
    them long. Rows of any size survive the first pass; those that keep shrinking are dropped.
    """
    eps = float(np.finfo(vectors.dtype).eps)
    along, C = np.zeros((len(Y), len(known))), np.eye(len(Y))
    for passes in range(_MOST_PASSES):
        G = vectors.gram(known, Y)
        vectors.update(Y, known, G)
        along += C @ G.T
        _, U = eigh(vectors.gram(Y, Y))
        vectors.combine(Y, U)
        norms = np.sqrt(np.diag(vectors.gram(Y, Y)))
        last = passes == _MOST_PASSES - 1
        kept = norms > (0.0 if passes == 0 else _LONG if last else 10.0 * eps)
        vectors.combine(Y, np.eye(len(Y))[:, kept] / norms[kept])
        C, Y = C @ (U[:, kept] * norms[kept]), Y[: int(kept.sum())]
        if len(Y) == 0 or (passes > 0 and bool((norms > _LONG).all())):
            break
    return along, C, Y


class Sketch:
    """Q, C, H and W for a growing number of test vectors.

    Parameters
    ----------
    operator
        The scaled operator.
    capacity
        The largest number of test vectors, at most N/2.
    seed
        Of the test vectors.
    signs
        Random signs as test vectors instead of standard normal ones.
    keep_images
        Keep Z = A Qᵀ.

    """

    def __init__(
        self, operator: ScaledOperator, capacity: int, seed: int, *, signs: bool = False, keep_images: bool = False
    ) -> None:
        self.operator, self.capacity, self._signs = operator, capacity, signs
        self.vectors = operator.vectors
        count = capacity * (1 + keep_images) + 3 * BLOCK
        needed = count * operator.length * operator.dtype.itemsize + 5 * 8 * capacity**2  # C, H, W, B and its inverse
        what = f"a sketch of {capacity} test vectors of {operator.length} (fewer products need less)"
        self.vectors.check_memory(what, needed)
        self._Q = self.vectors.empty(capacity)
        self._Z = self.vectors.empty(capacity) if keep_images else None
        self._C, self._H, self._W = (np.zeros((capacity, capacity)) for _ in range(3))
        self._squares = np.zeros(capacity)
        blocks = -(-capacity // BLOCK)
        self._seeds = np.random.default_rng(seed).integers(0, 2**63, blocks)
        self.samples = self.rank = 0

    Q = property(lambda self: self._Q[: self.rank], doc="Orthonormal rows (r, N).")
    Z = property(lambda self: self._Z[: self.rank], doc="Their images (r, N).")
    C = property(lambda self: self._C[: self.samples, : self.rank], doc="Coefficients of the images (m, r).")
    H = property(lambda self: self._H[: self.rank, : self.rank], doc="Q A Qᵀ (r, r).")
    W = property(lambda self: self._W[: self.rank, : self.samples], doc="Q Ωᵀ (r, m).")
    squares = property(lambda self: self._squares[: self.samples], doc="‖ω_i‖² (m,).")

    @property
    def full(self) -> bool:
        """Whether no test vector can be added."""
        return self.samples == self.capacity

    def tests(self, first: int) -> Any:
        """The block of test vectors that begins with number `first`, as rows."""
        rows = self.vectors.empty(min(BLOCK, self.capacity - first))
        self.vectors.random(rows, int(self._seeds[first // BLOCK]), signs=self._signs)
        return rows

    def extend(self) -> None:
        """Add a block of test vectors."""
        first, old = self.samples, self.rank
        Omega = self.tests(first)
        along, C, rows = orthonormal_rows(self.vectors, self.operator(Omega), self.Q)
        self.samples, self.rank = first + len(Omega), old + len(rows)
        self._Q[old : self.rank] = rows
        self._C[first : self.samples, :old] = along
        self._C[first : self.samples, old : self.rank] = C
        self._squares[first : self.samples] = [self._square(Omega[i : i + 1]) for i in range(len(Omega))]
        if len(rows):
            self._project(old, Omega, C)
        self._W[: self.rank, first : self.samples] = self.vectors.gram(self.Q, Omega)
        for earlier in range(0, first, BLOCK):
            part = slice(earlier, earlier + BLOCK)
            self._W[old : self.rank, part] = self.vectors.gram(self._Q[old : self.rank], self.tests(earlier))

    def _square(self, row: Any) -> float:
        return float(self.vectors.gram(row, row)[0, 0])

    def _project(self, old: int, Omega: Any, C: FloatArray) -> None:
        """H for the rows of Q from number `old` on; ω_iᵀ(A q_j) against the (A ω_i)ᵀq_j known shows asymmetry."""
        Z = self.operator(self._Q[old : self.rank])
        check_symmetric(C, self.vectors.gram(Omega, Z), float(np.abs(self.C).max()))
        H = self.vectors.gram(self.Q, Z)
        self._H[: self.rank, old : self.rank] = H
        self._H[old : self.rank, : self.rank] = H.T
        self._H[old : self.rank, old : self.rank] = (H[old:] + H[old:].T) / 2
        if self._Z is not None:
            self._Z[old : self.rank] = Z

    def left_out(self) -> FloatArray:
        """The vectors s_i as columns (r, m)."""
        D = np.linalg.norm(self.C, axis=0)
        B = self.C / D
        inverse = np.linalg.pinv(B)
        dependent = 1.0 - np.einsum("ij,ji->i", B, inverse) > _INDEPENDENT
        S = inverse * (D.min(initial=np.inf) / D)[:, None]
        S[:, dependent] = 0.0
        lengths = np.linalg.norm(S, axis=0)
        return np.asarray(S / np.where(lengths > 0.0, lengths, 1.0))
