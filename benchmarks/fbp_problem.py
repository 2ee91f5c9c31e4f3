"""The question "sweeps of belief propagation": the sums of the messages after some sweeps from the same start.

Edges: messages (P, K, n) in float64. AMP: outputs (P, K) and sums (K, n) in float32. An answer is the sums (K, n); it
is checked against the other contender's equations in float64, run on the same start.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

import flatcore as fc
from benchmarks.contenders.base import Array
from benchmarks.runner import Agreement
from benchmarks.timing import Work

# What an edge needs at least, on edges: a hyperbolic tangent up (20 flops), 16 multiply-adds down, sums; messages read
# twice and written once. In AMP: two additions; a bit is read twice.
_EDGE_FLOPS, _EDGE_BYTES = 60.0, 24.0
_AMP_FLOPS, _AMP_BYTES = 2.0, 0.25


@dataclass(frozen=True)
class SweepProblem:
    """A machine, its patterns, the form, and how many sweeps with which damping."""

    model: Any
    patterns: Any
    form: str
    sweeps: int
    damping: float

    @property
    def argument(self) -> Array:
        """The field on the weights, zero."""
        return np.zeros(self.model.shape, dtype=self.dtype)

    @property
    def dtype(self) -> str:
        """Of messages and fields."""
        return "float64" if self.form == "edge" else "float32"

    @property
    def edges(self) -> int:
        """P·K·n."""
        return len(self.patterns) * int(self.model.num_weights)

    @property
    def work(self) -> Work:
        """Of all sweeps."""
        count = float(self.edges) * self.sweeps
        if self.form == "edge":
            return Work(flops=_EDGE_FLOPS * count, bytes=_EDGE_BYTES * count)
        return Work(flops=_AMP_FLOPS * count, bytes=_AMP_BYTES * count)

    def signed_inputs(self, dtype: Any) -> Array:
        """Inputs times labels as the units see them: (P, K, n)."""
        inputs = self.patterns.inputs * self.patterns.labels[:, None]
        K, n = self.model.shape
        if self.model.kind == "tree":
            return inputs.reshape(-1, K, n).astype(dtype)
        return np.repeat(inputs[:, None, :], K, axis=1).astype(dtype)

    @cached_property
    def messages(self) -> Array:
        """The first ones, uniform on ±0.01."""
        return np.random.default_rng(0).uniform(-0.01, 0.01, (len(self.patterns), *self.model.shape))

    @cached_property
    def sums(self) -> Array:
        """The first sums of AMP."""
        return np.random.default_rng(0).uniform(-0.2, 0.2, self.model.shape).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """Sizes, for the JSON."""
        K, n = self.model.shape
        return {
            "inputs": self.model.n_inputs,
            "units": K,
            "fan_in": n,
            "kind": self.model.kind,
            "patterns": len(self.patterns),
            "edges": self.edges,
            "sweeps": self.sweeps,
            "form": self.form,
            "dtype": self.dtype,
        }

    def agreements(self, answer: Array) -> list[Agreement]:
        """Against the equations in NumPy, float64."""
        reference = self._reference
        if np.shape(answer) != reference.shape:
            return [Agreement("shape", float("inf"), 0.0)]
        difference = float(np.abs(answer - reference).max() / np.abs(reference).max())
        tolerance = 1e-9 if self.form == "edge" else 1e-3
        return [Agreement("the equations in NumPy, float64", difference, tolerance)]

    @cached_property
    def _reference(self) -> Array:
        from benchmarks.contenders import fbp_numpy

        x = self.signed_inputs(np.float64)
        if self.form == "edge":
            a = self.messages.copy()
            b, buffers = a.sum(axis=0), tuple(np.empty_like(x) for _ in range(4))
            for _ in range(self.sweeps):
                b = fbp_numpy.edge_sweep(x, a, b, self.damping, buffers)[0]
            return b
        by_unit = np.ascontiguousarray(x.transpose(1, 0, 2))
        S, g = self.sums.astype(np.float64), np.zeros((x.shape[0], x.shape[1]))
        for _ in range(self.sweeps):
            S, g = fbp_numpy.amp_sweep(by_unit, by_unit.transpose(0, 2, 1), S, g, np.zeros(()), self.damping)
        return S


def sweep_problem(n_inputs: int, n_hidden: int, form: str, *, load: float = 0.6, sweeps: int = 10) -> SweepProblem:
    """A tree committee on random patterns."""
    model = fc.wfm.Committee(n_inputs, n_hidden)
    patterns = fc.wfm.random_patterns(model, int(load * model.num_weights), seed=0)
    return SweepProblem(model, patterns, form, sweeps, 0.5)
