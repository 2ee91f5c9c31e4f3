"""flatcore's Hessian operator: partial products and the data's moments once, then 12·m·P flops a product."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flatcore as fc
from benchmarks.contenders.base import Array, Product
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.hessian_problem import HessianProblem


class FlatcoreHessian:
    """``flatcore.Hessian(chain, loss) @ v``."""

    name = "flatcore"

    def available(self) -> str | None:
        """Always: it is what is measured."""
        return None

    def prepare(self, problem: HessianProblem, stage: Stages) -> Product:
        """Set up the chain, the loss and the Hessian."""
        with stage("chain"):
            chain = fc.LinearChain(problem.weights)
        with stage("moments of the data"):
            loss = fc.QuadraticLoss(problem.inputs, problem.targets, reduction="mean")
        with stage("Hessian"):
            H = fc.Hessian(chain, loss)

        def product(v: Array) -> Array:
            result: Array = H @ v
            return result

        return product


CONTENDERS = {"Hessian product": (FlatcoreHessian(),), "kernel: Hessian product": (FlatcoreHessian(),)}
