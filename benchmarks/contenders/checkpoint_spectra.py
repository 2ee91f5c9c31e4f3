"""Spectra of files: flatcore's analysis, all singular values as WeightWatcher computes them, and the reading alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

import flatcore as fc
from benchmarks.checkpoint_problem import Spectra
from benchmarks.contenders.base import lacking, missing
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

    name = "torch.linalg.svdvals"

    def available(self) -> str | None:
        """None where torch is installed."""
        return missing("torch", "'flatcore[torch]'")

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
                        p = values / values.sum()
                        rank = float(np.exp(-np.sum(p * np.log(np.maximum(p, 1e-300)))))
                        out.norms[file.name, name] = float(values[0]), float(np.linalg.norm(values))
                        out.ranks[file.name, name] = rank, 0.0
            return out

        return answer


class WeightWatcherFiles:
    """``WeightWatcher(model).analyze()`` of all layers, which also fits power laws; it has no effective rank."""

    name = "WeightWatcher analyze"

    def available(self) -> str | None:
        """None where torch and WeightWatcher are installed."""
        return missing("torch", "'flatcore[torch]'") or missing("weightwatcher", "weightwatcher==0.7.7")

    def prepare(self, problem: SpectraProblem, stage: Stages) -> Callable[[SpectraProblem], Spectra]:
        """Nothing is done in advance."""
        import torch
        import weightwatcher
        from safetensors import safe_open

        logging.getLogger("weightwatcher").setLevel(logging.ERROR)

        def answer(problem: SpectraProblem) -> Spectra:
            out = Spectra({}, {}, {})
            for file in problem.files:
                with safe_open(file, "pt") as tensors:
                    names = list(tensors.keys())
                    layers = [torch.nn.Linear(1, 1, bias=False, device="meta") for _ in names]
                    for layer, name in zip(layers, names, strict=True):
                        weight = tensors.get_tensor(name).float()
                        layer.out_features, layer.in_features = weight.shape
                        layer.weight = torch.nn.Parameter(weight)
                    details = weightwatcher.WeightWatcher(model=torch.nn.Sequential(*layers)).analyze()
                squares = details["stable_rank"] * details["lambda_max"]
                for name, spectral, square in zip(names, details["sv_max"], squares, strict=True):
                    out.norms[file.name, name] = float(spectral), float(square) ** 0.5
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
