"""The experiments of the study ``wfm``: each takes sizes and a seed and returns arrays, a row a solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from flatcore import wfm
from flatcore._checks import FloatArray
from flatcore.studies.wfm_solvers import (
    BINARY,
    BROADENING,
    CAPPED,
    CENTRES,
    CONTINUOUS,
    CURVATURES,
    FLIPS,
    FOCUSING,
    LEVELS,
    NOISE,
    OVERLAPS,
    TRIED_BINARY,
    TRIED_CONTINUOUS,
    Solver,
)

if TYPE_CHECKING:
    from flatcore.studies.wfm import Size

Tick = Callable[[float], None]
FEATURES = 201  # of an image: signs of its pixels' random combinations about their medians
DAMPING = 0.9  # of belief propagation on these: their correlations are not in its equations
_TOLERANCE, _SWEEPS = 1e-4, 300  # of local entropies: four digits, far below what seeds differ by


@dataclass(frozen=True)
class Experiment:
    """A name for files, a title for people, what to do, the arrays it returns, its cost relative to the others'."""

    name: str
    title: str
    measure: Callable[[Size, int, Tick], Any]
    row: type
    cost: float

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the arrays of a checkpoint."""
        return tuple(self.row.__annotations__)


class Outcome(TypedDict):
    """What solvers left: errors, and passes over the patterns; one a solver, as in all rows that follow."""

    errors: FloatArray
    sweeps: FloatArray


class TreeRow(Outcome):
    """Continuous tree: local energy (solvers, strengths); Hessians; quantiles of margins; overlaps of units.

    `top`: the largest eigenvalue, NaN where it is not certified; `above`: share of eigenvalues above the grid's.
    """

    energy: FloatArray
    top: FloatArray
    trace: FloatArray
    near_zero: FloatArray
    density: FloatArray
    above: FloatArray
    margins: FloatArray
    overlap: FloatArray


class EnergyRow(Outcome):
    """Local energies (solvers, strengths), or (machines, solvers, strengths)."""

    energy: FloatArray


class EntropyRow(TypedDict):
    """By machine (perceptron, tree) and centre, planted ones last: errors there, entropies and which converged."""

    errors: FloatArray
    entropy: FloatArray
    converged: FloatArray


class CapacityRow(TypedDict):
    """Errors left: (solvers, loads)."""

    perceptron: FloatArray
    tree: FloatArray


class DigitsRow(EnergyRow):
    """Share of unseen images that are classified wrongly."""

    test: FloatArray


def solutions(solvers: Mapping[str, Solver], model: Any, patterns: Any, seed: int, tick: Tick) -> list[Any]:
    """One solution a solver, of the same patterns."""
    found = []
    for i, solver in enumerate(solvers.values()):
        found.append(solver(model, patterns, seed=seed))
        tick((i + 1) / (len(solvers) + 1))
    return found


def outcome(found: Sequence[Any]) -> Outcome:
    """Errors and sweeps."""
    return {"errors": np.array([r.errors for r in found]), "sweeps": np.array([r.sweeps for r in found])}


def energies(
    model: Any, weights: Sequence[FloatArray], patterns: Any, scale: FloatArray, samples: int, seed: int
) -> FloatArray:
    """Local energies, (solutions, scales): the same perturbations for all."""
    return np.array(
        [wfm.local_energy(model, w, patterns, scale=scale, samples=samples, seed=seed).values for w in weights]
    )


def unit_overlap(a: FloatArray, b: FloatArray) -> float:
    """Mean cosine of the units of two machines."""
    cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(cosines.mean())


def tree_task(size: Size, seed: int) -> tuple[wfm.Committee, wfm.Patterns]:
    """The continuous tree committee and its patterns."""
    units, inputs, alpha = size.tree
    model = wfm.Committee(units * inputs, units, weights="continuous")
    return model, wfm.random_patterns(model, round(alpha * model.num_weights), seed=seed)


def committee(size: Size, seed: int, tick: Tick) -> TreeRow:
    """The continuous tree committee: all solvers on the same patterns, and all measures of their solutions."""
    model, patterns = tree_task(size, seed)
    found = solutions(CONTINUOUS, model, patterns, seed, tick)
    weights = [r.weights for r in found]
    spectra = [wfm.hessian_spectrum(model, w, patterns, seed=seed) for w in weights]
    grid, broadening = CURVATURES / model.fan_in, BROADENING / model.fan_in
    return {
        **outcome(found),
        "energy": energies(model, weights, patterns, NOISE, size.samples, seed),
        "top": np.array([s.lambda_max if s.status == "converged" else np.nan for s in spectra]),
        "trace": np.array([s.trace for s in spectra]),
        "near_zero": np.array([s.near_zero for s in spectra]),
        "density": np.array([s.density.at(grid, broadening)[0] for s in spectra]),
        "above": np.array([[s.density.expectation(partial(np.less, x))[0] for x in grid] for s in spectra]),
        "margins": np.array([np.quantile(wfm.margins(model, w, patterns), LEVELS) for w in weights]),
        "overlap": np.array([[unit_overlap(a, b) for b in weights] for a in weights]),
    }


def binary(size: Size, seed: int, tick: Tick) -> EnergyRow:
    """The binary tree committee: local energies of flips."""
    units, inputs, alpha = size.binary
    model = wfm.Committee(units * inputs, units)
    patterns = wfm.random_patterns(model, round(alpha * model.num_weights), seed=seed)
    found = solutions(BINARY, model, patterns, seed, tick)
    weights = [r.weights for r in found]
    return {**outcome(found), "energy": energies(model, weights, patterns, FLIPS, size.samples, seed)}


def entropy(size: Size, seed: int, tick: Tick) -> EntropyRow:
    """Local entropy around solutions and the teacher, of the patterns that the teacher labelled."""
    left, entropies, settled = [], [], []
    for i, (units, inputs, alpha) in enumerate((size.entropy, size.entropy_tree)):
        model = wfm.Committee(units * inputs, units)
        patterns, teacher = wfm.teacher_patterns(model, round(alpha * model.num_weights), seed=seed)
        found = [solver(model, patterns, seed=seed) for solver in CENTRES.values()]
        rows = []
        for j, centre in enumerate([*(r.weights for r in found), teacher]):
            rows.append(
                wfm.local_entropy(
                    model, centre, patterns, overlaps=OVERLAPS, form="edge", tol=_TOLERANCE, max_sweeps=_SWEEPS
                )
            )
            tick((i + (j + 1) / (len(found) + 1)) / 2)
        left.append([*(r.errors for r in found), 0])
        entropies.append([r.entropy for r in rows])
        settled.append([r.converged for r in rows])
    return {"errors": np.array(left), "entropy": np.array(entropies), "converged": np.array(settled, dtype=float)}


def capacity(size: Size, seed: int, tick: Tick) -> CapacityRow:
    """Errors that remain at each load: (solvers, loads) of the binary perceptron and of the continuous tree."""
    inputs, fan_in = size.capacity
    binary_model, tree = wfm.Committee(inputs, 1), wfm.Committee(9 * fan_in, 9, weights="continuous")
    perceptron_loads, tree_loads = size.loads
    return {
        "perceptron": _errors_left(TRIED_BINARY, binary_model, perceptron_loads, size, seed, lambda f: tick(f / 2)),
        "tree": _errors_left(TRIED_CONTINUOUS, tree, tree_loads, size, seed, lambda f: tick(0.5 + f / 2)),
    }


def _errors_left(
    solvers: Mapping[str, Solver], model: wfm.Committee, loads: Sequence[float], size: Size, seed: int, tick: Tick
) -> FloatArray:
    errors = np.empty((len(solvers), len(loads)))
    for j, alpha in enumerate(loads):
        patterns = wfm.random_patterns(model, round(alpha * model.num_weights), seed=seed)
        for i, (title, solver) in enumerate(solvers.items()):
            options = {"max_epochs": size.epochs} if title in CAPPED else {}
            errors[i, j] = solver(model, patterns, seed=seed, **options).errors
        tick((j + 1) / len(loads))
    return errors


def parity(size: Size, seed: int, tick: Tick) -> EnergyRow:
    """Committee and parity machine of the same shape at the same load: (machines, solvers, scales)."""
    units, inputs, alpha = size.parity
    outcomes, curves = [], []
    for i, activation in enumerate(("majority", "parity")):
        model = wfm.Committee(units * inputs, units, weights="binary", activation=activation)
        patterns = wfm.random_patterns(model, round(alpha * model.num_weights), seed=seed)
        found = [solver(model, patterns, seed=seed) for solver in TRIED_BINARY.values()]
        outcomes.append(outcome(found))
        curves.append(energies(model, [r.weights for r in found], patterns, FLIPS, size.samples, seed))
        tick((i + 1) / 2)
    return {
        "errors": np.array([o["errors"] for o in outcomes]),
        "sweeps": np.array([o["sweeps"] for o in outcomes]),
        "energy": np.array(curves),
    }


def digits(size: Size, seed: int, tick: Tick) -> DigitsRow:
    """Handwritten digits, even against odd, by fully connected committees: local energy and test errors."""
    from flatcore.studies import digits_data

    images, numbers = digits_data.load()
    rng = np.random.default_rng([seed, 11])
    units, count = size.digits
    order = rng.permutation(len(images))[:count]
    train, test = order[: len(order) // 2], order[len(order) // 2 :]
    features = images.reshape(len(images), -1) @ rng.standard_normal((images[0].size, FEATURES))
    inputs = np.where(features > np.median(features[train], axis=0), 1, -1).astype(np.int8)
    labels = np.where(numbers % 2 == 0, 1, -1).astype(np.int8)
    model = wfm.Committee(inputs.shape[1], units, kind="full", weights="continuous")
    patterns = wfm.Patterns.from_arrays(model, inputs[train], labels[train])
    unseen = wfm.Patterns.from_arrays(model, inputs[test], labels[test])
    damped = {name: partial(solver, damping=DAMPING) for name, solver in FOCUSING.items()}
    found = solutions({**CONTINUOUS, **damped}, model, patterns, seed, tick)
    weights = [r.weights for r in found]
    return {
        **outcome(found),
        "energy": energies(model, weights, patterns, NOISE, size.samples, seed),
        "test": np.array([wfm.errors(model, w, unseen) / len(unseen) for w in weights]),
    }
