"""Patterns of committees unpacked for what does not read bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.contenders.base import Array
from flatcore.wfm import Committee, Patterns

_GROUP = 16  # patterns that the packing keeps together
_EDGES = 1 << 20  # unpacked together


def signed_inputs(model: Committee, patterns: Patterns, dtype: Any) -> Array:
    """Inputs times labels as the units see them: (P, K, n)."""
    return next(_pieces(model, patterns, dtype, len(patterns.words)))


def signed_pieces(model: Committee, patterns: Patterns, dtype: Any = np.float64) -> Iterator[Array]:
    """The same, some patterns at a time."""
    return _pieces(model, patterns, dtype, max(1, _EDGES // (_GROUP * model.num_weights)))


def _pieces(model: Committee, patterns: Patterns, dtype: Any, groups: int) -> Iterator[Array]:
    K, n = model.shape
    for first in range(0, len(patterns.words), groups):
        labels = patterns.labels[_GROUP * first : _GROUP * (first + groups)].copy()
        part = Patterns(patterns.words[first : first + groups], labels, model.n_inputs)
        inputs = part.inputs * labels[:, None]
        if model.kind == "tree":
            yield inputs.reshape(-1, K, n).astype(dtype)
        else:
            yield np.repeat(inputs[:, None, :], K, axis=1).astype(dtype)
