"""The loop around every solver: looks, the best weights so far, callbacks, checkpoints.

A solver is a :class:`Search`: it advances from one look at the errors to the next, and can be stored and restored. The
state stored is that of a look, so that an interrupted run, resumed, ends with the same bits: of the last one, or, where
a sweep is interrupted, which changes the state in place, of the last one that was copied.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from flatcore._atomic import PathLike, check_target, read_checkpoint, write_npz_atomic
from flatcore._checks import asks_to_stop
from flatcore.results import read_only
from flatcore.wfm.models import Committee
from flatcore.wfm.patterns import Patterns
from flatcore.wfm.results import WfmResult, WfmState

Callback = Callable[[WfmState], Any]
_SECONDS_BETWEEN_CHECKPOINTS = 30.0
_COPYING = 0.05  # of a run's time, at most, goes into copies of its state


@dataclass(frozen=True)
class Look:
    """One look: weights as the result would hold them (fresh memory), their errors, and numbers for the history."""

    weights: NDArray[Any]
    errors: int
    extras: dict[str, float] = field(default_factory=dict)
    done: bool = False  # ends the run: solved, or the schedule's end


class Search(Protocol):
    """A solver between two looks."""

    name: str
    advice: str  # what to change where it does not solve

    @property
    def sweeps(self) -> int:
        """Passes over the patterns so far."""

    def advance(self) -> Look:
        """Go on to the next look."""

    def arrays(self) -> dict[str, Any]:
        """Copies of everything that the next look depends on, generators included (see `generator_state`)."""

    def restore(self, arrays: dict[str, Any]) -> None:
        """Go on from what `arrays` returned."""


def solve(
    search: Search,
    model: Committee,
    patterns: Patterns,
    *,
    settings: dict[str, Any],
    seed: int,
    callback: Callback | None,
    checkpoint: PathLike | None,
) -> WfmResult:
    """Run a search to its end; `settings` are all arguments that its course depends on."""
    record = _Record()
    if checkpoint is None:
        _run(search, record, callback)
        return _result(search, model, patterns, record, seed)
    store = _Store(checkpoint, _key(search, model, patterns, settings, seed), search, record)
    store.restore()
    with store.kept():
        _run(search, record, callback, store)
        if not record.done:
            store.save()
    if record.done:
        store.remove()
    return _result(search, model, patterns, record, seed)


def _run(search: Search, record: _Record, callback: Callback | None, store: _Store | None = None) -> None:
    """Look after look until the search is done or the callback asks to stop."""
    stopped = False
    while not (record.done or stopped):
        if store is not None:
            store.leave()
        look = search.advance()
        record.add(look)
        if store is not None:
            store.arrive()
        if callback is not None:
            state = WfmState(record.steps, look.errors, look.weights.copy(), dict(look.extras))
            stopped = asks_to_stop(callback(state))


class _Record:
    """History and best weights."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.best: Look | None = None
        self.done = False

    @property
    def steps(self) -> int:
        return len(self.rows)

    def add(self, look: Look) -> None:
        self.rows.append({"errors": float(look.errors), **look.extras})
        self.done = look.done
        # A schedule that goes on beyond the first solution ends with flatter ones: the last of the best counts.
        if self.best is None or look.errors <= self.best.errors:
            self.best = look

    def snapshot(self) -> Callable[[], dict[str, Any]]:
        """What makes the arrays of this moment, later: rows are only ever added."""
        rows, count, best, done = self.rows, len(self.rows), self.best, self.done
        assert best is not None
        return lambda: {
            "record_rows": np.array(json.dumps(rows[:count])),
            "record_weights": best.weights,
            "record_errors": np.array(best.errors),
            "record_done": np.array(done),
        }

    def restore(self, arrays: dict[str, Any]) -> None:
        self.rows = json.loads(str(arrays["record_rows"]))
        self.best = Look(arrays["record_weights"], int(arrays["record_errors"]))
        self.done = bool(arrays["record_done"])


