"""PyTorch alone on any model: double backward, forward over reverse, and a linearisation that is kept.

Blocks of vectors are multiplied one after the other. Parameters are the model's own; nothing is copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.contenders.base import Contender, Product, missing
from benchmarks.contenders.torch_hessian import vector_by_vector
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.contenders.torch_hessian import TensorProduct
    from benchmarks.model_problem import ModelProblem

CURVATURES = ("hessian", "ggn", "fisher_mc", "fisher_empirical")


def load_for(contender: Contender, problem: ModelProblem) -> None:
    """Build the problem, and multiply with a few parameters: what is imported once in a process is then there."""
    from benchmarks.model_problem import Mlp, ModelProblem

    problem.build()
    small = ModelProblem(Mlp((2, 3), 4), curvature=problem.curvature)
    contender.prepare(small, Stages())(small.argument)


class _Torch:
    """What all share: vectors in and out."""

    name: str

    def available(self) -> str | None:
        """None where torch is installed."""
        return missing("torch", "'flatcore[torch]'")

    def load(self, problem: ModelProblem) -> None:
        """``torch.func`` imports its tracing machinery when it first runs: seconds that no set-up should pay for."""
        load_for(self, problem)

    def prepare(self, problem: ModelProblem, stage: Stages) -> Product:
        """Whatever the variant computes once."""
        return vector_by_vector(self.tensor_product(problem, stage), [p.shape for p in problem.model.parameters()])

    def tensor_product(self, problem: ModelProblem, stage: Stages) -> TensorProduct:
        """The product on tensors shaped like the parameters."""
        raise NotImplementedError


class DoubleBackward(_Torch):
    """Gradient with ``create_graph=True`` and its derivative along v; all of it for every product."""

    name = "torch double backward"

    def tensor_product(self, problem: ModelProblem, stage: Stages) -> TensorProduct:
        """Build and consume the gradient's graph in each call."""
        import torch

        parameters = list(problem.model.parameters())

        def product(v: tuple[Tensor, ...]) -> Sequence[Tensor]:
            return torch.autograd.grad(_gradient(problem), parameters, grad_outputs=v)

        return product


class DoubleBackwardGraphKept(_Torch):
    """The gradient's graph built once and kept; a product is one backward pass through it."""

    name = "torch double backward, gradient graph kept"

    def tensor_product(self, problem: ModelProblem, stage: Stages) -> TensorProduct:
        """Build the gradient's graph as part of the set-up."""
        import torch

        parameters = list(problem.model.parameters())
        with stage("gradient graph"):
            gradient = _gradient(problem)

        def product(v: tuple[Tensor, ...]) -> Sequence[Tensor]:
            return torch.autograd.grad(gradient, parameters, grad_outputs=v, retain_graph=True)

        return product


class ForwardOverReverse(_Torch):
    """``torch.func.jvp`` of ``torch.func.grad``."""

    name = "torch forward over reverse"

    def tensor_product(self, problem: ModelProblem, stage: Stages) -> TensorProduct:
        """Differentiate the gradient along v in each call."""
        import torch

        parameters, _, loss = _as_functions(problem)
        gradient = torch.func.grad(loss, argnums=tuple(range(len(parameters))))

        def product(v: tuple[Tensor, ...]) -> Sequence[Tensor]:
            tangent: Sequence[Tensor] = torch.func.jvp(gradient, parameters, v)[1]
            return tangent

        return product


class Linearized(_Torch):
    """``torch.func.linearize`` of the gradient, traced once."""

    name = "torch.func.linearize of the gradient, reused"

    def tensor_product(self, problem: ModelProblem, stage: Stages) -> TensorProduct:
        """Trace as part of the set-up."""
        import torch

        parameters, _, loss = _as_functions(problem)
        gradient = torch.func.grad(loss, argnums=tuple(range(len(parameters))))
        with stage("tracing"):
            tangent = torch.func.linearize(gradient, *parameters)[1]
        return lambda v: tangent(*v)


class LinearizedOutputs(_Torch):
    """Gauss–Newton products Jᵀ(M(Jv)): ``linearize`` and ``vjp`` of the outputs, reused."""

    name = "torch.func.linearize and vjp of the outputs, reused"

    def tensor_product(self, problem: ModelProblem, stage: Stages) -> TensorProduct:
        """J, M and Jᵀ as part of the set-up; M is the loss's Hessian at the outputs."""
        import torch

        parameters, outputs, _ = _as_functions(problem)
        with stage("tracing"):
            z, J = torch.func.linearize(outputs, *parameters)
            M = torch.func.linearize(torch.func.grad(lambda z: problem.loss(z, problem.data[1])), z)[1]
        with stage("reverse pass"):
            transposed = torch.func.vjp(outputs, *parameters)[1]
        return lambda v: transposed(M(J(*v)))


def _gradient(problem: ModelProblem) -> tuple[Tensor, ...]:
    """The loss's gradient with its graph."""
    import torch

    loss = problem.loss(problem.model(problem.data[0]), problem.data[1])
    return torch.autograd.grad(loss, list(problem.model.parameters()), create_graph=True)


def _as_functions(problem: ModelProblem) -> tuple[tuple[Tensor, ...], Callable[..., Any], Callable[..., Any]]:
    """Parameters, and outputs and loss as functions of them."""
    import torch

    named = dict(problem.model.named_parameters())
    inputs, labels = problem.data

    def outputs(*parameters: Tensor) -> Any:
        return torch.func.functional_call(problem.model, dict(zip(named, parameters, strict=True)), (inputs,))

    def loss(*parameters: Tensor) -> Any:
        return problem.loss(outputs(*parameters), labels)

    return tuple(p.detach() for p in named.values()), outputs, loss


CONTENDERS = {
    "model hessian": (DoubleBackward(), DoubleBackwardGraphKept(), ForwardOverReverse(), Linearized()),
    "model ggn": (LinearizedOutputs(),),
}
