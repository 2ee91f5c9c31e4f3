r"""Block Lanczos with thick restart: the control loop, whatever the vectors' home.

The basis holds orthonormal rows: first vectors that are locked (deflated), then the active ones, the last block of
which (the *front*) is the one to be multiplied. One step multiplies the front F:

    A F = V H + Q C,      V: all rows so far,   H = VᵀAF,   Q: the next front.

Two Gram–Schmidt passes make Q orthogonal to V to rounding however small it was. The recurrence knows which rows of H
are not zero up to rounding: those of the front itself, of the front before it (H = Cᵀ there), and after a restart those
of all vectors kept. The first pass needs only these rows and leaves what classical Gram–Schmidt against the whole basis
would leave; the second one goes over the whole basis. What it still finds is added to H, so that T = VᵀAV holds every
entry. Rows that shrink in the second pass get more passes.

How a block becomes orthonormal is in ``_orthonormal.py``. Where Q C loses rank (the Krylov space is exhausted: exact
multiplicities), the missing rows of Q are fresh random orthogonal vectors with zero coefficients.

The recurrence's prediction of H is a symmetry check that costs nothing: xᵀAy was seen one step before yᵀAx.

Ritz pairs (θ, Vy) of T have residuals ‖C y_front‖. They are computed when asked for: the small eigenproblem costs as
much as many orthogonalisations of short vectors. When the basis is full the best Ritz vectors are kept (thick restart,
Wu & Simon 2000): T becomes diagonal, coupled to Q by C y_front. Converged Ritz vectors stay among those kept (soft
locking): locking them away would save nothing, since every new vector must be orthogonal to them all the same, and
kept they go on improving. Only what an earlier process found is locked.

cost of a step: one block product; 4·N·b flops and two reads for each of the c rows in the basis (half of classical
Gram–Schmidt twice), and as much for two or three blocks; per restart 2·N·c·kept flops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from flatcore._checks import FloatArray
from flatcore.spectral._operator import check_symmetric
from flatcore.spectral._orthonormal import normalised, orthonormal_against, with_random
from flatcore.spectral._small import eigh
from flatcore.spectral._vectors import BlockVectors

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
        Rows (b, N) → rows (b, N), the symmetric operator; what it returns is overwritten.
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
    storage
        Rows to work in, at least locked + capacity of them, the locked ones first and in place; None allocates.
    image
        The operator's products with the rows of `start`, which are then taken for orthonormal.
    noise
        Relative rounding of the products, where it is more than the precision's: no asymmetry.

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
        storage: Any | None = None,
        image: Any | None = None,
        noise: float = 0.0,
    ) -> None:
        self._apply, self._vectors, self._seeds = apply, vectors, seeds
        self.locked = 0 if locked is None else len(locked)
        self.capacity = min(capacity, vectors.length - self.locked)
        self.block = min(block, self.capacity)
        self._basis = vectors.empty(self.locked + self.capacity) if storage is None else storage
        if locked is not None and storage is None:
            self._basis[: self.locked] = locked
        self._T = np.zeros((self.capacity, self.capacity))
        self._multiplied = 0  # active rows whose products are in T
        self._image, self._noise = image, noise
        self._front = self._orthonormal_start(start)
        self.block = max(self.block, len(self._front))
        self._near = 0  # first active row that the recurrence couples to the front
        self._coupling = np.zeros((0, len(self._front)))  # and how
        self._last, self._C = slice(0, 0), np.zeros((0, 0))  # the last front's rows, and its coupling to the new one
        self._scale = scale
        self._low, self._high = np.inf, -np.inf
        self.steps = 0
        self._solved = True  # whether the Ritz pairs are those of T
        self._values, self._ritz = np.zeros(0), np.zeros((0, 0))
        self._tail = np.zeros((0, 0))  # C y_front of every Ritz vector

    @property
    def exhausted(self) -> bool:
        """Whether the basis spans the whole space orthogonal to the locked rows."""
        return len(self._front) == 0

    @property
    def full(self) -> bool:
        """Whether the next front has no room."""
        return self._multiplied + len(self._front) > self.capacity

    @property
    def rows(self) -> int:
        """Active rows that were multiplied: as many Ritz pairs exist."""
        return self._multiplied

    @property
    def values(self) -> FloatArray:
        """Ritz values after the last step, ascending."""
        self._solve()
        return self._values

    @property
    def low(self) -> float:
        """The smallest Ritz value seen."""
        self._solve()
        return self._low

    @property
    def high(self) -> float:
        """The largest Ritz value seen."""
        self._solve()
        return self._high

    @property
    def scale(self) -> float:
        """The largest modulus seen of a Ritz value, or of an entry of T."""
        self._solve()
        return self._scale

    def step(self) -> None:
        """Multiply the front and extend the basis by it."""
        first = self.locked + self._multiplied
        rows = first + len(self._front)
        known, front = self._basis[:rows], self._basis[first:rows]
        front[:] = self._front
        self._front = None  # its memory is free while the operator works
        W = self._first_image(front)
        near = self.locked + self._near if self.steps else 0
        H = np.zeros((rows, len(front)))
        H[near:] = self._vectors.gram(known[near:], W)
        if not np.isfinite(H).all():
            raise ValueError("the operator returned NaN or Inf")
        self._scale = max(self._scale, float(np.abs(H).max(initial=0.0)))
        self._vectors.update(W, known[near:], H[near:])
        C, W = orthonormal_against(self._vectors, known, W, H, self._scale)
        self._scale = max(self._scale, float(np.abs(C).max(initial=0.0)))
        self._check_symmetric(H[self.locked :], first - self.locked)
        self._multiplied = rows - self.locked
        self._extend_projection(H[self.locked :], first - self.locked)
        missing = min(self.block, self._vectors.length - rows) - len(W)
        self._front = with_random(self._vectors, W, known, missing, self._seeds)
        self._last, self._C = slice(first - self.locked, self._multiplied), C
        self._couple(self._last.start, C)
        self._solved = False
        self.steps += 1

    def restart_if_full(self, order: Order, wanted: int) -> None:
        """Keep the best Ritz vectors where the next front has no room."""
        if not self.full:
            return
        self._solve()
        most = min(self._multiplied, self.capacity) - self.block
        keep = min(max(wanted + self.block, (11 * self.capacity) // 20), most)
        chosen = order(self._values)[:keep]
        active = self._basis[self.locked : self.locked + self._multiplied]
        self._vectors.combine(active, self._ritz[:, chosen])
        self._T[:] = 0.0
        self._T[np.arange(keep), np.arange(keep)] = self._values[chosen]
        self._multiplied = keep
        self._couple(0, self._tail[:, chosen].T)

    def residuals(self, indices: FloatArray) -> FloatArray:
        """Residual norms of Ritz pairs by the recurrence."""
        self._solve()
        return np.asarray(np.linalg.norm(self._tail[:, indices], axis=0))

    def ritz_rows(self, indices: FloatArray) -> Any:
        """Ritz vectors as rows, in the basis's own memory; the process cannot go on afterwards."""
        self._solve()
        active = self._basis[self.locked : self.locked + self._multiplied]
        self._vectors.combine(active, self._ritz[:, indices])
        return active[: len(indices)]

    # -- internals ---------------------------------------------------------------------------------------------------

    def _first_image(self, front: Any) -> Any:
        """A F; in the first step the products with start vectors may be known."""
        given, self._image = self._image, None
        if given is None:
            return self._apply(front)
        if len(given) == len(front):
            return given
        image = self._vectors.empty(len(front))
        image[: len(given)] = given
        image[len(given) :] = self._apply(front[len(given) :])
        return image

    def _couple(self, near: int, C: FloatArray) -> None:
        """Active rows from `near` on have the coefficients C with the new front; rows of chance have none."""
        self._near = near
        self._coupling = np.zeros((len(C), len(self._front)))
        self._coupling[:, : C.shape[1]] = C

    def _check_symmetric(self, H: FloatArray, first: int) -> None:
        """Compare H with what the recurrence predicts of a symmetric operator."""
        front = H[first:]
        asymmetry = float(np.abs(front - front.T).max(initial=0.0))
        if self.steps:
            H = H[:first].copy()
            H[self._near :] -= self._coupling
            asymmetry = max(asymmetry, float(np.abs(H).max(initial=0.0)))
        check_symmetric(asymmetry, self._scale, self._vectors.dtype, self._noise)

    def _extend_projection(self, H: FloatArray, first: int) -> None:
        rows = len(H)
        self._T[:rows, first:rows] = H
        self._T[first:rows, :rows] = H.T
        self._T[first:rows, first:rows] = (H[first:] + H[first:].T) / 2

    def _solve(self) -> None:
        """Rayleigh–Ritz on the basis, where it has grown since."""
        if self._solved:
            return
        rows = self._multiplied
        self._values, self._ritz = eigh(self._T[:rows, :rows])
        self._tail = self._C.T @ self._ritz[self._last]
        self._low, self._high = min(self._low, float(self._values[0])), max(self._high, float(self._values[-1]))
        self._scale = max(self._scale, abs(self._low), abs(self._high))
        self._solved = True

    def _orthonormal_start(self, start: Any | None) -> Any:
        known = self._basis[: self.locked]
        rows = self._vectors.empty(0 if start is None else len(start))
        if start is not None:
            rows[:] = start
            for _ in range(2 if self._image is None else 0):
                self._vectors.update(rows, known, self._vectors.gram(known, rows))
                _, rows, _ = normalised(self._vectors, rows, relative_to=0.0)
        return with_random(self._vectors, rows, known, max(0, self.block - len(rows)), self._seeds)
