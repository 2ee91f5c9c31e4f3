"""The same algorithm in NumPy, a Python loop over the chains: narrow-end products, Lanczos, residual in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh_tridiagonal

from benchmarks.contenders.base import Array
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.many_problem import ManyAnswer, ManyProblem


class NumpyLoop:
    """One chain after the other; matrix products by NumPy's BLAS, results written in place."""

    name = "NumPy loop, same algorithm"

    def available(self) -> str | None:
        """Always."""
        return None

    def prepare(self, problem: ManyProblem, stage: Stages) -> Callable[[Array], ManyAnswer]:
        """The loss's moments."""
        with stage("moments of the data"):
            X, Y = problem.inputs.astype(np.float64), problem.targets.astype(np.float64)
            S, C = X.T @ X / len(X), Y.T @ X / len(X)

        def answer(weights: Array) -> ManyAnswer:
            rng = np.random.default_rng(0)
            found = [_top(weights[:, i], S, C, problem, rng) for i in range(weights.shape[1])]
            values, residuals = np.array(found).T
            return values, residuals

        return answer


class NarrowEnd:
    """Partial products A_j and A_j's mirror b_j = B_jGᵀ of one chain, and products in their precision."""

    def __init__(self, weights: Array, S: Array, C: Array) -> None:
        self.W = weights[::-1]  # from the output down
        self.near = [self.W[0]]
        for W in self.W[1:]:
            self.near.append(self.near[-1] @ W)
        self.S2 = 2.0 * S
        self.far = [self.near[-1] @ self.S2 - 2.0 * C]
        for W in self.W[:0:-1]:
            self.far.insert(0, self.far[0] @ W.T)
        self.down = [np.empty_like(W) for W in self.W]
        self.spare = np.empty_like(self.W[0])

    def rounded(self) -> NarrowEnd:
        """The same in float32."""
        out = NarrowEnd.__new__(NarrowEnd)
        out.W, out.S2 = self.W.astype(np.float32), self.S2.astype(np.float32)
        out.near, out.far = ([A.astype(np.float32) for A in m] for m in (self.near, self.far))
        out.down, out.spare = [np.empty_like(W) for W in out.W], np.empty_like(out.W[0])
        return out

    def product(self, D: Array, out: Array) -> None:
        """Out = HD, blocks (M, d, d) from the output down."""
        down, spare = self.down, self.spare
        down[0] = D[0]
        for s in range(1, len(D)):
            np.matmul(self.near[s - 1], D[s], out=down[s])
            down[s] += np.matmul(down[s - 1], self.W[s], out=spare)
        sigma = down[-1] @ self.S2
        for s in range(len(D) - 1, 0, -1):
            np.matmul(self.near[s - 1].T, sigma, out=out[s])
            out[s] += np.matmul(down[s - 1].T, self.far[s], out=spare)
            sigma = sigma @ self.W[s].T
            sigma += np.matmul(self.far[s], D[s].T, out=spare)
        out[0] = sigma


def _top(weights: Array, S: Array, C: Array, problem: ManyProblem, rng: np.random.Generator) -> tuple[float, float]:
    """The largest eigenvalue and its residual."""
    exact = NarrowEnd(weights.astype(np.float64), S, C)
    H = exact.rounded() if weights.dtype == np.float32 else exact
    shape = (weights.shape[0], *weights.shape[1:])
    q = rng.uniform(-1.0, 1.0, weights.size).astype(weights.dtype)
    basis = [q / np.linalg.norm(q)]
    alphas: list[float] = []
    betas: list[float] = []
    while True:
        q, w = basis[-1], np.empty_like(basis[-1])
        H.product(q.reshape(shape), w.reshape(shape))
        alphas.append(float(q @ w))
        w -= np.float32(alphas[-1]) * q
        if betas:
            w -= np.float32(betas[-1]) * basis[-2]
        beta = float(np.linalg.norm(w))
        j = len(alphas)
        if j >= problem.steps and (j - problem.steps) % 2 == 0:
            theta, s = eigh_tridiagonal(alphas, betas, select="i", select_range=(j - 1, j - 1))
            if beta * abs(s[-1, 0]) <= 0.5 * problem.tol * abs(theta[0]):
                break
        betas.append(beta)
        w /= np.float32(beta)
        basis.append(w)
    x = (s[:, 0].astype(weights.dtype) @ np.array(basis)).astype(np.float64)
    x /= np.linalg.norm(x)
    Hx = np.empty_like(x)
    exact.product(x.reshape(shape), Hx.reshape(shape))
    value = float(x @ Hx)
    return value, float(np.linalg.norm(Hx - value * x))


CONTENDERS = {"sharpness of many chains": (NumpyLoop(),)}
