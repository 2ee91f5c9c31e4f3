"""Wall-clock times: interleaved rounds, and the yardsticks that travel between machines.

Every round runs each contender, the order rotated by one from round to round, so that slow drifts of the machine
(frequency, neighbours) and what one contender leaves behind (caches, spinning threads) fall on all alike. Short calls
are made several times in a row, until ``ROUND_SECONDS`` have passed, or ``MOST_CALLS`` are made and
``LEAST_SECONDS`` have passed, and the round counts with their median: the first ones find another contender's data in
the caches, a second core asleep and the clock that it left. Reported are medians, minima, the ratio of the medians and
the median of the rounds' ratios. The first call of each contender comes before the rounds, is reported apart, and is
the only one where it takes longer than ``TIMED_ONCE_SECONDS``.

Yardsticks: ``copy``, ``torch.Tensor.copy_`` on 2²⁶ float32, bytes read plus written per second; ``matmul``, NumPy's
matrix product of 2048 × 2048 matrices, in flops per second. Each is the best of nine, taken with every case, and
the best of the workload counts: a neighbour's busy second must not lower what kernels are measured against.
"""

from __future__ import annotations

import gc
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import threadpoolctl

from flatcore._threads import limit_threads

TIMED_ONCE_SECONDS = 60.0
ROUND_SECONDS = 0.3
LEAST_SECONDS = 0.03
MOST_CALLS = 15
COPY_ENTRIES = 2**26
MATMUL_SIZE = 2048
YARDSTICK_REPEATS = 9
_PAUSE_SECONDS = 0.02  # idle worker threads spin for some milliseconds after a parallel region


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Idle threads have come to rest, and no garbage is collected."""
    time.sleep(_PAUSE_SECONDS)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def seconds_of(call: Callable[[], Any]) -> tuple[float, Any]:
    """Wall-clock seconds of one call, and what it returned."""
    with _undisturbed():
        return _timed(call)


def round_seconds(call: Callable[[], Any], most_calls: int | None = None) -> float:
    """Median seconds of a call made until ``ROUND_SECONDS`` have passed, or `most_calls` times.

    Without `most_calls`: ``MOST_CALLS`` times, short ones until ``LEAST_SECONDS`` have passed.
    """
    most, least = (MOST_CALLS, LEAST_SECONDS) if most_calls is None else (most_calls, 0.0)
    times: list[float] = []
    total = 0.0
    with _undisturbed():
        while not times or total < (ROUND_SECONDS if len(times) < most else least):
            times.append(_timed(call)[0])
            total += times[-1]
    return statistics.median(times)


@contextmanager
def _garbage_collected() -> Iterator[None]:
    """Collections look at what is made from here on; a look through all loaded modules takes a third of a second."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@dataclass
class Stages:
    """Seconds of the named stages of a set-up."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the block as the stage `name`."""
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


def rotated(keys: Sequence[str], by: int) -> list[str]:
    """The keys, beginning with number `by` (counted cyclically)."""
    start = by % len(keys)
    return [*keys[start:], *keys[:start]]


def interleaved_rounds(
    calls: Mapping[str, Callable[[], Any]],
    first: Mapping[str, float],
    rounds: int,
    times: dict[str, list[float]],
    most_calls: int | None = None,
) -> None:
    """Add the median seconds of every call in every round to `times`; none where the first took too long to repeat.

    A round makes short calls `most_calls` times at most. What interrupts a round leaves the complete rounds.
    """
    keys = [key for key in calls if first[key] <= TIMED_ONCE_SECONDS]
    times.update({key: [] for key in calls})
    complete = 0
    try:
        with _garbage_collected():
            for number in range(rounds):
                for key in rotated(keys, number) if keys else []:
                    times[key].append(round_seconds(calls[key], most_calls))
                complete += 1
                gc.collect()
    finally:
        for seconds in times.values():
            del seconds[complete:]


def ratio_of_medians(times: Sequence[float], base: Sequence[float]) -> float:
    """Median of `times` over median of `base`."""
    return statistics.median(times) / statistics.median(base)


