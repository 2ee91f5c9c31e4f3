"""Runs workloads: set-up, first call and its check, interleaved rounds; collects what the JSON and the tables say.

A workload is a sequence of cases and, for full-size runs, targets judged on their results. A case is a table: entries
(a contender on a problem) timed against each other, the first of them the base of the ratios. A problem knows its
argument, its work and how an answer is checked; nothing here knows what the question is.

Ctrl-C ends a run with the rounds that are complete; an entry without one counts with its first call.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.contenders.base import CannotAnswerError, Contender
from benchmarks.process import Address, Memory, Remote, peak_memory
from benchmarks.timing import (
    MATMUL_SIZE,
    Stages,
    Work,
    Yardsticks,
    interleaved_rounds,
    median_of_ratios,
    ratio_of_medians,
    seconds_of,
)

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    quick: bool = False  # small sizes, to check answers; targets are not judged
    full: bool = False  # also the contenders that take minutes
    rounds: int = 5
    skip: tuple[str, ...] = ()  # contenders are left out whose names hold one of these
    memory: bool = False  # also the peak memory of every entry, in a process of its own
    scratch: Path | None = None  # folder for files of several GB; the system's temporary folder without one


@dataclass(frozen=True)
class Agreement:
    """Relative difference of an answer from a reference, and what is allowed."""

    reference: str
    difference: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


class Problem(Protocol):
    """A question: what a contender is prepared with and called on.

    It may also have ``quality(answer)``, figures by name that say how good an answer is without judging it, such as a
    residual or a number of failures.
    """

    @property
    def argument(self) -> Any:
        """What each call is given."""

    @property
    def dtype(self) -> str:
        """Precision, which chooses the yardstick."""

    @property
    def work(self) -> Work | None:
        """What one call has to do at least, where that can be counted."""

    def describe(self) -> dict[str, Any]:
        """Sizes, for the JSON."""

    def agreements(self, answer: Any) -> list[Agreement]:
        """The answer against independent references."""


@dataclass(frozen=True)
class Entry:
    """A row of a table: a contender on a problem."""

    contender: Contender
    problem: Problem
    label: str


@dataclass(frozen=True)
class Case:
    """A table; its first entry is the base of the ratios."""

    name: str
    entries: Sequence[Entry]
    matmul_sizes: Sequence[int] = (MATMUL_SIZE,)  # yardsticks taken with it
    rounds: int | None = None  # fewer than the command line's, for long runs
    compares: bool = True  # its entries answer one question; else there are no ratios to show


@dataclass
class EntryResult:
    """What was measured of an entry; seconds."""

    label: str
    problem: dict[str, Any]
    work: Work | None
    setup: float
    setup_stages: dict[str, float]
    first: float
    agreements: list[Agreement]
    rounds: list[float] = field(default_factory=list)
    quality: dict[str, float] = field(default_factory=dict)
    memory: Memory | None = None
    threads: int | None = None  # that the contender limits itself to
    timed_once: bool = False  # by the first call
    median: float = 0.0
    minimum: float = 0.0
    ratio_of_medians: float = 1.0  # this entry's over the base's
    median_of_ratios: float | None = None
    gflops_per_second: float | None = None
    edges_per_second: float | None = None
    roofline: float | None = None
    fraction_of_roofline: float | None = None

    @property
    def agrees(self) -> bool:
        """Whether the answer agrees with every reference."""
        return all(agreement.agrees for agreement in self.agreements)


@dataclass
class CaseResult:
    """A measured table, and who could not take part."""

    name: str
    entries: list[EntryResult]
    missing: dict[str, str]  # reasons by label: not installed, or no answer
    compares: bool = True

    def entry(self, label: str) -> EntryResult | None:
        """The row with this label, if it was measured."""
        return next((entry for entry in self.entries if entry.label == label), None)


@dataclass(frozen=True)
class Target:
    """A number the project aims at; `met` is None where it could not be measured."""

    name: str
    value: float | None
    bound: str
    met: bool | None


@dataclass(frozen=True)
class Workload:
    """What is measured under one name."""

    name: str
    summary: str
    cases: Callable[[Options], Iterator[Case]]
    targets: Callable[[Sequence[CaseResult], Yardsticks], list[Target]]
    judges: str = ""  # the targets it judges, such as "P1 P2"
    in_quick: bool = True  # whether --quick without a name runs it


@dataclass
class WorkloadResult:
    """Everything about one run of a workload."""

    workload: str
    summary: str
    options: Options
    yardsticks: Yardsticks
    cases: list[CaseResult] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    interrupted: bool = False

    @property
    def agrees(self) -> bool:
        """Whether all answers agree."""
        return all(entry.agrees for case in self.cases for entry in case.entries)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "workload": self.workload,
            "summary": self.summary,
            "options": {**asdict(self.options), "scratch": None},  # a path says nothing
            "interrupted": self.interrupted,
            "yardsticks": {"best_of": self.yardsticks.repeats, **self.yardsticks.measured},
            "answers_agree": self.agrees,
            "cases": [_case_dict(case) for case in self.cases],
            "targets": [asdict(target) for target in self.targets],
        }


def _case_dict(case: CaseResult) -> dict[str, Any]:
    rows = [
        {**asdict(entry), "agreements": [{**asdict(a), "agrees": a.agrees} for a in entry.agreements]}
        for entry in case.entries
    ]
    return {"name": case.name, "entries": rows, "missing": case.missing}


def run(workload: Workload, options: Options, yardsticks: Yardsticks, say: Say) -> WorkloadResult:
    """Run all cases of a workload, `say` being told what is being done; then the rooflines, and the targets."""
    result = WorkloadResult(workload.name, workload.summary, options, yardsticks)
    try:
        for number, case in enumerate(workload.cases(options)):
            result.cases.append(CaseResult(case.name, [], {}, case.compares))
            run_case(case, Address.of(workload.cases, number), options, yardsticks, say, result.cases[-1])
    except KeyboardInterrupt:
        result.interrupted = True
    for entry in (entry for case in result.cases for entry in case.entries):
        if entry.work is not None:
            entry.roofline = yardsticks.roofline(entry.work, entry.problem["dtype"], entry.threads)
        entry.fraction_of_roofline = None if entry.roofline is None else entry.roofline / entry.median
    if not options.quick and not result.interrupted:
        result.targets = workload.targets(result.cases, yardsticks)
    return result


def run_case(
    case: Case, address: Address, options: Options, yardsticks: Yardsticks, say: Say, result: CaseResult
) -> None:
    """Set up, check and time the entries of one case into `result`."""
    calls: dict[str, Callable[[], Any]] = {}
    times: dict[str, list[float]] = {}
    try:
        for entry in case.entries:
            if any(text in entry.contender.name for text in options.skip):
                result.missing[entry.label] = "left out"
                continue
            say(f"{case.name}: {entry.label}: set-up, first call, check")
            _prepare_into(result, entry, calls)
        rounds = options.rounds if case.rounds is None else min(case.rounds, options.rounds)
        say(f"{case.name}: {rounds} rounds")
        for threads in dict.fromkeys([None, *(entry.threads for entry in result.entries)]):
            yardsticks.take(case.entries[0].problem.dtype, case.matmul_sizes, threads)
        first = {entry.label: entry.first for entry in result.entries}
        interleaved_rounds(calls, first, rounds, times, most_calls=1 if options.quick else None)
    finally:
        for measured in result.entries:
            _evaluate(measured, times.get(measured.label, []), result.entries[0], times)
        for entry in case.entries:
            if isinstance(entry.contender, Remote):  # it was in a process of its own all the time
                _set_memory(result.entry(entry.label), entry.contender.memory)
                entry.contender.close()
    for number, entry in enumerate(case.entries):
        if options.memory and not isinstance(entry.contender, Remote) and entry.label not in result.missing:
            say(f"{case.name}: {entry.label}: peak memory, in a process of its own")
            _set_memory(result.entry(entry.label), peak_memory(address.entry(number), options))


def _prepare_into(result: CaseResult, entry: Entry, calls: dict[str, Callable[[], Any]]) -> None:
    """Set up an entry, make and check its first call; or note why it is missing."""
    reason = entry.contender.available()
    if reason is None:
        try:
            measured, calls[entry.label] = _prepared(entry)
            result.entries.append(measured)
        except CannotAnswerError as error:
            reason = f"no answer: {error}"
    else:
        reason = f"missing: {reason}"
    if reason is not None:
        result.missing[entry.label] = reason


def _prepared(entry: Entry) -> tuple[EntryResult, Callable[[], Any]]:
    """Set up a contender, make and check its first call; the call comes along."""
    stages = Stages()
    problem = entry.problem
    if hasattr(entry.contender, "load"):
        entry.contender.load(problem)
    setup, answer_to = seconds_of(lambda: entry.contender.prepare(problem, stages))

    def call() -> Any:
        return answer_to(problem.argument)

    first, answer = seconds_of(call)
    agreements = problem.agreements(answer)
    quality = problem.quality(answer) if hasattr(problem, "quality") else {}
    measured = EntryResult(
        entry.label,
        problem.describe(),
        problem.work,
        setup,
        stages.seconds,
        first,
        agreements,
        quality=quality,
        threads=getattr(entry.contender, "threads", None),
    )
    return measured, call


def _evaluate(entry: EntryResult, rounds: list[float], base: EntryResult, times: dict[str, list[float]]) -> None:
    base_rounds = times.get(base.label, [])
    entry.rounds = rounds
    entry.timed_once = not rounds
    counted = rounds or [entry.first]
    entry.median, entry.minimum = statistics.median(counted), min(counted)
    entry.ratio_of_medians = ratio_of_medians(counted, base_rounds or [base.first])
    entry.median_of_ratios = median_of_ratios(rounds, base_rounds) if rounds else None
    if entry.work is not None:
        entry.gflops_per_second = entry.work.flops / entry.median / 1e9
        entry.edges_per_second = None if entry.work.edges is None else entry.work.edges / entry.median


def _set_memory(measured: EntryResult | None, memory: Memory | None) -> None:
    if measured is not None:
        measured.memory = memory


def entries_for(contenders: Iterable[Contender], problem: Problem) -> list[Entry]:
    """Every contender on the same problem."""
    return [Entry(contender, problem, contender.name) for contender in contenders]


def fastest_peer(case: CaseResult) -> EntryResult | None:
    """The fastest entry after the base."""
    return min(case.entries[1:], key=lambda entry: entry.median, default=None)


def peer_ratio(entry: EntryResult | None) -> float | None:
    """How many times slower than the base: the rounds' median ratio, or the medians' where there are no rounds."""
    if entry is None:
        return None
    return entry.ratio_of_medians if entry.median_of_ratios is None else entry.median_of_ratios


def entry_median(entry: EntryResult | None) -> float | None:
    """Seconds, where it was measured."""
    return None if entry is None else entry.median


def no_targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """For workloads that compare and aim at nothing."""
    return []


def at_most(name: str, value: float | None, bound: float) -> Target:
    """A target that is met below the bound."""
    return Target(name, value, f"≤ {bound:g}", None if value is None else value <= bound)


def at_least(name: str, value: float | None, bound: float) -> Target:
    """A target that is met above the bound."""
    return Target(name, value, f"≥ {bound:g}", None if value is None else value >= bound)
