"""What all results have in common: they print well in a terminal and a notebook, and turn into plain data.

A record lists its lines in ``_lines()``; ``summary()``, ``_repr_html_()`` and ``to_dict()`` follow from that and from
the dataclass fields, ``frame()`` from the fields and from ``_ROWS``, which says which of them have an entry a row.
Arrays in records are read-only.
"""

from __future__ import annotations

import dataclasses
import html
import typing
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from flatcore._checks import check_choice
from flatcore.results.frame import Frame, Rows, cell, is_plain

Array = NDArray[Any]


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dictionaries only, ready for JSON; NaN and Inf become None."""
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value


def number(value: float, digits: int = 5) -> str:
    """A float for people; NaN reads "undefined"."""
    if np.isnan(value):
        return "undefined"
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+0" in text and abs(value) < 1e6 else text  # 153 ± 100, not 1e+02


def percent(share: float, digits: int = 3) -> str:
    """A share for people; NaN reads "undefined"."""
    return number(share) if np.isnan(share) else f"{number(100.0 * share, digits)} %"


def numbers(values: Any, digits: int = 4, most: int = 12) -> str:
    """Several floats for people, the middle of long lists left out."""
    array = np.asarray(values, dtype=float).ravel()
    if array.size <= most:
        return "  ".join(number(v, digits) for v in array)
    half = most // 2
    return f"{numbers(array[:half], digits)}  …  {numbers(array[-half:], digits)}"


def read_only(array: Any) -> Array:
    """The array, frozen."""
    out = np.asarray(array)
    out.flags.writeable = False
    return out


class Record:
    """Base of all results."""

    _ROWS: ClassVar[tuple[Rows, ...]] = ()  # tables made of fields, the default one first

    def _title(self) -> str:
        return type(self).__name__

    def _lines(self) -> Iterator[tuple[str, str]]:
        """Label and text of each line of the summary."""
        raise NotImplementedError

    def summary(self) -> str:
        """The result as aligned text."""
        lines = list(self._lines())
        width = max((len(label) for label, _ in lines), default=0)
        return "\n".join([self._title(), *(f"  {label:<{width}}  {text}" for label, text in lines)])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON; undefined numbers are None."""
        return {f.name: plain(getattr(self, f.name)) for f in _shown(type(self))}

    def frame(self, table: str | None = None) -> Frame:
        """The result as a flat table, ready for ``pandas.DataFrame``, ``polars.DataFrame`` and ``pyarrow.table``.

        Parameters
        ----------
        table
            Which of the result's tables; None for the first. Each has a row for every pair, layer, tensor … and repeats
            what holds for the whole result, where no column has its name. ``"summary"`` is the whole result as one row.

        Returns
        -------
        Frame
            A dictionary of columns of one length; undefined numbers are NaN.

        Raises
        ------
        ValueError
            A table this result does not have; the message lists those it has.

        """
        tables = self._tables()
        name = next(iter(tables)) if table is None else check_choice("table", table, tuple(tables))
        return tables[name]()

    def _tables(self) -> dict[str, Callable[[], Frame]]:
        """Tables by name, the default one first: rows of fields, nested records, the whole as one row."""
        tables: dict[str, Callable[[], Frame]] = {}
        for rows in self._ROWS:
            columns = {name: getattr(self, name) for name in rows.fields}
            tables[rows.table] = partial(Frame.counted, rows.counter, rows.first, columns, self._scalars())
        for name, kind in _nested(type(self)).items():
            tables[name] = partial(self._of_records, kind, getattr(self, name))
        tables["summary"] = lambda: Frame.of_rows((), [self._row()])
        parts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return tables | {name: part.frame for name, part in parts.items() if isinstance(part, Record)}

    def _of_records(self, kind: type[Record], records: tuple[Record, ...]) -> Frame:
        """One row for each of the records, and what holds for all of this result."""
        scalars = self._scalars()
        rows = [{**scalars, **record._row()} for record in records]
        return Frame.of_rows([*scalars, *kind._columns()], rows)

    def _scalars(self) -> dict[str, Any]:
        """What holds for the whole result, one value a name; settings are taken apart."""
        out: dict[str, Any] = {}
        for name, value in ((f.name, getattr(self, f.name)) for f in _shown(type(self))):
            if dataclasses.is_dataclass(value) and not isinstance(value, Record):
                out |= {f"{name}_{f.name}": getattr(value, f.name) for f in dataclasses.fields(value)}
            elif is_plain(value):
                out[name] = value
        return out

    @classmethod
    def _columns(cls) -> list[str]:
        """The names of what is in `_row`."""
        return [f.name for f in _shown(cls)]

    def _row(self) -> dict[str, Any]:
        """The whole result in one row: lists where a field holds several values."""
        nested, out = _nested(type(self)), self._scalars()
        for name, value in ((f.name, getattr(self, f.name)) for f in _shown(type(self))):
            if isinstance(value, (np.ndarray, tuple)) and name not in nested:
                out[name] = cell(value)
        return out

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(label)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for label, text in self._lines()
        )
        return f"<table><caption>{html.escape(self._title())}</caption>{rows}</table>"


class Reported:
    """A result that has a page in `flatcore.report`."""

    def report(self, path: str) -> None:
        """Write a self-contained HTML page (needs the extra ``cli``)."""
        from flatcore.report import write_report

        write_report(self, path)


def _shown(kind: Any) -> list[dataclasses.Field[Any]]:
    """Fields that tables and dictionaries show."""
    return [f for f in dataclasses.fields(kind) if f.repr]


def _nested(kind: Any) -> dict[str, type[Record]]:
    """Fields that hold records of one kind, ``tuple[kind, ...]``."""
    out = {}
    for name, hint in typing.get_type_hints(kind).items():
        entry = (*typing.get_args(hint), None)[0]
        if typing.get_origin(hint) is tuple and isinstance(entry, type) and issubclass(entry, Record):
            out[name] = entry
    return out
