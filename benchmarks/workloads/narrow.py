"""``narrow``: Hessian products of a wide chain with few outputs, 784 → 2048 × 5 → 10 (P = 18.4 million), float32.

Weights N(0, 1/fan-in), inputs and targets N(0, 1), mean squared error. Three cases: one vector and a block of eight at
n = 1,024, all contenders; and n = 60,000 beside n = 1,024, whose costs differ for automatic differentiation but not for
flatcore, which holds the data as moments (the peers, about a minute a product there, take part with ``--full``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contenders import HESSIAN_PRODUCTS, FlatcoreHessian
from benchmarks.hessian_problem import gaussian_problem
from benchmarks.runner import (
    Case,
    CaseResult,
    Entry,
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


def cases(options: Options) -> Iterator[Case]:
    """One vector, a block, and many samples."""
    widths = [48, *[96] * 5, 10] if options.quick else [784, *[2048] * 5, 10]
    few, many = (128, 4096) if options.quick else (1024, 60_000)
    problem = gaussian_problem(widths, few, "float32")
    yield Case(f"one vector, n = {few:,}", entries_for(HESSIAN_PRODUCTS, problem))
    block = gaussian_problem(widths, few, "float32", vectors=BLOCK)
    yield Case(f"{BLOCK} vectors, n = {few:,}", entries_for(HESSIAN_PRODUCTS, block))
    del block
    large = gaussian_problem(widths, many, "float32", torch_reference=options.quick)
    flatcore = FlatcoreHessian()
    both = [
        Entry(flatcore, problem, f"{flatcore.name}, n = {few:,}"),
        Entry(flatcore, large, f"{flatcore.name}, n = {many:,}"),
    ]
    peers = entries_for(HESSIAN_PRODUCTS[1:], large) if options.full or options.quick else []
    yield Case(f"one vector, n = {many:,}", [*both, *peers])


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """P1."""
    one, _, many = results
    flatcore = one.entries[0]
    over = None if flatcore.roofline is None else flatcore.median / flatcore.roofline
    return [
        at_most("P1 time over roofline, one vector", over, 1.6),
        at_most("P1 time at n = 60,000 over time at n = 1,024", peer_ratio(many.entries[1]), 1.1),
        at_least("P1 times faster than the fastest peer measured, n = 1,024", peer_ratio(fastest_peer(one)), 60),
    ]


WORKLOAD = Workload("narrow", "Hessian products, 784 → 2048 × 5 → 10, float32", cases, targets)
