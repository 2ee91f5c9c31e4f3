"""The question "what are the spectra of these checkpoints?", what they cost at least, and how answers are checked.

Layers are Gaussian noise, whose values lie closest, with a few strong directions in every second one. The model of the
cost: each file is read once, at the rate at which its bytes can be read (a contender of its own), and every Krylov step
multiplies a tensor's bytes once, at the larger of bytes over the copy's rate and flops over the matrix product's: four
rows, 4·m·n flops a row. Steps are those that the analysis reports.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.base import Array
from benchmarks.dense import effective_rank, singular_values
from benchmarks.runner import Agreement
from benchmarks.timing import Yardsticks
from flatcore.io import open_checkpoint

ROWS = 4
TOLERANCE = 1e-4  # a residual bounds the error of a singular value


@dataclass(frozen=True)
class Spectra:
    """By file and tensor: ‖W‖₂, ‖W‖_F and the effective rank with its error; and Krylov steps, where there are any."""

    norms: dict[tuple[str, str], tuple[float, float]]
    ranks: dict[tuple[str, str], tuple[float, float]]
    steps: dict[tuple[str, str], tuple[int, int]]  # of the search, of the effective rank


@dataclass(frozen=True)
class SpectraProblem:
    """Files whose matrices are asked about."""

    files: Sequence[Path]
    k: int = 8

    work = None  # searches cannot be counted in advance
    dtype = "float32"

    @property
    def argument(self) -> SpectraProblem:
        """The problem itself."""
        return self

    def describe(self) -> dict[str, Any]:
        """What the JSON says about the files."""
        shapes = {tensor.shape for tensor in self._tensors.values()}
        dtypes = {tensor.dtype for tensor in self._tensors.values()}
        return {
            "files": len(self.files),
            "tensors": len(self._tensors),
            "bytes": sum(tensor.nbytes for tensor in self._tensors.values()),
            "shapes": sorted(map(list, shapes)),
            "dtypes": sorted(dtypes),
            "values": self.k,
        }

    @cached_property
    def _tensors(self) -> dict[tuple[str, str], Any]:
        found = {}
        for file in self.files:
            with open_checkpoint(file) as checkpoint:
                found |= {(file.name, name): tensor for name, tensor in checkpoint.items()}
        return found

    @cached_property
    def _exact(self) -> dict[tuple[str, str], Array]:
        """All singular values, in float64."""
        exact = {}
        for file in self.files:
            with open_checkpoint(file) as checkpoint:
                for name, tensor in checkpoint.items():
                    exact[file.name, name] = singular_values(tensor.load())
        return exact

    def agreements(self, answer: Spectra) -> list[Agreement]:
        """Norms to the tolerance of the searches; ranks to four of their errors."""
        if answer.norms.keys() != self._exact.keys():
            return [Agreement("the tensors of the files", float("inf"), 1.0)]
        norms = ranks = 0.0
        for key, values in self._exact.items():
            rank, exact = effective_rank(values), (float(values[0]), float(np.linalg.norm(values)))
            norms = max(norms, *(abs(a / b - 1.0) for a, b in zip(answer.norms[key], exact, strict=True)))
            if key in answer.ranks:
                value, error = answer.ranks[key]
                ranks = max(ranks, abs(value - rank) / (error + TOLERANCE * rank))
        return [
            Agreement("norms by LAPACK in float64", norms, TOLERANCE),
            Agreement("effective ranks by LAPACK, in their errors", ranks, 4.0),
        ]

    def quality(self, answer: Spectra) -> dict[str, float]:
        """What Krylov steps, of searches and of effective ranks, multiply: steps a tensor, bytes and flops of all."""
        out = {}
        for place, kind in enumerate(("search", "rank")):
            steps = {key: both[place] for key, both in answer.steps.items()}
            if not steps:
                continue
            entries = {key: float(np.prod(self._tensors[key].shape)) for key in steps}
            out[f"{kind} steps"] = sum(steps.values()) / len(steps)
            out[f"{kind} GB"] = sum(self._tensors[key].nbytes * count for key, count in steps.items()) / 1e9
            out[f"{kind} Tflop"] = sum(4.0 * entries[key] * ROWS * count for key, count in steps.items()) / 1e12
        return out


def model_seconds(quality: dict[str, float], read_seconds: float, yardsticks: Yardsticks) -> float | None:
    """What the model says, of the counts of a run and the seconds in which the files are read."""
    copy, matmul = yardsticks.copy, yardsticks.matmul("float32")
    if copy is None:
        return None
    steps = (
        max(1e9 * quality[f"{kind} GB"] / copy, 1e12 * quality[f"{kind} Tflop"] / matmul) for kind in ("search", "rank")
    )
    return read_seconds + sum(steps)


@dataclass(frozen=True)
class ReadingProblem:
    """How long the files' bytes take to read."""

    files: Sequence[Path]

    work = None
    dtype = "float32"

    @property
    def argument(self) -> Sequence[Path]:
        """The files."""
        return self.files

    def describe(self) -> dict[str, Any]:
        """What the JSON says about the files."""
        return {"files": len(self.files), "bytes": self._bytes}

    @property
    def _bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def agreements(self, answer: int) -> list[Agreement]:
        """All bytes were read."""
        return [Agreement("the files' sizes", abs(answer - self._bytes) / self._bytes, 1e-12)]  # one byte is more


def write_layers(path: Path, shapes: Sequence[tuple[int, int]], dtype: str, seed: int = 0) -> Path:
    """A safetensors file of layers (m, n), noise of variance 1/n; where layer + seed is odd, five strong directions."""
    import ml_dtypes
    from safetensors.numpy import save_file

    layers = {}
    for j, (m, n) in enumerate(shapes):
        rng = np.random.default_rng((seed, j))
        W = rng.standard_normal((m, n), dtype=np.float32) * np.float32(n**-0.5)
        if (j + seed) % 2:
            u, v = (rng.standard_normal((side, 5), dtype=np.float32) * np.float32(side**-0.5) for side in (m, n))
            W += (u * np.array([12.0, 9.0, 6.0, 4.0, 3.0], dtype=np.float32)) @ v.T
        layers[f"layers.{j}.weight"] = W.astype(ml_dtypes.bfloat16) if dtype == "bfloat16" else W
    partial = path.with_suffix(".partial")
    save_file(layers, partial)
    partial.replace(path)
    return path
