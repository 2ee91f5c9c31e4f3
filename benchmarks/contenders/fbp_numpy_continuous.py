"""Sweeps of focusing belief propagation for continuous weights in NumPy and SciPy, with the law of the replicas."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import log_ndtr, ndtr

from benchmarks.committee_patterns import signed_inputs
from benchmarks.contenders.base import Array
from benchmarks.contenders.fbp_numpy import AmpSweeps, EdgeSweeps, majority
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.fbp_problem import SweepProblem

_LEAST = 1e-6
_ROOT_TWO_PI = np.sqrt(2.0 * np.pi)
_OTHERS = 9.0  # replicas


class ContinuousEdgeSweeps:
    """The edge form in float64: every array of the edges is passed over in place."""

    name = EdgeSweeps.name

    def available(self) -> str | None:
        """Always."""
        return None

    def prepare(self, problem: SweepProblem, stage: Stages) -> Callable[[Array], Array]:
        """Unpacked patterns over √n, and buffers."""
        with stage("patterns as floats"):
            x = signed_inputs(problem.model, problem.patterns, np.float64)
            x /= np.sqrt(x.shape[2])
        g, cavity, z, q = (np.empty_like(x) for _ in range(4))

        def answer(means: Array) -> Array:
            g[:] = 0.0
            gamma, variances = np.zeros(x.shape[:2]), np.ones(x.shape[1])
            for sweep in range(problem.sweeps):
                damping = problem.damping if sweep else 0.0
                fields, gamma = edge_sweep(x, g, gamma, means, variances, damping, (cavity, z, q))
                precision = np.maximum(gamma.sum(axis=0) / x.shape[2], 0.0)
                means, variances = focused(fields, precision, problem.gamma(sweep))
            return means

        return answer


def edge_sweep(
    x: Array, g: Array, gamma: Array, means: Array, variances: Array, damping: float, buffers: tuple[Array, ...]
) -> tuple[Array, Array]:
    """Messages g (P, K, n) in place; H (K, n) and Γ (P, K)."""
    cavity, z, q = buffers
    np.multiply(x, means, out=cavity)
    np.multiply(g, (variances / x.shape[2])[:, None], out=z)  # x² = 1/n
    cavity -= z
    omega, root = cavity.sum(axis=2), np.sqrt(variances)
    part = np.sqrt(np.maximum(variances * (1.0 - 1.0 / x.shape[2]), _LEAST))
    np.subtract(omega[:, :, None], cavity, out=z)
    z /= part[:, None]
    plus, minus = majority(omega / root) if x.shape[1] > 1 else (None, None)
    fresh_gamma = _gamma(omega / root, root, _slope(omega / root, plus, minus))
    _slope_in_place(z, q, plus, minus)
    z *= ((1.0 - damping) / part)[:, None]
    if damping:
        g *= damping
        g += z
    else:
        g[:] = z
    return np.einsum("pki,pki->ki", x, g), (1.0 - damping) * fresh_gamma + damping * gamma


def _slope(z: Array, plus: Array | None, minus: Array | None) -> Array:
    """∂ log Z/∂z, log Z = log[p₊Φ(z) + p₋Φ(−z)]; one unit has p₋ = 0."""
    if plus is None or minus is None:
        return np.asarray(np.exp(-0.5 * z * z - log_ndtr(z)) / _ROOT_TWO_PI)
    difference = plus - minus
    return np.asarray(difference * np.exp(-0.5 * z * z) / (_ROOT_TWO_PI * (difference * ndtr(z) + minus)))


def _slope_in_place(z: Array, q: Array, plus: Array | None, minus: Array | None) -> None:
    """The same for z (P, K, n), which it replaces; q is room."""
    if plus is None or minus is None:
        log_ndtr(z, out=q)
        np.multiply(z, z, out=z)
        z *= -0.5
        z -= q
        np.exp(z, out=z)
        z /= _ROOT_TWO_PI
        return
    difference = (plus - minus)[:, :, None]
    ndtr(z, out=q)
    q *= difference
    q += minus[:, :, None]
    np.multiply(z, z, out=z)
    z *= -0.5
    np.exp(z, out=z)
    z *= difference / _ROOT_TWO_PI
    z /= q


def _gamma(z: Array, root: Array, slope: Array) -> Array:
    return np.asarray(slope * (slope + z) / (root * root))


def focused(fields: Array, precision: Array, gamma: float) -> tuple[Array, Array]:
    """Means (K, n) and variances (K) under the patterns' H and G, a prior N(0, 1) and nine replicas with coupling γ."""
    r = precision + 1.0
    variances = 1.0 / (r + _OTHERS * r / (1.0 + ((_OTHERS + 1.0) / gamma) * r))
    return fields / r[:, None], variances


class ContinuousAmpSweeps:
    """The AMP form in float32: both products by BLAS on patterns held as floats."""

    name = AmpSweeps.name

    def available(self) -> str | None:
        """None: NumPy is always there."""
        return None

    def prepare(self, problem: SweepProblem, stage: Stages) -> Callable[[Array], Array]:
        """Unpacked patterns, as binary weights' are."""
        x, turned = AmpSweeps.patterns(problem, stage)
        count, n = x.shape[1:]

        def answer(means: Array) -> Array:
            variances = np.ones(len(x), dtype=np.float32)
            g, gamma = np.zeros((count, len(x)), dtype=np.float32), np.zeros(len(x), dtype=np.float32)
            for sweep in range(problem.sweeps):
                damping = np.float32(problem.damping if sweep else 0.0)
                fields, g, gamma = amp_sweep(x, turned, g, gamma, means, variances, damping)
                means, variances = focused(fields, np.maximum(gamma / np.float32(n), 0), problem.gamma(sweep))
            return means

        return answer


def amp_sweep(
    x: Array, turned: Array, g: Array, gamma: Array, means: Array, variances: Array, damping: Any
) -> tuple[Array, Array, Array]:
    """H (K, n), outputs g (P, K) and Σ Γ (K) after a sweep."""
    c, root = np.float32(1.0 / np.sqrt(x.shape[2])), np.sqrt(variances)
    z = (c * np.matmul(x, means[:, :, None])[:, :, 0].T - variances * g) / root
    plus, minus = majority(z) if len(x) > 1 else (None, None)
    slope = _slope(z, plus, minus).astype(np.float32)
    kept = np.float32(1) - damping
    g = kept * (slope / root) + damping * g
    gamma = kept * _gamma(z, root, slope).sum(axis=0) + damping * gamma
    sums = np.matmul(turned, np.ascontiguousarray(g.T)[:, :, None])[:, :, 0]
    precision = np.maximum(gamma * (c * c), np.float32(0))
    return c * sums + precision[:, None] * means, g, gamma


CONTENDERS: dict[str, tuple[Any, ...]] = {
    "sweeps on edges, continuous": (ContinuousEdgeSweeps(),),
    "sweeps of AMP, continuous": (ContinuousAmpSweeps(),),
}
