"""``committee-products``: ω = X m and S = Xᵀ g of ±1 patterns at one bit an entry, beside BLAS on float32 patterns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.committee_problem import committee_products
from benchmarks.contenders import answering
from benchmarks.runner import Case, CaseResult, Options, Target, Workload, at_least, entries_for
from benchmarks.timing import Yardsticks
from flatcore.wfm import Committee

SMALL, LARGE = "N = 1,001, P = 600", "N = 10,001, P = 6,000"
# Name, machine, patterns, products in a call.
SIZES = (
    (SMALL, Committee(1001), 600, 200),
    ("tree, K = 9, n = 111, P = 1,000", Committee(999, 9), 1000, 100),
    ("full, K = 9, N = 1,001, P = 1,000", Committee(1001, 9, "full"), 1000, 20),
    (LARGE, Committee(10_001), 6000, 5),
)
LARGEST = ("N = 100,001, P = 60,000", Committee(100_001), 60_000, 1)


def cases(options: Options) -> Iterator[Case]:
    """Both products at every size."""
    for name, model, count, repeats in SIZES if options.quick else (*SIZES, LARGEST):
        for problem in committee_products(model, count, repeats):
            yield Case(f"{problem.product}, {name}", entries_for(answering("committee product"), problem))


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """Both products together against BLAS on float32 patterns: in the caches on one thread, from memory on all."""
    out = []
    for size, suffix in ((SMALL, ", 1 thread"), (LARGE, "")):
        ours, theirs = f"flatcore{suffix}", f"NumPy, float32 patterns{suffix}"
        pairs = [(case.entry(ours), case.entry(theirs)) for case in results if case.name.endswith(size)]
        measured = [(a.median, b.median) for a, b in pairs if a is not None and b is not None]
        value = sum(b for _, b in measured) / sum(a for a, _ in measured) if measured else None
        out.append(at_least(f"{size}: times {theirs}", value, 5.0))
    return out


WORKLOAD = Workload("committee-products", "products of bit-packed patterns with vectors, float32", cases, targets)
