"""Headers of NumPy's array format, whose length is looked at first, and arrays mapped from files."""

from __future__ import annotations

import io
import math
import tokenize
import warnings
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MAGIC, _LONGEST = 8, 10_000  # bytes: magic and version, and the longest header that NumPy reads
# Bytes of the header's length, and its reader.
_READERS = {
    (1, 0): (2, np.lib.format.read_array_header_1_0),
    (2, 0): (4, np.lib.format.read_array_header_2_0),
}


class Header(NamedTuple):
    """An array's shape and type, whether it is in Fortran's order, and where its data begin after the header."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int

    @property
    def order(self) -> Literal["C", "F"]:
        """NumPy's letter for the order."""
        return "F" if self.fortran else "C"

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes]) -> Header:
    """The header at the start of a stream; nothing after it is read, or inflated.

    Raises
    ------
    ValueError
        No header of NumPy's, or one that says what cannot be.

    """
    start = stream.read(_MAGIC)
    version = np.lib.format.read_magic(io.BytesIO(start))
    if version not in _READERS:
        raise ValueError(f"array format {version} is not supported")
    field, reader = _READERS[version]
    count = stream.read(field)
    length = int.from_bytes(count, "little")
    if len(count) < field or length > _LONGEST:
        raise ValueError(f"the header's length is {length}; expected at most {_LONGEST}")
    text = io.BytesIO(count + stream.read(length))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            shape, fortran, dtype = reader(text)
    except (TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise ValueError(f"no header of an array ({type(error).__name__})") from None
    if any(extent < 0 for extent in shape) or len(shape) > 32:
        raise ValueError(f"the shape is {shape}; expected at most 32 extents, none negative")
    return Header(shape, dtype, fortran, _MAGIC + text.tell())


def map_array(
    path: Path, dtype: Any, shape: tuple[int, ...], offset: int, order: Literal["C", "F"] = "C"
) -> NDArray[Any]:
    """A read-only array of these entries of a file, whose pages are read when they are used.

    Raises
    ------
    ValueError
        The file is shorter by now.

    """
    if 0 in shape:
        return np.empty(shape, dtype)
    try:
        return np.memmap(path, dtype, "r", offset, shape, order).view(np.ndarray)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path} has no {shape} {np.dtype(dtype)} at byte {offset}: {error}") from None
