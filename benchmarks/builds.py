"""flatcore built from this clone's sources, with and without this machine's own instruction set."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def unavailable() -> str | None:
    """None, or what building lacks."""
    if not (ROOT / "CMakeLists.txt").is_file():
        return "the sources are not here"
    if _tool("cmake") is None:
        return "cmake is not installed: pip install cmake"
    if importlib.util.find_spec("pybind11") is None:
        return "pybind11 is not installed: pip install pybind11 cmeel-eigen"
    return None


def build(folder: Path, *, native: bool) -> Path:
    """Compile into `folder` and lay the package beside its extension; what to put on the module search path."""
    import pybind11

    cmake = _tool("cmake")
    assert cmake is not None  # `unavailable` was asked
    out, site = folder / "build", folder / "site"
    configure = [cmake, "-S", str(ROOT), "-B", str(out), "-DCMAKE_BUILD_TYPE=Release"]
    configure += [f"-DFLATCORE_NATIVE={'ON' if native else 'OFF'}", f"-DPython_EXECUTABLE={sys.executable}"]
    configure += [f"-DCMAKE_PREFIX_PATH={sysconfig.get_path('purelib')}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    ninja = _tool("ninja")
    configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    for command in (configure, [cmake, "--build", str(out), "--target", "_core", "--parallel"]):
        finished = subprocess.run(command, capture_output=True, text=True)
        if finished.returncode:
            raise RuntimeError(f"building flatcore failed:\n{finished.stdout[-2000:]}{finished.stderr[-2000:]}")
    shutil.copytree(ROOT / "flatcore", site / "flatcore", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for extension in out.glob("_core*"):
        if extension.suffix in (".so", ".pyd"):
            shutil.copy2(extension, site / "flatcore")
    return site


def _tool(name: str) -> str | None:
    """A program beside this Python, or on the path."""
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)
