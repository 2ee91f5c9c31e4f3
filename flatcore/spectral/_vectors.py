"""The block-vector interface of the solvers, and its implementation in host memory.

A block is an array of rows, each row a vector. Coefficients are small float64 NumPy arrays wherever the vectors live.
Beside what the interface names, blocks are sliced, indexed by integers, assigned to, and combined elementwise with
Python's operators, which arrays and tensors share.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np

from flatcore import _core
from flatcore._checks import FloatArray, as_float_array, check_finite
from flatcore._memory import available_memory, check_memory


class BlockVectors(Protocol):
    """What the solvers ask of the vectors' home."""

    length: int
    dtype: np.dtype[Any]

    def empty(self, count: int) -> Any:
        """Room for `count` vectors."""

    def copy(self, rows: Any) -> Any:
        """A new block with the values of `rows`: of this home in any precision, or what `columns` let pass."""

    def own(self, image: Any, rows: Any) -> Any:
        """The product `image` in the precision of `rows`, in memory that is not theirs and may be written."""

    def columns(self, name: str, value: Any) -> Any:
        """Start vectors as columns (N, b), wherever they live; refuses other shapes, complex and infinite numbers."""

    def host(self, rows: Any) -> FloatArray:
        """The same numbers as a NumPy array."""

    def random(self, rows: Any, seed: int, *, signs: bool = False) -> None:
        """Fill with independent standard normal entries, or with their signs."""

    def sizes(self, rows: Any) -> FloatArray:
        """The largest modulus in each row."""

    def ldexp(self, rows: Any, exponent: int) -> None:
        """Multiply by 2^exponent in place."""

    def gram(self, V: Any, W: Any) -> FloatArray:
        """V Wᵀ in float64."""

    def update(self, W: Any, V: Any, C: FloatArray) -> None:
        """W -= Cᵀ V in place."""

    def combine(self, V: Any, C: FloatArray) -> None:
        """Make the first C.shape[1] rows of V the combinations Cᵀ V."""

    def available(self) -> int | None:
        """Bytes left for vectors, or None where that is not known."""

    def check_memory(self, what: str, needed: int) -> None:
        """Refuse what cannot be allocated here."""


class HostVectors:
    """Block vectors in NumPy arrays."""

    def __init__(self, length: int, dtype: Any) -> None:
        self.length = length
        self.dtype = np.dtype(dtype)

    def empty(self, count: int) -> FloatArray:
        """Room for `count` vectors; refuses what memory cannot hold."""
        check_memory(f"a basis of {count} vectors of {self.length}", count * self.length * self.dtype.itemsize)
        return np.empty((count, self.length), self.dtype)

    def copy(self, rows: FloatArray) -> FloatArray:
        """A new block with the values of `rows`."""
        return np.array(rows, dtype=self.dtype, order="C")

    def own(self, image: FloatArray, rows: FloatArray) -> FloatArray:
        """The product `image` in the precision of `rows`, in memory that is not theirs and may be written."""
        out = image.astype(rows.dtype, order="C", copy=False)
        return out.copy() if np.may_share_memory(out, rows) or not out.flags.writeable else out

    def columns(self, name: str, value: Any) -> FloatArray:
        """Start vectors (N,) or (N, b) as columns (N, b), without a copy where their type allows it."""
        return checked_columns(name, value, self.length)

    def host(self, rows: FloatArray) -> FloatArray:
        """The rows themselves."""
        return rows

    def random(self, rows: FloatArray, seed: int, *, signs: bool = False) -> None:
        """Standard normal entries that depend on seed and position alone, or their signs."""
        _core.fill_normal(rows, seed)
        if signs:
            np.copysign(1.0, rows, out=rows)

    def sizes(self, rows: FloatArray) -> FloatArray:
        """The largest modulus in each row; NaN where it holds one."""
        sizes: FloatArray = np.maximum(rows.max(axis=1), -rows.min(axis=1))
        return sizes

    def ldexp(self, rows: FloatArray, exponent: int) -> None:
        """Multiply by 2^exponent in place, rounding only what becomes subnormal."""
        np.ldexp(rows, exponent, out=rows)

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

    def available(self) -> int | None:
        """Bytes of memory left, or None where the system does not tell."""
        return available_memory()

    def check_memory(self, what: str, needed: int) -> None:
        """Refuse what memory cannot hold."""
        check_memory(what, needed)


def checked_columns(name: str, value: Any, length: int) -> FloatArray:
    """Start vectors in host memory, (N,) or (N, b), as columns (N, b)."""
    array = as_float_array(name, value, 2 if np.ndim(value) == 2 else 1)
    if array.shape[0] != length or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected ({length},) or ({length}, b)")
    check_finite(name, array)
    return array.reshape(length, -1)


def norm(vectors: BlockVectors, row: Any) -> float:
    """‖x‖ of the block (1, N) that holds x alone."""
    return math.sqrt(vectors.gram(row, row)[0, 0])


def unit_rows(vectors: BlockVectors, part: slice) -> Any:
    """The rows `part` of the identity."""
    rows = vectors.empty(part.stop - part.start)
    rows[:] = 0.0
    rows[np.arange(len(rows)), np.arange(part.start, part.stop)] = 1.0
    return rows
