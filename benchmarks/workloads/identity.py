"""``identity``: widths 12, four layers, all W = I, Y = X Gaussian, n = 60: the top eigenvalue is exactly 12-fold.

Every run asks for twelve eigenvalues and counts as missing if they are not all copies; tolerances are the defaults.
flatcore answers three times: by the route of its cost model (the Gauss–Newton dual, so small that LAPACK solves all of
it and no copy can be missed), by blocks as wide as the value is multiple, and vector by vector, where only the probe
finds more copies than the first run did.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contenders import answering
from benchmarks.identity_problem import identity_problem
from benchmarks.runner import Case, CaseResult, Options, Target, Workload, at_most, entries_for
from benchmarks.timing import Yardsticks

RUNS, QUICK_RUNS = 200, 10


def cases(options: Options) -> Iterator[Case]:
    """All runs at once."""
    runs = QUICK_RUNS if options.quick else RUNS
    yield Case(f"{runs} seeds, k = 12", entries_for(answering("copies"), identity_problem(runs)))


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """P6, of the worst of flatcore's methods; unknown where one was left out."""
    methods = [entry for entry in results[0].entries if entry.label.startswith("flatcore")]
    missed = [entry.quality["runs that miss a copy"] for entry in methods]
    complete = missed and not any(label.startswith("flatcore") for label in results[0].missing)
    return [at_most(f"P6 runs of {RUNS} that miss a copy", max(missed) if complete else None, 0)]


WORKLOAD = Workload("identity", "copies of an exactly 12-fold eigenvalue, k = 12", cases, targets, "P6")
