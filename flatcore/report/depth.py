"""Quantities of named tensors along a model's depth: one line per place in a block, one colour per role."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from flatcore.report.figures import COLOURS, figure, figure_text, svg_text

_NUMBERED = re.compile(
    r"(.*?)(\d{1,6})(?=[._/]|$)(.*)", re.DOTALL
)  # text, the first number that ends a component, text
_MARKERS = "osD^vPX*"


class Line(NamedTuple):
    """Tensors that differ in their depth alone: their role, depths, and indices into what was given."""

    role: str
    places: NDArray[np.int64]
    indices: NDArray[np.int64]


@dataclass(frozen=True)
class Depths:
    """Where tensors stand: what the horizontal axis is, lines over it, how many tensors have no place."""

    axis: str
    lines: tuple[Line, ...]
    without: int

    @property
    def roles(self) -> list[str]:
        """Each role once."""
        return list(dict.fromkeys(line.role for line in self.lines))


def depth_of(name: str) -> int | None:
    """The first number in a name, as ``12`` in ``model.layers.12.mlp.up_proj.weight``."""
    found = _NUMBERED.fullmatch(name)
    return None if found is None else int(found[2])


def depths(named: Sequence[tuple[str, str]]) -> Depths:
    """Lines of (name, role) by the first number in each name; by their order where most names have none."""
    found = [_NUMBERED.fullmatch(name) for name, _ in named]
    numbered = sum(match is not None for match in found)
    by_order = 2 * numbered < len(named)
    lines: dict[tuple[str, ...], list[tuple[int, int]]] = {}
    for index, (match, (_, role)) in enumerate(zip(found, named, strict=True)):
        if by_order:
            lines.setdefault((role,), []).append((index + 1, index))
        elif match is not None:
            lines.setdefault((role, match[1], match[3]), []).append((int(match[2]), index))
    drawn = (Line(role, *np.array(sorted(points), dtype=np.int64).T) for (role, *_), points in lines.items())
    axis = "tensor, counted from 1 in the order of the tables" if by_order else "number of the block"
    return Depths(axis, tuple(drawn), 0 if by_order else len(named) - numbered)


class Panel(NamedTuple):
    """A quantity of all tensors, and the limits of its axis where they are known."""

    title: str
    values: Sequence[float]
    limits: tuple[float, float | None] | None = None


def depth_svg(
    name: str, where: Depths, panels: Sequence[Panel], cols: int = 2, size: tuple[float, float] = (9.0, 6.0)
) -> str:
    """Quantities over the depth, a panel each in full rows of `cols`, as SVG."""
    with figure(name, len(panels) // cols, cols, size) as (canvas, axes):
        for ax, panel in zip(axes.ravel(), panels, strict=True):
            _draw_lines(ax, where, panel)
        for ax in axes[-1]:
            ax.set_xlabel(where.axis)
        _role_legend(canvas, axes[0, 0])
        return svg_text(canvas)


def _draw_lines(ax: Any, where: Depths, panel: Panel) -> None:
    heights = np.asarray(panel.values, dtype=float)
    for line in where.lines:
        number = where.roles.index(line.role)
        ax.plot(
            line.places,
            heights[line.indices],
            marker=_MARKERS[number % len(_MARKERS)],
            ms=3,
            lw=1.1,
            ls="-" if number < len(COLOURS) else "--",
            color=COLOURS[number % len(COLOURS)],
            label=figure_text(line.role),
        )
    ax.set(title=panel.title, ylim=_with_room(panel.limits, heights))
    ax.xaxis.get_major_locator().set_params(integer=True)


def _with_room(
    limits: tuple[float, float | None] | None, heights: NDArray[np.float64]
) -> tuple[float, float | None] | None:
    """Limits with room above the largest value where they have no upper end."""
    if limits is None or limits[1] is not None:
        return limits
    top = float(np.max(heights, initial=0.0, where=np.isfinite(heights)))
    return limits[0], 1.05 * top if top > limits[0] else None


def _role_legend(canvas: Any, ax: Any) -> None:
    """Each role once, below all axes."""
    handles = {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    canvas.legend(handles.values(), handles, loc="outside lower center", ncols=4)
