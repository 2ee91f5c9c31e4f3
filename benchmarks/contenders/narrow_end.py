"""The formulas of flatcore's Hessian kernels in NumPy and in plain Python."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.contenders.base import Product
from benchmarks.narrow_end import ListMatrices, Matrices, NarrowEnd, NumpyMatrices, ReducedEnd
from benchmarks.reduced_problem import ReducedAnswer, ReducedCall
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.hessian_problem import HessianProblem
    from benchmarks.reduced_problem import ReducedProblem


class NarrowEndHessian:
    """H @ v."""

    def __init__(self, name: str, matrices: Matrices) -> None:
        self.name, self._matrices = name, matrices

    def available(self) -> str | None:
        """Always: NumPy and SciPy are what flatcore itself needs."""
        return None

    def prepare(self, problem: HessianProblem, stage: Stages) -> Product:
        """Partial products and moments."""
        with stage("partial products"):
            return NarrowEnd(problem, self._matrices)


class NarrowEndReduced(NarrowEndHessian):
    """R @ z."""

    def prepare(self, problem: ReducedProblem, stage: Stages) -> ReducedCall:  # type: ignore[override]
        """Partial products, moments, QR factors, and the argument's coordinates."""
        with stage("partial products and QR"):
            R = ReducedEnd(problem.full, self._matrices)
        with stage("coordinates"):
            z = R.project(problem.argument)
        return lambda _: ReducedAnswer(R.lift, z, R(z))


CONTENDERS = {
    "reduced product": (NarrowEndReduced("NumPy", NumpyMatrices()),),
    "kernel: Hessian product": (
        NarrowEndHessian("NumPy", NumpyMatrices()),
        NarrowEndHessian("plain Python", ListMatrices()),
    ),
    "kernel: reduced product": (
        NarrowEndReduced("NumPy", NumpyMatrices()),
        NarrowEndReduced("plain Python", ListMatrices()),
    ),
}
