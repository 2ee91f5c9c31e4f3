"""flatcore's sweeps of belief propagation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import flatcore as fc
from benchmarks.contenders.base import Array
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.fbp_problem import SweepProblem


class FlatcoreSweeps:
    """The states that ``focusing_bp`` sweeps."""

    name = "flatcore"

    def available(self) -> str | None:
        """None where flatcore has it."""
        try:
            import flatcore.wfm.message_passing  # noqa: F401
        except ImportError:
            return f"flatcore {fc.__version__} has no message passing"
        return None

    def prepare(self, problem: SweepProblem, stage: Stages) -> Callable[[Array], Array]:
        """A state, set back to the start in each call."""
        from flatcore.wfm.message_passing import BinaryAmp, BinaryEdges

        rng = np.random.default_rng(0)
        state: Any
        with stage("state"):
            if problem.form == "edge":
                state = BinaryEdges(problem.model, problem.patterns, rng, problem.damping)
            else:
                state = BinaryAmp(problem.model, problem.patterns, rng, problem.damping, np.float32)

        def answer(field: Array) -> Array:
            if problem.form == "edge":
                state.messages[..., : problem.model.fan_in] = problem.messages
                state.sums = problem.messages.sum(axis=0)
            else:
                state.sums, state.outputs[:] = problem.sums.copy(), 0.0
            for _ in range(problem.sweeps):
                state.sweep(field)
            return np.asarray(state.sums)

        return answer


CONTENDERS = {"sweeps of belief propagation": (FlatcoreSweeps(),)}
