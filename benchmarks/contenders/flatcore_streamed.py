"""flatcore's sharpness of a chain in a memory-mapped file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import flatcore as fc
from benchmarks.huge_problem import StreamedAnswer
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.huge_problem import HugeProblem


class FlatcoreStreamed:
    """``flatcore.sharpness(chain, loss, tol=…)``."""

    name = "flatcore"

    def available(self) -> str | None:
        """Always."""
        return None

    def prepare(self, problem: HugeProblem, stage: Stages) -> Callable[[Any], StreamedAnswer]:
        """Map the weights; everything else belongs to the call."""
        chain = fc.LinearChain(problem.weights)
        inputs, targets = problem.data()

        def answer(_: Any) -> StreamedAnswer:
            loss = fc.QuadraticLoss(inputs, targets, reduction="mean")
            found = fc.sharpness(chain, loss, tol=problem.tol)
            return StreamedAnswer(float(found.values[0]), float(found.residuals[0]), lambda: found.layers(0))

        return answer


CONTENDERS = {"streamed sharpness": (FlatcoreStreamed(),)}
