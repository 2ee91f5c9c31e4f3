"""Models and data in NumPy's ``.npz`` files, whose headers are read first and whose objects never are unpickled."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from flatcore._atomic import PathLike
from flatcore._checks import FloatArray
from flatcore._memory import check_memory
from flatcore.io.arrays import NamedArrays, reader_of
from flatcore.io.model import ModelFile, NotAChainError, assign_names
from flatcore.io.npy import Header, map_array, read_header
from flatcore.io.strict import check_file
from flatcore.linear.losses import CrossEntropyLoss, Loss, QuadraticLoss

INPUT_NAMES = ("inputs", "X", "x")
TARGET_NAMES = ("targets", "Y", "y", "labels")
MOMENT_NAMES = ("sxx", "syx", "syy")
MEAN_NAMES = ("mean_x", "mean_y")
MOST_INFLATED = 100  # deflate reaches 1032, where all bytes are equal

# What damaged archives and arrays raise.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,  # places outside the file
    NotImplementedError,
    RuntimeError,
    ValueError,
)
_OTHER_FORMATS = {
    b"\x93NUMPY": "a single array (.npy)",
    b"\x80": "a pickle file, which is never opened",
    b"\x89HDF": "an HDF5 file",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"%PDF": "a PDF file",
    b"\x1f\x8b": "a gzip file",
}


class Archive:
    """The arrays of an open ``.npz`` file: headers at once, data when asked for."""

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path = path
        self._file = file
        members = [name for name in file.namelist() if name.endswith(".npy")]
        self.others = tuple(name for name in file.namelist() if not name.endswith(".npy"))
        if not members:
            raise ValueError(f"{path} is {_zip_kind(file.namelist())}; expected an .npz file with arrays")
        self.headers: dict[str, Header] = {}
        for member in members:
            name = member.removesuffix(".npy")
            if name in self.headers:
                raise ValueError(f"{path} holds two arrays called {name}; expected one")
            self.headers[name] = self._header(member)

    def _header(self, member: str) -> Header:
        name, declared = member.removesuffix(".npy"), self._file.getinfo(member).file_size
        with self._member(member) as stream:
            header = read_header(stream)
        if header.dtype.hasobject:
            raise ValueError(
                f"{self.path}: {name} holds Python objects, which are never unpickled; expected arrays of numbers"
            )
        if header.offset + header.nbytes != declared:
            raise ValueError(
                f"{self.path}: {name} has {declared} bytes; expected {header.offset + header.nbytes} "
                f"for shape {header.shape} and dtype {header.dtype}"
            )
        return header

    @contextmanager
    def _member(self, member: str) -> Iterator[IO[bytes]]:
        try:
            with self._file.open(member) as stream:
                yield stream
        except _DAMAGE as error:
            raise ValueError(f"{self.path}: {member.removesuffix('.npy')} cannot be read: {error}") from None

    def read(self, names: Iterable[str]) -> dict[str, FloatArray]:
        """The arrays of these names, once it is known that they fit into memory."""
        wanted = {name: self.headers[name] for name in names}
        for name, header in wanted.items():
            if 0 in header.shape:
                raise ValueError(f"{self.path}: {name} has shape {header.shape}; expected at least one entry")
        check_memory(f"reading {self.path}", sum(header.nbytes for header in wanted.values()))
        return {name: self._inflated(name) for name in wanted}

    def _inflated(self, name: str) -> FloatArray:
        with self._member(f"{name}.npy") as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))

    def load(self, name: str) -> FloatArray:
        """One array: mapped from the file where it is stored as it is, else inflated once it is known to fit."""
        header, info = self.headers[name], self._file.getinfo(f"{name}.npy")
        if info.compress_type == zipfile.ZIP_STORED:
            start = self._data_of(info) + header.offset
            return map_array(self.path, header.dtype, header.shape, start, header.order)
        check_memory(f"{self.path}: {name}", header.nbytes)
        return self._inflated(name)

    def _data_of(self, info: zipfile.ZipInfo) -> int:
        """Where a member's bytes begin: after a header of 30 bytes, a name and an extra field."""
        with open(self.path, "rb") as stream:
            stream.seek(info.header_offset)
            local = stream.read(30)
        if len(local) < 30 or not local.startswith(b"PK\x03\x04"):
            raise ValueError(f"{self.path}: {info.filename} has no header at byte {info.header_offset}")
        name, extra = struct.unpack("<HH", local[26:])
        return int(info.header_offset + 30 + name + extra)


