"""The study ``digits``: whether gradient descent's minima on real data look as the theory of flat minima says.

Task one maps the left half of each image to the right half (top 30 whitened principal components of each) through four
layers, from a linear ResNet at zero and from balanced, random and unbalanced starts. Task two maps pixels to ten
classes through 64 → 512 → 512 → 512 → 10, with squared error and with cross-entropy. A small synthetic target of
negative determinant shows where ResNets from zero fail. What the report says of all this is computed in
``digits_report.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from flatcore._checks import FloatArray
from flatcore.linear import CrossEntropyLoss, QuadraticLoss
from flatcore.studies import digits_data
from flatcore.studies.descent import Run, Trace, train
from flatcore.studies.digits_data import COMPONENTS, Halves
from flatcore.studies.folder import StudyFolder, StudyResult

DEPTH = 4
CONVERGED = 1e-4  # excess loss over the target's variance
RESNET_STEPS = (0.02, 0.04)
CLASSIFIER_DIMS = (64, 512, 512, 512, 10)
NEGATIVE_SINGULAR_VALUES = (1.5, 1.2, 1.0, 0.8, 0.5)
NEGATIVE_STEPS = {0.01: 20_000, 0.04: 40_000}

# Relative cost of the parts, for the progress bar: steps of task one and the synthetic target are cheap.
_WEIGHTS = {"halves": 1.0, "negative": 1.0, "classifier": 12.0}

Progress = Callable[[str, float], None]


def run(folder: StudyFolder, progress: Progress) -> StudyResult:
    """Train every run, or finish what a stopped study left, and write the report."""
    from flatcore.studies.digits_report import write

    images, labels = digits_data.load()
    data = digits_data.halves(images)
    runs = [*halves_runs(data, folder.seed), *negative_runs(), *classifier_runs(images, labels, folder)]
    weights = [_WEIGHTS[r.name.partition("-")[0]] for r in runs]
    traces: dict[str, Trace] = {}
    for i, (r, weight) in enumerate(zip(runs, weights, strict=True)):
        first, share = sum(weights[:i]) / sum(weights), weight / sum(weights)

        def tick(fraction: float, r: Run = r, first: float = first, share: float = share) -> None:
            progress(r.title, 0.95 * (first + share * min(fraction, 1.0)))

        tick(0.0)
        traces[r.name] = train(r, folder, tick)
    progress("report", 0.95)
    result = write(folder, data, traces)
    progress("done", 1.0)
    return result


# -- task one: left half → right half --------------------------------------------------------------------------------


def halves_runs(data: Halves, seed: int) -> list[Run]:
    """ResNets from zero at two step sizes on both targets, and three other starts."""
    plain, rotated = data.loss(rotated=False), data.loss(rotated=True)
    make = partial(_halves_run, stop_excess=CONVERGED * plain.syy)
    runs = []
    for kind, loss, word, label in (
        ("resnet", plain, "targets as they come", "ResNet"),
        ("rotated", rotated, "rotated targets", "rotated"),
    ):
        for eta in RESNET_STEPS:
            titles = f"ResNet from zero, {word}, η = {eta:g}", f"{label}, η = {eta:g}"
            runs.append(make(f"halves-{kind}-{eta:g}", titles, zero_layers, loss, eta, skip=True))
    for kind, start, eta in (
        ("balanced", partial(balanced_layers, seed), 0.05),
        ("random", partial(random_layers, seed, 1.0), 0.1),
        ("unbalanced", partial(random_layers, seed, 3.0), 0.02),
    ):
        titles = f"{kind} start, η = {eta:g}", f"{kind}, η = {eta:g}"
        runs.append(make(f"halves-{kind}", titles, start, plain, eta))
    return runs


def _halves_run(
    name: str,
    titles: tuple[str, str],
    start: Callable[[], list[FloatArray]],
    loss: QuadraticLoss,
    eta: float,
    *,
    stop_excess: float,
    skip: bool = False,
) -> Run:
    steps = 20_000
    return Run(name, *titles, start, loss, eta, steps, spread(steps, 40), skip, stop_excess, tol=1e-8)


def zero_layers() -> list[FloatArray]:
    """V_j = 0: the identity, as a ResNet."""
    return [np.zeros((COMPONENTS, COMPONENTS)) for _ in range(DEPTH)]


def balanced_layers(seed: int) -> list[FloatArray]:
    """W_j = Q_j D Q_{j-1}ᵀ with random orthogonal Q_j and one diagonal D: every relative gap is zero."""
    rng = np.random.default_rng([seed, 1])
    Q = [np.linalg.qr(rng.standard_normal((COMPONENTS, COMPONENTS)))[0] for _ in range(DEPTH + 1)]
    D = np.linspace(0.5, 1.0, COMPONENTS)
    return [(Q[j + 1] * D) @ Q[j].T for j in range(DEPTH)]


def random_layers(seed: int, imbalance: float) -> list[FloatArray]:
    """Entries N(0, 1/width); the first layer times `imbalance`, the last divided by it (the same Φ)."""
    rng = np.random.default_rng([seed, 2])
    layers = [rng.standard_normal((COMPONENTS, COMPONENTS)) / np.sqrt(COMPONENTS) for _ in range(DEPTH)]
    layers[0] *= imbalance
    layers[-1] /= imbalance
    return layers


# -- a target of negative determinant --------------------------------------------------------------------------------


def negative_target() -> FloatArray:
    """A 5 × 5 matrix of negative determinant whose smallest singular value is 0.5."""
    rng = np.random.default_rng(7)
    d = len(NEGATIVE_SINGULAR_VALUES)
    U, V = (np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(2))
    if np.linalg.det(U) * np.linalg.det(V) > 0:
        U[:, -1] *= -1.0
    return np.asarray((U * np.array(NEGATIVE_SINGULAR_VALUES)) @ V.T)


def negative_runs() -> list[Run]:
    """A ResNet from zero towards it, at two step sizes."""
    T = negative_target()
    loss = QuadraticLoss.from_moments(np.eye(len(T)), T, float(np.sum(T**2)))
    return [
        Run(
            f"negative-{eta:g}",
            f"ResNet from zero, negative determinant, η = {eta:g}",
            f"η = {eta:g}",
            lambda: [np.zeros_like(T) for _ in range(DEPTH)],
            loss,
            eta,
            steps,
            spread(steps, 60),
            skip=True,
            stop_excess=CONVERGED * loss.syy,
            tol=1e-8,
        )
        for eta, steps in NEGATIVE_STEPS.items()
    ]


# -- task two: pixels → classes ---------------------------------------------------------------------------------------


def classifier_runs(images: FloatArray, labels: FloatArray, folder: StudyFolder) -> list[Run]:
    """Squared error against one-hot targets, and cross-entropy, from the same random start in float32."""
    pixels = images.reshape(len(images), -1)
    start = partial(classifier_layers, folder.seed)
    quadratic, entropy = QuadraticLoss(pixels, np.eye(10)[labels]), CrossEntropyLoss(pixels, labels)
    return [
        Run(f"classifier-{name}", f"classes by {words}", words, start, loss, eta, 600, spread(600, 10), tol=1e-3)
        for name, words, loss, eta in (
            ("quadratic", "squared error, η = 0.005", quadratic, 0.005),
            ("entropy", "cross-entropy, η = 0.05", entropy, 0.05),
        )
    ]


def classifier_layers(seed: int) -> list[FloatArray]:
    """Entries N(0, 1/fan-in), float32."""
    rng = np.random.default_rng([seed, 3])
    shapes = zip(CLASSIFIER_DIMS[1:], CLASSIFIER_DIMS[:-1], strict=True)
    return [(rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32) for shape in shapes]


def spread(steps: int, count: int) -> tuple[int, ...]:
    """About `count` steps from 0 to `steps`, dense at first."""
    points = np.unique(np.round(np.geomspace(1, steps, count)).astype(int))
    return (0, *(int(p) for p in points))
