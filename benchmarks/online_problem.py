"""The question "where do epochs of an online rule lead?": the weights after some epochs in given orders.

All contenders start from the same weights and visit the patterns in the same orders. Least action of binary machines
answers with hidden integers, which must be the same to the last; everything else with reals that differ by rounding. An
answer is checked against a plain loop, pattern by pattern and unit by unit, that shares no code with the contenders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
from scipy.special import log_ndtr

from benchmarks.contenders.base import Array
from benchmarks.runner import Agreement
from benchmarks.timing import Work
from flatcore import wfm
from flatcore.wfm.patterns import random_weights

RULES = ("least action", "margin", "perturbed gradient", "replicas", "cross-entropy")
STEP = 0.5  # of the perturbed gradient, in units of δ
REPLICAS, REPLICA_BATCH, COUPLING, GAMMA, GAMMA_STEP = 7, 80, 0.75, 0.05, 0.001
BATCH, RATE, SHARPNESS, GROWTH = 50, 20.0, 0.5, 1.005  # of the cross-entropy's slow schedule
_DELTAS = {"margin": (1.0, 0.98), "perturbed gradient": (1.5, 0.96)}
# Signed additions with every weight of every pattern, two flops each: fields, and steps where every pattern makes one.
_ADDITIONS = {"least action": 1, "margin": 1, "perturbed gradient": 2, "replicas": 1, "cross-entropy": 2}


@dataclass(frozen=True)
class OnlineProblem:
    """A rule, a tree, its patterns, where it starts, and the orders of the epochs: (E, P), of replicas (E, y, P)."""

    rule: str
    model: Any
    patterns: Any
    start: Array  # (K, n): hidden integers, int32, or float64; hidden reals (y, K, n) of replicas
    orders: Array

    @property
    def argument(self) -> Array:
        """The weights to start from."""
        return self.start

    @property
    def dtype(self) -> str:
        """What NumPy's products are made in: sums of ±1 are exact in float32."""
        return "float32" if self.model.weights == "binary" else "float64"

    @property
    def repeats(self) -> int:
        """Epochs in a call."""
        return len(self.orders)

    @property
    def work(self) -> Work:
        """Additions as the rule needs them at least; bits are read once, replicas' reals read and written a batch."""
        met = float(self.orders.size) * self.model.num_weights
        moved = 16.0 * met / REPLICA_BATCH if self.rule == "replicas" else 0.0
        return Work(2.0 * _ADDITIONS[self.rule] * met, met / 8.0 + moved, met)

    def describe(self) -> dict[str, Any]:
        """Sizes, for the JSON."""
        K, n = self.model.shape
        return {
            "rule": self.rule,
            "hidden": K,
            "fan_in": n,
            "weights": self.model.weights,
            "patterns": self.patterns.num_patterns,
            "epochs": len(self.orders),
            "dtype": self.dtype,
        }

    @cached_property
    def seen(self) -> Array:
        """What the units see: (P, K, n), int8."""
        return self.patterns.inputs.reshape(-1, *self.model.shape)

    def signed(self) -> Array:
        """The same times the label, units first, for NumPy's products: (K, P, n)."""
        seen = self.seen * self.patterns.labels[:, None, None]
        return np.ascontiguousarray(seen.transpose(1, 0, 2), dtype=self.dtype)

    def delta(self, epoch: int) -> float:
        """Margin or noise of an epoch of the entropic rules."""
        first, factor = _DELTAS[self.rule]
        return first * factor**epoch

    def agreements(self, answer: Array) -> list[Agreement]:
        """Against the plain loop: identical integers (differences are even); 1e-9 after thousands of rounded steps."""
        if np.shape(answer) != self.start.shape:
            return [Agreement("shape", float("inf"), 1.0)]
        difference = float(np.max(np.abs(answer - self._exact)))
        return [Agreement("a plain loop", difference, 0.5 if self.start.dtype.kind == "i" else 1e-9)]

    @cached_property
    def _exact(self) -> Array:
        weights = self.start.copy()
        for epoch, order in enumerate(self.orders):
            _PLAIN[self.rule](self, epoch, order, weights)
        return weights


def _moves(right: Array) -> list[int]:
    """The units that least action moves, of label times field."""
    few = np.count_nonzero(right <= 0) - (len(right) - 1) // 2
    return sorted((k for k in range(len(right)) if right[k] <= 0), key=lambda k: (-right[k], k))[: max(0, few)]


def _pattern(problem: OnlineProblem, mu: int) -> Array:
    """Entries times the label, (K, n)."""
    return problem.seen[mu].astype(np.float64) * problem.patterns.labels[mu]


def _signs(hidden: Array) -> Array:
    return np.where(hidden > 0, 1.0, -1.0)


def _normalise(w: Array) -> None:
    for unit in w:
        unit *= np.sqrt(len(unit) / np.dot(unit, unit))


