"""``huge``: the largest Hessian eigenvalue of 784 → 16,384 × 7 → 10, 1.62 billion weights in a mapped file of 6.5 GB.

It runs in a process of its own whose anonymous memory is sampled; pages of the mapped file do not count.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.contenders import answering
from benchmarks.huge_problem import HugeProblem, written
from benchmarks.process import Address, Remote, RemoteProblem
from benchmarks.runner import Case, CaseResult, Entry, Options, Target, Workload, at_most, entries_for, entry_median
from benchmarks.timing import Yardsticks


def inside(options: Options) -> Iterator[Case]:
    """What the process of its own runs."""
    hidden, samples = (256, 256) if options.quick else (16_384, 1024)
    widths = [784, *[hidden] * 7, 10]
    folder = options.scratch or Path(tempfile.gettempdir())
    problem = HugeProblem(written(folder, widths), widths, samples, 1e-4)
    yield Case(f"784 → {hidden:,} × 7 → 10, top 1", entries_for(answering("streamed sharpness"), problem))


def cases(options: Options) -> Iterator[Case]:
    """The same entries, each elsewhere."""
    for number, case in enumerate(inside(options)):
        address = Address.of(inside, number)
        entries = [
            Entry(Remote(entry.label, address.entry(i), options), RemoteProblem(entry.problem), entry.label)
            for i, entry in enumerate(case.entries)
        ]
        yield Case(case.name, entries)


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """P5."""
    flatcore = results[0].entry("flatcore")
    memory = None if flatcore is None else flatcore.memory
    return [
        at_most("P5 GB of anonymous memory at the peak", None if memory is None else memory.peak / 1e9, 3),
        at_most("P5 seconds", entry_median(flatcore), 180),
    ]


WORKLOAD = Workload("huge", "top Hessian eigenvalue of 1.62 billion mapped weights, tol 1e-4", cases, targets, "P5")
