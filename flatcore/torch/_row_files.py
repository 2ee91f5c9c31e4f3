"""Rows of a monitor in a CSV file that grows, and as TensorBoard scalars."""

from __future__ import annotations

import csv
import io
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class CsvRows:
    """Rows appended to a file one by one; a row that could not be written whole leaves nothing of itself.

    A file that is there is continued; a last line without an end, left by a run that was killed, is dropped. So are,
    when the first row is written, the rows from its step on: a resumed training makes them again.

    Parameters
    ----------
    path
        The file; its folder must exist.
    columns
        Names of the columns.

    Raises
    ------
    ValueError
        The file begins with another header.

    """

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str]) -> None:
        self._path, self._columns = Path(path), tuple(columns)
        self._begun = False
        wrong = self._path.exists() and not self._path.is_file()  # a folder, a device
        if wrong or not self._path.parent.is_dir():
            raise ValueError(f"csv is {str(path)!r}; expected the name of a file in a folder that exists")
        text = self._path.read_bytes() if self._path.exists() else b""
        complete = text[: text.rfind(b"\n") + 1]
        first = self._line(self._columns)
        if not complete and first.encode().startswith(text):  # new, or killed while its header was written
            self._path.write_text(first, encoding="utf-8", newline="")
            return
        header = next(csv.reader([(complete or text).decode("utf-8", "replace").splitlines()[0]]))
        if tuple(header) != self._columns:
            raise ValueError(
                f"csv {str(path)!r} has the columns {', '.join(header)}; expected {', '.join(self._columns)} "
                "(name another file)"
            )
        if len(complete) < len(text):
            os.truncate(self._path, len(complete))

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        if not self._begun:
            self._drop_from(row["step"])
            self._begun = True
        before = self._path.stat().st_size
        try:
            with self._path.open("a", encoding="utf-8", newline="") as file:
                file.write(self._line([row[name] for name in self._columns]))
        except BaseException:
            os.truncate(self._path, before)
            raise

    def _drop_from(self, step: int) -> None:
        """Cut the file before its first row of that step or a later one."""
        header, *lines = self._path.read_bytes().splitlines(keepends=True)
        earlier = itertools.takewhile(lambda line: int(line.partition(b",")[0]) < step, lines)
        os.truncate(self._path, len(header) + sum(map(len, earlier)))

    @staticmethod
    def _line(values: Sequence[Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        return text.getvalue()


class TensorBoardRows:
    """Numbers of rows as scalars ``flatness/name``.

    Parameters
    ----------
    target
        A folder for event files, or a ``SummaryWriter``, which its owner closes.

    Raises
    ------
    ModuleNotFoundError
        TensorBoard is not installed.

    """

    def __init__(self, target: Any) -> None:
        self._own = not hasattr(target, "add_scalar")
        self._writer = _summary_writer(target) if self._own else target

    def write(self, row: Mapping[str, Any]) -> None:
        """Add the row's numbers at its step."""
        for name, value in row.items():
            if name != "step" and isinstance(value, (int, float)) and value == value:
                self._writer.add_scalar(f"flatness/{name}", value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close event files that were opened here."""
        if self._own:
            self._writer.close()


def _summary_writer(folder: Any) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ModuleNotFoundError(
            f"tensorboard={folder!r} was asked for, but TensorBoard cannot be imported ({error}): pip install "
            "tensorboard, or leave it out"
        ) from error
    return SummaryWriter(os.fspath(folder))
