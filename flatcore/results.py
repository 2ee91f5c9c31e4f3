"""Frozen records of results: they print well in a terminal and a notebook, and turn into plain data.

A record lists its lines in ``_lines()``; ``summary()``, ``_repr_html_()`` and ``to_dict()`` follow from that and from
the dataclass fields. Arrays in records are read-only.
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flatcore._checks import check_count, chunks

Array = NDArray[Any]
_POINTS = 2048  # of a density, evaluated together


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
    returned. ``method`` is ``"dense"`` (all eigenvalues were computed; delta is 0 but where small ones count as zeros)
    or ``"probe"``: a random block of ``block`` vectors, ``steps`` block steps in the complement of what was found.
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
    ``explanation``: the predicted costs of the routes considered, the choice, and what was done, for ``explain()``.
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
    _layers: Callable[[int], Iterator[Array]] | None = field(repr=False, default=None)
    explanation: tuple[str, ...] = field(repr=False, default=())

    @property
    def vectors(self) -> Array:
        """Eigenvectors as columns, (P, k), built when first asked for."""
        return self._rows().T

    def layers(self, i: int) -> Iterator[Array]:
        """Eigenvector i as blocks shaped like the chain's W_1, b_1, W_2, … or a model's parameters, one at a time."""
        if self._layers is not None:
            return self._layers(i)
        if self._split is None:
            raise ValueError("these eigenvectors belong to no chain or model; use vectors")
        return self._split(self._rows()[i])

    def explain(self) -> str:
        """How the answer was computed and why it can be trusted."""
        lines = [
            *self.explanation,
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


def _with_error(value: float, stderr: float) -> str:
    return f"{number(value, 8)} ± {number(stderr, 2)}"


@dataclass(frozen=True, repr=False)
class TraceEstimate(Record):
    """A trace and its standard error; ``value, stderr = estimate`` unpacks.

    ``status``: exact (one product for every row; ``stderr`` is 0), estimated (all products spent), converged (``rtol``
    reached), max_products (``rtol`` not reached), precision_limited or stopped. ``samples`` is the number of random
    test vectors, 0 where the trace is exact.
    """

    value: float
    stderr: float
    status: str
    message: str
    products: int
    samples: int
    seed: int

    def __iter__(self) -> Iterator[float]:
        return iter((self.value, self.stderr))

    def __float__(self) -> float:
        return self.value

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "trace", _with_error(self.value, self.stderr)
        yield "status", f"{self.status}: {self.message}"
        yield "products", f"{self.products}, {self.samples} test vectors"

    def __repr__(self) -> str:
        return f"TraceEstimate({_with_error(self.value, self.stderr)}, status={self.status!r})"


@dataclass(frozen=True, repr=False)
class DiagonalEstimate(Record):
    """A diagonal (N,) and the standard error of each entry (N,); ``values, stderr = estimate`` unpacks.

    The statuses are those of :class:`TraceEstimate`, with norms in place of the value.
    """

    values: Array
    stderr: Array
    status: str
    message: str
    products: int
    samples: int
    seed: int

    def __iter__(self) -> Iterator[Array]:
        return iter((self.values, self.stderr))

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "values", numbers(self.values)
        yield "standard errors", numbers(self.stderr, 2)
        yield "status", f"{self.status}: {self.message}"
        yield "products", f"{self.products}, {self.samples} test vectors"

    def __repr__(self) -> str:
        return f"DiagonalEstimate({len(self.values)} values, status={self.status!r}, products={self.products})"


@dataclass(frozen=True, repr=False)
class SpectralDensity(Record):
    """The density of N eigenvalues, broadened, with standard errors over probes.

    ``density`` (n,) on ``grid`` (n,) integrates to 1; times ``size`` = N it counts eigenvalues. It is the sum over the
    quadrature of normal densities of standard deviation ``broadening``. ``nodes``, ``weights``, ``residuals`` are
    (probes, steps): each probe's weights sum to 1, and an eigenvalue lies within its residual of each node. ``zeros``
    of the N eigenvalues are known to be 0 and not in the quadrature.
    ``status``: exact (the nodes are all eigenvalues, errors are 0), estimated or stopped.
    """

    grid: Array
    density: Array
    stderr: Array
    broadening: float
    nodes: Array
    weights: Array
    residuals: Array
    size: int
    zeros: int
    status: str
    message: str
    products: int
    seed: int

    @classmethod
    def on_a_grid(cls, nodes: Array, weights: Array, residuals: Array, broadening: float, **rest: Any) -> Self:
        """The record on a grid that reaches 6 broadenings beyond the nodes, 8 points or more to a broadening."""
        least, most = float(nodes.min()), float(nodes.max())
        if rest["zeros"]:
            least, most = min(least, 0.0), max(most, 0.0)
        low, high = least - 6.0 * broadening, most + 6.0 * broadening
        grid = np.linspace(low, high, max(513, 1 + 8 * int(np.ceil((high - low) / broadening))))
        bare = cls(grid, grid, grid, broadening, nodes, weights, residuals, **rest)
        density, stderr = bare.at(grid)
        return dataclasses.replace(bare, grid=read_only(grid), density=read_only(density), stderr=read_only(stderr))

    def at(self, x: Any, broadening: float | None = None) -> tuple[Array, Array]:
        """Density and standard error at the points `x`, with another broadening if wanted."""
        width = self.broadening if broadening is None else float(broadening)
        if not 0.0 < width < np.inf:
            raise ValueError(f"broadening is {broadening!r}; expected a positive number, or None")
        points = np.asarray(x, dtype=float)
        flat = points.ravel()
        out = np.empty((2, flat.size))
        for part in chunks(flat.size, _POINTS):
            z = (flat[part] - self.nodes[..., None]) / width
            values, errors = self._mean(np.exp(-0.5 * z * z), np.exp(-0.5 * np.square(flat[part] / width)))
            out[:, part] = values, errors
        peak = 1.0 / (width * np.sqrt(2.0 * np.pi))
        return peak * out[0].reshape(points.shape), peak * out[1].reshape(points.shape)

    def expectation(self, f: Callable[[Array], Any]) -> tuple[float, float]:
        """The mean of f over the eigenvalues, tr f(A)/N, and its standard error; f takes an array of eigenvalues."""
        at_nodes = np.broadcast_to(np.asarray(f(self.nodes), dtype=float), self.nodes.shape)
        at_zero = np.ravel(f(np.zeros((1, 1)))) if self.zeros else np.zeros(1)
        value, error = self._mean(at_nodes[..., None], at_zero)
        return float(value[0]), float(error[0])

    def _mean(self, at_nodes: Array, at_zero: Array) -> tuple[Array, Array]:
        """Means over the eigenvalues, and their errors, of functions (probes, steps, functions) and (functions,).

        The errors are the standard errors over probes, and no less than what the variance of a random unit vector in
        dimension n says, 2/(n + 2) times that of f over the eigenvalues; the least and the greatest node count there
        as one eigenvalue at least, so that an outlier which all probes happened to miss is not forgotten.
        """
        probes, n = len(self.nodes), self.size - self.zeros
        weights = self.weights[..., None]
        each = np.sum(weights * at_nodes, axis=1)
        mean, error = each.mean(axis=0), np.zeros(each.shape[1])
        if probes > 1:
            squares = np.square(at_nodes - mean)
            ends = [squares.reshape(-1, squares.shape[-1])[k] for k in (self.nodes.argmin(), self.nodes.argmax())]
            spread = np.maximum(np.sum(weights * squares, axis=1).mean(axis=0), (ends[0] + ends[1]) / n)
            expected = np.sqrt(2.0 * spread / ((n + 2) * probes))
            error = np.maximum(each.std(axis=0, ddof=1) / np.sqrt(probes), expected)
        kept = n / self.size
        return kept * mean + (1.0 - kept) * at_zero, kept * error

    def count(self, a: float, b: float) -> tuple[float, float]:
        """How many eigenvalues lie in [a, b], and an error.

        Where an end is nearer to a node than the node's residual, the node may stand for eigenvalues on either side:
        its weight is spread evenly up to the middles between it and its neighbours, and 1/√12 of it, the deviation of
        an end that is anywhere in there, joins the standard error.
        """
        if not a <= b:
            raise ValueError(f"the interval is [{a}, {b}]; expected a ≤ b")
        inside, error = self.expectation(lambda x: (a <= x) & (x <= b))
        (below, open_a), (upto, open_b) = self._spread(a, self.nodes < a), self._spread(b, self.nodes <= b)
        sampled = self.size - self.zeros
        undecided = sampled * (open_a + open_b) / 12.0**0.5
        return self.size * inside + sampled * (upto - below), float(np.hypot(self.size * error, undecided))

    def _spread(self, end: float, below: Array) -> tuple[float, float]:
        """What the sampled part below `end` gains when undecided nodes are spread, and their weight; means of probes.

        `below` (probes, steps) says which nodes count as below.
        """
        middles = (self.nodes[:, 1:] + self.nodes[:, :-1]) / 2.0
        left = np.hstack([self.nodes[:, :1] - self.residuals[:, :1], middles])
        right = np.hstack([middles, self.nodes[:, -1:] + self.residuals[:, -1:]])
        distance = np.abs(self.nodes - end)
        nearest = np.arange(len(distance)), distance.argmin(axis=1)
        undecided = self.weights[nearest] * (distance[nearest] < self.residuals[nearest])
        fraction = np.zeros(len(distance))
        np.divide(end - left[nearest], right[nearest] - left[nearest], out=fraction, where=undecided > 0.0)
        return float(np.mean(undecided * (fraction.clip(0.0, 1.0) - below[nearest]))), float(np.mean(undecided))

    def with_zeros(self, count: int) -> Self:
        """The density with `count` more eigenvalues that are exactly 0.

        For a Hessian with P parameters from its reduced operator R of N rows: ``with_zeros(P - N)``. The broadening
        stays, but for at least a thousandth of the new width.
        """
        check_count("count", count, 0)
        width = max(float(self.nodes.max()), 0.0) - min(float(self.nodes.min()), 0.0)
        return self.on_a_grid(
            self.nodes,
            self.weights,
            self.residuals,
            max(self.broadening, width / 1000.0 * (count > 0)),
            size=self.size + count,
            zeros=self.zeros + count,
            status=self.status,
            message=self.message,
            products=self.products,
            seed=self.seed,
        )

    def _lines(self) -> Iterator[tuple[str, str]]:
        known = f", and {self.zeros} exact zeros" if self.zeros else ""
        count = f"{self.size - self.zeros} between {number(self.nodes.min())} and {number(self.nodes.max())}"
        yield "eigenvalues", count + known
        yield "mean", _with_error(*self.expectation(lambda x: x))
        yield "broadening", number(self.broadening, 3)
        yield "this near to 0", _with_error(*self.count(-self.broadening, self.broadening))
        yield "status", f"{self.status}: {self.message}"
        yield "products", str(self.products)

    def __repr__(self) -> str:
        return f"SpectralDensity({self.size} eigenvalues, status={self.status!r}, products={self.products})"


@dataclass(frozen=True, repr=False)
class SvdResult(Record):
    """Singular triplets with true residuals.

    ``U`` (m, k), ``s`` (k,) descending, ``Vt`` (k, n); ``residuals`` (k,): the larger of ‖Av − σu‖ and ‖Aᵀu − σv‖ from
    fresh products in float64; ``converged`` (k,) says which of them reach ``tol``·σ_1. ``status`` is converged,
    precision_limited, max_iterations or stopped, and ``message`` says what to do about it. ``products`` counts
    vectors multiplied by A or Aᵀ, ``reads`` passes over the matrix. ``U, s, Vt = result`` unpacks.
    """

    U: Array = field(repr=False)
    s: Array
    Vt: Array = field(repr=False)
    residuals: Array
    converged: Array
    status: str
    message: str
    tol: float
    products: int
    reads: int
    seed: int
    certificate: Certificate | None
    method: str

    def explain(self) -> str:
        """How the answer was computed and why it can be trusted."""
        lines = [
            self.method,
            f"{self.reads} reads of the matrix, {self.products} products with single vectors, seed {self.seed}.",
            self.message,
        ]
        if self.certificate is not None:
            lines.append(self.certificate.summary())
        return "\n".join(lines)

    def __iter__(self) -> Iterator[Array]:
        return iter((self.U, self.s, self.Vt))

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "singular values", numbers(self.s, 8)
        yield "residuals", numbers(self.residuals, 2)
        yield "status", f"{self.status}: {self.message}"
        yield "reads", f"{self.reads} of the matrix, {self.products} products with single vectors"
        if self.certificate is not None:
            c = self.certificate
            yield "certificate", f"{c.method}: nothing missed beyond {number(c.delta, 3)} above the last value"

    def __repr__(self) -> str:
        return f"SvdResult(s=[{numbers(self.s, 6)}], status={self.status!r}, reads={self.reads})"


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
        missed = f"{_spread(self.delta)} (but with probability {self.probability:g})"
        untold = int(np.isposinf(self.delta).sum())
        yield "nothing missed beyond", missed + (f"; nothing is known of {untold} chains" if untold else "")
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


@dataclass(frozen=True, repr=False)
class LayerSpectrum(Record):
    """The top singular values of one layer's weights.

    ``matrix`` says which matrix was taken of a weight of ``shape``. ``values`` (k,) descending with the larger of
    ‖Av − σu‖ and ‖Aᵀu − σv‖ as ``residuals`` (k,); ``converged`` (k,) and ``status`` are those of
    :func:`flatcore.top_svd`. ``spectral`` is ‖W‖₂, ``frobenius`` ‖W‖_F and ``stable_rank`` ‖W‖_F²/‖W‖₂², NaN for a zero
    matrix. ``convolution`` says where the exact singular values of the whole convolution map are known, on which grid;
    ``convolution_values`` (k,) are the largest and ``convolution_all`` all of them, descending (empty where not known).
    """

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
    ``status`` names tied or vanishing singular values, whose single vectors mean nothing.
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

    def _title(self) -> str:
        return f"{self.lower} → {self.upper}"

    def _lines(self) -> Iterator[tuple[str, str]]:
        inner = f"; between them {', '.join(self.between)}" if self.between else ""
        yield "matrices", f"{self.matrices[0]}, then {self.matrices[1]}; {self.width} shared{inner}"
        yield "balance", f"gap {number(self.gap, 4)}, relative gap {number(self.relative_gap, 4)}"
        yield (
            "coupling",
            f"largest overlap {number(self.largest, 3)}, chance {number(self.chance, 3)} "
            f"(95 %: {number(self.chance_95, 3)}), ratio {number(self.ratio, 3)}; first principal cosine "
            f"{number(self.angles[0], 3)}, chance {number(self.angle_chance, 3)}",
        )
        yield "status", self.status


@dataclass(frozen=True, repr=False)
class ModuleAnalysis(Record):
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

    def report(self, path: str) -> None:
        """Write a self-contained HTML page (needs the extra ``cli``)."""
        from flatcore.report import write_module_analysis

        write_module_analysis(self, path)

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
