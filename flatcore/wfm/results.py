"""Frozen records of what the solvers of this room return, and what their callbacks see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from flatcore.results import Array, EigenResult, Frame, Record, Rows, SpectralDensity, number
from flatcore.wfm.models import Committee


@dataclass(frozen=True)
class WfmState:
    """What a solver's callback sees after each look at the errors.

    ``step`` counts looks from 1; ``weights`` (K, n) are a copy, as the result would hold them; ``extras`` are what
    the solver adds (its schedule's parameters, the change of the last sweep).
    """

    step: int
    errors: int
    weights: Array
    extras: Mapping[str, float]


@dataclass(frozen=True, repr=False)
class WfmResult(Record):
    """Weights that a solver found.

    ``weights`` (K, n): ±1 (int8) for a binary model, else float64 with ‖w_k‖² = n; those of the last look where the
    solver ends solved, else the ones with the fewest errors. ``errors``: patterns they get wrong. ``status``: solved,
    not_solved (the schedule ended) or stopped (the callback asked, before a solution was found); ``message`` says what
    to change. ``history``: an array for each quantity, an entry a look, ``errors`` among them. ``sweeps``: passes over
    the patterns. ``alpha``: patterns for each weight, P/(K·n).
    """

    solver: str
    model: Committee
    weights: Array = field(repr=False)
    errors: int
    status: str
    message: str
    alpha: float
    sweeps: int
    seed: int
    history: Mapping[str, Array]

    def _tables(self) -> dict[str, Callable[[], Frame]]:
        return {"looks": partial(Frame.counted, "look", 1, self.history, self._scalars()), **super()._tables()}

    def _lines(self) -> Iterator[tuple[str, str]]:
        m = self.model
        yield "solver", self.solver
        yield "model", f"{m.kind} {m.activation}, {m.n_hidden} units of {m.fan_in} {m.weights} weights"
        yield "load α", number(self.alpha, 4)
        yield "errors", f"{self.errors} ({self.status})"
        yield "sweeps", str(self.sweeps)
        yield "message", self.message


@dataclass(frozen=True, repr=False)
class LocalEnergy(Record):
    """δE against the strength of a perturbation.

    ``values[i]`` is the mean share of errors at perturbed weights minus that of the weights themselves, ``stderr[i]``
    its standard error over the samples, at strength ``scale[i]`` of the ``perturbation``: flips, gaussian or
    multiplicative. ``errors``: patterns that the weights themselves get wrong.
    """

    _ROWS = (Rows("scales", "point", 0, ("scale", "values", "stderr")),)

    perturbation: str
    scale: Array
    values: Array
    stderr: Array
    errors: int
    samples: int
    seed: int

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "perturbation", f"{self.perturbation}, {self.samples} samples for each strength"
        yield "errors at the weights", str(self.errors)
        for at, value, error in zip(self.scale, self.values, self.stderr, strict=True):
            yield f"δE({number(float(at), 3)})", f"{number(float(value), 3)} ± {number(float(error), 2)}"


@dataclass(frozen=True, repr=False)
class HessianSpectrum(Record):
    """Spectrum of the Hessian of the mean γ-cross-entropy.

    ``kind``: full (all weights) or tangent (on the spheres). ``values``: the largest eigenvalues, certified in ``top``,
    whose ``status`` is repeated. ``trace`` is exact. ``near_zero``: the share of eigenvalues with |λ| < 1e-3, with its
    standard error (0 where all were computed). ``density``: of the eigenvalues.
    """

    _ROWS = (Rows("values", "pair", 0, ("values",)),)

    kind: str
    values: Array
    status: str
    trace: float
    near_zero: float
    near_zero_stderr: float
    density: SpectralDensity = field(repr=False)
    top: EigenResult = field(repr=False)
    beta: float
    gamma: float
    seed: int

    @property
    def lambda_max(self) -> float:
        """The largest eigenvalue."""
        return float(self.values[0])

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "Hessian", f"{self.kind}, β = {number(self.beta, 3)}, γ = {number(self.gamma, 3)}"
        yield "largest eigenvalue", f"{number(self.lambda_max, 5)} ({self.status})"
        yield "trace", number(self.trace, 5)
        yield "share of |λ| < 1e-3", f"{number(self.near_zero, 3)} ± {number(self.near_zero_stderr, 2)}"
