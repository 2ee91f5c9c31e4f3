"""The same algorithm in PyTorch, batched: every matrix product is one ``bmm`` over a chunk of the chains.

Chains that have converged leave the chunk. Chunks are such that their vectors stay in the caches a while; the small
tridiagonal problems are solved for the whole chunk at once by vectorised recurrences, which is much faster than
``torch.linalg.eigh`` of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.contenders.base import Array, missing
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from benchmarks.many_problem import ManyAnswer, ManyProblem

CHUNK = 64  # chains; 8 to 1,024 were tried


class TorchBatched:
    """``torch.bmm`` over chunks of chains."""

    name = "torch batched, same algorithm"

    def __init__(self, chunk: int = CHUNK) -> None:
        self.chunk = chunk

    def available(self) -> str | None:
        """None where torch is installed."""
        return missing("torch", "'flatcore[torch]'")

    def prepare(self, problem: ManyProblem, stage: Stages) -> Callable[[Array], ManyAnswer]:
        """The loss's moments."""
        import torch

        with stage("moments of the data"):
            X, Y = (torch.from_numpy(A).double() for A in (problem.inputs, problem.targets))
            S, C = X.T @ X / len(X), Y.T @ X / len(X)

        def answer(weights: Array) -> ManyAnswer:
            generator = torch.Generator().manual_seed(0)
            parts = [
                _tops(torch.from_numpy(weights[:, first : first + self.chunk]), S, C, problem, generator)
                for first in range(0, weights.shape[1], self.chunk)
            ]
            values, residuals = zip(*parts, strict=True)
            return np.concatenate(values), np.concatenate(residuals)

        return answer


class BatchedNarrowEnd:
    """Partial products of a chunk of chains, and products in their precision; blocks run from the output down."""

    def __init__(self, W: list[Tensor], near: list[Tensor], far: list[Tensor], S2: Tensor) -> None:
        self.W, self.near, self.far, self.S2 = W, near, far, S2

    @classmethod
    def of(cls, weights: Tensor, S: Tensor, C: Tensor) -> BatchedNarrowEnd:
        """From weights (M, chunk, d, d)."""
        W = list(weights.flip(0))
        near = [W[0]]
        for A in W[1:]:
            near.append(near[-1] @ A)
        far = [2.0 * (near[-1] @ S - C)]
        for A in W[:0:-1]:
            far.insert(0, far[0] @ A.mT)
        return cls(W, near, far, 2.0 * S)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> BatchedNarrowEnd:
        """The same with every array of the chains changed."""
        lists = ([change(A) for A in arrays] for arrays in (self.W, self.near, self.far))
        return BatchedNarrowEnd(*lists, self.S2.to(change(self.W[0]).dtype))

    def product(self, D: Tensor, out: Tensor) -> None:
        """Out = HD, blocks (chunk, M, d, d)."""
        import torch

        depth = D.shape[1]
        down = [D[:, 0]]
        for s in range(1, depth):
            down.append(torch.bmm(self.near[s - 1], D[:, s]).baddbmm_(down[-1], self.W[s]))
        sigma = down[-1] @ self.S2
        for s in range(depth - 1, 0, -1):
            out[:, s] = torch.bmm(self.near[s - 1].mT, sigma).baddbmm_(down[s - 1].mT, self.far[s])
            sigma = torch.bmm(sigma, self.W[s].mT).baddbmm_(self.far[s], D[:, s].mT)
        out[:, 0] = sigma


