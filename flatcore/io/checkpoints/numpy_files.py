"""``.npy`` and ``.npz`` files as checkpoints: arrays are mapped where the file holds them as they are in memory."""

from __future__ import annotations

import functools
import os
from contextlib import ExitStack
from pathlib import Path

from flatcore.io.checkpoints.checkpoint import Checkpoint, StoredTensor
from flatcore.io.checkpoints.precisions import name_of
from flatcore.io.npy import Header, map_array, read_header
from flatcore.io.npz import kind_of, open_archive
from flatcore.io.strict import check_file


def open_npz(path: Path) -> Checkpoint:
    """The arrays of an ``.npz`` file.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Another kind of file, a damaged one, Python objects, a zip bomb.

    """
    with ExitStack() as stack:
        archive = stack.enter_context(open_archive(path))
        tensors, others = {}, dict.fromkeys(archive.others, "no array")
        for name, header in archive.headers.items():
            dtype = name_of(header.dtype)
            if dtype is None:
                others[name] = _no_numbers(header)
                continue
            read = functools.partial(archive.load, name)
            tensors[name] = StoredTensor(name, header.shape, dtype, header.nbytes, path, read)
        return Checkpoint(path, "npz", (path,), tensors, others, _close=stack.pop_all().close)


def open_npy(path: Path) -> Checkpoint:
    """The array of an ``.npy`` file, called as the file without its ending.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Another kind of file, a truncated one, Python objects.

    """
    check_file(path, "an .npy file")
    with open(path, "rb") as stream:
        size, start = os.fstat(stream.fileno()).st_size, stream.read(8)
        if not start.startswith(b"\x93NUMPY"):
            raise ValueError(f"{path} is {kind_of(start)}; expected an .npy file (numpy.save)")
        stream.seek(0)
        try:
            header = read_header(stream)
        except ValueError as error:
            raise ValueError(f"{path} is truncated or corrupt ({error}); expected an .npy file") from None
    if header.dtype.hasobject:
        raise ValueError(f"{path} holds Python objects, which are never unpickled; expected an array of numbers")
    if header.offset + header.nbytes != size:
        raise ValueError(
            f"{path} has {size} bytes; expected {header.offset + header.nbytes} for shape {header.shape} and dtype "
            f"{header.dtype}"
        )
    dtype = name_of(header.dtype)
    if dtype is None:
        return Checkpoint(path, "npy", (path,), {}, {path.stem: _no_numbers(header)})
    read = functools.partial(map_array, path, header.dtype, header.shape, header.offset, header.order)
    tensor = StoredTensor(path.stem, header.shape, dtype, header.nbytes, path, read)
    return Checkpoint(path, "npy", (path,), {path.stem: tensor})


def _no_numbers(header: Header) -> str:
    return f"array {header.shape} of {header.dtype}, no numbers that NumPy's format names"
