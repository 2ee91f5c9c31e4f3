"""The report of one analysed chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flatcore.report.figures import COLOURS, Figure, figure, panel_grid, svg_text
from flatcore.report.page import Section, Table, render_page
from flatcore.results import Analysis, Array, CouplingResult, GainsResult, number


def render_analysis(a: Analysis) -> str:
    """The page as text."""
    pictures = [_spectra(a.coupling), _gains(a.gains)]
    if a.coupling.overlaps:
        pictures.append(_heat_maps(a.coupling))
    tables = [Table(("quantity", "value"), list(part._lines()), title) for title, part in a.sections()]
    sections = [Section("Pictures", figures=pictures), Section("Numbers", tables=tables)]
    return render_page(f"Analysis of {a.chain}", _lead(a), sections)


def _lead(a: Analysis) -> list[str]:
    if a.sharpness is None:
        return ["No loss was given: this page is about the weights alone."]
    lines = [
        f"Loss {number(a.value)} ({a.loss}), gradient norm {number(a.gradient_norm, 3)}.",
        f"The largest eigenvalue of the Hessian is {number(float(a.sharpness.values[0]), 6)} "
        f"({a.sharpness.status}, residual {number(float(a.sharpness.residuals[0]), 2)}).",
    ]
    if np.isnan(a.flatness_ratio):
        return [*lines, f"The flattest possible sharpness is not known here: {a.flattest_status or 'Φ is zero'}."]
    return [
        *lines,
        f"The flattest sharpness that any factorisation of this end-to-end matrix can have is {number(a.flattest, 6)}; "
        f"the Gauss–Newton sharpness is {number(a.flatness_ratio, 5)} times that.",
    ]


def _spectra(c: CouplingResult) -> Figure:
    with figure("spectra", 1, 1, (7.5, 3.2)) as (canvas, axes):
        ax = axes[0, 0]
        for j, s in enumerate(c.singular_values, start=1):
            ax.plot(np.arange(1, len(s) + 1), s, "o-", ms=3.5, label=f"layer {j}")
        ax.set(xlabel="number", ylabel="singular value", title="Top singular values of each layer")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.legend(ncols=max(1, len(c.singular_values) // 6))
        svg = svg_text(canvas)
    spans = ", ".join(f"{number(float(s[0]), 4)} (layer {j})" for j, s in enumerate(c.singular_values, start=1))
    return Figure("spectra", "Singular values", svg, (f"Largest singular values: {spans}.",))


def _gains(g: GainsResult) -> Figure:
    with figure("gains", 1, 2, (9.0, 3.2)) as (canvas, axes):
        left, right = axes[0]
        layers = np.arange(1, len(g.gains) + 1)
        left.plot(layers, g.gains, "o-", label="gain along the top direction")
        left.axhline(g.reference, color=COLOURS[5], ls="--", label="σ^(1/M)")
        left.set(xlabel="layer", title="Gains")
        left.legend()
        right.axhspan(*g.band, color="#dfe9f5", label="band of flattest minima (whitened data)")
        inner = np.arange(1, len(g.partial) + 1)
        right.plot(inner, g.partial, "o-", label="from below")
        right.plot(inner, g.partial_top, "s-", label="from above")
        right.set(xlabel="layers multiplied", title="Normalised partial gains")
        right.legend()
        for ax in (left, right):
            ax.xaxis.get_major_locator().set_params(integer=True)
        svg = svg_text(canvas)
    if not np.isfinite(g.sigma) or g.sigma <= 0:
        return Figure("gains", "Gains", svg, (g.status + ".",))
    worst = float(np.max(np.abs(np.log(np.maximum(g.gains, 1e-300) / g.reference))))
    inside = _inside_sentence(g)
    first = (
        f"At a flattest minimum on whitened data every gain is σ^(1/M) = {number(g.reference, 4)}; here the "
        f"farthest is off by a factor {number(float(np.exp(worst)), 3)}."
    )
    return Figure("gains", "Gains along the strongest direction", svg, (first, *inside))


def _inside_sentence(g: GainsResult) -> tuple[str, ...]:
    if not g.partial.size:
        return ()
    both = np.concatenate([g.partial, g.partial_top])
    inside = int(np.sum((both >= g.band[0] * (1 - 1e-9)) & (both <= g.band[1] * (1 + 1e-9))))
    low, high = (number(edge, 4) for edge in g.band)
    return (f"{inside} of {both.size} normalised partial gains lie in the band [{low}, {high}].",)


def _heat_maps(c: CouplingResult) -> Figure:
    svg = heat_maps([(f"layers {j}, {j + 1}", overlap) for j, overlap in enumerate(c.overlaps, start=1)])
    lines = [
        f"Layers {j + 1} and {j + 2}: largest overlap {number(float(c.largest[j]), 3)} against a chance level of "
        f"{number(float(c.chance[j]), 3)} (95 %: {number(float(c.chance_95[j]), 3)})."
        for j in range(len(c.overlaps))
    ]
    return Figure("coupling", "Coupling of consecutive layers", svg, tuple(lines))


def heat_maps(titled: Sequence[tuple[str, Array]]) -> str:
    """Overlaps of pairs of layers, a map a pair, as SVG."""
    with panel_grid("coupling", len(titled), 4, (2.6, 2.6), (0.8, 0.2)) as (canvas, axes):
        for ax, (title, overlap) in zip(axes.ravel(), titled, strict=False):
            heat_map(ax, overlap, title)
        return svg_text(canvas)


def heat_map(ax: Any, overlap: Array, title: str) -> None:
    """|U_jᵀV_{j+1}| as coloured cells from 0 to 1, the number in each large one."""
    k, columns = overlap.shape
    ax.grid(visible=False)
    ax.pcolormesh(np.arange(columns + 1) + 0.5, np.arange(k + 1) + 0.5, overlap, cmap="Blues", vmin=0, vmax=1)
    ax.invert_yaxis()
    ax.set(title=title, xlabel="right vector above", ylabel="left vector below", aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_major_locator().set_params(integer=True)
    for i in range(k):
        for j in range(columns):
            if overlap[i, j] >= 0.3:
                colour = "white" if overlap[i, j] > 0.6 else "#1d2733"
                ax.text(
                    j + 1, i + 1, f"{overlap[i, j]:.2f}".lstrip("0"), ha="center", va="center", fontsize=6, c=colour
                )
