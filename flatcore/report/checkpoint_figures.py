"""Pictures of an analysed checkpoint, each with the sentences that its data say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from flatcore._checks import counted
from flatcore.report.depth import Panel, depth_of, depth_svg, depths
from flatcore.report.figures import Figure, figure, figure_text, panel_grid, svg_text
from flatcore.report.pairs import by_chance
from flatcore.results import Array, HeadComposition, ProductSpectrum, TensorSpectrum, number

_MOST_PANELS = 12  # roles whose spectra are drawn
_MOST_MARKED = 8  # lines in a panel whose points are marked
_SHADES = "viridis"
HEAD_KINDS = ("QK", "OV")


def extreme(items: Iterable[Any], quantity: str, largest: bool) -> Any | None:
    """The item whose attribute is largest or smallest; None where all are undefined."""
    known = [item for item in items if np.isfinite(getattr(item, quantity))]
    return (max if largest else min)(known, key=lambda item: getattr(item, quantity)) if known else None


def ranks_figure(tensors: Sequence[TensorSpectrum]) -> Figure:
    """Spectral norms, stable and effective ranks and tails of tensors along the depth."""
    where = depths([(t.name, t.role) for t in tensors])
    panels = (
        Panel("Spectral norm ‖W‖₂", [t.spectral for t in tensors]),
        Panel("Stable rank ‖W‖_F²/‖W‖₂²", [t.stable_rank for t in tensors]),
        Panel("Effective rank", [t.effective_rank for t in tensors]),
        Panel("Share of ‖W‖_F² beyond the top k", [t.tail for t in tensors], (-0.03, 1.03)),
    )
    svg = depth_svg("ranks", where, panels)
    return Figure("ranks", "Norms and ranks along the depth", svg, tuple(_ranks_words(tensors, where.without)))


def _ranks_words(tensors: Sequence[TensorSpectrum], without: int) -> Iterable[str]:
    for quantity, what in (("stable_rank", "stable rank"), ("effective_rank", "effective rank")):
        low, high = (extreme(tensors, quantity, largest) for largest in (False, True))
        if low is None or high is None:
            yield f"The {what} is undefined for all tensors."
        else:
            spans = f"{number(getattr(low, quantity), 4)} ({low.name}) to {number(getattr(high, quantity), 4)}"
            yield f"The {what} goes from {spans} ({high.name})."
    top = extreme(tensors, "spectral", largest=True)
    if top is not None:
        yield f"The largest spectral norm is {number(top.spectral)}, that of {top.name} ({top.role})."
    if without:
        one = without == 1
        yield (
            f"{without} of {counted(len(tensors), 'tensor')} {'has' if one else 'have'} no number in "
            f"{'its name' if one else 'their names'}, and {'is' if one else 'are'} in the tables alone."
        )


def spectra_figure(tensors: Sequence[TensorSpectrum]) -> Figure:
    """Top singular values: a panel a role, a line a tensor, its colour the depth."""
    roles = _by_role(tensors)
    shown = dict(sorted(roles.items(), key=lambda item: -len(item[1]))[:_MOST_PANELS])
    with panel_grid("spectra", len(shown), 3, (3.0, 2.4), (0.6, 0.4)) as (canvas, axes):
        for ax, (role, members) in zip(axes.ravel(), shown.items(), strict=False):
            _draw_spectra(ax, role, members)
        svg = svg_text(canvas)
    above = sum(t.outliers for t in tensors)
    most = max(tensors, key=lambda t: t.outliers)
    where = f"; the most in one tensor are {most.outliers}, in {most.name}" if above else ""
    lines = [
        "One line a tensor, from dark to light in the order of the tables.",
        f"{above} of {sum(len(t.values) for t in tensors)} singular values lie above the edge where noise of the same "
        f"size and norm would end{where}.",
    ]
    if len(shown) < len(roles):
        lines.append(f"The {len(shown)} roles with the most tensors are drawn, of {len(roles)}; the tables have all.")
    return Figure("spectra", "Singular values by role", svg, tuple(lines))


def _by_role(tensors: Sequence[TensorSpectrum]) -> dict[str, list[TensorSpectrum]]:
    roles: dict[str, list[TensorSpectrum]] = {}
    for tensor in tensors:
        roles.setdefault(tensor.role, []).append(tensor)
    return roles


def _draw_spectra(ax: Any, role: str, members: Sequence[TensorSpectrum]) -> None:
    from matplotlib import colormaps

    colours = colormaps[_SHADES](np.linspace(0.0, 0.9, len(members)))
    marker = "o" if len(members) <= _MOST_MARKED else None
    for tensor, colour in zip(members, colours, strict=True):
        ax.plot(np.arange(1, len(tensor.values) + 1), tensor.values, marker=marker, ms=2, lw=0.9, color=colour)
    title = f"{figure_text(role, 24)} ({len(members)})"
    top = max((float(tensor.values[0]) for tensor in members), default=0.0)
    ax.set(title=title, xlabel="number", ylabel="singular value", ylim=(0.0, 1.05 * top or 1.0))
    ax.xaxis.get_major_locator().set_params(integer=True)


def heads_figure(products: Sequence[ProductSpectrum]) -> Figure:
    """Norms, stable ranks and balance of QK and OV products: a row a layer, a column a head."""
    kinds = [kind for kind in HEAD_KINDS if any(p.kind == kind for p in products)]
    quantities = (("spectral", "norm ‖·‖₂"), ("stable_rank", "stable rank"), ("relative_gap", "relative gap"))
    layers = list(dict.fromkeys(p.name for p in products))
    height = min(3.6, 1.4 + 0.16 * len(layers))
    with figure("heads", 3, len(kinds), (4.4 * len(kinds) + 0.4, 3 * height)) as (canvas, axes):
        for row, (quantity, title) in zip(axes, quantities, strict=True):
            for ax, kind in zip(row, kinds, strict=True):
                image = _by_head([p for p in products if p.kind == kind], layers, quantity)
                _draw_map(canvas, ax, image, layers, f"{kind}: {title}")
                ax.set(xlabel="head", ylabel=layer_axis(layers))
        svg = svg_text(canvas)
    lines = [line for kind in kinds for line in _head_words([p for p in products if p.kind == kind], kind)]
    return Figure("heads", "Heads: query–key and output–value products", svg, tuple(lines))


def _by_head(products: Sequence[ProductSpectrum], layers: Sequence[str], quantity: str) -> Array:
    image = np.full((len(layers), 1 + max(p.head for p in products)), np.nan)
    place = {name: row for row, name in enumerate(layers)}
    for p in products:
        image[place[p.name], p.head] = getattr(p, quantity)
    return image


def layer_axis(layers: Sequence[str]) -> str:
    """What the numbers along an axis of layers are."""
    return "block" if _numbers(layers) is not None else "layer"


def _numbers(layers: Sequence[str]) -> list[int] | None:
    """A number of each layer where the names give different ones."""
    found = [depth_of(name) for name in layers]
    numbers = [number for number in found if number is not None]
    return numbers if len(set(numbers)) == len(layers) else None


def _draw_map(canvas: Any, ax: Any, image: Array, layers: Sequence[str], title: str, square: bool = False) -> None:
    """An image with a row a layer; a column a head, or a layer where `square`."""
    ax.grid(visible=False)
    drawn = ax.imshow(np.ma.masked_invalid(image), aspect="auto", cmap="viridis", interpolation="nearest")
    numbers = _numbers(layers) or list(range(1, len(layers) + 1))
    step = -(-len(layers) // 12)
    ax.set_yticks(np.arange(0, len(layers), step), numbers[::step])
    if square:
        ax.set_xticks(np.arange(0, len(layers), step), numbers[::step])
    else:
        ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_title(title)
    canvas.colorbar(drawn, ax=ax)


def _head_words(products: Sequence[ProductSpectrum], kind: str) -> Iterable[str]:
    top = extreme(products, "spectral", largest=True)
    low = extreme(products, "stable_rank", largest=False)
    if top is None:
        return
    middle = float(np.nanmedian([p.spectral for p in products]))
    text = f"{kind}: the strongest is head {top.head} of {top.name} with norm {number(top.spectral, 4)}"
    yield text + (f", {number(top.spectral / middle, 3)} times the median." if middle > 0.0 else ".")
    if low is not None:
        where = f"head {low.head} of {low.name}"
        yield f"{kind}: the lowest stable rank is {number(low.stable_rank, 4)} of {low.rank}, {where}."
    yield f"{kind}: {_gaps_words(products)}"


def _gaps_words(products: Sequence[ProductSpectrum]) -> str:
    gaps = np.array([p.relative_gap for p in products])
    low, middle, high = (number(float(value), 3) for value in np.nanquantile(gaps, (0.0, 0.5, 1.0)))
    return f"relative gaps of the two factors from {low} to {high}, median {middle} (0 balanced, 1 orthogonal ranges)."


def composition_figure(compositions: Sequence[HeadComposition]) -> Figure:
    """Above, the strongest score of each pair of layers over its chance level; below, the heads of the strongest."""
    kinds = list(dict.fromkeys(c.kind for c in compositions))
    layers = list(dict.fromkeys(name for c in compositions for name in (c.lower, c.upper)))
    with figure("composition", 2, len(kinds), (3.4 * len(kinds) + 0.4, 6.2)) as (canvas, axes):
        for (upper, lower), kind in zip(axes.T, kinds, strict=True):
            members = [c for c in compositions if c.kind == kind]
            image = np.full((len(layers), len(layers)), np.nan)
            for c in members:
                image[layers.index(c.upper), layers.index(c.lower)] = excess(c)
            _draw_map(canvas, upper, image, layers, f"{kind}: largest score/95 % level", square=True)
            upper.set(xlabel="layer below", ylabel=f"layer above ({layer_axis(layers)})")
            _draw_scores(canvas, lower, max(members, key=excess))
        svg = svg_text(canvas)
    return Figure("composition", "Composition of heads", svg, tuple(_composition_words(compositions, kinds)))


def excess(composition: HeadComposition) -> float:
    """The largest score in units of its 95 % level by chance."""
    return float(composition.scores.max()) / composition.chance_95


def strongest_heads(composition: HeadComposition) -> tuple[int, int]:
    """The head above and the head below of the largest score."""
    above, below = divmod(int(composition.scores.argmax()), composition.scores.shape[1])
    return above, below


def _draw_scores(canvas: Any, ax: Any, strongest: HeadComposition) -> None:
    ax.grid(visible=False)
    drawn = ax.imshow(strongest.scores, aspect="auto", cmap="viridis", interpolation="nearest", vmin=0.0)
    ax.set_title(f"{strongest.kind}: {figure_text(strongest.upper, 24)}\nreads {figure_text(strongest.lower, 24)}")
    ax.set(xlabel="head below", ylabel="head above")
    for axis in (ax.xaxis, ax.yaxis):
        axis.get_major_locator().set_params(integer=True)
    canvas.colorbar(drawn, ax=ax)


def _composition_words(compositions: Sequence[HeadComposition], kinds: Sequence[str]) -> Iterable[str]:
    for kind in kinds:
        members = [c for c in compositions if c.kind == kind]
        best = max(members, key=excess)
        above, below = strongest_heads(best)
        yield (
            f"{kind}: in {sum(excess(c) > 1.0 for c in members)} of {counted(len(members), 'pair')} of layers a score "
            f"exceeds the 95 % level of random factors; the largest beside it is that of head {above} of {best.upper} "
            f"reading head {below} of {best.lower}, {number(float(best.scores.max()), 3)} against "
            f"{number(best.chance_95, 3)}."
        )
    yield by_chance(len(compositions))


def adapters_figure(adapters: Sequence[ProductSpectrum]) -> Figure:
    """Norms and ranks of adapters along the depth, a colour a module."""
    where = depths([(p.name, figure_text(p.name.rpartition(".")[2])) for p in adapters])
    panels = (
        Panel("Norm ‖s·BA‖₂", [p.spectral for p in adapters]),
        Panel("Stable rank of BA", [p.stable_rank for p in adapters]),
        Panel("Relative gap", [p.relative_gap for p in adapters]),
    )
    svg = depth_svg("adapters", where, panels, 3, (9.6, 3.2))
    return Figure("adapters", "Adapters", svg, tuple(_adapter_words(adapters)))


def _adapter_words(adapters: Sequence[ProductSpectrum]) -> Iterable[str]:
    top = extreme(adapters, "spectral", largest=True)
    if top is not None:
        yield f"The strongest is {top.name}, norm {number(top.spectral, 4)} at rank {top.rank}."
    low = extreme(adapters, "stable_rank", largest=False)
    if low is None:
        yield "All adapters are zero."
    else:
        yield f"The lowest stable rank is {number(low.stable_rank, 4)} of {low.rank}, that of {low.name}."
    yield f"Adapters: {_gaps_words(adapters)}"
    notes = list(dict.fromkeys(p.note for p in adapters if p.note))
    yield from (f"Scaling: {note}." for note in notes[:3])
