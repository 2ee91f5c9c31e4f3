"""``square``: Hessian products of a chain as wide at its ends, six layers of 1024 × 1024, n = 4,096, both precisions.

Weights N(0, 1/fan-in), inputs and targets N(0, 1), mean squared error. Here a product is matrix products of full size,
12·d³ flops a layer, and the yardstick is NumPy's rate for the product of two d × d matrices in the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contenders import answering
from benchmarks.hessian_problem import gaussian_problem
from benchmarks.runner import (
    Case,
    CaseResult,
    Options,
    Target,
    Workload,
    at_least,
    entries_for,
    peer_ratio,
)
from benchmarks.timing import MATMUL_SIZE, Yardsticks

WIDTH, DEPTH, SAMPLES = 1024, 6, 4096
DTYPES = ("float32", "float64")


def cases(options: Options) -> Iterator[Case]:
    """One vector in each precision."""
    width, samples = (64, 256) if options.quick else (WIDTH, SAMPLES)
    sizes = (MATMUL_SIZE,) if options.quick else (MATMUL_SIZE, width)
    for dtype in DTYPES:
        problem = gaussian_problem([width] * (DEPTH + 1), samples, dtype)
        yield Case(f"one vector, n = {samples:,}, {dtype}", entries_for(answering("Hessian product"), problem), sizes)


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """P4."""
    judged = []
    for dtype, case in zip(DTYPES, results, strict=True):
        rate = case.entries[0].gflops_per_second * 1e9 / yardsticks.matmul(dtype, WIDTH)
        curvlinops = peer_ratio(case.entry("curvlinops"))
        judged.append(at_least(f"P4 rate over NumPy's matmul {WIDTH}³, {dtype}", rate, 0.85))
        judged.append(at_least(f"P4 times faster than curvlinops, {dtype}", curvlinops, 5))
    return judged


WORKLOAD = Workload("square", "Hessian products, six layers of 1024 × 1024, float32 and float64", cases, targets, "P4")
