"""Figures as SVG text: one look for all of them, no display needed, the same bytes for the same data."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure as MatplotlibFigure

COLOURS = ("#3b6fb6", "#d1495b", "#2a9d8f", "#e09f3e", "#7b5ea7", "#5c677d", "#8ab17d", "#b5651d")
_STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e8eb",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.edgecolor": "#5c677d",
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "axes.prop_cycle": None,
    "svg.fonttype": "path",
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Figure:
    """A finished figure: its name, a title, SVG text, and the sentences that stand under it."""

    name: str
    title: str
    svg: str
    caption: tuple[str, ...]


@contextmanager
def figure(name: str, rows: int, cols: int, size: tuple[float, float], **kwargs: Any) -> Iterator[tuple[Any, Any]]:
    """A Matplotlib figure and its axes (always a 2-D array) in the house style; `name` seeds the SVG's ids."""
    from cycler import cycler

    style: dict[Any, Any] = {**_STYLE, "axes.prop_cycle": cycler(color=COLOURS), "svg.hashsalt": name}
    with rc_context(style):
        canvas = MatplotlibFigure(figsize=size, label=name)
        yield canvas, canvas.subplots(rows, cols, squeeze=False, **kwargs)


@contextmanager
def panel_grid(
    name: str, count: int, most: int, size: tuple[float, float], margin: tuple[float, float] = (0.0, 0.0)
) -> Iterator[tuple[Any, Any]]:
    """A `figure` of so many panels of a size, at most `most` a row; what is left of the last row is hidden."""
    cols = min(count, most)
    rows = -(-count // cols)
    with figure(name, rows, cols, (size[0] * cols + margin[0], size[1] * rows + margin[1])) as (canvas, axes):
        for ax in axes.ravel()[count:]:
            ax.set_visible(False)
        yield canvas, axes


def svg_text(canvas: Any) -> str:
    """The figure as an <svg> element without XML prologue or date, its ids made unique by the figure's name."""
    stream = io.StringIO()
    canvas.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{canvas.get_label()}-", text[text.index("<svg") :])


def figure_text(name: str, most: int = 36) -> str:
    """A name as pictures can show it: one line of characters that the font has, shortened, dollars not mathematics."""
    drawn = _glyphs()
    text = "".join(c if c.isprintable() and ord(c) in drawn else c.encode("unicode_escape").decode() for c in name)
    if len(text) > most:
        text = f"{text[: most // 2]}…{text[-((most - 1) // 2) :]}"
    return text.replace("$", r"\$")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """What tells names apart, for pictures: without the parts, between dots, with which all of them begin and end."""
    parts = {name: name.split(".") for name in names}
    shortest = min(len(part) for part in parts.values()) - 1
    columns = [{tuple(part[:count]) for part in parts.values()} for count in range(1, shortest + 1)]
    first = sum(len(heads) == 1 for heads in columns)
    columns = [{tuple(part[-count:]) for part in parts.values()} for count in range(1, shortest - first + 1)]
    last = sum(len(tails) == 1 for tails in columns)
    return {name: figure_text(".".join(part[first : len(part) - last]), 24) for name, part in parts.items()}


@functools.cache
def _glyphs() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap())
