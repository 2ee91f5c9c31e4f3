"""Flat tables of results, ready for pandas, Polars and Arrow.

A frame is a dictionary of columns of one length. Numbers are NumPy arrays, text and cells that hold several values are
lists. ``pandas.DataFrame(frame)``, ``polars.DataFrame(frame)`` and ``pyarrow.table(frame)`` take it as it is.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Column = NDArray[Any] | list[Any]
_PLAIN = (str, bool, int, float, np.generic, type(None))


class Rows(NamedTuple):
    """A table of a record: its fields with an entry a row, and what counts the rows, from which number."""

    table: str
    counter: str
    first: int
    fields: tuple[str, ...]


class Frame(dict[str, Column]):
    """A table: its columns by name, all of one length.

    Parameters
    ----------
    columns
        Name → values, one for each row: an array, or a sequence of numbers, text, or lists.

    Raises
    ------
    ValueError
        Columns of different lengths.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> table = fc.top_svd(np.diag([3.0, 2.0, 1.0]), 2).frame()
    >>> table
    Frame(2 rows: triplet, s, residuals, converged, status, message, tol, products, reads, seed, method, \
certificate_method, certificate_delta, certificate_probability)
    >>> table["s"].round(9)
    array([3., 2.])

    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        super().__init__({name: _column(values) for name, values in columns.items()})
        if len({len(column) for column in self.values()}) > 1:
            lengths = ", ".join(f"{name} {len(column)}" for name, column in self.items())
            raise ValueError(f"columns have different lengths ({lengths}); expected one entry a row")

    @classmethod
    def counted(cls, counter: str, first: int, columns: Mapping[str, Any], repeated: Mapping[str, Any]) -> Frame:
        """Columns behind one that counts the rows from `first`; shorter ones end undefined.

        ``repeated`` are values for every row, left out where a column has their name.
        """
        rows = max((len(values) for values in columns.values()), default=0)
        table = {counter: np.arange(first, first + rows), **{name: _padded(v, rows) for name, v in columns.items()}}
        rest = {name: value for name, value in repeated.items() if name not in table}
        return cls({**table, **{name: np.full(rows, v) if _is_number(v) else [v] * rows for name, v in rest.items()}})

    @classmethod
    def of_rows(cls, names: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> Frame:
        """One row for each mapping; `names` are the columns where there is no row."""
        cells = list(rows)
        return cls({name: [row[name] for row in cells] for name in (cells[0] if cells else names)})

    @property
    def num_rows(self) -> int:
        """Rows."""
        return len(next(iter(self.values()), ()))

    def to_arrow(self) -> Any:
        """The table as a ``pyarrow.Table`` (needs the extra ``files``)."""
        try:
            import pyarrow
        except ModuleNotFoundError:
            raise ModuleNotFoundError("Arrow tables need pyarrow: pip install 'flatcore[files]'") from None
        return pyarrow.Table.from_pydict(dict(self))

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The table as an Arrow stream, for any library that reads the PyCapsule interface."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def to_parquet(self, path: str | os.PathLike[str]) -> None:
        """Write a Parquet file, whole or not at all (needs the extra ``files``)."""
        table = self.to_arrow()
        from pyarrow.parquet import write_table

        from flatcore._atomic import atomic_file

        with atomic_file(path) as handle:
            write_table(table, handle)

    def __repr__(self) -> str:
        return f"Frame({self.num_rows} row{'s' * (self.num_rows != 1)}: {', '.join(self)})"


def is_plain(value: object) -> bool:
    """Tell a cell that holds one value: a number, text, nothing."""
    return isinstance(value, _PLAIN)


def cell(value: Any) -> Any:
    """What one row says, without arrays: numbers, text, None, or lists of these; a list of several kinds is text."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        entries = [cell(entry) for entry in value]
        mixed = any(isinstance(entry, str) for entry in entries) and not all(isinstance(e, str) for e in entries)
        return [str(entry) for entry in entries] if mixed else entries
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, (bool, int, float, np.number, np.bool_))


def _column(values: Any) -> Column:
    """An array of numbers where all entries are, else a list of cells."""
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "biuf":
        return values
    entries = [cell(entry) for entry in values]
    kinds = {type(entry) for entry in entries}
    if kinds in ({bool}, {int}):
        return np.array(entries)
    return np.array(entries, dtype=float) if kinds and kinds <= {int, float} else entries


def _padded(values: Any, rows: int) -> Any:
    """The values and, up to so many rows, NaN where they are floats, else None."""
    missing = rows - len(values)
    if not missing:
        return values
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind == "f":
        return np.append(values, np.full(missing, np.nan, values.dtype))
    return [*values, *itertools.repeat(None, missing)]