def median_of_ratios(times: Sequence[float], base: Sequence[float]) -> float | None:
    """Median of the rounds' ratios; None where the two were not timed in the same rounds."""
    if len(times) != len(base):
        return None
    return statistics.median(a / b for a, b in zip(times, base, strict=True))


@dataclass(frozen=True)
class Work:
    """What one call has to do at least: floating-point operations, bytes read and written; a committee's edges."""

    flops: float
    bytes: float
    edges: float | None = None  # pairs of a pattern and a weight


@dataclass
class Yardsticks:
    """Rates of this machine in this run: the best of `repeats`, and of every time they were taken."""

    repeats: int = YARDSTICK_REPEATS
    measured: dict[str, float | None] = field(default_factory=dict)

    @property
    def copy(self) -> float | None:
        """Bytes per second, or None without torch."""
        return self.measured[_copy_name(None)]

    def matmul(self, dtype: str, size: int = MATMUL_SIZE, threads: int | None = None) -> float:
        """Flops per second of NumPy's product of two size × size matrices."""
        rate = self.measured[_matmul_name(size, dtype, threads)]
        assert rate is not None  # NumPy is always there
        return rate

    def roofline(self, work: Work, dtype: str, threads: int | None = None) -> float | None:
        """Seconds no kernel with this work can beat: max(flops / matmul, bytes / copy), both on as many threads."""
        copy = self.measured[_copy_name(threads)]
        return None if copy is None else max(work.flops / self.matmul(dtype, threads=threads), work.bytes / copy)

    def take(self, dtype: str, sizes: Sequence[int], threads: int | None = None) -> None:
        """Measure now, for kernels in this precision, and keep what is better than before.

        One repeat is enough once: small sizes say nothing about speed.
        """
        with numerical_threads(threads):
            self._keep(_copy_name(threads), partial(copy_rate, self.repeats))
            for size in sizes:
                self._keep(_matmul_name(size, dtype, threads), partial(matmul_rate, size, dtype, self.repeats))

    def _keep(self, name: str, measure: Callable[[], float | None]) -> None:
        if self.repeats > 1 or name not in self.measured:
            rate = measure()
            self.measured[name] = None if rate is None else max(rate, self.measured.get(name) or 0.0)


def _copy_name(threads: int | None) -> str:
    return f"copy{_on(threads)}_bytes_per_second"


def _matmul_name(size: int, dtype: str, threads: int | None) -> str:
    return f"matmul_{size}_{dtype}{_on(threads)}_flops_per_second"


def _on(threads: int | None) -> str:
    return "" if threads is None else f"_{threads}_thread{'s' if threads > 1 else ''}"


@contextmanager
def numerical_threads(threads: int | None) -> Iterator[None]:
    """So many threads of BLAS, OpenMP and PyTorch inside; None changes nothing."""
    if threads is None:
        yield
        return
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    with threadpoolctl.threadpool_limits(threads), limit_threads(threads):
        if torch:
            torch.set_num_threads(threads)
        try:
            yield
        finally:
            if torch:
                torch.set_num_threads(before)


def _best(call: Callable[[], Any], repeats: int) -> float:
    return min(seconds_of(call)[0] for _ in range(repeats))


def copy_rate(repeats: int) -> float | None:
    """Bytes read plus written per second by ``torch.Tensor.copy_`` on 2²⁶ float32."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    source = torch.ones(COPY_ENTRIES, dtype=torch.float32)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / _best(lambda: target.copy_(source), repeats)


def matmul_rate(size: int, dtype: str, repeats: int) -> float:
    """Flops per second of NumPy's product of two size × size matrices, the result's memory given."""
    rng = np.random.default_rng(0)
    A, B = (rng.standard_normal((size, size)).astype(dtype) for _ in range(2))
    out = np.empty_like(A)
    return 2 * size**3 / _best(lambda: np.matmul(A, B, out=out), repeats)
