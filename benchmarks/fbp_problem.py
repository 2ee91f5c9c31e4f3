"""The question "sweeps of belief propagation": where the sums of the messages lead after sweeps from the same start.

Edges: messages (P, K, n) in float64. AMP: outputs (P, K), float32 unless asked for in float64. Binary weights are swept
under no field, and the answer is the sums (K, n); continuous ones under the field of nine other replicas, γ growing by
steps, and the answer is their means (K, n) after the last sweep. It is checked against the equations in float64, run
on the same start: on edges those of the NumPy contender, whose messages flatcore's tests know from plain loops; in AMP
form a pass over a few patterns at a time, so that the largest machines are checked too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import log_ndtr

import flatcore as fc
from benchmarks.committee_patterns import signed_pieces
from benchmarks.contenders.base import Array
from benchmarks.runner import Agreement
from benchmarks.timing import Stages, Work

# What an edge needs at least, on edges: cavity and sums (binary weights: a hyperbolic tangent, 20 flops), 16
# multiply-adds down, damping and sums; messages are read twice and written once. In AMP: two additions; a bit is read
# twice.
_EDGE_FLOPS, _EDGE_BYTES = {"binary": 60.0, "continuous": 44.0}, 24.0
_AMP_FLOPS, _AMP_BYTES = 4.0, 0.25
_LEAST = 1e-6


@dataclass(frozen=True)
class SweepProblem:
    """A machine, its patterns, the form, and how many sweeps with which damping."""

    model: Any
    patterns: Any
    form: str
    sweeps: int
    damping: float

    @cached_property
    def argument(self) -> Array:
        """The field on binary weights, zero; the first means of continuous ones."""
        if self.model.weights == "binary":
            return np.zeros(self.model.shape, dtype=self.dtype)
        return (0.3 * np.random.default_rng(0).standard_normal(self.model.shape)).astype(self.dtype)

    @property
    def dtype(self) -> str:
        """Of messages and fields."""
        return "float64" if self.form == "edge" else "float32"

    @property
    def edges(self) -> int:
        """P·K·n."""
        return len(self.patterns) * int(self.model.num_weights)

    @property
    def repeats(self) -> int:
        """Sweeps in a call."""
        return self.sweeps

    @property
    def work(self) -> Work:
        """Of all sweeps."""
        count = float(self.edges) * self.sweeps
        if self.form == "edge":
            return Work(_EDGE_FLOPS[self.model.weights] * count, _EDGE_BYTES * count, count)
        return Work(_AMP_FLOPS * count, _AMP_BYTES * count, count)

    def gamma(self, sweep: int) -> float:
        """Coupling of the replicas of continuous weights: 0.05 to 300 in 80 steps."""
        return float(0.05 * 6000.0 ** (sweep / 79.0))

    @cached_property
    def messages(self) -> Array:
        """The first ones to binary weights, uniform on ±0.01."""
        return np.random.default_rng(0).uniform(-0.01, 0.01, (len(self.patterns), *self.model.shape))

    @cached_property
    def sums(self) -> Array:
        """The first sums of binary AMP."""
        return np.random.default_rng(0).uniform(-0.2, 0.2, self.model.shape).astype(np.float32)

    def describe(self) -> dict[str, Any]:
        """Sizes, for the JSON."""
        K, n = self.model.shape
        return {
            "inputs": self.model.n_inputs,
            "units": K,
            "fan_in": n,
            "kind": self.model.kind,
            "weights": self.model.weights,
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
            return [Agreement("shape", float("inf"), 1.0)]
        difference = float(np.abs(answer - reference).max() / np.abs(reference).max())
        tolerance = 1e-9 if self.form == "edge" else 1e-3
        return [Agreement("the equations in NumPy, float64", difference, tolerance)]

    @cached_property
    def _reference(self) -> Array:
        from benchmarks.contenders import fbp_numpy, fbp_numpy_continuous

        binary = self.model.weights == "binary"
        if self.form == "edge":
            contender = fbp_numpy.EdgeSweeps() if binary else fbp_numpy_continuous.ContinuousEdgeSweeps()
            return np.asarray(contender.prepare(self, Stages())(self.argument))
        return self._binary_amp() if binary else self._continuous_amp()

    def _binary_amp(self) -> Array:
        S, g = self.sums.astype(np.float64), np.zeros((len(self.patterns), self.model.n_hidden))
        for _ in range(self.sweeps):
            m = np.tanh(S)
            V = np.maximum(np.sum(1.0 - m * m, axis=1), _LEAST)
            gamma, sums = self._amp_pass(1.0, m, V, g, self.damping)
            S = (1.0 - self.damping) * (sums + gamma[:, None] * m) + self.damping * S
        return S

    def _continuous_amp(self) -> Array:
        from benchmarks.contenders.fbp_numpy_continuous import focused

        K, n = self.model.shape
        means, variances = self.argument.astype(np.float64), np.ones(K)
        g, gamma = np.zeros((len(self.patterns), K)), np.zeros(K)
        for sweep in range(self.sweeps):
            damping = self.damping if sweep else 0.0
            fresh, sums = self._amp_pass(1.0 / np.sqrt(n), means, variances, g, damping)
            gamma = (1.0 - damping) * fresh + damping * gamma
            precision = np.maximum(gamma / n, 0.0)
            means, variances = focused(sums + precision[:, None] * means, precision, self.gamma(sweep))
        return means

    def _amp_pass(self, c: float, m: Array, V: Array, g: Array, damping: float) -> tuple[Array, Array]:
        """Sums of Γ and of the damped outputs, which replace g."""
        from benchmarks.contenders.fbp_numpy import majority

        gamma, sums, first = np.zeros(len(V)), np.zeros_like(m), 0
        for x in signed_pieces(self.model, self.patterns):
            rows = slice(first, first + len(x))
            x = x.transpose(1, 0, 2)
            omega = c * np.matmul(x, m[:, :, None])[:, :, 0].T - V * g[rows]
            z = omega / np.sqrt(V)
            plus, minus = majority(z) if m.shape[0] > 1 else (np.ones_like(z), np.zeros_like(z))
            with np.errstate(divide="ignore"):
                log_z = np.logaddexp(np.log(plus) + log_ndtr(z), np.log(minus) + log_ndtr(-z))
            fresh = (plus - minus) * np.exp(-0.5 * z * z - log_z) / np.sqrt(2 * np.pi * V)
            gamma += np.sum(fresh * (fresh + z / np.sqrt(V)), axis=0)
            g[rows] = (1.0 - damping) * fresh + damping * g[rows]
            sums += c * np.matmul(g[rows].T[:, None], x)[:, 0]
            first = rows.stop
        return gamma, sums


def sweep_problem(
    n_inputs: int, n_hidden: int, form: str, weights: str = "binary", *, load: float = 0.6, sweeps: int = 10
) -> SweepProblem:
    """A tree committee on random patterns."""
    model = fc.wfm.Committee(n_inputs, n_hidden, weights=weights)
    patterns = fc.wfm.random_patterns(model, int(load * model.num_weights), seed=0)
    return SweepProblem(model, patterns, form, sweeps, 0.5)
