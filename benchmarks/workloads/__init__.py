"""Workloads by name: one file each, ending in a ``WORKLOAD``; a new file is found by itself."""

from __future__ import annotations

import importlib
import pkgutil

from benchmarks.runner import Workload


def _found() -> dict[str, Workload]:
    """Those that judge targets first, by the first target; then the others by name."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    workloads = [module.WORKLOAD for module in modules if hasattr(module, "WORKLOAD")]
    return {workload.name: workload for workload in sorted(workloads, key=_order)}


def _order(workload: Workload) -> tuple[int, str]:
    """Number of the first target judged (P10 after P9, none at the end), then the name."""
    first = workload.judges.split()[:1]
    return (int(first[0].removeprefix("P")) if first else 100, workload.name)


WORKLOADS: dict[str, Workload] = _found()
