"""What is measured of a checkpoint: its tensors one by one, products inside attention and adapters, pairs of layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from flatcore.results.frame import Frame, Rows
from flatcore.results.layers import LayerPair
from flatcore.results.record import Array, Record, Reported, number, numbers, percent


@dataclass(frozen=True, repr=False)
class TensorSpectrum(Record):
    """The spectrum of one stored matrix, or of a kernel reshaped to one.

    ``role`` is what the tensor was taken for, ``dtype`` how it is stored, ``matrix`` which matrix was decomposed (out,
    in). ``values`` (k,) descending, ``residuals`` (k,), ``converged`` (k,) and ``status`` are those of
    :func:`flatcore.top_svd`. ``spectral`` is ‖W‖₂, ``frobenius`` ‖W‖_F, ``stable_rank`` ‖W‖_F²/‖W‖₂².
    ``effective_rank`` is exp of the entropy of σ/Σσ (Roy & Vetterli 2007), ``effective_rank_error`` its standard error
    with half the distance of two quadratures that bracket it; where all singular values were computed, what those
    below the rounding of their squares could add, 0 where there are none. ``tail`` is
    the share of ‖W‖_F² outside the k values. ``edge`` is where the singular values of noise of the same size would end
    (exceeded once in a hundred), ``outliers`` how many of the k lie above it: s(√m + √n) with the Tracy–Widom law's
    margin, s² the mean square of the entries without the outliers. ``reads`` are passes over the matrix of the search,
    ``rank_reads`` of the effective rank. Ratios of a zero matrix are NaN.
    """

    _ROWS = (Rows("values", "value", 0, ("values", "residuals", "converged")),)

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    matrix: str
    values: Array
    residuals: Array
    converged: Array
    status: str
    spectral: float
    frobenius: float
    stable_rank: float
    effective_rank: float
    effective_rank_error: float
    tail: float
    edge: float
    outliers: int
    reads: int
    rank_reads: int
    seconds: float

    @property
    def certified(self) -> bool:
        """Whether every triplet asked for converged."""
        return bool(self.converged.all()) and self.status == "converged"

    def _title(self) -> str:
        return self.name

    def _lines(self) -> Iterator[tuple[str, str]]:
        size = " × ".join(str(d) for d in self.shape)
        yield "tensor", f"{self.role}, {size} {self.dtype}; {self.matrix}"
        yield "singular values", numbers(self.values, 6)
        yield "residuals", f"{numbers(self.residuals, 2)} ({self.status})"
        yield "norms", f"‖W‖₂ {number(self.spectral)}, ‖W‖_F {number(self.frobenius)}"
        error = f" ± {number(self.effective_rank_error, 2)}" if self.effective_rank_error > 0.0 else ""
        yield "ranks", f"stable {number(self.stable_rank, 4)}, effective {number(self.effective_rank, 4)}{error}"
        yield (
            "tail",
            f"{percent(self.tail)} of ‖W‖_F² beyond them; {self.outliers} above {number(self.edge, 4)}, "
            "where noise would end",
        )


@dataclass(frozen=True, repr=False)
class ProductSpectrum(Record):
    """A product of low rank inside a model: W_QᵀW_K or W_OW_V of one head, or an adapter's s·B·A.

    ``kind`` is ``"QK"``, ``"OV"`` or ``"LoRA"``; ``head`` the number of the head, -1 for adapters; ``rank`` the inner
    extent. ``values`` (k,) descending are exact up to rounding, by Gram matrices of the factors. ``gap`` is
    ‖BᵀB − AAᵀ‖_F of the two factors (W_Qᵀ and W_K, W_O and W_V), ``relative_gap`` the same over the hypotenuse of both
    norms: 0 balanced, 1 orthogonal ranges; ``gap`` is NaN where it is beyond float64. ``scaling`` is the adapter's s, 1
    for heads; ``note`` says where it came from, or why it is not known.
    """

    _ROWS = (Rows("values", "value", 0, ("values",)),)

    name: str
    kind: str
    head: int
    factors: tuple[str, str]
    shape: tuple[int, int]
    rank: int
    values: Array
    spectral: float
    frobenius: float
    stable_rank: float
    effective_rank: float
    gap: float
    relative_gap: float
    scaling: float
    note: str = ""

    def _title(self) -> str:
        return f"{self.name} {self.kind}" + (f" head {self.head}" if self.head >= 0 else "")

    def _lines(self) -> Iterator[tuple[str, str]]:
        factors = " · ".join(self.factors)
        scaling = "" if self.head >= 0 else f", scaling {number(self.scaling, 4)}"
        yield "product", f"{factors}: {self.shape[0]} × {self.shape[1]}, rank {self.rank}{scaling}"
        yield "singular values", numbers(self.values, 6)
        yield "ranks", f"stable {number(self.stable_rank, 4)}, effective {number(self.effective_rank, 4)}"
        yield "balance", f"gap {number(self.gap, 4)}, relative gap {number(self.relative_gap, 4)}"
        if self.note:
            yield "note", self.note


@dataclass(frozen=True, repr=False)
class HeadComposition(Record):
    """How strongly the heads of one layer read what those of a layer before it write (Elhage et al. 2021).

    ``scores`` (heads above, heads below): ‖M W_OV‖_F/(‖M‖_F ‖W_OV‖_F) with M = W_QKᵀ for ``kind`` ``"Q"``, W_QK for
    ``"K"`` and W_OV for ``"V"``. ``chance`` is the median for independent random factors of the same shapes and
    ``chance_95`` the level that the largest of so many exceeds once in twenty.
    """

    _ROWS = (Rows("heads", "above", 0, ("scores",)),)

    lower: str
    upper: str
    kind: str
    scores: Array
    chance: float
    chance_95: float

    def _title(self) -> str:
        return f"{self.lower} → {self.upper} {self.kind}-composition"

    def _lines(self) -> Iterator[tuple[str, str]]:
        above, below = (int(i) for i in divmod(int(self.scores.argmax()), self.scores.shape[1]))
        yield (
            "strongest",
            f"{number(float(self.scores.max()), 3)}, head {above} reads head {below}; chance {number(self.chance, 3)} "
            f"(95 %: {number(self.chance_95, 3)})",
        )


@dataclass(frozen=True, repr=False)
class FailedTensor(Record):
    """A tensor that could not be analysed, and why: entries that are not finite, a damaged file, a shard without it.

    Of a tensor that is missing from its file ``role`` is ``"missing"``, ``shape`` empty and ``dtype`` ``""``.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    reason: str

    @classmethod
    def missing(cls, name: str, reason: str) -> FailedTensor:
        """A tensor of which nothing but the name is known."""
        return cls(name, "missing", (), "", reason)

    def _title(self) -> str:
        return self.name

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "failed", self.reason


