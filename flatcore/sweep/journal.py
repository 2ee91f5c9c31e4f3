r"""The journal of a sweep: what is done, on disk before anything else is begun.

A folder beside the results holds ``journal.jsonl``. Each line is

    <CRC-32 of the JSON, 8 hexadecimal digits> <JSON>\n

the first one the settings, every other one a checkpoint: its path, identity, trajectory and rows. Lines are appended by
one write and forced to disk. What a crash or a full disk left of a last line is cut off when the journal is opened
again; a line whose checksum is wrong counts as not there. Of several lines for one checkpoint the last one counts.

``start-*.npz`` beside it hold the singular vectors that a trajectory's next searches start from, whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Self

import numpy as np

from flatcore._atomic import read_checkpoint
from flatcore.io import write_npz_atomic
from flatcore.io.strict import shown
from flatcore.results import Array
from flatcore.sweep.following import Vectors

FOLDER = ".sweep"  # appended to the name of the results


@dataclass(frozen=True)
class Entry:
    """Where the line of a checkpoint is, and what has to be known of it without reading it."""

    offset: int
    identity: str
    trajectory: str
    step: int | None
    broken: bool  # the file could not be analysed
    failed: bool  # that, or a tensor of it could not
    uncertified: bool


class Journal:
    """The journal of the results `out`, locked for this process until it is closed.

    Parameters
    ----------
    out
        Where the results will be; the journal's folder has its name and ``.sweep``.
    settings
        What the rows depend on; others than those it was begun with are refused.
    restart
        Throw away what is there.

    Raises
    ------
    ValueError
        Other settings, another sweep that holds the lock, results without a journal, or a file that is none.

    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        self.folder, self._warned = folder_of(out), False
        place = self.folder / "journal.jsonl"
        if not place.exists() and out.exists() and not restart:
            raise ValueError(f"{out} is there without the journal of a sweep; expected a new name, or --restart")
        self.folder.mkdir(exist_ok=True)
        self._file = open(place, "ab", buffering=0)  # noqa: SIM115 (unbuffered: nothing is left over after an error)
        try:
            _lock(self._file, out)
            if restart:
                self._file.truncate(0)
                self.forget_all_vectors()
            for half in self.folder.glob(".flatcore-*.tmp"):  # files that a kill left unfinished
                half.unlink()
            self._place, self._out, self._settings = place, out, settings
            self.reload()
            if self._end == 0:
                self._write(dict(settings))
                _sync_folder(self.folder)
                _sync_folder(self.folder.parent)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def reload(self) -> None:
        """Take what is in the file for what is done, and cut off half a line, as an interrupted write leaves it."""
        self.entries, self._end = _scan(self._place, self._out, self._settings)
        self._file.truncate(self._end)

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self._end

    def append(self, record: dict[str, Any]) -> None:
        """Add a checkpoint's record; it is on disk when this returns.

        Raises
        ------
        OSError
            It could not be written (a full disk); the journal is as it was.

        """
        entry = _entry(self._end, record)
        self._write(record)
        self.entries[record["path"]] = entry

    def _write(self, record: dict[str, Any]) -> None:
        text = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        try:
            rest = memoryview(line)
            while rest:  # a full disk takes a part, and refuses the next
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._end)
            raise OSError(error.errno, f"{error.strerror}; what is finished is kept", self._file.name) from None
        self._end += len(line)

    def records(self, paths: Iterable[str]) -> Iterator[dict[str, Any]]:
        """What was written of checkpoints, in this order."""
        with open(self._file.name, "rb") as stream:
            for path in paths:
                stream.seek(self.entries[path].offset)
                record = _parsed(stream.readline())
                if record is None:
                    raise OSError(f"{self._file.name}: the line of {path} changed while the sweep ran")
                yield record

    # -- start vectors ----------------------------------------------------------------------------------------------

    def keep_vectors(self, vectors: Vectors) -> bool:
        """Keep the vectors of a checkpoint, which only save work; False where they cannot be written, said once."""
        head = {"step": vectors.step, "names": list(vectors.right), "foretold": sorted(vectors.foretold)}
        arrays: dict[str, Any] = {"head": np.array(json.dumps(head))}
        arrays |= {f"v{index}": rows for index, rows in enumerate(vectors.right.values())}
        try:
            write_npz_atomic(self.folder / _starts_name(vectors.path), arrays, durable=False)
        except OSError as error:
            if not self._warned:
                reason = error.strerror or error
                warnings.warn(
                    f"start vectors cannot be kept in {self.folder} ({reason}): searches start colder", stacklevel=2
                )
            self._warned = True
            return False
        return True

    def vectors(self, path: str) -> Vectors | None:
        """The vectors kept of a checkpoint, None where there are none that can be read: a crash may damage them."""
        try:
            arrays = read_checkpoint(self.folder / _starts_name(path), ("head",))
            return None if arrays is None else _vectors(path, arrays)
        except (ValueError, KeyError, TypeError):
            return None

    def has_vectors(self, path: str) -> bool:
        """Whether vectors were kept of a checkpoint."""
        return (self.folder / _starts_name(path)).exists()

    def forget_vectors(self, path: str) -> None:
        """Remove the vectors of a checkpoint."""
        (self.folder / _starts_name(path)).unlink(missing_ok=True)

    def forget_all_vectors(self) -> None:
        """Remove all vectors."""
        for file in self.folder.glob("start-*.npz"):
            file.unlink()


