"""Frozen records of results: they print well in a terminal and a notebook, and turn into plain data.

A record lists its lines in ``_lines()``; ``summary()``, ``_repr_html_()`` and ``to_dict()`` follow from that and from
the dataclass fields. Arrays in records are read-only.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def plain(value: Any) -> Any:
    """Numbers, strings, lists and dictionaries only, ready for JSON; NaN and Inf become None."""
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value


def number(value: float, digits: int = 5) -> str:
    """A float for people; NaN reads "undefined"."""
    return "undefined" if np.isnan(value) else f"{value:.{digits}g}"


def numbers(values: Any, digits: int = 4, most: int = 12) -> str:
    """Several floats for people, the middle of long lists left out."""
    array = np.asarray(values, dtype=float).ravel()
    if array.size <= most:
        return "  ".join(number(v, digits) for v in array)
    half = most // 2
    return f"{numbers(array[:half], digits)}  …  {numbers(array[-half:], digits)}"


def read_only(array: Any) -> Array:
    """The array, frozen."""
    out = np.asarray(array)
    out.flags.writeable = False
    return out


class Record:
    """Base of all results."""

    def _title(self) -> str:
        return type(self).__name__

    def _lines(self) -> Iterator[tuple[str, str]]:
        """Label and text of each line of the summary."""
        raise NotImplementedError

    def summary(self) -> str:
        """The result as aligned text."""
        lines = list(self._lines())
        width = max((len(label) for label, _ in lines), default=0)
        return "\n".join([self._title(), *(f"  {label:<{width}}  {text}" for label, text in lines)])

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON; undefined numbers are None."""
        fields = [f for f in dataclasses.fields(self) if f.repr]  # type: ignore[arg-type]
        return {f.name: plain(getattr(self, f.name)) for f in fields}

    def __str__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(label)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for label, text in self._lines()
        )
        return f"<table><caption>{html.escape(self._title())}</caption>{rows}</table>"


@dataclass(frozen=True, repr=False)
class Certificate(Record):
    """What is known about eigenvalues that were not found.

    With probability at least 1 − ``probability`` no missed eigenvalue lies more than ``delta`` beyond the last value
    returned. ``method`` is ``"dense"`` (all eigenvalues were computed, delta 0) or ``"probe"``: a random block of
    ``block`` vectors, ``steps`` block steps in the complement of what was found.
    """

    method: str
    delta: float
    probability: float
    steps: int
    block: int
    hits: int  # missed eigenvalues that probes found, since merged

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "method", self.method
        yield "nothing missed beyond", f"{number(self.delta, 3)} (but with probability {self.probability:g})"
        yield "probe", f"{self.steps} steps of {self.block} vectors, {self.hits} hits merged"


@dataclass(frozen=True)
class SolverState:
    """What a solver's callback sees after each step."""

    iteration: int
    values: Array
    residuals: Array  # estimates from the recurrence
    products: int


@dataclass(frozen=True, repr=False)
class EigenResult(Record):
    """Eigenpairs with true residuals.

    ``values`` (k,); ``residuals`` (k,) are ‖Hv − λv‖ from a fresh product in float64; ``converged`` (k,) says which of
    them reach ``tol`` times the largest modulus of an eigenvalue. ``status`` is converged, precision_limited,
    max_iterations or stopped, and ``message`` says what to do about it. ``values, vectors = result`` unpacks.
    """

    values: Array
    residuals: Array
    converged: Array
    status: str
    message: str
    tol: float
    products: int
    seed: int
    certificate: Certificate | None
    method: str
    _rows: Callable[[], Array] = field(repr=False)
    _split: Callable[[Array], Iterator[Array]] | None = field(repr=False, default=None)

    @property
    def vectors(self) -> Array:
        """Eigenvectors as columns, (P, k), built when first asked for."""
        return self._rows().T

    def layers(self, i: int) -> Iterator[Array]:
        """Eigenvector i as blocks shaped like the chain's W_1, b_1, W_2, …, one at a time."""
        if self._split is None:
            raise ValueError("these eigenvectors belong to no chain; use vectors")
        return self._split(self._rows()[i])

    def explain(self) -> str:
        """How the answer was computed and why it can be trusted."""
        lines = [
            self.method,
            f"{self.products} products with single vectors, seed {self.seed}.",
            self.message,
        ]
        if self.certificate is not None:
            lines.append(self.certificate.summary())
        return "\n".join(lines)

    def __iter__(self) -> Iterator[Array]:
        return iter((self.values, self.vectors))

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "values", numbers(self.values, 8)
        yield "residuals", numbers(self.residuals, 2)
        yield "status", f"{self.status}: {self.message}"
        yield "products", str(self.products)
        if self.certificate is not None:
            c = self.certificate
            yield (
                "certificate",
                f"{c.method}: nothing missed beyond {number(c.delta, 3)} above the last value",
            )

    def __repr__(self) -> str:
        return f"EigenResult(values=[{numbers(self.values, 6)}], status={self.status!r}, products={self.products})"


