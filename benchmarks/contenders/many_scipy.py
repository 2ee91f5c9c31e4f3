"""SciPy's ``eigsh`` on products by PyTorch's automatic differentiation, the gradient's graph kept, chain by chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from benchmarks.contenders.base import Array, missing
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.many_problem import ManyAnswer, ManyProblem


class ScipyOnAutograd:
    """A loop over the chains."""

    name = "SciPy eigsh on torch double backward"

    def available(self) -> str | None:
        """None where torch is installed."""
        return missing("torch", "'flatcore[torch]'")

    def prepare(self, problem: ManyProblem, stage: Stages) -> Callable[[Array], ManyAnswer]:
        """Nothing is done once."""

        def answer(weights: Array) -> ManyAnswer:
            found = [eigenvalue_by_autograd(problem, i, problem.dtype, problem.tol) for i in range(weights.shape[1])]
            values, residuals = np.array(found).T
            return values, residuals

        return answer


def eigenvalue_by_autograd(problem: ManyProblem, chain: int, dtype: str, tol: float) -> tuple[float, float]:
    """The largest eigenvalue of one chain and its residual."""
    import torch

    X, Y = (torch.from_numpy(A.astype(dtype)) for A in (problem.inputs, problem.targets))
    parameters = [torch.from_numpy(W.astype(dtype)).requires_grad_() for W in problem.weights[:, chain]]
    shapes = [W.shape for W in parameters]
    outputs = X
    for W in parameters:
        outputs = torch.nn.functional.linear(outputs, W)
    loss = (outputs - Y).square().sum() / len(X)
    gradient = torch.autograd.grad(loss, parameters, create_graph=True)
    sizes = [W.numel() for W in parameters]

    def product(v: Array) -> Array:
        blocks = torch.from_numpy(np.ascontiguousarray(v.reshape(-1), dtype=dtype)).split(sizes)
        directions = [block.view(shape) for block, shape in zip(blocks, shapes, strict=True)]
        image = torch.autograd.grad(gradient, parameters, grad_outputs=directions, retain_graph=True)
        out: Array = torch.cat([block.reshape(-1) for block in image]).numpy()
        return out

    P = sum(sizes)
    values, vectors = eigsh(LinearOperator((P, P), matvec=product, dtype=np.dtype(dtype)), 1, which="LA", tol=tol)
    residual = np.linalg.norm(product(vectors[:, 0]) - values[0] * vectors[:, 0])
    return float(values[0]), float(residual)


CONTENDERS = {"sharpness of few chains": (ScipyOnAutograd(),)}
