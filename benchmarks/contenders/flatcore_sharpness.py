"""flatcore's certified largest eigenvalues: true residuals, and a probe for what was missed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

import flatcore as fc
from benchmarks.contenders.base import Array
from benchmarks.eigen_problem import EigenAnswer
from benchmarks.timing import Stages
from flatcore.results import EigenResult
from flatcore.spectral import OperatorCost

if TYPE_CHECKING:
    from benchmarks.eigen_problem import EigenProblem
    from benchmarks.identity_problem import IdentityProblem


class FlatcoreSharpness:
    """``flatcore.sharpness(chain, loss, k, tol=…)``."""

    name = "flatcore"

    def available(self) -> str | None:
        """Always."""
        return None

    def prepare(self, problem: EigenProblem, stage: Stages) -> Callable[[int], EigenAnswer]:
        """Set up the chain and the loss; partial products belong to the call."""
        with stage("moments of the data"):
            loss = fc.QuadraticLoss(problem.hessian.inputs, problem.hessian.targets, reduction="mean")
        chain = fc.LinearChain(problem.hessian.weights)

        def answer(k: int) -> EigenAnswer:
            found = fc.sharpness(chain, loss, k, tol=problem.tol)
            return EigenAnswer(found.values, lambda: found.vectors)

        return answer


class FlatcoreCopies:
    """``flatcore.sharpness(chain, loss, k=12, seed=seed)`` for every seed, by the route that its cost model takes."""

    name = "flatcore"

    def values(self, chain: fc.LinearChain, loss: fc.QuadraticLoss, seed: int) -> Array:
        """As many eigenvalues as the chain is wide."""
        return fc.sharpness(chain, loss, chain.dims[0], seed=seed).values

    def available(self) -> str | None:
        """Always."""
        return None

    def prepare(self, problem: IdentityProblem, stage: Stages) -> Callable[[Array], Array]:
        """Set up the chain of identities."""
        width = problem.width
        chain = fc.LinearChain([np.eye(width)] * problem.depth)

        def answer(seeds: Array) -> Array:
            losses = (fc.QuadraticLoss(X, X) for X in problem.inputs)
            return np.stack([self.values(chain, loss, int(seed)) for loss, seed in zip(losses, seeds, strict=True)])

        return answer


class FlatcoreCopiesByBlocks(FlatcoreCopies):
    """``flatcore.eigsh`` on the Hessian: block Lanczos, the block as wide as the value is multiple."""

    name = "flatcore, block Lanczos on all parameters"

    def values(self, chain: fc.LinearChain, loss: fc.QuadraticLoss, seed: int) -> Array:
        """As many eigenvalues as the chain is wide."""
        return _values_by(chain.dims[0], fc.eigsh(fc.Hessian(chain, loss), chain.dims[0], seed=seed))


class FlatcoreCopiesByVectors(FlatcoreCopies):
    """The same where products are said to be dear: vector by vector, so that copies are left to the probe."""

    name = "flatcore, Lanczos vector by vector"

    def values(self, chain: fc.LinearChain, loss: fc.QuadraticLoss, seed: int) -> Array:
        """As many eigenvalues as the chain is wide."""
        return _values_by(1, fc.eigsh(_Dear(fc.Hessian(chain, loss)), chain.dims[0], seed=seed))


def _values_by(block: int, found: EigenResult) -> Array:
    if f"Block Lanczos, block {block}," not in found.method:
        raise RuntimeError(f"expected block Lanczos with blocks of {block}; came: {found.method}")
    return found.values


class _Dear:
    """An operator whose products of several vectors save nothing, and cost a gigaflop a vector."""

    cost = OperatorCost(shared_bytes=0.0, bytes_per_vector=0.0, flops_per_vector=1e9)

    def __init__(self, operator: fc.Hessian) -> None:
        self.operator, self.shape, self.dtype = operator, operator.shape, operator.dtype

    def __matmul__(self, vectors: Array) -> Array:
        return self.operator @ vectors


CONTENDERS = {
    "top eigenpairs": (FlatcoreSharpness(),),
    "copies": (FlatcoreCopies(), FlatcoreCopiesByBlocks(), FlatcoreCopiesByVectors()),
}
