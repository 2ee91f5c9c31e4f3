"""``checkpoints``: spectra of files of 4096-wide layers, beside reading and multiplying their bytes, and full SVDs.

Ten layers of 11,008 × 4,096 in one file (an MLP's, of a Llama of seven billion parameters), float32 and bfloat16,
against the model of ``benchmarks/checkpoint_problem.py``; four files of one layer each, such ones and of 4,096 × 4,096,
against all singular values of every layer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.checkpoint_problem import ReadingProblem, SpectraProblem, model_seconds, write_layers
from benchmarks.contenders.checkpoint_spectra import FlatcoreAnalysis, FullDecompositions, Reading, WeightWatcherFiles
from benchmarks.runner import Case, CaseResult, Entry, Options, Target, Workload, at_least, entries_for, peer_ratio
from benchmarks.timing import Yardsticks

FLATCORE, READING = FlatcoreAnalysis(), Reading()
FULL, WATCHER = FullDecompositions(), WeightWatcherFiles()


def cases(options: Options) -> Iterator[Case]:
    """A file in each precision, then a folder."""
    tall, square, layers = ((260, 96), (96, 96), 2) if options.quick else ((11008, 4096), (4096, 4096), 10)
    size = f"{tall[0]:,} × {tall[1]:,}"
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        for dtype in ("float32", "bfloat16"):
            file = write_layers(Path(folder, f"{dtype}.safetensors"), [tall] * layers, dtype)
            entries = [
                *entries_for([FLATCORE], SpectraProblem([file])),
                Entry(READING, ReadingProblem([file]), READING.name),
            ]
            yield Case(f"{layers} layers {size}, {dtype}", entries, compares=False)
            file.unlink()
        shapes = (square, tall, tall, square)
        many = [
            write_layers(Path(folder, f"{j}.safetensors"), [shape], "float32", seed=j) for j, shape in enumerate(shapes)
        ]
        name = f"4 files of one layer, {square[0]:,} × {square[1]:,} or {size}, float32"
        yield Case(name, entries_for([FLATCORE, FULL, WATCHER], SpectraProblem(many)), rounds=3)


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """Half of the model's rate; ten times full decompositions, bare ones and WeightWatcher's."""
    out = []
    for case in results:
        reading = case.entry(READING.name)
        if reading is None:
            for peer in (FULL.name, WATCHER.name):
                out.append(at_least(f"times faster than {peer}", peer_ratio(case.entry(peer)), 10))
            continue
        ours = case.entry(FLATCORE.name)
        model = None if ours is None else model_seconds(ours.quality, reading.median, yardsticks)
        share = None if ours is None or model is None else model / ours.median
        out.append(at_least(f"share of the rate of reading and multiplying, {case.name}", share, 0.5))
    return out


WORKLOAD = Workload("checkpoints", "spectra of files of 4096-wide layers", cases, targets)
