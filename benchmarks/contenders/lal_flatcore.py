"""flatcore's epochs of least action learning, on bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import flatcore as fc
from benchmarks.contenders.base import Array, lacking
from benchmarks.timing import Stages
from flatcore import _core

if TYPE_CHECKING:
    from benchmarks.online_problem import OnlineProblem


class FlatcoreLeastAction:
    """The kernel under ``flatcore.wfm.least_action``."""

    name = "flatcore"

    def available(self) -> str | None:
        """None where flatcore has it."""
        return lacking(fc.wfm, "least_action")

    def prepare(self, problem: OnlineProblem, stage: Stages) -> Callable[[Array], Array]:
        """The patterns one after another."""
        from flatcore.wfm.patterns import rows_of

        with stage("patterns by rows"):
            rows = rows_of(problem.patterns)

        def answer(start: Array) -> Array:
            weights = start.copy()
            for order in problem.orders:
                _core.wfm_least_action(rows, problem.patterns.labels, False, order, weights)
            return weights

        return answer


CONTENDERS = {"least action learning": (FlatcoreLeastAction(),)}