@dataclass(frozen=True, repr=False)
class BalanceResult(Record):
    """Balance of consecutive layers; entry j compares layers j + 1 and j + 2 (counted from 1).

    ``gap``: ‖W_{j+1}ᵀW_{j+1} − W_jW_jᵀ − b_jb_jᵀ‖_F, conserved by gradient flow; ``relative_gap`` in [0, 1];
    ``spectral``: ‖A_j‖‖B_j‖/σ^{1−1/M} for each layer, 1 at balance (NaN where Φ = 0).
    """

    gap: Array
    relative_gap: Array
    spectral: Array
    status: str

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "gap", numbers(self.gap) or "a single layer has none"
        yield "relative gap", numbers(self.relative_gap) or "a single layer has none"
        yield "‖A‖‖B‖/σ^(1−1/M)", numbers(self.spectral)
        yield "status", self.status


@dataclass(frozen=True, repr=False)
class CouplingResult(Record):
    """Overlaps of each layer's top left singular vectors with the next layer's top right ones.

    One entry a consecutive pair: ``overlaps`` (k_j, k_{j+1}) |U_jᵀV_{j+1}|; ``largest`` entry; ``chance`` and
    ``chance_95``, median and 95 % quantile of that largest entry for random subspaces; ``ratio`` = largest/chance;
    ``angles``: cosines of the principal angles between the two subspaces, descending; ``angle_chance``: the top one
    for random subspaces. ``path`` holds one singular value number a layer (from 0; empty where there is none),
    ``path_strength`` the weight of the strongest path, ``path_agreement`` |⟨u, u_path⟩|, |⟨v, v_path⟩| with the
    end-to-end matrix's top pair.
    """

    k: int
    singular_values: tuple[Array, ...]
    overlaps: tuple[Array, ...]
    largest: Array
    chance: Array
    chance_95: Array
    ratio: Array
    angles: tuple[Array, ...]
    angle_chance: Array
    path: tuple[int, ...]
    path_strength: float
    path_agreement: tuple[float, float]
    status: str

    def _lines(self) -> Iterator[tuple[str, str]]:
        for j, pair in enumerate(self.overlaps):
            yield (
                f"layers {j + 1}, {j + 2}",
                f"largest overlap {number(self.largest[j], 3)}, chance {number(self.chance[j], 3)} "
                f"(95 %: {number(self.chance_95[j], 3)}), ratio {number(self.ratio[j], 3)}; "
                f"top {pair.shape[0]} × {pair.shape[1]}, first principal cosine {number(self.angles[j][0], 3)}",
            )
        route = " → ".join(str(i + 1) for i in self.path) or "none"
        yield "strongest path", f"{route}, strength {number(self.path_strength, 4)}"
        yield (
            "agrees with Φ",
            f"|⟨u, u_path⟩| = {number(self.path_agreement[0], 3)}, |⟨v, v_path⟩| = "
            + number(self.path_agreement[1], 3),
        )
        yield "status", self.status


@dataclass(frozen=True, repr=False)
class GainsResult(Record):
    """What each layer does to the chain's top direction.

    ``sigma``: ‖Φ‖₂; ``gains`` g_j along v through the layers beside ``reference`` σ^{1/M}; ``residuals``
    ‖W_jᵀz_j − g_jz_{j−1}‖/g_j; ``partial`` (‖W_j⋯W_1‖₂/σ^{j/M}, j = 1 … M−1) and ``partial_top`` (mirrored) beside the
    ``band`` [1, √(M−1)] of flattest minima on whitened data. With a quadratic loss the ``weighted_…`` fields repeat the
    gains along the data-weighted direction of the flattest sharpness (residual undefined for the first layer).
    """

    sigma: float
    reference: float
    gains: Array
    residuals: Array
    partial: Array
    partial_top: Array
    band: tuple[float, float]
    weighted_reference: float
    weighted_gains: Array
    weighted_residuals: Array
    status: str

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "σ = ‖Φ‖₂", f"{number(self.sigma)}, σ^(1/M) = {number(self.reference)}"
        yield "gains", numbers(self.gains)
        yield "residuals", numbers(self.residuals, 2)
        yield "partial gains", numbers(self.partial) or "none at depth 1"
        yield "mirrored", numbers(self.partial_top) or "none at depth 1"
        yield "band", f"[{number(self.band[0])}, {number(self.band[1])}]"
        if self.weighted_gains.size:
            yield "data-weighted", f"{numbers(self.weighted_gains)} beside {number(self.weighted_reference)}"
        yield "status", self.status


