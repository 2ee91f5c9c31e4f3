"""What a sweep over many checkpoints will do, and what it did."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from flatcore._checks import counted, human, human_bytes, listed
from flatcore.results.record import Record, number

_SHOWN = 12  # trajectories in a summary


@dataclass(frozen=True, repr=False)
class SweepPlan(Record):
    """What a sweep is about to do, estimated before it starts.

    ``trajectories`` are (pattern, files to do, their bytes), in order; ``paths`` the files to do in order, ``done`` how
    many are done already. The predicted time is

        seconds = nbytes/read_rate + reads · entries/product_rate + 0.01 a checkpoint,

    with ``read_rate`` (bytes/s) measured on a piece of the first file, cached or not, ``product_rate`` (entries/s) on a
    random matrix, and ``reads``, what a search is expected to take, cold for the first file of a segment and warm for
    the others; NaN where nothing is to be done. ``memory`` is what one worker needs beyond mapped files, twice the
    largest tensor and 300 MB; ``available`` what is free now, 0 where the system does not tell. ``workers`` were
    reduced to what fits where ``note`` says so. ``left_aside`` are files that patterns or folders held and that were
    not taken for checkpoints: states of optimizers, schedulers and generators, arguments of a training.
    """

    out: str
    trajectories: tuple[tuple[str, int, int], ...]
    paths: tuple[str, ...]
    done: int
    nbytes: int
    entries: int
    largest: int
    memory: int
    available: int
    workers: int
    segments: int
    reads: tuple[int, int]
    read_rate: float
    product_rate: float
    seconds: float
    note: str = ""
    left_aside: tuple[str, ...] = ()

    def _title(self) -> str:
        return f"sweep to {self.out}"

    def _lines(self) -> Iterator[tuple[str, str]]:
        ready = f", {self.done} done already" if self.done else ""
        count = len(self.trajectories)
        yield "to do", f"{counted(len(self.paths), 'checkpoint')}, {human_bytes(self.nbytes)}{ready}"
        yield from self._left_aside_lines()
        if not self.paths:
            return
        yield "trajectories", f"{count}, in {counted(self.segments, 'segment')}"
        for pattern, files, nbytes in self.trajectories[:_SHOWN]:
            yield "", f"{pattern}: {files}, {human_bytes(nbytes)}"
        if count > _SHOWN:
            yield "", f"and {count - _SHOWN} more"
        yield (
            "memory",
            f"{human_bytes(self.memory)} a worker (largest tensor {human_bytes(self.largest)}), "
            f"{counted(self.workers, 'worker')}; {human_bytes(self.available)} available",
        )
        yield (
            "time",
            f"about {duration(self.seconds)}: reading at {human_bytes(self.read_rate)}/s once, {self.reads[0]} passes "
            f"(warm {self.reads[1]}) over {human(self.entries)} entries at {human(self.product_rate)} entries/s",
        )
        if self.note:
            yield "note", self.note

    def _left_aside_lines(self) -> Iterator[tuple[str, str]]:
        if self.left_aside:
            yield "left aside", left_aside_text(self.left_aside)

    def __repr__(self) -> str:
        return f"SweepPlan({len(self.paths)} checkpoints, {self.nbytes} bytes, {self.workers} workers)"


@dataclass(frozen=True, repr=False)
class SweepResult(Record):
    """What a sweep did.

    ``computed`` files were analysed now, ``skipped`` had been before; ``failed`` of all of them could not be, and
    ``uncertified`` have a tensor that failed or missed the tolerance (both counted over all files asked for). ``rows``
    are in the table at ``out``, which holds everything in the journal. ``nbytes`` were read of in ``seconds``.
    """

    out: str
    files: int
    computed: int
    skipped: int
    failed: int
    uncertified: int
    rows: int
    nbytes: int
    seconds: float
    plan: SweepPlan = field(repr=False)

    @property
    def rate(self) -> float:
        """Bytes of checkpoints a second."""
        return self.nbytes / self.seconds if self.seconds > 0.0 else 0.0

    @property
    def certified(self) -> bool:
        """Whether every file was read and every triplet of every tensor reached the tolerance."""
        return self.failed == 0 and self.uncertified == 0

    def _title(self) -> str:
        return f"sweep to {self.out}"

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "checkpoints", f"{self.files}: {self.computed} analysed, {self.skipped} done before"
        if not self.certified:
            yield (
                "errors",
                f"{self.failed} could not be analysed, {self.uncertified} "
                f"{'is' if self.uncertified == 1 else 'are'} not certified",
            )
        yield from self.plan._left_aside_lines()
        yield "rows", str(self.rows)
        if self.computed:
            rate = f"{number(self.rate / 1e9, 3)} GB/s"
            yield "rate", f"{human_bytes(self.nbytes)} in {duration(self.seconds)}, {rate}"

    def __repr__(self) -> str:
        return f"SweepResult({self.out!r}, {self.files} files, {self.failed} failed, {self.rows} rows)"


def left_aside_text(files: tuple[str, ...]) -> str:
    """Files that hold the state of a training and no model, in words: their names, and how often each is there."""
    names = Counter(os.path.basename(file) for file in files)
    texts = [f"{count} × {name}" if count > 1 else name for name, count in names.items()]
    return f"{counted(len(files), 'file')} with the state of a training and no model: {listed(texts, 12)}"


def duration(seconds: float) -> str:
    """A time for people."""
    for size, unit in ((86400.0, "d"), (3600.0, "h"), (60.0, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{number(seconds, 3)} s"
