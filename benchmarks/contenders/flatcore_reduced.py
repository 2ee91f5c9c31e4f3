"""flatcore's reduced Hessian: the same nonzero eigenpairs in N ≪ P coordinates, 4·m·P flops a product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flatcore as fc
from benchmarks.contenders.base import lacking
from benchmarks.reduced_problem import ReducedAnswer, ReducedCall
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.reduced_problem import ReducedProblem


class FlatcoreReduced:
    """``flatcore.Hessian(chain, loss).reduced() @ z``."""

    name = "flatcore"

    def available(self) -> str | None:
        """None where flatcore has it."""
        return lacking(fc.Hessian, "reduced")

    def prepare(self, problem: ReducedProblem, stage: Stages) -> ReducedCall:
        """Set up the operator and the argument's coordinates."""
        with stage("moments of the data"):
            loss = fc.QuadraticLoss(problem.full.inputs, problem.full.targets, reduction="mean")
        with stage("reduced Hessian"):
            R = fc.Hessian(fc.LinearChain(problem.full.weights), loss).reduced()
        with stage("coordinates"):
            z = R.project(problem.argument)
        return lambda _: ReducedAnswer(R.lift, z, R @ z)


CONTENDERS = {"reduced product": (FlatcoreReduced(),), "kernel: reduced product": (FlatcoreReduced(),)}
