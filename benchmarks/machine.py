"""What the numbers were measured on: processor, memory, versions, BLAS, threads, date. No names, no paths."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from flatcore import _core

PACKAGES = (
    "flatcore",
    "numpy",
    "scipy",
    "torch",
    "curvlinops-for-pytorch",
    "PyHessian",
    "hessian-eigenthings",
    "primme",
    "scikit-learn",
    "weightwatcher",
)


def describe() -> dict[str, Any]:
    """Everything the JSON says about the machine and the software."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "system": platform.system(),
        "architecture": platform.machine(),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_gib": _memory_gib(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "flatcore_build": {key: str(value) for key, value in _core.build_info().items()},
        "blas": _blas(),
        "threads": _threads(),
    }


def flatcore_measured() -> str:
    """One line that says which flatcore is measured."""
    build = _core.build_info()
    threads = f"OpenMP, {_core.max_threads()} threads" if build["openmp"] else "serial"
    return f"flatcore {_version('flatcore')}, the installed package ({build['compiler']}, {threads})"


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _blas() -> list[dict[str, Any]]:
    """BLAS libraries loaded, without where they lie; torch's own is linked into it and named by its version."""
    try:
        from threadpoolctl import threadpool_info
    except ModuleNotFoundError:
        return []
    wanted = ("internal_api", "version", "architecture", "num_threads")
    return [{key: pool.get(key) for key in wanted} for pool in threadpool_info() if pool["user_api"] == "blas"]


def _threads() -> dict[str, Any]:
    threads: dict[str, Any] = {
        "flatcore": _core.max_threads(),
        "flatcore_blas": _core.get_blas_threads(),
        "environment": {k: os.environ[k] for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS") if k in os.environ},
    }
    if _version("torch") is not None:
        import torch

        threads["torch"] = torch.get_num_threads()
    return threads
