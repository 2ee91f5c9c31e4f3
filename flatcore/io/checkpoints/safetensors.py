"""safetensors files: a length, a JSON header, and the tensors' bytes one after the other; all is checked at once.

Layout: 8 bytes, the header's length L (little-endian); L bytes of JSON, name → {"dtype", "shape", "data_offsets":
[begin, end]} and ``__metadata__``, text → text; then the data, in which the offsets count. The spans fill the data
without overlaps or holes.

Source: the format's description at huggingface/safetensors.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from flatcore.io.checkpoints.checkpoint import Checkpoint, StoredTensor
from flatcore.io.checkpoints.precisions import FORMATS, decoded, stored_type
from flatcore.io.npy import map_array
from flatcore.io.strict import check_file, parse_object, shown

LONGEST_HEADER = 100_000_000  # bytes, the format's own limit
_MOST_EXTENTS = 32
_MOST = 2**63 - 1


class _Entry(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def open_safetensors(path: Path) -> Checkpoint:
    """The tensors of a safetensors file, none of which is read or mapped before it is loaded.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        A header that is none, or that its file does not bear out.

    """
    check_file(path, "a safetensors file")
    header, start, size = _header(path)
    metadata = _metadata(path, header.pop("__metadata__", {}))
    entries = [_entry(path, name, value, size) for name, value in header.items()]
    _check_spans(path, entries, size)
    tensors = {
        e.name: StoredTensor(e.name, e.shape, e.dtype, e.end - e.begin, path, functools.partial(_load, path, start, e))
        for e in entries
    }
    return Checkpoint(path, "safetensors", (path,), tensors, metadata=metadata)


def _load(path: Path, start: int, entry: _Entry) -> NDArray[Any]:
    return decoded(entry.dtype, map_array(path, stored_type(entry.dtype), entry.shape, start + entry.begin))


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """The header, where the data begin, and their size."""
    with open(path, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size < 8:
            raise ValueError(
                f"{path} has {size} bytes; expected a safetensors file, which begins with 8 bytes of length"
            )
        length = int.from_bytes(stream.read(8), "little")
        if length > min(LONGEST_HEADER, size - 8):
            raise ValueError(
                f"{path}: the header's length is {length}; expected at most {min(LONGEST_HEADER, size - 8)}, "
                f"as the file has {size} bytes (truncated, or no safetensors file)"
            )
        text = stream.read(length)
    if not text.startswith(b"{"):
        raise ValueError(f"{path}: the header begins with {text[:8]!r}; expected a JSON object (no safetensors file?)")
    return parse_object(f"{path}: the header", text), 8 + length, size - 8 - length


def _metadata(path: Path, value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(f"{path}: __metadata__ is {shown(value)}; expected texts by name")
    return value


def _entry(path: Path, name: str, value: Any, size: int) -> _Entry:
    """One tensor of the header, which fits its span, which lies within the data."""
    where = f"{path}: {shown(name)}"
    if any("\ud800" <= c <= "\udfff" for c in name):
        raise ValueError(f"{where} is no Unicode text: half of a surrogate pair")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where} is {shown(value)}; expected dtype, shape and data_offsets")
    dtype, shape, span = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in FORMATS:
        raise ValueError(f"{where} has dtype {shown(dtype)}; expected one of {', '.join(FORMATS)}")
    if not _are_counts(shape) or len(shape) > _MOST_EXTENTS:
        raise ValueError(
            f"{where} has shape {shown(shape)}; expected at most {_MOST_EXTENTS} integers from 0 to 2^63-1"
        )
    if not _are_counts(span) or len(span) != 2:
        raise ValueError(f"{where} has data_offsets {shown(span)}; expected two integers from 0 to 2^63-1")
    begin, end = span
    if not begin <= end <= size:
        raise ValueError(
            f"{where} has data_offsets [{begin}, {end}]; expected them in order and within the {size} bytes of data "
            "that the file has"
        )
    bits = math.prod(shape) * FORMATS[dtype][0]
    if bits != 8 * (end - begin):
        raise ValueError(
            f"{where} has {end - begin} bytes; expected {shown(bits // 8)} for shape {shown(shape)} and dtype {dtype}"
        )
    return _Entry(name, dtype, tuple(shape), begin, end)


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(count) is int and 0 <= count <= _MOST for count in value)


def _check_spans(path: Path, entries: list[_Entry], size: int) -> None:
    """Refuse spans that overlap or leave holes."""
    end, before = 0, "the data's begin"
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != end:
            what = "overlaps with" if entry.begin < end else "leaves a hole after"
            raise ValueError(
                f"{path}: {shown(entry.name)} begins at byte {entry.begin} and {what} {before}; expected byte {end}"
            )
        end, before = entry.end, shown(entry.name)
    if end != size:
        raise ValueError(f"{path}: the tensors end at byte {end} of the data; expected {size}, where the file ends")
