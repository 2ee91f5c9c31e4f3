"""Pictures and tables of consecutive layers: balance, and coupling beside chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flatcore._checks import counted, listed
from flatcore.report.analysis import heat_maps
from flatcore.report.figures import COLOURS, Figure, figure, figure_text, short_names, svg_text
from flatcore.report.page import Table, numeric
from flatcore.results import LayerPair, number

_WIDE = 5.0  # largest ratio that a linear axis shows
_MOST_LETTERS = 60  # of names, each taken as long as the longest, that fit below an axis


def axis_of_names(ax: Any, what: str, names: Sequence[str]) -> None:
    """Names at 1, 2, … where there is room for them; else numbers, in the order of the tables."""
    shown = [figure_text(name) for name in names]
    if len(shown) * max(map(len, shown)) <= _MOST_LETTERS:
        ax.set_xticks(np.arange(1, len(shown) + 1), shown)
        ax.set_xlabel(what)
        return
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel(f"{what}, counted from 1 in the order of the tables")


def balance_figure(pairs: Sequence[LayerPair]) -> Figure:
    """The relative gap of each pair; one at least has one."""
    measured = {place: pair for place, pair in enumerate(pairs, 1) if np.isfinite(pair.relative_gap)}
    with figure("balance", 1, 1, (7.5, 3.0)) as (canvas, axes):
        ax = axes[0, 0]
        ax.plot(list(measured), [pair.relative_gap for pair in measured.values()], "o-", ms=3.5)
        ax.set(ylabel="relative gap", ylim=(-0.03, 1.03), title="Balance of consecutive layers")
        axis_of_names(ax, "pair", [pair._title() for pair in pairs])
        svg = svg_text(canvas)
    least = min(measured.values(), key=lambda pair: pair.relative_gap)
    lines = [
        f"0 is balanced, 1 orthogonal ranges; the nearest to balance is {least._title()} with "
        f"{number(least.relative_gap, 4)}."
    ]
    if len(measured) < len(pairs):
        lines.append(f"{len(pairs) - len(measured)} pairs have none: training keeps no difference of theirs.")
    return Figure("balance", "Balance", svg, tuple(lines))


def overlaps_figure(pairs: Sequence[LayerPair]) -> Figure:
    """The largest overlap of each pair over its chance level: for more pairs than heat maps can show."""
    places = np.arange(1, len(pairs) + 1)
    with figure("overlaps", 1, 1, (7.5, 3.2)) as (canvas, axes):
        ax = axes[0, 0]
        ratios = [pair.largest / pair.chance_95 for pair in pairs]
        ax.plot(places, ratios, "o", ms=3.5)
        ax.set_yscale("log" if max(ratios) > _WIDE else "linear")
        ax.axhline(1.0, ls="--", color=COLOURS[5], label="95 % level of chance")
        ax.set(ylabel="largest |⟨u, v⟩|/its 95 % level", title="Coupling of consecutive layers over chance")
        axis_of_names(ax, "pair", [pair._title() for pair in pairs])
        ax.legend()
        svg = svg_text(canvas)
    return Figure("overlaps", "Coupling beside chance", svg, (coupled_sentence(pairs),))


def coupling_figure(shown: Sequence[LayerPair], pairs: Sequence[LayerPair], which: str) -> Figure:
    """Heat maps of the `shown` pairs, the `which` ones of all."""
    names = short_names([name for pair in shown for name in (pair.lower, pair.upper)])
    ends = [(names[pair.lower], names[pair.upper]) for pair in shown]
    titles = [f"{lower} → {upper}" if len(lower + upper) <= 20 else f"{lower}\n→ {upper}" for lower, upper in ends]
    svg = heat_maps(list(zip(titles, (pair.overlaps for pair in shown), strict=True)))
    lines = [coupled_sentence(pairs)]
    if len(shown) < len(pairs):
        lines.append(f"The {which} {len(shown)} pairs are drawn; the tables have all.")
    return Figure("coupling", "Coupling of consecutive layers", svg, tuple(lines))


def coupled_sentence(pairs: Sequence[LayerPair]) -> str:
    """How many pairs are coupled beyond chance, and which."""
    above = [pair for pair in pairs if pair.largest > pair.chance_95]
    names = f": {listed([pair._title() for pair in above])}" if above else ""
    what = "the largest overlap exceeds the 95 % level of random directions"
    return f"In {len(above)} of {counted(len(pairs), 'pair')} {what}{names}. {by_chance(len(pairs))}"


def by_chance(count: int) -> str:
    """How many of so many exceed a 95 % level without a reason."""
    return f"Chance alone would make {number(0.05 * count, 2)} of them."


def pairs_table(pairs: Sequence[LayerPair]) -> Table:
    """One row a pair."""
    header = (
        "lower layer", "upper layer", "width", "relative gap", "largest overlap", "chance", "95 % level",
        "overlap/chance", "first cosine", "its chance", "status",
    )  # fmt: skip
    rows = [
        (
            pair.lower, pair.upper, numeric(pair.width), numeric(pair.relative_gap), numeric(pair.largest),
            numeric(pair.chance), numeric(pair.chance_95), numeric(pair.ratio), numeric(pair.angles[0]),
            numeric(pair.angle_chance), pair.status,
        )
        for pair in pairs
    ]  # fmt: skip
    return Table(header, rows, "Pairs of consecutive layers", sortable=True)
