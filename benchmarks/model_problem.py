"""The question "what is Cv?" for the curvature C of a PyTorch model's loss, and how its answers are checked.

C is the Hessian of the mean cross-entropy L(θ) = (1/n) Σ ℓ(zᵢ(θ), yᵢ), or one of the matrices Σ Jᵢᵀ Mᵢ Jᵢ with the
outputs' Jacobians Jᵢ = ∂zᵢ/∂θ and pᵢ = softmax(zᵢ):

    ggn                Mᵢ = (diag(pᵢ) − pᵢpᵢᵀ) / n, the Gauss–Newton matrix
    fisher_empirical   Mᵢ = sᵢsᵢᵀ / n with sᵢ = pᵢ − e(yᵢ) at the true label
    fisher_mc          the same at a label drawn from pᵢ: its expectation is the Gauss–Newton matrix

References share no code with flatcore: double backward of the same model in float64, where M is the closed form above,
and curvlinops in the contenders' own precision where it is installed. Compared is ‖a − b‖ / ‖b‖ over the whole vector,
the worst column of a block; of a block, the first and the last column are compared with float64. Beside it stands the
worst parameter tensor, as a figure of quality.

Tolerance. Entries of Cv are sums over samples (and, of a convolution, pixels) of terms of either sign. N terms added
one after another carry rounding errors of about ε·√N times their root sum of squares, which is as large as the sum
itself where the signs are independent, as in freshly drawn models with random labels: √N·ε, ε = 6e-8. Matrix products
add in blocks, and so `mlp`, N = 1,024, comes out at 6e-7. PyTorch's backward pass of a convolution adds up a bias's
gradient plainly: with N = 128·16·16 = 32,768 that is 1.1e-5, and more where the sum cancels; measured are 3e-5 to 5e-5
for the bias of `cnn`'s last convolution and 3e-6 to 9e-6 for the whole vector, in double backward (forward over
reverse, whose bias gradients are summed pairwise, has 3e-7 and 2e-6). So 1e-5 for the whole vector can be reached by
all, and for each parameter by some. Answers are wrong beyond 2e-5, which leaves room for other summation orders;
whether 1e-5 holds is a target. A wrong factor, sample weight or parameter misses either by orders of magnitude.

Labels drawn at random cannot be compared number by number. Of fisher_mc, vᵀCv is compared with its expectation, the
Gauss–Newton matrix's: a sum of n independent terms, whose standard deviation is known; allowed are five of them.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from benchmarks.contenders.base import Array
from benchmarks.runner import Agreement
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from torch import Tensor, nn

TOLERANCE = 2e-5
STANDARD_DEVIATIONS = 5
CLASSES = 10
CURVLINOPS, FLOAT64 = "curvlinops", "torch in float64"
_MODEL, _INPUTS, _TARGETS, _VECTORS = range(4)  # streams of random numbers


class Architecture(Protocol):
    """A model and the shape of what goes in."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(n, …)."""

    def module(self) -> nn.Module:
        """The model, initialised as PyTorch does."""


@dataclass(frozen=True)
class Mlp:
    """Linear layers with biases and tanh between them."""

    widths: tuple[int, ...]
    samples: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(n, d_0)."""
        return (self.samples, self.widths[0])

    def module(self) -> nn.Module:
        """Linear, tanh, …, Linear."""
        from torch import nn

        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise([*self.widths, CLASSES]):
            layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
        return nn.Sequential(*layers[:-1])


@dataclass(frozen=True)
class Cnn:
    """Three 3 × 3 convolutions, the second with stride 2, ReLU after each; average over pixels, linear."""

    channels: tuple[int, int, int]
    samples: int
    pixels: int  # on a side

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(n, 3, pixels, pixels)."""
        return (self.samples, 3, self.pixels, self.pixels)

    def module(self) -> nn.Module:
        """Convolution, ReLU, …, average, Linear."""
        from torch import nn

        layers: list[nn.Module] = []
        for (fan_in, fan_out), stride in zip(pairwise([3, *self.channels]), (1, 2, 1), strict=True):
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride, padding=1), nn.ReLU()]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(self.channels[-1], CLASSES))


