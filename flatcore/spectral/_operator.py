"""A user's operator, checked: products with blocks of rows, counted, in the precision of what is multiplied.

Dense arrays and CPU tensors are multiplied through the kernels' BLAS, panel by panel where float32 entries take part in
a float64 product; everything else through its own ``@`` on arrays (N, b). An operator that names a home for its
vectors, ``block_vectors(dtype)``, is asked for ``rows_product(rows)`` on rows (b, N) that live there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse

from flatcore._checks import (
    FloatArray,
    as_float_array,
    as_numpy,
    check_finite,
    chunks,
    exports_dlpack,
    is_tensor,
    with_unit_stride,
)
from flatcore._linalg import matmul
from flatcore.spectral._costs import OperatorCost
from flatcore.spectral._vectors import BlockVectors, HostVectors

# Asymmetry, relative to the largest projected entry, that cannot be the rounding of a symmetric operator's products.
ASYMMETRY_LIMITS = {np.dtype(np.float32): 1e-3, np.dtype(np.float64): 1e-4}
_PART = 100.0  # times the largest projected entry: what the norm may be
_PANEL_ENTRIES = 1 << 22  # entries of a float32 matrix that are converted together
_LARGEST = 1e150  # sizes whose squares overflow


class Operator:
    """A real symmetric operator (N, N) on blocks of rows.

    ``dtype`` is the precision of the work: float32 where the operator has at most 32 bits, else float64. ``products``
    counts vectors. ``matrix`` is the array of a dense operator, else None. ``cost`` is the operator's own ``cost``
    attribute where it is an `OperatorCost`, computed for matrices, and None where nothing is known.
    """

    def __init__(self, operator: Any) -> None:
        if is_tensor(operator) or exports_dlpack(operator):
            operator = as_numpy("operator", operator)
        shape = getattr(operator, "shape", None)
        self._has_home = hasattr(operator, "block_vectors") and hasattr(operator, "rows_product")
        if shape is None or not (self._has_home or hasattr(operator, "__matmul__")):
            raise ValueError(f"operator is a {type(operator).__name__}; expected something with shape, dtype and @")
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"operator has shape {tuple(shape)}; expected a square one")
        if shape[0] < 1:
            raise ValueError("operator has shape (0, 0); expected at least one row")
        self.dtype = _work_dtype(getattr(operator, "dtype", None))
        self.length = int(shape[0])
        self.products = 0
        self.matrix: FloatArray | None = None
        if isinstance(operator, np.ndarray):
            self.matrix = with_unit_stride(as_float_array("operator", operator, 2))
            check_finite("operator", self.matrix)
        self._operator = operator
        self._home = self.vectors(self.dtype)
        self.cost = _cost(operator, self.matrix, self.dtype.itemsize)

    def vectors(self, dtype: Any) -> BlockVectors:
        """Where vectors of that precision live."""
        if self._has_home:
            home: BlockVectors = self._operator.block_vectors(np.dtype(dtype))
            if home.length != self.length:
                raise ValueError(f"operator.block_vectors holds vectors of {home.length}; expected {self.length}")
            return home
        return HostVectors(self.length, dtype)

    @property
    def noise_floor(self) -> float:
        """The operator's own ``noise_floor``, relative rounding of its products; 0 where it states none."""
        floor = getattr(self._operator, "noise_floor", None)
        if floor is None:
            return 0.0
        if isinstance(floor, bool) or not isinstance(floor, (int, float, np.floating)) or not 0.0 <= floor < np.inf:
            raise ValueError(f"operator.noise_floor is {floor!r}; expected a number that is not negative, or None")
        return float(floor)

    def __call__(self, rows: Any) -> Any:
        """Products with the rows (b, N), as a new array of rows of the same home and precision."""
        self.products += len(rows)
        if self.matrix is not None:
            return _dense_product(self.matrix, rows)
        return self._home_product(rows) if self._has_home else self._own_product(rows)

    def _home_product(self, rows: Any) -> Any:
        image = self._operator.rows_product(rows)
        if tuple(image.shape) != tuple(rows.shape):
            raise ValueError(
                f"operator.rows_product(rows) has shape {tuple(image.shape)}; expected {tuple(rows.shape)}"
            )
        if "complex" in str(image.dtype):
            raise ValueError("operator.rows_product(rows) is complex; expected a real symmetric operator")
        return self._home.own(image, rows)

    def _own_product(self, rows: FloatArray) -> FloatArray:
        image = as_numpy("operator @ V", self._block_product(rows))
        if image.shape != rows.T.shape:
            raise ValueError(f"operator @ V has shape {image.shape}; expected {rows.T.shape}")
        if image.dtype.kind == "c":
            raise ValueError("operator @ V is complex; expected a real symmetric operator")
        if image.dtype.kind not in "fbiu":
            raise ValueError(f"operator @ V has dtype {image.dtype}; expected real numbers")
        out: FloatArray = self._home.own(image.T, rows)
        return out

    def _block_product(self, rows: FloatArray) -> Any:
        """The operator's own product with rowsᵀ; where only blocks fail, the error says so."""
        try:
            return self._operator @ rows.T
        except (TypeError, ValueError, IndexError) as error:
            try:
                self._operator @ rows[0]
            except Exception:  # vectors fail as well: the operator's own error says more than we could
                raise error from None
            raise ValueError(
                f"operator @ v works for one vector ({self.length},) but fails for a block "
                f"({self.length}, {len(rows)}): {error}; expected both (wrap it in scipy's LinearOperator)"
            ) from error


