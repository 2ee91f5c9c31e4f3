"""What is measured of chains: balance, coupling, gains, all of it, and of thousands at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flatcore.results.frame import Frame, Rows
from flatcore.results.pairs import EigenResult
from flatcore.results.record import Array, Record, Reported, number, numbers


@dataclass(frozen=True, repr=False)
class BalanceResult(Record):
    """Balance of consecutive layers; entry j compares layers j + 1 and j + 2 (counted from 1).

    ``gap``: ‖W_{j+1}ᵀW_{j+1} − W_jW_jᵀ − b_jb_jᵀ‖_F, conserved by gradient flow; ``relative_gap`` in [0, 1];
    ``spectral``: ‖A_j‖‖B_j‖/σ^{1−1/M} for each layer, 1 at balance (NaN where Φ = 0).
    """

    _ROWS = (Rows("layers", "layer", 1, ("gap", "relative_gap", "spectral")),)

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

    _ROWS = (
        Rows("pairs", "layer", 1, ("overlaps", "largest", "chance", "chance_95", "ratio", "angles", "angle_chance")),
        Rows("layers", "layer", 1, ("singular_values", "path")),
    )

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

    _ROWS = (
        Rows(
            "layers",
            "layer",
            1,
            ("gains", "residuals", "partial", "partial_top", "weighted_gains", "weighted_residuals"),
        ),
    )

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
class Analysis(Reported, Record):
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

    def _tables(self) -> dict[str, Callable[[], Frame]]:
        return {"layers": self._layers, **super()._tables()}

    def _layers(self) -> Frame:
        """A row a layer; what belongs to a pair stands with its lower layer."""
        balance, coupling, gains = self.balance, self.coupling, self.gains
        columns = {
            "inputs": self.dims[:-1],
            "outputs": self.dims[1:],
            "gap": balance.gap,
            "relative_gap": balance.relative_gap,
            "spectral": balance.spectral,
            "gain": gains.gains,
            "gain_residual": gains.residuals,
            "overlap": coupling.largest,
            "overlap_chance": coupling.chance,
            "overlap_ratio": coupling.ratio,
        }
        return Frame.counted("layer", 1, columns, self._scalars())

    def _scalars(self) -> dict[str, Any]:
        results = {"sharpness": self.sharpness, "gauss_newton_sharpness": self.gauss_newton_sharpness}
        first = {name: float("nan") if r is None else float(r.values[0]) for name, r in results.items()}
        return {name: value for name, value in super()._scalars().items() if name not in first} | first

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


def _spread(values: Array) -> str:
    """Least, median and largest of the finite entries."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return "undefined"
    low, middle, high = (number(float(v), 4) for v in np.quantile(finite, [0.0, 0.5, 1.0]))
    return f"median {middle}, from {low} to {high}"


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

    _ROWS = (
        Rows(
            "chains",
            "chain",
            0,
            (
                "values",
                "residuals",
                "converged",
                "status",
                "products",
                "delta",
                "loss",
                "gradient_norm",
                "spectral_norm",
                "gap",
                "relative_gap",
            ),
        ),
    )

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
        missed = f"{_spread(self.delta)} (but with probability {self.probability:g})"
        untold = int(np.isposinf(self.delta).sum())
        yield "nothing missed beyond", missed + (f"; nothing is known of {untold} chains" if untold else "")
        yield "products", f"{int(self.products.sum())}, at most {int(self.products.max())} a chain"
        yield "status", self.message

    def __repr__(self) -> str:
        done = int((self.status == "converged").sum())
        return f"ManyAnalyses({self._title()}, k={self.values.shape[1]}, {done} converged)"
