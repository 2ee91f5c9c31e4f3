"""``top10``: the largest and the ten largest Hessian eigenvalues of ``narrow`` at n = 1,024, certified to 1e-4·λ1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contenders import answering
from benchmarks.eigen_problem import EigenProblem
from benchmarks.hessian_problem import gaussian_problem
from benchmarks.runner import (
    Case,
    CaseResult,
    Options,
    Target,
    Workload,
    at_least,
    at_most,
    entries_for,
    entry_median,
    peer_ratio,
)
from benchmarks.timing import Yardsticks

CURVLINOPS = "curvlinops + SciPy eigsh"
SLOW = ("torch double backward, gradient graph kept, + SciPy eigsh",)  # minutes, and not what people use


def cases(options: Options) -> Iterator[Case]:
    """The largest one, then ten."""
    widths, n = ([12, 24, 24, 6], 64) if options.quick else ([784, *[2048] * 5, 10], 1024)
    hessian = gaussian_problem(widths, n, "float32")
    contenders = [
        contender
        for contender in answering("top eigenpairs")
        if options.full or options.quick or contender.name not in SLOW
    ]
    for k in (1, 10):
        yield Case(f"top {k}, n = {n:,}", entries_for(contenders, EigenProblem(hessian, k, 1e-4)))


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """P3."""
    _, ten = results
    return [
        at_most("P3 seconds for ten eigenvalues certified to 1e-4·λ1", entry_median(ten.entry("flatcore")), 1.2),
        at_least("P3 times faster than curvlinops + eigsh, ten", peer_ratio(ten.entry(CURVLINOPS)), 150),
    ]


WORKLOAD = Workload("top10", "the largest Hessian eigenvalues of narrow, tol 1e-4", cases, targets, "P3")
