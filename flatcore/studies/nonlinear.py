"""The study ``nonlinear``: what of the theory of flat minima, which is about linear networks, holds for others.

ReLU, tanh, residual and convolutional networks learn the handwritten digits by full-batch gradient descent with
squared error, each at three step sizes η from the same start for the same training time η·steps, over several seeds. A
seed draws the start and which images are held out. Squared error, because its curvature at the outputs is constant;
that of cross-entropy goes to zero as the outputs saturate, and takes the sharpness with it.

Measured on the way: loss, accuracies, sharpness against 2/η; first and last: gains and coupling residuals along the
path of the Jacobian's top singular pair, and coupling of consecutive layers against chance. What the report says of
all this is computed in ``nonlinear_report.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from flatcore._checks import FloatArray
from flatcore.studies import digits_data
from flatcore.studies.folder import StudyFolder, StudyResult
from flatcore.studies.nonlinear_networks import CLASSES, build
from flatcore.studies.nonlinear_training import Digits, Run, Trace, train

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Architecture:
    """A kind of network, and how it is trained.

    `steps`: step sizes, ascending. `time`: training time η·steps, the same for all of them. `measurements`: a run.
    `cost`: of a run, relative, for the progress bar.
    """

    name: str
    title: str
    width: int
    steps: tuple[float, ...]
    time: float
    measurements: int
    cost: float = 1.0

    def build(self, seed: tuple[int, ...]) -> Any:
        """A network drawn from `seed`."""
        return build(self.name, self.width, seed)


@dataclass(frozen=True)
class Settings:
    """The whole study: `seeds` repetitions, Jacobian paths at `paths` of the held-out images."""

    architectures: tuple[Architecture, ...]
    seeds: int
    paths: int
    held_out: int = 360
    tol: float = 1e-3


SETTINGS = Settings(
    architectures=(
        Architecture("relu", "ReLU network", 64, (0.05, 0.1, 0.2), 40.0, 13),
        Architecture("tanh", "tanh network", 64, (0.075, 0.15, 0.3), 60.0, 13),
        Architecture("residual", "residual network", 64, (0.025, 0.05, 0.1), 40.0, 13, 1.5),
        Architecture("convolution", "convolutional network", 32, (0.05, 0.1, 0.2), 25.0, 9, 3.0),
    ),
    seeds=5,
    paths=40,
)


def run(folder: StudyFolder, progress: Progress) -> StudyResult:
    """Train every run, or finish what a stopped study left, and write the report."""
    from flatcore.studies.nonlinear_report import write

    images, labels = digits_data.load()
    traces: dict[str, Trace] = {}
    planned = [(a, r) for a in SETTINGS.architectures for r in runs_of(a, SETTINGS, folder.seed)]
    total, done = sum(a.cost for a, _ in planned), 0.0
    for a, r in planned:

        def tick(fraction: float, r: Run = r, done: float = done, share: float = a.cost) -> None:
            progress(r.title, 0.95 * (done + share * min(fraction, 1.0)) / total)

        tick(0.0)
        traces[r.name] = train(r, split(images, labels, r.seed, SETTINGS.held_out), folder, tick)
        done += a.cost
    progress("report", 0.95)
    result = write(folder, SETTINGS, (len(images) - SETTINGS.held_out, SETTINGS.held_out), traces)
    progress("done", 1.0)
    return result


def runs_of(a: Architecture, settings: Settings, seed: int) -> list[Run]:
    """An architecture's runs: all step sizes of a seed, seed after seed."""
    runs = []
    for repetition in range(seed, seed + settings.seeds):
        for eta in a.steps:
            steps = max(round(a.time / eta), 1)
            runs.append(
                Run(
                    name=f"{a.name}-{eta:g}-{repetition}",
                    title=f"{a.title}, η = {eta:g}, seed {repetition}",
                    architecture=a.name,
                    seed=repetition,
                    build=partial(a.build, (repetition, 12)),
                    step_size=eta,
                    max_steps=steps,
                    measure_at=spread(steps, a.measurements),
                    paths=settings.paths,
                    tol=settings.tol,
                )
            )
    return runs


def spread(steps: int, count: int) -> tuple[int, ...]:
    """At most `count` steps from 0 to `steps`, growing as squares: dense at first, and several in the second half."""
    return tuple(int(step) for step in np.unique(np.round(steps * np.linspace(0.0, 1.0, count) ** 2)))


def split(images: FloatArray, labels: FloatArray, seed: int, held_out: int) -> Digits:
    """Training and held-out images; pixels centred by the training mean and divided by one standard deviation."""
    order = np.random.default_rng([seed, 11]).permutation(len(images))
    test, kept = order[:held_out], order[held_out:]
    pixels = images.reshape(len(images), -1)
    mean = pixels[kept].mean(axis=0)
    scaled = (pixels - mean) / (pixels[kept] - mean).std()
    return Digits(scaled[kept], np.eye(CLASSES)[labels[kept]], labels[kept], scaled[test], labels[test])
