"""Matrix products of the Python layer, through the kernels' BLAS, and exact scalings by powers of two."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from flatcore import _core
from flatcore._checks import FloatArray, is_half, with_unit_stride


def matmul(A: FloatArray, B: FloatArray) -> FloatArray:
    """A B with A (…, p, q) and B (q, r), both float32 or both float64.

    NumPy's ``@`` brings a second BLAS with threads of its own; two pools that spin on the same cores cost more than
    the products themselves.
    """
    flat = A.reshape(math.prod(A.shape[:-1]), A.shape[-1])
    out = _core.matmul(with_unit_stride(flat), with_unit_stride(B))
    return out.reshape(*A.shape[:-1], B.shape[1])


def exponent_of(array: FloatArray) -> int:
    """The e for which the largest entry is between 2^(e−1) and 2^e; 0 of zeros."""
    return math.frexp(float(np.abs(array).max(initial=0)))[1]


def divided(array: FloatArray, exponents: Any) -> FloatArray:
    """A copy divided by 2^exponents, in float32 where it is stored in less."""
    out: FloatArray = np.ldexp(array.astype(np.float32) if is_half(array.dtype) else array, np.negative(exponents))
    return out


def ratio(value: float, unit: float) -> float:
    """Value/unit of finite numbers; NaN for unit 0, and where `multiplied` is."""
    if unit == 0.0:
        return math.nan
    (above, p), (below, q) = math.frexp(value), math.frexp(unit)
    return multiplied(above / below, p - q)


def multiplied(value: float, exponent: int) -> float:
    """A number times 2^exponent; NaN where that is beyond float64, or so small that digits are lost."""
    if value == 0.0 or not math.isfinite(value):
        return value
    place = math.frexp(value)[1] + exponent
    return math.ldexp(value, exponent) if -1021 <= place <= 1024 else math.nan
