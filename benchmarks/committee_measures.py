"""Kernels of flatcore.wfm that measure: errors, local energies, the cross-entropy's Hessian, the Bethe free entropy.

Each is checked against NumPy in float64 on unpacked patterns: numbers of errors exactly, local energies against samples
of its own, whose mean must be within six standard errors, products and entropies to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import expit, ndtr

from benchmarks.committee_patterns import signed_pieces
from benchmarks.contenders.base import Array
from benchmarks.runner import Agreement
from benchmarks.timing import Work
from flatcore import _core, wfm
from flatcore.wfm.message_passing import task_of
from flatcore.wfm.patterns import sign_words
from flatcore.wfm.predictions import binary_errors

STRENGTHS = {"flips": (0.05, 0.2), "gaussian": (0.2, 0.5)}
SHARPNESS = 2.0  # β = γ


@dataclass(frozen=True)
class Measure:
    """A kernel of a machine with a teacher's patterns, called `repeats` times on `count` machines or samples."""

    kernel: str
    model: Any
    patterns: Any
    weights: Array
    count: int = 1
    repeats: int = 1
    dtype: str = "float64"

    @cached_property
    def argument(self) -> Array:
        """Machines (count, K, n), weights (K, n), a vector (N,), or messages (P, K, n)."""
        rng, shape = np.random.default_rng(2), self.model.shape
        if self.kernel == "errors":
            return np.where(rng.random((self.count, *shape)) < 0.5, -1, 1).astype(np.int8)
        if self.kernel == "Hessian product":
            return rng.standard_normal(self.model.num_weights)
        if self.kernel == "Bethe free entropy":
            return rng.uniform(-0.2, 0.2, (len(self.patterns), *shape))
        return self.weights

    @property
    def edges(self) -> float:
        """Of a call."""
        energies = len(STRENGTHS[self.kernel]) if self.kernel in STRENGTHS else 1
        return float(self.repeats * energies * self.count * len(self.patterns)) * self.model.num_weights

    @property
    def work(self) -> Work:
        """By edge: a signed addition, two in a Hessian product; bits are read once, by a product twice.

        Samples of weights are written and read, 4 bytes each of flips and 8 of noise. A free entropy reads a message,
        takes a hyperbolic tangent for the fields (20 flops) and a log cosh for the entropy (20).
        """
        bits = self.repeats * len(self.patterns) * self.model.n_inputs / 8.0
        drawn = self.edges / len(self.patterns)
        return {
            "errors": Work(2 * self.edges, bits + drawn / 8, self.edges),
            "flips": Work(2 * self.edges, bits + 8 * drawn, self.edges),
            "gaussian": Work(2 * self.edges, bits + 16 * drawn, self.edges),
            "Hessian product": Work(4 * self.edges, 2 * bits, self.edges),
            "Bethe free entropy": Work(40 * self.edges, 8 * self.edges, self.edges),
        }[self.kernel]

    def describe(self) -> dict[str, Any]:
        """Sizes, for the JSON."""
        return {
            "kernel": self.kernel,
            "shape": list(self.model.shape),
            "weights": self.model.weights,
            "patterns": len(self.patterns),
            "machines": self.count,
            "repeats": self.repeats,
            "dtype": self.dtype,
        }

    def call(self) -> Callable[[Array], Any]:
        """What is measured, set up."""
        model, patterns = self.model, self.patterns
        if self.kernel == "errors":
            words = sign_words(self.argument)
            return lambda machines: binary_errors(model, words, patterns)
        if self.kernel == "Hessian product":
            hessian = wfm.CrossEntropyHessian(model, self.weights, patterns, SHARPNESS, SHARPNESS)
            return lambda v: hessian @ v
        if self.kernel == "Bethe free entropy":
            padded = np.zeros((*self.argument.shape[:2], _core.wfm_padded_inputs(model.fan_in)))
            padded[..., : model.fan_in] = self.argument
            b, task = self.argument.sum(axis=0), task_of(model, patterns)
            return lambda messages: _core.wfm_edge_bethe(task, padded, b)
        scale = STRENGTHS[self.kernel]
        return lambda weights: wfm.local_energy(model, weights, patterns, scale=scale, samples=self.count)

    def agreements(self, answer: Any) -> list[Agreement]:
        """Against NumPy."""
        if self.kernel in STRENGTHS:
            return [self._energies_agree(answer)]
        exact = self._exact
        if np.shape(answer) != np.shape(exact):
            return [Agreement("shape", float("inf"), 1.0)]
        if self.kernel == "errors":
            return [Agreement("signs of unpacked fields", float(np.abs(answer - exact).max()), 0.5)]
        difference = float(np.linalg.norm(answer - exact) / np.linalg.norm(exact))
        return [Agreement("NumPy on unpacked patterns", difference, 1e-10)]

    def _energies_agree(self, answer: Any) -> Agreement:
        P, count = len(self.patterns), self.count
        rng, worst = np.random.default_rng(3), 0.0
        base = self._errors(self.weights[None])[0]
        for p, value, stderr in zip(STRENGTHS[self.kernel], answer.values, answer.stderr, strict=True):
            shape = (count, *self.model.shape)
            flips = self.kernel == "flips"
            drawn = np.where(rng.random(shape) < p, -1, 1) * self.weights if flips else rng.standard_normal(shape) * p
            shares = (self._errors(drawn if flips else drawn + self.weights) - base) / P
            error = np.hypot(stderr, shares.std(ddof=1) / np.sqrt(count))
            worst = max(worst, float(abs(value - shares.mean()) / error))
        return Agreement("samples of its own, in standard errors", worst, 6.0)

    def _errors(self, machines: Array) -> Array:
        found = np.zeros(len(machines), dtype=np.int64)
        each = np.ascontiguousarray(machines.transpose(1, 2, 0), dtype=np.float32)
        for x in signed_pieces(self.model, self.patterns, np.float32):
            fields = np.matmul(np.ascontiguousarray(x.transpose(1, 0, 2)), each)  # (K, P, count)
            found += np.count_nonzero(np.sum(fields > 0, axis=0) <= self.model.n_hidden // 2, axis=0)
        return found

    @cached_property
    def _exact(self) -> Any:
        if self.kernel == "errors":
            return self._errors(self.argument)
        return self._exact_product() if self.kernel == "Hessian product" else self._exact_entropy()

    def _exact_product(self) -> Array:
        (K, n), P = self.model.shape, len(self.patterns)
        v, out = self.argument.reshape(K, n), np.zeros((K, n))
        for x in signed_pieces(self.model, self.patterns):
            h, dh = (np.einsum("pki,ki->pk", x, w) / np.sqrt(n) for w in (self.weights, v))
            t = np.tanh(SHARPNESS * h)
            first = SHARPNESS * (1 - t * t) / np.sqrt(K) if K > 1 else np.ones_like(h)
            second = -2 * SHARPNESS * t * first if K > 1 else np.zeros_like(h)
            s = expit(-2 * SHARPNESS * (t.sum(axis=1) / np.sqrt(K) if K > 1 else h[:, 0]))[:, None]
            along = np.sum(first * dh, axis=1, keepdims=True)
            out += np.einsum("pk,pki->ki", 2 * SHARPNESS * s * (1 - s) * along * first - s * second * dh, x)
        return out.ravel() / (P * np.sqrt(n))

    def _exact_entropy(self) -> float:
        a, b, total, first = self.argument, self.argument.sum(axis=0), 0.0, 0
        for x in signed_pieces(self.model, self.patterns):
            cavity = b - a[first : first + len(x)]
            h = np.tanh(cavity)
            rise = ndtr(np.sum(x * h, axis=2) / np.sqrt(np.sum(1 - h * h, axis=2)))
            law = np.ones((len(x), 1))
            for k in range(rise.shape[1]):
                law = (
                    np.pad(law, ((0, 0), (0, 1))) * (1 - rise[:, k : k + 1])
                    + np.pad(law, ((0, 0), (1, 0))) * (rise[:, k : k + 1])
                )
            total += float(np.log(law[:, self.model.n_hidden // 2 + 1 :].sum(axis=1)).sum())
            total -= float(np.sum(np.logaddexp(b, -b) - np.logaddexp(cavity, -cavity)))
            first += len(x)
        return total


class FlatcoreMeasure:
    """The kernel, `repeats` times."""

    name = "flatcore"

    def available(self) -> str | None:
        """None: the problem cannot be made without it."""
        return None

    def prepare(self, problem: Measure, stage: Any) -> Callable[[Array], Any]:
        """As the problem sets it up."""
        call = problem.call()

        def answer(argument: Array) -> Any:
            for _ in range(problem.repeats):
                out = call(argument)
            return out

        return answer


def measure(
    kernel: str, n_inputs: int, n_hidden: int, alpha: float, weights: str, count: int = 1, repeats: int = 1
) -> Measure:
    """A tree and its teacher's patterns."""
    model = wfm.Committee(n_inputs, n_hidden, weights=weights)
    patterns, teacher = wfm.teacher_patterns(model, int(alpha * n_inputs))
    dtype = "float64" if kernel in ("Hessian product", "Bethe free entropy", "gaussian") else "float32"
    return Measure(kernel, model, patterns, teacher, count, repeats, dtype)