@dataclass(frozen=True)
class ModelProblem:
    """A model with random data, and the vector or block of vectors to multiply; built when first used, or asked to."""

    architecture: Architecture
    vectors: int | None = None  # None for a vector (P,), or the columns of a block (P, k)
    curvature: str = "hessian"

    dtype = "float32"
    work = None

    @cached_property
    def model(self) -> nn.Module:
        """The model in float32; the process's random numbers go on as if nothing had been drawn."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_MODEL)
            return self.architecture.module()

    @cached_property
    def loss(self) -> nn.Module:
        """Mean cross-entropy."""
        from torch import nn

        return nn.CrossEntropyLoss()

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """Inputs N(0, 1) and labels, each equally likely."""
        import torch

        shape = self.architecture.input_shape
        inputs = np.random.default_rng(_INPUTS).standard_normal(shape, dtype=np.float32)
        labels = np.random.default_rng(_TARGETS).integers(CLASSES, size=shape[0])
        return torch.from_numpy(inputs), torch.from_numpy(labels)

    @cached_property
    def argument(self) -> Array:
        """N(0, 1), contiguous columns."""
        shape = (self.vectors or 1, self.num_parameters)
        rows = np.random.default_rng(_VECTORS).standard_normal(shape, dtype=np.float32)
        return rows[0] if self.vectors is None else rows.T

    def build(self) -> tuple[nn.Module, nn.Module, tuple[Tensor, Tensor], Array]:
        """All of it, so that nobody's set-up is timed with it."""
        return self.model, self.loss, self.data, self.argument

    @property
    def num_parameters(self) -> int:
        """P."""
        return sum(p.numel() for p in self.model.parameters())

    def describe(self) -> dict[str, Any]:
        """What the JSON says about model and data."""
        return {
            "model": str(self.architecture),
            "parameters": self.num_parameters,
            "samples": self.architecture.input_shape[0],
            "vectors": self.vectors or 1,
            "curvature": self.curvature,
            "dtype": self.dtype,
            "loss": "cross-entropy (mean over samples)",
        }

    def agreements(self, answer: Array) -> list[Agreement]:
        """The answer against every reference, or its quadratic form where labels are drawn."""
        if self.curvature == "fisher_mc":
            return [self._expectation.agreement(self.argument, answer)]
        answers = _columns(answer)
        return [
            Agreement(name, max(relative(answers[i], exact[i]) for i in exact), TOLERANCE)
            for name, exact in self._references
        ]

    def quality(self, answer: Array) -> dict[str, float]:
        """The largest difference in one parameter tensor, relative to its part of the vector."""
        if self.curvature == "fisher_mc":
            return {}
        ends = np.cumsum([p.numel() for p in self.model.parameters()])[:-1]
        exact, answers = self._references[0][1], _columns(answer)
        parts = [zip(np.split(answers[i], ends), np.split(exact[i], ends), strict=True) for i in exact]
        return {"worst parameter": max(relative(a, b) for part in parts for a, b in part)}

    @cached_property
    def _references(self) -> list[tuple[str, dict[int, Array]]]:
        """Name, and products by column."""
        from benchmarks.contenders.model_curvlinops import CurvlinopsModel

        columns = _columns(self.argument)
        last = len(columns) - 1
        references = [(FLOAT64, {i: self._exact.product(columns[i]) for i in {0, last}})]
        if CurvlinopsModel().available() is None:
            product = CurvlinopsModel().prepare(self, Stages())
            references.append((CURVLINOPS, dict(enumerate(_columns(product(self.argument))))))
        return references

    @cached_property
    def _exact(self) -> ExactCurvature:
        return ExactCurvature(self)

    @cached_property
    def _expectation(self) -> Expectation:
        return Expectation.of(self._exact.outputs_along(self.argument), self._exact.probabilities)


