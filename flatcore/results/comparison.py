"""What is measured between two checkpoints: spectra side by side, rotation of subspaces, the update's own spectrum."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from flatcore._checks import counted
from flatcore.results.checkpoints import FailedTensor, frame_of_tensors
from flatcore.results.frame import Frame, Rows
from flatcore.results.record import Array, Record, Reported, number, numbers, percent

_SPECTRA = ("before", "after", "update")  # fields of a change


@dataclass(frozen=True, repr=False)
class TopSpectrum(Record):
    """The largest singular values of one matrix.

    ``values`` (k,) descending, ``residuals`` (k,), ``converged`` (k,) and ``status`` are those of
    :func:`flatcore.top_svd`; ``frobenius`` is ‖W‖_F, ``stable_rank`` ‖W‖_F²/σ_1², ``tail`` the share of ‖W‖_F² outside
    the k values; both NaN for a zero matrix. ``edge`` is where the singular values of noise of the same size would end
    and ``outliers`` how many of the k lie above it, as in :class:`TensorSpectrum`. Nothing is computed of tensors that
    are identical in both checkpoints: ``status`` says so, there are no values, and the rest is NaN.
    """

    _ROWS = (Rows("values", "value", 0, ("values", "residuals", "converged")),)

    values: Array
    residuals: Array
    converged: Array
    status: str
    frobenius: float
    stable_rank: float
    tail: float
    edge: float
    outliers: int

    @property
    def certified(self) -> bool:
        """Whether every triplet asked for converged."""
        return bool(self.converged.all()) and self.status in ("converged", "identical")

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "singular values", numbers(self.values, 6)
        yield "residuals", f"{numbers(self.residuals, 2)} ({self.status})"
        yield "size", f"‖·‖_F {number(self.frobenius)}, stable rank {number(self.stable_rank, 4)}"
        yield "tail", f"{percent(self.tail)} of ‖·‖_F² beyond them{self._above()}"

    def _above(self, what: str = "") -> str:
        """How many values lie above the edge; nothing where there is none."""
        return "" if math.isnan(self.edge) else f"; {self.outliers} above {number(self.edge, 4)}{what}"


@dataclass(frozen=True, repr=False)
class TensorChange(Record):
    """How one matrix W changed from checkpoint A to checkpoint B.

    ``name`` in A, ``other`` in B; ``dtypes`` as stored in A and B; ``matrix`` which matrix was decomposed, of
    ``size`` (out, in). ``before``
    and ``after`` are the spectra in A and B, ``update`` that of W_B − W_A. ``relative_change`` is
    ‖W_B − W_A‖_F/‖W_A‖_F, NaN for W_A = 0 and, as ``status`` then says, where it is beyond float64.

    ``rank`` is the largest r ≤ k at which both spectra have a gap, and ``left_angles``, ``right_angles`` (r,) the
    principal angles, ascending in radians, between the spans of the first r left and right singular vectors of W_A and
    W_B; ``left_overlap`` and ``right_overlap`` are the means of their squared cosines. For random subspaces of the same
    sizes ``left_chance`` and ``right_chance`` are the typical first angles and the mean overlap is r over the
    dimension. ``angle_error`` bounds what the residuals can do to any angle (Wedin 1972): of the values found, with the
    next one for the gap. A span that ends inside tied values means nothing: ``status`` says where the cut had to move.
    """

    name: str
    other: str
    role: str
    shape: tuple[int, ...]
    dtypes: tuple[str, str]
    matrix: str
    size: tuple[int, int]
    before: TopSpectrum
    after: TopSpectrum
    update: TopSpectrum
    relative_change: float
    rank: int
    left_angles: Array
    right_angles: Array
    left_overlap: float
    right_overlap: float
    left_chance: float
    right_chance: float
    angle_error: float
    status: str
    seconds: float

    @property
    def certified(self) -> bool:
        """Whether all three spectra are."""
        return self.before.certified and self.after.certified and self.update.certified

    @property
    def unchanged(self) -> bool:
        """Whether it is the same in both."""
        return self.update.status == "identical"

    @property
    def stable_rank_change(self) -> float:
        """Stable rank in B minus that in A."""
        return self.after.stable_rank - self.before.stable_rank

    def _title(self) -> str:
        return self.name if self.name == self.other else f"{self.name} and {self.other}"

    @classmethod
    def _columns(cls) -> list[str]:
        own = [name for name in super()._columns() if name not in _SPECTRA]
        return own + [f"{side}_{name}" for side in _SPECTRA for name in TopSpectrum._columns()]

    def _row(self) -> dict[str, Any]:
        sides = {side: getattr(self, side)._row() for side in _SPECTRA}
        spectra = {f"{side}_{name}": cell for side, row in sides.items() for name, cell in row.items()}
        return {**super()._row(), **spectra}

    def _lines(self) -> Iterator[tuple[str, str]]:
        size, dtypes = " × ".join(str(d) for d in self.shape), " and ".join(dict.fromkeys(self.dtypes))
        yield "tensor", f"{self.role}, {size} {dtypes}; {self.matrix}"
        if self.unchanged:
            yield "change", self.status
            return
        yield "in A", f"{numbers(self.before.values, 5)} ({self.before.status})"
        yield "in B", f"{numbers(self.after.values, 5)} ({self.after.status})"
        yield "stable rank", f"{number(self.before.stable_rank, 4)}, then {number(self.after.stable_rank, 4)}"
        yield "change", f"‖B − A‖_F/‖A‖_F is {number(self.relative_change, 4)}"
        yield "update", f"{numbers(self.update.values, 5)} ({self.update.status})"
        if self.update.frobenius > 0.0:
            yield "update's rank", self._update_rank()
        for side in ("left", "right"):
            yield f"{side} rotation", self._rotation(side)
        yield "status", self.status

    def _update_rank(self) -> str:
        u = self.update
        text = f"stable {number(u.stable_rank, 4)}; {percent(u.tail)} of ‖B − A‖_F² beyond these values"
        return text + u._above(", where noise would end")

    def _rotation(self, side: str) -> str:
        angles, chance = getattr(self, f"{side}_angles"), getattr(self, f"{side}_chance")
        if not self.rank:
            return "no subspaces to compare"
        return (
            f"{numbers(np.degrees(angles), 3)} degrees in {self.rank} dimensions, ± at most "
            f"{number(float(np.degrees(self.angle_error)), 2)}; overlap {number(getattr(self, f'{side}_overlap'), 3)}, "
            f"first angle by chance {number(float(np.degrees(chance)), 3)}"
        )


@dataclass(frozen=True, repr=False)
class ProductChange(TensorChange):
    """How an adapter's update s·B·A of a matrix changed from checkpoint A to checkpoint B.

    As :class:`TensorChange`, of the products (out, in): ``name`` is the module, ``dtypes`` those of the factors B,
    ``factors`` the names of B and A in checkpoint A, ``ranks`` their inner extents and ``scalings`` s in A and in B;
    ``note`` says where these came from. Values are those of LAPACK in float64 in reduced coordinates; ``converged``
    are also those whose residual is the rounding of the products themselves, 1e-14·|s|·‖B‖_F·‖A‖_F. Values below half
    of that are zero; where all those of the update are, ``status`` begins with "the same up to rounding". An update has
    at most the rank r_A + r_B; edges of noise of full rank say nothing of it: they are NaN, and no value an outlier.
    """

    factors: tuple[str, str]
    ranks: tuple[int, int]
    scalings: tuple[float, float]
    note: str

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield from super()._lines()
        if self.note:
            yield "note", self.note


@dataclass(frozen=True, repr=False)
class CheckpointComparison(Reported, Record):
    """Two checkpoints, tensor by tensor, and where they hold adapters, update by update.

    ``a`` and ``b`` are their paths; ``products`` are updates s·B·A of adapters, ``tensors`` matrices, both in natural
    order of A's names. ``failed`` tensors hold entries that are not finite, could not be read, or are missing from
    their shard, in either. ``not_compared`` are (name, reason) of what is in one alone, has another shape, or is no
    matrix. ``notes`` say what else there is, prefixes without which names match among it.
    """

    a: str
    b: str
    k: int
    seed: int
    products: tuple[ProductChange, ...]
    tensors: tuple[TensorChange, ...]
    failed: tuple[FailedTensor, ...]
    not_compared: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    seconds: float

    @property
    def certified(self) -> bool:
        """Whether no tensor failed and every singular triplet asked for converged."""
        return not self.failed and all(change.certified for change in self.changes)

    @property
    def changes(self) -> tuple[TensorChange, ...]:
        """Products and tensors."""
        return (*self.products, *self.tensors)

    def _title(self) -> str:
        return f"{self.a} and {self.b}"

    def sections(self) -> Iterator[tuple[str, Record]]:
        """Titled parts, for reports."""
        for part in (*self.changes, *self.failed):
            yield part._title(), part

    @property
    def identical(self) -> tuple[str, ...]:
        """Names of the tensors that did not change."""
        return tuple(t.name for t in self.tensors if t.unchanged)

    def groups(self) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        """Titles and lines of the summary; identical tensors in one group."""
        identical = [change for change in self.changes if change.unchanged]
        counts = [counted(len(self.products), "update") + " s·B·A"] * bool(self.products)
        counts.append(counted(len(self.tensors), "tensor"))
        compared = [("compared", f"{' and '.join(counts)}, {len(identical)} of them identical")]
        yield self._title(), compared + [("note", note) for note in self.notes]
        for title, part in self.sections():
            if not (isinstance(part, TensorChange) and part.unchanged):
                yield title, list(part._lines())
        groups = {"Identical": [(change._title(), "") for change in identical], "Not compared": list(self.not_compared)}
        yield from ((title, lines) for title, lines in groups.items() if lines)

    def _lines(self) -> Iterator[tuple[str, str]]:
        for title, lines in self.groups():
            yield from (lines if title == self._title() else ((f"{title}: {label}", text) for label, text in lines))

    def _tables(self) -> dict[str, Callable[[], Frame]]:
        changes = ProductChange if self.products else TensorChange
        return {
            "changes": partial(frame_of_tensors, self, changes, self.changes, self.failed),
            **super()._tables(),
            "tensors": partial(frame_of_tensors, self, TensorChange, self.tensors, self.failed),
        }

    def __repr__(self) -> str:
        return f"CheckpointComparison({self.a!r}, {self.b!r}, {len(self.tensors)} tensors)"
