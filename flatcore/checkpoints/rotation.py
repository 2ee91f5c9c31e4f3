r"""How far the top singular subspaces of one matrix are from those of another.

The first r left singular vectors of A span U_A. Angles between U_A and U_B mean something where σ_r and σ_{r+1} are
apart in both: with residuals ρ_i the spans computed differ from the true ones by at most

    sin θ ≤ √(2 Σ_{i≤r} ρ_i²)/(σ_r − σ_{r+1}),

so one triplet more than asked for is computed, and the cut moves down to the largest r ≤ k where the sum of both bounds
is small. A bound that is met only by chance in a gap of rounding's size never is.

source  Wedin (1972); Björck & Golub (1973) for the angles.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy.linalg

from flatcore._checks import FloatArray
from flatcore.checkpoints.adapter_triplets import ProductTriplets
from flatcore.results import SvdResult
from flatcore.weights import angle_chance

Found = SvdResult | ProductTriplets
_LARGEST_ERROR = 0.3  # sine of the angle by which residuals may turn both spans together
_ROUNDING = 1e-14  # of a full decomposition in float64, in units of σ_1


class Turn(NamedTuple):
    """Principal angles of the spans of the first `rank` singular vectors, ascending, and a bound of their error."""

    rank: int
    left: FloatArray
    right: FloatArray
    left_chance: float
    right_chance: float
    error: float
    status: str


def no_turn(k: int, shape: tuple[int, int]) -> Turn:
    """The rotation between two times the same matrix."""
    zeros = np.zeros(k)
    status = "identical in both: nothing was decomposed"
    return Turn(k, zeros, zeros, _chance(shape[0], k), _chance(shape[1], k), 0.0, status)


def turn_between(first: Found, second: Found, k: int) -> Turn:
    """The rotation of the largest subspaces that both determine."""
    most = min(k, len(first.s))
    sines = [_cut_errors(svd)[:most] for svd in (first, second)]
    good = np.flatnonzero(sines[0] + sines[1] <= _LARGEST_ERROR)
    if not good.size:
        none = np.zeros(0)
        return Turn(0, none, none, math.nan, math.nan, math.nan, _why_not(first, second, sines, most, 0))
    rank = int(good[-1]) + 1
    left, right = (
        scipy.linalg.subspace_angles(x[:, :rank].astype(float), y[:, :rank].astype(float))[::-1]
        for x, y in ((first.U, second.U), (first.Vt.T, second.Vt.T))
    )
    status = "computed" if rank == most else _why_not(first, second, sines, most, rank)
    error = math.asin(min(1.0, float(sines[0][rank - 1] + sines[1][rank - 1])))
    chances = (_chance(len(first.U), rank), _chance(first.Vt.shape[1], rank))
    return Turn(rank, left, right, *chances, error, status)


def _cut_errors(svd: Found) -> FloatArray:
    """How far the spans of the first r = 1, 2, … vectors may be from the true ones: sines by Wedin's theorem."""
    top = float(svd.s[0]) or 1.0  # so that no square overflows or vanishes
    s = np.append(svd.s.astype(float) / top, 0.0)  # beyond all of a matrix's singular values
    residuals = np.hypot(svd.residuals.astype(float) / top, _ROUNDING * s[0])
    gaps = s[:-1] - s[1:]
    reach = np.sqrt(2.0 * np.cumsum(residuals**2))
    return np.asarray(np.divide(reach, gaps, out=np.full(len(gaps), np.inf), where=gaps > 0.0))


def _why_not(first: Found, second: Found, sines: list[FloatArray], most: int, rank: int) -> str:
    zero = [label for label, svd in (("A", first), ("B", second)) if svd.s[0] == 0.0]
    if zero:
        return f"zero in {' and '.join(zero)}: no singular subspaces"
    where = [label for label, sine in zip("AB", sines, strict=True) if sine[most - 1] > _LARGEST_ERROR / 2]
    kept = f"the first {rank} vectors are compared" if rank else "no subspace is compared"
    return f"σ_{most} and the next are tied, or too close to be told apart, in {' and '.join(where)}: {kept}"


def _chance(dimension: int, rank: int) -> float:
    """The typical first angle of random subspaces."""
    return math.acos(angle_chance(dimension, rank))


def overlap(angles: FloatArray) -> float:
    """The mean of the squared cosines; NaN of no angles."""
    return float(np.mean(np.cos(angles) ** 2)) if len(angles) else math.nan
