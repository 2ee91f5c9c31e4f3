"""SGD on the γ-cross-entropy with schedules of the sharpnesses β and γ, that is of the weights' norm."""

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
# β = γ in the first epoch, what an epoch multiplies them with, and where they stop.
_SCHEDULES = {
    "slow": (0.5, 1.005, 100.0),
    "fast": (1.0, 1.05, 100.0),
    "reduction": (10.0, 0.995, 1.0),
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

    @property
    def sharpness(self) -> float:
        """β = γ of the next epoch."""
        if self.factor == 1.0 or self.start == self.end:
            return self.start
        epochs = np.log(self.end / self.start) / np.log(self.factor)  # after which it stays
        return self.end if self.sweeps >= epochs else self.start * self.factor**self.sweeps

    def epoch(self, order: NDArray[np.int64]) -> dict[str, float]:
        """Learn the patterns in that order."""
        e, beta = self.examples, self.sharpness
        _core.wfm_descent(e.rows, e.labels, e.parity, beta, beta, order, self.batch, self.rate, self.weights)
        return {"beta": beta}


def cross_entropy_sgd(
    model: Committee,
    patterns: Any,
    *,
    schedule: str = "slow",
    start: float | None = None,
    factor: float | None = None,
    end: float | None = None,
    batch: int = 50,
    rate: float = _RATE,
    max_epochs: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    callback: Callback | None = None,
    checkpoint: PathLike | None = None,
) -> WfmResult:
    """SGD on the γ-cross-entropy of normalised weights, with β = γ that follow a schedule.

    Units are normalised after every batch: scaling their norm is scaling β (and γ for a perceptron), so a schedule of
    β = γ is one of the norm. It ends with the first epoch after which the machine of signs makes no errors.

    Parameters
    ----------
    model, patterns
        A continuous :class:`Committee`, and :class:`Patterns` or arrays (inputs, labels) of ±1.
    schedule
        ``"slow"``: β = γ = 0.5 × 1.005 an epoch. ``"fast"``: 1 × 1.05. ``"reduction"``: from 10 down, × 0.995 an
        epoch, to 1: its solutions are sharper.
    start, factor, end
        β of the first epoch, its factor, where it stays; None means the schedule's.
    batch
        Patterns a batch.
    rate
        Learning rate, for a loss that is a mean over the batch and weights with ‖w_k‖² = n.
    max_epochs
        Most passes over the patterns; None means 1500.
    seed, threads, callback, checkpoint
        As in :func:`least_action`; the callback's ``extras``: ``beta``.

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
    names = ("start", "factor", "end")
    defaults = _SCHEDULES[check_choice("schedule", schedule, tuple(_SCHEDULES))]
    given = [default if value is None else value for value, default in zip((start, factor, end), defaults, strict=True)]
    course = {name: check_positive(name, value) for name, value in zip(names, given, strict=True)}
    if (course["factor"] - 1.0) * (course["end"] - course["start"]) < 0.0:
        raise ValueError(
            f"end is {course['end']:g}; factor {course['factor']:g} leads away from it, start being {course['start']:g}"
        )
    settings = {
        **course,
        "batch": check_size("batch", batch),
        "rate": check_positive("rate", rate),
        "max_epochs": checked_epochs(max_epochs, _EPOCHS),
    }
    return learn(
        CrossEntropySGD, model, patterns, settings, seed=seed, threads=threads, callback=callback, checkpoint=checkpoint
    )
