"""The question "what are the largest singular values along a trajectory?", and how answers are checked.

All tensors of all checkpoints have to be there; those of every so many checkpoints are compared with dense eigenvalues
of AᵀA in float64. A residual bounds the error of a singular value (Weyl): allowed is the tolerance of the searches,
1e-4 of the largest value in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.base import Array
from benchmarks.dense import singular_values
from benchmarks.runner import Agreement
from flatcore.io import open_checkpoint

TOLERANCE = 1e-4


@dataclass(frozen=True)
class SweepAnswer:
    """Singular values by file and tensor, and passes over the matrices, the mean over the entries."""

    values: dict[tuple[str, str], Array]
    reads: float


@dataclass(frozen=True)
class SweepProblem:
    """Checkpoints of one trajectory, in order."""

    files: Sequence[Path]
    k: int
    spectra_only: bool
    every: int = 1  # how many checkpoints from one that is compared to the next

    work = None  # searches cannot be counted in advance
    dtype = "float32"

    @property
    def argument(self) -> SweepProblem:
        """The problem itself."""
        return self

    def describe(self) -> dict[str, Any]:
        """What the JSON says about the trajectory."""
        return {
            "checkpoints": len(self.files),
            "bytes": sum(file.stat().st_size for file in self.files),
            "values": self.k,
            "spectra_only": self.spectra_only,
            "dtype": self.dtype,
        }

    def agreements(self, answer: SweepAnswer) -> list[Agreement]:
        """The largest difference from LAPACK, over the largest value; infinite where a tensor is missing."""
        if set(answer.values) != {(file.name, name) for file in self.files for name in matrices_of(file)}:
            return [Agreement("tensors", float("inf"), 0.0)]
        exact = exact_values(tuple(self.files[:: self.every]), self.k)
        difference = max(float(np.abs(answer.values[key] - s).max() / s[0]) for key, s in exact.items())
        return [Agreement("dense eigenvalues of AᵀA", difference, TOLERANCE)]

    def quality(self, answer: SweepAnswer) -> dict[str, float]:
        """Passes over the matrices."""
        return {"reads": answer.reads}


@cache
def matrices_of(file: Path) -> tuple[str, ...]:
    """The names of a checkpoint's matrices."""
    with open_checkpoint(file) as checkpoint:
        return tuple(name for name, tensor in checkpoint.items() if len(tensor.shape) == 2)


@cache
def exact_values(files: tuple[Path, ...], k: int) -> dict[tuple[str, str], Array]:
    """The k largest singular values of every matrix, by file and tensor."""
    exact = {}
    for file in files:
        with open_checkpoint(file) as checkpoint:
            for name in matrices_of(file):
                exact[file.name, name] = singular_values(checkpoint[name].load(), k)
    return exact
