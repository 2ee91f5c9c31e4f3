"""SGD on the γ-cross-entropy with schedules of the sharpnesses β and γ, together or one alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore import _core
from flatcore._atomic import PathLike
from flatcore._checks import check_choice
from flatcore.wfm._arguments import check_positive, check_size
from flatcore.wfm._online import EpochSearch, check_continuous, checked_epochs, learn
from flatcore.wfm.models import Committee, checked_model
from flatcore.wfm.patterns import checked_patterns
from flatcore.wfm.results import WfmResult
from flatcore.wfm.solving import Callback

_EPOCHS = 1500
# The sharpness in the first epoch, what an epoch multiplies it with, and where it stops.
_SCHEDULES = {
    "slow": (0.5, 1.005, 100.0),
    "fast": (1.0, 1.05, 5.0),
    "slow_reduction": (10.0, 0.995, 2.0),
    "fast_reduction": (10.0, 0.95, 2.0),
}
_RATE = 20.0


class CrossEntropySGD(EpochSearch):
    """Weights on the spheres ‖w_k‖² = n."""

    name = "cross_entropy_sgd"
    advice = "take the slow schedule, a factor closer to 1, or more epochs"

    batch: int
    rate: float
    start: float
    factor: float
    end: float
    fixed: dict[str, float]  # β or γ, where the schedule leaves it alone

    @property
    def sharpness(self) -> float:
        """What the schedule asks for in the next epoch."""
        if self.factor == 1.0 or self.start == self.end:
            return self.start
        epochs = np.log(self.end / self.start) / np.log(self.factor)  # after which it stays
        return self.end if self.sweeps >= epochs else self.start * self.factor**self.sweeps

    def epoch(self, order: NDArray[np.int64]) -> dict[str, float]:
        """Learn the patterns in that order."""
        e = self.examples
        beta, gamma = (self.fixed.get(name, self.sharpness) for name in ("beta", "gamma"))
        _core.wfm_descent(e.rows, e.labels, e.parity, beta, gamma, order, self.batch, self.rate, self.weights)
        return {"beta": beta, "gamma": gamma}


def cross_entropy_sgd(
    model: Committee,
    patterns: Any,
    *,
    schedule: str = "slow",
    start: float | None = None,
    factor: float | None = None,
    end: float | None = None,
    beta: float | None = None,
    gamma: float | None = None,
    batch: int = 50,
    rate: float = _RATE,
    max_epochs: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    callback: Callback | None = None,
    checkpoint: PathLike | None = None,
) -> WfmResult:
    """SGD on the γ-cross-entropy of normalised weights, with β and γ that follow a schedule.

    Units are normalised after every batch. Scaling their norm would be scaling β, or γ for a perceptron, whose output
    is linear: a schedule of the norm alone is one of β with `gamma` fixed. It ends with the first epoch after which the
    machine of signs makes no errors.

    Parameters
    ----------
    model, patterns
        A continuous :class:`Committee`, and :class:`Patterns` or arrays (inputs, labels) of ±1.
    schedule
        Of β = γ, or of the one that is not fixed. ``"slow"``: 0.5 × 1.005 an epoch, up to 100. ``"fast"``: 1 × 1.05,
        up to 5: sharper, it stands still with errors. ``"slow_reduction"``, ``"fast_reduction"``: from 10 down,
        × 0.995 or 0.95 an epoch, to 2: at 1 some errors stay.
    start, factor, end
        The sharpness of the first epoch, its factor, where it stays; None means the schedule's.
    beta, gamma
        Sharpness of the units and of the loss: a number holds it fixed while the other follows the schedule. With both
        nothing is left to schedule: the run is at constant sharpness, and takes no `start`, `factor`, `end`.
    batch
        Patterns a batch.
    rate
        Learning rate, for a loss that is a mean over the batch and weights with ‖w_k‖² = n.
    max_epochs
        Most passes over the patterns; None means 1500.
    seed, threads, callback, checkpoint
        As in :func:`least_action`; the callback's ``extras``: ``beta``, ``gamma``.

    Returns
    -------
    WfmResult
        Not solving is a status with the best weights found.

    Raises
    ------
    ValueError
        A bad argument, a binary machine, or the checkpoint of another run.

    Examples
    --------
    >>> from flatcore import wfm
    >>> model = wfm.Committee(153, 3, weights="continuous")
    >>> wfm.cross_entropy_sgd(model, wfm.random_patterns(model, 76)).errors
    0

    Source: the loss and slow schedules after Baldassi, Pittorino and Zecchina, arXiv:1905.07833;
    docs/wide-flat-minima.md.

    """
    check_continuous(checked_model(model), "cross_entropy_sgd")
    patterns = checked_patterns(model, patterns)
    fixed = {n: check_positive(n, v) for n, v in (("beta", beta), ("gamma", gamma)) if v is not None}
    settings = {
        **_course(schedule, {"start": start, "factor": factor, "end": end}, constant=len(fixed) == 2),
        "fixed": fixed,
        "batch": check_size("batch", batch),
        "rate": check_positive("rate", rate),
        "max_epochs": checked_epochs(max_epochs, _EPOCHS),
    }
    return learn(
        CrossEntropySGD, model, patterns, settings, seed=seed, threads=threads, callback=callback, checkpoint=checkpoint
    )


def _course(schedule: str, given: dict[str, float | None], *, constant: bool) -> dict[str, float]:
    """Start, factor and end of the sharpness, the schedule's where none is given."""
    defaults = _SCHEDULES[check_choice("schedule", schedule, tuple(_SCHEDULES))]
    named = [name for name, value in given.items() if value is not None]
    if constant and named:
        raise ValueError(f"beta and gamma are given, and {' and '.join(named)}; expected none for a constant run")
    course = {
        name: default if value is None else check_positive(name, value)
        for (name, value), default in zip(given.items(), defaults, strict=True)
    }
    for name in ("start", "end"):
        if not 1e-100 <= course[name] <= 1e100:
            raise ValueError(f"{name} is {course[name]:g}; expected a number from 1e-100 to 1e100")
    if (course["factor"] - 1.0) * (course["end"] - course["start"]) < 0.0:
        raise ValueError(
            f"end is {course['end']:g}; factor {course['factor']:g} leads away from it, start being {course['start']:g}"
        )
    return course
