"""Frozen records of what the solvers of this room return, and what their callbacks see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flatcore.results import Array, Record, number
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
    not_solved (the schedule ended) or stopped (the callback asked); ``message`` says what to change. ``history``: one
    array for each quantity, one entry a look, ``errors`` among them. ``sweeps``: passes over the patterns. ``alpha``:
    patterns for each weight, P/(K·n).
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

    def _lines(self) -> Iterator[tuple[str, str]]:
        m = self.model
        yield "solver", self.solver
        yield "model", f"{m.kind} {m.activation}, {m.n_hidden} units of {m.fan_in} {m.weights} weights"
        yield "load α", number(self.alpha, 4)
        yield "errors", f"{self.errors} ({self.status})"
        yield "sweeps", str(self.sweeps)
        yield "message", self.message
