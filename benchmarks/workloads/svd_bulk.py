"""``svd-bulk``: the 16 largest singular triplets of a 4096 × 4096 Gaussian matrix, which has no gap below them."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.contenders import answering
from benchmarks.runner import Case, Options, Workload, entries_for, no_targets
from benchmarks.svd_problem import SvdProblem, gaussian_bulk

TOL = 1e-6


def cases(options: Options) -> Iterator[Case]:
    """One matrix."""
    size, k = (192, 16) if options.quick else (4096, 16)
    problem = SvdProblem(gaussian_bulk(size), k, TOL)
    yield Case(f"{size} × {size}, k = {k}, float32", entries_for(answering("top singular triplets"), problem))


WORKLOAD = Workload("svd-bulk", "16 singular triplets of a Gaussian matrix, tol 1e-6", cases, no_targets, "P7")
