r"""Effective ranks, noise edges, and whether a matrix is finite, each with few reads of it.

The effective rank is exp H, H = −Σ pᵢ log pᵢ, p = σ/Σσ. With S = Σσ and L = Σ σ log σ, H = log S − L/S. Where the
smaller side N is short, or the search found them, all σ are known. Elsewhere S and L are traces of functions of AᵀA,
√λ and √λ log √λ: the k triplets known count as they are, and of the rest a random block Ω of b rows sees the traces of
ΩᵀfΩ, by block Lanczos quadrature. The search has such a block already: its last probe, in the complement of what it
found; a few more steps make it a rule for these functions. √λ makes Gauss's rule an upper bound of S and Gauss–Radau's
with nodes at 0 a lower one; the middle of both effective ranks is reported, and half their distance is part of the
error beside the standard error over random blocks. The sum of the squares of all σ is known: what the block sees of it
corrects what it sees of S and L (a control variate), without which a strong direction that is not among the triplets
known, and that a block hardly meets, goes unnoticed.

cost    M·N² flops; or what the probe's 6 or 14 steps lack of 24 at most, each a read of the matrix with 4 rows.
source  Roy & Vetterli (2007); Golub & Meurant (1994); Ubaru, Chen & Saad (2017).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy.linalg

from flatcore import _core
from flatcore._checks import FloatArray, as_float_array, chunks
from flatcore.checkpoints.products import effective_rank_of
from flatcore.results import SvdResult
from flatcore.spectral._small import eigh
from flatcore.spectral._svd_full import values_from_gram
from flatcore.spectral._svd_operator import StoredOperator
from flatcore.spectral._svd_process import FusedLanczos, KrylovProcess
from flatcore.spectral._svd_run import SvdRun
from flatcore.spectral._svd_solver import LONGEST_PROBE, PROBE_BLOCK, SHORT_PROBE

_PANEL_ENTRIES = 1 << 20
_LOST = 1e-290  # a mean square 10¹⁰ times those that vanish, or larger, lost nothing
_EXACT_SIDE, _EXACT_FLOPS = 1024, 1e9
_LEAST_STEPS, _MOST_STEPS = SHORT_PROBE, LONGEST_PROBE
_TRACY_WIDOM_99 = 2.0234  # its 99 % quantile for real entries (β = 1)
_KNOWN = 1e3  # errors of a difference that has three digits
_CLOSE = 0.01  # relative distance of the two rules below which more steps are not worth their reads


class Survey(NamedTuple):
    """‖A‖_F, max |a_ij|, and what is wrong with its entries; empty where all are finite."""

    frobenius: float
    largest: float
    fault: str = ""


class Estimate(NamedTuple):
    """A value and its error, 0 where it was computed, and passes over the matrix."""

    value: float
    error: float
    reads: int = 0


class _Known(NamedTuple):
    """Singular values found, and how many others there are, with the sum of their squares (NaN: lost in rounding)."""

    values: FloatArray
    squares: float
    others: int


class Edge(NamedTuple):
    """Where the singular values of noise would end, and how many lie beyond it."""

    edge: float
    outliers: int


def survey(array: FloatArray) -> Survey:
    """One pass over an array of any shape: its norm in float64, its largest entry, and which ones are not finite."""
    flat = as_float_array("array", array, array.ndim, keep_half=True).ravel(order="K")
    largest, squares = _core.magnitude(flat[None])
    if not math.isfinite(largest):
        return Survey(math.nan, math.nan, _fault(array))
    lost = squares < _LOST * flat.size or math.isinf(squares)
    norm = _careful_norm(flat) if lost else math.sqrt(squares)
    return Survey(norm, largest, "" if math.isfinite(norm) else "its norm is beyond float64")


def _careful_norm(flat: FloatArray) -> float:
    """The same where squares vanish or overflow."""
    panels = (flat[part].astype(np.float64) for part in chunks(flat.size, _PANEL_ENTRIES))
    norms = [scipy.linalg.norm(panel, check_finite=False) for panel in panels]
    return float(scipy.linalg.norm(norms, check_finite=False))


def _fault(array: FloatArray) -> str:
    """How many entries are NaN and infinite, and where the first one is."""
    nan = infinite = 0
    first: tuple[int, ...] | None = None
    rows = max(1, _PANEL_ENTRIES // max(1, array[:1].size))
    for part in chunks(len(array), rows):
        panel = array[part].astype(np.float64)
        bad = ~np.isfinite(panel)
        if first is None and bad.any():
            index = np.argwhere(bad)[0]
            first = (int(index[0]) + part.start, *(int(i) for i in index[1:]))
        nan += int(np.isnan(panel).sum())
        infinite += int(np.isinf(panel).sum())
    counts = [(nan, "NaN"), (infinite, "infinite")]
    texts = [f"{n} entr{'y is' if n == 1 else 'ies are'} {what}" for n, what in counts if n]
    return f"{' and '.join(texts)}, the first at {list(first or ())}"


def noise_edge(values: FloatArray, frobenius: float, shape: tuple[int, int], least: float = 0.0) -> Edge:
    """The level that the largest singular value of Gaussian noise of the same size exceeds once in a hundred.

    s(√m + √n) and a little more, by the Tracy–Widom law as Johnstone (2001) centres and scales it. s² is the mean
    square of the entries without the values beyond the edge, which are taken out until no more are: one strong
    direction alone would raise the edge above all others. Values up to `least` were not resolved, and count as none.
    """
    m, n = shape
    root = math.sqrt(max(m, n) - 1 or 1) + math.sqrt(min(m, n))
    scale = root * (1.0 / math.sqrt(max(m, n) - 1 or 1) + 1.0 / math.sqrt(min(m, n))) ** (1.0 / 3.0)
    unit = math.sqrt((root**2 + _TRACY_WIDOM_99 * scale) / (m * n))
    largest = float(values[0]) or 1.0  # so that no square overflows or vanishes
    sizes, total, outliers = values / largest, frobenius / largest, 0
    while True:
        edge = unit * math.sqrt(max(total**2 - float((sizes[:outliers] ** 2).sum()), 0.0))
        beyond = int((sizes > max(edge * (1.0 + 1e-6), least / largest)).sum())
        if beyond <= outliers:
            return Edge(edge * largest, outliers)
        outliers = beyond


def effective_rank(found: SvdResult, run: SvdRun, frobenius: float) -> Estimate:
    """The effective rank of a matrix that is not zero, after the search for its top triplets.

    Parameters
    ----------
    found, run
        What :func:`flatcore.spectral._top_svd.search` returned.
    frobenius
        ‖A‖_F.

    """
    operator = run.operator
    M, N = operator.rows, operator.cols
    if run.all_values is not None:
        return _of_all(run.all_values, run.hidden)
    if N <= _EXACT_SIDE and float(M) * N * N <= _EXACT_FLOPS:
        return _of_all(*values_from_gram(operator))._replace(reads=1)
    known, residuals = (operator.scale * values.astype(float) for values in (found.s, found.residuals))
    total = (operator.scale * frobenius) ** 2
    rest = total - float(np.square(known).sum())
    if rest < _KNOWN * (float(np.square(residuals).sum()) + np.finfo(float).eps * total):
        rest = math.nan
    process = run.probe or _fresh_probe(found, run)
    return _estimate(process, _Known(known, rest, N - len(known)), operator)


def _of_all(values: FloatArray, hidden: float) -> Estimate:
    """Of all values, zeros among which may be as large as `hidden`."""
    value = effective_rank_of(values)
    return Estimate(value, abs(effective_rank_of(np.where(values > 0.0, values, hidden)) - value))


def _fresh_probe(found: SvdResult, run: SvdRun) -> KrylovProcess:
    """A random block in the complement of what was found, which a search that did not converge never probed."""
    left, right = (found.Vt, found.U.T) if run.operator.transposed else (found.U.T, found.Vt)
    return FusedLanczos(run.operator, PROBE_BLOCK * (_MOST_STEPS + 1), PROBE_BLOCK, run.seeds, locked=(right, left))


def _estimate(process: KrylovProcess, known: _Known, operator: StoredOperator) -> Estimate:
    """Steps until both rules agree, and no more than pay; their distance falls about as the square of the steps."""
    before, target = operator.reads, _LEAST_STEPS
    while True:
        while process.steps < target and not process.exhausted:
            process.step()
        estimate, apart = _bracketed(process, known)
        excess = apart / (_CLOSE * estimate.value)
        if excess <= 1.0 or process.steps >= _MOST_STEPS or process.exhausted:
            return estimate._replace(reads=operator.reads - before)
        target = min(math.ceil(process.steps * max(math.sqrt(excess), 1.05)), _MOST_STEPS)


def _bracketed(process: KrylovProcess, known: _Known) -> tuple[Estimate, float]:
    """The middle of both rules' effective ranks with its error, and half their distance."""
    T, C = process.projected
    theta, Y = eigh(T)
    if process.exhausted:
        return Estimate(effective_rank_of(np.append(known.values, np.sqrt(np.maximum(theta, 0.0)))), 0.0), 0.0
    inverse = np.divide(1.0, theta, out=np.zeros_like(theta), where=theta > np.finfo(float).eps * theta[-1])
    corner = (C.T @ Y * inverse) @ (Y.T @ C)  # with it the smallest eigenvalues are 0
    extended, extended_Y = eigh(np.block([[T, C], [C.T, corner]]))
    upper = _of_rule(theta, Y[: process.block], known)
    lower = _of_rule(extended, extended_Y[: process.block], known)
    apart = abs(upper.value - lower.value) / 2.0
    error = math.hypot(max(upper.error, lower.error), apart)
    return Estimate((upper.value + lower.value) / 2.0, error), apart


