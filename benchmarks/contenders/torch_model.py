"""A problem as PyTorch libraries want it: a ``Sequential`` of ``Linear`` layers, a loss module, one batch.

The squared error is written plainly, as ``torch.func.jvp`` of ``MSELoss`` raises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from benchmarks.hessian_problem import HessianProblem


def torch_model(problem: HessianProblem) -> tuple[nn.Sequential, nn.Module, tuple[Tensor, Tensor]]:
    """Model, mean squared error, and (inputs, targets), sharing the problem's memory."""
    import torch

    class SquaredError(torch.nn.Module):
        reduction = "mean"

        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return (outputs - targets).square().mean()

    layers = [torch.nn.Linear(W.shape[1], W.shape[0], bias=False, device="meta") for W in problem.weights]
    for layer, W in zip(layers, problem.weights, strict=True):
        layer.weight = torch.nn.Parameter(torch.from_numpy(W))
    return (
        torch.nn.Sequential(*layers),
        SquaredError(),
        (
            torch.from_numpy(problem.inputs),
            torch.from_numpy(problem.targets),
        ),
    )
