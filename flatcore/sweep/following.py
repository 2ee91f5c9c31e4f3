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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flatcore._linalg import matmul
from flatcore.results import Array
from flatcore.spectral._small import eigh, svd

_FARTHEST = 2.0  # times the last distance that is extrapolated


@dataclass(frozen=True)
class Vectors:
    """Right singular vectors (k, n) of a checkpoint by tensor, its step, and which tensors were foretold."""

    path: str
    step: int | None
    right: dict[str, Array]
    foretold: frozenset[str] = frozenset()


def extrapolated(history: Sequence[Vectors], step: int | None) -> dict[str, Array]:
    """X at `step` of every tensor that both checkpoints of the history have with the same shape."""
    if len(history) < 2:
        return {}
    before, last = history[-2:]
    distance = _distance(before.step, last.step, step)
    found = {}
    for name, new in last.right.items():
        old = before.right.get(name)
        if old is not None and old.shape == new.shape:
            found[name] = _ahead(old.astype(float), new.astype(float), distance).astype(new.dtype)
    return found


def starts(history: Sequence[Vectors], ahead: Mapping[str, Array]) -> dict[str, Array]:
    """Start vectors after at most two checkpoints, the last one last, of which `ahead` is `extrapolated`."""
    if not history:
        return {}
    last = history[-1]
    return {**last.right, **{name: ahead[name] for name in last.foretold if name in ahead}}


def foretold(history: Sequence[Vectors], ahead: Mapping[str, Array], right: Mapping[str, Array]) -> frozenset[str]:
    """The tensors for which extrapolation is, or would have been, the better start, given what was found."""
    return frozenset(
        name
        for name, start in ahead.items()
        if name in right
        and right[name].shape == start.shape
        and _missed(right[name], start) < _missed(right[name], history[-1].right[name])
    )


def _ahead(old: Array, new: Array, distance: float) -> Array:
    U, _, Vt = svd(matmul(new, old.T))
    return np.asarray(new + distance * (new - matmul(matmul(U, Vt), old)))


def _distance(first: int | None, second: int | None, step: int | None) -> float:
    """τ; 1 where the steps do not tell."""
    if step is None or first is None or second is None or not first < second < step:
        return 1.0
    return min((step - second) / (second - first), _FARTHEST)


def _missed(vectors: Array, start: Array) -> float:
    """‖V(1 − P)‖², P the projection on the span of the rows of `start`: ‖V‖² − tr C G⁺Cᵀ, C = V Xᵀ, G = X Xᵀ.

    The difference is known to the rounding of float64 times k, far below what tells two starts apart.
    """
    V, X = vectors.astype(float), start.astype(float)
    values, Y = eigh(matmul(X, X.T))
    inside = matmul(matmul(V, X.T), Y)
    kept = values > np.finfo(float).eps * len(X) * values[-1]
    return float(np.square(V).sum() - (np.square(inside[:, kept]) / values[kept]).sum())
