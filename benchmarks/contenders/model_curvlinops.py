"""curvlinops' operators for any model: Hessian, Gauss–Newton, empirical and sampled Fisher (written for 3.0.1).

All samples are one mini-batch. Its check that data and model are deterministic is left out of the set-up, to its
advantage. It vectorises over the columns of a block itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.contenders.base import Array, Product, missing
from benchmarks.contenders.model_torch import CURVATURES, load_for
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.model_problem import ModelProblem

OPERATORS = {
    "hessian": "HessianLinearOperator",
    "ggn": "GGNLinearOperator",
    "fisher_mc": "FisherMCLinearOperator",
    "fisher_empirical": "EFLinearOperator",
}


class CurvlinopsModel:
    """``curvlinops.HessianLinearOperator`` and its siblings."""

    name = "curvlinops"

    def available(self) -> str | None:
        """None where torch and curvlinops are installed."""
        return missing("torch", "'flatcore[torch]'") or missing("curvlinops", "curvlinops-for-pytorch==3.0.1")

    def load(self, problem: ModelProblem) -> None:
        """Import it, and what it imports when it first runs."""
        load_for(self, problem)

    def prepare(self, problem: ModelProblem, stage: Stages) -> Product:
        """The operator."""
        import curvlinops
        import torch

        with stage("operator"):
            operator = getattr(curvlinops, OPERATORS[problem.curvature])
            parameters = list(problem.model.parameters())
            C = operator(problem.model, problem.loss, parameters, [problem.data], check_deterministic=False)

        def product(v: Array) -> Array:
            result: Array = (C @ torch.from_numpy(v)).detach().numpy()
            return result

        return product


CONTENDERS = {f"model {curvature}": (CurvlinopsModel(),) for curvature in CURVATURES}
