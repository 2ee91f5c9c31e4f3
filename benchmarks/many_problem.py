"""The question "how sharp is each of many small chains?": the largest eigenvalue of every Hessian and its residual.

All chains have the same widths and share one mean squared error, L = (1/n) Σ‖Φx − y‖². An answer is the pair of values
and residuals ‖Hv − λv‖, arrays over the chains. It is checked on a sample against products of PyTorch's automatic
differentiation in float64, which share no code and no formula with the contenders but one: eigenvalues by SciPy's
``eigsh`` to 1e-9.

Contenders with the narrow-end algorithm run the same one: Lanczos from a random vector, ``steps`` of them before the
first look at the Ritz value, on to half the tolerance; a product in float64 for the residual.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.contenders.base import Array
from benchmarks.runner import Agreement
from benchmarks.timing import Work

ManyAnswer = tuple[Array, Array]  # values and residuals, (batch,)
_SAMPLE = 5
_WEIGHTS, _DATA = range(2)  # streams of random numbers


@dataclass(frozen=True)
class ManyProblem:
    """Weights (M, batch, d, d), data, and the tolerance relative to the largest modulus of an eigenvalue."""

    weights: Array
    inputs: Array  # (n, d)
    targets: Array  # (n, d)
    tol: float
    steps: int  # Lanczos steps before the first look

    @property
    def argument(self) -> Array:
        """The weights: everything that depends on them is computed in the call."""
        return self.weights

    @property
    def dtype(self) -> str:
        """Precision of the weights and of the vectors."""
        return str(self.weights.dtype)

    @property
    def batch(self) -> int:
        """Number of chains."""
        return int(self.weights.shape[1])

    @property
    def work(self) -> Work:
        """12·m·P flops for each of the ``steps`` products and each chain; the weights are read once."""
        depth, batch, d, _ = self.weights.shape
        return Work(flops=12.0 * d * depth * d * d * self.steps * batch, bytes=float(self.weights.nbytes))

    def first(self, count: int) -> ManyProblem:
        """The same question about the first chains only."""
        return replace(self, weights=self.weights[:, :count])

    def describe(self) -> dict[str, Any]:
        """Sizes, for the JSON."""
        depth, batch, d, _ = self.weights.shape
        return {
            "chains": batch,
            "width": d,
            "depth": depth,
            "parameters": depth * d * d,
            "samples": len(self.inputs),
            "tol": self.tol,
            "least_steps": self.steps,
            "dtype": self.dtype,
        }

    def agreements(self, answer: ManyAnswer) -> list[Agreement]:
        """Values of a sample against converged ones; residuals of all against the tolerance (the sample's scale)."""
        values, residuals = answer
        if np.shape(values) != (self.batch,) or np.shape(residuals) != (self.batch,):
            return [Agreement("shape", float("inf"), 0.0)]
        exact = self._exact
        difference = float(np.max(np.abs(values[: len(exact)] / exact - 1.0)))
        # The largest modulus is at least the value itself. Peers stop by what their recurrences say, which in float32
        # and without reorthogonalisation is less than the truth: twice the tolerance is accepted.
        residual = float(np.max(residuals / values))
        return [
            Agreement("SciPy eigsh on automatic differentiation, float64", _finite(difference), self.tol),
            Agreement("residual over the value", _finite(residual), 2.0 * self.tol),
        ]

    @cached_property
    def _exact(self) -> Array:
        from benchmarks.contenders.many_scipy import eigenvalue_by_autograd

        sample = self.first(_SAMPLE)
        return np.array([eigenvalue_by_autograd(sample, i, "float64", 1e-9)[0] for i in range(sample.batch)])


def _finite(value: float) -> float:
    return value if np.isfinite(value) else float("inf")


def gaussian_chains(batch: int, width: int = 32, depth: int = 4, samples: int = 64, steps: int = 21) -> ManyProblem:
    """Weights N(0, 1/fan-in), inputs and targets N(0, 1), float32, tolerance 1e-4."""
    weights = np.random.default_rng(_WEIGHTS).standard_normal((depth, batch, width, width), dtype=np.float32)
    weights /= np.float32(np.sqrt(width))
    rng = np.random.default_rng(_DATA + 1)
    inputs, targets = (rng.standard_normal((samples, width), dtype=np.float32) for _ in range(2))
    return ManyProblem(weights, inputs, targets, 1e-4, steps)
