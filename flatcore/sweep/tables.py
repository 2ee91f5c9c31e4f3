"""Rows → a table file: Parquet, CSV or JSON lines by its ending, whole or not at all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO

from flatcore._checks import one_line
from flatcore.io import atomic_file
from flatcore.sweep.rows import Column, Row

_TOGETHER = 1 << 14  # rows of a row group
_FORMULAS = ("=", "+", "-", "@")  # what spreadsheets take for their beginnings


def check_ending(out: Path) -> None:
    """Refuse a table that could not be written, before anything is computed.

    Raises
    ------
    ValueError
        Another ending.
    ModuleNotFoundError
        Parquet without pyarrow.

    """
    if out.suffix.lower() not in _WRITERS:
        raise ValueError(f"{out} ends in {out.suffix or 'nothing'!r}; expected {', '.join(_WRITERS)}")
    if out.suffix.lower() == ".parquet":
        import pyarrow.parquet  # noqa: F401


def write_table(out: Path, rows: Iterable[Row], columns: tuple[Column, ...]) -> int:
    r"""Write rows and say how many there are.

    Parameters
    ----------
    out
        ``.parquet``, ``.csv`` (empty cells for null) or ``.jsonl`` (null left out). In CSV control characters of texts
        are written as ``\n`` or ``\x1b``, and what a spreadsheet would take for a formula begins with an apostrophe.
    rows
        Values by column; missing ones are null.
    columns
        All columns, in order.

    """
    with atomic_file(out) as handle:
        return _WRITERS[out.suffix.lower()](handle, iter(rows), columns)


def _write_parquet(handle: IO[bytes], rows: Iterator[Row], columns: tuple[Column, ...]) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(), "flag": pa.bool_()}
    fields = [pa.field(c.name, types[c.type], metadata={"meaning": c.meaning}) for c in columns]
    schema, count = pa.schema(fields), 0
    with pq.ParquetWriter(handle, schema, compression="zstd") as writer:
        while part := list(islice(rows, _TOGETHER)):
            writer.write_table(pa.Table.from_pylist(part, schema=schema))
            count += len(part)
    return count


def _write_csv(handle: IO[bytes], rows: Iterator[Row], columns: tuple[Column, ...]) -> int:
    text = io.TextIOWrapper(handle, encoding="utf-8", newline="")
    writer = csv.DictWriter(text, [column.name for column in columns], lineterminator="\n")
    writer.writeheader()
    texts = [column.name for column in columns if column.type == "text"]
    count = 0
    for row in rows:
        writer.writerow({**row, **{name: _inert(row[name]) for name in texts if name in row}})
        count += 1
    text.flush()
    text.detach()
    return count


def _inert(text: str) -> str:
    """A text that neither breaks lines nor runs where a spreadsheet opens it."""
    return one_line(f"'{text}" if text.startswith(_FORMULAS) else text)


def _write_lines(handle: IO[bytes], rows: Iterator[Row], columns: tuple[Column, ...]) -> int:
    names = [column.name for column in columns]
    count = 0
    for row in rows:
        ordered = {name: row[name] for name in names if name in row}
        handle.write(json.dumps(ordered, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        count += 1
    return count


_Writer = Callable[[IO[bytes], Iterator[Row], tuple[Column, ...]], int]
_WRITERS: dict[str, _Writer] = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_lines}
