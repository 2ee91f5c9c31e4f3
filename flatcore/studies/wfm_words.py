"""The sentences of the study ``wfm`` on continuous weights: what was asked, what the papers say, what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flatcore._checks import FloatArray
from flatcore.studies.digits_words import joined
from flatcore.studies.statistics import Comparison
from flatcore.studies.wfm_experiments import DAMPING, FEATURES
from flatcore.studies.wfm_quantities import (
    STRENGTHS,
    by_solver,
    correlations,
    difference,
    gamma_difference,
    mean_of,
)
from flatcore.studies.wfm_solvers import (
    AMP_END,
    BOTH_MOVE,
    BROADENING,
    CONTINUOUS,
    EDGES_END,
    GAMMAS,
    LAL,
    LEVELS,
    MODERATE,
    NOISE,
    UNIT_SHARPNESS,
    at,
)
from flatcore.studies.wfm_verdicts import PAIRS

if TYPE_CHECKING:
    from flatcore.studies.wfm import Results, Size
    from flatcore.studies.wfm_quantities import Rows

_STILL = 1e-6  # of the whole gradient, its part along the spheres: below are stationary points
_INDEX = {name: i for i, name in enumerate(CONTINUOUS)}


def summary(claims: Sequence[tuple[str, str]]) -> str:
    """How many claims came out, and which did not."""
    missed = [claim for claim, said in claims if not said.startswith("yes") or ";" in said]
    said = f"{len(claims) - len(missed)} of {len(claims)} claims came out."
    return said + (f" Not, or not in full: {'; '.join(missed)}." if missed else "")


def lead(size: Size, results: Results) -> list[str]:
    """What was done, and what the words mean."""
    seeds = len(results["committee"])
    return [
        "Machines with one hidden layer of sign units learn random patterns, every solver the same ones. A solution is "
        "flat where many weights around it are solutions too: where random changes of the weights cost few errors "
        "(local energy), where many solutions lie at a distance (local entropy), where the cross-entropy curves little "
        "(Hessian). Solutions with errors are counted, and left out of what is said of solutions.",
        "LAL is least action learning, BP belief propagation. Focusing BP exists in two forms, on edges and by "
        "approximate message passing (AMP), and can stop at its first solution or at the end of its schedule: four "
        f"solvers, and each claim says which it is about. Where none is named, it is {AMP_END}. Rules A and B of "
        "entropic LAL are this project's own. The cross-entropy is that of units tanh βh and an output of sharpness "
        "γ; growth and reduction are those of β = γ, the norm of the weights.",
        f"Averages are over the seeds that a solver solves, at most {seeds}, which draw patterns and starts; ± and "
        "bars are one standard error. Such averages favour a solver that solves only the easy ones. Solvers are "
        "therefore compared seed by seed, where both solve; a difference counts where the 95 % interval of its mean "
        "(Student's t, one comparison at a time) leaves out 0, and is undecided else, with fewer than two such seeds "
        f"too. Claims on the local energy of continuous weights must hold at δ = {_strengths()}, where "
        "they name no δ of their own.",
    ]


def _strengths() -> str:
    return joined([f"{NOISE[place]:g}" for place in STRENGTHS])


def task(shape: tuple[int, int, float], kind: str) -> str:
    """A machine and its load in words."""
    units, inputs, alpha = shape
    if units == 1:
        return f"{inputs} {kind} weights, α = {alpha:g}"
    return f"{units} units of {inputs} {kind} weights in a tree, α = {alpha:g}"


def energy_words(rows: Rows, size: Size) -> tuple[str, ...]:
    """Local energies of the continuous tree."""
    place = STRENGTHS[0]
    values = {name: curve[:, place] for name, curve in by_solver(rows, "energy", CONTINUOUS).items()}
    order = sorted((n for n in values if np.isfinite(values[n]).any()), key=lambda n: float(np.nanmean(values[n])))
    listed = "; ".join([f"{name} {mean_of(values[name])}" for name in order])
    pairs = [
        f"{other} minus {one} {difference(rows, _INDEX[other], _INDEX[one], 'energy', place).text()}"
        for one, other in PAIRS
    ]
    return (
        "Asked: how flat are the solutions that different algorithms find of the same patterns?",
        "Paper (Baldassi, Pittorino and Zecchina 2020): least action finds sharp minima, focusing algorithms wide flat "
        "ones, and the cross-entropy comes near to these when the norm changes slowly.",
        f"Measured: {task(size.tree, 'continuous')}, {len(rows)} seeds. At noise of δ = {NOISE[place]:g}, from flat to "
        f"sharp: {listed}.",
        f"Schedules of the norm: {'; '.join(pairs)}.",
        _edges_words(rows),
        _far_words(rows),
    )


def _edges_words(rows: Rows) -> str:
    """Where the edge form's last solutions lie."""
    places = (STRENGTHS[0], len(NOISE) - 1)
    gaps = [difference(rows, _INDEX[EDGES_END], _INDEX[AMP_END], "energy", place).text() for place in places]
    said = [f"{gap} at δ = {NOISE[place]:g}" for gap, place in zip(gaps, places, strict=True)]
    return f"The two forms at the ends of their schedules differ: edges minus AMP {joined(said)}."


