"""flatcore's epochs of the online rules, on bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

import flatcore as fc
from benchmarks.contenders.base import Array, lacking
from benchmarks.timing import Stages
from flatcore import _core

if TYPE_CHECKING:
    from benchmarks.online_problem import OnlineProblem


class FlatcoreOnline:
    """The kernels under ``flatcore.wfm``'s solvers, and the normalisation that ends an entropic rule's epochs."""

    name = "flatcore"

    def available(self) -> str | None:
        """None where flatcore has them."""
        return lacking(fc.wfm, "replicated_sgd")

    def prepare(self, problem: OnlineProblem, stage: Stages) -> Callable[[Array], Array]:
        """The patterns one after another."""
        from flatcore.wfm.patterns import rows_of

        with stage("patterns by rows"):
            rows = rows_of(problem.patterns)
        epoch = _EPOCHS[problem.rule]

        def answer(start: Array) -> Array:
            weights = start.copy()
            for number, order in enumerate(problem.orders):
                weights = epoch(problem, rows, number, order, weights)
            return weights

        return answer


def _least_action(problem: OnlineProblem, rows: Any, number: int, order: Array, weights: Array) -> Array:
    _core.wfm_least_action(rows, problem.patterns.labels, False, order, weights)
    return weights


def _margin(problem: OnlineProblem, rows: Any, number: int, order: Array, weights: Array) -> Array:
    _core.wfm_margin(rows, problem.patterns.labels, order, problem.delta(number), weights)
    return fc.wfm.models.normalised(problem.model, weights)


def _perturbed(problem: OnlineProblem, rows: Any, number: int, order: Array, weights: Array) -> Array:
    from benchmarks.online_problem import STEP

    delta = problem.delta(number)
    _core.wfm_perturbed(rows, problem.patterns.labels, order, delta, STEP * delta, weights)
    return fc.wfm.models.normalised(problem.model, weights)


def _replicas(problem: OnlineProblem, rows: Any, number: int, orders: Array, weights: Array) -> Array:
    from benchmarks import online_problem as p

    gamma = p.GAMMA + p.GAMMA_STEP * number
    labels, orders = problem.patterns.labels, np.ascontiguousarray(orders)
    _core.wfm_replicated(rows, labels, False, orders, p.REPLICA_BATCH, p.COUPLING, gamma, weights)
    return weights


def _cross_entropy(problem: OnlineProblem, rows: Any, number: int, order: Array, weights: Array) -> Array:
    from benchmarks import online_problem as p

    beta = p.SHARPNESS * p.GROWTH**number
    _core.wfm_descent(rows, problem.patterns.labels, False, beta, beta, order, p.BATCH, p.RATE, weights)
    return weights


_EPOCHS: dict[str, Callable[[OnlineProblem, Any, int, Array, Array], Array]] = {
    "least action": _least_action,
    "margin": _margin,
    "perturbed gradient": _perturbed,
    "replicas": _replicas,
    "cross-entropy": _cross_entropy,
}
CONTENDERS = {"online rule": (FlatcoreOnline(),)}
