r"""Block Krylov processes for the largest singular triplets of A (M × N, M ≥ N), with thick restart.

Both build an orthonormal basis V (rows) of the same Krylov space of AᵀA by full orthogonalisation, twice, the first
time against the rows alone that the recurrence couples; the last block of it, the *front* F, has not been multiplied.

*Fused Lanczos* reads A once a step, AᵀA F = V H + Q C, and keeps T = VᵀAᵀAV. Its eigenpairs (σ², y) have the two-sided
residual ‖Cᵀy_F‖/σ. Squaring costs digits: rounding of eps·σ_1² leaves a residual of about eps·σ_1²/σ.

*Golub–Kahan* reads A twice a step, A F = U H + U₊C and AᵀU₊ = V G + Q S, and keeps B = UᵀAV. The singular triplets
(x, σ, y) of B have Av = σu exactly and Aᵀu − σv = QSᵀx₊, so nothing is squared.

A block that loses rank (the space is exhausted: multiple values, low rank) is filled up with random orthogonal rows
whose coefficients are zero. On restart the best triplets are kept: the small matrix becomes diagonal, and its
coupling to the front comes out of the next step by itself.

cost    a step of b rows in a basis of c: 4·b·M·N flops and one or two reads of A; 4·N·b·c flops more to orthogonalise
        (Golub–Kahan: 4·(M + N)·b·c).
source  Wu & Simon (2000); Baglama & Reichel (2005); docs/theory.md, "Top-k SVD, counted".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from flatcore import _core
from flatcore._checks import FloatArray
from flatcore.spectral._orthonormal import normalised, orthonormal_against, with_random
from flatcore.spectral._small import eigh, svd
from flatcore.spectral._svd_operator import StoredOperator
from flatcore.spectral._vectors import HostVectors

# Rounding of a product in units of eps·σ_1 (fused: eps·σ_1²), for values clear of it: above 8·√eps·σ_1.
# Measured on graded spectra in float32: residuals stay at 2e-7·σ_1 down to σ = 1e-2·σ_1 and reach 4e-4·σ_1 at
# σ = 1e-3·σ_1.
_ROUNDING, _LOST = 0.03, 8.0
_TINY = 1e-30  # norms whose squares would vanish


class KrylovProcess(ABC):
    """The state of one process.

    Parameters
    ----------
    operator
        The matrix.
    capacity, block
        Largest number of active rows, and rows of the front.
    seeds
        Seeds for random vectors.
    start
        Rows (b, N) to begin with; made up to a block with random ones.
    locked
        Orthonormal rows (V, U), right and left singular vectors to work orthogonally to.

    """

    def __init__(
        self,
        operator: StoredOperator,
        capacity: int,
        block: int,
        seeds: Iterator[int],
        start: FloatArray | None = None,
        locked: tuple[FloatArray, FloatArray] | None = None,
    ) -> None:
        self._operator, self._seeds = operator, seeds
        self._eps = _eps(operator.dtype)
        self._locked = 0 if locked is None else len(locked[0])
        self.capacity = min(capacity, operator.cols - self._locked)
        self.block = min(max(block, 0 if start is None else len(start)), self.capacity)
        self._right = HostVectors(operator.cols, operator.dtype)
        self._V = self._right.empty(self._locked + self.capacity)
        if locked is not None:
            self._V[: self._locked] = locked[0]
        self._small = np.zeros((self.capacity, self.capacity))  # T or B over the active rows
        self._tail = np.zeros((0, 0))  # C or S of the last step
        self._size = 0.0  # of the small matrix: rounding is measured against it
        self.rows = 0  # active rows whose products are in the small matrix
        self.steps = 0
        self.values = np.zeros(0)  # Ritz values σ after `evaluate`, descending
        self.residuals = np.zeros(0)  # and their two-sided residuals by the recurrence
        self._ritz = np.zeros((0, 0))
        self._near = 0  # first active row that the recurrence couples to the front
        known = self._V[: self._locked]
        Q = np.zeros((0, operator.cols), operator.dtype)
        if start is not None:
            _, Q, _ = normalised(self._right, start[: self.capacity].astype(operator.dtype), 0.0)
            _, _, Q = self._orthonormal(self._right, known, Q, 0, 0.0)
        self.front = with_random(self._right, Q, known, self.block - len(Q), seeds)

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans the whole space orthogonal to the locked rows."""
        return len(self.front) == 0

    @property
    def full(self) -> bool:
        """Whether the front has no room."""
        return bool(self.rows + len(self.front) > self.capacity)

    @property
    @abstractmethod
    def noise(self) -> FloatArray:
        """Two-sided residuals below which rounding hides convergence, one a value."""

    @abstractmethod
    def evaluate(self) -> None:
        """Compute the Ritz values and their residuals."""

    @abstractmethod
    def _advance(self, first: int, last: int) -> FloatArray:
        """Multiply rows [first, last) of V, extend the small matrix, return the orthonormal rows that come next."""

    def step(self) -> None:
        """Multiply the front and extend the basis by it."""
        first, last = self._locked + self.rows, self._locked + self.rows + len(self.front)
        self._V[first:last] = self.front
        Q = self._advance(first, last)
        self.rows = last - self._locked
        missing = min(self.block, self._operator.cols - last) - len(Q)
        self.front = with_random(self._right, Q, self._V[:last], missing, self._seeds)
        self._near = first - self._locked
        self.steps += 1

    def restart(self, wanted: int) -> None:
        """Keep the best Ritz vectors; wants an evaluation after the last step."""
        keep = min(max(wanted + self.block, (9 * self.capacity) // 16), self.rows - self.block)
        self._rotate(keep)
        self._small[:] = 0.0
        self._small[np.arange(keep), np.arange(keep)] = self._kept_diagonal(keep)
        self.rows, self._near = keep, 0

    def right(self, count: int) -> FloatArray:
        """The first Ritz vectors as rows in float64."""
        active = self._V[self._locked : self._locked + self.rows]
        out = np.empty((min(count, self.rows), self._operator.cols))
        _core.stored_product(np.ascontiguousarray(self._ritz[:, : len(out)].T), active, out)
        return out

    @property
    @abstractmethod
    def projected(self) -> tuple[FloatArray, FloatArray]:
        """T = VᵀAᵀAV over the active rows, and the coefficients C of AᵀAV = VT + QCᵀ with the front Q."""

    @abstractmethod
    def _kept_diagonal(self, keep: int) -> FloatArray: ...

    def _rotate(self, keep: int) -> None:
        active = self._V[self._locked : self._locked + self.rows]
        _core.combine(active, np.ascontiguousarray(self._ritz[:, :keep]))

    def _coupled(self) -> int:
        """The first row of the basis that the recurrence couples to the front's product."""
        return self._locked + self._near if self.steps else 0

    def _orthonormal(
        self, vectors: HostVectors, known: FloatArray, W: FloatArray, near: int, size: float
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """H, C, Q with W = Hᵀ·known + C·Q, the rows of Q orthonormal and orthogonal to `known`, in the memory of W.

        A first pass over the rows from `near` on, which the recurrence couples to W, and then over all of them.
        """
        H = np.zeros((len(known), len(W)))
        H[near:] = vectors.gram(known[near:], W)
        vectors.update(W, known[near:], H[near:])
        C, Q = orthonormal_against(vectors, known, W, H, max(size, float(np.abs(H).max(initial=0.0))))
        return H, C, Q


class FusedLanczos(KrylovProcess):
    """Block Lanczos on AᵀA, one read of A a step."""

    @property
    def noise(self) -> FloatArray:
        lost = self.values <= _LOST * self._eps**0.5 * self.values[0]
        share = np.where(lost, _LOST, _ROUNDING)
        return np.asarray(share * self._eps * self.values[0] ** 2 / self._divisors())

    def evaluate(self) -> None:
        theta, Y = eigh(self._small[: self.rows, : self.rows])
        self.values, self._ritz = np.sqrt(np.maximum(theta[::-1], 0.0)), Y[:, ::-1]
        bottom = self._ritz[self.rows - len(self._tail) :]
        self.residuals = np.linalg.norm(self._tail.T @ bottom, axis=0) / self._divisors()
        self._size = max(self._size, float(theta[-1]))

    @property
    def projected(self) -> tuple[FloatArray, FloatArray]:
        C = np.zeros((self.rows, self._tail.shape[1]))
        C[self.rows - len(self._tail) :] = self._tail
        return self._small[: self.rows, : self.rows], C

    def _divisors(self) -> FloatArray:
        """The values, those that are rounding raised to it."""
        return np.asarray(np.maximum(self.values, max(self._eps * self.values[0], _TINY)))

    def _advance(self, first: int, last: int) -> FloatArray:
        Z = self._operator.normal(self._V[first:last])
        H, self._tail, Q = self._orthonormal(self._right, self._V[:last], Z, self._coupled(), self._size)
        self._size = max(self._size, float(np.abs(H).max()))
        a, b = first - self._locked, last - self._locked
        H = H[self._locked :]
        self._small[:b, a:b] = H
        self._small[a:b, :b] = H.T
        self._small[a:b, a:b] = (H[a:] + H[a:].T) / 2
        return Q

    def _kept_diagonal(self, keep: int) -> FloatArray:
        return self.values[:keep] ** 2


class GolubKahan(KrylovProcess):
    """Block Golub–Kahan–Lanczos, two reads of A a step."""

    def __init__(
        self,
        operator: StoredOperator,
        capacity: int,
        block: int,
        seeds: Iterator[int],
        start: FloatArray | None = None,
        locked: tuple[FloatArray, FloatArray] | None = None,
    ) -> None:
        super().__init__(operator, capacity, block, seeds, start, locked)
        self._left = HostVectors(operator.rows, operator.dtype)
        self._U = self._left.empty(self._locked + self.capacity)
        if locked is not None:
            self._U[: self._locked] = locked[1]
        self._left_ritz = np.zeros((0, 0))

    @property
    def noise(self) -> FloatArray:
        return np.full_like(self.values, _ROUNDING * self._eps * float(self.values.max(initial=0.0)))

    def evaluate(self) -> None:
        X, self.values, Yt = svd(self._small[: self.rows, : self.rows])
        self._left_ritz, self._ritz = X, Yt.T
        self.residuals = np.linalg.norm(self._tail.T @ X[self.rows - len(self._tail) :], axis=0)

    @property
    def projected(self) -> tuple[FloatArray, FloatArray]:
        B = self._small[: self.rows, : self.rows]
        return B.T @ B, B[self.rows - len(self._tail) :].T @ self._tail

    def _advance(self, first: int, last: int) -> FloatArray:
        W = self._operator.forward(self._V[first:last])
        H, C, Q = self._orthonormal(self._left, self._U[:first], W, self._coupled(), self._size)
        self._size = max(self._size, float(np.abs(H).max(initial=0.0)), float(np.abs(C).max(initial=0.0)))
        a, b = first - self._locked, last - self._locked
        self._small[:a, a:b] = H[self._locked :]
        self._small[a : a + len(Q), a:b] = C.T
        self._U[first:last] = with_random(self._left, Q, self._U[:first], last - first - len(Q), self._seeds)
        Z = self._operator.backward(self._U[first:last])
        _, self._tail, Q = self._orthonormal(self._right, self._V[:last], Z, first, self._size)
        return Q

    def _kept_diagonal(self, keep: int) -> FloatArray:
        return self.values[:keep]

    def _rotate(self, keep: int) -> None:
        super()._rotate(keep)
        active = self._U[self._locked : self._locked + self.rows]
        _core.combine(active, np.ascontiguousarray(self._left_ritz[:, :keep]))


def _eps(dtype: Any) -> float:
    return float(np.finfo(np.dtype(dtype)).eps)
