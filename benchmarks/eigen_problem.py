"""The question "what are the k largest eigenvalues of H, and their vectors?", and how answers are checked.

An answer's residual is the largest ‖Hv − λv‖/λ_1 over its pairs, with products by PyTorch in float64 (by flatcore
without it). The reference values are those of the dense Hessian at small sizes; at full size those flatcore finds in
float64 at a tenth of the tolerance. Who promises the tolerance must keep it: every value and the residual within.
Other methods may stop early or miss an eigenvalue, which small residuals do not exclude, and are not failed for it:
only their largest value is judged, by the tolerance or their residual where that is larger; the table has the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

import flatcore as fc
from benchmarks.contenders.base import Array
from benchmarks.hessian_problem import HessianProblem, exact_products
from benchmarks.runner import Agreement

_DENSE = 2000  # parameters up to which the reference is a dense Hessian


@dataclass
class EigenAnswer:
    """Values (k,) in descending order, and their vectors (P, k), computed when asked for."""

    values: Array
    vectors: Callable[[], Array]
    promised: bool = True  # whether the method promises residuals within the tolerance
    residual: float | None = None  # filled in by the check


@dataclass(frozen=True)
class EigenProblem:
    """The k largest eigenpairs of the Hessian, to a tolerance relative to the largest."""

    hessian: HessianProblem
    k: int
    tol: float

    work = None  # iterations cannot be counted in advance

    @property
    def argument(self) -> int:
        """k."""
        return self.k

    @property
    def dtype(self) -> str:
        """Precision of the products."""
        return self.hessian.dtype

    def describe(self) -> dict[str, Any]:
        """What the JSON says about the question."""
        return {**self.hessian.describe(), "eigenpairs": self.k, "tolerance": self.tol}

    @cached_property
    def _reference(self) -> tuple[str, Array]:
        """Name and the k largest eigenvalues."""
        exact = self.hessian.in_float64()
        if exact.num_parameters <= _DENSE:
            name, product = exact_products(self.hessian)[-1]
            H = np.stack([product(e) for e in np.eye(exact.num_parameters)])
            return f"dense Hessian, {name}", np.linalg.eigvalsh(H)[::-1][: self.k]
        loss = fc.QuadraticLoss(exact.inputs, exact.targets, reduction="mean")
        found = fc.sharpness(fc.LinearChain(exact.weights), loss, self.k, tol=self.tol / 10)
        return "flatcore in float64", found.values

    @cached_property
    def _product(self) -> tuple[str, Any]:
        return exact_products(self.hessian)[-1]

    def residual(self, answer: EigenAnswer) -> float:
        """Largest ‖Hv − λv‖/λ_1 over unit vectors v, in float64; computed once for an answer."""
        if answer.residual is not None:
            return answer.residual
        _, product = self._product
        worst = 0.0
        for value, v in zip(answer.values, np.asarray(answer.vectors()).T, strict=True):
            unit = v.astype(np.float64) / np.linalg.norm(v.astype(np.float64))
            worst = max(worst, float(np.linalg.norm(product(unit) - value * unit) / answer.values[0]))
        answer.residual = worst
        return worst

    def agreements(self, answer: EigenAnswer) -> list[Agreement]:
        """All values and the residual where the tolerance was promised, else the largest value."""
        name, residual, difference = self._reference[0], self.residual(answer), self._differences(answer)
        if not answer.promised:
            return [Agreement(f"largest value, {name}", float(difference[0]), max(self.tol, residual))]
        return [
            Agreement(name, float(difference.max()), self.tol),
            Agreement(f"residual, {self._product[0]}", residual, self.tol),
        ]

    def _differences(self, answer: EigenAnswer) -> Array:
        """|λ_i − exact_i|/λ_1."""
        exact = self._reference[1]
        distance: Array = np.abs(answer.values - exact) / exact[0]
        return distance

    def quality(self, answer: EigenAnswer) -> dict[str, float]:
        """Residual, and how far the worst value is from the reference's."""
        return {"residual": self.residual(answer), "values off by": float(self._differences(answer).max())}
