"""The pictures of the study ``wfm``: means over seeds with bars or bands of one standard error.

A family of solvers has one colour, its members differ by the line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flatcore._checks import FloatArray
from flatcore.report.figures import COLOURS, figure, svg_text
from flatcore.studies.statistics import mean_and_error
from flatcore.studies.wfm_solvers import (
    AMP_END,
    AMP_FIRST,
    EDGES_END,
    EDGES_FIRST,
    FAST,
    FAST_DOWN,
    LAL,
    PLANTED,
    REPLICATED,
    RULE_A,
    RULE_B,
    SLOW,
    SLOW_DOWN,
)

Curves = Mapping[str, FloatArray]  # title → (seeds, points), NaN where a seed has none
Look = tuple[str, str, str]  # colour, line, marker

_BLUE, _RED, _GREEN, _OCHRE, _VIOLET, _GREY = COLOURS[:6]
LOOKS: Mapping[str, Look] = {
    LAL: (_BLUE, "-", "o"),
    RULE_A: (_OCHRE, "--", "s"),
    RULE_B: (_OCHRE, "-", "s"),
    SLOW: (_GREEN, "-", "^"),
    FAST: (_GREEN, "--", "^"),
    SLOW_DOWN: (_GREEN, "-", "v"),
    FAST_DOWN: (_GREEN, "--", "v"),
    EDGES_FIRST: (_RED, "--", "x"),
    EDGES_END: (_RED, "-", "X"),
    AMP_FIRST: (_RED, "--", "D"),
    AMP_END: (_RED, "-", "D"),
    REPLICATED: (_VIOLET, "-", "P"),
    PLANTED: (_GREY, "-", "*"),
}
_WIDTH = 7.6  # of a picture in inches: wider ones cannot be read on a telephone


def _points(x: FloatArray, rows: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """x, mean and standard error of the columns where some seeds have a value."""
    columns = [column[np.isfinite(column)] for column in rows.T]
    shown = [j for j, column in enumerate(columns) if len(column)]
    pairs = [mean_and_error(columns[j]) for j in shown]
    mean, error = (np.nan_to_num(np.array([pair[i] for pair in pairs], dtype=float)) for i in (0, 1))
    return np.asarray(x)[shown], mean, error


def _curve(ax: Any, x: FloatArray, rows: FloatArray, label: str, look: Look | None = None) -> None:
    """Means with bars of one standard error."""
    colour, line, marker = LOOKS[label] if look is None else look
    ax.errorbar(
        *_points(x, rows), fmt=line, marker=marker, ms=3.5, lw=1.3, capsize=2, color=colour, label=label, mfc="none"
    )


def _band(ax: Any, x: FloatArray, rows: FloatArray, label: str) -> None:
    """Means with a band of one standard error, where points lie close."""
    colour, line, _ = LOOKS[label]
    at, mean, error = _points(x, rows)
    ax.plot(at, mean, line, lw=1.3, color=colour, label=label)
    ax.fill_between(at, mean - error, mean + error, color=colour, alpha=0.2, lw=0)


def _legend(ax: Any, columns: int = 1) -> None:
    """Below the panel, where it hides nothing."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncol=columns)


def energies(name: str, panels: Mapping[str, tuple[FloatArray, Curves]], label: str, height: float = 5.0) -> str:
    """Local energy against the strength of the perturbation, a panel a task, a curve a solver."""
    with figure(name, 1, len(panels), (_WIDTH, height), sharey=True) as (canvas, axes):
        for ax, (title, (x, curves)) in zip(axes[0], panels.items(), strict=True):
            for solver, rows in curves.items():
                _curve(ax, x, rows, solver)
            ax.set(title=title, xlabel=label)
            _legend(ax)
        axes[0, 0].set_ylim(bottom=0.0)
        axes[0, 0].set_ylabel("local energy δE")
        return svg_text(canvas)


def entropies(name: str, distance: FloatArray, panels: Mapping[str, Curves]) -> str:
    """Local entropy against distance less the entropy of all weights there, a panel a machine."""
    everything = -distance * np.log(distance) - (1.0 - distance) * np.log1p(-distance)
    with figure(name, 1, len(panels), (_WIDTH, 4.4), sharey=True) as (canvas, axes):
        for ax, (machine, curves) in zip(axes[0], panels.items(), strict=True):
            ax.axhline(0.0, color="#1d2733", lw=1.0, ls="--", label="all weights at that distance")
            for title, rows in curves.items():
                _curve(ax, distance, rows - everything, title)
            ax.set(title=machine, xlabel="distance d")
            _legend(ax)
        axes[0, 0].set_ylabel("S less that of all weights, for each weight")
        return svg_text(canvas)


def bars(name: str, quantities: Mapping[str, Curves]) -> str:
    """A panel a quantity, a bar a solver with its standard error; rows of one number a seed."""
    titles = list(next(iter(quantities.values())))
    with figure(name, 1, len(quantities), (_WIDTH, 3.4), sharey=True) as (canvas, axes):
        for ax, (label, curves) in zip(axes[0], quantities.items(), strict=True):
            for i, title in enumerate(titles):
                kept = curves[title][np.isfinite(curves[title])]
                if len(kept):
                    mean, error = mean_and_error(kept)
                    colour = LOOKS[title][0]
                    ax.barh(i, float(mean), xerr=float(np.nan_to_num(error)), color=colour, alpha=0.8, capsize=2.5)
            ax.set(xlabel=label)
            ax.locator_params(axis="x", nbins=3)
        axes[0, 0].set_yticks(range(len(titles)), titles)
        axes[0, 0].invert_yaxis()
        return svg_text(canvas)


