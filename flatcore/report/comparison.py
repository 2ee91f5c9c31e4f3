"""The report of two checkpoints: what failed, rotation and change along the depth, spectra side by side, tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flatcore._checks import counted, listed
from flatcore.report.checkpoints import failed_sections
from flatcore.report.depth import Panel, depth_svg, depths
from flatcore.report.figures import COLOURS, Figure, panel_grid, short_names, svg_text
from flatcore.report.page import Cell, Section, Table, numeric, render_page
from flatcore.results import CheckpointComparison, TensorChange, number, numbers

_MOST_SPECTRA = 12  # panels of spectra side by side
_FEW = 0.05  # share of the update outside the k values, below which it is called of low rank


def render_checkpoint_comparison(c: CheckpointComparison) -> str:
    """The page as text."""
    changed = [t for t in c.tensors if t.update.status != "identical"]
    sections = [
        *failed_sections(c.failed, "compared"),
        Section("What stands out", text=list(_findings(c, changed))),
        Section("Pictures", figures=list(_pictures(c, changed))),
        Section("Numbers", tables=list(_tables(c, changed))),
        Section("Notes", text=c.notes),
    ]
    return render_page(f"{c.a} and {c.b} compared", _lead(c), sections)


def _lead(c: CheckpointComparison) -> list[str]:
    missed = [t.name for t in c.tensors if not t.certified]
    certified = f"Not certified: {listed(missed)}." if missed else "All singular triplets are certified."
    return [
        f"A is {c.a}, B is {c.b}.",
        f"{counted(len(c.tensors), 'tensor')} compared, {len(c.identical)} of them identical; top {c.k} singular "
        f"vectors, seed {c.seed}, {number(c.seconds, 3)} s. {certified}",
    ]


def _findings(c: CheckpointComparison, changed: Sequence[TensorChange]) -> Iterator[str]:
    if not changed and c.tensors:
        yield "All tensors compared are identical."
    known = [t for t in changed if np.isfinite(t.relative_change)]
    if known:
        most = max(known, key=lambda t: t.relative_change)
        middle = float(np.median([t.relative_change for t in known]))
        yield (
            f"{most.name} changed most: ‖B − A‖_F is {number(most.relative_change, 3)} of ‖A‖_F; the median of "
            f"{counted(len(known), 'changed tensor')} is {number(middle, 3)}."
        )
    turned = [t for t in changed if t.rank]
    if turned:
        most = min(turned, key=_kept)
        yield f"The top singular subspaces turned most in {most.name}: {_turned_words(most)}."
    low = [t for t in changed if t.update.tail <= _FEW]
    yield from _low_rank_words(low, changed)
    moved = [t.name for t in changed if t.status != "computed"]
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


def _low_rank_words(low: Sequence[TensorChange], changed: Sequence[TensorChange]) -> Iterator[str]:
    if not changed:
        return
    head = f"In {len(low)} of {counted(len(changed), 'changed tensor')} the top singular values hold at least "
    if low:
        least = min(low, key=lambda t: t.update.stable_rank)
        yield (
            f"{head}{100 * (1 - _FEW):g} % of ‖B − A‖_F²: updates of low rank; the lowest stable rank is "
            f"{number(least.update.stable_rank, 4)}, in {least.name}."
        )
    else:
        yield f"{head}{100 * (1 - _FEW):g} % of ‖B − A‖_F²: no update is of low rank."


# -- pictures --------------------------------------------------------------------------------------------------------


def _pictures(c: CheckpointComparison, changed: Sequence[TensorChange]) -> Iterator[Figure]:
    if c.tensors:
        yield _rotation(c.tensors)
        yield _change(c.tensors)
    if changed:
        yield _spectra(changed)


def _rotation(tensors: Sequence[TensorChange]) -> Figure:
    where = depths([(t.name, t.role) for t in tensors])
    panels = []
    for side in ("left", "right"):
        overlaps = [getattr(t, f"{side}_overlap") for t in tensors]
        largest = [_degrees(getattr(t, f"{side}_angles")) for t in tensors]
        panels.append(Panel(f"Mean squared cosine, {side} subspaces", overlaps, (-0.03, 1.03)))
        panels.append(Panel(f"Largest angle in degrees, {side} subspaces", largest, (-3.0, 93.0)))
    svg = depth_svg("rotation", where, panels)
    return Figure("rotation", "Rotation of the top singular subspaces", svg, tuple(_rotation_words(tensors)))


def _degrees(angles: Any) -> float:
    return float(np.degrees(angles[-1])) if len(angles) else float("nan")


def _rotation_words(tensors: Sequence[TensorChange]) -> Iterator[str]:
    yield "A cosine of 1, an angle of 0: the same subspace. Random subspaces of wide layers are near 0 and 90 degrees."
    known = [t for t in tensors if t.rank and t.update.status != "identical"]
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


def _change(tensors: Sequence[TensorChange]) -> Figure:
    where = depths([(t.name, t.role) for t in tensors])
    panels = (
        Panel("‖B − A‖_F/‖A‖_F", [t.relative_change for t in tensors], (0.0, None)),
        Panel("Stable rank of B − A", [t.update.stable_rank for t in tensors]),
        Panel("Share of ‖B − A‖_F² beyond the top k", [t.update.tail for t in tensors], (-0.03, 1.03)),
        Panel("Change of the stable rank, B − A", [t.stable_rank_change for t in tensors]),
    )
    svg = depth_svg("change", where, panels)
    known = [t for t in tensors if np.isfinite(t.update.stable_rank)]
    lines = ["All updates are zero."]
    if known:
        low, high = (pick(known, key=lambda t: t.update.stable_rank) for pick in (min, max))
        lines = [
            f"Stable ranks of the updates go from {number(low.update.stable_rank, 4)} ({low.name}) to "
            f"{number(high.update.stable_rank, 4)} ({high.name})."
        ]
    return Figure("change", "Size and rank of the change", svg, tuple(lines))


def _spectra(changed: Sequence[TensorChange]) -> Figure:
    """A, B and B − A of the tensors that changed most."""
    most = sorted(changed, key=lambda t: -np.nan_to_num(t.relative_change, nan=np.inf))[:_MOST_SPECTRA]
    names = short_names([t.name for t in most])
    with panel_grid("spectra", len(most), 3, (3.0, 2.4), (0.6, 0.4)) as (canvas, axes):
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
    ratios = [(float(t.after.values[0] / t.before.values[0]), t.name) for t in changed if t.before.values[0] > 0.0]
    if ratios:
        (low, lowest), (high, highest) = min(ratios), max(ratios)
        lines.append(f"σ_1 of B over that of A: from {number(low, 4)} ({lowest}) to {number(high, 4)} ({highest}).")
    return Figure("spectra", "Spectra side by side", svg, tuple(lines))


def _largest(t: TensorChange) -> float:
    return float(max(spectrum.values[0] for spectrum in (t.before, t.after, t.update)))


# -- tables ----------------------------------------------------------------------------------------------------------


def _tables(c: CheckpointComparison, changed: Sequence[TensorChange]) -> Iterator[Table]:
    if changed:
        yield _changes_table(changed)
        yield _values_table(changed)
    if c.identical:
        yield Table(("tensor",), [(name,) for name in c.identical], "Identical in both", sortable=True)
    if c.not_compared:
        yield Table(("tensor", "reason"), c.not_compared, "Not compared", sortable=True)


def _changes_table(changed: Sequence[TensorChange]) -> Table:
    header = (
        "tensor", "taken for", "shape", "dtypes", "‖B − A‖/‖A‖", "stable rank A", "stable rank B", "change",
        "update's stable rank", "update's tail", "above noise", "dimensions", "left overlap", "left largest °",
        "right overlap", "right largest °", "± at most °", "name in B", "status",
    )  # fmt: skip
    rows = [
        (
            t.name, t.role, " × ".join(map(str, t.shape)),
            ", ".join(dict.fromkeys(t.dtypes)), numeric(t.relative_change), numeric(t.before.stable_rank),
            numeric(t.after.stable_rank), numeric(t.stable_rank_change, 3), numeric(t.update.stable_rank),
            numeric(t.update.tail, 3), numeric(t.update.outliers), numeric(t.rank), numeric(t.left_overlap),
            numeric(_degrees(t.left_angles), 3), numeric(t.right_overlap), numeric(_degrees(t.right_angles), 3),
            numeric(float(np.degrees(t.angle_error)), 2), "" if t.other == t.name else t.other, t.status,
        )
        for t in changed
    ]  # fmt: skip
    return Table(header, rows, "Changed tensors", sortable=True)


def _values_table(changed: Sequence[TensorChange]) -> Table:
    firsts = ("σ_1 of A", "σ_1 of B", "B over A", "σ_1 of B − A")
    header = ("tensor", *firsts, "values of A", "values of B", "ratios", "values of B − A")
    rows: list[tuple[str | Cell, ...]] = []
    for t in changed:
        a, b = t.before.values, t.after.values
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.where(a > 0.0, b / a, np.nan)
        tops = (numeric(float(x)) for x in (a[0], b[0], ratios[0], t.update.values[0]))
        texts = (numbers(x, 3, most=8) for x in (a, b, ratios, t.update.values))
        rows.append((t.name, *tops, *texts))
    return Table(header, rows, "Singular values side by side", sortable=True)
