"""Sweeps of belief propagation in NumPy and SciPy: patterns as ±1 floats, buffers reused, BLAS for products."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_ndtr, ndtr

from benchmarks.committee_patterns import signed_inputs
from benchmarks.contenders.base import Array, CannotAnswerError
from benchmarks.contenders.committee_products import MOST_UNPACKED
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.fbp_problem import SweepProblem

_LEAST = 1e-6
_MOST = 30.0


class EdgeSweeps:
    """The edge form in float64: every array of the edges is passed over in place."""

    name = "NumPy and SciPy, in place"

    def available(self) -> str | None:
        """Always."""
        return None

    def prepare(self, problem: SweepProblem, stage: Stages) -> Callable[[Array], Array]:
        """Unpacked patterns and buffers."""
        with stage("patterns as floats"):
            x = signed_inputs(problem.model, problem.patterns, np.float64)
        start, sweeps = problem.messages, problem.sweeps
        a, h, s, u, v = (np.empty_like(x) for _ in range(5))

        def answer(field: Array) -> Array:
            a[:] = start
            b = a.sum(axis=0)
            for _ in range(sweeps):
                b = edge_sweep(x, a, b + field, problem.damping, (h, s, u, v))[0]
            return b

        return answer


def edge_sweep(x: Array, a: Array, b: Array, damping: float, buffers: tuple[Array, ...]) -> tuple[Array, float]:
    """Messages a (P, K, n) in place, their sums and the change of their tanh."""
    h, s, u, v = buffers
    np.subtract(b, a, out=h)
    np.tanh(h, out=h)
    np.multiply(h, h, out=s)
    V = h.shape[2] - s.sum(axis=2)
    s += (V - 1.0)[:, :, None]
    np.maximum(s, _LEAST, out=s)
    np.sqrt(s, out=s)
    np.divide(1.0, s, out=s)
    h *= x
    omega = h.sum(axis=2)
    np.subtract(omega[:, :, None], h, out=h)
    np.multiply(h, s, out=u)  # z± = (ω − xh ± 1)/√(V − 1 + h²); the message is x times ½ log(Q₊/Q₋)
    np.subtract(u, s, out=v)
    u += s
    if x.shape[1] == 1:
        log_ndtr(u, out=u)
        log_ndtr(v, out=v)
        u -= v
    else:
        plus, minus = majority(omega / np.sqrt(np.maximum(V, _LEAST)))
        difference, rest = (plus - minus)[:, :, None], minus[:, :, None]
        for q in (u, v):
            ndtr(q, out=q)
            q *= difference
            q += rest
        u /= v
        np.log(u, out=u)
    u *= x
    u *= 0.5
    np.clip(u, -_MOST, _MOST, out=u)
    np.tanh(a, out=h)
    np.tanh(u, out=s)
    h -= s
    change = max(float(h.max()), -float(h.min()))
    if damping:
        u *= 1.0 - damping
        a *= damping
        a += u
    else:
        a[:] = u
    return a.sum(axis=0), change


def majority(z: Array) -> tuple[Array, Array]:
    """p₊ and p₋ (P, K) of a majority, by the laws of the counts to the left and to the right."""
    count, K = z.shape
    rise, fall = ndtr(z), ndtr(-z)
    half = (K - 1) // 2
    left = [np.ones((count, 1))]
    right = [np.ones((count, 1))]
    for k in range(K - 1):
        left.append(_joined(left[-1], rise[:, k], fall[:, k]))
        right.append(_joined(right[-1], rise[:, K - 1 - k], fall[:, K - 1 - k]))
    plus, minus = np.empty_like(z), np.empty_like(z)
    for k in range(K):
        tail = np.cumsum(right[K - 1 - k][:, ::-1], axis=1)[:, ::-1]  # P(at least c of the K − 1 − k to the right)
        tail = np.concatenate([tail, np.zeros((count, half + 2))], axis=1)
        counts = np.arange(k + 1)
        plus[:, k] = (left[k] * tail[:, np.maximum(half - counts, 0)]).sum(axis=1)
        minus[:, k] = (left[k] * tail[:, np.maximum(half + 1 - counts, 0)]).sum(axis=1)
    total = plus + minus
    return plus / total, minus / total


def _joined(law: Array, rise: Array, fall: Array) -> Array:
    out = np.zeros((law.shape[0], law.shape[1] + 1))
    out[:, :-1] = law * fall[:, None]
    out[:, 1:] += law * rise[:, None]
    return out


class AmpSweeps:
    """The AMP form in float32: both products by BLAS on patterns held as floats."""

    name = "NumPy, BLAS on float32 patterns"

    def available(self) -> str | None:
        """Always."""
        return None

    def prepare(self, problem: SweepProblem, stage: Stages) -> Callable[[Array], Array]:
        """Unpacked patterns."""
        x, turned = self.patterns(problem, stage)
        start = problem.sums

        def answer(field: Array) -> Array:
            S, g = start.copy(), np.zeros((x.shape[1], x.shape[0]), dtype=np.float32)
            for _ in range(problem.sweeps):
                S, g = amp_sweep(x, turned, S, g, field, problem.damping)
            return S

        return answer

    @staticmethod
    def patterns(problem: SweepProblem, stage: Stages) -> tuple[Array, Array]:
        """Units first, (K, P, n), and turned, (K, n, P): a copy where that makes products of several units faster."""
        if 4.0 * problem.edges > MOST_UNPACKED:
            raise CannotAnswerError(f"float32 patterns would take {4e-9 * problem.edges:.0f} GB")
        with stage("patterns as floats"):
            x = np.ascontiguousarray(signed_inputs(problem.model, problem.patterns, np.float32).transpose(1, 0, 2))
            turned = x.transpose(0, 2, 1)
            return x, np.ascontiguousarray(turned) if len(x) > 1 else turned


def amp_sweep(x: Array, turned: Array, S: Array, g: Array, field: Array, damping: float) -> tuple[Array, Array]:
    """S (K, n) and g (P, K) after a sweep."""
    m = np.tanh(S + field)
    V = np.maximum(m.shape[1] - np.einsum("ki,ki->k", m, m), np.float32(_LEAST))
    omega = np.matmul(x, m[:, :, None])[:, :, 0].T - V * g
    root = np.sqrt(V)
    z = omega / root
    density = np.exp(-0.5 * z * z) * np.float32(0.3989422804014327)
    if len(x) == 1:
        slope = density / np.maximum(ndtr(z), np.float32(1e-30))
    else:
        plus, minus = majority(z)
        difference = (plus - minus).astype(np.float32)
        slope = density * difference / (difference * ndtr(z) + minus.astype(np.float32))
    fresh = slope / root
    gamma = (fresh * fresh + z * fresh / root).sum(axis=0)
    g = (1.0 - np.float32(damping)) * fresh + np.float32(damping) * g
    new = np.matmul(turned, np.ascontiguousarray(g.T)[:, :, None])[:, :, 0] + gamma[:, None] * m
    return np.float32(1.0 - damping) * new + np.float32(damping) * S, g


CONTENDERS: dict[str, tuple[Any, ...]] = {"sweeps on edges": (EdgeSweeps(),), "sweeps of AMP": (AmpSweeps(),)}
