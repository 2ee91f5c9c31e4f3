"""flatcore's analyze_many: a thread a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import flatcore as fc
from benchmarks.contenders.base import Array
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.many_problem import ManyAnswer, ManyProblem


class FlatcoreMany:
    """``flatcore.analyze_many``."""

    name = "flatcore"

    def available(self) -> str | None:
        """None where flatcore has it."""
        return None if hasattr(fc, "analyze_many") else f"flatcore {fc.__version__} has no analyze_many"

    def prepare(self, problem: ManyProblem, stage: Stages) -> Callable[[Array], ManyAnswer]:
        """The loss's moments."""
        with stage("moments of the data"):
            loss = fc.QuadraticLoss(problem.inputs, problem.targets)

        def answer(weights: Array) -> ManyAnswer:
            result = fc.analyze_many(list(weights), loss, tol=problem.tol, measures=False)
            return result.values[:, 0], result.residuals[:, 0]

        return answer


CONTENDERS = {"sharpness of many chains": (FlatcoreMany(),)}
