"""An entry of a table in a process of its own: what its memory peaks at, and how another build of flatcore does.

The child builds the problem, says so, and obeys: ``prepare`` and ``call`` do what the contender does, ``check``
compares the last answer. The parent samples the child's anonymous memory (RssAnon, Linux; pages of mapped files do not
count) every 10 ms while it waits.
"""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contenders.base import CannotAnswerError
from benchmarks.timing import Stages, Work

if TYPE_CHECKING:
    from benchmarks.runner import Agreement, Case, Options, Problem

SAMPLE_SECONDS = 0.01
MEMORY_SECONDS = 60.0  # peaks are looked for no longer
ROOT = Path(__file__).resolve().parent.parent


class ProcessEndedError(CannotAnswerError):
    """The child ended before it answered."""


@dataclass(frozen=True)
class Address:
    """Where a child finds its entry: a function that yields cases, the case's number, the entry's number."""

    module: str
    function: str
    case: int
    number: int = 0

    @classmethod
    def of(cls, cases: Callable[..., Iterator[Case]], case: int) -> Address:
        """The first entry of a case."""
        return cls(cases.__module__, cases.__qualname__, case)

    def entry(self, number: int) -> Address:
        """Another entry of the same case."""
        return replace(self, number=number)


@dataclass(frozen=True)
class Memory:
    """Bytes of anonymous memory: with the data alone, and at the peak of set-up and calls."""

    data: int
    peak: int
    complete: bool  # whether the call ended while memory was sampled


class EntryProcess:
    """The parent's end."""

    def __init__(self, address: Address, options: Options, site: Path | None = None, sample: bool = True) -> None:
        """Start the child and wait for its data; `site` holds the flatcore it imports, None: the installed one."""
        asked = {"address": asdict(address), "quick": options.quick, "full": options.full}
        asked["scratch"] = None if options.scratch is None else str(options.scratch)
        command = [sys.executable, "-W", "ignore", "-P", str(Path(__file__).with_name("entry_child.py"))]
        environment = dict(os.environ)
        if site is not None:
            environment["PYTHONPATH"] = str(site)
        self._child = subprocess.Popen(
            [*command, json.dumps(asked)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
        )
        self._sample = sample
        self.peak = 0
        self.ask()
        self.data = self.peak = anonymous_memory(self._child.pid)

    def ask(self, command: str = "", limit: float = float("inf")) -> Any:
        """Send a command and wait for the reply, at most `limit` seconds (then None), watching the memory."""
        if command:
            assert self._child.stdin is not None
            self._child.stdin.write(command.encode() + b"\n")
        assert self._child.stdout is not None
        end = time.monotonic() + limit
        while not select.select([self._child.stdout], [], [], SAMPLE_SECONDS if self._sample else None)[0]:
            self.peak = max(self.peak, anonymous_memory(self._child.pid))
            if time.monotonic() > end:
                return None
        self.peak = max(self.peak, anonymous_memory(self._child.pid))
        reply = self._child.stdout.readline()
        if not reply:
            raise ProcessEndedError(f"the process ended with code {self._child.wait()}")
        return json.loads(reply)

    def close(self) -> None:
        """End the child."""
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                stream.close()


def anonymous_memory(pid: int) -> int:
    """RssAnon of a process in bytes; 0 where the system does not tell, or the process is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def peak_memory(address: Address, options: Options) -> Memory | None:
    """Of set-up and one call; None where the system does not tell or the process ended early."""
    process = None
    try:
        process = EntryProcess(address, options)
        complete = all(process.ask(command, MEMORY_SECONDS) is not None for command in ("prepare", "call"))
        return Memory(process.data, process.peak, complete) if process.peak else None
    except ProcessEndedError:
        return None
    finally:
        if process is not None:
            process.close()


class Remote:
    """A contender that has another one answer in a process of its own; its answer is that process."""

    def __init__(self, name: str, address: Address, options: Options, *, sample: bool = True) -> None:
        self.name = name
        self.address, self._options, self._sample = address, options, sample
        self._process: EntryProcess | None = None

    def available(self) -> str | None:
        """None: whether the other one can run is the workload's to ask."""
        return None

    def site(self) -> Path | None:
        """The folder of the flatcore to import; None is the installed one."""
        return None

    def prepare(self, problem: Any, stage: Stages) -> Callable[[Any], EntryProcess]:
        """Start the process and let it set up."""
        with stage("process and data"):
            process = self._process = EntryProcess(self.address, self._options, self.site(), self._sample)
        with stage("set-up"):
            process.ask("prepare")

        def call(_: Any) -> EntryProcess:
            process.ask("call")
            return process

        return call

    @property
    def memory(self) -> Memory | None:
        """The peak so far."""
        process = self._process
        return Memory(process.data, process.peak, True) if process is not None and self._sample else None

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()


@dataclass(frozen=True)
class RemoteProblem:
    """The question of an entry that is answered in another process; answers are checked there."""

    inner: Problem
    argument: Any = None

    @property
    def dtype(self) -> str:
        """Precision, which chooses the yardstick."""
        return self.inner.dtype

    @property
    def work(self) -> Work | None:
        """That of the inner problem."""
        return self.inner.work

    def describe(self) -> dict[str, Any]:
        """Sizes, for the JSON."""
        return self.inner.describe()

    def agreements(self, answer: EntryProcess) -> Sequence[Agreement]:
        """What the other process finds, its memory no longer watched."""
        from benchmarks.runner import Agreement

        peak = answer.peak
        checked = answer.ask("check")
        answer.peak = peak
        return [Agreement(**agreement) for agreement in checked["agreements"]]
