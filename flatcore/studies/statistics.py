"""Averages over seeds with error bars, and what seeds can tell apart.

Over n seeds a quantity q has the mean q̄ and the standard error s/√n, s² = Σ(q − q̄)²/(n − 1). Two ways of doing the same
thing are compared seed by seed where a seed gives them the same data: the differences d have the 95 % interval
d̄ ± t·s_d/√n with Student's t on n − 1 degrees of freedom, and differ for certain only if that leaves out 0. A mean lies
on one side of a threshold for certain only if its interval q̄ ± t·s/√n leaves the threshold out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats

from flatcore._checks import FloatArray
from flatcore.results import number

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
class Comparison:
    """Differences of a quantity, one a seed."""

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
