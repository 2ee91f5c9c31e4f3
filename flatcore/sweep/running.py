"""Segments of checkpoints through a pool: one checkpoint of each at a time, in order; the journal on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any

from flatcore.sweep.discovery import Item, identity
from flatcore.sweep.journal import Journal
from flatcore.sweep.pools import Pool
from flatcore.sweep.work import Outcome, Task, failed

_HISTORY = 2  # checkpoints whose vectors are kept of a segment
TRIES = 3  # of a checkpoint whose worker dies
_PATIENCE = 0.2  # seconds between looks at the keyboard


@dataclass
class Segment:
    """Consecutive checkpoints of one trajectory.

    ``todo`` are the positions that are to be done, ``kept`` those whose vectors are kept, ``tries`` how often the next
    one's worker died.
    """

    items: Sequence[Item]
    todo: deque[int]
    kept: list[int]
    tries: int = 0

    @property
    def item(self) -> Item:
        """The one that is next."""
        return self.items[self.todo[0]]


def run(
    segments: Sequence[Segment],
    pool: Pool,
    journal: Journal,
    options: Mapping[str, Any],
    tell: Callable[[Outcome], None],
) -> None:
    """Analyse what is to be done and write it to the journal.

    Parameters
    ----------
    segments
        What is to be done.
    pool
        Where.
    journal
        Open for writing.
    options
        Of ``analyze_checkpoint``.
    tell
        Hears each outcome after it was written.

    Raises
    ------
    OSError
        The journal cannot be written, the executor broke, or its scheduler is gone. What is finished is in the journal.

    """
    waiting = deque(segment for segment in segments if segment.todo)
    active: dict[Future[Outcome], tuple[Segment, Task]] = {}
    try:
        while waiting or active:
            while waiting and len(active) < max(1, pool.slots):
                segment = waiting.popleft()
                task = _task(segment, journal, options)
                active[_submitted(pool, task)] = segment, task
            for future in wait(active, timeout=_PATIENCE, return_when=FIRST_COMPLETED).done:
                segment, task = active.pop(future)
                outcome = _outcome(future, task, segment, pool)
                if outcome is not None:
                    _keep(outcome, segment, journal)
                    tell(outcome)
                if segment.todo:
                    waiting.appendleft(segment)  # a segment begun is gone on with: fewer vectors are kept at a time
    except BaseException:
        pool.kill()
        raise


def _task(segment: Segment, journal: Journal, options: Mapping[str, Any]) -> Task:
    """The next checkpoint, with the vectors of the last two before it that left some."""
    before = sorted(position for position in segment.kept if position < segment.todo[0])[-_HISTORY:]
    found = [journal.vectors(segment.items[position].path) for position in before]
    history = tuple(vectors for vectors in found if vectors is not None)
    return Task(segment.item.path, segment.item.step, options, history)


def _submitted(pool: Pool, task: Task) -> Future[Outcome]:
    try:
        return pool.submit(task)
    except RuntimeError as error:  # BrokenExecutor, or one that was shut down
        raise ConnectionError(_gone(error)) from error


def _outcome(future: Future[Outcome], task: Task, segment: Segment, pool: Pool) -> Outcome | None:
    """What came of a task; None where it is to be tried again."""
    try:
        return future.result()
    except BrokenExecutor as error:
        if not pool.mends:
            raise ConnectionError(_gone(error)) from error
        segment.tries += 1
        reason = f"its worker process died {TRIES} times (killed, perhaps for want of memory, or crashed)"
        return failed(task.path, reason, identity(task.path)) if segment.tries >= TRIES else None
    except CancelledError as error:
        raise ConnectionError(_gone(error)) from error
    except Exception as error:
        if type(error).__name__ != "KilledWorker":  # Dask's, of a task whose workers died
            raise ConnectionError(f"a worker cannot run tasks ({type(error).__name__}: {error})") from error
        return failed(task.path, f"its workers died ({error})", identity(task.path))


def _gone(error: BaseException) -> str:
    return (
        f"the executor takes no more tasks ({type(error).__name__}: {error}); what is finished is kept, and the "
        "same sweep started again goes on from there"
    )


def _keep(outcome: Outcome, segment: Segment, journal: Journal) -> None:
    """Vectors first, then the line that says that the checkpoint is done, then older vectors away."""
    position = segment.todo[0]
    item, more = segment.items[position], len(segment.todo) > 1
    vectors = outcome.vectors if more else None
    if vectors is not None and not journal.keep_vectors(vectors):
        vectors = None
    record = {"path": item.path, "identity": outcome.identity, "trajectory": item.trajectory}
    journal.append({**record, "step": item.step, "rows": outcome.rows})
    segment.todo.popleft()
    segment.tries = 0
    if vectors is not None or not more:
        now = sorted({*(older for older in segment.kept if older < position), position})[-_HISTORY:] if more else []
        for older in set(segment.kept).difference(now):
            journal.forget_vectors(segment.items[older].path)
        segment.kept = now
