"""flatcore's top singular triplets, certified."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import flatcore as fc
from benchmarks.contenders.base import lacking
from benchmarks.svd_problem import Triplets
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.svd_problem import SvdProblem


class FlatcoreTopSvd:
    """``flatcore.top_svd(A, k, tol=…)``."""

    name = "flatcore"

    def available(self) -> str | None:
        """None where flatcore has it."""
        return lacking(fc, "top_svd")

    def prepare(self, problem: SvdProblem, stage: Stages) -> Callable[[int], Triplets]:
        """Nothing is done in advance."""

        def answer(k: int) -> Triplets:
            found = fc.top_svd(problem.A, k, tol=problem.tol)
            return Triplets(found.U, found.s, found.Vt.T)

        return answer


CONTENDERS = {"top singular triplets": (FlatcoreTopSvd(),)}
