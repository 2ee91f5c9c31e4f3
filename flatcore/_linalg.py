"""Matrix products of the Python layer, through the kernels' BLAS."""

from __future__ import annotations

import math

from flatcore import _core
from flatcore._checks import FloatArray, with_unit_stride


def matmul(A: FloatArray, B: FloatArray) -> FloatArray:
    """A B with A (…, p, q) and B (q, r), both float32 or both float64.

    NumPy's ``@`` brings a second BLAS with threads of its own; two pools that spin on the same cores cost more than
    the products themselves.
    """
    flat = A.reshape(math.prod(A.shape[:-1]), A.shape[-1])
    out = _core.matmul(with_unit_stride(flat), with_unit_stride(B))
    return out.reshape(*A.shape[:-1], B.shape[1])
