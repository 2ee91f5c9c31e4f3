"""Singular value decompositions of every layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from flatcore import _core
from flatcore._checks import FloatArray

Progress = Callable[[float], None]


class Svd(NamedTuple):
    """A thin singular value decomposition: U (p, r), s (r,) descending, Vt (r, q)."""

    U: FloatArray
    s: FloatArray
    Vt: FloatArray


def layer_svds(chain: _core.Chain, depth: int, k: int, progress: Progress | None = None) -> list[Svd]:
    """The top k singular triplets of each of `depth` layers (skip links included), by LAPACK's full decomposition.

    `progress` hears the fraction done before each layer: one decomposition cannot be interrupted.
    """
    out = []
    for layer in range(depth):
        if progress is not None:
            progress(layer / depth)
        U, s, Vt = _core.layer_svd(chain, layer)
        out.append(Svd(U[:, :k].copy(), s[:k], Vt[:k].copy()))
    return out
