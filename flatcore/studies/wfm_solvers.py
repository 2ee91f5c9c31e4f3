"""The solvers that the study ``wfm`` compares, by name, and the grids on which it measures.

Each row of an experiment's results belongs to the solver at its place in one of these tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from flatcore import wfm

Solver = Callable[..., Any]  # (model, patterns, seed=, **options) → WfmResult

LAL, RULE_A, RULE_B = "LAL", "entropic LAL, rule A", "entropic LAL, rule B"
SLOW, FAST = "cross-entropy, slow growth", "cross-entropy, fast growth"
SLOW_DOWN, FAST_DOWN = "cross-entropy, slow reduction", "cross-entropy, fast reduction"
EDGES_FIRST, EDGES_END = "focusing BP on edges, first", "focusing BP on edges, end"
AMP_FIRST, AMP_END = "focusing BP by AMP, first", "focusing BP by AMP, end"
REPLICATED, PLANTED = "replicated SGD", "planted"
FOCUSING: Mapping[str, Solver] = {
    EDGES_FIRST: partial(wfm.focusing_bp, form="edge", stop="first"),
    EDGES_END: partial(wfm.focusing_bp, form="edge", stop="end"),
    AMP_FIRST: partial(wfm.focusing_bp, form="amp", stop="first"),
    AMP_END: partial(wfm.focusing_bp, form="amp", stop="end"),
}
CONTINUOUS: Mapping[str, Solver] = {
    LAL: wfm.least_action,
    RULE_A: partial(wfm.entropic_least_action, rule="A"),
    RULE_B: partial(wfm.entropic_least_action, rule="B"),
    FAST: partial(wfm.cross_entropy_sgd, schedule="fast"),
    SLOW: partial(wfm.cross_entropy_sgd, schedule="slow"),
    FAST_DOWN: partial(wfm.cross_entropy_sgd, schedule="fast_reduction"),
    SLOW_DOWN: partial(wfm.cross_entropy_sgd, schedule="slow_reduction"),
    **FOCUSING,
}
BINARY: Mapping[str, Solver] = {LAL: wfm.least_action, REPLICATED: wfm.replicated_sgd, **FOCUSING}


def chosen(solvers: Mapping[str, Solver], names: Iterable[str]) -> dict[str, Solver]:
    """Those of the solvers, in the order of `names`."""
    return {name: solvers[name] for name in names}


# Where only solving counts, or the first solution: the ends of the schedules add nothing.
TRIED_BINARY = chosen(BINARY, (LAL, REPLICATED, EDGES_FIRST, AMP_FIRST))
TRIED_CONTINUOUS = chosen(CONTINUOUS, (LAL, RULE_A, RULE_B, SLOW, EDGES_FIRST, AMP_FIRST))
CENTRES = chosen(BINARY, (LAL, REPLICATED, AMP_END))  # around which solutions are counted, beside planted ones
CAPPED = (LAL, RULE_A, RULE_B)  # where loads are tried; others have schedules, which end by themselves

FLIPS = np.linspace(0.0, 0.3, 13)
NOISE = np.linspace(0.0, 0.5, 11)
OVERLAPS = np.array([0.5, 0.6, 0.7, 0.8, 0.86, 0.9, 0.94, 0.96, 0.98, 0.99])
LEVELS = np.linspace(0.0, 1.0, 101)  # of the margins' quantiles
CURVATURES = np.linspace(-0.2, 0.6, 161)  # n λ: eigenvalues of the cross-entropy's Hessian go as 1/n
BROADENING = 0.008  # of n λ
GAMMAS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
UNIT_SHARPNESS = 2.0  # β of minimisers whose γ moves alone
MODERATE = 2.0  # the γ that is compared with the largest
BOTH_MOVE = 5  # the first values of γ, up to where tanh βh of β = γ rounds to ±1


def at(grid: Any, value: float) -> int:
    """The place of a value in a grid."""
    return int(np.argmin(np.abs(np.asarray(grid) - value)))
