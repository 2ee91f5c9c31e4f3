"""The question "what is Rz?" for the reduced Hessian of a chain, and how its answers are checked.

Every contender has coordinates of its own; so each takes the coordinates z of one and the same v as its set-up, and an
answer brings along the map back: lift(Rz) must be H·lift(z), whose right-hand side is a product in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.contenders.base import Array, Product
from benchmarks.hessian_problem import TOLERANCE, HessianProblem, exact_products, worst_difference
from benchmarks.runner import Agreement
from benchmarks.timing import Work


@dataclass(frozen=True)
class ReducedAnswer:
    """Coordinates z, their product Rz, and the map from coordinates to vectors (P,)."""

    lift: Callable[[Array], Array]
    z: Array
    Rz: Array


ReducedCall = Callable[[Any], ReducedAnswer]


@dataclass(frozen=True)
class ReducedProblem:
    """A chain, its data and a direction, as in the full problem."""

    full: HessianProblem

    @property
    def argument(self) -> Array:
        """The direction v (P,), whose coordinates are multiplied."""
        return self.full.argument

    @property
    def dtype(self) -> str:
        """Precision of everything."""
        return self.full.dtype

    @property
    def work(self) -> Work:
        """4·m·P flops: each weight is read twice."""
        P = self.full.num_parameters
        return Work(flops=4.0 * self.full.narrow_width * P, bytes=2.0 * P * self.argument.itemsize)

    def describe(self) -> dict[str, Any]:
        """What the JSON says about the data."""
        return self.full.describe()

    @cached_property
    def _products(self) -> list[tuple[str, Product]]:
        return exact_products(self.full)

    def agreements(self, answer: ReducedAnswer) -> list[Agreement]:
        """lift(Rz) against H·lift(z) in float64."""
        v = np.asarray(answer.lift(answer.z), np.float64)
        sizes = [W.size for W in self.full.weights]
        lifted = np.asarray(answer.lift(answer.Rz), np.float64)
        return [
            Agreement(name, worst_difference([lifted], [product(v)], sizes), TOLERANCE[self.dtype])
            for name, product in self._products
        ]
