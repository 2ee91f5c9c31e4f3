"""The block-vector interface of the eigensolvers, and its implementation in host memory.

A block is an array of rows, each row a vector. Coefficients are small float64 NumPy arrays wherever the vectors live.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from flatcore import _core
from flatcore._checks import FloatArray
from flatcore._memory import check_memory


class BlockVectors(Protocol):
    """What the control loop asks of the vectors' home."""

    length: int
    dtype: np.dtype[Any]

    def empty(self, count: int) -> Any:
        """Room for `count` vectors."""

    def random(self, rows: Any, seed: int) -> None:
        """Fill with independent standard normal entries."""

    def gram(self, V: Any, W: Any) -> FloatArray:
        """V Wᵀ in float64."""

    def update(self, W: Any, V: Any, C: FloatArray) -> None:
        """W -= Cᵀ V in place."""

    def combine(self, V: Any, C: FloatArray) -> None:
        """Make the first C.shape[1] rows of V the combinations Cᵀ V."""


class HostVectors:
    """Block vectors in NumPy arrays."""

    def __init__(self, length: int, dtype: Any) -> None:
        self.length = length
        self.dtype = np.dtype(dtype)

    def empty(self, count: int) -> FloatArray:
        """Room for `count` vectors; refuses what memory cannot hold."""
        check_memory(f"a basis of {count} vectors of {self.length}", count * self.length * self.dtype.itemsize)
        return np.empty((count, self.length), self.dtype)

    def random(self, rows: FloatArray, seed: int) -> None:
        """Standard normal entries that depend on seed and position alone."""
        _core.fill_normal(rows, seed)

    def gram(self, V: FloatArray, W: FloatArray) -> FloatArray:
        """V Wᵀ in float64."""
        return _core.gram(V, W) if len(V) and len(W) else np.zeros((len(V), len(W)))

    def update(self, W: FloatArray, V: FloatArray, C: FloatArray) -> None:
        """W -= Cᵀ V in place."""
        if len(V) and len(W):
            _core.update(W, V, np.ascontiguousarray(C))

    def combine(self, V: FloatArray, C: FloatArray) -> None:
        """Make the first C.shape[1] rows of V the combinations Cᵀ V."""
        _core.combine(V, np.ascontiguousarray(C))
