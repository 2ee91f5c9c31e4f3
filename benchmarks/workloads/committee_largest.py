"""``committee-largest``: a binary perceptron of 100,001 inputs at α = 0.6 by AMP in float32, five seeds.

A call draws the patterns of every seed, 0.75 GB, and solves them; memory is that of the call in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.runner import Case, CaseResult, Options, Target, Workload, at_least, at_most, entries_for
from benchmarks.solving_problem import SOLVED, Solver, SolvingProblem
from benchmarks.timing import Yardsticks
from flatcore import wfm

SEEDS = 5


def cases(options: Options) -> Iterator[Case]:
    """A seed a case."""
    inputs, seeds = (1001, 1) if options.quick else (100_001, SEEDS)
    solver = partial(wfm.focusing_bp, form="amp", dtype="float32")
    for seed in range(seeds):
        problem = SolvingProblem(solver, wfm.Committee(inputs), 0.6, 1, "float32", first_seed=seed)
        rounds = None if options.quick else 1
        yield Case(f"N = {inputs:,}, seed {seed}", entries_for((Solver(),), problem), matmul_sizes=(), rounds=rounds)


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """Of the slowest seed; memory where it was asked for (--memory)."""
    entries = [entry for case in results if (entry := case.entry("flatcore")) is not None]
    complete = len(entries) == SEEDS
    peaks = [entry.memory.peak / 1e9 for entry in entries if entry.memory is not None]
    return [
        at_most("seconds of the slowest seed", max(e.median for e in entries) if complete else None, 60),
        at_least("seeds solved", sum(e.quality[SOLVED] for e in entries) if complete else None, SEEDS),
        at_most("peak memory, GB", max(peaks) if len(peaks) == SEEDS else None, 1.5),
    ]


WORKLOAD = Workload("committee-largest", "a binary perceptron of 100,001 inputs, 60,001 patterns", cases, targets)
