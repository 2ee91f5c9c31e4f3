"""``fbp``: ten sweeps of belief propagation, α = 0.6: N = 1001 (K = 1, 7) and N = 999 (K = 9), on edges and as AMP."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contenders.fbp_flatcore import FlatcoreSweeps
from benchmarks.contenders.fbp_numpy import AmpSweeps, EdgeSweeps
from benchmarks.fbp_problem import sweep_problem
from benchmarks.runner import Case, CaseResult, Options, Target, Workload, at_least, entries_for, peer_ratio
from benchmarks.timing import Yardsticks

SIZES = ((1001, 1), (1001, 7), (999, 9))
PEERS = {"edge": EdgeSweeps(), "amp": AmpSweeps()}


def cases(options: Options) -> Iterator[Case]:
    """Each machine in both forms."""
    for form, peer in PEERS.items():
        for inputs, units in SIZES:
            size = inputs // (5 * units) // 2 * 2 * units + units if options.quick else inputs
            problem = sweep_problem(size, units, form, sweeps=3 if options.quick else 10)
            title = f"{form}, N = {size}, K = {units}, {problem.edges:,} edges"
            yield Case(title, entries_for((FlatcoreSweeps(), peer), problem))


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """How many times faster than NumPy in each form, at least."""
    bounds = {"edge": 10, "amp": 5}
    out = []
    for form, peer in PEERS.items():
        ratios = [peer_ratio(case.entry(peer.name)) for case in results if case.name.startswith(form)]
        least = min((ratio for ratio in ratios if ratio is not None), default=None)
        out.append(at_least(f"{form}: times faster than {peer.name}", least, bounds[form]))
    return out


WORKLOAD = Workload("fbp", "sweeps of belief propagation, committees of 1,001 inputs, α = 0.6", cases, targets)
