"""SciPy's ``svds`` with each of its solvers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse.linalg import ArpackNoConvergence, svds

from benchmarks.contenders.base import CannotAnswerError
from benchmarks.svd_problem import Triplets
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.svd_problem import SvdProblem


class ScipySvds:
    """``scipy.sparse.linalg.svds(A, k, solver=…, tol=…)``, in float64 where asked for (the copy is made in advance)."""

    def __init__(self, solver: str, dtype: str | None = None) -> None:
        self.name = f"SciPy svds {solver.upper()}{', float64' if dtype else ''}"
        self._solver, self._dtype = solver, dtype

    def available(self) -> str | None:
        """Always."""
        return None

    def prepare(self, problem: SvdProblem, stage: Stages) -> Callable[[int], Triplets]:
        """Convert where another precision is asked for."""
        A = problem.A if self._dtype is None else problem.A.astype(self._dtype)

        def answer(k: int) -> Triplets:
            try:
                U, s, Vt = svds(A, k, solver=self._solver, tol=problem.tol, rng=np.random.default_rng(0))
            except (ArpackNoConvergence, np.linalg.LinAlgError) as error:
                raise CannotAnswerError(str(error)) from error
            order = np.argsort(s)[::-1]
            return Triplets(U[:, order], s[order], Vt[order].T)

        return answer


CONTENDERS = {
    "top singular triplets": (
        ScipySvds("arpack"),
        ScipySvds("arpack", "float64"),
        ScipySvds("propack"),
        ScipySvds("lobpcg"),
    )
}
