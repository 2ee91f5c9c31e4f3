"""``sweep-warm``: a sweep along a real training trajectory, warm against cold.

The study ``nonlinear``'s ReLU network, 4096 and 2048 wide, learns the digits by full-batch gradient descent; a
checkpoint every four steps (``benchmarks/trajectory.py``; 5.7 GB in all). Both sweeps find the eight largest singular
values of every tensor, certified. Two cases each: spectra alone, and everything that an analysis computes. At 2048 what
does not shrink with the passes takes a third of a warm sweep: files, tables, journals, and small problems.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.contenders import answering
from benchmarks.runner import Case, CaseResult, Options, Target, Workload, at_least, entries_for, peer_ratio
from benchmarks.sweep_problem import SweepProblem
from benchmarks.timing import Yardsticks
from benchmarks.trajectory import train

K, COLD = 8, "flatcore, cold"
# Width, step size, and how many checkpoints from one that LAPACK checks to the next.
WIDTHS, QUICK = ((4096, 0.01, 10), (2048, 0.02, 1)), ((96, 0.02, 1),)


def cases(options: Options) -> Iterator[Case]:
    """Spectra alone, and everything."""
    steps, apart = (12, 4) if options.quick else (120, 4)
    for width, step_size, every in QUICK if options.quick else WIDTHS:
        folder = (options.scratch or Path(tempfile.gettempdir())) / f"flatcore-trajectory-{width}-{steps}-{apart}"
        files = train(folder, width=width, step_size=step_size, steps=steps, every=apart)
        for name, spectra_only in (("spectra alone", True), ("whole analyses", False)):
            problem = SweepProblem(files, K, spectra_only, every)
            yield Case(f"{len(files)} checkpoints, width {width}: {name}", entries_for(answering("sweep"), problem))


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """Warm against cold: seconds, and passes of spectra alone at the first width."""
    out = []
    for case in results:
        cold = case.entry(COLD)
        out.append(at_least(f"warm sweeps times faster than cold ones, {case.name}", peer_ratio(cold), 3))
    warm, cold = results[0].entries[0], results[0].entry(COLD)
    reads = None if cold is None else cold.quality["reads"] / warm.quality["reads"]
    return [*out, at_least(f"the same in passes over the matrices, {results[0].name}", reads, 3)]


WORKLOAD = Workload("sweep-warm", "spectra along a training trajectory, warm against cold", cases, targets)