@dataclass(frozen=True, repr=False)
class Analysis(Record):
    """Everything flatcore can say about a chain, and about a minimum where a loss is given.

    ``sharpness`` and ``gauss_newton_sharpness`` are eigenvalue results of one value; ``flattest`` is λ* at the current
    Φ (NaN where the theorem does not apply, ``flattest_status`` says why) and ``flatness_ratio`` the Gauss–Newton
    sharpness over it. All are None, or NaN, without a loss.
    """

    chain: str
    dims: tuple[int, ...]
    num_parameters: int
    balance: BalanceResult
    coupling: CouplingResult
    gains: GainsResult
    loss: str | None = None
    value: float = float("nan")
    gradient_norm: float = float("nan")
    sharpness: EigenResult | None = None
    gauss_newton_sharpness: EigenResult | None = None
    flattest: float = float("nan")
    flattest_status: str = ""
    flatness_ratio: float = float("nan")

    def _title(self) -> str:
        return self.chain

    @property
    def certified(self) -> bool:
        """Whether every eigenpair asked for converged."""
        results = (self.sharpness, self.gauss_newton_sharpness)
        return all(bool(r.converged.all()) for r in results if r is not None)

    def sections(self) -> Iterator[tuple[str, Record]]:
        """Titled parts, for reports."""
        yield "Balance", self.balance
        yield "Coupling", self.coupling
        yield "Gains", self.gains
        if self.sharpness is not None:
            yield "Sharpness", self.sharpness
        if self.gauss_newton_sharpness is not None:
            yield "Gauss–Newton sharpness", self.gauss_newton_sharpness

    def _lines(self) -> Iterator[tuple[str, str]]:
        if self.loss is not None and self.sharpness is not None:
            yield (
                "loss",
                f"{number(self.value)} of {self.loss}, gradient norm {number(self.gradient_norm, 3)}",
            )
            yield "sharpness", f"{number(self.sharpness.values[0])} ({self.sharpness.status})"
            yield (
                "flattest possible",
                number(self.flattest) + (f" ({self.flattest_status})" * bool(self.flattest_status)),
            )
            yield "flatness ratio", number(self.flatness_ratio)
        for title, part in self.sections():
            for label, text in part._lines():
                yield f"{title}: {label}", text

    def report(self, path: str) -> None:
        """Write a self-contained HTML page (needs the extra ``cli``)."""
        from flatcore.report import write_analysis

        write_analysis(self, path)


@dataclass(frozen=True, repr=False)
class ManyAnalyses(Record):
    """Curvature and balance of many chains under one loss; arrays over the batch.

    ``values`` (batch, k) descending; ``residuals`` (batch, k) are ‖Hv − λv‖ from a fresh product in float64;
    ``converged`` (batch, k); ``status`` (batch,) converged, precision_limited, max_iterations or overflow (then values
    are NaN); ``products`` (batch,). With probability at least 1 − ``probability`` no missed eigenvalue of a chain lies
    more than ``delta`` (batch,) beyond the last value returned. ``loss``, ``gradient_norm``, ``spectral_norm`` ‖Φ‖₂
    (batch,); ``gap`` and ``relative_gap`` (batch, M − 1) of consecutive layers, as in :class:`BalanceResult` (these
    four are NaN where they were not asked for).
    ``vectors`` (batch, P, k) where asked for, in the order W_1, W_2, …
    """

    dims: tuple[int, ...]
    num_parameters: int
    curvature: str
    values: Array
    residuals: Array
    converged: Array
    status: Array
    products: Array
    delta: Array
    probability: float  # that a chain's certificate is wrong
    loss: Array
    gradient_norm: Array
    spectral_norm: Array
    gap: Array
    relative_gap: Array
    tol: float
    seed: int
    message: str
    vectors: Array | None = field(repr=False, default=None)

    def __len__(self) -> int:
        return len(self.values)

    def _title(self) -> str:
        return f"{len(self)} chains {' → '.join(str(d) for d in self.dims)}"

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield f"largest {self.curvature} eigenvalue", _spread(self.values[:, 0])
        yield "residual", _spread(self.residuals.max(axis=1))
        yield "loss", _spread(self.loss)
        yield "gradient norm", _spread(self.gradient_norm)
        yield "‖Φ‖₂", _spread(self.spectral_norm)
        if self.relative_gap.size:
            yield "relative gap", _spread(self.relative_gap.max(axis=1))
        yield "nothing missed beyond", f"{_spread(self.delta)} (but with probability {self.probability:g})"
        yield "products", f"{int(self.products.sum())}, at most {int(self.products.max())} a chain"
        yield "status", self.message

    def __repr__(self) -> str:
        done = int((self.status == "converged").sum())
        return f"ManyAnalyses({self._title()}, k={self.values.shape[1]}, {done} converged)"


def _spread(values: Array) -> str:
    """Least, median and largest of the finite entries."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return "undefined"
    low, middle, high = (number(float(v), 4) for v in np.quantile(finite, [0.0, 0.5, 1.0]))
    return f"median {middle}, from {low} to {high}"