class ExactCurvature:
    """Products in float64 by PyTorch's double backward, for the same model and data."""

    def __init__(self, problem: ModelProblem) -> None:
        import torch

        self._model = copy.deepcopy(problem.model).double()
        self._parameters = list(self._model.parameters())
        self._inputs, self._labels = problem.data[0].double(), problem.data[1]
        self._loss, self._curvature = problem.loss, problem.curvature
        with torch.no_grad():
            self.probabilities = self._model(self._inputs).softmax(1).numpy()

    def product(self, v: Array) -> Array:
        """Cv."""
        if self._curvature == "hessian":
            return self._hessian_product(v)
        p, Jv = self.probabilities, self.outputs_along(v)
        if self._curvature == "ggn":
            return self._pulled_back((p * Jv - p * (p * Jv).sum(1, keepdims=True)) / len(p))
        s = p - np.eye(CLASSES)[self._labels.numpy()]
        return self._pulled_back(s * (s * Jv).sum(1, keepdims=True) / len(p))

    def _hessian_product(self, v: Array) -> Array:
        import torch

        loss = self._loss(self._model(self._inputs), self._labels)
        gradient = torch.autograd.grad(loss, self._parameters, create_graph=True)
        return _flat(torch.autograd.grad(gradient, self._parameters, grad_outputs=self._split(v)))

    def outputs_along(self, v: Array) -> Array:
        """Jv (n, classes): the derivative in u of ⟨Jᵀu, v⟩, which is linear in u."""
        import torch

        z = self._model(self._inputs)
        u = torch.zeros_like(z, requires_grad=True)
        pulled = torch.autograd.grad(z, self._parameters, grad_outputs=u, create_graph=True)
        (Jv,) = torch.autograd.grad(pulled, u, grad_outputs=self._split(v))
        result: Array = Jv.numpy()
        return result

    def _pulled_back(self, u: Array) -> Array:
        """Jᵀu."""
        import torch

        z = self._model(self._inputs)
        return _flat(torch.autograd.grad(z, self._parameters, grad_outputs=torch.from_numpy(u)))

    def _split(self, v: Array) -> list[Tensor]:
        import torch

        parts = torch.from_numpy(v.astype(np.float64)).split([p.numel() for p in self._parameters])
        return [part.view_as(p) for part, p in zip(parts, self._parameters, strict=True)]


@dataclass(frozen=True)
class Expectation:
    """Mean and standard deviation of vᵀCv for labels drawn from the model: (1/n) Σ ⟨sᵢ, (Jv)ᵢ⟩²."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, Jv: Array, p: Array) -> Expectation:
        """The term of label c is ((pᵢ·(Jv)ᵢ) − (Jv)ᵢc)², with probability pᵢc."""
        terms = ((p * Jv).sum(1, keepdims=True) - Jv) ** 2
        means = (p * terms).sum(1)
        variances = (p * terms**2).sum(1) - means**2
        return cls(float(means.mean()), float(np.sqrt(variances.sum())) / len(p))

    def agreement(self, v: Array, answer: Array) -> Agreement:
        """vᵀ(answer) against the mean."""
        difference = abs(float(v.astype(np.float64) @ answer) / self.mean - 1) if answer.shape == v.shape else np.inf
        allowed = STANDARD_DEVIATIONS * self.deviation / self.mean
        return Agreement("expected vᵀCv", difference if np.isfinite(difference) else float("inf"), allowed)


def relative(a: Array, b: Array) -> float:
    """‖a − b‖ / ‖b‖; infinite for NaN or a shape that does not fit."""
    if a.shape != b.shape:
        return float("inf")
    difference = float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))
    return difference if np.isfinite(difference) else float("inf")


def _columns(V: Array) -> Sequence[Array]:
    return [V] if V.ndim == 1 else list(V.T)


def _flat(tensors: Sequence[Tensor]) -> Array:
    import torch

    result: Array = torch.cat([t.detach().reshape(-1) for t in tensors]).numpy()
    return result
