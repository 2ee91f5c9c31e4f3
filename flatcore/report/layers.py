"""The report of a model analysed layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flatcore.io import write_text_atomic
from flatcore.report.analysis import heat_map
from flatcore.report.figures import Figure, figure, svg_text
from flatcore.report.page import Section, Table, render_page
from flatcore.results import LayerPair, LayerSpectrum, ModuleAnalysis, number

_MOST_MAPS = 24  # heat maps on a page; the table has all pairs
_MOST_LINES = 16  # layers in the legend of the spectra
_MOST_LETTERS = 60  # of names, each taken as long as the longest, that fit below an axis


def write_module_analysis(analysis: ModuleAnalysis, path: str) -> None:
    """Write the HTML report of :func:`flatcore.torch.analyze`.

    Parameters
    ----------
    analysis
        What to show.
    path
        The file; it appears whole or not at all.

    Raises
    ------
    OSError
        The file cannot be written.

    """
    write_text_atomic(path, render_module_analysis(analysis))


def render_module_analysis(a: ModuleAnalysis) -> str:
    """The page as text."""
    pictures = [_spectra(a.layers), _stable_ranks(a.layers)]
    if a.pairs:
        pictures += [_balance(a.pairs), _coupling(a.pairs)]
    tables = [Table(("quantity", "value"), list(part._lines()), title) for title, part in a.sections()]
    left_out = [Section(label.capitalize(), text=texts) for label, texts in a.remarks()]
    sections = [Section("Pictures", figures=pictures), *left_out, Section("Numbers", tables=tables)]
    return render_page(f"Analysis of {a.model}", _lead(a), sections, "Written by flatcore.")


def _lead(a: ModuleAnalysis) -> list[str]:
    certified = "all singular triplets are certified" if a.certified else "some singular triplets are not certified"
    return [
        f"{len(a.layers)} layers, {len(a.pairs)} pairs of consecutive ones, top {a.k} singular vectors: {certified}.",
        f"The order is that {a.order}.",
    ]


def _spectra(layers: Sequence[LayerSpectrum]) -> Figure:
    with figure("spectra", 1, 1, (7.5, 3.6)) as (canvas, axes):
        ax = axes[0, 0]
        for index, layer in enumerate(layers):
            label = layer.name if index < _MOST_LINES else None
            ax.plot(np.arange(1, len(layer.values) + 1), layer.values, "o-", ms=3.5, label=label)
        ax.set(xlabel="number", ylabel="singular value", title="Top singular values of each layer")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(ncols=1 + (len(layers) - 1) // 8 if len(layers) <= _MOST_LINES else 2)
        svg = svg_text(canvas)
    top = max(layers, key=lambda layer: layer.spectral)
    return Figure(
        "spectra", "Singular values", svg, (f"The largest is {number(top.spectral)}, that of {top.name} ({top.kind}).",)
    )


def _label(ax: Any, what: str, names: Sequence[str]) -> None:
    """Names at 1, 2, … where there is room for them; else numbers, in the order of the tables."""
    if len(names) * max(map(len, names)) <= _MOST_LETTERS:
        ax.set_xticks(np.arange(1, len(names) + 1), names)
        ax.set_xlabel(what)
        return
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel(f"{what}, counted from 1 in the order of the tables")


def _stable_ranks(layers: Sequence[LayerSpectrum]) -> Figure:
    places = np.arange(1, len(layers) + 1)
    with figure("ranks", 1, 1, (7.5, 3.0)) as (canvas, axes):
        ax = axes[0, 0]
        ax.bar(places, [layer.stable_rank for layer in layers], width=0.6)
        ax.set(ylabel="‖W‖²_F / ‖W‖²", title="Stable rank of each layer")
        _label(ax, "layer", [layer.name for layer in layers])
        svg = svg_text(canvas)
    known = [layer for layer in layers if np.isfinite(layer.stable_rank)]
    if not known:
        return Figure("ranks", "Stable ranks", svg, ("All layers are zero: their stable ranks are undefined.",))
    low = min(known, key=lambda layer: layer.stable_rank)
    return Figure("ranks", "Stable ranks", svg, (f"The lowest is {number(low.stable_rank, 4)}, that of {low.name}.",))


def _balance(pairs: Sequence[LayerPair]) -> Figure:
    places = np.arange(1, len(pairs) + 1)
    with figure("balance", 1, 1, (7.5, 3.0)) as (canvas, axes):
        ax = axes[0, 0]
        ax.plot(places, [pair.relative_gap for pair in pairs], "o-")
        ax.set(ylabel="relative gap", ylim=(-0.03, 1.03), title="Balance of consecutive layers")
        _label(ax, "pair", [f"{pair.lower} → {pair.upper}" for pair in pairs])
        svg = svg_text(canvas)
    least = min(pairs, key=lambda pair: pair.relative_gap)
    caption = (
        f"0 is balanced, 1 orthogonal ranges; the nearest to balance is {least.lower} → {least.upper} with "
        f"{number(least.relative_gap, 4)}."
    )
    return Figure("balance", "Balance", svg, (caption,))


def _coupling(pairs: Sequence[LayerPair]) -> Figure:
    shown = pairs[:_MOST_MAPS]
    cols = min(len(shown), 4)
    rows = -(-len(shown) // cols)
    with figure("coupling", rows, cols, (2.6 * cols + 0.8, 2.6 * rows + 0.2)) as (canvas, axes):
        for ax in axes.ravel()[len(shown) :]:
            ax.set_visible(False)
        for ax, pair in zip(axes.ravel(), shown, strict=False):
            heat_map(ax, pair.overlaps, f"{pair.lower} → {pair.upper}")
        svg = svg_text(canvas)
    above = [pair for pair in pairs if pair.largest > pair.chance_95]
    names = ", ".join(f"{pair.lower} → {pair.upper}" for pair in above[:8]) + (", …" if len(above) > 8 else "")
    lines = [
        f"In {len(above)} of {len(pairs)} pairs the largest overlap exceeds the 95 % level of random directions"
        + (f": {names}." if above else ".")
    ]
    if len(shown) < len(pairs):
        lines.append(f"The first {len(shown)} pairs are drawn; the tables have all.")
    return Figure("coupling", "Coupling of consecutive layers", svg, tuple(lines))
