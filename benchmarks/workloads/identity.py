"""``identity``: widths 12, four layers, all W = I, Y = X Gaussian, n = 60: the top eigenvalue is exactly 12-fold.

Every run asks for twelve eigenvalues and counts as missing if they are not all copies; tolerances are the defaults.
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
    """P6."""
    flatcore = results[0].entry("flatcore")
    missed = None if flatcore is None else flatcore.quality["runs that miss a copy"]
    return [at_most(f"P6 runs of {RUNS} that miss a copy", missed, 0)]


WORKLOAD = Workload("identity", "copies of an exactly 12-fold eigenvalue, k = 12", cases, targets, "P6")
