"""The question "what is Hv?" for a linear chain under the mean squared error, and how its answers are checked.

Every answer is compared with products computed in float64 from the same numbers: flatcore's, and PyTorch's automatic
differentiation, which shares no code with flatcore's kernels (of a block, its first and last column). Compared is
‖a − b‖ / ‖b‖ for every layer's part of every column, and the worst counts: an error in a small layer cannot hide behind
a large one.

Tolerances. A product of M layers of width d passes through some 2M matrix products of up to d terms a sum; rounding
errors of independent signs then stay below √d·2M·ε: 3e-5 in float32 (ε = 6e-8) and 6e-14 in float64 at M = 6, d = 2048.
1e-4 and 1e-10 leave room for other summation orders and for the squared condition of the data's moments, while a wrong
factor, layer or transpose misses them by orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.contenders.base import Array, Contender, Product
from benchmarks.contenders.flatcore_hessian import FlatcoreHessian
from benchmarks.contenders.torch_hessian import DoubleBackwardGraphKept
from benchmarks.runner import Agreement
from benchmarks.timing import Stages, Work

TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
_WEIGHTS, _INPUTS, _TARGETS, _VECTORS = range(4)  # streams of random numbers


@dataclass(frozen=True)
class HessianProblem:
    """A chain, its data, and the vector or block of vectors to multiply."""

    weights: Sequence[Array]
    inputs: Array  # (n, d_0)
    targets: Array  # (n, d_M)
    argument: Array  # (P,), or (P, k) with contiguous columns
    torch_reference: bool = True  # whether PyTorch can answer in float64 in reasonable time

    @property
    def dtype(self) -> str:
        """Precision of everything."""
        return str(self.argument.dtype)

    @property
    def num_parameters(self) -> int:
        """P."""
        return sum(W.size for W in self.weights)

    @property
    def narrow_width(self) -> int:
        """m, the narrower end's width."""
        return min(self.weights[0].shape[1], self.weights[-1].shape[0])

    @cached_property
    def work(self) -> Work:
        """12·m·P flops a vector, m the narrower end's width; W is read twice, v once or twice, and Hv written once.

        That is 18·P bytes for one vector in float32; a block reads W as often as one vector does.
        """
        P, k = self.num_parameters, 1 if self.argument.ndim == 1 else self.argument.shape[1]
        return Work(flops=12.0 * self.narrow_width * P * k, bytes=(2.0 + 2.5 * k) * P * self.argument.itemsize)

    def describe(self) -> dict[str, Any]:
        """What the JSON says about the data."""
        return {
            "widths": [self.weights[0].shape[1], *(W.shape[0] for W in self.weights)],
            "parameters": self.num_parameters,
            "samples": len(self.inputs),
            "vectors": 1 if self.argument.ndim == 1 else self.argument.shape[1],
            "dtype": self.dtype,
            "loss": "mean squared error (mean over samples and outputs)",
        }

    def agreements(self, answer: Array) -> list[Agreement]:
        """The answer against every reference."""
        sizes = [W.size for W in self.weights]
        answers = _columns(answer)
        return [
            Agreement(name, worst_difference([answers[i] for i in which], exact, sizes), TOLERANCE[self.dtype])
            for name, which, exact in self._references
        ]

    @cached_property
    def _references(self) -> list[tuple[str, Sequence[int], Sequence[Array]]]:
        """Name, columns, and products with these columns in float64."""
        columns = [v.astype(np.float64) for v in _columns(self.argument)]
        ends = sorted({0, len(columns) - 1})
        choice = {"flatcore in float64": range(len(columns)), "torch in float64": ends}
        return [
            (name, choice[name], [product(columns[i]) for i in choice[name]]) for name, product in exact_products(self)
        ]

    def in_float64(self) -> HessianProblem:
        """The same numbers in float64."""
        weights = [W.astype(np.float64) for W in self.weights]
        return replace(
            self, weights=weights, inputs=self.inputs.astype(np.float64), targets=self.targets.astype(np.float64)
        )


def exact_products(problem: HessianProblem) -> list[tuple[str, Product]]:
    """Products v → Hv in float64 by name: flatcore's, and PyTorch's where it is installed and fast enough."""
    contenders: dict[str, Contender] = {"flatcore in float64": FlatcoreHessian()}
    if problem.torch_reference and DoubleBackwardGraphKept().available() is None:
        contenders["torch in float64"] = DoubleBackwardGraphKept()
    exact = problem.in_float64()
    return [(name, contender.prepare(exact, Stages())) for name, contender in contenders.items()]


def gaussian_problem(
    widths: Sequence[int], samples: int, dtype: str, *, vectors: int | None = None, torch_reference: bool = True
) -> HessianProblem:
    """Weights N(0, 1/fan-in), inputs, targets and vectors N(0, 1); fewer samples are the first of more.

    `vectors` is None for a vector (P,), or the number of columns of a block (P, k).
    """
    weights = []
    rng = np.random.default_rng(_WEIGHTS)
    for fan_in, fan_out in pairwise(widths):
        W = _normal(rng, (fan_out, fan_in), dtype)
        weights.append(W / W.dtype.type(np.sqrt(fan_in)))
    P = sum(W.size for W in weights)
    rows = _normal(np.random.default_rng(_VECTORS), (vectors or 1, P), dtype)
    return HessianProblem(
        weights=weights,
        inputs=_normal(np.random.default_rng(_INPUTS), (samples, widths[0]), dtype),
        targets=_normal(np.random.default_rng(_TARGETS), (samples, widths[-1]), dtype),
        argument=rows[0] if vectors is None else rows.T,
        torch_reference=torch_reference,
    )


def _normal(rng: np.random.Generator, shape: tuple[int, int], dtype: str) -> Array:
    precision = np.float32 if dtype == "float32" else np.float64
    return rng.standard_normal(shape, dtype=precision)


def _columns(V: Array) -> Sequence[Array]:
    return [V] if V.ndim == 1 else list(V.T)


def worst_difference(answers: Sequence[Array], exact: Sequence[Array], sizes: Sequence[int]) -> float:
    """Largest ‖a − b‖ / ‖b‖ over columns and layers; infinite for NaN or a shape that does not fit."""
    ends = np.cumsum(sizes)[:-1]
    worst = 0.0
    for a, b in zip(answers, exact, strict=True):
        if a.shape != b.shape:
            return float("inf")
        for x, y in zip(np.split(a, ends), np.split(b, ends), strict=True):
            difference = float(np.linalg.norm(x - y) / np.linalg.norm(y))
            worst = max(worst, difference if np.isfinite(difference) else float("inf"))
    return worst