def _far_words(rows: Rows) -> str:
    """Whether the flattest at the claims' strengths are so at the strongest noise."""
    place, one = len(NOISE) - 1, _INDEX[AMP_END]
    gaps = {name: difference(rows, i, one, "energy", place) for name, i in _INDEX.items() if i != one}
    flatter = [f"{name} {gap.text()}" for name, gap in gaps.items() if gap.sign < 0]
    alike = [name for name, gap in gaps.items() if gap.sign == 0]
    return (
        f"The claims are about weaker noise than δ = {NOISE[place]:g}, the strongest measured. There flatter than "
        f"{AMP_END}, are: {joined(flatter or ['none'])}; undecided: {joined(alike or ['none'])}."
    )


def margin_words(rows: Rows) -> tuple[str, ...]:
    """Distances of patterns from being misclassified."""
    quantiles = by_solver(rows, "margins", CONTINUOUS)
    tenth = {name: q[:, at(LEVELS, 0.1)] for name, q in quantiles.items()}
    order = sorted((n for n in tenth if np.isfinite(tenth[n]).any()), key=lambda n: -float(np.nanmean(tenth[n])))
    listed = "; ".join([f"{name} {mean_of(tenth[name])}" for name in order])
    return (
        "Asked: does flatness show in the margins? A pattern's margin is the field of the unit whose sign decides: "
        "every field may change by as much before the output does.",
        f"Measured, the margin that a tenth of the patterns does not reach, from large to small: {listed}.",
    )


def mean_overlaps(rows: Rows) -> FloatArray:
    """Mean cosine of the units of two solvers' solutions, over the seeds that both solve; NaN without any."""
    pairs = np.array([row["overlap"] for row in rows])
    both = np.array([np.outer(row["errors"] == 0, row["errors"] == 0) for row in rows])
    counts = both.sum(axis=0)
    total = np.where(both, pairs, 0.0).sum(axis=0)
    return np.where(counts > 0, total / np.maximum(counts, 1), np.nan)


def overlap_words(overlap: FloatArray) -> tuple[str, ...]:
    """How near solvers' solutions lie to the flattest ones."""
    row = overlap[_INDEX[AMP_END]]
    order = sorted(
        (n for n in CONTINUOUS if n != AMP_END and np.isfinite(row[_INDEX[n]])), key=lambda n: -row[_INDEX[n]]
    )
    listed = [f"{name} {row[_INDEX[name]]:.2f}" for name in order]
    return (
        "Asked: do solvers end in the same region? Shown is the mean cosine between the units of two solutions; "
        "solutions without anything in common have 0.",
        f"Measured, with the solutions of {AMP_END}: {'; '.join(listed) if listed else 'undefined'}.",
    )


def spectrum_words(size: Size) -> tuple[str, ...]:
    """The pictures of the spectra."""
    return (
        "Asked: does the Hessian of the cross-entropy tell the same story as the local energy?",
        "Paper: the spectrum at wide minima is concentrated near zero.",
        f"Measured on the continuous tree, β = γ = 2, mean over patterns, in all weights: the density, each eigenvalue "
        f"drawn with a width of {BROADENING / size.tree[1]:.2g}, and the share of eigenvalues above λ; bands are one "
        "standard error.",
    )


def hessian_words(rows: Rows) -> tuple[str, ...]:
    """Largest eigenvalues and traces."""
    missing, asked = (int(sum(f(row["top"]) for row in rows)) for f in (lambda top: np.isnan(top).sum(), np.size))
    certified = "all" if missing == 0 else f"all but {missing}, which are left out,"
    order = []
    for key in ("top", "trace"):
        means = {name: v[np.isfinite(v)] for name, v in by_solver(rows, key, CONTINUOUS).items()}
        kept = sorted((name for name in means if len(means[name])), key=lambda name: float(means[name].mean()))
        order.append("; ".join([f"{name} {mean_of(means[name])}" for name in kept]))
    return (
        f"Measured: the largest eigenvalue of {asked} Hessians; {certified} are certified by their residuals. From "
        f"small to large: {order[0]}.",
        f"Traces, from small to large: {order[1]}.",
    )


