"""What is measured of any model's layers, one by one and along a path."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from flatcore.results.frame import Rows
from flatcore.results.record import Array, Record, Reported, number, numbers


@dataclass(frozen=True, repr=False)
class LayerSpectrum(Record):
    """The top singular values of one layer's weights.

    ``matrix`` says which matrix was taken of a weight of ``shape``. ``values`` (k,) descending with the larger of
    ‖Av − σu‖ and ‖Aᵀu − σv‖ as ``residuals`` (k,); ``converged`` (k,) and ``status`` are those of
    :func:`flatcore.top_svd`. ``spectral`` is ‖W‖₂, ``frobenius`` ‖W‖_F and ``stable_rank`` ‖W‖_F²/‖W‖₂², NaN for a zero
    matrix. ``convolution`` says where the exact singular values of the whole convolution map are known, on which grid;
    ``convolution_values`` (k,) are the largest and ``convolution_all`` all of them, descending (empty where not known).
    """

    _ROWS = (Rows("values", "value", 0, ("values", "residuals", "converged", "convolution_values")),)

    name: str
    kind: str
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
    convolution: str
    convolution_values: Array
    convolution_all: Array = field(repr=False)

    def _title(self) -> str:
        return self.name

    def _lines(self) -> Iterator[tuple[str, str]]:
        size = " × ".join(str(d) for d in self.shape)
        yield "layer", f"{self.kind}, {size} {self.dtype}; {self.matrix}"
        yield "singular values", numbers(self.values, 6)
        yield "residuals", f"{numbers(self.residuals, 2)} ({self.status})"
        rank = number(self.stable_rank, 4)
        yield "norms", f"‖W‖₂ {number(self.spectral)}, ‖W‖_F {number(self.frobenius)}, stable rank {rank}"
        if self.convolution:
            yield "whole convolution", f"{self.convolution}: {numbers(self.convolution_values, 6)}"

    def __repr__(self) -> str:
        return f"LayerSpectrum({self.name!r}, values=[{numbers(self.values, 6)}], status={self.status!r})"


@dataclass(frozen=True, repr=False)
class LayerPair(Record):
    """Balance and coupling of two consecutive layers in the width they share.

    ``matrices`` says which unfoldings were taken: the lower layer's rows and the upper layer's columns belong to the
    same ``width`` units or channels. ``between`` names what is registered between the layers. ``gap`` and
    ``relative_gap`` as in :class:`BalanceResult`, ``overlaps`` to ``angle_chance`` as in :class:`CouplingResult`.
    ``gap_error`` is the standard error of ``gap``, 0 where it was computed; both are NaN where training keeps no
    difference of Gram matrices, or with its ratio known where they are beyond float64, as ``status`` says. It also
    names tied or vanishing singular values, whose single vectors mean nothing.
    """

    lower: str
    upper: str
    width: int
    matrices: tuple[str, str]
    between: tuple[str, ...]
    gap: float
    relative_gap: float
    overlaps: Array
    largest: float
    chance: float
    chance_95: float
    ratio: float
    angles: Array
    angle_chance: float
    status: str
    gap_error: float = 0.0

    def _title(self) -> str:
        return f"{self.lower} → {self.upper}"

    def _lines(self) -> Iterator[tuple[str, str]]:
        inner = f"; between them {', '.join(self.between)}" if self.between else ""
        yield "matrices", f"{self.matrices[0]}, then {self.matrices[1]}; {self.width} shared{inner}"
        error = f" ± {number(self.gap_error, 2)}" if self.gap_error > 0.0 else ""
        yield "balance", f"gap {number(self.gap, 4)}{error}, relative gap {number(self.relative_gap, 4)}"
        yield (
            "coupling",
            f"largest overlap {number(self.largest, 3)}, chance {number(self.chance, 3)} "
            f"(95 %: {number(self.chance_95, 3)}), ratio {number(self.ratio, 3)}; first principal cosine "
            f"{number(self.angles[0], 3)}, chance {number(self.angle_chance, 3)}",
        )
        yield "status", self.status


@dataclass(frozen=True, repr=False)
class ModuleAnalysis(Reported, Record):
    """Spectra of all layers of a model, balance and coupling of consecutive ones.

    ``layers`` and ``pairs`` follow ``order``; ``not_consecutive`` are neighbours in it whose widths differ,
    ``not_analysed`` weights that belong to no Linear or convolution, with the reason, ``tied`` weights that were
    counted with another layer.
    """

    model: str
    order: str
    k: int
    layers: tuple[LayerSpectrum, ...]
    pairs: tuple[LayerPair, ...]
    not_consecutive: tuple[str, ...]
    not_analysed: tuple[str, ...]
    tied: tuple[str, ...]

    def _title(self) -> str:
        return self.model

    @property
    def certified(self) -> bool:
        """Whether every singular triplet asked for converged."""
        return all(bool(layer.converged.all()) and layer.status == "converged" for layer in self.layers)

    def sections(self) -> Iterator[tuple[str, Record]]:
        """Titled parts, for reports."""
        for layer in self.layers:
            yield layer._title(), layer
        for pair in self.pairs:
            yield pair._title(), pair

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "order", self.order
        for label, texts in self.remarks():
            yield label, "; ".join(texts)
        for title, part in self.sections():
            for label, text in part._lines():
                yield f"{title}: {label}", text

    def remarks(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """What was left out, and why."""
        for label in ("not_consecutive", "not_analysed", "tied"):
            if texts := getattr(self, label):
                yield label.replace("_", " "), texts

    def __repr__(self) -> str:
        return f"ModuleAnalysis({self.model!r}, {len(self.layers)} layers, {len(self.pairs)} pairs)"


@dataclass(frozen=True, repr=False)
class JacobianPath(Record):
    """Top singular triplets of the input–output Jacobian at several inputs, and the path of the first through layers.

    ``layers`` (M names), ``sigma`` and ``residuals`` (inputs, k) with ‖Jᵀu − σv‖ (Jv = σu holds by construction),
    ``converged`` (inputs, k); ``gains`` and ``coupling_residuals`` (inputs, M) beside ``reference`` (inputs,) σ^{1/M};
    ``cut_error`` (inputs,): ‖Πg z_M − σu‖/σ, rounding where the layers are a cut. ``mean_…`` are means over inputs.
    ``left`` (inputs, k, m) and ``right`` (inputs, k, n) hold the vectors u and v, u = 0 where σ = 0: there is no path
    there, and gains are NaN.
    ``products`` counts those with J and with its transpose.
    """

    _ROWS = (
        Rows(
            "inputs",
            "input",
            0,
            ("sigma", "residuals", "converged", "reference", "gains", "coupling_residuals", "cut_error"),
        ),
        Rows("layers", "position", 1, ("layers", "mean_gains", "mean_coupling_residuals")),
    )

    layers: tuple[str, ...]
    sigma: Array
    residuals: Array
    converged: Array
    reference: Array
    gains: Array
    coupling_residuals: Array
    cut_error: Array
    mean_sigma: float
    mean_gains: Array
    mean_coupling_residuals: Array
    products: int
    seed: int
    status: str
    left: Array = field(repr=False)
    right: Array = field(repr=False)

    def _title(self) -> str:
        return f"Jacobian path at {len(self.sigma)} input{'s' * (len(self.sigma) != 1)}"

    @property
    def certified(self) -> bool:
        """Whether every singular triplet asked for converged."""
        return bool(self.converged.all())

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "σ", f"{numbers(self.sigma[:, 0], 5)}; mean {number(self.mean_sigma)}"
        yield "residuals", numbers(self.residuals[:, 0], 2)
        yield "σ^(1/M)", f"{numbers(self.reference, 4)}; {len(self.layers)} layers"
        for j, name in enumerate(self.layers):
            text = f"mean gain {number(float(self.mean_gains[j]), 4)}"
            yield name, text + f", mean coupling residual {number(float(self.mean_coupling_residuals[j]), 3)}"
        yield "status", self.status

    def __repr__(self) -> str:
        return f"JacobianPath({len(self.sigma)} inputs, σ=[{numbers(self.sigma[:, 0], 5)}], {len(self.layers)} layers)"
