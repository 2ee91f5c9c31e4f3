"""Local entropy: how many solutions lie at a distance from given weights, by belief propagation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as record_field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore import _core
from flatcore._checks import as_float_array, as_numpy, check_choice, check_finite
from flatcore._threads import limit_threads
from flatcore.results import Record, Rows, number, numbers, read_only
from flatcore.wfm._arguments import check_positive, check_share, check_size, stream
from flatcore.wfm.message_passing import BinaryAmp, BinaryEdges, GaussianAmp, form_of
from flatcore.wfm.models import Committee, checked_model, checked_weights, normalised
from flatcore.wfm.patterns import Patterns, checked_patterns

Array = NDArray[Any]

_MOST_EXACT = 63  # inputs of a unit whose fields' laws are convolved
_MOST_FIELD = 1e6
_DISTANCES = [0.01, 0.02, *np.arange(1, 10) / 20.0]
_LOG_TWO_PI_E = float(np.log(2.0 * np.pi * np.e))


@dataclass(frozen=True, repr=False)
class LocalEntropy(Record):
    """Solutions around given weights w̃ by distance; all arrays have one entry a point.

    ``field`` h: of the term h Σ_i w̃_i w_i that draws to w̃. ``overlap`` q = Σ_i w̃_i⟨w_i⟩/(K·n) and ``distance``
    d = (1 − q)/2. ``entropy`` S: log of the number of solutions (binary) at that distance, or of their volume over the
    sphere's (continuous), per weight: S = φ − h q with the ``free_entropy`` φ. ``converged``: whether the messages
    settled to ``tol``; ``sweeps`` they took.
    """

    _ROWS = (
        Rows("points", "point", 0, ("field", "overlap", "distance", "entropy", "free_entropy", "converged", "sweeps")),
    )

    model: Committee
    form: str
    field: Array
    overlap: Array
    distance: Array
    entropy: Array
    free_entropy: Array
    converged: Array
    sweeps: Array
    tol: float
    weights: Array = record_field(repr=False)

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "form", self.form
        yield "distance d", numbers(self.distance)
        yield "entropy S per weight", numbers(self.entropy)
        yield "field h", numbers(self.field)
        yield "converged", f"{int(self.converged.sum())} of {self.converged.size} points to {number(self.tol, 2)}"


def local_entropy(
    model: Committee,
    weights: Any,
    patterns: Any,
    *,
    distances: Any = None,
    overlaps: Any = None,
    fields: Any = None,
    form: str = "auto",
    damping: float = 0.5,
    tol: float = 1e-7,
    max_sweeps: int = 1000,
    seed: int = 0,
    threads: int | None = None,
) -> LocalEntropy:
    """Local entropy around weights, from the Bethe free entropy of belief propagation drawn to them by a field.

    Give one of ``distances``, ``overlaps`` and ``fields``. Where overlaps are fixed the field is found anew in each
    sweep, which reaches points that no fixed field does: h(q) need not be monotone near a solution.

    Parameters
    ----------
    model, weights, patterns
        A :class:`Committee`, weights (K, n) that need not solve, :class:`Patterns` or arrays (inputs, labels).
    distances
        d in (0, 1): shares of weights that differ (binary); by default 0.01, 0.02, 0.05, 0.1, 0.15, …, 0.45.
    overlaps
        q = 1 − 2d in (−1, 1).
    fields
        h.
    form
        ``"edge"``, ``"amp"`` (the only one for continuous weights), ``"exact"``: fields' laws convolved instead of
        normal, for up to 63 inputs a unit; ``"auto"`` takes edges up to four million messages, else AMP.
    damping, tol, max_sweeps
        λ of the messages; change at which a point has converged; sweeps for each point. Points are visited from the
        largest overlap (field) down, each from the messages of the one before where these settled.
    seed
        Of the first messages of binary weights; those of continuous ones are zero.
    threads
        OpenMP threads.

    Returns
    -------
    LocalEntropy
        Points in the order asked for. A point that did not converge has ``converged`` False and the values of the
        last sweep. Where S of binary weights is below −log 2, fewer than 2^{−N} solutions, messages are at their
        bounds: the entropy is −inf, and ``converged`` False.

    Notes
    -----
    The Gaussian law of the fields and the independence of messages are approximations of order 1/n: at n ≈ 15 the
    root mean square error of S is 0.005 to 0.02. Patterns are taken for independent: that two of them contradict each
    other is not noticed. S of continuous weights has no bound below.

    References
    ----------
    Baldassi et al., arXiv:1905.07833 (local entropy); Franz and Parisi, J. Phys. I 5, 1401 (1995).

    Examples
    --------
    >>> from flatcore.wfm import focusing_bp, random_patterns
    >>> model = Committee(201)
    >>> patterns = random_patterns(model, 80)
    >>> found = local_entropy(model, focusing_bp(model, patterns).weights, patterns, distances=[0.05, 0.1])
    >>> bool((found.entropy > 0).all() and found.converged.all())
    True
    """
    patterns = checked_patterns(checked_model(model), patterns)
    center = checked_weights(model, weights)
    asked = [
        name for name, v in (("distances", distances), ("overlaps", overlaps), ("fields", fields)) if v is not None
    ]
    if len(asked) > 1:
        raise ValueError(f"{' and '.join(asked)} are given; expected one of them")
    form = _form(form, model, patterns)
    damping, tol = check_share("damping", damping), check_positive("tol", tol)
    max_sweeps = check_size("max_sweeps", max_sweeps)
    rng = stream("local_entropy", seed)
    at_field = fields is not None
    values = _points(distances, overlaps, fields)
    with limit_threads(threads):
        machine: _Binary | _Continuous | None = None
        rows = np.empty((len(values), 5))
        for i in np.argsort(-values, kind="stable"):
            if machine is None:
                if model.weights == "binary":
                    machine = _Binary(model, patterns, center, form, damping, rng)
                else:
                    machine = _Continuous(model, patterns, center, damping)
            rows[i] = _solve(machine, float(values[i]), at_field, tol, max_sweeps)
            if not rows[i, 3]:
                machine = None  # where nothing solves messages diverge: no start for the next point
    h, q, phi, settled, sweeps = rows.T
    entropy = phi - h * q
    none = (entropy < -np.log(2.0)) if model.weights == "binary" else np.zeros(len(rows), dtype=bool)
    return LocalEntropy(
        model=model,
        form=form,
        field=read_only(h.copy()),
        overlap=read_only(q.copy()),
        distance=read_only((1.0 - q) / 2.0),
        entropy=read_only(np.where(none, -np.inf, entropy)),
        free_entropy=read_only(phi.copy()),
        converged=read_only(settled.astype(bool) & ~none),
        sweeps=read_only(sweeps.astype(np.int64)),
        tol=tol,
        weights=read_only(center.copy()),
    )


def _form(form: str, model: Committee, patterns: Patterns) -> str:
    check_choice("form", form, ("auto", "edge", "amp", "exact"))
    if model.weights == "continuous":
        if form not in ("auto", "amp"):
            raise ValueError(f"form is {form!r}; continuous weights have 'amp' alone")
        return "amp"
    if form == "exact" and model.fan_in > _MOST_EXACT:
        raise ValueError(f"form is 'exact' with {model.fan_in} inputs a unit; expected at most {_MOST_EXACT}")
    return form if form == "exact" else form_of(form, model, patterns)


def _points(distances: Any, overlaps: Any, fields: Any) -> Array:
    if fields is not None:
        name, asked = "fields", fields
    elif overlaps is not None:
        name, asked = "overlaps", overlaps
    else:
        name, asked = "distances", _DISTANCES if distances is None else distances
    values = as_float_array(name, np.atleast_1d(as_numpy(name, asked)), 1).astype(np.float64)
    if name == "distances":
        values = 1.0 - 2.0 * values
    if values.size == 0:
        raise ValueError(f"{name} is empty; expected at least one value")
    check_finite(name, values)
    if name == "fields" and not np.all(np.abs(values) <= _MOST_FIELD):
        raise ValueError(
            f"fields reach {np.abs(values).max():g}; expected values in [-{_MOST_FIELD:g}, {_MOST_FIELD:g}]"
        )
    if name != "fields" and not np.all(np.abs(values) < 1.0):
        span = "(-1, 1)" if name == "overlaps" else "(0, 1)"
        raise ValueError(f"{name} reach the end of the range; expected values in {span}")
    return np.asarray(values)


def _solve(machine: _Binary | _Continuous, value: float, at_field: bool, tol: float, most: int) -> tuple[float, ...]:
    """Sweeps at one point until messages and field settle: h, q, φ, converged, sweeps."""
    h = value if at_field else machine.field_for(value)
    sweep, settled = 0, False
    while sweep < most and not settled:
        machine.sweep(h)
        sweep += 1
        previous = h
        h = value if at_field else machine.field_for(value)
        settled = machine.change < tol and abs(h - previous) <= tol * max(1.0, abs(h))
    return h, machine.overlap(h), machine.free_entropy(h), float(settled), float(sweep)


def _field_for(overlap_at: Any, q: float, start: float) -> float:
    """The h with overlap_at(h) = q, a growing function, by bisection from a bracket around `start`."""
    width = 1.0
    low, high = start - width, start + width
    while overlap_at(low) > q and width < _MOST_FIELD:
        width *= 2.0
        low = start - width
    width = 1.0
    while overlap_at(high) < q and width < _MOST_FIELD:
        width *= 2.0
        high = start + width
    while high - low > 1e-14 * max(1.0, abs(low) + abs(high)):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        low, high = (middle, high) if overlap_at(middle) < q else (low, middle)
    return 0.5 * (low + high)


class _ExactEdges(BinaryEdges):
    """Edges whose fields have their own law."""

    def sweep(self, field: Array) -> None:
        self.sums, self.change = _core.wfm_edge_sweep(self.task, self.messages, self.sums + field, self.damping, True)


class _Binary:
    """±1 weights: the state and the terms of its free entropy."""

    def __init__(
        self, model: Committee, patterns: Patterns, center: Array, form: str, damping: float, rng: np.random.Generator
    ) -> None:
        self.center, self.form, self.h = center, form, 0.0
        forms = {"edge": BinaryEdges, "amp": BinaryAmp, "exact": _ExactEdges}
        self.state: Any = forms[form](model, patterns, rng, damping)

    @property
    def change(self) -> float:
        return float(self.state.change)

    def sweep(self, h: float) -> None:
        self.state.sweep(h * self.center)

    def overlap(self, h: float) -> float:
        return float(np.mean(self.center * np.tanh(self.state.sums + h * self.center)))

    def field_for(self, q: float) -> float:
        self.h = _field_for(self.overlap, q, self.h)
        return self.h

    def free_entropy(self, h: float) -> float:
        state = self.state
        b = state.sums + h * self.center
        weights = np.logaddexp(b, -b)
        if self.form == "amp":
            total = np.sum(weights - state.sums * np.tanh(b)) + state.log_partition
            total += 0.5 * float(state.variances @ state.squares)
        else:
            total = np.sum(weights) + _core.wfm_edge_bethe(state.task, state.messages, b, self.form == "exact")
        return float(total / b.size)


class _Continuous:
    """Weights on the spheres ‖w_k‖² = n: m = (H + h w̃)/u, c = 1/u, u from mean(m²) + c = 1 in each unit."""

    def __init__(self, model: Committee, patterns: Patterns, center: Array, damping: float) -> None:
        self.center = normalised(model, center)
        self.state, self.damping, self.h = GaussianAmp(model, patterns), damping, 0.0
        self.fields: Array = np.zeros(model.shape)

    @property
    def change(self) -> float:
        return float(self.state.change)

    def _law(self, h: float) -> tuple[Array, Array]:
        """Means (K, n) and u (K)."""
        drawn = self.fields + h * self.center
        u = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * np.mean(drawn**2, axis=1)))
        return drawn / u[:, None], u

    def sweep(self, h: float) -> None:
        means, u = self._law(h)
        self.variances = 1.0 / u
        self.state.sweep(means, self.variances, self.damping)
        self.fields = self.state.fields + self.damping * (self.fields - self.state.fields)

    def overlap(self, h: float) -> float:
        return float(np.mean(self.center * self._law(h)[0]))

    def field_for(self, q: float) -> float:
        self.h = _field_for(self.overlap, q, self.h)
        return self.h

    def free_entropy(self, h: float) -> float:
        means, u = self._law(h)
        n, A, c = means.shape[1], self.state.precisions, 1.0 / u
        total = 0.5 * n * np.sum(np.log(2.0 * np.pi / u))
        total += 0.5 * float(np.sum(u[:, None] * means**2)) - float(np.sum(self.fields * means))
        total += 0.5 * float(A @ (np.sum(means**2, axis=1) + n * c))
        total += self.state.log_partition + 0.5 * float(self.variances @ self.state.squares)
        total += 0.5 * n * float(np.sum(u - A)) - 0.5 * means.size * _LOG_TWO_PI_E
        return float(total / means.size)
