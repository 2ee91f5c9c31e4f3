"""What the online solvers share: patterns one after another, random orders, errors by epoch."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore import _core
from flatcore._checks import check_count
from flatcore.wfm.models import Committee, normalised
from flatcore.wfm.patterns import Patterns, rows_of, sign_words
from flatcore.wfm.predictions import binary_errors
from flatcore.wfm.solving import Look, generator_state, restore_generator

Array = NDArray[Any]


class Examples:
    """Patterns as the online kernels read them, and errors of weights on them."""

    def __init__(self, model: Committee, patterns: Patterns) -> None:
        self.model, self.patterns, self.labels = model, patterns, patterns.labels
        self.parity = model.activation == "parity"

    @cached_property
    def rows(self) -> Array:
        """A copy of the words, pattern by pattern."""
        return rows_of(self.patterns)

    @property
    def count(self) -> int:
        """P."""
        return len(self.labels)

    def errors(self, weights: Array) -> NDArray[np.int64]:
        """Errors (B,) of weights (B, K, n), ±1 for a binary machine."""
        if self.model.weights == "binary":
            return binary_errors(self.model, sign_words(weights), self.patterns)
        return _core.wfm_real_errors(self.patterns.words, self.labels, self.parity, np.ascontiguousarray(weights))


class EpochSearch:
    """A search that looks at the errors after every epoch, which learns all patterns in a fresh random order.

    Subclasses have the machine's ``weights``, real or hidden, and make an epoch. It ends without errors, or after
    `max_epochs`.
    """

    name: str
    advice: str

    def __init__(self, examples: Examples, weights: Array, rng: np.random.Generator, max_epochs: int) -> None:
        self.examples, self.weights, self.rng = examples, weights, rng
        self.max_epochs, self.sweeps = max_epochs, 0

    def epoch(self, order: NDArray[np.int64]) -> dict[str, float]:
        """Learn the patterns in that order; numbers for the history."""
        raise NotImplementedError

    def advance(self) -> Look:
        extras = self.epoch(self.rng.permutation(self.examples.count))
        self.sweeps += 1
        shown = self.shown()
        errors = int(self.examples.errors(shown[None])[0])
        diverged = not np.isfinite(shown).all()
        return Look(shown, errors, extras, done=errors == 0 or diverged or self.sweeps >= self.max_epochs)

    def shown(self) -> Array:
        """The weights as a result holds them."""
        model = self.examples.model
        if model.weights == "binary":
            return np.where(self.weights > 0, 1, -1).astype(np.int8)
        return normalised(model, self.weights)

    def arrays(self) -> dict[str, Any]:
        return {
            "weights": self.weights.copy(),
            "generator": generator_state(self.rng),
            "sweeps": np.array(self.sweeps),
        }

    def restore(self, arrays: dict[str, Any]) -> None:
        self.weights = np.ascontiguousarray(arrays["weights"])
        restore_generator(self.rng, arrays["generator"])
        self.sweeps = int(arrays["sweeps"])


def check_continuous(model: Committee, solver: str) -> None:
    """Refuse a machine without gradients."""
    if model.weights != "continuous":
        raise ValueError(f"model has {model.weights} weights; {solver} expects continuous ones")


def check_positive(name: str, value: Any, below: float = float("inf")) -> float:
    """A finite number > 0, and < `below`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise ValueError(f"{name} is {value!r}; expected a positive number")
    if not 0.0 < value < below or value == float("inf"):
        bound = "" if below == float("inf") else f" below {below:g}"
        raise ValueError(f"{name} is {value!r}; expected a positive number{bound}")
    return float(value)


def checked_epochs(max_epochs: int | None, default: int) -> int:
    """`max_epochs`, or the solver's default."""
    return default if max_epochs is None else check_count("max_epochs", max_epochs)