def folder_of(out: Path) -> Path:
    """Where the journal of these results is."""
    return out.with_name(out.name + FOLDER)


def check_folder(out: Path) -> None:
    """Refuse a place for the journal that is a file, or a folder that nothing may be written to.

    Raises
    ------
    NotADirectoryError, PermissionError
    OSError
        A file system where no files can be made.

    """
    folder = folder_of(out)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; expected the folder of a sweep's journal, or another --out")
    if folder.exists() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(f"{folder}, the journal of the sweep, may not be written to")
    place = folder if folder.exists() else folder.parent
    try:  # what permissions do not tell; the file has no name
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise OSError(f"{out} cannot be written: {place} takes no files ({error.strerror})") from None


def peek(out: Path, settings: Mapping[str, Any]) -> dict[str, Entry]:
    """What is done, without a lock and without changing anything."""
    place = folder_of(out) / "journal.jsonl"
    return _scan(place, out, settings)[0] if place.exists() else {}


def _lock(file: FileIO, out: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"another sweep is writing {out}; expected it to end first, or another --out") from None


def _scan(place: Path, out: Path, settings: Mapping[str, Any]) -> tuple[dict[str, Entry], int]:
    """Entries by path, and where the last whole line ends."""
    entries: dict[str, Entry] = {}
    offset = 0
    with open(place, "rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                break
            record = _parsed(line)
            if offset == 0:
                _check_settings(record, out, settings)
            elif record is not None:
                entries[record["path"]] = _entry(offset, record)
            offset += len(line)
    return entries, offset


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record of a line whose checksum is right."""
    check, _, text = line.rstrip(b"\n").partition(b" ")
    if check != b"%08x" % zlib.crc32(text):
        return None
    record: dict[str, Any] = json.loads(text)
    return record


def _entry(offset: int, record: dict[str, Any]) -> Entry:
    rows = record["rows"]
    failed = any(row.get("error") for row in rows)
    uncertified = any(row.get("certified") is False for row in rows)
    identity, trajectory, step = (record[name] for name in ("identity", "trajectory", "step"))
    return Entry(offset, identity, trajectory, step, bool(rows[0].get("error")), failed, uncertified)


def _check_settings(found: dict[str, Any] | None, out: Path, settings: Mapping[str, Any]) -> None:
    if found is None or "flatcore" not in found:
        raise ValueError(f"{folder_of(out)} holds no journal of a sweep; expected one, or --restart")
    names = [name for name in {**found, **settings} if found.get(name) != settings.get(name)]
    if names:
        then, now = (", ".join(f"{n} {shown(source.get(n))}" for n in names) for source in (found, settings))
        raise ValueError(
            f"{out} was begun with {then}, and now {now} is asked for; expected the same settings, another --out, or "
            "--restart to begin again"
        )


def _vectors(path: str, arrays: Mapping[str, Array]) -> Vectors:
    """The vectors in a file's arrays; KeyError, TypeError or ValueError where it holds something else."""
    head = json.loads(str(arrays["head"]))
    step, right = head["step"], {name: arrays[f"v{index}"] for index, name in enumerate(head["names"])}
    if not (step is None or isinstance(step, int)):
        raise TypeError("a step that is no number")
    if any(rows.ndim != 2 or rows.dtype.kind != "f" or not rows.size for rows in right.values()):
        raise TypeError("vectors that are no rows of numbers")
    if not all(np.isfinite(rows).all() for rows in right.values()):
        raise ValueError("vectors that are not finite")
    return Vectors(path, step, right, frozenset(head["foretold"]))


def _starts_name(path: str) -> str:
    return f"start-{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.npz"


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder survive a crash of the machine too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
