"""sweep: the analysis of many checkpoints, to one table."""

from __future__ import annotations

import dataclasses
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import flatcore
from flatcore import _core
from flatcore._atomic import PathLike, check_target
from flatcore._checks import check_choice, check_count, check_flags, check_progress, counted
from flatcore.checkpoints import Rules
from flatcore.io import natural_key
from flatcore.results import SweepPlan, SweepResult
from flatcore.results.sweeps import duration
from flatcore.spectral._tolerance import checked_tol
from flatcore.sweep.discovery import Item, by_step, discover, identity, segments
from flatcore.sweep.journal import Entry, Journal, check_folder, peek
from flatcore.sweep.planning import plan, size_of
from flatcore.sweep.pools import Given, Here, LocalProcesses, Pool, slots_of
from flatcore.sweep.rows import Row, columns, writable
from flatcore.sweep.running import Segment, run
from flatcore.sweep.tables import check_ending, write_table
from flatcore.sweep.work import Outcome, Task

Progress = Callable[[str, float], None]
_FORESEEABLE = 0.02  # of the bytes, after which the time left is worth saying
_QUICK = 50_000_000  # bytes of a journal that becomes a table within a second or two


def sweep(
    paths: PathLike | Iterable[PathLike],
    out: PathLike,
    *,
    k: int = 8,
    rules: Rules | None = None,
    tol: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    executor: Executor | None = None,
    workers: int | None = None,
    warm: bool = True,
    order: str = "natural",
    spectra_only: bool = False,
    restart: bool = False,
    retry_failed: bool = False,
    dry_run: bool = False,
    started: Callable[[SweepPlan], None] | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Analyse many checkpoints and write one table, surviving whatever ends it; started again it goes on.

    Parameters
    ----------
    paths
        Files, folders and patterns, as in :func:`flatcore.sweep.discovery.discover`.
    out
        The table: ``.parquet``, ``.csv`` or ``.jsonl``. Its journal, ``OUT.sweep/``, stays beside it and lets the sweep
        go on, also with checkpoints that were not there before; without it the table is final.
    k, rules, tol, seed
        As in :func:`flatcore.checkpoints.analyze_checkpoint`.
    threads
        Of each worker; None shares the machine's between local workers.
    executor
        Any `concurrent.futures.Executor`, whose processes see the checkpoints under the same paths. It is not shut
        down. None works here or, with more than one worker, in processes that are spawned (a script then needs
        ``if __name__ == "__main__":``).
    workers
        Checkpoints analysed at a time; None is 1, or as many as the executor has.
    warm
        Start each search from the vectors of the checkpoint before it.
    order
        ``"natural"``, or ``"given"``: one trajectory of all paths as they come.
    spectra_only
        Leave out effective ranks, heads and pairs, which take as long as the searches or longer, warm or not.
    restart
        Throw away what is there.
    retry_failed
        Try again what failed before; otherwise only files that have changed since.
    dry_run
        Only say what would be done, in ``result.plan``; nothing is written.
    started
        Called with the plan before the work begins.
    progress
        Called with what was done and the fraction of the bytes.

    Returns
    -------
    SweepResult

    Raises
    ------
    ValueError
        Bad arguments, patterns that match nothing, another sweep at work on the table, a journal of other settings.
    MemoryError
        Before starting: the largest tensor does not fit.
    OSError
        The journal or the table cannot be written, or the executor is gone; what is finished is kept.
    ModuleNotFoundError
        Parquet without pyarrow.

    Examples
    --------
    >>> import numpy as np, tempfile, flatcore.sweep
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for step in (9, 10):
    ...         np.savez(f"{folder}/step{step}.npz", W1=np.diag([3.0, 2.0]) * step)
    ...     result = flatcore.sweep.sweep(f"{folder}/step*.npz", f"{folder}/all.csv", k=1)
    ...     print(result.files, result.computed, result.certified)
    2 2 True

    """
    place = _checked(out, k, tol, seed, workers, order)
    Rules.check(rules)
    check_flags(warm=warm, spectra_only=spectra_only, restart=restart, retry_failed=retry_failed, dry_run=dry_run)
    check_progress(progress)
    _check_calls(executor, started)
    asked = {"k": k, "tol": tol, "seed": seed, "spectra_only": spectra_only}
    settings = {"flatcore": flatcore.__version__, **asked, "rules": None if rules is None else repr(rules)}
    items, left_aside = discover(paths, order)
    options = {**asked, "rules": rules, "threads": threads}
    count = workers or (1 if executor is None else slots_of(executor))
    job = _Job(place, items, left_aside, count, executor, warm, retry_failed, options, started, progress)
    if dry_run:
        done = {} if restart else peek(place, settings)
        foreseen = job.plan(job.segments(done, lambda path: False))
        return _result(place, items, done, [], 0.0, 0, foreseen)
    with Journal(place, settings, restart=restart) as journal:
        return job.run(journal)


def _checked(out: PathLike, k: int, tol: float | None, seed: int, workers: int | None, order: str) -> Path:
    """Where the table goes, links followed; everything else checked as well."""
    place = check_target(out)
    check_ending(place)
    check_folder(place)
    check_count("k", k)
    checked_tol(tol, np.dtype(np.float64))
    check_count("seed", seed, 0)
    if workers is not None:
        check_count("workers", workers)
    check_choice("order", order, ("natural", "given"))
    return place


def _check_calls(executor: Any, started: Any) -> None:
    if executor is not None and (isinstance(executor, type) or not callable(getattr(executor, "submit", None))):
        raise ValueError(f"executor is {executor!r}; expected a concurrent.futures.Executor, or None")
    if started is not None and not callable(started):
        raise ValueError(f"started is {started!r}; expected a function of the plan, or None")


@dataclass
class _Job:
    """A sweep whose arguments were checked."""

    out: Path
    items: list[Item]
    left_aside: tuple[str, ...]
    workers: int
    executor: Executor | None
    warm: bool
    retry_failed: bool
    options: dict[str, Any]
    started: Callable[[SweepPlan], None] | None
    progress: Progress | None

    def segments(self, done: Mapping[str, Entry], has_vectors: Callable[[str], bool]) -> list[Segment]:
        """What is to be done, in order."""
        out = []
        for items in segments(self.items, self.workers, self.warm):
            todo = [place for place, item in enumerate(items) if not self._is_done(done.get(item.path), item)]
            kept = [place for place, item in enumerate(items) if self.warm and has_vectors(item.path)]
            out.append(Segment(items, deque(todo), kept))
        return out

    def _is_done(self, entry: Entry | None, item: Item) -> bool:
        if entry is None or entry.identity != identity(item.path):
            return False
        return not (entry.failed and self.retry_failed)

    def plan(self, parts: list[Segment]) -> SweepPlan:
        """What it will cost."""
        done = len(self.items) - sum(len(part.todo) for part in parts)
        options = {name: self.options[name] for name in ("k", "threads", "spectra_only")}
        foreseen = plan(self.out, parts, done, workers=self.workers, shared=self.executor is None, **options)
        return dataclasses.replace(foreseen, left_aside=self.left_aside)

    def run(self, journal: Journal) -> SweepResult:
        """Do it."""
        parts = self.segments(journal.entries, journal.has_vectors)
        foreseen = self.plan(parts)
        if self.started is not None and foreseen.paths:
            self.started(foreseen)
        meter, began = _Meter(foreseen, self.progress), time.perf_counter()
        pool, options = self._pool(foreseen.workers, meter), self._options(foreseen.workers)
        try:
            run(parts, pool, journal, options, meter.finished)
        except BaseException:
            if journal.nbytes <= _QUICK:
                with suppress(OSError):
                    journal.reload()
                    self._write(journal)
            raise
        seconds = time.perf_counter() - began
        journal.forget_all_vectors()
        rows = self._write(journal)
        return _result(self.out, self.items, journal.entries, foreseen.paths, seconds, rows, foreseen)

    def _pool(self, workers: int, meter: _Meter) -> Pool:
        if self.executor is not None:
            return Given(self.executor, self.workers)
        return LocalProcesses(workers) if workers > 1 else Here(meter.inside)

    def _options(self, workers: int) -> dict[str, Any]:
        """Local workers share the machine's threads."""
        if self.executor is not None or self.options["threads"] is not None or workers == 1:
            return self.options
        return {**self.options, "threads": max(1, _core.max_threads() // workers)}

    def _write(self, journal: Journal) -> int:
        """The table of everything in the journal; says how many rows."""
        now = {item.path: item for item in self.items}  # what others are there may have changed a trajectory's name
        found = {path: now.get(path, entry) for path, entry in journal.entries.items()}
        order = sorted(found, key=lambda p: (natural_key(found[p].trajectory), by_step(found[p]), natural_key(p)))
        made = journal.folder / f"table{self.out.suffix}"
        try:
            count = write_table(made, _rows(journal, order, found), columns(self.options["k"]))
            os.replace(made, self.out)
        except OSError as error:
            reason = f"{error.strerror or error}; what is finished is kept in the journal"
            raise OSError(error.errno, reason, str(self.out)) from None
        return count


def _rows(journal: Journal, order: Iterable[str], found: Mapping[str, Item | Entry]) -> Iterator[Row]:
    for record in journal.records(order):
        known = found[record["path"]]
        shared = {"trajectory": known.trajectory, "step": known.step, "path": record["path"]}
        shared = {name: writable(value) for name, value in shared.items() if value is not None}
        yield from ({**shared, **row} for row in record["rows"])


def _result(
    out: Path,
    items: list[Item],
    entries: Mapping[str, Entry],
    computed: Sequence[str],
    seconds: float,
    rows: int,
    foreseen: SweepPlan,
) -> SweepResult:
    asked = [entries[item.path] for item in items if item.path in entries]
    return SweepResult(
        out=str(out),
        files=len(items),
        computed=len(computed),
        skipped=foreseen.done,
        failed=sum(entry.broken for entry in asked),
        uncertified=sum(entry.uncertified and not entry.broken for entry in asked),
        rows=rows,
        nbytes=foreseen.nbytes if computed else 0,
        seconds=seconds,
        plan=foreseen,
    )


class _Meter:
    """How far a sweep is, by the bytes of its files."""

    def __init__(self, foreseen: SweepPlan, progress: Progress | None) -> None:
        self._progress, self._files, self._total = progress, len(foreseen.paths), max(1, foreseen.nbytes)
        self._done = self._bytes = 0
        self._began = time.perf_counter()
        self._tell(0)

    def finished(self, outcome: Outcome) -> None:
        """Another checkpoint is in the journal."""
        self._done += 1
        self._bytes += size_of(outcome.path)
        self._tell(0)

    def inside(self, task: Task) -> Progress:
        """Hears how far the one checkpoint under way is."""
        size = size_of(task.path)
        return lambda what, fraction: self._tell(fraction * size)

    def _tell(self, more: float) -> None:
        if self._progress is None:
            return
        done, seconds = self._bytes + more, max(1e-9, time.perf_counter() - self._began)
        known = _FORESEEABLE * self._total < done <= self._total
        left = f", {duration(seconds * (self._total - done) / done)} left" if known else ""
        text = f"{self._done} of {counted(self._files, 'checkpoint')}, {done / seconds / 1e9:.3g} GB/s{left}"
        self._progress(text, min(1.0, done / self._total))
