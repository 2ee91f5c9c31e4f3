"""Focusing belief propagation: message passing that is drawn to where solutions are dense."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore import _core
from flatcore._atomic import PathLike
from flatcore._checks import check_callback, check_choice
from flatcore._threads import limit_threads
from flatcore.wfm._arguments import check_share, check_size, stream
from flatcore.wfm.message_passing import BinaryAmp, BinaryEdges, GaussianAmp, GaussianEdges, form_of
from flatcore.wfm.models import Committee, checked_model, normalised
from flatcore.wfm.patterns import Patterns, checked_patterns, sign_words
from flatcore.wfm.predictions import binary_errors, errors
from flatcore.wfm.results import WfmResult
from flatcore.wfm.solving import Callback, Look, generator_state, restore_generator, solve

Array = NDArray[Any]

_SCHEDULES = ("reinforcement", "pseudo", "scoping")
_DAMPING = 0.5
_STEPS = (0.01, 0.003, 0.001)  # of ρ, one after the other where no step is asked for
_PATIENCE = 200  # sweeps at the end of a schedule after which it has failed
_SCOPING_REPLICAS = 21.0
_SETTLED = 1e-3  # change of tanh a, or of g√V, at which a schedule that has ended is over
_MANY_WEIGHTS = 10_000  # from here on focusing stops short: driven on to ρ = 1, sweeps freeze with a few errors
_MOST_RHO, _MOST_RHO_LARGE = 0.99, 0.95
_REPLICAS, _FIRST_COUPLING, _LAST_COUPLING, _COUPLINGS = 10.0, 0.05, 300.0, 80
_FIRST_MEANS = 0.3


def focusing_bp(
    model: Committee,
    patterns: Any,
    *,
    form: str = "auto",
    schedule: str = "reinforcement",
    damping: float | None = None,
    step: float | None = None,
    max_sweeps: int | None = None,
    stop: str = "first",
    dtype: Any = np.float64,
    seed: int = 0,
    threads: int | None = None,
    callback: Callback | None = None,
    checkpoint: PathLike | None = None,
) -> WfmResult:
    """Weights that solve the patterns, by focusing belief propagation.

    Belief propagation on y replicas of the machine, coupled to a common centre with strength γ, amounts to a field on
    every weight of a single machine that grows with what its patterns say of it. One sweep is made for each step of
    the schedule; then errors are counted.

    Parameters
    ----------
    model
        A :class:`Committee`.
    patterns
        :class:`Patterns`, or arrays (inputs, labels) of ±1.
    form
        ``"edge"`` keeps a message for every pattern and weight, ``"amp"`` two numbers for every pattern and unit and
        for every weight; ``"auto"`` takes edges up to four million of them.
    schedule
        For binary weights. ``"reinforcement"``: γ = ∞, y = 1/(1 − ρ); ``"pseudo"``: γ = atanh √ρ,
        y = (2 − ρ)/(1 − ρ); ``"scoping"``: γ = atanh √ρ, y = 21. ρ grows to 0.99 (0.95 from 10,000 weights on) and
        stays there. Continuous weights have one schedule, y = 10 and γ from 0.05 to 300 in geometric steps, and take
        ``"scoping"`` and the default for it.
    damping
        λ in [0, 1), by default 0.5: share of the old messages. Trees need none; full committees do.
    step
        Of ρ, by default 0.01; where that freezes with errors, the search begins anew with 0.003 and then 0.001, which
        solve more near the capacity (perceptrons at α = 0.7). Of log γ for continuous weights, by default log(6000)/79,
        80 values.
    max_sweeps
        Where the search ends at the latest. Without it, it ends unsolved where the messages have settled at the last ρ
        or after 200 sweeps there, for continuous weights 80 sweeps beyond the last γ.
    stop
        ``"first"``: at the first weights without errors. ``"end"``: at the end of the schedule, where the messages
        have settled; other solutions, more or less flat.
    dtype
        ``float32`` or ``float64``, of the state in its AMP form. Edges are float64.
    seed
        Of the first messages.
    threads
        OpenMP threads; the same number gives the same bits.
    callback
        Called with a :class:`WfmState` after each sweep (extras: ``rho``, ``step`` or ``gamma``, ``change``); True
        stops.
    checkpoint
        A file to go on from (docs/wide-flat-minima.md).

    Returns
    -------
    WfmResult
        ``history`` has ``errors``, ``rho`` and its ``step``, or ``gamma``, and ``change``, the largest of any message.

    Raises
    ------
    ValueError
        Arguments that are none of these.
    MemoryError
        Messages that do not fit.

    References
    ----------
    Baldassi et al., PNAS 113, E7655 (2016); arXiv:2110.14583. AMP with continuous weights and the field of y Gaussian
    replicas: docs/wide-flat-minima.md.

    Examples
    --------
    >>> model = Committee(201)
    >>> from flatcore.wfm import random_patterns
    >>> focusing_bp(model, random_patterns(model, 60)).status
    'solved'
    """
    patterns = checked_patterns(checked_model(model), patterns)
    form = form_of(form, model, patterns)
    check_choice("schedule", schedule, _SCHEDULES)
    binary = model.weights == "binary"
    if not binary and schedule == "pseudo":
        raise ValueError("schedule is 'pseudo'; continuous weights have one schedule, expected 'scoping'")
    damping = _DAMPING if damping is None else check_share("damping", damping)
    given = None if step is None else check_share("step", step, open_below=True)
    most = None if max_sweeps is None else check_size("max_sweeps", max_sweeps)
    check_choice("stop", stop, ("first", "end"))
    if dtype not in (np.float32, np.float64, "float32", "float64") or (
        form == "edge" and np.dtype(dtype) != np.float64
    ):
        raise ValueError(f"dtype is {dtype!r}; expected float64, or float32 for form='amp'")
    rng = stream("learning", seed)
    check_callback(callback, "WfmState")
    copies = 1 if checkpoint is None else 2
    with limit_threads(threads):
        search: _Binary | _Continuous
        if binary:

            def begin() -> BinaryEdges | BinaryAmp:
                if form == "edge":
                    return BinaryEdges(model, patterns, rng, damping, copies)
                return BinaryAmp(model, patterns, rng, damping, dtype)

            search = _Binary(model, patterns, begin, schedule, _STEPS if given is None else (given,), rng)
        else:
            search = _Continuous(model, patterns, form, damping, given, rng, dtype, copies)
        search.at_first, search.most = stop == "first", most
        settings = {
            "form": form,
            "schedule": schedule if binary else "scoping",
            "damping": damping,
            "steps": search.steps,
            "max_sweeps": most,
            "stop": stop,
            "dtype": np.dtype(dtype).name,
        }
        return solve(search, model, patterns, settings=settings, seed=seed, callback=callback, checkpoint=checkpoint)


class _Binary:
    name = "focusing_bp"
    advice = "use a smaller step, more sweeps or fewer patterns"
    at_first: bool
    most: int | None

    def __init__(
        self,
        model: Committee,
        patterns: Patterns,
        begin: Callable[[], BinaryEdges | BinaryAmp],
        schedule: str,
        steps: tuple[float, ...],
        rng: np.random.Generator,
    ) -> None:
        self.model, self.patterns, self.begin, self.rng = model, patterns, begin, rng
        self.schedule, self.steps = schedule, steps
        self.most_rho = _MOST_RHO if model.num_weights < _MANY_WEIGHTS else _MOST_RHO_LARGE
        self.sweeps = self.tried = self.since = 0  # all sweeps; schedules that failed; sweeps of the present one
        self.state = begin()
        self.field: Array = np.zeros_like(self.state.sums)

    def advance(self) -> Look:
        """One step of ρ, the field it asks for, one sweep, the errors of the signs."""
        self.sweeps += 1
        self.since += 1
        step = self.steps[self.tried]
        rho = min(step * self.since, self.most_rho)
        self.field = next_field(self.schedule, rho, self.state.sums, self.field)
        self.state.sweep(self.field)
        weights = np.where(self.state.sums + self.field < 0, -1, 1).astype(np.int8)
        found = int(binary_errors(self.model, sign_words(weights)[None], self.patterns)[0])
        change = float(self.state.change)
        at_top = self.since - int(np.ceil(self.most_rho / step - 1e-9))
        over = at_top >= 0 and (change < _SETTLED or at_top >= _PATIENCE)
        final = over and (found == 0 or self.tried + 1 == len(self.steps))
        done = final or self.sweeps == self.most or (self.at_first and found == 0)
        if over and not done:
            self._begin_anew()
        return Look(weights, found, {"rho": rho, "step": step, "change": change}, done)

    def _begin_anew(self) -> None:
        """Go on to the next schedule, a slower one."""
        self.tried, self.since = self.tried + 1, 0
        del self.state  # before the next one takes as much memory
        self.state = self.begin()
        self.field = np.zeros_like(self.field)

    def arrays(self) -> dict[str, Any]:
        counts = np.array([self.sweeps, self.tried, self.since])
        own = {"field": self.field.copy(), "counts": counts, "generator": generator_state(self.rng)}
        return {**self.state.arrays(), **own}

    def restore(self, arrays: dict[str, Any]) -> None:
        self.state.restore(arrays)
        restore_generator(self.rng, arrays["generator"])
        self.field = arrays["field"].copy()
        self.sweeps, self.tried, self.since = (int(count) for count in arrays["counts"])


def next_field(schedule: str, rho: float, sums: Array, field: Array) -> Array:
    """The focusing field f, by increments: f ← (1 − r) f* + r f with the field f* of the schedule's y and γ.

    f* = atanh(tanh γ · tanh[(y − 1) atanh(tanh S · tanh γ)]), which is (y − 1) S for γ = ∞. Set at once, it oscillates.
    """
    dtype = sums.dtype.type
    if schedule == "reinforcement":  # r = ρ
        return np.asarray(dtype(rho) * (sums + field))
    gamma = np.arctanh(np.sqrt(rho))
    y = _SCOPING_REPLICAS if schedule == "scoping" else (2.0 - rho) / (1.0 - rho)
    keep = dtype(1.0 - 1.0 / y if schedule == "scoping" else rho)
    inner = dtype(y - 1.0) * _joint(sums, dtype(gamma))
    return np.asarray((dtype(1.0) - keep) * _joint(inner, dtype(gamma)) + keep * field)


def _joint(x: Array, y: Any) -> Array:
    """atanh(tanh x · tanh y) = ½[log cosh(x + y) − log cosh(x − y)]."""
    return np.asarray(0.5 * (_log_two_cosh(x + y) - _log_two_cosh(x - y)))


def _log_two_cosh(x: Array) -> Array:
    size = np.abs(x)
    return np.asarray(size + np.log1p(np.exp(-2 * size)))


class _Continuous:
    name = "focusing_bp"
    advice = "use a smaller step or fewer patterns"
    at_first: bool
    most: int | None

    def __init__(
        self,
        model: Committee,
        patterns: Patterns,
        form: str,
        damping: float,
        step: float | None,
        rng: np.random.Generator,
        dtype: Any,
        copies: int,
    ) -> None:
        self.model, self.patterns, self.damping = model, patterns, damping
        self.span = float(np.log(_LAST_COUPLING / _FIRST_COUPLING))
        self.step = self.span / (_COUPLINGS - 1) if step is None else step
        self.state = GaussianEdges(model, patterns, copies) if form == "edge" else GaussianAmp(model, patterns, dtype)
        self.means: Array = _FIRST_MEANS * rng.standard_normal(model.shape)
        self.variances: Array = np.ones(model.n_hidden)
        self.sweeps = 0

    @property
    def steps(self) -> tuple[float, ...]:
        """Of log γ."""
        return (self.step,)

    def advance(self) -> Look:
        """One value of γ, one sweep, the weights' law under the field of the other replicas, errors of the means."""
        gamma = min(_FIRST_COUPLING * np.exp(min(self.step * self.sweeps, 2.0 * self.span)), _LAST_COUPLING)
        state = self.state
        state.sweep(self.means, self.variances, self.damping if self.sweeps else 0.0)
        self.sweeps += 1
        self.means, self.variances = focused_law(state.fields, state.precisions, gamma)
        weights = normalised(self.model, self.means)
        found = errors(self.model, weights, self.patterns)
        extras = {"gamma": float(gamma), "change": float(state.change)}
        at_end = self.sweeps - 1 - int(np.ceil(self.span / self.step - 1e-9))
        ended = at_end >= (_COUPLINGS if self.at_first else 0) or (self.at_first and found == 0)
        return Look(weights, found, extras, ended or self.sweeps == self.most)

    def arrays(self) -> dict[str, Any]:
        own = {"means": self.means.copy(), "variances": self.variances.copy(), "sweeps": np.array(self.sweeps)}
        return {**self.state.arrays(), **own}

    def restore(self, arrays: dict[str, Any]) -> None:
        self.state.restore(arrays)
        self.means, self.variances = arrays["means"].copy(), arrays["variances"].copy()
        self.sweeps = int(arrays["sweeps"])


def focused_law(fields: Array, precisions: Array, gamma: float) -> tuple[Array, Array]:
    """Means (K, n) and variances (K) of a replica: its patterns' H and G, prior N(0, 1), and y − 1 others."""
    return _core.wfm_focused_law(fields, precisions, gamma, _REPLICAS)
