"""``fbp``: ten sweeps of belief propagation, α = 0.6: N = 1001 (K = 1, 7) and N = 999 (K = 9), on edges and as AMP.

Binary weights, and continuous ones under the focusing field of nine replicas. On all
threads, of which NumPy's passes over edges use one whatever they are given, and on one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.contenders.fbp_flatcore import FlatcoreSweeps
from benchmarks.contenders.fbp_numpy import AmpSweeps, EdgeSweeps
from benchmarks.contenders.fbp_numpy_continuous import ContinuousAmpSweeps, ContinuousEdgeSweeps
from benchmarks.contenders.on_threads import OnThreads
from benchmarks.fbp_problem import sweep_problem
from benchmarks.runner import Case, CaseResult, Entry, Options, Target, Workload, at_least, entries_for, peer_ratio
from benchmarks.timing import Yardsticks

SIZES = ((1001, 1), (1001, 7), (999, 9))
PEERS = {
    ("edge", "binary"): EdgeSweeps(),
    ("amp", "binary"): AmpSweeps(),
    ("edge", "continuous"): ContinuousEdgeSweeps(),
    ("amp", "continuous"): ContinuousAmpSweeps(),
}
BOUNDS = {"edge": 10, "amp": 5}


def cases(options: Options) -> Iterator[Case]:
    """Each machine in both forms."""
    for (form, weights), peer in PEERS.items():
        for inputs, units in SIZES:
            size = inputs // (5 * units) // 2 * 2 * units + units if options.quick else inputs
            problem = sweep_problem(size, units, form, weights, sweeps=3 if options.quick else 10)
            title = f"{form}, {weights}, N = {size}, K = {units}, {problem.edges:,} edges"
            both = (FlatcoreSweeps(), peer)
            on_one = [Entry(OnThreads(one, 1), problem, f"{one.name}, 1 thread") for one in both]
            yield Case(title, [*entries_for(both, problem), *on_one])


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """How many times faster than NumPy in each form, at least."""
    out = []
    for (form, weights), peer in PEERS.items():
        cases_of = [case for case in results if case.name.startswith(f"{form}, {weights},")]
        ratios = [peer_ratio(case.entry(peer.name)) for case in cases_of]
        least = min((ratio for ratio in ratios if ratio is not None), default=None)
        out.append(at_least(f"{form}, {weights}: times faster than {peer.name}", least, BOUNDS[form]))
    return out


WORKLOAD = Workload("fbp", "sweeps of belief propagation, committees of 1,001 inputs, α = 0.6", cases, targets)
