"""The report of a model analysed layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flatcore._checks import counted
from flatcore.report.figures import Figure, figure, figure_text, svg_text
from flatcore.report.page import Section, Table, numeric, render_page
from flatcore.report.pairs import axis_of_names, balance_figure, coupling_figure, pairs_table
from flatcore.results import LayerSpectrum, ModuleAnalysis, number

_MOST_MAPS = 24  # heat maps on a page; the table has all pairs
_MOST_LINES = 16  # layers in the legend of the spectra


def render_module_analysis(a: ModuleAnalysis) -> str:
    """The page as text."""
    pictures = [_spectra(a.layers), _stable_ranks(a.layers)]
    overview = [_layers_table(a.layers)]
    if a.pairs:
        shown = a.pairs[:_MOST_MAPS]
        pictures += [balance_figure(a.pairs), coupling_figure(shown, a.pairs, "first")]
        overview.append(pairs_table(a.pairs))
    tables = [Table(("quantity", "value"), list(part._lines()), title) for title, part in a.sections()]
    left_out = [Section(label.capitalize(), text=texts) for label, texts in a.remarks()]
    sections = [
        Section("Pictures", figures=pictures),
        *left_out,
        Section("Overview", tables=overview),
        Section("Numbers", tables=tables),
    ]
    return render_page(f"Analysis of {a.model}", _lead(a), sections)


def _lead(a: ModuleAnalysis) -> list[str]:
    certified = "all singular triplets are certified" if a.certified else "some singular triplets are not certified"
    return [
        f"{counted(len(a.layers), 'layer')}, {counted(len(a.pairs), 'pair')} of consecutive ones, top {a.k} singular "
        f"vectors: {certified}.",
        f"The order is that {a.order}.",
    ]


def _spectra(layers: Sequence[LayerSpectrum]) -> Figure:
    with figure("spectra", 1, 1, (7.5, 3.6)) as (canvas, axes):
        ax = axes[0, 0]
        for index, layer in enumerate(layers):
            label = figure_text(layer.name) if index < _MOST_LINES else None
            ax.plot(np.arange(1, len(layer.values) + 1), layer.values, "o-", ms=3.5, label=label)
        ax.set(xlabel="number", ylabel="singular value", title="Top singular values of each layer")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(ncols=1 + (len(layers) - 1) // 8 if len(layers) <= _MOST_LINES else 2)
        svg = svg_text(canvas)
    top = max(layers, key=lambda layer: layer.spectral)
    return Figure(
        "spectra", "Singular values", svg, (f"The largest is {number(top.spectral)}, that of {top.name} ({top.kind}).",)
    )


def _stable_ranks(layers: Sequence[LayerSpectrum]) -> Figure:
    places = np.arange(1, len(layers) + 1)
    with figure("ranks", 1, 1, (7.5, 3.0)) as (canvas, axes):
        ax = axes[0, 0]
        ax.bar(places, [layer.stable_rank for layer in layers], width=0.6)
        ax.set(ylabel="‖W‖²_F / ‖W‖²", title="Stable rank of each layer")
        axis_of_names(ax, "layer", [layer.name for layer in layers])
        svg = svg_text(canvas)
    known = [layer for layer in layers if np.isfinite(layer.stable_rank)]
    if not known:
        return Figure("ranks", "Stable ranks", svg, ("All layers are zero: their stable ranks are undefined.",))
    low = min(known, key=lambda layer: layer.stable_rank)
    return Figure("ranks", "Stable ranks", svg, (f"The lowest is {number(low.stable_rank, 4)}, that of {low.name}.",))


def _layers_table(layers: Sequence[LayerSpectrum]) -> Table:
    header = ("layer", "kind", "shape", "dtype", "‖W‖₂", "‖W‖_F", "stable rank", "status")
    rows = [
        (
            layer.name,
            layer.kind,
            " × ".join(map(str, layer.shape)),
            layer.dtype,
            numeric(layer.spectral),
            numeric(layer.frobenius),
            numeric(layer.stable_rank),
            layer.status,
        )
        for layer in layers
    ]
    return Table(header, rows, "Layers", sortable=True)
