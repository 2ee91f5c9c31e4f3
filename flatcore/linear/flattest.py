r"""The flattest sharpness λ* a given end-to-end matrix allows (docs/theory.md, "The flattest sharpness").

With Qm = LᵀL, Pm = LᵀΦᵀΦL (S = LLᵀ the inputs' second moment) and depth M ≥ 2,

    λ* = 2·min_{t} λ_max(F(t)),   F(t) = eᵗ·Qm + (M−1)·e^{−t/(M−1)}·Pm,   convex in t = log ζ,
       = 2M·max_{‖v‖=1} (‖ΦLv‖^{M−1}·‖Lv‖)^{2/M},

for batchmean; other reductions multiply it. The minimum is found by bisection on the sign of a subgradient vᵀF'(t)v; at
the minimiser some unit v in the top eigenspace has vᵀF'v = 0, and that v attains the maximum. Both forms are computed:
the difference bounds the error of either.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from flatcore._checks import FloatArray, check_choice
from flatcore.linear.chain import LinearChain, check_chain
from flatcore.linear.losses import QuadraticLoss, check_loss_shape


class BoundDoesNotApplyError(ValueError):
    """The theorem behind λ* does not cover this chain or loss."""


@dataclass(frozen=True)
class FlattestMinimum:
    """λ*, its lower certificate (the maximum form), ζ, and the unit direction v (r,) in whitened coordinates."""

    value: float
    lower: float
    zeta: float
    v: FloatArray


def flattest_sharpness(chain: LinearChain, loss: Any, at: str = "minimiser") -> float:
    """λ*: the smallest largest eigenvalue any factorisation of the end-to-end matrix can have.

    Parameters
    ----------
    chain
        A :class:`LinearChain` without biases; only its depth, widths and (for ``"current"``) product matter.
    loss
        A :class:`QuadraticLoss`; the answer is in its own reduction.
    at
        ``"minimiser"``: at Φ* = CS⁺, the least-squares solution; ``"current"``: at the chain's own Φ, where the
        largest eigenvalue of the Gauss–Newton matrix over λ* is the flatness ratio (≥ 1).

    Returns
    -------
    float
        λ* ≥ 0.

    Raises
    ------
    ValueError
        Biases, another loss, or a hidden width below the rank of Φ: there the bound is unproved.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> X = np.eye(3) * np.sqrt(3)  # whitened: S = I
    >>> chain = fc.LinearChain([np.eye(3)] * 4)
    >>> round(fc.flattest_sharpness(chain, fc.QuadraticLoss(X, 2 * X)), 6)  # 2M·σ^(2−2/M)
    22.627417

    Source: docs/theory.md; for whitened data Mulayoff & Michaeli (2020).

    """
    check_chain(chain)
    return flattest_minimum(chain, loss, at).value


def flattest_minimum(chain: LinearChain, loss: Any, at: str) -> FlattestMinimum:
    """As :func:`flattest_sharpness`, with the maximum form and its direction."""
    check_choice("at", at, ("minimiser", "current"))
    if not isinstance(loss, QuadraticLoss):
        raise BoundDoesNotApplyError(
            f"loss is a {type(loss).__name__}; the flattest sharpness is known for QuadraticLoss only"
        )
    if chain.has_biases:
        raise BoundDoesNotApplyError("the chain has biases; the flattest sharpness is proved without them only")
    check_loss_shape(loss, (chain.dims[-1], chain.num_inputs), False)
    form = loss.whitened(False)
    L = form.factor
    target = form.target if at == "minimiser" else chain.product().astype(np.float64) @ L
    if at == "minimiser":
        _check_widths(chain, target)
    if L.shape[1] == 0:
        return FlattestMinimum(0.0, 0.0, 1.0, np.zeros(0))
    return _scaled(_minimise(L.T @ L, target.T @ target, chain.depth), loss.scale)


def _check_widths(chain: LinearChain, target: FloatArray) -> None:
    """Every hidden width must reach the rank of ΦL (that of Φ* = TL⁺)."""
    s = np.linalg.svd(target, compute_uv=False)
    rank = int((s > max(target.shape) * np.finfo(float).eps * s[0]).sum()) if s.size else 0
    for j, width in enumerate(chain.dims[1:-1], start=1):
        if width < rank:
            raise BoundDoesNotApplyError(
                f"hidden width {j} is {width}, below the rank {rank} of the minimiser; the bound is unproved there"
            )


def _scaled(found: FlattestMinimum, scale: float) -> FlattestMinimum:
    return FlattestMinimum(scale * found.value, scale * found.lower, found.zeta, found.v)


def _minimise(Q: FloatArray, P: FloatArray, depth: int) -> FlattestMinimum:
    """Both forms of λ* for batchmean from Qm and Pm."""
    top_q, top_p = _top(Q), _top(P)
    if depth == 1:
        return FlattestMinimum(2.0 * top_q, 2.0 * top_q, 1.0, scipy.linalg.eigh(Q)[1][:, -1])
    if top_p <= 0.0:
        v = scipy.linalg.eigh(Q)[1][:, -1]
        return FlattestMinimum(0.0, 0.0, 0.0, v)
    # Between these t one term alone exceeds the value at the balance of the two largest eigenvalues.
    balance = (depth - 1) / depth * np.log(top_p / top_q)
    span = depth * np.log(2.0 * depth) + 1.0
    low, high = balance - span, balance + span
    while _slopes(Q, P, depth, low)[1] > 0.0:
        low -= span
    while _slopes(Q, P, depth, high)[0] < 0.0:
        high += span
    for _ in range(200):
        t = (low + high) / 2
        least, most = _slopes(Q, P, depth, t)
        if least <= 0.0 <= most or not low < t < high:
            break
        low, high = (t, high) if most < 0.0 else (low, t)
    value = min(2.0 * _top(_form(Q, P, depth, x)) for x in (low, t, high))
    v = _stationary_direction(Q, P, depth, t)
    gain = np.sqrt(max(float(v @ P @ v), 0.0)) ** (depth - 1) * np.sqrt(max(float(v @ Q @ v), 0.0))
    return FlattestMinimum(value, 2.0 * depth * gain ** (2.0 / depth), float(np.exp(t)), v)


def _form(Q: FloatArray, P: FloatArray, depth: int, t: float) -> FloatArray:
    return np.asarray(np.exp(t) * Q + (depth - 1) * np.exp(-t / (depth - 1)) * P)


def _derivative(Q: FloatArray, P: FloatArray, depth: int, t: float) -> FloatArray:
    return np.asarray(np.exp(t) * Q - np.exp(-t / (depth - 1)) * P)


def _top(A: FloatArray) -> float:
    n = len(A)
    return float(scipy.linalg.eigh(A, eigvals_only=True, subset_by_index=[n - 1, n - 1])[0])


def _top_space(Q: FloatArray, P: FloatArray, depth: int, t: float) -> FloatArray:
    """Eigenvectors of F(t) whose values agree with the largest to rounding."""
    values, vectors = scipy.linalg.eigh(_form(Q, P, depth, t))
    return np.asarray(vectors[:, values >= values[-1] * (1.0 - 1e-10)])


def _slopes(Q: FloatArray, P: FloatArray, depth: int, t: float) -> tuple[float, float]:
    """The ends of the subdifferential of λ_max(F) at t."""
    V = _top_space(Q, P, depth, t)
    ends = np.linalg.eigvalsh(V.T @ _derivative(Q, P, depth, t) @ V)
    return float(ends[0]), float(ends[-1])


def _stationary_direction(Q: FloatArray, P: FloatArray, depth: int, t: float) -> FloatArray:
    """A unit v in the top eigenspace with vᵀF'v = 0 (nearest to it where rounding leaves none)."""
    V = _top_space(Q, P, depth, t)
    slopes, W = np.linalg.eigh(V.T @ _derivative(Q, P, depth, t) @ V)
    low, high = slopes[0], slopes[-1]
    if low >= 0.0:
        return np.asarray(V @ W[:, 0])
    if high <= 0.0:
        return np.asarray(V @ W[:, -1])
    share = high / (high - low)  # |weight on the falling direction|²
    return np.asarray(V @ (np.sqrt(share) * W[:, 0] + np.sqrt(1.0 - share) * W[:, -1]))
