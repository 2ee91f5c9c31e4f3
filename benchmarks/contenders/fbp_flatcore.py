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
        return _binary(problem, stage) if problem.model.weights == "binary" else _continuous(problem, stage)


def _binary(problem: SweepProblem, stage: Stages) -> Callable[[Array], Array]:
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


def _continuous(problem: SweepProblem, stage: Stages) -> Callable[[Array], Array]:
    from flatcore.wfm.focusing_bp import focused_law
    from flatcore.wfm.message_passing import GaussianAmp, GaussianEdges

    state: Any
    with stage("state"):
        if problem.form == "edge":
            state = GaussianEdges(problem.model, problem.patterns)
        else:
            state = GaussianAmp(problem.model, problem.patterns, np.float32)

    def answer(means: Array) -> Array:
        for array in (state.messages if problem.form == "edge" else state.outputs, state.gamma):
            array[:] = 0.0
        variances = np.ones(problem.model.n_hidden)
        for sweep in range(problem.sweeps):
            state.sweep(means, variances, problem.damping if sweep else 0.0)
            means, variances = focused_law(state.fields, state.precisions, problem.gamma(sweep))
        return means

    return answer


CONTENDERS = {"sweeps of belief propagation": (FlatcoreSweeps(),)}
