r"""Block Lanczos with thick restart: the control loop, whatever the vectors' home.

The basis holds orthonormal rows: first vectors that are locked (deflated), then the active ones, the last block of
which (the *front*) is the one to be multiplied. One step multiplies the front F:

    A F = V H + Q C,      V: all rows so far,   H = VᵀAF,   Q: the next front.

Two Gram–Schmidt passes make Q orthogonal to V to rounding however small it was. The recurrence knows which rows of H
are not zero up to rounding: those of the front itself, of the front before it (H = Cᵀ there), and after a restart those
of all vectors kept. The first pass needs only these rows and leaves what classical Gram–Schmidt against the whole basis
would leave; the second one goes over the whole basis. What it still finds is added to H, so that T = VᵀAV holds every
entry. Rows that shrink in the second pass get more passes.

The Gram matrix after the second pass follows from the one before it, and Q is the orthonormal block nearest to the
scaled rows: one combination with the inverse root of their scaled Gram matrix, where that is well conditioned. An
ill-conditioned block is normalised between the passes as well, and one that may be rank-deficient is rotated first, its
norms measured afterwards, and what is rounding dropped: a Gram matrix is never inverted unrepaired. Where Q C loses
rank (the Krylov space is exhausted: exact multiplicities), the missing rows of Q are fresh random orthogonal vectors
with zero coefficients.

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
from flatcore.spectral._small import eigh
from flatcore.spectral._vectors import BlockVectors

_MOST_PASSES = 4
_LONG = 0.5  # what is left of a unit row that was orthogonal up to a small error
_UNTOUCHED = 0.99  # and of its square, where a single pass is enough: coefficients h leave h·‖VᵀV − I‖
_CONDITION = 1e-3  # smallest eigenvalue of a scaled Gram matrix that is inverted before another pass
_WELL_CONDITIONED = 0.3  # and before none: its inverse root enlarges what is left of known rows by less than 2
_TINY = 1e-150  # norms whose squares would vanish

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
        self._image = image
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
        C, W = self._orthonormal_against(known, W, H)
        self._scale = max(self._scale, float(np.abs(C).max(initial=0.0)))
        self._check_symmetric(H[self.locked :], first - self.locked)
        self._multiplied = rows - self.locked
        self._extend_projection(H[self.locked :], first - self.locked)
        missing = min(self.block, self._vectors.length - rows) - len(W)
        self._front = self._with_random(W, known, missing)
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
        return np.concatenate([given, self._apply(front[len(given) :])])

    def _orthonormal_against(self, known: Any, W: Any, H: FloatArray) -> tuple[FloatArray, Any]:
        """C, Q with W = C Q after passes against `known`, whose coefficients are added to H.

        One pass is all that well-conditioned rows need, which it leaves long: their Gram matrix afterwards is known
        from the one before (Pythagoras, without cancellation then), and one combination makes them orthonormal.
        """
        before, left, again = self._pass(known, W)
        H += again
        least = self._least(self._scale, float(before.max(initial=0.0)))
        if (left.diagonal() > np.maximum(least**2, _UNTOUCHED * before)).all():
            inverse = _inverse_root(left, _WELL_CONDITIONED)
            if inverse is not None:
                self._vectors.combine(W, inverse[0])
                return inverse[1], W
        return self._carefully_orthonormal(known, W, H)

    def _pass(self, known: Any, W: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
        """One Gram–Schmidt pass: squared norms before it, the Gram matrix after it, and the coefficients."""
        again, G = self._vectors.gram(known, W), self._vectors.gram(W, W)
        self._vectors.update(W, known, again)
        return G.diagonal(), G - again.T @ again, again

    def _carefully_orthonormal(self, known: Any, W: Any, H: FloatArray) -> tuple[FloatArray, Any]:
        """As `_orthonormal_against`: normalised rows, and passes until these stay long.

        Rows that go on shrinking were rounding of the operator's scale: they drop out.
        """
        C, W, norms = self._normalised(W, relative_to=self._scale)
        for _ in range(_MOST_PASSES):
            if len(W) == 0:
                break
            _, left, again = self._pass(known, W)
            H += again @ C.T
            inverse = _inverse_root(left, _WELL_CONDITIONED) if left.diagonal().min() > _LONG**2 else None
            if inverse is not None:
                self._vectors.combine(W, inverse[0])
                return C @ inverse[1], W
            C2, W, norms = self._normalised(W, relative_to=0.0)
            C = C @ C2
        long = norms > _LONG
        self._vectors.combine(W, np.eye(len(W))[:, long])
        return C[:, long], W[: int(long.sum())]

    def _normalised(self, W: Any, relative_to: float) -> tuple[FloatArray, Any, FloatArray]:
        """C, Q with W = C Q, Q nearly orthonormal, and norms; what is below the rounding of `relative_to` drops out."""
        if len(W) == 0:
            return np.zeros((0, 0)), W, np.zeros(0)
        G = self._vectors.gram(W, W)
        if not np.isfinite(G).all():
            raise ValueError("the squares of the operator's products overflow; scale it")
        squares = G.diagonal()
        least = self._least(relative_to, squares.max())
        inverse = _inverse_root(G, _CONDITION) if squares.min() > least**2 else None
        if inverse is None:
            return self._rotated(W, G, relative_to)
        self._vectors.combine(W, inverse[0])
        return inverse[1], W, np.sqrt(squares)

    def _rotated(self, W: Any, G: FloatArray, relative_to: float) -> tuple[FloatArray, Any, FloatArray]:
        """As `_normalised`, for rows that may be dependent or rounding alone.

        W is rotated to the eigenvectors of its Gram matrix and its norms are measured afterwards: the Gram matrix's own
        eigenvalues are noise below eps times the largest. A second call makes the rows orthonormal to rounding.
        """
        _, U = eigh((G + G.T) / 2)
        self._vectors.combine(W, U)
        norms = np.sqrt(np.diag(self._vectors.gram(W, W)))
        kept = norms > self._least(relative_to, float(norms.max()) ** 2)
        self._vectors.combine(W, np.eye(len(W))[:, kept] / norms[kept])
        return U[:, kept] * norms[kept], W[: int(kept.sum())], norms[kept]

    def _least(self, relative_to: float, largest_square: float) -> float:
        """Norms at most this are rounding of `relative_to`, or of the largest row."""
        eps = float(np.finfo(self._vectors.dtype).eps)
        return float(max(4.0 * eps * relative_to, 10.0 * eps * np.sqrt(largest_square), _TINY))

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
        check_symmetric(asymmetry, self._scale, self._vectors.dtype)

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
                _, rows, _ = self._normalised(rows, relative_to=0.0)
        return self._with_random(rows, known, max(0, self.block - len(rows)))

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


def _inverse_root(G: FloatArray, least: float) -> tuple[FloatArray, FloatArray] | None:
    """M, C with MᵀGM = I and CᵀM = I, from S = D⁻¹GD⁻¹ with unit diagonal; None where an eigenvalue is below `least`.

    M = D⁻¹S^{−1/2} and C = D S^{1/2}: the rows MᵀW are the orthonormal ones nearest to D⁻¹W, and W = C (MᵀW).
    """
    d = np.sqrt(G.diagonal())
    S = G / np.outer(d, d)
    values, U = eigh((S + S.T) / 2)
    if values[0] < least:
        return None
    roots = np.sqrt(values)  # evd: the vectors of MRRR lose orthogonality among nearly equal eigenvalues
    return (U / roots) @ U.T / d[:, None], d[:, None] * ((U * roots) @ U.T)
