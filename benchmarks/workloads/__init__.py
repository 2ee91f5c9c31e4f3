"""Workloads by name: one file each, ending in a ``WORKLOAD``."""

from benchmarks.runner import Workload
from benchmarks.workloads import narrow, square

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in (narrow.WORKLOAD, square.WORKLOAD)}