def check_inflation(path: Path, declared: int) -> None:
    """Refuse an archive whose members say that they are far larger than the file: a zip bomb.

    Raises
    ------
    ValueError
        More than :data:`MOST_INFLATED` times the file's size, and 1 GB besides.

    """
    size = path.stat().st_size
    if declared > MOST_INFLATED * size + 10**9:
        raise ValueError(
            f"{path} has {size} bytes and would inflate to {declared}; expected at most {MOST_INFLATED} times its size "
            "and 1 GB (taken for a zip bomb)"
        )


@contextmanager
def open_archive(path: PathLike) -> Iterator[Archive]:
    """The archive at `path`, or a message that says what is there instead."""
    place = Path(path)
    check_file(place, "an .npz file")
    with open(place, "rb") as stream:
        start = stream.read(8)
        if start[:4] not in (b"PK\x03\x04", b"PK\x05\x06"):
            raise ValueError(f"{place} is {kind_of(start)}; expected an .npz file (numpy.savez)")
        try:
            file = zipfile.ZipFile(stream)
        except _DAMAGE as error:
            raise ValueError(f"{place} is truncated or corrupt ({error}); expected an .npz file") from None
        with file:
            check_inflation(place, sum(info.file_size for info in file.infolist()))
            yield Archive(place, file)


def kind_of(start: bytes) -> str:
    """What a file is that begins with these bytes."""
    known = (kind for magic, kind in _OTHER_FORMATS.items() if start.startswith(magic))
    return next(known, f"a file that begins with {start!r}" if start else "an empty file")


def _zip_kind(names: list[str]) -> str:
    if not names:
        return "an empty archive"
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch file (import flatcore.torch, and call it .pt or .pth)"
    return f"a zip file without arrays (it holds {', '.join(names[:4])}{', …' * (len(names) > 4)})"


def read_model(path: PathLike) -> ModelFile:
    """Read the layers of a chain from an ``.npz`` file, or of another kind that has a reader (``.pt`` with torch).

    Parameters
    ----------
    path
        A file with one matrix a layer, (d_out, d_in), called ``W1``, ``W2``, … (with biases ``b1``, ``b2``, …) or
        ``0.weight``, ``2.weight``, … (with ``0.bias``, …); where no matrix has such a name all matrices are layers.
        They are applied in natural order: 2 before 10. Booleans called ``skip``, one or one a layer, mark skip links.

    Returns
    -------
    ModelFile
        ``.describe()`` says what was read, ``.chain()`` is the model.

    Raises
    ------
    FileNotFoundError
        No such file.
    NotAChainError
        No matrix, a convolution's kernel, an ambiguous order.
    ValueError
        Another kind of file, a damaged one, arrays of Python objects, empty matrices.
    MemoryError
        The arrays do not fit into the memory that is free.

    """
    if (reader := reader_of(path)) is not None:
        return model_of(reader(Path(path)))
    with open_archive(path) as archive:
        numeric = {name: h.shape for name, h in archive.headers.items() if h.dtype.kind in "biufc"}
        weight_names, bias_names, _ = _assigned(path, numeric)
        arrays = archive.read([*weight_names, *(name for name in bias_names if name)])
        skip = _skip_flags(archive, len(weight_names))
        return ModelFile(
            path=Path(path),
            weights=tuple(arrays[name] for name in weight_names),
            biases=tuple(arrays[name] if name else None for name in bias_names),
            weight_names=weight_names,
            bias_names=bias_names,
            ignored=tuple(name for name in archive.headers if name not in arrays and (skip is None or name != "skip")),
            skip=skip,
        )


