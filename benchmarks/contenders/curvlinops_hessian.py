"""curvlinops: ``HessianLinearOperator @ v`` with all samples in one mini-batch (written for 3.0.1).

Its check that data and model are deterministic runs once and is left out of the set-up (``check_deterministic=False``),
which is to its advantage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.contenders.base import Array, Product, missing
from benchmarks.contenders.torch_model import torch_model
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.hessian_problem import HessianProblem


class CurvlinopsHessian:
    """``curvlinops.HessianLinearOperator``."""

    name = "curvlinops"

    def available(self) -> str | None:
        """None where torch and curvlinops are installed."""
        return missing("torch", "'flatcore[torch]'") or missing("curvlinops", "curvlinops-for-pytorch==3.0.1")

    def prepare(self, problem: HessianProblem, stage: Stages) -> Product:
        """Set up a ``torch.nn.Sequential`` and the operator."""
        import torch
        from curvlinops import HessianLinearOperator

        with stage("model"):
            model, loss, data = torch_model(problem)
        with stage("operator"):
            H = HessianLinearOperator(model, loss, list(model.parameters()), [data], check_deterministic=False)

        def product(v: Array) -> Array:
            result: Array = (H @ torch.from_numpy(v)).detach().numpy()
            return result

        return product


CONTENDERS = {"Hessian product": (CurvlinopsHessian(),)}