def spectra(name: str, grid: FloatArray, density: Curves, above: Curves) -> str:
    """The density of the eigenvalues, and the share of them above λ, on logarithmic axes."""
    with figure(name, 1, 2, (_WIDTH, 4.2)) as (canvas, axes):
        for ax, curves, label, limits in (
            (axes[0, 0], density, "density of the eigenvalues", (1e-1, 5e3)),
            (axes[0, 1], above, "share of eigenvalues above λ", (5e-4, 1.5)),
        ):
            for solver, rows in curves.items():
                _band(ax, grid, rows, solver)
            ax.set(xlabel="λ", ylabel=label, yscale="log")
            ax.set_ylim(limits)
            ax.locator_params(axis="x", nbins=5)
            _legend(ax)
        return svg_text(canvas)


def margins(name: str, levels: FloatArray, quantiles: Curves) -> str:
    """Distribution functions of the margins, all of them and the small ones."""
    with figure(name, 1, 2, (_WIDTH, 4.2)) as (canvas, axes):
        for solver, rows in quantiles.items():
            if not np.isfinite(rows).any():
                continue
            mean, (colour, line, _) = np.nanmean(rows, axis=0), LOOKS[solver]
            for ax in axes[0]:
                ax.plot(mean, levels, line, lw=1.3, color=colour, label=solver)
        axes[0, 0].set(title="all patterns", xlabel="margin", ylabel="share of patterns with a smaller margin")
        axes[0, 1].set(title="the smallest", xlabel="margin", xlim=(0.0, 0.6), ylim=(0.0, 0.5))
        for ax in axes[0]:
            _legend(ax)
        return svg_text(canvas)


def matrix(name: str, titles: Sequence[str], values: FloatArray) -> str:
    """A square of numbers, dark where they are large."""
    with figure(name, 1, 1, (_WIDTH, 5.4)) as (canvas, axes):
        ax = axes[0, 0]
        edges = np.arange(len(titles) + 1) - 0.5
        ax.pcolormesh(edges, edges, np.ma.masked_invalid(values), cmap="Blues", vmin=0.0, vmax=1.0)
        ax.invert_yaxis()
        for (i, j), value in np.ndenumerate(values):
            if np.isfinite(value):
                ax.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else "#1d2733")
        ax.set_yticks(range(len(titles)), [f"{title}  {i + 1}" for i, title in enumerate(titles)])
        ax.set_xticks(range(len(titles)), [str(i + 1) for i in range(len(titles))])
        ax.grid(visible=False)
        return svg_text(canvas)


def success(name: str, panels: Mapping[str, tuple[Sequence[float], Curves]]) -> str:
    """Share of seeds that a solver solves against the load."""
    with figure(name, 1, len(panels), (_WIDTH, 4.4), sharey=True) as (canvas, axes):
        for ax, (title, (loads, curves)) in zip(axes[0], panels.items(), strict=True):
            dodge = 0.006 * (max(loads) - min(loads))  # or curves that agree hide one another
            for i, (solver, rows) in enumerate(curves.items()):
                _curve(ax, np.array(loads) + dodge * (i - (len(curves) - 1) / 2.0), rows, solver)
            ax.set(title=title, xlabel="load α", ylim=(-0.05, 1.08))
            _legend(ax)
        axes[0, 0].set_ylabel("share of seeds solved")
        return svg_text(canvas)


def against(name: str, x: Sequence[float], quantities: Mapping[str, Curves], label: str) -> str:
    """Panels of a quantity against x on a logarithmic axis, a curve a family of points."""
    looks: tuple[Look, ...] = ((_BLUE, "-", "o"), (_OCHRE, "--", "s"))
    with figure(name, 2, -(-len(quantities) // 2), (_WIDTH, 5.4)) as (canvas, axes):
        for ax, (title, curves) in zip(axes.ravel(), quantities.items(), strict=True):
            for (family, rows), look in zip(curves.items(), looks, strict=True):
                _curve(ax, np.asarray(x), rows, family, look)
            ax.set(xlabel=label, title=title, xscale="log")
            ax.set_xticks(x, [f"{value:g}" for value in x])
            ax.minorticks_off()
        axes[0, 0].legend()
        return svg_text(canvas)


def scatter(name: str, x: Curves, y: Curves, labels: tuple[str, str]) -> str:
    """A point a solution, a mark a solver."""
    with figure(name, 1, 1, (_WIDTH, 4.2)) as (canvas, axes):
        ax = axes[0, 0]
        for title in x:
            colour, line, marker = LOOKS[title]
            filled = colour if line == "-" else "none"
            ax.plot(x[title], y[title], marker, ms=5, color=colour, mfc=filled, alpha=0.8, label=title)
        ax.set(xlabel=labels[0], ylabel=labels[1])
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return svg_text(canvas)
