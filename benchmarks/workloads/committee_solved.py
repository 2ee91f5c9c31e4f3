"""``committee-solved``: of ten fresh seeds, how many each solver solves where it is expected to, and how long it takes.

Expected are eight of ten; six near the capacity and of cross-entropy's faster schedules.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.runner import Case, CaseResult, Options, Target, Workload, at_least, entries_for
from benchmarks.solving_problem import SOLVED, Solver, SolvingProblem
from benchmarks.timing import Yardsticks
from flatcore import wfm

MOST, SOME = 8, 6
_CONTINUOUS = {
    f"K = {K}, n = {n}, α = {alpha:g}": (wfm.Committee(K * n, K, weights="continuous"), alpha)
    for K, n, alpha in ((9, 51, 1.0), (9, 51, 1.5), (9, 101, 1.0), (1, 201, 1.2))
} | {"full, K = 5, n = 101, α = 1": (wfm.Committee(101, 5, "full", weights="continuous"), 1.0)}
_BINARY = {
    f"K = {K}, n = {n}, α = {alpha:g}": (wfm.Committee(K * n, K), alpha)
    for K, n, alphas in ((1, 201, (0.3, 0.6)), (3, 101, (0.3, 0.4)), (5, 101, (0.3, 0.4)))
    for alpha in alphas
} | {"full, K = 3, n = 101, α = 0.3": (wfm.Committee(101, 3, "full"), 0.3)}
_TREE = _CONTINUOUS["K = 9, n = 51, α = 1"]


def tasks() -> Iterator[tuple[str, Any, Any, float, int]]:
    """A title, the solver, the machine, its load, and how many seeds are expected."""
    for form in ("edge", "amp"):
        for machine, (model, alpha) in _BINARY.items():
            for schedule in ("reinforcement", "pseudo", "scoping"):
                solver = partial(wfm.focusing_bp, form=form, schedule=schedule)
                yield f"focusing BP, {form}, {schedule}, {machine}", solver, model, alpha, MOST
        for machine, (model, alpha) in _CONTINUOUS.items():
            for stop in ("first", "end"):
                solver = partial(wfm.focusing_bp, form=form, stop=stop)
                yield f"focusing BP, {form}, {stop}, continuous {machine}", solver, model, alpha, MOST
    amp = partial(wfm.focusing_bp, form="amp")
    yield "focusing BP, amp, N = 10,001, α = 0.6", partial(amp, dtype="float32"), wfm.Committee(10_001), 0.6, MOST
    yield "focusing BP, amp, N = 2,001, α = 0.7", amp, wfm.Committee(2001), 0.7, MOST
    yield "focusing BP, amp, step 0.0001, N = 2,001, α = 0.74", partial(amp, step=1e-4), wfm.Committee(2001), 0.74, SOME
    yield "least action, K = 5, n = 101, α = 0.3", wfm.least_action, wfm.Committee(505, 5), 0.3, MOST
    yield "replicas, K = 5, n = 321, α = 0.5", wfm.replicated_sgd, wfm.Committee(1605, 5), 802 / 1605, MOST
    yield "least action, continuous tree", wfm.least_action, *_TREE, MOST
    for rule in "AB":
        yield f"rule {rule}, continuous tree", partial(wfm.entropic_least_action, rule=rule), *_TREE, MOST
    for schedule in ("slow", "fast", "slow_reduction", "fast_reduction"):
        solver = partial(wfm.cross_entropy_sgd, schedule=schedule)
        yield f"cross-entropy, {schedule}, continuous tree", solver, *_TREE, MOST if schedule == "slow" else SOME


def cases(options: Options) -> Iterator[Case]:
    """One for each task; with --quick three of one seed."""
    some = list(tasks())
    for title, solver, model, alpha, _ in some[:: len(some) // 3] if options.quick else some:
        if options.quick:
            model, alpha = wfm.Committee(63, 3, weights=model.weights), 0.2
        problem = SolvingProblem(solver, model, alpha, 1 if options.quick else 10)
        rounds = None if options.quick else 1
        yield Case(title, entries_for((Solver(),), problem), matmul_sizes=(), rounds=rounds)


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """Seeds solved of ten."""
    expected = {title: least for title, *_, least in tasks()}
    solved = {case.name: case.entry("flatcore") for case in results}
    return [
        at_least(f"{title}: solved", None if entry is None else entry.quality[SOLVED], expected[title])
        for title, entry in solved.items()
    ]


WORKLOAD = Workload("committee-solved", "solvers of committees on ten fresh seeds", cases, targets)
