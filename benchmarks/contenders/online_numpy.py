"""The online rules in vectorised NumPy, same algorithms and dtypes.

Least action: most patterns are right and change nothing, so fields are computed for the next few together by BLAS, and
thrown away behind the first pattern that moves a unit: twice as fast as one pattern after another. The entropic rules
move units on most patterns, one after another. Batches of replicas and of the cross-entropy are products by BLAS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import expit, log_ndtr

from benchmarks.contenders.base import Array
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.online_problem import OnlineProblem

_AHEAD = 16  # patterns whose fields are computed together
_ROOT_TWO_PI = np.sqrt(2.0 * np.pi)


class NumpyOnline:
    """Patterns as floats, the label multiplied in, units first: (K, P, n)."""

    name = "NumPy, same algorithm"

    def available(self) -> str | None:
        """Always."""
        return None

    def prepare(self, problem: OnlineProblem, stage: Stages) -> Callable[[Array], Array]:
        """Unpack the patterns."""
        with stage("patterns as floats"):
            x = problem.signed()
        epoch = _EPOCHS[problem.rule]

        def answer(start: Array) -> Array:
            weights = start.copy()
            for number, order in enumerate(problem.orders):
                epoch(problem, x, number, order, weights)
            return weights

        return answer


def _least_action(problem: OnlineProblem, x: Array, number: int, order: Array, weights: Array) -> None:
    """One epoch, weights in place."""
    x, binary = x[:, order], problem.model.weights == "binary"
    K, P, n = x.shape
    step = 2 if binary else 1.0 / np.sqrt(n)
    used = np.sign(weights).astype(np.float32) if binary else weights
    columns, half, at = used[:, :, None], (K - 1) // 2, 0
    while at < P:
        right = np.matmul(x[:, at : at + _AHEAD], columns)[:, :, 0]
        missing = np.count_nonzero(right <= 0, axis=0) - half
        errors = np.flatnonzero(missing > 0)
        if len(errors) == 0:
            at += _AHEAD
            continue
        first = errors[0]
        fields = right[:, first]
        # Equal fields: the lower unit first.
        units = np.argsort(np.where(fields > 0, np.inf, -fields), kind="stable")[: missing[first]]
        pattern = x[units, at + first]
        weights[units] += (step * pattern).astype(weights.dtype) if binary else step * pattern
        if binary:
            used[units] = np.sign(weights[units])
        at += first + 1


def _margin(problem: OnlineProblem, x: Array, number: int, order: Array, w: Array) -> None:
    """Units are put on the margin, the largest fields below it first."""
    delta, root, needed = problem.delta(number), np.sqrt(w.shape[1]), (len(w) + 1) // 2
    x = np.ascontiguousarray(x.transpose(1, 0, 2)[order])
    for pattern in x:
        fields = np.einsum("ki,ki->k", pattern, w) / root
        robust = fields > delta
        missing = needed - np.count_nonzero(robust)
        if missing > 0:
            units = np.argsort(np.where(robust, np.inf, -fields), kind="stable")[:missing]
            w[units] += ((delta - fields[units]) / root)[:, None] * pattern[units]
    _normalise(w)


def _perturbed(problem: OnlineProblem, x: Array, number: int, order: Array, w: Array) -> None:
    """Every unit moves on every pattern."""
    from benchmarks.online_problem import STEP

    scale, step = 1.0 / (np.sqrt(w.shape[1]) * problem.delta(number)), STEP / np.sqrt(w.shape[1])
    slopes_at = MajoritySlopes(len(w))
    x = np.ascontiguousarray(x.transpose(1, 0, 2)[order])
    change = np.empty_like(w)
    for pattern in x:
        slopes = slopes_at(np.einsum("ki,ki->k", pattern, w) * scale)
        np.multiply(pattern, (step * slopes)[:, None], out=change)
        w += change
    _normalise(w)


class MajoritySlopes:
    """∂ log P(majority right)/∂a_k: laws of the number of right units by their discrete Fourier transforms.

    All log-odds are raised by θ, which makes a bare majority likely, and numbers above it weighted by e^{−θ}: Fourier
    sums of K + 1 terms are exact to rounding, and nothing underflows.
    """

    def __init__(self, units: int) -> None:
        self.units, self.needed = units, (units + 1) // 2
        turns = np.exp(2j * np.pi * np.outer(np.arange(units + 1), np.arange(units + 1)) / (units + 1))
        self.points, self.inverse = turns[1], turns.conj() / (units + 1)
        self.own = np.arange(units)

    def __call__(self, a: Array) -> Array:
        right, wrong = log_ndtr(a), log_ndtr(-a)
        mills = np.exp(-0.5 * a * a - right) / _ROOT_TWO_PI
        if self.units == 1:
            return mills
        odds = right - wrong
        theta = max(0.0, -float(np.partition(odds, -self.needed)[-self.needed]))
        p = expit(odds + theta)
        factors = (1.0 - p)[:, None] + p[:, None] * self.points  # (K, K + 1)
        without = np.repeat(factors[None], self.units, axis=0)
        without[self.own, self.own] = 1.0
        short = (without.prod(axis=1) @ self.inverse[self.needed - 1]).real  # the others are one short
        law = (self.inverse[self.needed :] @ factors.prod(axis=0)).real
        enough = law @ np.exp(-theta * np.arange(len(law)))
        return np.asarray(mills * p * short / enough)


def _replicas(problem: OnlineProblem, x: Array, number: int, orders: Array, H: Array) -> None:
    """All replicas' batches in products of (y, K) pieces."""
    from benchmarks.online_problem import COUPLING, GAMMA, GAMMA_STEP, REPLICA_BATCH

    gamma, half = GAMMA + GAMMA_STEP * number, (H.shape[1] - 1) // 2
    for first in range(0, orders.shape[1], REPLICA_BATCH):
        batch = x[:, orders[:, first : first + REPLICA_BATCH]].transpose(1, 0, 2, 3)  # (y, K, B, n)
        W = np.where(H > 0, np.float32(1), np.float32(-1))
        right = np.matmul(batch, W[..., None])[..., 0]
        bad = right <= 0
        missing = bad.sum(axis=1, keepdims=True) - half
        if H.shape[1] > 1:
            order = np.argsort(np.where(bad, -right, np.inf), axis=1, kind="stable")
            ranks = np.empty_like(order)
            np.put_along_axis(ranks, order, np.arange(H.shape[1])[:, None], axis=1)
            bad = ranks < missing
        H += 2 * np.matmul(bad.astype(np.float32)[:, :, None], batch)[:, :, 0]
        W = np.where(H > 0, 1.0, -1.0)
        H += COUPLING * (np.tanh(gamma * W.sum(axis=0)) - W)


