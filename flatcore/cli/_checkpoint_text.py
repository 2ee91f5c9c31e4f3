"""The analysis of a checkpoint for a terminal: a line a tensor, products and pairs in short (all is in the JSON)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, takewhile

import numpy as np

from flatcore._checks import abridged, counted
from flatcore.results import CheckpointAnalysis, FailedTensor, ProductSpectrum, number, percent

Lines = list[tuple[str, str]]


def failed_words(failed: Sequence[FailedTensor]) -> str:
    """The first of what failed, why, and how many more there are."""
    others = f", and {counted(len(failed) - 1, 'more tensor')} failed" if len(failed) > 1 else ""
    return f"{abridged(failed[0].name)}: {failed[0].reason}{others}"


def groups_of(result: CheckpointAnalysis) -> Iterator[tuple[str, Lines]]:
    """Titles and lines, names as the file has them."""
    groups = {
        "Tensors": _tensors(result),
        "Heads": _heads(result),
        "Composition of heads": [(part._title(), text) for part in result.compositions for _, text in part._lines()],
        "Adapters": _adapters(result),
        "Consecutive layers": _pairs(result),
        "Failed": [(part.name, part.reason) for part in result.failed],
        "Not analysed": _reasons(result.not_analysed),
        "Not recognised by name": [(name, "") for name in result.unknown],
        "Notes": [(f"{index}", note) for index, note in enumerate(result.notes, 1)],
    }
    for title, lines in groups.items():
        if lines:
            yield title, lines


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Lines:
    """Labels and aligned cells under a head."""
    if not rows:
        return []
    columns = zip(*([cells for _, cells in rows] + [head[1:]]), strict=True)
    widths = [max(map(len, column)) for column in columns]
    return [
        (label, "  ".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True)))
        for label, cells in [(head[0], head[1:]), *rows]
    ]


def _tensors(result: CheckpointAnalysis) -> Lines:
    head = ("tensor", "shape", "dtype", "‖W‖₂", "stable rank", "effective rank", "tail", "outliers", "")
    rows = []
    for t in result.tensors:
        error = f" ± {number(t.effective_rank_error, 2)}" if t.effective_rank_error > 0.0 else ""
        status = "" if t.certified else t.status
        cells = (
            " × ".join(map(str, t.shape)),
            t.dtype,
            number(t.spectral, 4),
            number(t.stable_rank, 4),
            number(t.effective_rank, 4) + error,
            percent(t.tail),
            f"{t.outliers} of {len(t.values)}",
            status,
        )
        rows.append((t.name, cells))
    return _table(head, rows)


def _heads(result: CheckpointAnalysis) -> Lines:
    """Per layer and kind the range over its heads."""
    head = ("layer", "", "heads", "rank", "‖·‖₂", "stable rank", "effective rank", "relative gap")
    rows = []
    parts = [part for part in result.products if part.head >= 0]
    for (name, kind), group in groupby(parts, key=lambda part: (part.name, part.kind)):
        heads = list(group)
        rows.append((name, (kind, f"{len(heads)}", f"{heads[0].rank}", *_ranges(heads))))
    return _table(head, rows)


def _ranges(heads: Sequence[ProductSpectrum]) -> Iterator[str]:
    for name in ("spectral", "stable_rank", "effective_rank", "relative_gap"):
        values = np.array([getattr(part, name) for part in heads])
        low, high = (number(float(value), 3) for value in (values.min(), values.max()))
        yield low if low == high else f"{low} to {high}"


def _adapters(result: CheckpointAnalysis) -> Lines:
    head = ("adapter", "shape", "rank", "scaling", "‖sBA‖₂", "stable rank", "effective rank", "relative gap")
    rows = [
        (
            part.name,
            (
                f"{part.shape[0]} × {part.shape[1]}",
                f"{part.rank}",
                number(part.scaling, 4),
                *(number(v, 4) for v in (part.spectral, part.stable_rank, part.effective_rank, part.relative_gap)),
            ),
        )
        for part in result.products
        if part.head < 0
    ]
    return _table(head, rows)


def _pairs(result: CheckpointAnalysis) -> Lines:
    head = ("pair", "width", "largest overlap", "chance (95 %)", "relative gap", "")
    rows = [
        (
            _short(pair.lower, pair.upper),
            (
                f"{pair.width}",
                number(pair.largest, 3),
                f"{number(pair.chance, 3)} ({number(pair.chance_95, 3)})",
                "" if np.isnan(pair.relative_gap) else number(pair.relative_gap, 3),
                "" if pair.status == "computed" else pair.status,
            ),
        )
        for pair in result.pairs
    ]
    return _table(head, rows)


def _short(lower: str, upper: str) -> str:
    """Both names, the second without the parts that it begins with as the first does."""
    parts = upper.split(".")
    shared = sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(lower.split("."), parts[:-1], strict=False)))
    return f"{lower} → {'…' * (shared > 0)}{'.'.join(parts[shared:])}"


def _reasons(left_out: Sequence[tuple[str, str]]) -> Lines:
    """How many there are of every reason, and their names where they are few."""
    names: dict[str, list[str]] = {}
    for name, reason in left_out:
        names.setdefault(reason, []).append(name)
    return [
        (counted(len(found), "tensor"), f"{reason}: {', '.join(map(abridged, found[:2]))}{', …' * (len(found) > 2)}")
        for reason, found in names.items()
    ]
