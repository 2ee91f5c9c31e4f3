"""``monitor``: the sharpness of ``mlp`` in training, every 20 steps from 200 to 600, from one measurement to the next.

SGD, lr 0.05, batches of 128; measured on a fixed batch of 1,024 to 1e-2·λ. Judged are the products of a followed
measurement over those of a cold start that stops at the same residual and spends nothing on certifying it: both sides
do as little as their method can.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contenders import answering
from benchmarks.contenders.monitor_flatcore import CERTIFIED, COLD, FOLLOWED, LANCZOS
from benchmarks.model_problem import Mlp
from benchmarks.monitor_problem import MonitorProblem
from benchmarks.runner import Case, CaseResult, Options, Target, Workload, at_most, entries_for
from benchmarks.timing import Yardsticks

FULL, QUICK = Mlp((784, 1024, 1024, 1024), samples=1024), Mlp((20, 24, 24), samples=128)
STEPS, QUICK_STEPS = tuple(range(200, 601, 20)), tuple(range(200, 321, 20))
DATA = ("classes", "teacher")


def cases(options: Options) -> Iterator[Case]:
    """Both sets of data."""
    architecture, steps = (QUICK, QUICK_STEPS) if options.quick else (FULL, STEPS)
    for data in DATA:
        entries = entries_for(answering("sharpness along a training"), MonitorProblem(architecture, data, steps, 1e-2))
        yield Case(f"{data}, {len(steps) - 1} measurements", entries, rounds=None if options.quick else 1)


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """At most a quarter of a cold start's products, of either kind and on both sets of data."""
    return [
        at_most(f"{data}: products over a cold start's, {what}", _ratio(case, entry, base, figure), 0.25)
        for data, case in zip(DATA, results, strict=True)
        for what, entry, base, figure in (
            ("medians, followed over plain Lanczos", FOLLOWED, LANCZOS, "products, median"),
            ("means, the monitor over eigsh, both certified", CERTIFIED, COLD, "products, mean"),
        )
    ]


def _ratio(case: CaseResult, label: str, base: str, figure: str) -> float | None:
    entry, cold = case.entry(label), case.entry(base)
    return None if entry is None or cold is None else entry.quality[figure] / cold.quality[figure]


WORKLOAD = Workload("monitor", "sharpness along a training of mlp, followed, tol 1e-2", cases, targets)
