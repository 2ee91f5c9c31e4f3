"""What the online solvers share: patterns one after another, random orders, errors by epoch."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore import _core
from flatcore._atomic import PathLike
from flatcore._checks import check_callback
from flatcore._threads import limit_threads
from flatcore.wfm._arguments import check_size, stream
from flatcore.wfm.models import Committee, normalised
from flatcore.wfm.patterns import Patterns, random_weights, rows_of, sign_words
from flatcore.wfm.predictions import binary_errors
from flatcore.wfm.results import WfmResult
from flatcore.wfm.solving import Callback, Look, generator_state, restore_generator, solve

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

    Subclasses have the machine's ``weights``, real or hidden, make an epoch, and name their settings, which become
    attributes. It ends without errors, or after ``max_epochs``.
    """

    name: str
    advice: str
    max_epochs: int

    def __init__(self, examples: Examples, rng: np.random.Generator, settings: dict[str, Any]) -> None:
        self.examples, self.rng, self.sweeps = examples, rng, 0
        vars(self).update(settings)
        self.weights = self.first_weights()

    def first_weights(self) -> Array:
        """Random weights of the machine."""
        return random_weights(self.examples.model, self.rng)

    def epoch(self, order: NDArray[np.int64]) -> dict[str, float]:
        """Learn the patterns in that order; numbers for the history."""
        raise NotImplementedError

    def advance(self) -> Look:
        extras = self.epoch(self.rng.permutation(self.examples.count))
        self.sweeps += 1
        shown = self.shown()
        diverged = not np.isfinite(shown).all()
        if diverged:  # ends the run; units that are no numbers are no weights
            shown = normalised(self.examples.model, np.where(np.isfinite(shown), shown, 0.0))
        errors = int(self.examples.errors(shown[None])[0])
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


def checked_epochs(max_epochs: int | None, default: int) -> int:
    """`max_epochs`, or the solver's default."""
    return default if max_epochs is None else check_size("max_epochs", max_epochs)


def learn(
    kind: type[EpochSearch],
    model: Committee,
    patterns: Patterns,
    settings: dict[str, Any],
    *,
    seed: int,
    threads: int | None,
    callback: Callback | None,
    checkpoint: PathLike | None,
) -> WfmResult:
    """Run a search of that kind to its end; `settings` are all arguments that its course depends on."""
    rng = stream("learning", seed)
    check_callback(callback, "WfmState")
    with limit_threads(threads):
        search = kind(Examples(model, patterns), rng, settings)
        return solve(search, model, patterns, settings=settings, seed=seed, callback=callback, checkpoint=checkpoint)
