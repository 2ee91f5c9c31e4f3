"""Spectra of files: flatcore's analysis, all singular values as WeightWatcher computes them, and the reading alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

import flatcore as fc
from benchmarks.checkpoint_problem import Spectra
from benchmarks.contenders.base import lacking
from benchmarks.contenders.layer_spectra import TorchValues, WeightWatcherAnalyze, watched_norms, watcher_of
from benchmarks.dense import effective_rank
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.checkpoint_problem import ReadingProblem, SpectraProblem

_BUFFER = 1 << 23


class FlatcoreAnalysis:
    """``analyze_checkpoint``: norms, certified top values, effective ranks; coupling and balance of the layers too."""

    name = "flatcore"

    def available(self) -> str | None:
        """None where flatcore has it."""
        return lacking(fc, "checkpoints")

    def prepare(self, problem: SpectraProblem, stage: Stages) -> Callable[[SpectraProblem], Spectra]:
        """Nothing is done in advance."""

        def answer(problem: SpectraProblem) -> Spectra:
            out = Spectra({}, {}, {})
            for file in problem.files:
                for t in fc.checkpoints.analyze_checkpoint(file, problem.k).tensors:
                    key = file.name, t.name
                    out.norms[key] = t.spectral, t.frobenius
                    out.ranks[key] = t.effective_rank, t.effective_rank_error
                    out.steps[key] = t.reads, t.rank_reads
            return out

        return answer


class FullDecompositions:
    """``torch.linalg.svdvals`` of every layer in float32, and the measures from all values."""

    name, available = TorchValues.name, TorchValues.available

    def prepare(self, problem: SpectraProblem, stage: Stages) -> Callable[[SpectraProblem], Spectra]:
        """Nothing is done in advance."""
        import torch
        from safetensors import safe_open

        def answer(problem: SpectraProblem) -> Spectra:
            out = Spectra({}, {}, {})
            for file in problem.files:
                with safe_open(file, "pt") as tensors:
                    for name in tensors.keys():  # noqa: SIM118  (it has no iterator)
                        values = torch.linalg.svdvals(tensors.get_tensor(name).float()).double().numpy()
                        out.norms[file.name, name] = float(values[0]), float(np.linalg.norm(values))
                        out.ranks[file.name, name] = effective_rank(values), 0.0
            return out

        return answer


class WeightWatcherFiles:
    """``WeightWatcher(model).analyze()`` of all layers, which also fits power laws; it has no effective rank."""

    name, available = WeightWatcherAnalyze.name, WeightWatcherAnalyze.available

    def prepare(self, problem: SpectraProblem, stage: Stages) -> Callable[[SpectraProblem], Spectra]:
        """Nothing is done in advance."""
        from safetensors import safe_open

        def answer(problem: SpectraProblem) -> Spectra:
            out = Spectra({}, {}, {})
            for file in problem.files:
                with safe_open(file, "pt") as tensors:
                    names = list(tensors.keys())
                    found = watched_norms(watcher_of([tensors.get_tensor(name).float() for name in names]))
                for name, spectral, frobenius in zip(names, found.spectral, found.frobenius, strict=True):
                    out.norms[file.name, name] = float(spectral), float(frobenius)
            return out

        return answer


class Reading:
    """All bytes of the files into one buffer."""

    name = "reading the files alone"

    def available(self) -> str | None:
        """Always."""
        return None

    def prepare(self, problem: ReadingProblem, stage: Stages) -> Callable[[Sequence[Path]], int]:
        """A buffer."""
        buffer = bytearray(_BUFFER)

        def answer(files: Sequence[Path]) -> int:
            total = 0
            for file in files:
                with file.open("rb", buffering=0) as stream:
                    while count := stream.readinto(buffer):
                        total += count
            return total

        return answer
