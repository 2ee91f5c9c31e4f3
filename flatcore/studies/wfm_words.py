"""The sentences of the study ``wfm``: what was asked, what the papers say, what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.stats

from flatcore._checks import FloatArray
from flatcore.results import number
from flatcore.studies.digits_words import joined
from flatcore.studies.statistics import Comparison, with_error
from flatcore.studies.wfm_experiments import (
    BINARY,
    BP,
    CAPPED,
    CONTINUOUS,
    DAMPING,
    END,
    FAST,
    FEATURES,
    FIRST,
    FLIPS,
    GAMMA_EPOCHS,
    GAMMAS,
    LAL,
    LEARNERS,
    NOISE,
    PLANTED,
    REDUCED,
    SLOW,
)

if TYPE_CHECKING:
    from flatcore.studies.wfm import Results, Size

NOISE_AT = int(np.argmin(np.abs(NOISE - 0.3)))
FLIPS_AT = int(np.argmin(np.abs(FLIPS - 0.1)))


# -- quantities ------------------------------------------------------------------------------------------------------


def _solved(rows: Sequence[Mapping[str, FloatArray]], i: int) -> FloatArray:
    return np.array([row["errors"][i] == 0 for row in rows])


def _values(rows: Sequence[Mapping[str, FloatArray]], i: int, key: str, at: int | None = None) -> FloatArray:
    """A quantity of solver i, one a seed; NaN where errors are left."""
    values = np.array([row[key][i] if at is None else row[key][i][at] for row in rows], dtype=float)
    return np.where(_solved(rows, i), values, np.nan)


def difference(rows: Sequence[Mapping[str, FloatArray]], i: int, j: int, key: str, at: int | None = None) -> Comparison:
    """Solver i minus solver j, over the seeds that both solve."""
    d = _values(rows, i, key, at) - _values(rows, j, key, at)
    return Comparison(d[np.isfinite(d)])


def mean_of(values: FloatArray) -> str:
    """Mean ± standard error over the seeds that have a value."""
    kept = values[np.isfinite(values)]
    return with_error(kept) if len(kept) else "undefined"


def _answer(sign: int, expected: int) -> str:
    return {1: "yes", -1: "no, the opposite", 0: "undecided"}[sign * expected]


_INDEX = {name: i for i, name in enumerate(CONTINUOUS)}
_BINARY = {name: i for i, name in enumerate(BINARY)}


# -- verdicts --------------------------------------------------------------------------------------------------------


def verdicts(results: Results) -> list[tuple[str, str]]:
    """The claims and what the seeds say of each."""
    tree, flips, real = results["committee"], results["binary"], results["digits"]
    sharpest = [difference(tree, _INDEX[LAL], i, "energy", NOISE_AT).sign for n, i in _INDEX.items() if n != LAL]
    answers = [
        ("least action is sharper than every other solver (continuous tree)", _all(sharpest)),
        ("focusing BP's first solution is flatter than every other solver's", _all(_flattest_signs(tree, "energy"))),
        (
            "focusing BP's first solution is flatter than slow cross-entropy's",
            _answer(difference(tree, _INDEX[SLOW], _INDEX[FIRST], "energy", NOISE_AT).sign, 1),
        ),
        (
            "focusing BP at the end of its schedule is flatter than slow cross-entropy",
            _answer(difference(tree, _INDEX[SLOW], _INDEX[END], "energy", NOISE_AT).sign, 1),
        ),
        (
            "slow growth of the norm ends flatter than fast growth",
            _answer(difference(tree, _INDEX[FAST], _INDEX[SLOW], "energy", NOISE_AT).sign, 1),
        ),
        (
            "slow reduction of the norm ends flatter than fast growth",
            _answer(difference(tree, _INDEX[FAST], _INDEX[REDUCED], "energy", NOISE_AT).sign, 1),
        ),
        ("least action's Hessian is the largest", _all(_hessian_signs(tree))),
        ("focusing BP's Hessian, at its first solution, is the smallest", _all(_flattest_signs(tree, "top"))),
        (
            "focusing BP is flatter than least action (binary tree)",
            _answer(difference(flips, _BINARY[LAL], _BINARY[BP], "energy", FLIPS_AT).sign, 1),
        ),
        ("more solutions lie around focusing BP's than around planted ones", _entropy_verdict(results)),
        ("every solver that solves both ends sharper on the parity machine", _parity_verdict(results)),
        ("flatter solutions make fewer errors on unseen digits", _correlation_verdict(real)),
    ]
    return answers


def _all(signs: Sequence[int]) -> str:
    if not signs:
        return "undecided"
    if all(sign > 0 for sign in signs):
        return "yes"
    against = sum(sign < 0 for sign in signs)
    opposite = f", the opposite for {against}" if against else ""
    return f"for {sum(sign > 0 for sign in signs)} of {len(signs)}{opposite}"


def _flattest_signs(tree: Sequence[Mapping[str, FloatArray]], key: str) -> list[int]:
    """Of the others minus focusing BP's first solution."""
    at = NOISE_AT if key == "energy" else None
    return [difference(tree, i, _INDEX[FIRST], key, at).sign for name, i in _INDEX.items() if name != FIRST]


