"""flatcore's certified largest eigenvalues: true residuals, and a probe for what was missed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

import flatcore as fc
from benchmarks.contenders.base import Array
from benchmarks.eigen_problem import EigenAnswer
from benchmarks.timing import Stages

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
    """``flatcore.sharpness(chain, loss, k=12, seed=seed)`` for every seed."""

    name = "flatcore"

    def available(self) -> str | None:
        """Always."""
        return None

    def prepare(self, problem: IdentityProblem, stage: Stages) -> Callable[[Array], Array]:
        """Set up the chain of identities."""
        width = problem.width
        chain = fc.LinearChain([np.eye(width)] * problem.depth)

        def answer(seeds: Array) -> Array:
            losses = (fc.QuadraticLoss(X, X) for X in problem.inputs)
            return np.stack(
                [
                    fc.sharpness(chain, loss, width, seed=int(seed)).values
                    for loss, seed in zip(losses, seeds, strict=True)
                ]
            )

        return answer


CONTENDERS = {"top eigenpairs": (FlatcoreSharpness(),), "copies": (FlatcoreCopies(),)}
