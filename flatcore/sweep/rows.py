"""A checkpoint's analysis as rows of one tidy table, and what its columns mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from flatcore.results import (
    CheckpointAnalysis,
    FailedTensor,
    HeadComposition,
    LayerPair,
    ProductSpectrum,
    TensorSpectrum,
    plain,
)

Row = dict[str, Any]


class Column(NamedTuple):
    """A column of the table: its name, its type and what it says; where it does not apply it is null."""

    name: str
    type: str  # text | integer | number | flag
    meaning: str


_COLUMNS = (
    Column("trajectory", "text", "the path with # for the numbers that count"),
    Column("step", "integer", "the number that counts"),
    Column("path", "text", "the checkpoint, absolute"),
    Column("part", "text", "what the row is about: file, tensor, product, pair or composition"),
    Column("name", "text", "the tensor; the layer of a product; lower → upper of a pair or composition"),
    Column("role", "text", "what a tensor was taken for; QK, OV or LoRA of a product; Q, K or V of a composition"),
    Column("head", "integer", "of a product of one head"),
    Column("shape", "text", "extents, 4096x1024"),
    Column("dtype", "text", "as stored"),
    Column("matrix", "text", "which matrix was decomposed"),
    Column("spectral", "number", "‖W‖₂"),
    Column("frobenius", "number", "‖W‖_F"),
    Column("stable_rank", "number", "‖W‖_F²/‖W‖₂²"),
    Column("effective_rank", "number", "exp of the entropy of σ/Σσ"),
    Column("effective_rank_error", "number", "its standard error"),
    Column("tail", "number", "the share of ‖W‖_F² beyond the k values"),
    Column("edge", "number", "where the singular values of noise of that size would end"),
    Column("outliers", "integer", "how many of the k values lie above the edge"),
    Column("residual", "number", "the largest residual of the k triplets over σ₁"),
    Column("gap", "number", "of a pair or product: the norm of the difference of the two Gram matrices"),
    Column("gap_error", "number", "its standard error, 0 where it was computed"),
    Column("relative_gap", "number", "the same over the hypotenuse of their norms: 0 balanced"),
    Column("scaling", "number", "an adapter's s"),
    Column("largest", "number", "a pair's largest overlap of singular vectors; a composition's largest score"),
    Column("chance", "number", "what that would be by chance"),
    Column("chance_95", "number", "what it would exceed once in twenty by chance"),
    Column("certified", "flag", "whether every triplet reached the tolerance; of a file, whether all did"),
    Column("status", "text", "of the search, or of the file: done, failed"),
    Column("error", "text", "why there is nothing, of a file or of a tensor"),
    Column("note", "text", "what else was said; of a file, what was not analysed or not recognised"),
    Column("warm_from", "text", "the checkpoint whose singular vectors the searches of this file started from"),
    Column("reads", "integer", "passes over the matrix; of a file, over its bytes, rounded"),
    Column("bytes", "integer", "of a file"),
    Column("seconds", "number", "it took"),
)


def columns(k: int) -> tuple[Column, ...]:
    """The columns of a sweep for k singular values."""
    values = (Column(f"sigma_{i}", "number", f"the singular value σ_{i}") for i in range(1, k + 1))
    return (*_COLUMNS, *values)


def file_row(**values: Any) -> Row:
    """The row of a file."""
    return _row("file", **values)


def rows_of(analysis: CheckpointAnalysis) -> Iterator[Row]:
    """A row for each tensor, failed ones included, product, pair and composition."""
    yield from map(_tensor, analysis.tensors)
    for failure in analysis.failed:
        yield _row("tensor", **_stored(failure), certified=False, status="failed", error=failure.reason)
    for product in analysis.products:
        yield _product(product)
    for pair in analysis.pairs:
        yield _pair(pair)
    for composition in analysis.compositions:
        yield _composition(composition)


def notes_of(analysis: CheckpointAnalysis) -> str | None:
    """What was not analysed, not recognised or worth a remark, in words."""
    parts = list(analysis.notes)
    if analysis.not_analysed:
        parts.append(f"{len(analysis.not_analysed)} not analysed by their nature")
    if analysis.unknown:
        parts.append(f"not recognised: {', '.join(analysis.unknown)}")
    return "; ".join(parts) or None


def _stored(found: TensorSpectrum | FailedTensor) -> Row:
    return {**_copied(found, "name role dtype"), "shape": _extents(found.shape)}


def _tensor(found: TensorSpectrum) -> Row:
    return _row(
        "tensor",
        **_stored(found),
        matrix=found.matrix,
        **_copied(found, "spectral frobenius stable_rank effective_rank effective_rank_error tail edge outliers"),
        residual=_relative(found),
        certified=found.certified,
        **_copied(found, "status reads seconds"),
        **_sigmas(found),
    )


def _product(found: ProductSpectrum) -> Row:
    return _row(
        "product",
        name=found.name,
        role=found.kind,
        head=found.head if found.head >= 0 else None,
        shape=_extents(found.shape),
        **_copied(found, "spectral frobenius stable_rank effective_rank gap relative_gap scaling"),
        note=found.note or None,
        **_sigmas(found),
    )


def _pair(found: LayerPair) -> Row:
    name = f"{found.lower} → {found.upper}"
    return _row("pair", name=name, **_copied(found, "gap gap_error relative_gap largest chance chance_95 status"))


def _composition(found: HeadComposition) -> Row:
    name = f"{found.lower} → {found.upper}"
    largest = float(found.scores.max()) if found.scores.size else None
    return _row("composition", name=name, role=found.kind, largest=largest, **_copied(found, "chance chance_95"))


def _row(part: str, **values: Any) -> Row:
    """Plain values that can be written as UTF-8, without those that do not apply."""
    row = {name: writable(plain(value)) for name, value in {"part": part, **values}.items()}
    return {name: value for name, value in row.items() if value is not None}


def writable(value: Any) -> Any:
    """A text as UTF-8 can hold it: names of files and tensors need not be that."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _copied(found: Any, names: str) -> Row:
    return {name: getattr(found, name) for name in names.split()}


def _sigmas(found: TensorSpectrum | ProductSpectrum) -> Row:
    return {f"sigma_{i}": float(value) for i, value in enumerate(found.values, 1)}


def _relative(found: TensorSpectrum) -> float | None:
    top = float(found.values[0]) if len(found.values) else 0.0
    return float(max(found.residuals)) / top if top > 0.0 else None


def _extents(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