def _hessian_signs(tree: Sequence[Mapping[str, FloatArray]]) -> list[int]:
    return [difference(tree, _INDEX[LAL], i, "top").sign for name, i in _INDEX.items() if name != LAL]


def _entropy_gap(results: Results) -> Comparison:
    """Entropy around focusing BP's solutions minus around planted ones, mean over distances both have, a seed each."""
    gaps = []
    for row in results["entropy"]:
        both = (row["converged"] == 1.0).all(axis=0)
        if both.any() and row["errors"][0] == 0:
            gaps.append(float((row["entropy"][0] - row["entropy"][1])[both].mean()))
    return Comparison(np.array(gaps))


def _entropy_verdict(results: Results) -> str:
    return _answer(_entropy_gap(results).sign, 1)


def _parity_excess(results: Results, name: str) -> Comparison:
    """A solver's local energy on the parity machine minus on the committee, over the seeds it solves on both."""
    i, rows = _BINARY[name], results["parity"]
    both = [row for row in rows if row["errors"][0][i] == 0 and row["errors"][1][i] == 0]
    return Comparison(np.array([row["energy"][1][i][FLIPS_AT] - row["energy"][0][i][FLIPS_AT] for row in both]))


def _parity_verdict(results: Results) -> str:
    signs = [c.sign for name in BINARY if len((c := _parity_excess(results, name)).differences)]
    return f"{_all(signs)} ({len(signs)} of {len(BINARY)} solvers do)"


def _correlations(rows: Sequence[Mapping[str, FloatArray]]) -> Comparison:
    """Rank correlation over solvers of local energy with test error, a seed each."""
    found = []
    for row in rows:
        solved = row["errors"] == 0
        if solved.sum() >= 3:
            found.append(float(scipy.stats.spearmanr(row["energy"][solved, NOISE_AT], row["test"][solved]).statistic))
    values = np.array(found)
    return Comparison(values[np.isfinite(values)])


def _correlation_verdict(rows: Sequence[Mapping[str, FloatArray]]) -> str:
    return _answer(_correlations(rows).sign, 1)


# -- sentences -------------------------------------------------------------------------------------------------------


def lead(size: Size, results: Results) -> list[str]:
    """What was done, and what the words mean."""
    seeds = len(results["committee"])
    return [
        "Machines with one hidden layer of sign units learn random patterns, every solver the same ones. A solution is "
        "flat where many weights around it are solutions too: where random changes of the weights cost few errors "
        "(local energy), where many solutions lie at a distance (local entropy), where the cross-entropy curves little "
        "(Hessian). Solutions with errors are counted, and left out of what is said of solutions.",
        f"Averages are over the seeds that a solver solves, at most {seeds}, which draw patterns and starts; ± and "
        "bands are one standard error. Such averages favour a solver that solves only the easy ones. Solvers are "
        "therefore compared seed by seed, where both solve; a difference counts where the 95 % interval of its mean "
        "(Student's t, one comparison at a time) leaves out 0, and is undecided else, with fewer than two such seeds "
        "too. Rules A and B of entropic least action are this project's own.",
    ]


def _task(shape: tuple[int, int, float], kind: str) -> str:
    units, inputs, alpha = shape
    return f"{units} units of {inputs} {kind} weights in a tree, α = {alpha:g}"


