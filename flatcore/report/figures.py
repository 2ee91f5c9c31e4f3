"""Figures as SVG text: one look for all of them, no display needed, the same bytes for the same data."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
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


def svg_text(canvas: Any) -> str:
    """The figure as an <svg> element without XML prologue or date, its ids made unique by the figure's name."""
    stream = io.StringIO()
    canvas.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{canvas.get_label()}-", text[text.index("<svg") :])
