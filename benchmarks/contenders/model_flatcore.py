"""flatcore's curvature of any PyTorch model: linearised once, then products alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import flatcore as fc
from benchmarks.contenders.base import Array, Product, lacking, missing
from benchmarks.contenders.model_torch import CURVATURES, load_for
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.model_problem import ModelProblem


class FlatcoreModel:
    """``flatcore.torch.Hessian(model, loss, data, curvature=…) @ v``."""

    name = "flatcore"

    def available(self) -> str | None:
        """None where torch is installed and flatcore has it."""
        return missing("torch", "'flatcore[torch]'") or lacking(fc, "torch") or lacking(fc.torch, "Hessian")

    def load(self, problem: ModelProblem) -> None:
        """As for the others."""
        load_for(self, problem)

    def prepare(self, problem: ModelProblem, stage: Stages) -> Product:
        """The operator, its checks of model and loss included."""
        with stage("operator"):
            C = fc.torch.Hessian(problem.model, problem.loss, problem.data, curvature=problem.curvature)

        def product(v: Array) -> Array:
            result: Array = C @ v
            return result

        return product


CONTENDERS = {f"model {curvature}": (FlatcoreModel(),) for curvature in CURVATURES}
