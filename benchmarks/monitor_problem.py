"""The question "how sharp is the loss every 20 steps?", asked of a network that SGD trains.

The states of the parameters at steps 200, 220, …, 600 are recorded once; every contender measures the largest Hessian
eigenvalue of the mean cross-entropy on the same fixed batch at each of them in turn; the first, from which the others
are followed, is timed and not counted. All stop at the same true residual, ‖Hv − λv‖ ≤ tol·λ.

Two sets of data, n training samples x and labels y of ten classes:

    classes   x = c_y + 2·Lz + 0.3·ε, sixteen shared directions L: learned within the first 200 steps, after which the
              curvature shrinks;
    teacher   x with variances 1/i, labels by a random tanh network: half learned, the sharpness grows threefold on the
              way and its eigenvector turns by some 20 degrees from one measurement to the next.

Answers are compared with ARPACK on PyTorch's double backward products, to 1e-4, at every fifth state. An eigenvalue is
within the residual: tol·λ, and no contender may be farther off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from benchmarks.contenders.base import Array
from benchmarks.model_problem import CLASSES, Mlp
from benchmarks.runner import Agreement

if TYPE_CHECKING:
    from torch import Tensor, nn

LEARNING_RATE, BATCH = 0.05, 128
_TRAINING_SAMPLES = 16_384
_CHECKED = 5  # every so many states


@dataclass
class Measured:
    """Values, products and seconds of the measurements after the first."""

    values: list[float] = field(default_factory=list)
    products: list[int] = field(default_factory=list)
    probing: list[int] = field(default_factory=list)  # those that only looked for missed eigenvalues
    seconds: list[float] = field(default_factory=list)
    every: int = 1  # states from one to the next


@dataclass(frozen=True)
class MonitorProblem:
    """A network, what it learns, the steps measured, and the tolerance."""

    architecture: Mlp
    data: str  # classes or teacher
    steps: tuple[int, ...]
    tol: float

    dtype = "float32"
    work = None
    argument = None

    @cached_property
    def _trained(self) -> tuple[nn.Module, tuple[Tensor, Tensor], list[Tensor]]:
        """The model, the batch that is measured on, and the states."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            samples, d = self.architecture.input_shape
            x, y = _samples(self.data, samples + _TRAINING_SAMPLES, d)
            model = self.architecture.module()
            sgd, loss_fn = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE), torch.nn.CrossEntropyLoss()
            states = []
            for step in range(self.steps[-1] + 1):
                if step in self.steps:
                    states.append(torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone())
                chosen = torch.randint(samples, len(x), (BATCH,))
                sgd.zero_grad()
                loss_fn(model(x[chosen]), y[chosen]).backward()
                sgd.step()
        model.zero_grad()
        return model, (x[:samples], y[:samples]), states

    @property
    def batch(self) -> tuple[Tensor, Tensor]:
        """What the loss is measured on."""
        return self._trained[1]

    def models(self, chosen: slice = slice(None)) -> Iterator[nn.Module]:
        """The model in each of the states chosen, in turn."""
        import torch

        model, _, states = self._trained
        for state in states[chosen]:
            torch.nn.utils.vector_to_parameters(state.clone(), model.parameters())
            yield model

    @cached_property
    def _references(self) -> Array:
        return np.array([_largest(model, self.batch) for model in self.models(slice(1, None, _CHECKED))])

    def describe(self) -> dict[str, Any]:
        """Sizes, for the JSON."""
        return {
            "widths": [*self.architecture.widths, CLASSES],
            "samples": self.architecture.samples,
            "data": self.data,
            "steps": list(self.steps),
            "tol": self.tol,
            "dtype": self.dtype,
        }

    def quality(self, answer: Measured) -> dict[str, float]:
        """Products and seconds a measurement; seconds include building the Hessian."""
        products = np.array(answer.products)
        found = {
            "products, median": float(np.median(products)),
            "products, mean": float(products.mean()),
            "products, most": float(products.max()),
            "seconds, median": float(np.median(answer.seconds)),
        }
        if any(answer.probing):
            found["products but the probe's, median"] = float(np.median(products - answer.probing))
        return found

    def agreements(self, answer: Measured) -> list[Agreement]:
        """The largest relative difference from ARPACK."""
        values = np.array(answer.values)[:: _CHECKED // answer.every]
        difference = float(np.max(np.abs(values / self._references - 1.0)))
        return [Agreement("SciPy eigsh on double backward", difference, self.tol)]


def _samples(data: str, n: int, d: int) -> tuple[Tensor, Tensor]:
    import torch
    from torch import nn

    if data == "classes":
        centres, shared = torch.randn(CLASSES, d), torch.randn(16, d) / 4.0
        y = torch.randint(CLASSES, (n,))
        x = centres[y] + 2.0 * torch.randn(n, 16) @ shared + 0.3 * torch.randn(n, d)
        return x / x.std(), y
    scales = torch.arange(1, d + 1) ** -0.5
    x = torch.randn(n, d) * scales * (d**0.5 / scales.norm())
    teacher = nn.Sequential(nn.Linear(d, 64), nn.Tanh(), nn.Linear(64, CLASSES))
    with torch.no_grad():
        teacher[0].weight.mul_(2.0)
        outputs = teacher(x)
        return x, (outputs - outputs.mean(0)).argmax(1)


def _largest(model: nn.Module, batch: tuple[Tensor, Tensor]) -> float:
    """The largest eigenvalue by ARPACK, products by double backward."""
    import torch
    from torch.nn.utils import parameters_to_vector, vector_to_parameters

    params = list(model.parameters())
    loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
    gradient = torch.autograd.grad(loss, params, create_graph=True)

    def product(v: Array) -> Array:
        blocks = [torch.empty_like(p) for p in params]
        vector_to_parameters(torch.from_numpy(np.ascontiguousarray(v.reshape(-1), np.float32)), blocks)
        return parameters_to_vector(torch.autograd.grad(gradient, params, blocks, retain_graph=True)).numpy()

    P = sum(p.numel() for p in params)
    v0 = np.random.default_rng(0).standard_normal(P).astype(np.float32)
    operator = LinearOperator((P, P), matvec=product, dtype=np.float32)
    return float(eigsh(operator, 1, which="LA", tol=1e-4, v0=v0, return_eigenvectors=False)[0])
