"""``flatcore doctor``."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import typer

import flatcore as fc
from flatcore import _core
from flatcore.cli._app import app
from flatcore.cli._failures import EXTRAS, INTERNAL_ERROR
from flatcore.cli._output import show, write_json


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what was installed and how it was built, and whether it computes."""
    facts = {"versions": _versions(), "build": _build(), "extras": dict(_extras()), "self_check": _self_check()}
    if as_json:
        write_json("-", facts)
    else:
        for title, lines in facts.items():
            show(sys.stdout, title.replace("_", "-").capitalize(), lines.items())
    if any(result != "ok" for result in facts["self_check"].values()):
        raise typer.Exit(INTERNAL_ERROR)


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("numpy", "scipy")}
    return {"flatcore": fc.__version__, "python": platform.python_version(), **packages, "system": platform.platform()}


def _build() -> dict[str, str]:
    info = _core.build_info()
    return {
        "compiler": str(info["compiler"]),
        "openmp": f"{_core.max_threads()} threads" if info["openmp"] else "not built in: serial",
        "blas": _blas(),
        "simd": str(info["simd"]),
        "eigen": f"{info['eigen']}, {info['eigen_simd']}",
    }


def _blas() -> str:
    try:
        from threadpoolctl import threadpool_info
    except ModuleNotFoundError:
        return f"{_core.get_blas_threads() or 'unknown number of'} threads"
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    names = (
        f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', 'any')}, {pool['num_threads']} threads)"
        for pool in pools
    )
    return "; ".join(dict.fromkeys(names)) or "unknown"


def _extras() -> Iterator[tuple[str, str]]:
    for extra, packages in EXTRAS.items():
        for package in packages:
            try:
                yield package, importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                yield package, f"missing: pip install 'flatcore[{extra}]'"


def _self_check() -> dict[str, str]:
    """On whitened data two identity layers have sharpness 4 and are flattest."""
    identity = np.eye(3)
    loss = fc.QuadraticLoss(3**0.5 * identity, 3**0.5 * identity)

    def check(dtype: Any) -> str:
        try:
            chain = fc.LinearChain([identity.astype(dtype)] * 2)
            values = float(fc.sharpness(chain, loss).values[0]), fc.flattest_sharpness(chain, loss)
        except Exception as error:
            return f"failed: {type(error).__name__}: {error}"
        return "ok" if np.allclose(values, 4.0, rtol=1e-4) else f"failed: sharpness {values}; expected 4"

    return {f"{np.dtype(dtype)} sharpness": check(dtype) for dtype in (np.float32, np.float64)}
