"""The pictures of the study ``nonlinear``: means over seeds with bars or bands of one standard error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from flatcore._checks import FloatArray
from flatcore.report.figures import COLOURS, figure, panel_grid, svg_text
from flatcore.studies import nonlinear_quantities as q
from flatcore.studies.nonlinear_groups import Panels, Quantity
from flatcore.studies.statistics import mean_and_error

_GUIDE = {"color": "#1d2733", "ls": "--", "lw": 1.0}
_BARS = {"fmt": "o-", "ms": 3.5, "capsize": 2.5}


def _panels(name: str, panels: Panels) -> Any:
    """Two panels a row, which phones can still show."""
    return panel_grid(name, len(panels), 2, (3.9, 2.75))


def _plain_ticks(axis: Any) -> None:
    """1, 2 and 5 times powers of ten on a logarithmic axis, written out."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(NullLocator())


def _errors(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard error, the error 0 where one seed has none."""
    mean, error = mean_and_error(values)
    return mean, np.nan_to_num(error)


def over_time(name: str, panels: Panels, column: str, label: str, *, edge: bool = False, log: bool = False) -> str:
    """A measured quantity (over 2/η with `edge`) against training time, a curve a step size, a panel a network."""
    with _panels(name, panels) as (canvas, axes):
        for ax, (title, groups) in zip(axes.ravel(), panels.items(), strict=False):
            for i, group in enumerate(groups):
                if not group.traces:
                    continue
                values = group.column(column) / (2.0 / group.step_size if edge else 1.0)
                mean, error = _errors(values)
                ax.plot(group.time, mean, "o-", ms=2.5, color=COLOURS[i], label=f"η = {group.step_size:g}")
                ax.fill_between(group.time, mean - error, mean + error, color=COLOURS[i], alpha=0.25, lw=0)
            if edge:
                ax.axhline(1.0, **_GUIDE)
                ax.set_ylim(bottom=0.0)
            ax.set(title=title, xlabel="training time η·step", **({"yscale": "log"} if log else {}))
            ax.legend()
        for row in axes:
            row[0].set_ylabel(label)
        return svg_text(canvas)


def against_step(name: str, panels: Panels, quantity: Quantity, label: str, *, edge: bool = False) -> str:
    """A quantity at the end against the step size, and with `edge` the line 2/η."""
    with figure(name, 1, 1, (6.0, 3.6)) as (canvas, axes):
        ax = axes[0, 0]
        etas = sorted({g.step_size for groups in panels.values() for g in groups})
        for title, groups in panels.items():
            shown = [g for g in groups if g.traces]
            points = [_errors(g.values(quantity)) for g in shown]
            ax.errorbar(
                [g.step_size for g in shown], [float(m) for m, _ in points], [float(e) for _, e in points],
                label=title, **_BARS,
            )  # fmt: skip
        if edge:
            ax.plot(etas, [2.0 / eta for eta in etas], label="2/η", **_GUIDE)
            ax.set_yscale("log")
            _plain_ticks(ax.yaxis)
        ax.set(xscale="log", xlabel="step size η", ylabel=label)
        ax.set_xticks(etas, [f"{eta:g}" for eta in etas], rotation=60)
        ax.xaxis.set_minor_locator(NullLocator())
        ax.legend()
        return svg_text(canvas)


def over_layers(name: str, panels: Panels, prefix: str, label: str, x: str, guide: float) -> str:
    """A quantity of each layer at the start and at the end of smallest and largest steps, a panel a network."""
    with _panels(name, panels) as (canvas, axes):
        for ax, (title, groups) in zip(axes.ravel(), panels.items(), strict=False):
            curves = (("start", groups[0], 0), *((f"end, η = {g.step_size:g}", g, -1) for g in (groups[0], groups[-1])))
            for i, (words, group, when) in enumerate(curves):
                if not group.traces:
                    continue
                values = np.array([q.layers(t, prefix, when) for t in group.traces])
                mean, error = _errors(values)
                at = np.arange(1, len(mean) + 1) + 0.06 * (i - 1)
                ax.errorbar(at, mean, error, label=words, color=COLOURS[(5, 0, 1)[i]], **_BARS)
            ax.axhline(guide, **_GUIDE)
            ax.set(title=title, xlabel=x)
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.legend()
        for row in axes:
            row[0].set_ylabel(label)
        return svg_text(canvas)


def scatter(name: str, panels: Panels, across: Quantity, up: Quantity, labels: Sequence[str]) -> str:
    """Every run as a point, two quantities at the end; larger points for larger steps."""
    with _panels(name, panels) as (canvas, axes):
        for ax, (title, groups) in zip(axes.ravel(), panels.items(), strict=False):
            for i, group in enumerate(groups):
                ax.plot(
                    group.values(across), group.values(up), "o", ms=4 + 1.5 * i, color=COLOURS[i], alpha=0.8,
                    label=f"η = {group.step_size:g}",
                )  # fmt: skip
            ax.set(title=title, xlabel=labels[0], xscale="log")
            _plain_ticks(ax.xaxis)
            ax.legend()
        for row in axes:
            row[0].set_ylabel(labels[1])
        return svg_text(canvas)
