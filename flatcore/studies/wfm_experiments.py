"""The experiments of the study ``wfm``: each takes sizes and a seed and returns arrays, a row a solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flatcore import wfm
from flatcore._checks import FloatArray

if TYPE_CHECKING:
    from flatcore.studies.wfm import Measured, Size

Tick = Callable[[float], None]
Solver = Callable[..., Any]  # (model, patterns, seed=, **options) → WfmResult

LAL, RULE_A, RULE_B = "LAL", "entropic LAL, rule A", "entropic LAL, rule B"
SLOW, FAST, REDUCED = "cross-entropy, slow growth", "cross-entropy, fast growth", "cross-entropy, slow reduction"
FIRST, END = "focusing BP, first solution", "focusing BP, end of schedule"
BP, REPLICATED, PLANTED = "focusing BP", "replicated SGD", "planted"

CONTINUOUS: Mapping[str, Solver] = {
    LAL: wfm.least_action,
    RULE_A: partial(wfm.entropic_least_action, rule="A"),
    RULE_B: partial(wfm.entropic_least_action, rule="B"),
    FAST: partial(wfm.cross_entropy_sgd, schedule="fast"),
    REDUCED: partial(wfm.cross_entropy_sgd, schedule="reduction"),
    SLOW: partial(wfm.cross_entropy_sgd, schedule="slow"),
    FIRST: partial(wfm.focusing_bp, stop="first"),
    END: partial(wfm.focusing_bp, stop="end"),
}
# Each row of results belongs to the solver at its place.
BINARY: Mapping[str, Solver] = {LAL: wfm.least_action, REPLICATED: wfm.replicated_sgd, BP: wfm.focusing_bp}
LEARNERS: Mapping[str, Solver] = {name: CONTINUOUS[name] for name in (LAL, RULE_A, RULE_B, SLOW, FIRST)}
CAPPED = (LAL, RULE_A, RULE_B)  # where loads are tried; others have schedules that end by themselves
FLIPS = np.linspace(0.0, 0.3, 13)
NOISE = np.linspace(0.0, 0.5, 11)
GAMMA_EPOCHS = 300
GAMMAS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
FEATURES = 201  # of an image: signs of its pixels' random combinations about their medians
DAMPING = 0.9  # of belief propagation on these: their correlations are not in its equations
OVERLAPS = np.concatenate([np.linspace(0.5, 0.9, 9), np.linspace(0.92, 0.99, 8)])


@dataclass(frozen=True)
class Experiment:
    """A name for files, a title for people, what to do, and its cost relative to the others'."""

    name: str
    title: str
    measure: Callable[[Size, int, Tick], Measured]
    cost: float


def _solutions(solvers: Mapping[str, Solver], model: Any, patterns: Any, seed: int, tick: Tick) -> list[Any]:
    found = []
    for i, solver in enumerate(solvers.values()):
        found.append(solver(model, patterns, seed=seed))
        tick((i + 1) / (len(solvers) + 1))
    return found


def _outcome(found: Sequence[Any]) -> Measured:
    return {
        "errors": np.array([r.errors for r in found]),
        "sweeps": np.array([r.sweeps for r in found]),
    }


def _curves(model: Any, found: Sequence[Any], patterns: Any, scale: FloatArray, samples: int, seed: int) -> FloatArray:
    """Local energies, (solvers, scales): the same perturbations for all."""
    return np.array(
        [wfm.local_energy(model, r.weights, patterns, scale=scale, samples=samples, seed=seed).values for r in found]
    )


def unit_overlap(a: FloatArray, b: FloatArray) -> float:
    """Mean cosine of the units of two machines."""
    cosines = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(cosines.mean())


def committee(size: Size, seed: int, tick: Tick) -> Measured:
    """The continuous tree committee: all solvers on the same patterns, local energies, Hessians, margins, overlaps."""
    units, inputs, alpha = size.tree
    model = wfm.Committee(units * inputs, units, weights="continuous")
    patterns = wfm.random_patterns(model, round(alpha * model.num_weights), seed=seed)
    found = _solutions(CONTINUOUS, model, patterns, seed, tick)
    spectra = [wfm.hessian_spectrum(model, r.weights, patterns, seed=seed) for r in found]
    return {
        **_outcome(found),
        "energy": _curves(model, found, patterns, NOISE, size.samples, seed),
        "top": np.array([s.values[0] for s in spectra]),
        "trace": np.array([s.trace for s in spectra]),
        "near_zero": np.array([s.near_zero for s in spectra]),
        "margin": np.array([np.median(wfm.margins(model, r.weights, patterns)) for r in found]),
        "overlap": np.array([[unit_overlap(a.weights, b.weights) for b in found] for a in found]),
    }


def binary(size: Size, seed: int, tick: Tick) -> Measured:
    """The binary tree committee: local energies of flips."""
    units, inputs, alpha = size.binary
    model = wfm.Committee(units * inputs, units)
    patterns = wfm.random_patterns(model, round(alpha * model.num_weights), seed=seed)
    found = _solutions(BINARY, model, patterns, seed, tick)
    return {**_outcome(found), "energy": _curves(model, found, patterns, FLIPS, size.samples, seed)}