def _plain_least_action(problem: OnlineProblem, epoch: int, order: Array, weights: Array) -> None:
    binary = problem.model.weights == "binary"
    step = 2 if binary else 1.0 / np.sqrt(problem.model.fan_in)
    for mu in order:
        x = _pattern(problem, mu)
        units = _moves(np.sum(x * (_signs(weights) if binary else weights), axis=1))
        weights[units] += (step * x[units]).astype(weights.dtype)


def _plain_margin(problem: OnlineProblem, epoch: int, order: Array, w: Array) -> None:
    delta, root, K = problem.delta(epoch), np.sqrt(problem.model.fan_in), len(w)
    for mu in order:
        x = _pattern(problem, mu)
        fields = np.sum(x * w, axis=1) / root
        missing = (K + 1) // 2 - np.count_nonzero(fields > delta)
        weak = sorted((k for k in range(K) if fields[k] <= delta), key=lambda k: (-fields[k], k))
        for k in weak[: max(0, missing)]:
            w[k] += (delta - fields[k]) / root * x[k]
    _normalise(w)


def _plain_perturbed(problem: OnlineProblem, epoch: int, order: Array, w: Array) -> None:
    delta, root = problem.delta(epoch), np.sqrt(problem.model.fan_in)
    for mu in order:
        x = _pattern(problem, mu)
        slopes = _log_slopes(np.sum(x * w, axis=1) / (root * delta))
        for k in range(len(w)):
            w[k] += STEP * slopes[k] / root * x[k]
    _normalise(w)


def _log_slopes(a: Array) -> list[float]:
    """∂ log P(at least (K + 1)/2 of the units are right)/∂a_k, by logarithms of the laws of their numbers."""
    right, wrong, m = log_ndtr(a), log_ndtr(-a), (len(a) + 1) // 2
    steps = list(zip(right.tolist(), wrong.tolist(), strict=True))
    enough = np.logaddexp.reduce(_log_law(steps)[m:])
    others = [_log_law(steps[:k] + steps[k + 1 :])[m - 1] for k in range(len(a))]
    return [float(np.exp(-0.5 * (x * x + np.log(2 * np.pi)) + o - enough)) for x, o in zip(a, others, strict=True)]


def _log_law(steps: list[tuple[float, float]]) -> Array:
    """Logarithms of the probabilities of 0, 1, … successes."""

    def joined(law: Array, step: tuple[float, float]) -> Array:
        return np.logaddexp(np.append(law, -np.inf) + step[1], np.append(-np.inf, law) + step[0])

    return reduce(joined, steps, np.zeros(1))


def _plain_replicas(problem: OnlineProblem, epoch: int, orders: Array, H: Array) -> None:
    gamma = GAMMA + GAMMA_STEP * epoch
    for first in range(0, orders.shape[1], REPLICA_BATCH):
        for replica, order in zip(H, orders, strict=True):
            W, step = _signs(replica), np.zeros_like(replica)
            for mu in order[first : first + REPLICA_BATCH]:
                x = _pattern(problem, mu)
                units = _moves(np.sum(x * W, axis=1))
                step[units] += 2 * x[units]
            replica += step
        W = _signs(H)
        H += COUPLING * (np.tanh(gamma * W.sum(axis=0)) - W)


def _plain_cross_entropy(problem: OnlineProblem, epoch: int, order: Array, w: Array) -> None:
    beta, root, K = SHARPNESS * GROWTH**epoch, np.sqrt(problem.model.fan_in), len(w)
    for first in range(0, len(order), BATCH):
        batch, gradient = order[first : first + BATCH], np.zeros_like(w)
        for mu in batch:
            x = _pattern(problem, mu)
            h = np.sum(x * w, axis=1) / root
            t = np.tanh(beta * h)
            slope = beta * (1 - t * t) / np.sqrt(K) if K > 1 else np.ones(1)
            margin = t.sum() / np.sqrt(K) if K > 1 else h[0]
            gradient -= (slope / (1 + np.exp(2 * beta * margin)) / root)[:, None] * x
        w -= RATE / len(batch) * gradient
        _normalise(w)


_PLAIN: dict[str, Callable[[OnlineProblem, int, Array, Array], None]] = {
    "least action": _plain_least_action,
    "margin": _plain_margin,
    "perturbed gradient": _plain_perturbed,
    "replicas": _plain_replicas,
    "cross-entropy": _plain_cross_entropy,
}


def tree(rule: str, n_inputs: int, n_hidden: int, weights: str, alpha: float, epochs: int) -> OnlineProblem:
    """Random patterns on a tree, random start, random orders."""
    model = wfm.Committee(n_inputs, n_hidden, weights=weights)
    patterns = wfm.random_patterns(model, round(alpha * n_inputs))
    rng, count = np.random.default_rng(1), patterns.num_patterns
    start = random_weights(model, rng)
    if rule == "replicas":
        start = np.repeat(start[None], REPLICAS, axis=0)
        orders = np.array([[rng.permutation(count) for _ in range(REPLICAS)] for _ in range(epochs)])
    else:
        start = start.astype(np.int32) if weights == "binary" else start
        orders = np.array([rng.permutation(count) for _ in range(epochs)])
    return OnlineProblem(rule, model, patterns, start, orders)
