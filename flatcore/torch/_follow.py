r"""Top eigenpairs of a matrix that changes a little from one measurement to the next, in few products.

A model B of the matrix is carried along: orthonormal rows U (m, P) with values Θ, B = UᵀΘU. When the matrix has become
H, the model says where to look, and each product makes it exact there:

1. multiply the model's best vectors that lie outside the span of S, all rows multiplied so far: images W = SH;
2. Rayleigh–Ritz on S: pairs (θ, x) with residuals r = Hx − θx, which W gives without a product;
3. scale: c = Σ xᵀHx / Σ xᵀBx over these pairs (curvature grows and shrinks as a whole while a network learns);
4. of all symmetric matrices that agree with H on S take the one nearest to cB in the Frobenius norm,

       B' = cB + RᵀS + SᵀR − Sᵀ(RSᵀ)S,      R = W − cSB,

   and go on with its best eigenvectors; stop where ‖r‖ ≤ tol·|θ₁|, unless B' still claims a larger eigenvalue.

For one pair B' moves x by Σ_i u_i (u_iᵀr)/(θ − cθ_i) + (I − UᵀU)r/θ + …: Davidson's correction, with the last
measurement's eigenpairs as the preconditioner, and all higher orders in the model. What stays in B afterwards are its m
best pairs.

Rows of S lie in the span of Q = [U, new rows], and so do their images once one row a product is appended to Q; beyond
products, Gram–Schmidt and one combination at the end everything is a small dense problem in Q's coordinates.

Following cannot see an eigenvalue that grows where the model holds nothing: certify now and then (`flatcore.eigsh`).

cost    p products, usually 1 to 3 a pair; 4·P·(m + p) flops beside each, 2·P·(m + p)² once; (m + p)·P numbers.
source  step 4 is Powell's symmetric secant update (1970) for several secants (Schnabel 1983); the iteration is a
        generalised Davidson method (Morgan & Scott 1986).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from flatcore._checks import FloatArray, check_count
from flatcore.spectral._lanczos import BlockLanczos, order_of
from flatcore.spectral._operator import Operator, check_symmetric
from flatcore.spectral._orthonormal import orthonormal_against
from flatcore.spectral._small import eigh
from flatcore.spectral._tolerance import checked_tol, seeds
from flatcore.spectral._vectors import BlockVectors

_COLD_STEPS = 300
_UNSEEN = 0.01  # of the tolerance: products may round that much, half precision does, and residuals hold all the same
_NEGLIGIBLE = 1e-4  # of a direction outside the span multiplied: rounding in float32 leaves it no meaning
_order = order_of("LA")


@dataclass(frozen=True)
class Followed:
    """Values descending with residual norms (k,), products spent, and whether the residuals meet the tolerance."""

    values: FloatArray
    residuals: FloatArray
    products: int
    converged: bool


class Follower:
    """Follows the k largest eigenpairs of a slowly changing symmetric operator.

    Parameters
    ----------
    k
        Number of pairs.
    tol
        Relative: ‖Hx − θx‖ ≤ tol·|θ₁|.
    keep
        Vectors of the model, at least k + 1. Memory is for these and for the products of one measurement.
    seed
        Of the random vectors that a cold start begins with.

    Examples
    --------
    >>> import numpy as np
    >>> from flatcore.torch._follow import Follower
    >>> A, E = np.diag(np.arange(60.0)), np.ones((60, 60))
    >>> follower = Follower(1, tol=1e-3)
    >>> cold, warm = follower.start(A), follower.follow(A + 0.01 * E)
    >>> bool(abs(warm.values[0] - np.linalg.eigvalsh(A + 0.01 * E)[-1]) < 1e-3), warm.products < cold.products / 4
    (True, True)

    """

    def __init__(self, k: int, *, tol: float = 1e-2, keep: int = 16, seed: int = 0) -> None:
        self.k = check_count("k", k)
        self.keep = check_count("keep", keep, k + 1)
        self.most = 4 * (k + 1)  # products after which following has lost the pairs
        self._tol, self._seed = tol, check_count("seed", seed, 0)
        self._home: BlockVectors | None = None
        self._Q: Any = None
        self._theta: FloatArray = np.zeros(0)

    @property
    def ready(self) -> bool:
        """Whether there is something to follow."""
        return len(self._theta) > 0

    @property
    def columns(self) -> Any:
        """The k best vectors (P, k), in their home: start vectors for `flatcore.eigsh`."""
        return self._Q[: min(self.k, len(self._theta))].T

    def start(self, operator: Any) -> Followed:
        """Cold start: plain Lanczos from a random vector until the k pairs converge; its Ritz pairs are the model."""
        wrapped, tol = self._wrapped(operator)
        home = self._home = wrapped.vectors(wrapped.dtype)
        capacity = min(home.length, max(self.keep + self.most, 3 * self.k + 16))
        self._Q = home.empty(capacity)
        process = BlockLanczos(
            wrapped, home, capacity=capacity, block=1, seeds=seeds(self._seed), storage=self._Q, noise=_UNSEEN * tol
        )
        while True:
            process.step()
            best = _order(process.values)[: self.k]
            residuals = process.residuals(best)
            done = process.exhausted or (len(best) == self.k and bool((residuals <= tol * process.scale).all()))
            if done or process.steps == _COLD_STEPS:
                break
            process.restart_if_full(_order, self.k)
        values, chosen = process.values, _order(process.values)[: self.keep]
        process.ritz_rows(chosen)
        self._theta = values[chosen]
        return Followed(values[best], residuals, wrapped.products, done)

    def follow(self, operator: Any) -> Followed:
        """The pairs of the matrix as it is now, from the model of what it was."""
        if self._home is None:
            raise ValueError("there is nothing to follow; expected start(operator) before")
        wrapped, tol = self._wrapped(operator)
        m = len(self._theta)
        self._orthonormalise()
        known = _Known(np.zeros((0, m)), np.zeros((0, m)))
        directions = np.eye(m)[: self.k]
        while True:
            known = self._multiplied(wrapped, known, directions)
            values, Y = _ritz(known, self.k, wrapped.dtype, tol)
            R = Y @ known.W - values[:, None] * (Y @ known.S)
            residuals = np.linalg.norm(R, axis=1)
            limit = tol * float(np.abs(values).max())
            converged = len(values) == self.k and bool((residuals <= limit).all())
            for scaled_by in (Y, None) if converged else (Y,):  # what rose beside a top that fell, unscaled claims tell
                claimed, vectors = known.best(self._theta, scaled_by)
                if missing := len(values) == self.k and bool(claimed[self.k - 1] > values[-1] + limit):
                    break
            wanted = max(int((residuals > limit).sum()), self.k - len(values), int(missing))
            directions = known.outside(vectors[:, : self.k].T, wanted)
            if len(directions) == 0:
                directions = known.outside(R, wanted)
            full = len(known.S) + len(directions) > self.most
            if full or len(directions) == 0:
                break
        if converged:
            claimed, vectors = known.best(self._theta, Y)
        self._keep(claimed, vectors)
        return Followed(values, residuals, wrapped.products, converged)

    def adopt(self, values: FloatArray, columns: Any) -> None:
        """Take over eigenpairs (k,), (P, k) that were found by other means: the model becomes exact on them."""
        if self._home is None:
            raise ValueError("there is no model; expected start(operator) before")
        home, m = self._home, len(self._theta)
        self._orthonormalise()
        rows = home.copy(home.columns("columns", columns).T)
        S = np.zeros((m, len(rows)))
        C, fresh = orthonormal_against(home, self._Q[:m], rows, S, 1.0)
        self._Q[m : m + len(fresh)] = fresh
        S = np.linalg.qr(np.vstack([S, C.T]))[0].T
        known = _Known(S, values[:, None] * S)
        self._keep(*known.best(self._theta))

    # -- internals ---------------------------------------------------------------------------------------------------

    def _wrapped(self, operator: Any) -> tuple[Operator, float]:
        wrapped = Operator(operator)
        if self._home is not None and wrapped.length != self._home.length:
            raise ValueError(f"operator has {wrapped.length} rows; expected {self._home.length}, as before")
        return wrapped, checked_tol(self._tol, wrapped.dtype)[0]

    def _orthonormalise(self) -> None:
        """The rows of U nearest to what rounding has left of them."""
        assert self._home is not None
        U = self._Q[: len(self._theta)]
        values, V = eigh(self._home.gram(U, U))
        self._home.combine(U, (V / np.sqrt(values)) @ V.T)

    def _multiplied(self, operator: Operator, known: _Known, directions: FloatArray) -> _Known:
        """Multiply the rows directions·Q, and append to Q what of their images is new."""
        home, q = self._home, known.S.shape[1]
        assert home is not None
        rows = home.empty(len(directions))
        rows[:] = 0.0
        home.update(rows, self._Q[:q], -directions.T)
        image = operator(rows)
        H = home.gram(self._Q[:q], image)
        if not np.isfinite(H).all():
            raise ValueError("the operator returned NaN or Inf")
        home.update(image, self._Q[:q], H)
        C, fresh = orthonormal_against(home, self._Q[:q], image, H, float(np.abs(H).max(initial=0.0)))
        self._Q[q : q + len(fresh)] = fresh
        return known.extended(directions, np.vstack([H, C.T]).T)

    def _keep(self, values: FloatArray, vectors: FloatArray) -> None:
        """The model's best pairs become the first rows of Q."""
        assert self._home is not None
        count = min(self.keep, len(values))
        self._home.combine(self._Q[: len(vectors)], vectors[:, :count])
        self._theta = values[:count]


