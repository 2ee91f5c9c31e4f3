"""``many``: the sharpness of 10,000 chains, widths 32, M = 4, n = 64, k = 1, tol 1e-4, float32 (P = 4,096 each).

A NumPy loop and batched PyTorch run the same algorithm to the same tolerance. SciPy's ``eigsh`` on automatic
differentiation answers for 100 of the chains and is scaled in the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contenders.many_flatcore import FlatcoreMany
from benchmarks.contenders.many_numpy import NumpyLoop
from benchmarks.contenders.many_scipy import ScipyOnAutograd
from benchmarks.contenders.many_torch import TorchBatched
from benchmarks.many_problem import gaussian_chains
from benchmarks.runner import Case, CaseResult, Entry, Options, Target, Workload, at_least, entries_for, peer_ratio
from benchmarks.timing import Yardsticks

CHAINS, FEW = 10_000, 100
SAME = (FlatcoreMany(), NumpyLoop(), TorchBatched())


def cases(options: Options) -> Iterator[Case]:
    """All contenders; SciPy on a hundredth of the chains."""
    chains, few = (60, 6) if options.quick else (CHAINS, FEW)
    problem = gaussian_chains(chains)
    scipy = ScipyOnAutograd()
    entries = [*entries_for(SAME, problem), Entry(scipy, problem.first(few), f"{scipy.name}, {few} chains")]
    yield Case(f"{chains:,} chains, k = 1, float32", entries)


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """P9."""
    (case,) = results
    same = [ratio for peer in SAME[1:] if (ratio := peer_ratio(case.entry(peer.name))) is not None]
    scipy = peer_ratio(case.entry(f"{ScipyOnAutograd.name}, {FEW} chains"))
    return [
        at_least("P9 times faster than the faster of NumPy and batched torch", min(same, default=None), 5),
        at_least("P9 times faster than SciPy eigsh (scaled)", None if scipy is None else scipy * CHAINS / FEW, 50),
    ]


WORKLOAD = Workload("many", "sharpness of 10,000 chains, widths 32, M = 4, float32", cases, targets, "P9")
