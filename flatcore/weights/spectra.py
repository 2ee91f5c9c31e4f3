"""Singular value decompositions of every layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flatcore import _core
from flatcore._checks import FloatArray

Progress = Callable[[float], None]


class Svd(NamedTuple):
    """A singular value decomposition: s (r,) descending, and the first k ≤ r vectors U (p, k), Vt (k, q)."""

    U: FloatArray
    s: FloatArray
    Vt: FloatArray


def layer_svds(chain: _core.Chain, depth: int, k: int, progress: Progress | None = None) -> list[Svd]:
    """All singular values and the top k vectors of each of `depth` layers (skip links included), by LAPACK.

    `progress` hears the fraction done before each layer: one decomposition cannot be interrupted.
    """
    out = []
    for layer in range(depth):
        if progress is not None:
            progress(layer / depth)
        U, s, Vt = _core.layer_svd(chain, layer)
        out.append(Svd(U[:, :k].copy(), s, Vt[:k].copy()))
    return out
