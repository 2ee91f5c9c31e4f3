"""Number formats by the names that safetensors gives them: widths, and how stored bits become arrays.

float8 is 1 sign, e exponent and m mantissa bits: E5M2 is the upper byte of a float16; E4M3 has bias 7, no infinities
and NaN where all bits after the sign are set. float16 holds every value of both exactly.

Source: Micikevicius et al. (2022), FP8 formats for deep learning.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore._memory import check_memory

# Bits of an entry, and the NumPy type of what is stored; None for formats that are listed and not read.
FORMATS: dict[str, tuple[int, str | None]] = {
    "BOOL": (8, "u1"),
    "F4": (4, None),
    "F6_E2M3": (6, None),
    "F6_E3M2": (6, None),
    "F8_E8M0": (8, None),
    "F8_E4M3FNUZ": (8, None),
    "F8_E5M2FNUZ": (8, None),
    "F8_E4M3": (8, "u1"),
    "F8_E5M2": (8, "u1"),
    "F16": (16, "<f2"),
    "BF16": (16, "<u2"),
    "F32": (32, "<f4"),
    "F64": (64, "<f8"),
    "U8": (8, "u1"),
    "I8": (8, "i1"),
    "U16": (16, "<u2"),
    "I16": (16, "<i2"),
    "U32": (32, "<u4"),
    "I32": (32, "<i4"),
    "U64": (64, "<u8"),
    "I64": (64, "<i8"),
    "C64": (64, "<c8"),
    "C128": (128, "<c16"),
}
_COPIED = {"BF16": 4, "F8_E4M3": 2, "F8_E5M2": 2, "BOOL": 1}  # bytes an entry of the copies in other types
_NUMPY = {"b": "BOOL", "u": "U", "i": "I", "f": "F", "c": "C"}


def name_of(dtype: np.dtype[Any]) -> str | None:
    """What a NumPy type is called here; None for texts, dates, records and extended precision."""
    kind = _NUMPY.get(dtype.kind)
    name = "BOOL" if kind == "BOOL" else f"{kind}{8 * dtype.itemsize}"
    return name if name in FORMATS else None


def stored_type(dtype: str) -> np.dtype[Any]:
    """The NumPy type of the stored entries.

    Raises
    ------
    ValueError
        A format that is not read.

    """
    stored = FORMATS[dtype][1]
    if stored is None:
        known = ", ".join(name for name, (_, kind) in FORMATS.items() if kind is not None)
        raise ValueError(f"entries of format {dtype} are not read; expected one of {known}")
    return np.dtype(stored)


def decoded(dtype: str, stored: NDArray[Any]) -> NDArray[Any]:
    """The numbers that stored entries mean.

    Parameters
    ----------
    dtype
        Their format.
    stored
        Of the type :func:`stored_type`, any shape.

    Returns
    -------
    array
        The same memory where NumPy, or ml_dtypes for bfloat16, has the type; float16 copies of float8, float32 ones of
        bfloat16 without ml_dtypes; booleans of bytes that are not zero.

    Raises
    ------
    MemoryError
        A copy does not fit into the memory that is free.

    """
    bfloat16 = _bfloat16() if dtype == "BF16" else None
    if bfloat16 is not None:
        return stored.view(bfloat16)
    if dtype not in _COPIED:
        return stored
    check_memory(f"a copy of {dtype} entries", _COPIED[dtype] * stored.size)
    return _wide_bfloat16(stored) if dtype == "BF16" else np.asarray(_values_of_bytes(dtype)[stored])


def _bfloat16() -> Any | None:
    try:
        from ml_dtypes import bfloat16
    except ModuleNotFoundError:
        return None
    return bfloat16


def _wide_bfloat16(stored: NDArray[Any]) -> NDArray[Any]:
    """bfloat16 is the upper half of a float32."""
    bits = stored.astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)


def _values_of_bytes(dtype: str) -> NDArray[Any]:
    """The 256 values of a format of one byte."""
    byte = np.arange(256, dtype=np.uint16)
    if dtype == "BOOL":
        return np.asarray(byte != 0)
    if dtype == "F8_E5M2":
        return (byte << 8).view(np.float16)
    exponent, mantissa = (byte >> 3) & 15, (byte & 7).astype(np.float32)
    normal = np.ldexp(1 + mantissa / 8, exponent.astype(np.int32) - 7)
    value = np.where(exponent == 0, np.ldexp(mantissa, -9), normal).astype(np.float32)
    value[(byte & 127) == 127] = np.nan
    return np.copysign(value, np.where(byte < 128, 1, -1)).astype(np.float16)
