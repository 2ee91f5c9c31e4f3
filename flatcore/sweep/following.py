r"""Where a search starts: the singular vectors of the checkpoint before, or where those of the last two point to.

Rows V_0, V_1 (k, n) at steps t_0 < t_1; for t_2, with the rotation R that brings V_0 nearest to V_1,

    X = V_1 + τ·(V_1 − R V_0),   τ = (t_2 − t_1)/(t_1 − t_0), at most 2.

Along a smooth trajectory X misses the vectors at t_2 by the second difference, V_1 by the first. Which one is the
better start is seen afterwards: a tensor whose last vectors X would have missed by less, ‖V_2(1 − P)‖ with P the
projection on the start's span, is *foretold*, and starts from X the next time. Starts change the work of a
search, not its answer.

cost    8·n·k² flops a tensor; nothing is read.
source  R is the orthogonal Procrustes solution, U Vᵀ of V_1 V_0ᵀ = U S Vᵀ (Schönemann 1966).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flatcore._linalg import matmul
from flatcore.results import Array
from flatcore.spectral._small import orthonormal_columns, svd

_FARTHEST = 2.0  # times the last distance that is extrapolated


@dataclass(frozen=True)
class Vectors:
    """Right singular vectors (k, n) of a checkpoint by tensor, its step, and which tensors were foretold."""

    path: str
    step: int | None
    right: dict[str, Array]
    foretold: frozenset[str] = frozenset()


def starts(history: Sequence[Vectors], step: int | None) -> dict[str, Array]:
    """Start vectors for a checkpoint at `step`, given at most two before it, the last one last."""
    if not history:
        return {}
    last = history[-1]
    found = dict(last.right)
    for name in last.foretold:
        start = _extrapolated(history, name, step)
        if start is not None:
            found[name] = start
    return found


def foretold(history: Sequence[Vectors], step: int | None, right: dict[str, Array]) -> frozenset[str]:
    """The tensors for which extrapolation is, or would have been, the better start."""
    better = []
    for name, vectors in right.items():
        start = _extrapolated(history, name, step)
        if start is None or start.shape != vectors.shape:
            continue
        if _missed(vectors, start) < _missed(vectors, history[-1].right[name]):
            better.append(name)
    return frozenset(better)


def _extrapolated(history: Sequence[Vectors], name: str, step: int | None) -> Array | None:
    """X, where there are two checkpoints with the same shape."""
    if len(history) < 2:
        return None
    before, last = history[-2].right.get(name), history[-1].right.get(name)
    if before is None or last is None or before.shape != last.shape:
        return None
    old, new = before.astype(float), last.astype(float)
    U, _, Vt = svd(matmul(new, old.T))
    return np.asarray(new + _distance(history, step) * (new - matmul(matmul(U, Vt), old)), dtype=last.dtype)


def _distance(history: Sequence[Vectors], step: int | None) -> float:
    """τ; 1 where the steps do not tell."""
    first, second = (vectors.step for vectors in history[-2:])
    if step is None or first is None or second is None or not first < second < step:
        return 1.0
    return min((step - second) / (second - first), _FARTHEST)


def _missed(vectors: Array, start: Array) -> float:
    """‖V(1 − P)‖, P the projection on the span of the rows of `start`."""
    Q, V = orthonormal_columns(start.astype(float).T), vectors.astype(float)
    return math.sqrt(float(np.square(V - matmul(matmul(V, Q), Q.T)).sum()))
