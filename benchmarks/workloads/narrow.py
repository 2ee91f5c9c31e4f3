"""``narrow``: Hessian products of a wide chain with few outputs, 784 → 2048 × 5 → 10 (P = 18.4 million), float32.

Weights N(0, 1/fan-in), inputs and targets N(0, 1), mean squared error. Four cases: one vector and a block of eight at
n = 1,024, all contenders; n = 60,000 beside n = 1,024, whose costs differ for automatic differentiation but not for
flatcore, which holds the data as moments (the peers, about a minute a product there, take part with ``--full``); and
the reduced operator, which no peer has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contenders import answering
from benchmarks.hessian_problem import gaussian_problem
from benchmarks.reduced_problem import ReducedProblem
from benchmarks.runner import (
    Case,
    CaseResult,
    Entry,
    EntryResult,
    Options,
    Target,
    Workload,
    at_least,
    at_most,
    entries_for,
    fastest_peer,
    peer_ratio,
)
from benchmarks.timing import Yardsticks

BLOCK = 8
GRAPH_KEPT = "torch double backward, gradient graph kept"


def cases(options: Options) -> Iterator[Case]:
    """One vector, a block, many samples, and the reduced operator."""
    widths = [48, *[96] * 5, 10] if options.quick else [784, *[2048] * 5, 10]
    few, many = (128, 4096) if options.quick else (1024, 60_000)
    contenders = answering("Hessian product")
    flatcore, *peers = contenders
    problem = gaussian_problem(widths, few, "float32")
    yield Case(f"one vector, n = {few:,}", entries_for(contenders, problem))
    block = gaussian_problem(widths, few, "float32", vectors=BLOCK)
    yield Case(f"{BLOCK} vectors, n = {few:,}", entries_for(contenders, block))
    del block
    large = gaussian_problem(widths, many, "float32", torch_reference=options.quick)
    both = [
        Entry(flatcore, problem, f"{flatcore.name}, n = {few:,}"),
        Entry(flatcore, large, f"{flatcore.name}, n = {many:,}"),
    ]
    yield Case(
        f"one vector, n = {many:,}", [*both, *(entries_for(peers, large) if options.full or options.quick else [])]
    )
    del large, both
    yield Case(f"reduced operator, n = {few:,}", entries_for(answering("reduced product"), ReducedProblem(problem)))


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """P1 and P2."""
    one, _, many, reduced = results
    flatcore, kept = one.entries[0], one.entry(GRAPH_KEPT)
    stateless = min((e for e in one.entries[1:] if e is not kept), key=lambda e: e.median, default=None)
    return [
        at_most("P1 time over roofline, one vector", over_roofline(flatcore), 1.6),
        at_most("P1 time at n = 60,000 over time at n = 1,024", peer_ratio(many.entries[1]), 1.1),
        at_least("P1 times faster than the fastest peer, n = 1,024", peer_ratio(stateless), 60),
        at_least("P1 the same, with peers that keep the gradient's graph", peer_ratio(fastest_peer(one)), 60),
        at_most("P2 time over roofline, reduced operator", over_roofline(reduced.entry(flatcore.label)), 1.6),
    ]


def over_roofline(entry: EntryResult | None) -> float | None:
    """Time over the roofline's, where both are known."""
    return None if entry is None or entry.roofline is None else entry.median / entry.roofline


WORKLOAD = Workload("narrow", "Hessian products, 784 → 2048 × 5 → 10, float32", cases, targets, "P1 P2")