def check_symmetric(asymmetry: float, size: float, dtype: np.dtype[Any], noise: float = 0.0) -> None:
    """Refuse an operator for which xᵀAy and yᵀAx differ by more than rounding, or whose square overflows.

    Rounding is that of `dtype`, or the operator's own `noise` relative to its norm, of which `size` may be a part.
    """
    if asymmetry > max(ASYMMETRY_LIMITS[dtype], _PART * noise) * size:
        raise ValueError(
            f"the operator is not symmetric: xᵀAy and yᵀAx differ by {asymmetry:.3g} (the size of A is {size:.3g})"
        )
    if size > _LARGEST:
        raise ValueError(f"the operator's size is {size:.3g}; expected at most {_LARGEST:g} (scale it)")


def _work_dtype(dtype: Any) -> np.dtype[Any]:
    try:
        given = np.dtype(np.float64 if dtype is None else dtype)
    except TypeError:
        raise ValueError(f"operator has dtype {dtype}; expected a NumPy type of real numbers") from None
    if given.kind == "c":
        raise ValueError(f"operator is complex ({given}); expected a real symmetric one")
    if given.kind not in "fbiu" and given.name != "bfloat16":
        raise ValueError(f"operator has dtype {given}; expected real numbers")
    return np.dtype(np.float32 if given.kind not in "biu" and given.itemsize <= 4 else np.float64)


def _dense_product(matrix: FloatArray, rows: FloatArray) -> FloatArray:
    if rows.dtype == matrix.dtype:
        return matmul(rows, matrix.T)
    out = np.empty_like(rows)
    for panel in chunks(len(matrix), max(1, _PANEL_ENTRIES // len(matrix))):
        out[:, panel] = matmul(rows, matrix[panel].astype(rows.dtype).T)
    return out


def _cost(operator: Any, matrix: FloatArray | None, itemsize: int) -> OperatorCost | None:
    N, cost = operator.shape[0], getattr(operator, "cost", None)
    if isinstance(cost, OperatorCost):
        return cost
    if matrix is not None:
        return OperatorCost(matrix.nbytes, 2.0 * N * itemsize, 2.0 * N * N)
    if scipy.sparse.issparse(operator):
        stored = operator.nnz * (itemsize + 4.0)  # an entry and its index
        return OperatorCost(stored, (operator.nnz + 2.0 * N) * itemsize, 2.0 * operator.nnz)
    return None