def entropy(size: Size, seed: int, tick: Tick) -> Measured:
    """The binary perceptron: local entropy around solutions of focusing BP and around planted, typical ones."""
    inputs, alpha = size.entropy
    model = wfm.Committee(inputs, 1)
    count = round(alpha * inputs)
    drawn = wfm.random_patterns(model, count, seed=seed)
    taught, teacher = wfm.teacher_patterns(model, count, seed=seed)
    focused = wfm.focusing_bp(model, drawn, seed=seed)
    places = [(focused.weights, drawn), (teacher, taught)]
    rows = []
    for i, (weights, patterns) in enumerate(places):
        rows.append(wfm.local_entropy(model, weights, patterns, overlaps=OVERLAPS))
        tick((i + 1) / len(places))
    return {
        "errors": np.array([focused.errors, 0]),
        "entropy": np.array([r.entropy for r in rows]),
        "distance": np.array([r.distance for r in rows]),
        "converged": np.array([r.converged for r in rows], dtype=float),
    }


def capacity(size: Size, seed: int, tick: Tick) -> Measured:
    """Errors that remain at each load: (solvers, loads) of the binary perceptron and of the continuous tree."""
    inputs, fan_in = size.capacity
    binary_model, tree = wfm.Committee(inputs, 1), wfm.Committee(9 * fan_in, 9, weights="continuous")
    tasks = [("perceptron", BINARY, binary_model, size.loads[0]), ("tree", LEARNERS, tree, size.loads[1])]
    measured: Measured = {}
    total, done = sum(len(solvers) * len(loads) for _, solvers, _, loads in tasks), 0
    for name, solvers, model, loads in tasks:
        errors = np.empty((len(solvers), len(loads)))
        for j, alpha in enumerate(loads):
            patterns = wfm.random_patterns(model, round(alpha * model.num_weights), seed=seed)
            for i, (title, solver) in enumerate(solvers.items()):
                options = {"max_epochs": size.epochs} if title in CAPPED else {}
                errors[i, j] = solver(model, patterns, seed=seed, **options).errors
                done += 1
                tick(done / total)
        measured[name] = errors
    return measured


def parity(size: Size, seed: int, tick: Tick) -> Measured:
    """Committee and parity machine of the same shape at the same load: (machines, solvers, scales)."""
    units, inputs, alpha = size.parity
    curves, errors = [], []
    for i, activation in enumerate(("majority", "parity")):
        model = wfm.Committee(units * inputs, units, weights="binary", activation=activation)
        patterns = wfm.random_patterns(model, round(alpha * model.num_weights), seed=seed)
        found = [solver(model, patterns, seed=seed) for solver in BINARY.values()]
        errors.append([r.errors for r in found])
        curves.append(_curves(model, found, patterns, FLIPS, size.samples, seed))
        tick((i + 1) / 2)
    return {"errors": np.array(errors), "energy": np.array(curves)}


def gamma(size: Size, seed: int, tick: Tick) -> Measured:
    """Minimisers of the cross-entropy at fixed β = γ, on the patterns of `committee`: overlap with focusing BP's."""
    units, inputs, alpha = size.tree
    model = wfm.Committee(units * inputs, units, weights="continuous")
    patterns = wfm.random_patterns(model, round(alpha * model.num_weights), seed=seed)
    flat = wfm.focusing_bp(model, patterns, seed=seed)
    found = []
    fixed = partial(wfm.cross_entropy_sgd, model, patterns, factor=1.0, max_epochs=GAMMA_EPOCHS, seed=seed)
    for i, value in enumerate(GAMMAS):
        found.append(fixed(start=value, end=value))
        tick((i + 1) / (len(GAMMAS) + 1))
    return {
        **_outcome(found),
        "energy": _curves(model, found, patterns, NOISE, size.samples, seed),
        "overlap": np.array([unit_overlap(r.weights, flat.weights) if flat.errors == 0 else np.nan for r in found]),
    }


def digits(size: Size, seed: int, tick: Tick) -> Measured:
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
    damped = {name: partial(CONTINUOUS[name], damping=DAMPING) for name in (FIRST, END)}
    found = _solutions({**CONTINUOUS, **damped}, model, patterns, seed, tick)
    return {
        **_outcome(found),
        "energy": _curves(model, found, patterns, NOISE, size.samples, seed),
        "test": np.array([wfm.errors(model, r.weights, unseen) / len(unseen) for r in found]),
    }


EXPERIMENTS = (
    Experiment("committee", "Continuous tree committee", committee, 6.0),
    Experiment("binary", "Binary tree committee", binary, 3.0),
    Experiment("entropy", "Local entropy of the binary perceptron", entropy, 3.0),
    Experiment("capacity", "Solvers against the load", capacity, 6.0),
    Experiment("parity", "Parity machine", parity, 2.0),
    Experiment("gamma", "Cross-entropy at fixed γ", gamma, 4.0),
    Experiment("digits", "Handwritten digits", digits, 6.0),
)
