"""What all symmetric operators of a chain share: blocks, precisions, threads, and a dense form."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from flatcore import _core
from flatcore._checks import FloatArray, as_numpy, human, like_input
from flatcore._memory import check_memory
from flatcore._threads import limit_threads
from flatcore.linear.chain import LinearChain
from flatcore.linear.products import ChainProducts
from flatcore.spectral import OperatorCost

_DENSE_BLOCK = 64


class RowOperator(LinearOperator):  # type: ignore[misc]
    """A symmetric operator given by products with contiguous rows.

    ``H @ v`` takes vectors (N,) and blocks (N, k). The result has the precision of what is multiplied: float64 input
    is multiplied in float64 whatever the weights' precision; float32 input in float32 where the weights are float32.
    """

    def __init__(self, size: int, products: ChainProducts, threads: int | None) -> None:
        super().__init__(dtype=products.chain.dtype, shape=(size, size))
        self._products = products
        self._threads = threads

    @property
    def products(self) -> ChainProducts:
        """The partial products behind this operator."""
        return self._products

    @property
    def chain(self) -> LinearChain:
        """The chain whose curvature this is."""
        return self._products.chain

    @property
    def cost(self) -> OperatorCost:
        """What a product costs, for the solvers' choice of a block and a basis."""
        raise NotImplementedError

    def _products_of(self, rows: FloatArray) -> FloatArray:
        """Products with contiguous rows (k, N) in float32 or float64."""
        raise NotImplementedError

    def _matmat(self, V: FloatArray) -> FloatArray:
        with limit_threads(self._threads):
            return self._rows(np.asarray(V).T).T

    def _matvec(self, v: FloatArray) -> FloatArray:
        return self._matmat(np.reshape(v, (-1, 1))).reshape(-1)

    def _adjoint(self) -> RowOperator:
        return self

    _rmatvec = _matvec
    _rmatmat = _matmat

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, LinearOperator):
            return super().__matmul__(other)
        array = as_numpy("v", other)
        if array.dtype.kind == "c":
            raise ValueError(f"v is complex ({array.dtype}); expected real numbers")
        if array.ndim not in (1, 2) or array.shape[0] != self.shape[1]:
            raise ValueError(f"v has shape {array.shape}; expected ({self.shape[1]},) or ({self.shape[1]}, k)")
        return like_input(other, self.matvec(array) if array.ndim == 1 else self.matmat(array))

    def _rows(self, rows: FloatArray) -> FloatArray:
        given = rows.dtype if rows.dtype in (np.float32, np.float64) else np.dtype(np.float64)
        return self._products_of(self._contiguous(rows)).astype(given, copy=False)

    def _contiguous(self, rows: FloatArray) -> FloatArray:
        """Rows as the kernels read them, in the wider of their precision and the weights'."""
        given = rows.dtype if rows.dtype in (np.float32, np.float64) else np.dtype(np.float64)
        rows = rows.astype(np.result_type(given, self.dtype), copy=False)
        if rows.strides[1] == rows.itemsize:
            return rows
        out = np.empty(rows.shape, rows.dtype)
        _core.to_rows(rows.T, out)
        return out

    def dense(self) -> FloatArray:
        """The whole matrix (N, N) in float64."""
        N = self.shape[0]
        check_memory(f"a dense {N} × {N} matrix", 8 * N * N)
        out = np.empty((N, N))
        with limit_threads(self._threads):
            for first in range(0, N, _DENSE_BLOCK):
                count = min(_DENSE_BLOCK, N - first)
                unit = np.zeros((count, N))
                unit[np.arange(count), first + np.arange(count)] = 1.0
                out[first : first + count] = self._products_of(unit)
        return out

    def __repr__(self) -> str:
        end = "output" if self._products.narrow_output else "input"
        size = "" if self.shape[0] == self.chain.num_parameters else f"{human(self.shape[0])} of "
        return (
            f"{type(self).__name__}({size}{human(self.chain.num_parameters)} parameters, {self.dtype}, "
            f"narrow end: {end}, {self._products.narrow_width} rows)"
        )