def gamma_words(rows: Rows) -> tuple[str, ...]:
    """Minimisers of the cross-entropy."""
    gradient = max(float(np.nanmax(row["gradient"])) for row in rows)
    curvature = min(float(np.nanmin(row["curvature"])) for row in rows)
    still = "All are stationary" if gradient < _STILL else "Not all are stationary"
    kind = "minima" if curvature > 0.0 else "not all minima"
    energy, overlap = (np.array([row[key] for row in rows]) for key in ("energy", "overlap"))
    energy = energy[..., STRENGTHS[-1]]
    fixed = f"β = {UNIT_SHARPNESS:g}"
    moderate, last = at(GAMMAS, MODERATE), len(GAMMAS) - 1
    gap = gamma_difference(rows, "energy", 0, last, moderate, STRENGTHS[-1])
    gap_both = gamma_difference(rows, "energy", 1, BOTH_MOVE - 1, moderate, STRENGTHS[-1])
    return (
        "Asked: which minimisers of the cross-entropy lie where solutions are flat?",
        "Paper: those at moderate γ do; γ → ∞, where the margin of the smooth machine is the largest possible, leads "
        "away from there.",
        "Measured on the patterns of section one: from the solution of the slow growth a minimiser at "
        f"γ = {GAMMAS[0]:g} is sought on the spheres and followed to larger γ, with {fixed}, and with "
        f"β = γ up to {GAMMAS[BOTH_MOVE - 1]:g}. {still}, the gradient along the spheres being at most "
        f"{gradient:.1g} of the whole, and {kind}: the smallest eigenvalue of the Hessian on the spheres is at least "
        f"{curvature:.1g} of the largest. What they say of signs is another matter: errors are counted, and local "
        "energies are above these errors. All seeds count: without errors at both of the γ that are compared are "
        f"{_free(rows, 0, last)} of {len(rows)} with {fixed}, {_free(rows, 1, BOTH_MOVE - 1)} with β = γ.",
        f"Local energy at δ = {NOISE[STRENGTHS[-1]]:g}: with {fixed}, {_course(energy[:, 0])}; with β = γ, "
        f"{_course(energy[:, 1])}. Seed by seed, with {fixed} that at γ = {GAMMAS[last]:g} minus that at "
        f"{MODERATE:g}: {gap.text()}; with β = γ, that at {GAMMAS[BOTH_MOVE - 1]:g} minus that at {MODERATE:g}: "
        f"{gap_both.text()}.",
        f"Overlap of units with those of {AMP_END}: with {fixed}, {_course(overlap[:, 0])}; with β = γ, "
        f"{_course(overlap[:, 1])}.",
    )


def _free(rows: Rows, family: int, end: int) -> int:
    """Seeds whose minimisers have no errors, neither at the moderate γ nor at the end."""
    return sum(bool((row["errors"][family, [at(GAMMAS, MODERATE), end]] == 0).all()) for row in rows)


def _course(values: FloatArray) -> str:
    """Means at the first, the moderate and the last γ that was followed."""
    kept = [i for i in range(len(GAMMAS)) if np.isfinite(values[:, i]).any()]
    if not kept:
        return "undefined"
    places = dict.fromkeys((kept[0], at(GAMMAS, MODERATE), kept[-1]))
    return joined([f"{mean_of(values[:, i])} at γ = {GAMMAS[i]:g}" for i in places])


def digit_words(rows: Rows) -> tuple[str, ...]:
    """Generalisation on digits."""
    strength = STRENGTHS[-1]
    said = [_over_seeds(correlations(rows, strength, without)) for without in ((), (_INDEX[LAL],))]
    return (
        "Asked: do flatter solutions make fewer errors on unseen data?",
        "Paper: local energy and generalisation go together.",
        f"Measured: fully connected committees of continuous weights, {len(rows)} seeds; even against odd digits, half "
        f"of the images held out. The {FEATURES} inputs are signs of random combinations of the pixels about their "
        f"medians; as they are correlated, belief propagation is damped by {DAMPING:g}. Rank correlation over solvers "
        f"of local energy at δ = {NOISE[strength]:g} with test error: {said[0]}; without {LAL}: {said[1]}. "
        "The seeds share solvers and images: the interval says how sure it is of these, not of others.",
        _best_on_digits(rows),
    )


def _over_seeds(correlation: Comparison) -> str:
    count = len(correlation.differences)
    return f"{correlation.text()} over {count} seeds" if count else "undefined"


def _best_on_digits(rows: Rows) -> str:
    """The solvers of the fewest errors on unseen images and of the most."""
    test = {name: v[np.isfinite(v)] for name, v in by_solver(rows, "test", CONTINUOUS).items()}
    kept = sorted((name for name in test if len(test[name])), key=lambda name: float(test[name].mean()))
    if not kept:
        return "No solver solves any seed."
    ends = [f"{name} {mean_of(100.0 * test[name])} %" for name in (kept[0], kept[-1])]
    return f"Fewest errors on unseen images: {ends[0]}; most: {ends[1]}."