class _Store:
    """The checkpoint of one run."""

    def __init__(self, path: PathLike, key: str, search: Search, record: _Record) -> None:
        self._place, self._key, self._search, self._record = check_target(path), key, search, record
        self._copy: tuple[dict[str, Any], Callable[[], dict[str, Any]]] | None = None
        self._at_a_look = False  # search and record are those of one look
        self._warned = False
        self._written, self._copied, self._copying = time.monotonic(), 0.0, 0.0

    def restore(self) -> None:
        found = read_checkpoint(self._place, ("key",))
        if found is None:
            return
        if str(found["key"]) != self._key:
            raise ValueError(
                f"{self._place} is the checkpoint of another run; expected the same model, patterns, solver and "
                "arguments, or another file"
            )
        self._search.restore(found)
        self._record.restore(found)
        self._at_a_look = True

    def leave(self) -> None:
        """Before the search goes on: a copy of the last look, unless one was made not long ago for what it costs."""
        now = time.monotonic()
        due = self._copy is None or _COPYING * (now - self._copied) >= self._copying
        if self._at_a_look and due:
            self._renew()
            self._copied = time.monotonic()
            self._copying = self._copied - now
        self._at_a_look = False

    def arrive(self) -> None:
        """After a look."""
        self._at_a_look = True
        if time.monotonic() - self._written > _SECONDS_BETWEEN_CHECKPOINTS:
            self.save()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Where the block is interrupted, a look is on disk, or the interruption says why not."""
        try:
            yield
        except BaseException as interruption:
            try:
                self._write()
            except OSError as failure:
                raise interruption from failure
            raise

    def save(self) -> None:
        """Write a look; where that fails, warn once and let the run go on."""
        try:
            self._write()
        except OSError as failure:
            if not self._warned:
                warnings.warn(f"the checkpoint {self._place} could not be written: {failure}", stacklevel=2)
            self._warned = True
        self._written = time.monotonic()

    def _renew(self) -> None:
        self._copy = None  # first, so that there are never two
        self._copy = self._search.arrays(), self._record.snapshot()

    def _write(self) -> None:
        if self._at_a_look:
            self._renew()
        if self._copy is None:
            return
        state, record = self._copy
        write_npz_atomic(self._place, {"key": np.array(self._key), **state, **record()})

    def remove(self) -> None:
        Path(self._place).unlink(missing_ok=True)


def generator_state(rng: np.random.Generator) -> NDArray[Any]:
    """A generator's state as an array of one string, for `Search.arrays`."""
    return np.array(json.dumps(rng.bit_generator.state))


def restore_generator(rng: np.random.Generator, stored: NDArray[Any]) -> None:
    """Put a generator into the state that `generator_state` returned."""
    rng.bit_generator.state = json.loads(str(stored))


def _key(search: Search, model: Committee, patterns: Patterns, settings: dict[str, Any], seed: int) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((search.name, model, sorted(settings.items()), int(seed))).encode())
    digest.update(patterns.words.data)
    digest.update(patterns.labels.data)
    return digest.hexdigest()


def _result(search: Search, model: Committee, patterns: Patterns, record: _Record, seed: int) -> WfmResult:
    best = record.best
    assert best is not None
    status = "solved" if best.errors == 0 else "not_solved" if record.done else "stopped"
    looks = f"after {record.steps} looks"
    message = {
        "solved": f"No errors {looks}.",
        "not_solved": f"{best.errors} errors remain {looks}: {search.advice}.",
        "stopped": f"The callback stopped the run {looks}, with {best.errors} errors.",
    }[status]
    names = list(record.rows[0])
    return WfmResult(
        solver=search.name,
        model=model,
        weights=read_only(best.weights),
        errors=best.errors,
        status=status,
        message=message,
        alpha=patterns.num_patterns / model.num_weights,
        sweeps=search.sweeps,
        seed=seed,
        history={name: read_only(np.array([row[name] for row in record.rows])) for name in names},
    )
