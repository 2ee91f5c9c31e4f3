"""``least-action``: epochs of least action learning, N = 1001 with K = 1 and 7, N = 999 with K = 9, trees.

Vectorised NumPy runs the same algorithm in the same orders on one thread, as flatcore does: learning is one pattern
after another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contenders.on_threads import OnThreads
from benchmarks.contenders.online_flatcore import FlatcoreOnline
from benchmarks.contenders.online_numpy import NumpyOnline
from benchmarks.online_problem import tree
from benchmarks.runner import Case, CaseResult, Options, Target, Workload, at_least, entries_for, peer_ratio
from benchmarks.timing import Yardsticks

SAME = (FlatcoreOnline(), NumpyOnline())
SERIAL = tuple(OnThreads(contender, 1) for contender in SAME)
MACHINES = ((1001, 1), (1001, 7), (999, 9))
LOADS = {"binary": 0.3, "continuous": 1.0}


def cases(options: Options) -> Iterator[Case]:
    """Both kinds of weights on each machine."""
    epochs, machines = (2, MACHINES[-1:]) if options.quick else (10, MACHINES)
    for weights, alpha in LOADS.items():
        for n_inputs, n_hidden in machines:
            problem = tree("least action", n_inputs, n_hidden, weights, alpha, epochs)
            yield Case(f"N = {n_inputs}, K = {n_hidden}, {weights}", entries_for(SERIAL, problem))


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """30 times NumPy for each machine."""
    return [
        at_least(f"times faster than NumPy, {case.name}", peer_ratio(case.entry(NumpyOnline.name)), 30)
        for case in results
    ]


WORKLOAD = Workload("least-action", "epochs of least action learning, trees, α = 0.3 and 1", cases, targets, "")
