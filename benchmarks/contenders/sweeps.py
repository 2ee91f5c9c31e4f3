"""flatcore's sweep over a trajectory, in this process, from the checkpoints before and from nothing."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import flatcore as fc
from benchmarks.contenders.base import lacking
from benchmarks.sweep_problem import SweepAnswer
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.sweep_problem import SweepProblem


class FlatcoreSweep:
    """``flatcore.sweep.sweep(files, "results.jsonl", warm=…)``, everything about it included."""

    def __init__(self, name: str, warm: bool) -> None:
        self.name, self._warm = name, warm

    def available(self) -> str | None:
        """None where flatcore has it."""
        return lacking(fc, "sweep")

    def prepare(self, problem: SweepProblem, stage: Stages) -> Callable[[SweepProblem], SweepAnswer]:
        """Nothing is done in advance."""

        def answer(problem: SweepProblem) -> SweepAnswer:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder, "results.jsonl")
                fc.sweep.sweep(problem.files, out, k=problem.k, warm=self._warm, spectra_only=problem.spectra_only)
                rows = [json.loads(line) for line in out.read_text().splitlines()]
            return _answer([row for row in rows if row["part"] == "tensor"], problem.k)

        return answer


def _answer(rows: list[dict[str, Any]], k: int) -> SweepAnswer:
    names = [f"sigma_{i}" for i in range(1, k + 1)]
    values = {(Path(r["path"]).name, r["name"]): np.array([r[n] for n in names if n in r]) for r in rows}
    entries = [math.prod(map(int, row["shape"].split("x"))) for row in rows]
    reads = sum(row["reads"] * count for row, count in zip(rows, entries, strict=True)) / sum(entries)
    return SweepAnswer(values, reads)


CONTENDERS = {
    "sweep": (FlatcoreSweep("flatcore, warm", True), FlatcoreSweep("flatcore, cold", False)),
}
