"""``svd-spiked``: the 16 largest singular triplets of 64 planted values 6/√i over a Gaussian bulk, 4096 × 4096."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contenders import answering
from benchmarks.runner import Case, CaseResult, Options, Target, Workload, at_least, at_most, entries_for, peer_ratio
from benchmarks.svd_problem import SvdProblem, gaussian_bulk, planted_spikes
from benchmarks.timing import Yardsticks

ACCURATE = 1e-4  # residual below which a peer answers the same question
TOL = 1e-6
FULL_SVD = "torch.linalg.svd"


def cases(options: Options) -> Iterator[Case]:
    """One matrix."""
    size, k = (192, 16) if options.quick else (4096, 16)
    A = gaussian_bulk(size) + planted_spikes(size, 64)
    yield Case(
        f"{size} × {size}, k = {k}, float32", entries_for(answering("top singular triplets"), SvdProblem(A, k, TOL))
    )


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """P7."""
    (case,) = results
    flatcore = case.entry("flatcore")
    accurate = [
        entry for entry in case.entries if entry is not flatcore and entry.quality.get("residual", 1.0) < ACCURATE
    ]
    fastest = peer_ratio(min(accurate, key=lambda entry: entry.median, default=None))
    full = peer_ratio(case.entry(FULL_SVD))
    return [
        at_most("P7 residual over σ1", None if flatcore is None else flatcore.quality["residual"], TOL),
        at_most("P7 time over the fastest accurate peer's", None if fastest is None else 1 / fastest, 0.5),
        at_least("P7 times faster than a full SVD", full, 40),
    ]


WORKLOAD = Workload("svd-spiked", "16 singular triplets, 64 spikes over a bulk, tol 1e-6", cases, targets, "P7")