def _assigned(
    path: PathLike, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[tuple[str, ...], tuple[str | None, ...], tuple[str, ...]]:
    """`assign_names`, whose errors name the file."""
    try:
        return assign_names(shapes)
    except ValueError as error:
        raise type(error)(f"{path}: {error}") from None


def model_of(named: NamedArrays) -> ModelFile:
    """The chain's layers among named arrays; none where the file does not hold the weights themselves."""
    if named.parametrized:
        raise NotAChainError(f"{named.path}: {'; '.join(named.set_aside())}")
    weights, biases, ignored = _assigned(named.path, {name: array.shape for name, array in named.arrays.items()})
    tied = [
        f"{name} is the same tensor as {other}: the chain counts them as two"
        for name, other in named.tied.items()
        if name in weights and other in weights
    ]
    return ModelFile(
        path=named.path,
        weights=tuple(named.arrays[name] for name in weights),
        biases=tuple(named.arrays[name] if name else None for name in biases),
        weight_names=weights,
        bias_names=biases,
        ignored=(*ignored, *named.ignored),
        notes=(*named.notes, *tied),
    )


def _skip_flags(archive: Archive, layers: int) -> tuple[bool, ...] | None:
    """One flag a layer from the array ``skip``, or None where there is none."""
    header = archive.headers.get("skip")
    if header is None or header.dtype != np.bool_:
        return None
    if header.shape not in ((), (layers,)):
        raise ValueError(f"{archive.path}: skip has shape {header.shape}; expected one flag, or one for each layer")
    flags = np.broadcast_to(archive.read(["skip"])["skip"], (layers,))
    return tuple(bool(flag) for flag in flags)


def read_data(path: PathLike) -> Loss:
    """Read data from an ``.npz`` file as a loss.

    Parameters
    ----------
    path
        A file with ``inputs`` (or ``X``, ``x``), (n, d_in), and ``targets`` (or ``Y``, ``y``, ``labels``): numbers
        (n, d_out) for squared error, integers (n,) for cross-entropy. Or the moments ``sxx``, ``syx``, ``syy`` of
        :meth:`flatcore.QuadraticLoss.from_moments`, with ``mean_x`` and ``mean_y``, and ``n``, where needed.

    Returns
    -------
    Loss
        A :class:`flatcore.QuadraticLoss` or :class:`flatcore.CrossEntropyLoss`, their default reductions.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Another kind of file, a damaged one, names or shapes other than these.
    MemoryError
        The arrays do not fit into the memory that is free.

    """
    with open_archive(path) as archive:
        arrays = archive.read(_data_names(archive))
    try:
        return _loss_of_moments(arrays) if "sxx" in arrays else _loss_of_samples(*arrays.items())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _data_names(archive: Archive) -> list[str]:
    """Names to read: inputs and targets, or moments."""
    found = archive.headers
    inputs, targets, moments, extras = (
        [name for name in names if name in found]
        for names in (INPUT_NAMES, TARGET_NAMES, MOMENT_NAMES, (*MEAN_NAMES, "n"))
    )
    if len(moments) == len(MOMENT_NAMES) and not inputs and not targets:
        return moments + extras
    if len(inputs) == 1 and len(targets) == 1 and not moments:
        return inputs + targets
    raise ValueError(
        f"{archive.path} holds {', '.join(found)}; expected one of {', '.join(INPUT_NAMES)} with one of "
        f"{', '.join(TARGET_NAMES)}, or the moments {', '.join(MOMENT_NAMES)}"
    )


def _loss_of_samples(first: tuple[str, FloatArray], second: tuple[str, FloatArray]) -> Loss:
    inputs, (name, targets) = first[1], second
    if targets.ndim == 2:
        return QuadraticLoss(inputs, targets)
    if targets.ndim == 1 and targets.dtype.kind in "iu":
        return CrossEntropyLoss(inputs, targets)
    raise ValueError(
        f"{name} has shape {targets.shape} and dtype {targets.dtype}; expected (n, d_out) for squared error, "
        "or (n,) integers for cross-entropy"
    )


def _loss_of_moments(arrays: Mapping[str, FloatArray]) -> Loss:
    for name in ("syy", "n"):
        if name in arrays and (arrays[name].size != 1 or arrays[name].dtype.kind not in "iuf"):
            raise ValueError(
                f"{name} has shape {arrays[name].shape} and dtype {arrays[name].dtype}; expected one real number"
            )
    n = float(arrays["n"].item()) if "n" in arrays else None
    if n is not None and not n.is_integer():
        raise ValueError(f"n is {n}; expected an integer")
    return QuadraticLoss.from_moments(
        arrays["sxx"],
        arrays["syx"],
        float(arrays["syy"].item()),
        mean_x=arrays.get("mean_x"),
        mean_y=arrays.get("mean_y"),
        n=None if n is None else int(n),
    )
