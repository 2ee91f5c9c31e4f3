"""PyTorch's automatic differentiation: double backward, with the gradient's graph kept, forward over reverse.

The model is the chain of ``Linear`` layers written out, the loss the mean squared error. Blocks of vectors are
multiplied one after the other: ``is_grads_batched`` and ``torch.func.vmap`` were tried, and on a CPU the loop over
vectors is as fast or faster.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.contenders.base import Array, Product, missing
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.hessian_problem import HessianProblem

    TensorProduct = Callable[[tuple[Tensor, ...]], Sequence[Tensor]]


class _Torch:
    """What the three share: data and parameters as tensors (without a copy), vectors as tensors shaped like them."""

    def available(self) -> str | None:
        """None where torch is installed."""
        return missing("torch", "'flatcore[torch]'")

    def prepare(self, problem: HessianProblem, stage: Stages) -> Product:
        """Set up the model, and what the variant computes once."""
        import torch

        with stage("model"):
            tensors = tuple(torch.from_numpy(array) for array in problem.weights)
            loss = mean_squared_error(torch.from_numpy(problem.inputs), torch.from_numpy(problem.targets))
        return vector_by_vector(self.tensor_product(loss, tensors, stage), [tuple(t.shape) for t in tensors])

    def tensor_product(self, loss: Callable[..., Tensor], weights: tuple[Tensor, ...], stage: Stages) -> TensorProduct:
        """The product on tensors shaped like the weights."""
        raise NotImplementedError


class DoubleBackward(_Torch):
    """Gradient with ``create_graph=True``, then the gradient of its product with v; all of it for every product."""

    name = "torch double backward"

    def tensor_product(self, loss: Callable[..., Tensor], weights: tuple[Tensor, ...], stage: Stages) -> TensorProduct:
        """Build and consume the gradient's graph in each call."""
        import torch

        parameters = [W.requires_grad_() for W in weights]

        def product(v: tuple[Tensor, ...]) -> Sequence[Tensor]:
            gradient = torch.autograd.grad(loss(*parameters), parameters, create_graph=True)
            dot = torch.stack([torch.dot(g.view(-1), x.view(-1)) for g, x in zip(gradient, v, strict=True)]).sum()
            return torch.autograd.grad(dot, parameters)

        return product


class DoubleBackwardGraphKept(_Torch):
    """The gradient's graph built once and kept; a product is one backward pass through it."""

    name = "torch double backward, gradient graph kept"

    def tensor_product(self, loss: Callable[..., Tensor], weights: tuple[Tensor, ...], stage: Stages) -> TensorProduct:
        """Build the gradient's graph as part of the set-up."""
        import torch

        parameters = [W.requires_grad_() for W in weights]
        with stage("gradient graph"):
            gradient = torch.autograd.grad(loss(*parameters), parameters, create_graph=True)

        def product(v: tuple[Tensor, ...]) -> Sequence[Tensor]:
            return torch.autograd.grad(gradient, parameters, grad_outputs=v, retain_graph=True)

        return product


class ForwardOverReverse(_Torch):
    """``torch.func.jvp`` of ``torch.func.grad``."""

    name = "torch forward over reverse"

    def tensor_product(self, loss: Callable[..., Tensor], weights: tuple[Tensor, ...], stage: Stages) -> TensorProduct:
        """Differentiate the gradient along v in each call."""
        import torch

        gradient = torch.func.grad(loss, argnums=tuple(range(len(weights))))

        def product(v: tuple[Tensor, ...]) -> Sequence[Tensor]:
            tangent: Sequence[Tensor] = torch.func.jvp(gradient, weights, v)[1]
            return tangent

        return product


def mean_squared_error(inputs: Tensor, targets: Tensor) -> Callable[..., Tensor]:
    """The loss as a function of the weights; its square is written plainly, as ``jvp`` of ``MSELoss`` raises."""
    from torch.nn import functional

    def loss(*weights: Tensor) -> Tensor:
        outputs = inputs
        for W in weights:
            outputs = functional.linear(outputs, W)
        return (outputs - targets).square().mean()

    return loss


def vector_by_vector(product: TensorProduct, shapes: Sequence[tuple[int, ...]]) -> Product:
    """Flat vectors and blocks of them (columns) in and out of a product on tensors shaped like the weights."""
    import torch

    sizes = [int(np.prod(shape)) for shape in shapes]

    def flat(v: Array) -> Array:
        blocks = torch.split(torch.from_numpy(v), sizes)
        image = product(tuple(block.view(shape) for block, shape in zip(blocks, shapes, strict=True)))
        result: Array = torch.cat([block.detach().reshape(-1) for block in image]).numpy()
        return result

    def columns(V: Array) -> Array:
        return flat(V) if V.ndim == 1 else np.stack([flat(v) for v in V.T]).T

    return columns


CONTENDERS = {"Hessian product": (DoubleBackward(), DoubleBackwardGraphKept(), ForwardOverReverse())}
