"""Where tasks run: in this process, in spawned ones, or on somebody's executor.

A spawned process belongs to one task at a time. One that dies (killed, out of memory, a crash in native code) breaks
that task alone, and another process takes its place: with one pool of many processes all tasks would break, and nobody
would know whose fault it was. Processes end with their parent, however that ends, and do not hear Ctrl-C, which is the
parent's to handle.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from flatcore.sweep.work import Outcome, Progress, Task, analyse

ANSWER_WITHIN = 20.0  # seconds that a scheduler has
_WRITER = "dask scheduler --scheduler-file"
_SPAWNS = 3  # processes that may die one after the other before they are given their task
_UNKNOWN = 64  # tasks that an executor is given at a time which does not say how many it can run


class Pool(Protocol):
    """What runs tasks."""

    @property
    def slots(self) -> int:
        """How many tasks it can be given at a time."""

    @property
    def mends(self) -> bool:
        """Whether it goes on after one of its processes died."""

    def submit(self, task: Task) -> Future[Outcome]:
        """Begin a task; at most `slots` are under way."""

    def kill(self) -> None:
        """End what is under way, at once."""


class _OfProgress(BaseException):
    """What a progress raised, past everything that takes an exception for a checkpoint's."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class Here:
    """The process itself: a task is done when it has been submitted."""

    slots, mends = 1, True

    def __init__(self, progress: Callable[[Task], Progress]) -> None:
        self._progress = progress

    def submit(self, task: Task) -> Future[Outcome]:
        """Run the task; what its progress raises is no fault of the checkpoint, and goes on to the caller."""
        hears = self._progress(task)

        def heard(what: str, fraction: float) -> None:
            try:
                hears(what, fraction)
            except Exception as error:
                raise _OfProgress(error) from error

        future: Future[Outcome] = Future()
        try:
            future.set_result(analyse(task, heard))
        except _OfProgress as stopped:
            raise stopped.error from None
        return future

    def kill(self) -> None:
        """Nothing is under way."""


@dataclass
class _Process:
    """A spawned process, and the task it has or had last."""

    executor: ProcessPoolExecutor
    started: Future[int]
    future: Future[Outcome] | None = None

    @property
    def free(self) -> bool:
        return self.future is None or self.future.done()

    @property
    def broken(self) -> bool:
        return self.future is not None and isinstance(self.future.exception(), BrokenExecutor)


class LocalProcesses:
    """At most `slots` spawned processes.

    Parameters
    ----------
    workers
        How many.
    function
        What runs a task.

    """

    mends = True

    def __init__(self, workers: int, function: Callable[[Task], Outcome] = analyse) -> None:
        self.slots, self._function = workers, function
        self._processes: list[_Process] = []
        self._context = multiprocessing.get_context("spawn")

    def submit(self, task: Task) -> Future[Outcome]:
        """Begin a task in a process that has none; one that died while it had none is replaced."""
        for left in range(len(self._processes) + _SPAWNS, -1, -1):
            process = self._free()
            try:
                future = process.future = process.executor.submit(self._function, task)
                break
            except BrokenExecutor:
                self._drop(process)
                if not left:
                    raise
        return future

    def _free(self) -> _Process:
        """A process that has no task, a new one where there is none."""
        process = next((p for p in self._processes if p.free), None)
        if process is not None and process.broken:
            self._drop(process)
            process = None
        if process is None:
            process = self._spawned()
            self._processes.append(process)
        return process

    def _drop(self, process: _Process) -> None:
        """Forget a process that died."""
        self._processes.remove(process)
        process.executor.shutdown(wait=False)
        if process.started.exception() is not None:
            raise ConnectionError(
                "worker processes end before they begin: a script that sweeps with several workers needs "
                "if __name__ == '__main__':"
            )

    def kill(self) -> None:
        """Kill all processes."""
        for process in self._processes:
            spawned = list((process.executor._processes or {}).values())  # public from Python 3.14 on: kill_workers
            process.executor.shutdown(wait=False, cancel_futures=True)
            for child in spawned:
                child.kill()

    def _spawned(self) -> _Process:
        executor = ProcessPoolExecutor(1, mp_context=self._context, initializer=_end_with_parent)
        with _without_interrupts():  # the process inherits that
            return _Process(executor, executor.submit(os.getpid))


@contextmanager
def _without_interrupts() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Watch the parent, which may be killed; a process whose parent is gone would wait for ever."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def slots_of(executor: Executor) -> int:
    """As many as a pool has workers, as a Dask cluster has threads now (with one in store)."""
    client = getattr(executor, "_client", None)
    if client is not None:
        return 1 + int(sum(client.nthreads().values()))
    return int(getattr(executor, "_max_workers", _UNKNOWN))


class Given:
    """An executor of the caller's.

    Parameters
    ----------
    executor
        Any `concurrent.futures.Executor`; it is not shut down.
    slots
        How many tasks to give it at a time.

    """

    mends = False

    def __init__(self, executor: Executor, slots: int) -> None:
        self.slots, self._executor = slots, executor
        self._futures: set[Future[Outcome]] = set()

    def submit(self, task: Task) -> Future[Outcome]:
        """Begin a task."""
        future = self._executor.submit(analyse, task)
        self._futures = {f for f in self._futures if not f.done()} | {future}
        return future

    def kill(self) -> None:
        """Cancel what has not begun; the rest is its executor's."""
        for future in self._futures:
            future.cancel()


@contextmanager
def dask_executor(scheduler: str) -> Iterator[Any]:
    """The executor of a dask.distributed cluster, whose connection ends with the block.

    Parameters
    ----------
    scheduler
        An address (``tcp://host:8786``), or the file that a scheduler writes it to (``scheduler.json``).

    Raises
    ------
    ModuleNotFoundError
        dask.distributed is missing (the extra ``scale``).
    FileNotFoundError, ValueError
        There is no such file, it holds no address, what is given is none, or no scheduler answers.

    """
    import dask
    from distributed import Client

    address = _address(scheduler)
    # Start vectors travel with their task on purpose: what workers keep for others is lost with them.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "10GB"}), _quiet("distributed.client"):
        try:
            client = Client(address, timeout=ANSWER_WITHIN, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise ValueError(
                f"no scheduler answers at {scheduler} ({error}); expected a running dask scheduler"
            ) from None
        with client:
            yield client.get_executor(pure=False)


def _address(scheduler: str) -> str:
    """Where a scheduler is: a client that is given what leads nowhere takes long to go away."""
    address: Any = scheduler
    if scheduler.endswith(".json"):
        if not os.path.isfile(scheduler):
            raise FileNotFoundError(f"{scheduler} does not exist; expected what {_WRITER} writes")
        try:
            with open(scheduler, encoding="utf-8") as stream:
                address = json.load(stream)["address"]
            known = _has_port(address)
        except (ValueError, KeyError, TypeError):
            known = False
        if not known:
            raise ValueError(f"{scheduler} is not what {_WRITER} writes")
    elif not _has_port(scheduler):
        raise ValueError(f"{scheduler!r} is no address of a scheduler; expected tcp://host:8786, or its .json file")
    return str(address)


def _has_port(address: str) -> bool:
    """Whether an address has a host and a port; the protocol may be left out."""
    try:
        parts = urlsplit(address if "://" in address else f"tcp://{address}")
        return bool(parts.hostname and parts.port)
    except ValueError:
        return False


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without the messages of a logger: what happened to a scheduler is said once, by us."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)