def _cross_entropy(problem: OnlineProblem, x: Array, number: int, order: Array, w: Array) -> None:
    """Fields and gradients of a batch by BLAS."""
    from benchmarks.online_problem import BATCH, GROWTH, RATE, SHARPNESS

    beta, x = SHARPNESS * GROWTH**number, x[:, order]
    K, P, n = x.shape
    for first in range(0, P, BATCH):
        batch = x[:, first : first + BATCH]
        h = np.matmul(batch, w[:, :, None])[:, :, 0] / np.sqrt(n)
        t = np.tanh(beta * h)
        slope = beta / np.sqrt(K) * (1.0 - t * t) if K > 1 else 1.0
        margin = t.sum(axis=0) / np.sqrt(K) if K > 1 else h[0]
        pull = np.broadcast_to(slope * expit(-2.0 * beta * margin), h.shape)
        w += RATE / (batch.shape[1] * np.sqrt(n)) * np.matmul(pull[:, None], batch)[:, 0]
        _normalise(w)


def _normalise(w: Array) -> None:
    w *= np.sqrt(w.shape[1] / np.einsum("ki,ki->k", w, w))[:, None]


_EPOCHS: dict[str, Callable[[OnlineProblem, Array, int, Array, Array], None]] = {
    "least action": _least_action,
    "margin": _margin,
    "perturbed gradient": _perturbed,
    "replicas": _replicas,
    "cross-entropy": _cross_entropy,
}
CONTENDERS = {"online rule": (NumpyOnline(),)}
