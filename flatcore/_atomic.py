"""Files that appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import os
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

PathLike = str | os.PathLike[str]


def check_target(path: PathLike) -> Path:
    """Refuse a path that no file can be written to, and follow links to where it will be.

    Parameters
    ----------
    path
        Where a file is to be written, later.

    Returns
    -------
    Path
        The place itself, every link resolved.

    Raises
    ------
    IsADirectoryError, NotADirectoryError, FileNotFoundError
        The path is a directory, or its directory is a file or does not exist.
    PermissionError
        Nothing may be written to its directory.

    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"{path} is a directory; expected the name of a file to write")
    folder = target.parent
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{path} cannot be written: {folder} is no directory")
    if not folder.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: the directory {folder} does not exist")
    special = target.exists() and not target.is_file()  # devices and pipes, which are written to directly
    if not special and not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(f"{path} cannot be written: nothing may be written to the directory {folder}")
    return target


@contextmanager
def _naming(path: PathLike) -> Iterator[None]:
    """What the system says of writes, as that a disk is full, with the file's name."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, os.strerror(error.errno), os.fspath(path)) from error


@contextmanager
def atomic_file(path: PathLike, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A binary file that replaces `path` when the block ends well, and leaves no trace when it does not.

    Parameters
    ----------
    path
        An existing file keeps its permissions. Devices and pipes are written to directly.
    durable
        Force the content to the disk before the rename; without that a crash of the machine may leave it damaged.

    Yields
    ------
    file
        Open for writing.

    Raises
    ------
    OSError
        As in :func:`check_target`, or the system's own reason.

    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        with _naming(path), open(path, "wb") as handle:
            yield handle
        return
    target = check_target(path)
    temporary = target.with_name(f".flatcore-{secrets.token_hex(8)}.tmp")
    try:
        with _naming(path), open(temporary, "xb") as handle:
            yield handle
            if durable:
                handle.flush()
                os.fsync(handle.fileno())
        if target.exists():
            shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text_atomic(path: PathLike, text: str) -> None:
    """Write text as UTF-8, whole or not at all.

    Parameters
    ----------
    path
        As in :func:`atomic_file`.
    text
        The whole content.

    Raises
    ------
    OSError
        As in :func:`atomic_file`.

    """
    with atomic_file(path) as handle:
        handle.write(text.encode("utf-8"))


def write_npz_atomic(path: PathLike, arrays: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write arrays as an uncompressed ``.npz`` file, whole or not at all; the same arrays give the same bytes.

    Parameters
    ----------
    path, durable
        As in :func:`atomic_file`; no ending is added.
    arrays
        Name → array, in the order to be stored.

    Raises
    ------
    OSError
        As in :func:`atomic_file`.
    ValueError
        An array of Python objects.

    """
    with atomic_file(path, durable=durable) as handle, zipfile.ZipFile(handle, "w") as archive:
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                try:
                    np.lib.format.write_array(member, np.asanyarray(value), allow_pickle=False)
                except ValueError as error:
                    raise ValueError(f"{name} cannot be written to {path}: {error}") from None


def read_checkpoint(place: Path, required: tuple[str, ...] = ()) -> dict[str, Any] | None:
    """The arrays that :func:`write_npz_atomic` left there, or None where there is no file.

    Raises
    ------
    ValueError
        The file is no checkpoint, or lacks one of the arrays `required`.

    """
    if not place.exists():
        return None
    try:
        with open(place, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except Exception as error:
        raise ValueError(f"{place} is no checkpoint ({error}); delete it to start afresh") from error
    missing = [name for name in required if name not in found]
    if missing:
        raise ValueError(f"{place} is no checkpoint (no {', '.join(missing)}); delete it to start afresh")
    return found