def energy_words(results: Results, size: Size) -> tuple[str, ...]:
    """Local energies of the continuous tree."""
    rows = results["committee"]
    values = {name: _values(rows, i, "energy", NOISE_AT) for name, i in _INDEX.items()}
    order = sorted((n for n in values if np.isfinite(values[n]).any()), key=lambda n: float(np.nanmean(values[n])))
    listed = joined([f"{name} {mean_of(values[name])}" for name in order])
    return (
        "Asked: how flat are the solutions that different algorithms find of the same patterns?",
        "Paper (Baldassi, Pittorino and Zecchina 2020): least action finds sharp minima, focusing algorithms wide flat "
        "ones, and the cross-entropy comes near to these when the norm changes slowly.",
        f"Measured: {_task(size.tree, 'continuous')}, {len(rows)} seeds. At noise of δ = {NOISE[NOISE_AT]:g}, from "
        f"flat to sharp: {listed}.",
        f"Least action minus others: {_differences(rows, LAL)}.",
        f"Focusing BP's first solution minus others: {_differences(rows, FIRST)}.",
        f"Slow growth of the norm minus others: {_differences(rows, SLOW)}. Fast growth minus slow reduction: "
        f"{difference(rows, _INDEX[FAST], _INDEX[REDUCED], 'energy', NOISE_AT).text()}.",
    )


def _differences(rows: Sequence[Mapping[str, FloatArray]], one: str, key: str = "energy") -> str:
    """One solver minus each other, and how many seeds both solve where it is not all."""
    at, said = NOISE_AT if key == "energy" else None, []
    for name, i in _INDEX.items():
        if name != one:
            d = difference(rows, _INDEX[one], i, key, at)
            count = "" if len(d.differences) == len(rows) else f", {len(d.differences)} seeds"
            said.append(f"{name} {d.text()}{count}")
    return joined(said)


def flip_words(results: Results, size: Size) -> tuple[str, ...]:
    """Local energies of the binary tree."""
    rows = results["binary"]
    listed = joined([f"{name} {mean_of(_values(rows, i, 'energy', FLIPS_AT))}" for name, i in _BINARY.items()])
    gap = difference(rows, _BINARY[LAL], _BINARY[BP], "energy", FLIPS_AT)
    return (
        "Asked: the same with weights ±1, each flipped with probability p.",
        f"Measured: {_task(size.binary, 'binary')}. At p = {FLIPS[FLIPS_AT]:g}: {listed}. Least action minus focusing "
        f"BP: {gap.text()}.",
    )


def entropy_words(results: Results, size: Size) -> tuple[str, ...]:
    """Local entropies."""
    inputs, alpha = size.entropy
    rows = results["entropy"]
    kept = sum(int((row["converged"][i] == 1.0).sum()) for row in rows for i in (0, 1))
    asked = sum(row["converged"].size for row in rows)
    return (
        "Asked: how many solutions lie at distance d from a solution, S = ln(number)/N?",
        "Paper: typical solutions are isolated, those that algorithms find lie in dense regions. A planted solution, "
        "from a teacher that labelled the patterns, stands for a typical one.",
        f"Measured: binary perceptron, N = {inputs}, α = {alpha:g}, by belief propagation at fixed overlap (converged "
        f"at {kept} of {asked} points; the others are left out). {BP} minus {PLANTED}, mean over distances: "
        f"{_entropy_gap(results).text()}.",
    )


def hessian_words(results: Results) -> tuple[str, ...]:
    """Hessians at the solutions."""
    rows = results["committee"]
    signs = _hessian_signs(rows)
    return (
        "Asked: does the Hessian of the cross-entropy tell the same story as the local energy?",
        "Paper: the spectrum at wide minima is concentrated near zero.",
        "Measured, β = γ = 2, mean over patterns, in all weights: least action's largest eigenvalue is above "
        f"{sum(s > 0 for s in signs)} of the {len(signs)} others' as far as the seeds can tell. Focusing BP's first "
        f"solution minus others: {_differences(rows, FIRST, 'top')}.",
    )