def _ritz(known: _Known, k: int, dtype: np.dtype[Any], tol: float) -> tuple[FloatArray, FloatArray]:
    """The k largest Ritz values on S, descending, and rows Y with the Ritz vectors Y·S."""
    T = known.S @ known.W.T
    check_symmetric(float(np.abs(T - T.T).max()), float(np.abs(T).max()), dtype, _UNSEEN * tol)
    values, vectors = eigh((T + T.T) / 2)
    return values[::-1][:k], vectors[:, ::-1][:, :k].T


@dataclass(frozen=True)
class _Known:
    """Rows S that were multiplied and their images W, in the coordinates of Q: (s, q) each, S orthonormal."""

    S: FloatArray
    W: FloatArray

    def extended(self, S: FloatArray, W: FloatArray) -> _Known:
        """More rows; Q may have grown."""
        q = W.shape[1]
        pad = [np.pad(A, ((0, 0), (0, q - A.shape[1]))) for A in (self.S, S, self.W)]
        return _Known(np.vstack(pad[:2]), np.vstack([pad[2], W]))

    def model(self, theta: FloatArray, Y: FloatArray | None = None) -> FloatArray:
        """B' of the header in Q's coordinates, from values of the first rows of Q.

        Scaled by what the Ritz vectors Y·S tell where these lie in the model for the most part, else as it is.
        """
        m, q = len(theta), self.S.shape[1]
        B = np.diag(np.pad(theta, (0, q - m)))
        if Y is not None:
            X = Y @ self.S
            new, old = float(np.sum(X * (Y @ self.W))), float(np.sum(X * (X @ B)))
            if new > 0.0 and old > 0.0 and float(np.sum(X[:, :m] ** 2)) > 0.5 * len(X):
                B *= new / old
        R = self.W - self.S @ B
        M = B + R.T @ self.S + self.S.T @ R - self.S.T @ (R @ self.S.T) @ self.S
        return np.asarray((M + M.T) / 2)

    def best(self, theta: FloatArray, Y: FloatArray | None = None) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues of the model, descending, and eigenvectors (columns)."""
        values, vectors = eigh(self.model(theta, Y))
        return values[::-1], vectors[:, ::-1]

    def outside(self, rows: FloatArray, most: int) -> FloatArray:
        """At most so many orthonormal rows for what the rows have outside the span of S, the largest first."""
        left = rows - (rows @ self.S.T) @ self.S
        size = float(np.linalg.norm(rows, axis=1).max(initial=0.0))
        _, s, Vt = np.linalg.svd(left, full_matrices=False)
        Vt = Vt[s > _NEGLIGIBLE * size][:most]
        Vt = Vt - (Vt @ self.S.T) @ self.S
        return np.asarray(np.linalg.qr(Vt.T)[0].T)