def _of_rule(theta: FloatArray, rows: FloatArray, known: _Known) -> Estimate:
    """Exp H, and its standard error over random blocks, from nodes θ and the block's rows (b, r) of their vectors.

    Of a function f the block sees F = ΩᵀfΩ (b × b), whose mean is its mean value on the diagonal and zero elsewhere.
    Turning Ω changes nothing, so an entry beside the diagonal has half the variance of one on it: all of them tell the
    error of tr F, with (b − 1)(b + 2)/2 degrees of freedom, one of which goes to the slope on the squares.
    That slope is one of the directions which the block met; what it corrects counts as an error of as many freedoms.
    """
    sigma, b = np.sqrt(np.maximum(theta, 0.0)), len(rows)
    of_sum, of_entropy, of_squares = (known.others * (rows * f) @ rows.T for f in (sigma, _xlogx(sigma), theta))
    excess = float(of_squares.trace()) / b - known.squares
    excess = 0.0 if math.isnan(excess) else excess
    control = _centred(of_squares)
    sum_slope, entropy_slope = (_slope(F, control) if excess else 0.0 for F in (of_sum, of_entropy))
    S = float(known.values.sum()) + max(float(of_sum.trace()) / b - sum_slope * excess, 0.0)
    L = float(_xlogx(known.values).sum()) + float(of_entropy.trace()) / b - entropy_slope * excess
    value = math.exp(math.log(S) - L / S)
    by_sum, by_entropy = (1.0 + L / S) / S, -1.0 / S  # how H moves with S and L
    by_squares = by_sum * sum_slope + by_entropy * entropy_slope
    left = _centred(by_sum * of_sum + by_entropy * of_entropy) - by_squares * control
    freedom = (b - 1) * (b + 2) / 2.0 - (excess != 0.0)
    error = math.hypot(float(np.linalg.norm(left)) / math.sqrt(b), by_squares * excess) / math.sqrt(freedom)
    return Estimate(value, value * error)


def _centred(F: FloatArray) -> FloatArray:
    return np.asarray(F - np.eye(len(F)) * (F.trace() / len(F)))


def _slope(F: FloatArray, control: FloatArray) -> float:
    """Of F's entries on those of the control."""
    size = float(np.square(control).sum())
    return float((F * control).sum()) / size if size > 0.0 else 0.0


def _xlogx(x: FloatArray) -> FloatArray:
    return np.asarray(x * np.log(np.where(x > 0.0, x, 1.0)))
