"""SciPy's ``eigsh`` (ARPACK) on Hessian products of several makers, and on a dense matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

import flatcore as fc
from benchmarks.contenders.base import Array, CannotAnswerError, Contender, lacking
from benchmarks.contenders.curvlinops_hessian import CurvlinopsHessian
from benchmarks.contenders.torch_hessian import DoubleBackwardGraphKept
from benchmarks.eigen_problem import EigenAnswer
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.eigen_problem import EigenProblem
    from benchmarks.identity_problem import IdentityProblem


class EigshOnProducts:
    """``eigsh`` with a contender's Hessian product."""

    def __init__(self, name: str, maker: Contender) -> None:
        self.name, self._maker = name, maker

    def available(self) -> str | None:
        """What the products' maker says."""
        return self._maker.available()

    def prepare(self, problem: EigenProblem, stage: Stages) -> Callable[[int], EigenAnswer]:
        """Set up the products."""
        product = self._maker.prepare(problem.hessian, stage)
        P = problem.hessian.num_parameters
        operator = LinearOperator((P, P), matvec=lambda v: product(v.reshape(-1)), dtype=problem.dtype)
        return lambda k: largest(operator, k, problem, lambda vectors: vectors)


class EigshOnReduced:
    """``eigsh`` on flatcore's reduced Hessian: what the solver adds to the operator."""

    name = "flatcore's reduced Hessian + SciPy eigsh"

    def available(self) -> str | None:
        """None where flatcore has a reduced Hessian."""
        return lacking(fc.Hessian, "reduced")

    def prepare(self, problem: EigenProblem, stage: Stages) -> Callable[[int], EigenAnswer]:
        """Set up the operator."""
        with stage("reduced Hessian"):
            loss = fc.QuadraticLoss(problem.hessian.inputs, problem.hessian.targets, reduction="mean")
            R = fc.Hessian(fc.LinearChain(problem.hessian.weights), loss).reduced()

        def lifted(Z: Array) -> Array:
            return np.stack([R.lift(z) for z in np.ascontiguousarray(Z.T)]).T

        return lambda k: largest(R, k, problem, lifted)


def largest(operator: Any, k: int, problem: EigenProblem, vectors: Callable[[Array], Array]) -> EigenAnswer:
    """The k largest eigenpairs, start vector from seed 0."""
    v0 = np.random.default_rng(0).standard_normal(operator.shape[0]).astype(problem.dtype)
    try:
        values, found = eigsh(operator, k, which="LA", tol=problem.tol, v0=v0)
    except ArpackNoConvergence as error:
        raise CannotAnswerError(str(error)) from error
    return EigenAnswer(values[::-1], lambda: vectors(found[:, ::-1]), promised=False)  # ARPACK estimates residuals


class EigshCopies:
    """``eigsh`` on the dense Hessian of the chain of identities, start vectors from the seeds."""

    def __init__(self, tol: float) -> None:
        self.name, self._tol = f"SciPy eigsh, tol {tol:g}", tol

    def available(self) -> str | None:
        """Always."""
        return None

    def prepare(self, problem: IdentityProblem, stage: Stages) -> Callable[[Array], Array]:
        """Build the dense Hessians."""
        with stage("dense Hessians"):
            hessians = [problem.dense(X) for X in problem.inputs]

        def answer(seeds: Array) -> Array:
            return np.stack([self._values(H, problem.width, seed) for H, seed in zip(hessians, seeds, strict=True)])

        return answer

    def _values(self, H: Array, k: int, seed: int) -> Array:
        v0 = np.random.default_rng(seed).standard_normal(len(H))
        return eigsh(H, k, which="LA", tol=self._tol, v0=v0, return_eigenvectors=False)[::-1]


CONTENDERS = {
    "top eigenpairs": (
        EigshOnReduced(),
        EigshOnProducts("curvlinops + SciPy eigsh", CurvlinopsHessian()),
        EigshOnProducts("torch double backward, gradient graph kept, + SciPy eigsh", DoubleBackwardGraphKept()),
    ),
    "copies": (EigshCopies(0.0), EigshCopies(1e-4)),
}
