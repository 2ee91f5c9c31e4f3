"""PRIMME's ``svds``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.contenders.base import CannotAnswerError, missing
from benchmarks.svd_problem import Triplets
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.svd_problem import SvdProblem


class PrimmeSvds:
    """``primme.svds(A, k, tol=…)``, start vector from seed 0."""

    name = "PRIMME svds"

    def available(self) -> str | None:
        """None where PRIMME is installed."""
        return missing("primme", "primme==3.2.3 (Debian: libopenblas-dev liblapacke-dev)")

    def prepare(self, problem: SvdProblem, stage: Stages) -> Callable[[int], Triplets]:
        """Nothing is done in advance."""
        import primme

        def answer(k: int) -> Triplets:
            np.random.seed(0)  # noqa: NPY002  # where PRIMME draws its start vectors
            try:
                U, s, Vt = primme.svds(problem.A, k, tol=problem.tol)
            except primme.PrimmeSvdsError as error:
                raise CannotAnswerError(str(error)) from error
            return Triplets(U, s, Vt.T)

        return answer


CONTENDERS = {"top singular triplets": (PrimmeSvds(),)}
