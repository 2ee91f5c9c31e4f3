"""curvlinops: ``HessianLinearOperator @ v`` with all samples in one mini-batch (written for 3.0.1).

Its check that data and model are deterministic runs once and is left out of the set-up (``check_deterministic=False``),
which is to its advantage. The loss is a squared error written plainly, for the reason given in ``torch_hessian``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.contenders.base import Array, Product, missing
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

        class SquaredError(torch.nn.Module):
            reduction = "mean"

            def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
                return (outputs - targets).square().mean()

        with stage("model"):
            layers = [torch.nn.Linear(W.shape[1], W.shape[0], bias=False, device="meta") for W in problem.weights]
            for layer, W in zip(layers, problem.weights, strict=True):
                layer.weight = torch.nn.Parameter(torch.from_numpy(W))
            model = torch.nn.Sequential(*layers)
            data = [(torch.from_numpy(problem.inputs), torch.from_numpy(problem.targets))]
        with stage("operator"):
            H = HessianLinearOperator(model, SquaredError(), list(model.parameters()), data, check_deterministic=False)

        def product(v: Array) -> Array:
            result: Array = (H @ torch.from_numpy(v)).detach().numpy()
            return result

        return product
