"""The report of a checkpoint: what failed, what stands out, pictures, then tables that sort and filter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from flatcore._checks import counted, listed
from flatcore.report.checkpoint_figures import (
    HEAD_KINDS,
    adapters_figure,
    composition_figure,
    excess,
    extreme,
    heads_figure,
    ranks_figure,
    spectra_figure,
    strongest_heads,
)
from flatcore.report.figures import Figure
from flatcore.report.page import Cell, Section, Table, numeric, render_page
from flatcore.report.pairs import (
    balance_figure,
    coupled_sentence,
    coupling_figure,
    overlaps_figure,
    pairs_table,
)
from flatcore.results import (
    CheckpointAnalysis,
    FailedTensor,
    HeadComposition,
    LayerPair,
    ProductSpectrum,
    TensorSpectrum,
    number,
    numbers,
)

_MOST_MAPS = 8  # heat maps on a page
_MOST_ROWS = 2000  # of compositions, of which there may be hundreds of thousands
_FAR = 2.0  # times the median of its role: what is called notable
_ENOUGH = 4  # tensors of a role, for its median to mean something


def render_checkpoint_analysis(a: CheckpointAnalysis) -> str:
    """The page as text."""
    sections = [
        *failed_sections(a.failed, "analysed"),
        Section("What stands out", text=list(_findings(a))),
        Section("Pictures", figures=list(_pictures(a))),
        Section("Numbers", tables=list(_tables(a))),
        *_left_out(a),
    ]
    return render_page(f"Analysis of {a.path}", _lead(a), sections)


def _lead(a: CheckpointAnalysis) -> list[str]:
    counts = [counted(len(a.tensors), "tensor"), counted(len(a.products), "product")]
    counts.append(f"{counted(len(a.pairs), 'pair')} of consecutive layers")
    return [
        f"{a.kind}, taken for {a.family}: {', '.join(counts)}, top {a.k} singular values, seed {a.seed}, "
        f"{number(a.seconds, 3)} s.",
        _certificate(a.tensors),
    ]


def _certificate(tensors: Sequence[TensorSpectrum]) -> str:
    if not tensors:
        return "No tensor was analysed."
    missed = [t.name for t in tensors if not t.certified]
    if not missed:
        return "All singular triplets are certified."
    return f"Not certified: singular triplets of {counted(len(missed), 'tensor')} ({listed(missed)})."


def failed_sections(failed: Sequence[FailedTensor], done: str) -> Iterator[Section]:
    """What could not be `done`, first on its page."""
    if not failed:
        return
    rows = [(f.name, f.role, _extents(f.shape), f.dtype, f.reason) for f in failed]
    table = Table(("tensor", "taken for", "shape", "dtype", "reason"), rows, "Tensors that failed", sortable=True)
    title = f"{counted(len(failed), 'tensor')} could not be {done}"
    yield Section(title, tables=(table,), alert=True)


def _extents(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _findings(a: CheckpointAnalysis) -> Iterator[str]:
    """Sentences on what is far from the rest, or beyond chance."""
    yield from _outlying(a.tensors, "spectral", "spectral norm", largest=True)
    yield from _outlying(a.tensors, "stable_rank", "stable rank", largest=False)
    zero = [t.name for t in a.tensors if t.spectral == 0.0]
    if zero:
        yield f"{counted(len(zero), 'tensor')} of zeros: {listed(zero)}."
    if a.pairs:
        yield coupled_sentence(a.pairs)
    beyond = sorted((c for c in a.compositions if excess(c) > 1.0), key=excess, reverse=True)
    if a.compositions:
        best = ", ".join(f"{c.upper} head {h} reads {c.lower} head {i} ({c.kind})" for c in beyond[:3]
                         for h, i in [strongest_heads(c)])  # fmt: skip
        yield f"{len(beyond)} of {len(a.compositions)} compositions of heads exceed the 95 % level of chance" + (
            f"; the farthest beyond it: {best}." if beyond else "."
        )
    least = extreme((p for p in a.products if p.kind not in HEAD_KINDS), "relative_gap", largest=True)
    if least is not None:
        yield f"The least balanced adapter is {least.name}, relative gap {number(least.relative_gap, 3)}."


def _outlying(tensors: Sequence[TensorSpectrum], quantity: str, what: str, largest: bool) -> Iterator[str]:
    """The tensor farthest from the median of its role, where that is far."""
    values: dict[str, list[float]] = {}
    for t in tensors:
        values.setdefault(t.role, []).append(getattr(t, quantity))
    medians = {role: float(np.nanmedian(v)) for role, v in values.items() if np.isfinite(v).sum() >= _ENOUGH}
    far = [
        (value / median if largest else median / value, t)
        for t in tensors
        if (median := medians.get(t.role, 0.0)) > 0.0 and (value := getattr(t, quantity)) > 0.0
    ]
    if not far:
        return
    ratio, t = max(far, key=lambda pair: pair[0])
    if ratio >= _FAR:
        relation = f"{number(ratio, 3)} times the median" if largest else f"the median is {number(ratio, 3)} times that"
        yield f"{t.name} has the {what} {number(getattr(t, quantity), 4)}: of its role ({t.role}) {relation}."


def _pictures(a: CheckpointAnalysis) -> Iterator[Figure]:
    if a.tensors:
        yield ranks_figure(a.tensors)
        yield spectra_figure(a.tensors)
    if heads := [p for p in a.products if p.kind in HEAD_KINDS]:
        yield heads_figure(heads)
    if a.compositions:
        yield composition_figure(a.compositions)
    if a.pairs:
        yield from pair_figures(a.pairs)
    if adapters := [p for p in a.products if p.kind not in HEAD_KINDS]:
        yield adapters_figure(adapters)


def pair_figures(pairs: Sequence[LayerPair]) -> Iterator[Figure]:
    """Coupling and balance; heat maps of the pairs that are coupled most where there are many."""
    if len(pairs) <= _MOST_MAPS:
        yield coupling_figure(pairs, pairs, "first")
    else:
        yield overlaps_figure(pairs)
        strongest = sorted(pairs, key=lambda pair: pair.largest / pair.chance_95, reverse=True)
        yield coupling_figure(strongest[:_MOST_MAPS], pairs, "most strongly coupled")
    if any(np.isfinite(pair.relative_gap) for pair in pairs):
        yield balance_figure(pairs)


def _tables(a: CheckpointAnalysis) -> Iterator[Table]:
    if a.tensors:
        yield _tensors_table(a.tensors)
    if a.products:
        yield _products_table(a.products)
    if a.compositions:
        yield _compositions_table(a.compositions)
    if a.pairs:
        yield pairs_table(a.pairs)


def _tensors_table(tensors: Sequence[TensorSpectrum]) -> Table:
    header = (
        "tensor", "taken for", "shape", "dtype", "‖W‖₂", "‖W‖_F", "stable rank", "effective rank", "± its error",
        "tail", "above noise", "singular values", "residual", "status",
    )  # fmt: skip
    rows = [
        (
            t.name, t.role, _extents(t.shape), t.dtype, numeric(t.spectral), numeric(t.frobenius),
            numeric(t.stable_rank), numeric(t.effective_rank), numeric(t.effective_rank_error, 2), numeric(t.tail, 3),
            numeric(t.outliers), numbers(t.values, 4, most=4), numeric(float(np.max(t.residuals, initial=0.0)), 2),
            t.status,
        )
        for t in tensors
    ]  # fmt: skip
    return Table(header, rows, "Tensors", sortable=True)


def _products_table(products: Sequence[ProductSpectrum]) -> Table:
    header = (
        "product", "kind", "head", "size", "rank", "‖·‖₂", "‖·‖_F", "stable rank", "effective rank", "relative gap",
        "scaling", "note",
    )  # fmt: skip
    rows = [
        (
            p.name, p.kind, numeric(p.head) if p.head >= 0 else "", _extents(p.shape), numeric(p.rank),
            numeric(p.spectral), numeric(p.frobenius), numeric(p.stable_rank), numeric(p.effective_rank),
            numeric(p.relative_gap), numeric(p.scaling), p.note,
        )
        for p in products
    ]  # fmt: skip
    return Table(header, rows, "Products of heads and adapters", sortable=True)


def _compositions_table(compositions: Sequence[HeadComposition]) -> Table:
    heads = ("layer above", "head above", "layer below", "head below", "kind")
    header = (*heads, "score", "chance", "95 % level", "score/95 % level")
    strongest = sorted(compositions, key=excess, reverse=True)[:_MOST_ROWS]
    rows: list[tuple[str | Cell, ...]] = []
    for c in strongest:
        above, below = strongest_heads(c)
        scores = (float(c.scores.max()), c.chance, c.chance_95, excess(c))
        rows.append((c.upper, numeric(above), c.lower, numeric(below), c.kind, *map(numeric, scores)))
    caption = "Strongest composition of each pair of layers"
    if len(rows) < len(compositions):
        caption += f", the first {len(rows)} of {len(compositions)}"
    return Table(header, rows, caption, sortable=True)


def _left_out(a: CheckpointAnalysis) -> Iterator[Section]:
    if a.unknown:
        table = Table(("tensor",), [(name,) for name in a.unknown], "Names that say nothing", sortable=True)
        yield Section("Not recognised", tables=(table,))
    if a.not_analysed:
        table = Table(("tensor", "reason"), a.not_analysed, "No matrix, so no spectrum", sortable=True)
        yield Section("Not analysed", tables=(table,))
    yield Section("Notes", text=a.notes)
