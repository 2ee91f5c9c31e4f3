"""Least action learning, and the two rules of this project in the place of its entropic form.

The equations are in src/cpp/core/wfm/online.hpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore import _core
from flatcore._atomic import PathLike
from flatcore._checks import check_choice
from flatcore.wfm._arguments import check_positive
from flatcore.wfm._online import Array, EpochSearch, check_continuous, checked_epochs, learn
from flatcore.wfm.models import Committee, checked_model
from flatcore.wfm.patterns import checked_patterns
from flatcore.wfm.results import WfmResult
from flatcore.wfm.solving import Callback

_EPOCHS = 1000
_RULES = {"A": (1.0, 0.98), "B": (1.5, 0.96)}  # margin or noise δ at first, and what an epoch multiplies it with
_STEP = 0.5  # of rule B, in units of δ


class LeastAction(EpochSearch):
    """Weights, or odd hidden integers, of which an error moves the fewest units."""

    name = "least_action"
    advice = "raise max_epochs, or lower the load; least action stalls near capacity"

    def first_weights(self) -> Array:
        """Random weights, or hidden integers ±1."""
        weights = super().first_weights()
        return weights.astype(np.int32) if self.examples.model.weights == "binary" else weights

    def epoch(self, order: NDArray[np.int64]) -> dict[str, float]:
        """Learn the patterns in that order."""
        e = self.examples
        return {"moved": float(_core.wfm_least_action(e.rows, e.labels, e.parity, order, self.weights))}


class _Entropic(EpochSearch):
    """A rule whose δ shrinks by a factor each epoch."""

    advice = "raise max_epochs or decay, so that δ falls more slowly"

    margin: float
    decay: float
    step: float
    least: float  # where δ stays

    @property
    def delta(self) -> float:
        """δ of the next epoch."""
        return max(self.margin * self.decay**self.sweeps, min(self.least, self.margin))

    def epoch(self, order: NDArray[np.int64]) -> dict[str, float]:
        delta = self.delta
        moved = self.learn(order, delta)
        self.weights = self.shown()
        return {"delta": delta, "moved": float(moved)}

    def learn(self, order: NDArray[np.int64], delta: float) -> int:
        raise NotImplementedError


class MarginLeastAction(_Entropic):
    """Rule A."""

    name = "entropic_least_action A"
    least = 1e-6

    def learn(self, order: NDArray[np.int64], delta: float) -> int:
        """Learn the patterns in that order."""
        return _core.wfm_margin(self.examples.rows, self.examples.labels, order, delta, self.weights)


class PerturbedGradient(_Entropic):
    """Rule B."""

    name = "entropic_least_action B"
    least = 0.1  # steps grow as 1/δ: what is not solved here diverges below

    def learn(self, order: NDArray[np.int64], delta: float) -> int:
        """Learn the patterns in that order."""
        e = self.examples
        return _core.wfm_perturbed(e.rows, e.labels, order, delta, self.step * delta, self.weights)


def least_action(
    model: Committee,
    patterns: Any,
    *,
    max_epochs: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    callback: Callback | None = None,
    checkpoint: PathLike | None = None,
) -> WfmResult:
    """Least action learning: on an error, move the fewest units that repair it, those of the smallest fields.

    A majority that lacks t right units moves t wrong ones by σξ/√n; a parity machine moves one unit against its sign.
    Binary machines move odd hidden integers by ±2 and take their signs. Its solutions are the sharpest here.

    Parameters
    ----------
    model, patterns
        A :class:`Committee`, and :class:`Patterns` or arrays (inputs, labels) of ±1.
    max_epochs
        Most passes over the patterns; None means 1000.
    seed
        Of the initial weights and the orders; the same seed and input give the same bits.
    threads
        For the errors after each epoch; learning is one pattern after another. None leaves the setting alone.
    callback
        Called with a :class:`WfmState` after each epoch (``extras``: ``moved``, the patterns that were wrong when their
        turn came); returning True stops.
    checkpoint
        A file to go on from.

    Returns
    -------
    WfmResult
        Not solving is a status with the best weights found.

    Raises
    ------
    ValueError
        A bad argument, or the checkpoint of another run.

    Examples
    --------
    >>> from flatcore import wfm
    >>> model = wfm.Committee(153, 3, weights="continuous")
    >>> wfm.least_action(model, wfm.random_patterns(model, 76)).errors
    0

    Source: the rule as in Baldassi's BinaryCommitteeMachineRSGD.jl; docs/wide-flat-minima.md.

    """
    patterns = checked_patterns(checked_model(model), patterns)
    settings = {"max_epochs": checked_epochs(max_epochs, _EPOCHS)}
    return learn(
        LeastAction, model, patterns, settings, seed=seed, threads=threads, callback=callback, checkpoint=checkpoint
    )


def entropic_least_action(
    model: Committee,
    patterns: Any,
    *,
    rule: str = "A",
    margin: float | None = None,
    decay: float | None = None,
    step: float | None = None,
    max_epochs: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    callback: Callback | None = None,
    checkpoint: PathLike | None = None,
) -> WfmResult:
    """Least action learning that looks at a neighbourhood, for continuous majorities: two rules of this project.

    The published entropic least action averages the rule over a neighbourhood of the weights; its exact form was not
    at hand, and these are not it.

    *Rule A*, margin least action: (K + 1)/2 units are to have σh > δ. Where fewer have, whether the pattern is right or
    wrong, the missing ones of largest σh are put exactly on the margin.

    *Rule B*, perturbed gradient: online gradient of −log P(majority right | w + δz), z normal, the probability exact.

    δ shrinks by a factor each epoch, rule B's to 0.1 (its steps grow as 1/δ), after which every unit is normalised; the
    first epoch without errors ends the run.

    Parameters
    ----------
    model, patterns
        A continuous majority, and :class:`Patterns` or arrays (inputs, labels) of ±1.
    rule
        ``"A"`` or ``"B"``.
    margin
        δ of the first epoch, in units of the fields; None means 1 (A) or 1.5 (B).
    decay
        What δ is multiplied with each epoch, in (0, 1]; None means 0.98 (A) or 0.96 (B).
    step
        Of rule B's gradient, in units of δ; None means 0.5.
    max_epochs
        Most passes over the patterns; None means 1000.
    seed, threads, callback, checkpoint
        As in :func:`least_action`; the callback's ``extras``: ``delta``, and ``moved``, the patterns that asked for a
        step: those with too few units beyond the margin (A), all of them (B).

    Returns
    -------
    WfmResult
        Not solving is a status with the best weights found.

    Raises
    ------
    ValueError
        A bad argument, a binary or parity machine, or the checkpoint of another run.

    Examples
    --------
    >>> from flatcore import wfm
    >>> model = wfm.Committee(153, 3, weights="continuous")
    >>> wfm.entropic_least_action(model, wfm.random_patterns(model, 76), rule="B").errors
    0

    Source: derived for this project, docs/wide-flat-minima.md.

    """
    check_continuous(checked_model(model), "entropic_least_action")
    if model.activation != "majority":
        raise ValueError(f"model's activation is {model.activation!r}; entropic_least_action expects a majority")
    patterns = checked_patterns(model, patterns)
    check_choice("rule", rule, tuple(_RULES))
    margin = check_positive("margin", _RULES[rule][0] if margin is None else margin)
    decay = check_positive("decay", _RULES[rule][1] if decay is None else decay)
    if decay > 1.0:
        raise ValueError(f"decay is {decay!r}; expected at most 1")
    if step is not None and rule == "A":
        raise ValueError(f"step is {step!r}; rule 'A' has none (it lands on the margin), expected None")
    step = check_positive("step", _STEP if step is None else step)
    settings = {"margin": margin, "decay": decay, "step": step, "max_epochs": checked_epochs(max_epochs, _EPOCHS)}
    kind = MarginLeastAction if rule == "A" else PerturbedGradient
    return learn(kind, model, patterns, settings, seed=seed, threads=threads, callback=callback, checkpoint=checkpoint)
