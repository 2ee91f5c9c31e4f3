"""A matrix of somebody else's memory as the singular value solvers use it: products of rows with it, counted.

The smaller side is the one to work on, so a wide matrix is read as its transpose: here A is M × N with M ≥ N. Products
carry a power of two s that makes max |s·a_ij| about 1: squares neither overflow nor vanish whatever the entries' size.
Its root goes to the vectors before a product and to the image after it; where s itself is too far from 1 for the kernel
of both products in one read, they are two.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from flatcore import _core
from flatcore._checks import FloatArray, as_float_array, check_finite, check_not_empty, chunks
from flatcore._linalg import matmul

_PANEL_ENTRIES = 1 << 22  # of a matrix that is converted or gathered panel by panel
_CONVERTED_ENTRIES = 1 << 20  # to float64
_FAR = {np.dtype(np.float32): 60, np.dtype(np.float64): 500}  # powers of two: s times a vector loses digits beyond
_LARGEST_EXPONENT = {np.dtype(np.float32): 126, np.dtype(np.float64): 1000}


def as_matrix(name: str, value: Any) -> FloatArray:
    """A matrix in place: float32, float64 or half precision as stored, of any strides; other real types converted."""
    array = as_float_array(name, value, 2, keep_half=True)
    check_not_empty(name, array)
    return array


def _has_unit_stride(array: FloatArray) -> bool:
    """Whether the kernels read the matrix without a copy: row- or column-major, any leading dimension."""
    (rows, cols), (down, right) = array.shape, (stride // array.itemsize for stride in array.strides)
    exact = all(stride % array.itemsize == 0 for stride in array.strides)
    return exact and ((right == 1 and down >= cols) or (down == 1 and right >= rows))


class StoredOperator:
    """Products with a matrix A (M, N), M ≥ N, or with the transpose of a wide one.

    Parameters
    ----------
    name, matrix
        What :func:`as_matrix` returned; refused where it holds NaN or Inf.
    largest
        max |a_ij| of finite entries, where that is known: a read less.

    """

    def __init__(self, name: str, matrix: FloatArray, largest: float | None = None) -> None:
        rows, cols = matrix.shape
        self.transposed = rows < cols or (rows == cols and abs(matrix.strides[0]) < abs(matrix.strides[1]))
        self._A = matrix.T if self.transposed else matrix
        self.rows, self.cols = self._A.shape
        self.dtype = np.dtype(np.float32 if matrix.itemsize <= 4 else np.float64)
        self._direct = _has_unit_stride(self._A)
        self.reads, self.products = 0, 0
        if largest is None:
            largest, self.reads = self._largest_modulus(), 1
            if not math.isfinite(largest):
                check_finite(name, matrix)
        bound = _LARGEST_EXPONENT[self.dtype]
        exponent = min(max(-math.frexp(largest)[1], -bound), bound) if largest > 0.0 else 0
        self.scale = 2.0**exponent
        self._before, self._after = 2.0 ** (exponent // 2), 2.0 ** (exponent - exponent // 2)
        self._far = abs(exponent) > _FAR[self.dtype]

    def normal(self, X: FloatArray) -> FloatArray:
        """s² X AᵀA for rows X (b, N), with one read."""
        if self._far:
            return self.backward(self.forward(X))
        out = np.empty_like(X)
        for rows, panel in self._panels():
            target = out if rows.start == 0 else np.empty_like(X)
            _core.normal_product(panel, X, target, self.scale)
            if target is not out:
                out += target
        self._count(2 * len(X))
        return out

    def forward(self, X: FloatArray) -> FloatArray:
        """The image s X Aᵀ (b, M) of rows X (b, N)."""
        out = np.empty((len(X), self.rows), X.dtype)
        X = X * X.dtype.type(self._before)
        for rows, panel in self._panels():
            _core.stored_product(X, panel.T, out[:, rows])
        out *= X.dtype.type(self._after)
        self._count(len(X))
        return out

    def backward(self, Y: FloatArray) -> FloatArray:
        """The adjoint s Y A (b, N) of rows Y (b, M)."""
        out = np.empty((len(Y), self.cols), Y.dtype)
        Y = Y * Y.dtype.type(self._before)
        for rows, panel in self._panels():
            target = out if rows.start == 0 else np.empty_like(out)
            _core.stored_product(Y[:, rows], panel, target)
            if target is not out:
                out += target
        out *= Y.dtype.type(self._after)
        self._count(len(Y))
        return out

    def gram(self) -> FloatArray:
        """s²AᵀA (N, N) in float64, panel by panel."""
        G = np.zeros((self.cols, self.cols))
        for part in chunks(self.rows, max(1, _CONVERTED_ENTRIES // self.cols)):
            panel = np.multiply(self._A[part], self.scale, dtype=np.float64)
            G += matmul(panel.T, panel)
        self._count(self.cols)
        return (G + G.T) / 2

    def dense(self) -> FloatArray:
        """A scaled copy in float64."""
        return np.multiply(self._A, self.scale, dtype=np.float64)

    def _count(self, vectors: int) -> None:
        self.reads += 1
        self.products += vectors

    def _panels(self) -> Iterator[tuple[slice, FloatArray]]:
        """Row panels as the kernels read them: the matrix itself, or gathered pieces of it."""
        if self._direct:
            yield slice(0, self.rows), self._A
            return
        for rows in chunks(self.rows, max(1, _PANEL_ENTRIES // self.cols)):
            yield rows, np.ascontiguousarray(self._A[rows])

    def _largest_modulus(self) -> float:
        """Of all entries; NaN where one is not finite."""
        return float(np.max([_core.magnitude(panel)[0] for _, panel in self._panels()]))
