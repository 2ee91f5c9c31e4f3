"""What all results have in common: they print well in a terminal and a notebook, and turn into plain data.

A record lists its lines in ``_lines()``; ``summary()``, ``_repr_html_()`` and ``to_dict()`` follow from that and from
the dataclass fields. Arrays in records are read-only.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
        fields = [f for f in dataclasses.fields(self) if f.repr]  # type: ignore[arg-type]
        return {f.name: plain(getattr(self, f.name)) for f in fields}

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(label)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for label, text in self._lines()
        )
        return f"<table><caption>{html.escape(self._title())}</caption>{rows}</table>"
