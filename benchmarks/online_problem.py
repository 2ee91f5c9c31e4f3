"""The question "where does least action learning lead?": the weights after some epochs in given orders.

All contenders start from the same weights and visit the patterns in the same orders. Binary machines answer with their
hidden integers, which must be the same to the last; continuous ones with weights that differ by rounding. An answer is
checked against a plain loop that shares no code with the contenders.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.contenders.base import Array
from benchmarks.runner import Agreement
from benchmarks.timing import Work
from flatcore import wfm
from flatcore.wfm.patterns import random_weights


@dataclass(frozen=True)
class OnlineProblem:
    """A machine, its patterns, where it starts, and the orders of the epochs (E, P)."""

    model: Any
    patterns: Any
    start: Array  # (K, n): hidden integers, int32, or float64
    orders: Array

    @property
    def argument(self) -> Array:
        """The weights to start from."""
        return self.start

    @property
    def dtype(self) -> str:
        """What NumPy's products are made in: sums of ±1 are exact in float32."""
        return str(self.seen.dtype)

    @property
    def work(self) -> Work:
        """Every epoch meets every weight with every pattern once, two flops each; the patterns' bits are read."""
        met = float(self.orders.size) * self.model.num_weights
        return Work(flops=2.0 * met, bytes=met / 8.0)

    def describe(self) -> dict[str, Any]:
        """Sizes, for the JSON."""
        K, n = self.model.shape
        return {
            "hidden": K,
            "fan_in": n,
            "weights": self.model.weights,
            "patterns": self.patterns.num_patterns,
            "epochs": len(self.orders),
            "dtype": self.dtype,
        }

    @cached_property
    def seen(self) -> Array:
        """What the units see: (P, K, n), in float32 for binary weights, whose sums are exact there."""
        dtype = np.float32 if self.model.weights == "binary" else np.float64
        return self.patterns.inputs.reshape(-1, *self.model.shape).astype(dtype)

    def agreements(self, answer: Array) -> list[Agreement]:
        """Against the plain loop: identical integers (differences are even); 1e-9 after thousands of rounded steps."""
        if np.shape(answer) != self.start.shape:
            return [Agreement("shape", float("inf"), 0.0)]
        difference = float(np.max(np.abs(answer - self._exact)))
        return [Agreement("a plain loop", difference, 0.5 if self.model.weights == "binary" else 1e-9)]

    @cached_property
    def _exact(self) -> Array:
        weights, binary = self.start.copy(), self.model.weights == "binary"
        step = 2 if binary else 1.0 / np.sqrt(self.model.fan_in)
        for mu in self.orders.ravel():
            seen, label = self.seen[mu].astype(np.float64), self.patterns.labels[mu]
            right = label * np.sum(seen * (np.sign(weights) if binary else weights), axis=1)
            few = np.count_nonzero(right <= 0) - (len(right) - 1) // 2
            if few > 0:
                bad = sorted((k for k in range(len(right)) if right[k] <= 0), key=lambda k: (-right[k], k))
                weights[bad[:few]] += (step * label * seen[bad[:few]]).astype(weights.dtype)
        return weights


def tree(n_inputs: int, n_hidden: int, weights: str, alpha: float, epochs: int) -> OnlineProblem:
    """Random patterns on a tree, random start, random orders."""
    model = wfm.Committee(n_inputs, n_hidden, weights=weights)
    patterns = wfm.random_patterns(model, round(alpha * n_inputs))
    rng = np.random.default_rng(1)
    start = random_weights(model, rng)
    orders = np.stack([rng.permutation(patterns.num_patterns) for _ in range(epochs)])
    return OnlineProblem(model, patterns, start.astype(np.int32) if weights == "binary" else start, orders)
