"""``portable``: flatcore compiled for any machine of this architecture beside flatcore compiled for this one.

Both are built here, in a temporary folder, and run the flatcore entries of the workloads that judge P1–P7 and P9, each
in a process of its own, interleaved. The instruction sets of flatcore's own kernels are chosen when it runs, so the
portable build must not be much slower.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import builds
from benchmarks.process import Address, Remote, RemoteProblem
from benchmarks.runner import Case, CaseResult, Entry, Options, Target, Workload, at_least, peer_ratio
from benchmarks.timing import Yardsticks

NATIVE, PORTABLE = "native build", "portable build"
JUDGED = {f"P{number}" for number in (*range(1, 8), 9)}  # P8's products are PyTorch's own


class Build(Remote):
    """An entry with another flatcore."""

    def __init__(self, name: str, site: Path | None, address: Address, options: Options) -> None:
        super().__init__(name, address, options, sample=False)
        self._site = site

    def available(self) -> str | None:
        """None where it was built."""
        return builds.unavailable()

    def site(self) -> Path | None:
        """Where it lies."""
        return self._site


def cases(options: Options) -> Iterator[Case]:
    """One table for each flatcore entry of the other workloads."""
    with tempfile.TemporaryDirectory(prefix="flatcore-builds-") as folder:
        sites: dict[str, Path | None] = {NATIVE: None, PORTABLE: None}
        if builds.unavailable() is None:
            sites = {name: builds.build(Path(folder) / name, native=name == NATIVE) for name in sites}
        for name, address, entry in flatcore_entries(options):
            problem = entry.problem if isinstance(entry.problem, RemoteProblem) else RemoteProblem(entry.problem)
            entries = [Entry(Build(build, site, address, options), problem, build) for build, site in sites.items()]
            yield Case(name, entries)


def flatcore_entries(options: Options) -> Iterator[tuple[str, Address, Entry]]:
    """Name, place and entry: flatcore's, in the workloads that judge speed."""
    from benchmarks.workloads import WORKLOADS

    for workload in WORKLOADS.values():
        if JUDGED.isdisjoint(workload.judges.split()):
            continue
        for number, case in enumerate(workload.cases(options)):
            for i, entry in enumerate(case.entries):
                if entry.contender.name != "flatcore" or entry.contender.available() is not None:
                    continue
                contender = entry.contender
                address = Address.of(workload.cases, number).entry(i)
                if isinstance(contender, Remote):
                    address = contender.address
                yield f"{workload.name}: {case.name}: {entry.label}", address, entry


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """P10: the slowest case of every workload."""
    rates: dict[str, list[float]] = {}
    for result in results:
        ratio = peer_ratio(result.entry(PORTABLE))
        rates.setdefault(result.name.partition(":")[0], []).extend([] if ratio is None else [1 / ratio])
    return [
        at_least(f"P10 speed of the portable build over the native one, {name}", min(found, default=None), 0.9)
        for name, found in rates.items()
    ]


WORKLOAD = Workload(
    "portable", "flatcore without native flags beside flatcore with them", cases, targets, "P10", in_quick=False
)
