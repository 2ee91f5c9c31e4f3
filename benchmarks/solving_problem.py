"""The question "which weights solve these patterns?": a solver on ten seeds, which draw patterns and starts.

An answer is the results of all seeds; errors are counted again, in NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.contenders.base import lacking
from benchmarks.runner import Agreement
from benchmarks.timing import Stages
from flatcore import wfm

SOLVED = "solved"
_CHECKED_TOGETHER = 2**26  # unpacked entries


@dataclass(frozen=True)
class SolvingProblem:
    """A machine, its load α and how many seeds; `solver` takes (model, patterns, seed=)."""

    solver: Callable[..., Any]
    model: Any
    load: float
    seeds: int = 10
    dtype: str = "float64"
    first_seed: int = 500  # what no default and no test draws

    @property
    def argument(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    @property
    def work(self) -> None:
        """Nobody knows how many sweeps are needed."""
        return

    def patterns(self, seed: int) -> Any:
        """Random ones."""
        return wfm.random_patterns(self.model, round(self.load * self.model.num_weights), seed=seed)

    def describe(self) -> dict[str, Any]:
        """Sizes, for the JSON."""
        K, n = self.model.shape
        return {"units": K, "fan_in": n, "kind": self.model.kind, "weights": self.model.weights, "load": self.load}

    def agreements(self, answer: Sequence[Any]) -> list[Agreement]:
        """The errors that results claim against those counted."""
        differences = [abs(r.errors - self._errors(r)) for r in answer]
        return [Agreement("errors counted in NumPy", float(max(differences)), 0.5)]

    def _errors(self, result: Any) -> int:
        """Labels times outputs that are not positive, some patterns at a time."""
        patterns, count = self.patterns(result.seed), 0
        fields = self._binary_fields if self.model.weights == "binary" else self._fields
        step = max(1, _CHECKED_TOGETHER // self.model.n_inputs)
        for first in range(0, len(patterns), step):
            at = np.arange(first, min(first + step, len(patterns)))
            rows = np.ascontiguousarray(patterns.words[at // 16, :, :, at % 16]).astype("<u4")  # (some, S, C)
            signs = np.sign(fields(rows, result.weights))
            outputs = signs.sum(axis=1) if self.model.activation == "majority" else signs.prod(axis=1)
            count += int(np.sum(outputs * patterns.labels[at] <= 0))
        return count

    def _binary_fields(self, rows: Any, weights: Any) -> Any:
        """Inputs less twice the bits that differ: (some, K)."""
        bits = np.packbits(weights > 0, axis=1, bitorder="little")
        padded = np.zeros((len(bits), 4 * rows.shape[2]), dtype=np.uint8)
        padded[:, : bits.shape[1]] = bits
        differing = np.bitwise_count(rows ^ padded.view("<u4")).sum(axis=2, dtype=np.int64)
        return self.model.fan_in - 2 * differing

    def _fields(self, rows: Any, weights: Any) -> Any:
        """Sums over unpacked entries: (some, K)."""
        bits = np.unpackbits(rows.view(np.uint8), axis=-1, bitorder="little")[:, :, : self.model.fan_in]
        form = "psi,ki->pk" if self.model.kind == "full" else "pki,ki->pk"
        return np.einsum(form, 2.0 * bits - 1.0, weights, optimize=True)

    def quality(self, answer: Sequence[Any]) -> dict[str, float]:
        """How many seeds are solved, and in how many sweeps or epochs those."""
        sweeps = [r.sweeps for r in answer if r.errors == 0]
        return {SOLVED: float(len(sweeps)), "mean sweeps": float(np.mean(sweeps)) if sweeps else float("inf")}


class Solver:
    """Draws the patterns of one seed after another and solves them."""

    name = "flatcore"

    def available(self) -> str | None:
        """None where flatcore has solvers."""
        return lacking(wfm, "focusing_bp")

    def prepare(self, problem: SolvingProblem, stage: Stages) -> Callable[[range], list[Any]]:
        """Nothing to prepare."""
        return lambda seeds: [problem.solver(problem.model, problem.patterns(seed), seed=seed) for seed in seeds]
