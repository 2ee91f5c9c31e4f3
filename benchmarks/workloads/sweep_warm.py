"""``sweep-warm``: a sweep along a real training trajectory, warm against cold.

The study ``nonlinear``'s ReLU network, 2048 wide, learns the digits by full-batch gradient descent; a checkpoint every
four steps (``benchmarks/trajectory.py``). Both sweeps find the eight largest singular values of every tensor,
certified. Two cases: spectra alone, and everything that an analysis computes, where effective ranks and the balance of
pairs take most of the time, warm or not.
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


def cases(options: Options) -> Iterator[Case]:
    """Spectra alone, and everything."""
    width, steps, every = (96, 12, 4) if options.quick else (2048, 120, 4)
    folder = (options.scratch or Path(tempfile.gettempdir())) / f"flatcore-trajectory-{width}-{steps}-{every}"
    files = train(folder, width=width, step_size=0.02, steps=steps, every=every)
    for name, spectra_only in (("spectra alone", True), ("whole analyses", False)):
        problem = SweepProblem(files, K, spectra_only)
        yield Case(f"{len(files)} checkpoints, width {width}: {name}", entries_for(answering("sweep"), problem))


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """Warm against cold: seconds and passes."""
    spectra = results[0]
    warm, cold = spectra.entries[0], spectra.entry(COLD)
    reads = None if cold is None else cold.quality["reads"] / warm.quality["reads"]
    return [
        at_least("warm sweeps times faster than cold ones", peer_ratio(cold), 3),
        at_least("the same in passes over the matrices", reads, 3),
    ]


WORKLOAD = Workload("sweep-warm", "spectra along a training trajectory, warm against cold", cases, targets)
