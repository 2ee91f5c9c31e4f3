"""Averages over seeds with error bars, and what seeds can tell apart.

Over n seeds a quantity q has the mean q̄ and the standard error s/√n, s² = Σ(q − q̄)²/(n − 1). Two step sizes are
compared seed by seed, since a seed gives all of them the same start: the differences d have the 95 % interval
d̄ ± t·s_d/√n with Student's t on n − 1 degrees of freedom, and differ for certain only if that leaves out 0. A mean lies
on one side of a threshold for certain only if its interval q̄ ± t·s/√n leaves the threshold out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

from flatcore._checks import FloatArray
from flatcore.results import number
from flatcore.studies.nonlinear_training import Trace

Quantity = Callable[[Trace], float]
_CONFIDENCE = 0.95


def mean_and_error(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard error along the first axis; the error of one seed is NaN."""
    n = len(values)
    error = np.std(values, axis=0, ddof=1) / np.sqrt(n) if n > 1 else np.full(values.shape[1:], np.nan)
    return np.asarray(np.mean(values, axis=0)), np.asarray(error)


def with_error(values: Sequence[float] | FloatArray, digits: int = 3) -> str:
    """Mean ± standard error in words."""
    mean, error = mean_and_error(np.asarray(values, dtype=float))
    return number(float(mean), digits) + (f" ± {number(float(error), 2)}" if np.isfinite(error) else "")


def half_width(values: FloatArray) -> float:
    """Of the 95 % interval of the mean; NaN for fewer than two seeds."""
    n = len(values)
    if n < 2:
        return float("nan")
    return float(scipy.stats.t.ppf(0.5 + _CONFIDENCE / 2.0, n - 1)) * float(mean_and_error(values)[1])


@dataclass(frozen=True)
class Group:
    """The finished runs of one architecture at one step size, a seed each, and how many others there were."""

    architecture: str
    step_size: float
    traces: tuple[Trace, ...]
    diverged: tuple[Trace, ...]

    def column(self, name: str) -> FloatArray:
        """One quantity, (seeds, measurements)."""
        return np.array([t.column(name) for t in self.traces])

    @property
    def time(self) -> FloatArray:
        """Training time η·step of the measurements."""
        return self.step_size * self.traces[0].column("step")

    def values(self, quantity: Quantity) -> FloatArray:
        """A quantity of every run (seeds,)."""
        return np.array([quantity(t) for t in self.traces])

    def text(self, quantity: Quantity, digits: int = 3) -> str:
        """Its mean ± standard error."""
        return with_error(self.values(quantity), digits) if self.traces else "undefined"


Panels = dict[str, list[Group]]  # by an architecture's title, step sizes ascending


def grouped(traces: Sequence[Trace], architecture: str) -> list[Group]:
    """An architecture's runs by step size, ascending."""
    mine = [t for t in traces if t.run.architecture == architecture]
    etas = sorted({t.run.step_size for t in mine})
    return [
        Group(
            architecture,
            eta,
            tuple(t for t in mine if t.run.step_size == eta and t.status != "diverged"),
            tuple(t for t in mine if t.run.step_size == eta and t.status == "diverged"),
        )
        for eta in etas
    ]


@dataclass(frozen=True)
class Comparison:
    """A quantity of the largest step minus that of the smallest, over seeds that finished both."""

    differences: FloatArray

    @property
    def mean(self) -> float:
        """Mean difference; NaN without seeds."""
        return float(self.differences.mean()) if len(self.differences) else float("nan")

    @property
    def half_width(self) -> float:
        """Of the 95 % interval; NaN for fewer than two seeds."""
        return half_width(self.differences)

    @property
    def sign(self) -> int:
        """−1 or 1 where the interval leaves out 0; 0 where it does not, or where there is none."""
        return int(np.sign(self.mean)) if abs(self.mean) > self.half_width else 0

    def text(self, digits: int = 3) -> str:
        """The mean difference and its interval in words."""
        if np.isnan(self.mean):
            return "undefined"
        span = f" ± {number(self.half_width, 2)} (95 %)" if np.isfinite(self.half_width) else ""
        return number(self.mean, digits) + span


def flat_minus_sharp(groups: Sequence[Group], quantity: Quantity) -> Comparison:
    """Largest step size minus smallest, paired over seeds."""
    small, large = ({t.run.seed: quantity(t) for t in groups[i].traces} for i in (0, -1))
    differences = np.array([large[seed] - small[seed] for seed in small if seed in large])
    return Comparison(differences[np.isfinite(differences)])
