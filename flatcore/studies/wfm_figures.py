"""The pictures of the study ``wfm``: means over seeds with bands or bars of one standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flatcore._checks import FloatArray
from flatcore.report.figures import COLOURS, figure, svg_text
from flatcore.studies.statistics import mean_and_error

Curves = Mapping[str, FloatArray]  # title → (seeds, points), NaN where a seed has none


def _band(ax: Any, x: FloatArray, rows: FloatArray, label: str, colour: str, style: str = "-") -> None:
    """Mean and standard error of each column over the seeds that have a value there."""
    columns = [column[np.isfinite(column)] for column in rows.T]
    shown = [j for j, column in enumerate(columns) if len(column)]
    if not shown:
        return
    pairs = [mean_and_error(columns[j]) for j in shown]
    mean, error = (np.nan_to_num(np.array(values, dtype=float)) for values in zip(*pairs, strict=True))
    ax.plot(x[shown], mean, style, color=colour, label=label)
    ax.fill_between(x[shown], mean - error, mean + error, color=colour, alpha=0.2, lw=0)


def energies(name: str, panels: Mapping[str, tuple[FloatArray, Curves]], label: str) -> str:
    """Local energy against the strength of the perturbation, a panel a task, a curve a solver."""
    with figure(name, 1, len(panels), (4.6 * len(panels) + 0.6, 3.8), sharey=True) as (canvas, axes):
        for ax, (title, (x, curves)) in zip(axes[0], panels.items(), strict=True):
            for i, (solver, rows) in enumerate(curves.items()):
                _band(ax, x, rows, solver, COLOURS[i])
            ax.set(title=title, xlabel=label)
            ax.set_ylim(bottom=0.0)
            ax.legend()
        axes[0, 0].set_ylabel("local energy δE")
        return svg_text(canvas)


def entropies(name: str, distance: Curves, entropy: Curves, grid: FloatArray) -> str:
    """Local entropy against distance, and the entropy of all weights at that distance."""
    with figure(name, 1, 1, (6.2, 3.8)) as (canvas, axes):
        ax = axes[0, 0]
        everything = -grid * np.log(grid) - (1.0 - grid) * np.log1p(-grid)
        ax.plot(grid, everything, "--", color="#1d2733", lw=1.0, label="all weights")
        for i, (title, rows) in enumerate(entropy.items()):
            _band(ax, np.nanmean(distance[title], axis=0), rows, title, COLOURS[i])
        ax.set(xlabel="distance d", ylabel="local entropy S for each weight")
        ax.legend()
        return svg_text(canvas)


def bars(name: str, quantities: Mapping[str, Curves]) -> str:
    """A panel a quantity, a bar a solver with its standard error; rows of one number a seed."""
    titles = list(next(iter(quantities.values())))
    with figure(name, 1, len(quantities), (3.0 * len(quantities) + 2.2, 3.0), sharey=True) as (canvas, axes):
        for ax, (label, curves) in zip(axes[0], quantities.items(), strict=True):
            for i, title in enumerate(titles):
                kept = curves[title][np.isfinite(curves[title])]
                if len(kept):
                    mean, error = mean_and_error(kept)
                    ax.barh(i, float(mean), xerr=float(np.nan_to_num(error)), color=COLOURS[i], capsize=2.5)
            ax.set(xlabel=label)
        axes[0, 0].set_yticks(range(len(titles)), titles)
        axes[0, 0].invert_yaxis()
        return svg_text(canvas)


def success(name: str, panels: Mapping[str, tuple[Sequence[float], Curves]]) -> str:
    """Share of seeds that a solver solves against the load."""
    with figure(name, 1, len(panels), (4.6 * len(panels), 3.4), sharey=True) as (canvas, axes):
        for ax, (title, (loads, curves)) in zip(axes[0], panels.items(), strict=True):
            for i, (solver, solved) in enumerate(curves.items()):
                ax.plot(loads, solved.mean(axis=0), "o-", ms=3.5, color=COLOURS[i], label=solver)
            ax.set(title=title, xlabel="load α", ylim=(-0.05, 1.05))
            ax.legend()
        axes[0, 0].set_ylabel("share of seeds solved")
        return svg_text(canvas)


def against(name: str, x: Sequence[float], quantities: Curves, label: str) -> str:
    """Panels of a quantity against x on a logarithmic axis."""
    with figure(name, 1, len(quantities), (3.4 * len(quantities), 3.0)) as (canvas, axes):
        for i, (ax, (title, rows)) in enumerate(zip(axes[0], quantities.items(), strict=True)):
            _band(ax, np.asarray(x), rows, title, COLOURS[i], "o-")
            ax.set(xlabel=label, title=title, xscale="log")
            ax.set_xticks(x, [f"{value:g}" for value in x])
            ax.minorticks_off()
        return svg_text(canvas)


def scatter(name: str, x: Curves, y: Curves, labels: tuple[str, str]) -> str:
    """A point a solution, a colour a solver."""
    with figure(name, 1, 1, (6.4, 3.8)) as (canvas, axes):
        ax = axes[0, 0]
        for i, title in enumerate(x):
            ax.plot(x[title], y[title], "o", ms=4, color=COLOURS[i % len(COLOURS)], label=title)
        ax.set(xlabel=labels[0], ylabel=labels[1])
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return svg_text(canvas)
