"""Runs of the study ``nonlinear`` by architecture and step size. A seed gives all step sizes the same start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flatcore._checks import FloatArray
from flatcore.studies.nonlinear_training import Trace
from flatcore.studies.statistics import Comparison, with_error

Quantity = Callable[[Trace], float]


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


def flat_minus_sharp(groups: Sequence[Group], quantity: Quantity) -> Comparison:
    """Largest step size minus smallest, paired over seeds."""
    small, large = ({t.run.seed: quantity(t) for t in groups[i].traces} for i in (0, -1))
    differences = np.array([large[seed] - small[seed] for seed in small if seed in large])
    return Comparison(differences[np.isfinite(differences)])
