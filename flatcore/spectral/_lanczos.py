r"""Block Lanczos with thick restart: the control loop, whatever the vectors' home.

The basis holds orthonormal rows: first vectors that are locked (deflated), then the active ones, the last block of
which (the *front*) has not been multiplied yet. One step multiplies the front F:

    A F = V H + Q C,      V: all rows so far,   H = VᵀAF,   Q: the next front,

with classical Gram–Schmidt twice, the second pass after Q was normalised (and more passes where rows still shrink), so
that Q is orthogonal to V to rounding however small it was. T collects H over the active rows: T = VᵀAV. Ritz pairs
(θ, Vy) of T have residuals ‖C y_front‖, which costs nothing. Where Q C loses rank (the Krylov space is exhausted: exact
multiplicities), the missing rows of Q are fresh random orthogonal vectors with zero coefficients.

When the basis is full the best Ritz vectors are kept (thick restart, Wu & Simon 2000): T becomes diagonal and its
coupling to Q comes out of the next H by itself.

cost of a step: one block product, and 8·N·b flops for each of the c rows in the basis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.linalg

from flatcore._checks import FloatArray
from flatcore.spectral._vectors import BlockVectors

_MOST_PASSES = 4
_LONG = 0.5  # what is left of a unit row that was orthogonal up to a small error
_TINY = 1e-150  # norms whose squares would vanish
_LARGEST = 1e150  # and overflow

Order = Callable[[FloatArray], FloatArray]  # values → indices, most wanted first


def order_of(which: str) -> Order:
    """LA descending, SA ascending, LM by modulus."""
    if which == "LA":
        return lambda values: np.argsort(-values, kind="stable")
    if which == "SA":
        return lambda values: np.argsort(values, kind="stable")
    return lambda values: np.argsort(-np.abs(values), kind="stable")


class BlockLanczos:
    """The state of one Lanczos process.

    Parameters
    ----------
    apply
        Rows (b, N) → rows (b, N), the symmetric operator.
    vectors
        The block-vector operations.
    capacity, block
        Largest number of active rows, and rows of the front.
    seeds
        Seeds for random vectors.
    locked
        Orthonormal rows to work orthogonally to, or None.
    start
        Rows to begin with; made up to a block with random ones.
    scale
        A lower bound of the operator's norm, where one is known: rounding is measured against it.

    """

    def __init__(
        self,
        apply: Callable[[Any], Any],
        vectors: BlockVectors,
        *,
        capacity: int,
        block: int,
        seeds: Iterator[int],
        locked: Any | None = None,
        start: Any | None = None,
        scale: float = 0.0,
    ) -> None:
        self._apply, self._vectors, self._seeds = apply, vectors, seeds
        self.locked = 0 if locked is None else len(locked)
        self.capacity = min(capacity, vectors.length - self.locked)
        self.block = min(block, self.capacity)
        self._basis = vectors.empty(self.locked + self.capacity)
        if locked is not None:
            self._basis[: self.locked] = locked
        self._T = np.zeros((self.capacity, self.capacity))
        self._multiplied = 0  # active rows whose products are in T
        self._front = self._orthonormal_start(start)
        self._tail = np.zeros((0, 0))  # C of the last step
        self.scale = scale  # the largest modulus of a Ritz value seen
        self.low, self.high = np.inf, -np.inf  # the extreme Ritz values seen
        self.steps = 0
        self.values = np.zeros(0)  # Ritz values after the last step, ascending
        self._ritz = np.zeros((0, 0))

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans the whole space orthogonal to the locked rows."""
        return len(self._front) == 0

    def step(self) -> None:
        """Multiply the front and extend the basis by it."""
        first = self.locked + self._multiplied
        rows = first + len(self._front)
        self._basis[first:rows] = self._front
        known = self._basis[:rows]
        W = self._apply(self._basis[first:rows])
        H = self._vectors.gram(known, W)
        if not np.isfinite(H).all():
            raise ValueError("the operator returned NaN or Inf")
        self.scale = max(self.scale, float(np.abs(H).max(initial=0.0)))
        if self.steps == 0:
            _check_projection(H[first:rows], self.scale)
        self._vectors.update(W, known, H)
        C, W = self._orthonormal_against(known, W, H)
        self._multiplied = rows - self.locked
        self._extend_projection(H[self.locked :], first - self.locked)
        self._rayleigh_ritz(front=slice(first - self.locked, rows - self.locked), C=C)
        missing = min(self.block, self._vectors.length - rows) - len(W)
        self._front = self._with_random(W, known, missing)
        self.steps += 1

    def restart_if_full(self, order: Order, wanted: int) -> None:
        """Keep the best Ritz vectors where the next front has no room."""
        if self._multiplied + len(self._front) <= self.capacity:
            return
        most = self._multiplied - self.block
        keep = min(max(wanted + self.block, (11 * self.capacity) // 20), most)
        chosen = order(self.values)[:keep]
        active = self._basis[self.locked : self.locked + self._multiplied]
        self._vectors.combine(active, self._ritz[:, chosen])
        self._T[:] = 0.0
        self._T[np.arange(keep), np.arange(keep)] = self.values[chosen]
        self._multiplied = keep

    def residuals(self, indices: FloatArray) -> FloatArray:
        """Residual norms of Ritz pairs by the recurrence."""
        return np.asarray(np.linalg.norm(self._tail[:, indices], axis=0))

    def ritz_rows(self, indices: FloatArray) -> Any:
        """Ritz vectors as rows; the process cannot go on afterwards."""
        active = self._basis[self.locked : self.locked + self._multiplied]
        self._vectors.combine(active, self._ritz[:, indices])
        return active[: len(indices)]

    def _orthonormal_against(self, known: Any, W: Any, H: FloatArray) -> tuple[FloatArray, Any]:
        """C, Q with W = C Q after passes against `known`, whose coefficients are added to H.

        A pass over unit rows that leaves them long leaves them orthogonal to rounding. Rows that go on shrinking were
        rounding of the operator's scale: they drop out.
        """
        C, W, _ = self._normalised(W, relative_to=self.scale)
        for _ in range(_MOST_PASSES):
            again = self._vectors.gram(known, W)
            self._vectors.update(W, known, again)
            H += again @ C.T
            C2, W, norms = self._normalised(W, relative_to=0.0)
            C = C @ C2
            if (norms > _LONG).all():
                break
        long = norms > _LONG
        self._vectors.combine(W, np.eye(len(W))[:, long])
        return C[:, long], W[: int(long.sum())]

    # -- internals ---------------------------------------------------------------------------------------------------

    def _extend_projection(self, H: FloatArray, first: int) -> None:
        rows = len(H)
        self._T[:rows, first:rows] = H
        self._T[first:rows, :rows] = H.T
        self._T[first:rows, first:rows] = (H[first:] + H[first:].T) / 2

    def _rayleigh_ritz(self, front: slice, C: FloatArray) -> None:
        rows = self._multiplied
        self.values, self._ritz = scipy.linalg.eigh(self._T[:rows, :rows], check_finite=False)
        self._tail = C.T @ self._ritz[front]
        self.low, self.high = min(self.low, float(self.values[0])), max(self.high, float(self.values[-1]))
        self.scale = max(self.scale, abs(self.low), abs(self.high))

    def _orthonormal_start(self, start: Any | None) -> Any:
        known = self._basis[: self.locked]
        rows = self._vectors.empty(0 if start is None else len(start))
        if start is not None:
            rows[:] = start
            for _ in range(2):
                self._vectors.update(rows, known, self._vectors.gram(known, rows))
                _, rows, _ = self._normalised(rows, relative_to=0.0)
        return self._with_random(rows, known, max(0, self.block - len(rows)))

    def _normalised(self, W: Any, relative_to: float) -> tuple[FloatArray, Any, FloatArray]:
        """C, Q with W = C Q, Q nearly orthonormal, and norms; what is below the rounding of `relative_to` drops out.

        W is rotated to the eigenvectors of its Gram matrix and its norms are measured afterwards: the Gram matrix's own
        eigenvalues are noise below eps times the largest. A second call makes the rows orthonormal to rounding.
        """
        if len(W) == 0:
            return np.zeros((0, 0)), W, np.zeros(0)
        G = self._vectors.gram(W, W)
        _, U = scipy.linalg.eigh((G + G.T) / 2)
        self._vectors.combine(W, U)
        norms = np.sqrt(np.diag(self._vectors.gram(W, W)))
        eps = float(np.finfo(self._vectors.dtype).eps)
        kept = norms > max(4.0 * eps * relative_to, 10.0 * eps * float(norms.max()), _TINY)
        self._vectors.combine(W, np.eye(len(W))[:, kept] / norms[kept])
        return U[:, kept] * norms[kept], W[: int(kept.sum())], norms[kept]

    def _with_random(self, Q: Any, known: Any, missing: int) -> Any:
        """`Q` with `missing` random rows added, all orthonormal and orthogonal to `known`."""
        while missing > 0:
            rows = self._vectors.empty(len(Q) + missing)
            rows[: len(Q)] = Q
            fresh = rows[len(Q) :]
            self._vectors.random(fresh, next(self._seeds))
            for _ in range(2):
                for others in (known, Q):
                    self._vectors.update(fresh, others, self._vectors.gram(others, fresh))
                _, fresh, _ = self._normalised(fresh, relative_to=0.0)
            Q, missing = rows[: len(Q) + len(fresh)], missing - len(fresh)
        return Q


def _check_projection(projected: FloatArray, scale: float) -> None:
    """Refuse an operator whose projection on the first block is not symmetric, or whose square overflows."""
    asymmetry = float(np.abs(projected - projected.T).max(initial=0.0))
    if asymmetry > 1e-3 * scale:
        raise ValueError(
            f"the operator is not symmetric: xᵀAy and yᵀAx differ by {asymmetry:.3g} (the size of A is {scale:.3g})"
        )
    if scale > _LARGEST:
        raise ValueError(f"the operator's size is {scale:.3g}; expected at most {_LARGEST:g} (scale it)")
