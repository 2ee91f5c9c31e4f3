"""The report of two checkpoints: what failed, rotation and change along the depth, spectra side by side, tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flatcore._checks import counted, listed
from flatcore._linalg import ratio
from flatcore.report.checkpoints import failed_sections
from flatcore.report.depth import Panel, depth_svg, depths
from flatcore.report.figures import COLOURS, Figure, panel_grid, short_names, svg_text
from flatcore.report.page import Cell, Section, Table, numeric, render_page
from flatcore.results import CheckpointComparison, ProductChange, TensorChange, number, numbers

_MOST_SPECTRA = 12  # panels of spectra side by side
_FEW = 0.05  # share of the update outside the k values, below which it is called of low rank


def render_checkpoint_comparison(c: CheckpointComparison) -> str:
    """The page as text."""
    where = ("", " in the factors, tensor by tensor")[bool(c.products)]
    left_out = Table(("tensor", "reason"), c.not_compared, "Not compared", sortable=True)
    sections = [
        *failed_sections(c.failed, "compared"),
        *_sections(c.products, " in the updates s·B·A", "update", "updates-"),
        *_sections(c.tensors, where, "tensor", ""),
        Section("Left out", tables=[left_out] if c.not_compared else []),
        Section("Notes", text=c.notes),
    ]
    return render_page(f"{c.a} and {c.b} compared", _lead(c), sections)


def _sections(changes: Sequence[TensorChange], where: str, what: str, prefix: str) -> Iterator[Section]:
    """What is to be said of tensors, or of updates of adapters; `prefix` tells the names of their pictures apart."""
    if not changes:
        return
    changed = [t for t in changes if not t.unchanged]
    yield Section(f"What stands out{where}", text=list(_findings(changes, changed, what)))
    yield Section(f"Pictures{where and f' of what changed{where}'}", figures=list(_pictures(changes, changed, prefix)))
    yield Section(f"Numbers{where and f' of what changed{where}'}", tables=list(_tables(changes, changed, what)))


def _lead(c: CheckpointComparison) -> list[str]:
    missed = [t.name for t in c.changes if not t.certified]
    unchanged = sum(t.unchanged for t in c.changes)
    updates = f"{counted(len(c.products), 'update')} of adapters and " if c.products else ""
    certified = f"Not certified: {listed(missed)}." if missed else "All singular triplets are certified."
    return [
        f"A is {c.a}, B is {c.b}.",
        f"{updates}{counted(len(c.tensors), 'tensor')} compared, {unchanged} of them identical; top {c.k} singular "
        f"vectors, seed {c.seed}, {number(c.seconds, 3)} s. {certified}",
    ]


def _findings(changes: Sequence[TensorChange], changed: Sequence[TensorChange], what: str) -> Iterator[str]:
    if not changed and changes:
        yield f"All {what}s compared are identical."
    if same := [t.name for t in changed if t.update.frobenius == 0.0]:
        yield f"The same up to rounding, of other factors: {listed(same)}."
    changed = [t for t in changed if t.update.frobenius > 0.0]
    known = [t for t in changed if np.isfinite(t.relative_change)]
    if known:
        most = max(known, key=lambda t: t.relative_change)
        middle = float(np.median([t.relative_change for t in known]))
        yield (
            f"{most.name} changed most: ‖B − A‖_F is {number(most.relative_change, 3)} of ‖A‖_F; the median of "
            f"{counted(len(known), f'changed {what}')} is {number(middle, 3)}."
        )
    turned = [t for t in changed if t.rank]
    if turned:
        most = min(turned, key=_kept)
        yield f"The top singular subspaces turned most in {most.name}: {_turned_words(most)}."
    products = [t for t in changed if isinstance(t, ProductChange)]
    yield from _rank_words(products) if products else _low_rank_words(changed, what)
    moved = [t.name for t in changed if "tied" in t.status]
    if moved:
        yield f"Singular values are tied, or too close, where subspaces were to end: {listed(moved)}; see the table."


def _kept(t: TensorChange) -> float:
    """What is left of the overlap on the side that turned more."""
    return min(t.left_overlap, t.right_overlap)


def _turned_words(t: TensorChange) -> str:
    angles = [float(np.degrees(a[-1])) for a in (t.left_angles, t.right_angles)]
    return (
        f"mean squared cosines {number(t.left_overlap, 3)} left and {number(t.right_overlap, 3)} right, largest angles "
        f"{number(angles[0], 3)} and {number(angles[1], 3)} degrees in {t.rank} dimensions"
    )


def _rank_words(changed: Sequence[ProductChange]) -> Iterator[str]:
    """Beside the rank that updates of adapters have at most."""
    most = {t.name: min(sum(t.ranks), *t.size) for t in changed}
    least = min(changed, key=lambda t: t.update.stable_rank / most[t.name])
    yield (
        f"Beside the rank that both adapters allow, the stable rank of B − A is lowest in {least.name}: "
        f"{number(least.update.stable_rank, 4)} of {most[least.name]}."
    )


def _low_rank_words(changed: Sequence[TensorChange], what: str) -> Iterator[str]:
    changed = [t for t in changed if len(t.update.values) < min(t.size)]  # all values hold all of every update
    if not changed:
        return
    low = [t for t in changed if t.update.tail <= _FEW]
    head = f"In {len(low)} of {counted(len(changed), f'changed {what}')} the top singular values hold at least "
    if low:
        least = min(low, key=lambda t: t.update.stable_rank)
        yield (
            f"{head}{100 * (1 - _FEW):g} % of ‖B − A‖_F²: updates of low rank; the lowest stable rank is "
            f"{number(least.update.stable_rank, 4)}, in {least.name}."
        )
    else:
        yield f"{head}{100 * (1 - _FEW):g} % of ‖B − A‖_F²: no update is of low rank."


# -- pictures --------------------------------------------------------------------------------------------------------


def _pictures(changes: Sequence[TensorChange], changed: Sequence[TensorChange], prefix: str) -> Iterator[Figure]:
    yield _rotation(changes, f"{prefix}rotation")
    yield _change(changes, f"{prefix}change")
    if changed:
        yield _spectra(changed, f"{prefix}spectra")


def _rotation(tensors: Sequence[TensorChange], name: str) -> Figure:
    where = depths([(t.name, t.role) for t in tensors])
    panels = []
    for side in ("left", "right"):
        overlaps = [getattr(t, f"{side}_overlap") for t in tensors]
        largest = [_degrees(getattr(t, f"{side}_angles")) for t in tensors]
        panels.append(Panel(f"Mean squared cosine, {side} subspaces", overlaps, (-0.03, 1.03)))
        panels.append(Panel(f"Largest angle in degrees, {side} subspaces", largest, (-3.0, 93.0)))
    svg = depth_svg(name, where, panels)
    return Figure(name, "Rotation of the top singular subspaces", svg, tuple(_rotation_words(tensors)))


def _degrees(angles: Any) -> float:
    return float(np.degrees(angles[-1])) if len(angles) else float("nan")


def _rotation_words(tensors: Sequence[TensorChange]) -> Iterator[str]:
    yield "A cosine of 1, an angle of 0: the same subspace. Random subspaces of wide layers are near 0 and 90 degrees."
    known = [t for t in tensors if t.rank and not t.unchanged]
    if known:
        most = min(known, key=_kept)
        side = "left" if most.left_overlap <= most.right_overlap else "right"
        dimension = most.size[0 if side == "left" else 1]
        yield (
            f"The least overlap is {number(_kept(most), 3)}, {side} subspaces of {most.name}; by chance it would be "
            f"{number(most.rank / dimension, 2)}."
        )
        doubt = max(known, key=lambda t: t.angle_error)
        yield (
            f"Residuals move no angle by more than {number(float(np.degrees(doubt.angle_error)), 2)} degrees "
            f"({doubt.name}); a smaller tolerance lowers that."
        )
    if without := [t.name for t in tensors if not t.rank]:
        yield f"No subspace to compare, for ties: {listed(without)}."


def _change(tensors: Sequence[TensorChange], name: str) -> Figure:
    where = depths([(t.name, t.role) for t in tensors])
    panels = (
        Panel("‖B − A‖_F/‖A‖_F", [t.relative_change for t in tensors], (0.0, None)),
        Panel("Stable rank of B − A", [t.update.stable_rank for t in tensors]),
        Panel("Share of ‖B − A‖_F² beyond the top k", [t.update.tail for t in tensors], (-0.03, 1.03)),
        Panel("Change of the stable rank, B − A", [t.stable_rank_change for t in tensors]),
    )
    svg = depth_svg(name, where, panels)
    known = [t for t in tensors if np.isfinite(t.update.stable_rank)]
    lines = ["All updates are zero."]
    if known:
        low, high = (pick(known, key=lambda t: t.update.stable_rank) for pick in (min, max))
        lines = [
            f"Stable ranks of the updates go from {number(low.update.stable_rank, 4)} ({low.name}) to "
            f"{number(high.update.stable_rank, 4)} ({high.name})."
        ]
    return Figure(name, "Size and rank of the change", svg, tuple(lines))


def _spectra(changed: Sequence[TensorChange], name: str) -> Figure:
    """A, B and B − A of the tensors that changed most."""
    most = sorted(changed, key=lambda t: -np.nan_to_num(t.relative_change, nan=np.inf))[:_MOST_SPECTRA]
    names = short_names([t.name for t in most])
    with panel_grid(name, len(most), 3, (3.0, 2.4), (0.6, 0.4)) as (canvas, axes):
        for ax, t in zip(axes.ravel(), most, strict=False):
            drawn = ((t.before, "o-", "A"), (t.after, "s-", "B"), (t.update, "^--", "B − A"))
            for (spectrum, style, label), colour in zip(drawn, COLOURS, strict=False):
                places = np.arange(1, len(spectrum.values) + 1)
                ax.plot(places, spectrum.values, style, ms=2.5, lw=1.1, color=colour, label=label)
            ax.set(title=names[t.name], xlabel="number", ylim=(0.0, 1.05 * _largest(t) or 1.0))
            ax.xaxis.get_major_locator().set_params(integer=True)
        axes[0, 0].legend()
        axes[0, 0].set_ylabel("singular value")
        svg = svg_text(canvas)
    which = ", of those that changed most" if len(most) < len(changed) else ""
    lines = [f"Singular values of A, of B and of the update B − A{which}."]
    ratios = [(ratio(float(t.after.values[0]), float(t.before.values[0])), t.name) for t in changed]
    if ratios := [pair for pair in ratios if np.isfinite(pair[0])]:
        (low, lowest), (high, highest) = min(ratios), max(ratios)
        lines.append(f"σ_1 of B over that of A: from {number(low, 4)} ({lowest}) to {number(high, 4)} ({highest}).")
    return Figure(name, "Spectra side by side", svg, tuple(lines))


def _largest(t: TensorChange) -> float:
    return float(max(spectrum.values[0] for spectrum in (t.before, t.after, t.update)))


# -- tables ----------------------------------------------------------------------------------------------------------


def _tables(changes: Sequence[TensorChange], changed: Sequence[TensorChange], what: str) -> Iterator[Table]:
    if changed:
        yield _changes_table(changed, what)
        yield _values_table(changed, what)
    if identical := [(t.name,) for t in changes if t.unchanged]:
        yield Table((what,), identical, "Identical in both", sortable=True)


def _changes_table(changed: Sequence[TensorChange], what: str) -> Table:
    above = [] if what == "update" else ["above noise"]  # products of low rank are not beside noise of full rank
    header = (
        what, "taken for", "shape", "dtypes", "‖B − A‖/‖A‖", "stable rank A", "stable rank B", "change",
        "update's stable rank", "update's tail", *above, "dimensions", "left overlap", "left largest °",
        "right overlap", "right largest °", "± at most °", "name in B", "status",
    )  # fmt: skip
    rows: list[tuple[str | Cell, ...]] = [
        (
            t.name, t.role, " × ".join(map(str, t.shape)),
            ", ".join(dict.fromkeys(t.dtypes)), numeric(t.relative_change), numeric(t.before.stable_rank),
            numeric(t.after.stable_rank), numeric(t.stable_rank_change, 3), numeric(t.update.stable_rank),
            numeric(t.update.tail, 3), *(numeric(t.update.outliers) for _ in above), numeric(t.rank),
            numeric(t.left_overlap),
            numeric(_degrees(t.left_angles), 3), numeric(t.right_overlap), numeric(_degrees(t.right_angles), 3),
            numeric(float(np.degrees(t.angle_error)), 2), "" if t.other == t.name else t.other, t.status,
        )
        for t in changed
    ]  # fmt: skip
    return Table(header, rows, f"Changed {what}s", sortable=True)


def _values_table(changed: Sequence[TensorChange], what: str) -> Table:
    firsts = ("σ_1 of A", "σ_1 of B", "B over A", "σ_1 of B − A")
    header = (what, *firsts, "values of A", "values of B", "ratios", "values of B − A")
    rows: list[tuple[str | Cell, ...]] = []
    for t in changed:
        a, b = t.before.values, t.after.values
        ratios = [ratio(float(y), float(x)) for x, y in zip(a, b, strict=True)]
        tops = (numeric(float(x)) for x in (a[0], b[0], ratios[0], t.update.values[0]))
        texts = (numbers(x, 3, most=8) for x in (a, b, ratios, t.update.values))
        rows.append((t.name, *tops, *texts))
    return Table(header, rows, "Singular values side by side", sortable=True)