def capacity_words(results: Results, size: Size) -> tuple[str, ...]:
    """Success against load."""
    rows = results["capacity"]
    lines = []
    for title, key, solvers, which in (
        (f"Binary perceptron, N = {size.capacity[0]}", "perceptron", BINARY, 0),
        (f"Continuous tree, 9 units of {size.capacity[1]}", "tree", LEARNERS, 1),
    ):
        solved = np.array([row[key] for row in rows]) == 0
        loads = np.array(size.loads[which])
        listed = joined([f"{name} {_largest_load(solved[:, i], loads)}" for i, name in enumerate(solvers)])
        lines.append(f"{title}: largest load at which most seeds are solved: {listed}.")
    return (
        "Asked: up to which load does each solver find a solution?",
        "Theory: the binary perceptron's capacity is α ≈ 0.833, where algorithms stop before; a tree of continuous "
        "units holds more than the continuous perceptron's 2.",
        f"Measured, at most {size.epochs} epochs of {joined(CAPPED)}, the others to the end of their schedules. "
        f"{' '.join(lines)}",
    )


def _largest_load(solved: FloatArray, loads: FloatArray) -> str:
    often = solved.mean(axis=0) > 0.5
    if not often.any():
        return "none"
    return f"{loads[often].max():g}{' (the largest tried)' if often[-1] else ''}"


def parity_words(results: Results, size: Size) -> tuple[str, ...]:
    """Committee against parity machine."""
    rows = results["parity"]
    counts = []
    for machine, title in enumerate(("committee", "parity machine")):
        solved = [f"{name} {sum(row['errors'][machine][i] == 0 for row in rows)}" for i, name in enumerate(BINARY)]
        counts.append(f"{title}, {joined(solved)}")
    excess = [f"{name} {_parity_excess(results, name).text()}" for name in BINARY]
    return (
        "Asked: are there wide flat minima where the output is a product of signs?",
        "Paper: parity machines have none, and learning them is hard.",
        f"Measured: {_task(size.parity, 'binary')}, for both machines. Of {len(rows)} seeds are solved: "
        f"{'; '.join(counts)}. Parity machine minus committee at p = {FLIPS[FLIPS_AT]:g}: {joined(excess)}.",
    )


def gamma_words(results: Results) -> tuple[str, ...]:
    """Fixed sharpness of the cross-entropy."""
    rows = results["gamma"]
    errors = np.array([row["errors"] for row in rows], dtype=float).mean(axis=0)
    overlap = np.array([row["overlap"] for row in rows])
    overlap = overlap[np.isfinite(overlap).all(axis=1)]  # of the seeds that focusing BP solves
    solved = [i for i in range(len(GAMMAS)) if errors[i] == 0.0]
    none, nearest = "at none of them all seeds end without errors", "units are compared with no solution of focusing BP"
    if len(overlap):
        mean = overlap.mean(axis=0)
        nearest = (
            "units overlap most with those of focusing BP (first solution) at "
            f"{GAMMAS[int(np.argmax(mean))]:g}, {number(float(mean.max()), 3)} in the mean, with or without errors left"
        )
    solved_words = f"all seeds end without errors at {joined([f'{GAMMAS[i]:g}' for i in solved])}" if solved else none
    return (
        "Asked: which points that the cross-entropy leads to lie where solutions are flat?",
        "Paper: minimisers at moderate γ do, those of the largest margin, γ → ∞, do not. That limit is not tried here.",
        f"Measured on the patterns of the first section, SGD at fixed β = γ, at most {GAMMA_EPOCHS} epochs and up to "
        f"the first without errors: {solved_words}; {nearest}.",
    )


def digit_words(results: Results) -> tuple[str, ...]:
    """Generalisation on digits."""
    rows = results["digits"]
    correlation = _correlations(rows)
    count = len(correlation.differences)
    said = f"{correlation.text()} over {count} seeds" if count else "undefined"
    return (
        "Asked: do flatter solutions make fewer errors on unseen data?",
        "Paper: local energy and generalisation go together.",
        f"Measured: fully connected committees of continuous weights, {len(rows)} seeds; even against odd digits, half "
        f"of the images held out. The {FEATURES} inputs are signs of random combinations of the pixels about their "
        f"medians; as they are correlated, belief propagation is damped by {DAMPING:g}. Rank correlation over solvers "
        f"of local energy with test error: {said}.",
    )
