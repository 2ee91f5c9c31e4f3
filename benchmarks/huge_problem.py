"""The question "how sharp is a chain whose weights do not fit in memory?", and how the answer is checked.

The weights lie in one file, written layer by layer and mapped. An answer is checked by a plain NumPy computation of its
own, in one pass over the layers: with z = Φ(W + εD)x and z', z'' its derivatives in ε at 0,

    z ← Wz,   z' ← Wz' + Dz,   z'' ← Wz'' + 2Dz',   vᵀHv = (2/nm) Σ (‖z'‖² + (z − y)·z''),

so that the eigenvector's Rayleigh quotient must be the eigenvalue, and bounds the largest one from below. That the
residual is within the tolerance is flatcore's own word here: another product would need the memory that is not there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.base import Array
from benchmarks.runner import Agreement
from benchmarks.timing import Work

PANEL = 256  # rows written at a time


@dataclass(frozen=True)
class StreamedAnswer:
    """The largest eigenvalue, its true residual as reported, and its eigenvector layer by layer."""

    value: float
    residual: float
    layers: Callable[[], Iterable[Array]]


@dataclass(frozen=True)
class HugeProblem:
    """A chain in a file and its Gaussian data."""

    path: Path
    widths: Sequence[int]
    samples: int
    tol: float

    work: Work | None = None
    argument: Any = None
    dtype: str = "float32"

    @property
    def num_parameters(self) -> int:
        """P."""
        return sum(q * p for p, q in pairwise(self.widths))

    @property
    def weights(self) -> list[Array]:
        """The layers, mapped."""
        ends = np.cumsum([0, *(q * p for p, q in pairwise(self.widths))])
        return [
            np.memmap(self.path, np.float32, "r", offset=4 * int(start), shape=(q, p))
            for start, (p, q) in zip(ends[:-1], pairwise(self.widths), strict=True)
        ]

    def data(self) -> tuple[Array, Array]:
        """Inputs and targets, N(0, 1)."""
        rng = np.random.default_rng(0)
        inputs = rng.standard_normal((self.samples, self.widths[0]), dtype=np.float32)
        return inputs, rng.standard_normal((self.samples, self.widths[-1]), dtype=np.float32)

    def describe(self) -> dict[str, Any]:
        """What the JSON says about the chain."""
        facts = {"widths": list(self.widths), "parameters": self.num_parameters, "samples": self.samples}
        return {**facts, "tolerance": self.tol, "dtype": self.dtype}

    def agreements(self, answer: StreamedAnswer) -> list[Agreement]:
        """Rayleigh quotient and residual."""
        quotient = self.rayleigh_quotient(answer.layers())
        return [
            Agreement("Rayleigh quotient in NumPy", abs(quotient / answer.value - 1), self.tol),
            Agreement("residual reported", answer.residual / answer.value, self.tol),
        ]

    def rayleigh_quotient(self, direction: Iterable[Array]) -> float:
        """vᵀHv/‖v‖² for a direction given layer by layer."""
        inputs, targets = self.data()
        z, dz, ddz = inputs, np.zeros_like(inputs), np.zeros_like(inputs)
        square = 0.0
        for W, D in zip(self.weights, direction, strict=True):
            # A norm of all entries at once would sum 10⁸ squares in float32.
            square += float(np.einsum("ij,ij->i", D, D).sum(dtype=np.float64))
            z, dz, ddz = z @ W.T, dz @ W.T + z @ D.T, ddz @ W.T + 2 * (dz @ D.T)
        second = np.sum(dz.astype(float) ** 2) + np.sum((z - targets).astype(float) * ddz)
        return float(2.0 * second / targets.size / square)


def written(folder: Path, widths: Sequence[int]) -> Path:
    """The file of N(0, 1/fan-in) weights in this folder, written where it is not there yet."""
    path = folder / f"flatcore-huge-{'-'.join(map(str, widths))}.float32"
    size = 4 * sum(q * p for p, q in pairwise(widths))
    if path.exists() and path.stat().st_size == size:
        return path
    if shutil.disk_usage(folder).free < size + 2**30:
        raise OSError(f"the weights need {size / 1e9:.1f} GB; name a folder with more room: --scratch DIR")
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        for panel in _panels(widths):
            panel.tofile(file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return path


def _panels(widths: Sequence[int]) -> Iterator[Array]:
    rng = np.random.default_rng(0)
    for p, q in pairwise(widths):
        for start in range(0, q, PANEL):
            panel = rng.standard_normal((min(PANEL, q - start), p), dtype=np.float32)
            yield panel / np.float32(np.sqrt(p))