def _tops(weights: Tensor, S: Tensor, C: Tensor, problem: ManyProblem, generator: Generator) -> tuple[Array, Array]:
    """Largest eigenvalues and residuals of a chunk."""
    import torch

    depth, chunk, d, _ = weights.shape
    exact = BatchedNarrowEnd.of(weights.double(), S, C)
    H = exact.mapped(lambda A: A.to(weights.dtype))
    q = torch.rand(chunk, depth * d * d, generator=generator, dtype=weights.dtype).mul_(2).sub_(1)
    basis = [q / torch.linalg.vector_norm(q, dim=1, keepdim=True)]
    alphas: list[Tensor] = []
    betas: list[Tensor] = []
    active = torch.arange(chunk)
    vectors = torch.empty_like(q)
    while True:
        q, w = basis[-1], torch.empty_like(basis[-1])
        H.product(q.view(-1, depth, d, d), w.view(-1, depth, d, d))
        alphas.append((q * w).sum(1, keepdim=True))
        w.addcmul_(alphas[-1], q, value=-1)
        if betas:
            w.addcmul_(betas[-1], basis[-2], value=-1)
        beta = torch.linalg.vector_norm(w, dim=1, keepdim=True)
        j = len(alphas)
        if j >= problem.steps and (j - problem.steps) % 2 == 0:
            a, b = (torch.cat(entries, 1).double().numpy().T for entries in (alphas, [*betas, beta]))
            theta, s = top_of_tridiagonal(a, b[:-1])
            done = torch.from_numpy(b[-1] * np.abs(s[-1]) <= 0.5 * problem.tol * np.abs(theta))
            coefficients = torch.from_numpy(s.T[done.numpy()]).to(q.dtype)
            vectors[active[done]] = torch.einsum("cj,jcp->cp", coefficients, torch.stack(basis)[:, done])
            if bool(done.all()):
                break
            if bool(done.any()):
                left = ~done
                active, beta, w = active[left], beta[left], w[left]
                H = H.mapped(lambda A, left=left: A[left])  # type: ignore[misc]
                basis, alphas, betas = ([A[left] for A in arrays] for arrays in (basis, alphas, betas))
        betas.append(beta)
        basis.append(w.div_(beta))
    x = vectors.double()
    x /= torch.linalg.vector_norm(x, dim=1, keepdim=True)
    Hx = torch.empty_like(x)
    exact.product(x.view(-1, depth, d, d), Hx.view(-1, depth, d, d))
    values = (x * Hx).sum(1, keepdim=True)
    residuals = torch.linalg.vector_norm(Hx - values * x, dim=1)
    return values[:, 0].numpy(), residuals.numpy()


def top_of_tridiagonal(a: Array, b: Array) -> tuple[Array, Array]:
    """Largest eigenvalues (c,) and unit eigenvectors (j, c) of c tridiagonal matrices: diagonals (j, c), (j − 1, c).

    Laguerre's method from above on det(x − T), all matrices at once; the vector from its last entry, 1/√d_j' with d_j
    the last pivot, upwards.
    """
    j = len(a)
    b2, edge = b * b, np.zeros((1, a.shape[1]))
    x = (a + np.concatenate([edge, b]) + np.concatenate([b, edge])).max(axis=0)
    pivots = np.empty_like(a)
    for _ in range(60):
        g = h = total_g = total_h = slope = edge[0]
        for i in range(j):
            r = b2[i - 1] / pivots[i - 1] if i else edge[0]
            pivots[i] = x - a[i] - r
            slope = 1.0 + r * g
            previous, g = g, slope / pivots[i]
            h = g * g + r * (previous * previous + h) / pivots[i]
            total_g, total_h = total_g + g, total_h + h
        step = j / (total_g + np.sqrt(np.maximum((j - 1.0) * (j * total_h - total_g**2), 0.0)))
        moving = step > 1e-12 * np.abs(x)  # the last step is not made: x stays above the spectrum, pivots positive
        if not moving.any():
            break
        x = x - np.where(moving, step, 0.0)
    s = np.empty_like(a)
    s[-1] = 1.0 / np.sqrt(slope)
    for i in range(j - 2, -1, -1):
        s[i] = b[i] * s[i + 1] / pivots[i]
    return x, s / np.linalg.norm(s, axis=0)


CONTENDERS = {"sharpness of many chains": (TorchBatched(),)}