def frame_of_tensors(
    result: Record, kind: type[Record], tensors: Sequence[Record], failed: Sequence[FailedTensor]
) -> Frame:
    """One row for each tensor, of a `kind`, failed ones last: these have a ``reason``, and None for what is unknown."""
    scalars, columns = result._scalars(), dict.fromkeys([*kind._columns(), *FailedTensor._columns()])
    return Frame.of_rows(scalars | columns, (scalars | columns | part._row() for part in (*tensors, *failed)))


@dataclass(frozen=True, repr=False)
class CheckpointAnalysis(Reported, Record):
    """Spectra of a checkpoint's tensors, products of heads and adapters, coupling and balance of consecutive layers.

    ``family`` is what the names were taken for. ``failed`` tensors have no spectrum; ``not_analysed`` are tensors that
    have none by their nature (name, reason), ``unknown`` those whose names say nothing, analysed by their shape where
    that allows. ``right`` maps names of ``tensors`` to their right singular vectors (k, n), with which a nearby
    checkpoint's search can start.
    """

    path: str
    kind: str
    family: str
    k: int
    seed: int
    tensors: tuple[TensorSpectrum, ...]
    products: tuple[ProductSpectrum, ...]
    compositions: tuple[HeadComposition, ...]
    pairs: tuple[LayerPair, ...]
    failed: tuple[FailedTensor, ...]
    not_analysed: tuple[tuple[str, str], ...]
    unknown: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float
    right: dict[str, Array] = field(repr=False, default_factory=dict)

    @property
    def certified(self) -> bool:
        """Whether no tensor failed and every singular triplet asked for converged."""
        return all(t.certified for t in self.tensors) and not self.failed

    def _title(self) -> str:
        return self.path

    def sections(self) -> Iterator[tuple[str, Record]]:
        """Titled parts, for reports."""
        for part in (*self.tensors, *self.failed, *self.products, *self.compositions, *self.pairs):
            yield part._title(), part

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "taken for", f"{self.kind}, {self.family}"
        for title, part in self.sections():
            for label, text in part._lines():
                yield f"{title}: {label}", text
        for name, reason in self.not_analysed:
            yield "not analysed", f"{name}: {reason}"
        for name in self.unknown:
            yield "not recognised", name
        for note in self.notes:
            yield "note", note

    def _tables(self) -> dict[str, Callable[[], Frame]]:
        return super()._tables() | {
            "tensors": partial(frame_of_tensors, self, TensorSpectrum, self.tensors, self.failed)
        }

    def __repr__(self) -> str:
        return f"CheckpointAnalysis({self.path!r}, {len(self.tensors)} tensors, {len(self.products)} products)"
