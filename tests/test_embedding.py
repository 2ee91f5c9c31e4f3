"""The C++ library that the installed package carries: found by CMake, built by another project, and right."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest

import flatcore as fc

EXAMPLE = Path(__file__).resolve().parents[1] / "examples/cpp"
# What is compiled is checked here, not how fast it runs.
QUICK = ["-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O0"]
QUICK += ["-DFLATCORE_SIMD=baseline", "-DFLATCORE_KERNEL_OPTIMISATION=-O0"]


def tool(name):
    """A program beside this Python, or on the path."""
    return shutil.which(name, path=sysconfig.get_path("scripts")) or shutil.which(name)


def eigen():
    """CMake options that lead to the Eigen of this environment, or to the system's; None where there is none."""
    try:
        place = importlib.metadata.distribution("cmeel-eigen").locate_file("")
    except importlib.metadata.PackageNotFoundError:
        return [] if Path("/usr/include/eigen3").is_dir() else None
    return [f"-DCMAKE_PREFIX_PATH={place}"]


MISSING = [name for name in ("cmake", "ninja", "c++") if tool(name) is None] + ["Eigen"] * (eigen() is None)
needs_tools = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


def configure(source, build, *options):
    command = [tool("cmake"), "-S", source, "-B", build, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"]
    return subprocess.run(
        [*command, f"-Dflatcore_DIR={fc.cmake_dir()}", *eigen(), *options], capture_output=True, text=True, timeout=600
    )


def pattern(rows, cols, shift):
    """The matrices of examples/cpp/main.cpp."""
    i, j = np.ogrid[:rows, :cols]
    return ((7 * i + 3 * j * j + i * j + shift) % 11 - 5) / 8.0


@needs_tools
def test_the_example_prints_what_python_computes(tmp_path):
    done = configure(EXAMPLE, tmp_path, *QUICK)
    assert done.returncode == 0, done.stderr
    built = subprocess.run([tool("cmake"), "--build", tmp_path, "-j1"], capture_output=True, text=True, timeout=3000)
    assert built.returncode == 0, built.stdout
    printed = subprocess.run([tmp_path / "sharpness"], capture_output=True, text=True, timeout=600, check=True).stdout

    chain, T = fc.LinearChain([pattern(20, 12, 1), pattern(20, 20, 2), pattern(4, 20, 3)]), pattern(4, 12, 4)
    loss = fc.QuadraticLoss.from_moments(np.eye(12), T, float(np.sum(T * T)))
    H = fc.Hessian(chain, loss)
    values = {name: float(re.search(rf"{name} (\S+)\n", printed)[1]) for name in ("sharpness", "norm")}
    # Eigenvalues and singular values move by no more than the rounding of the matrix: some 10 eps of the largest.
    assert values["sharpness"] == pytest.approx(np.linalg.eigvalsh(H.dense())[-1], rel=1e-13)
    assert values["norm"] == pytest.approx(np.linalg.norm(chain.product(), 2), rel=1e-13)
    assert f"parameters {chain.num_parameters}, coordinates {H.reduced().shape[0]}" in printed


@needs_tools
@pytest.mark.parametrize(
    ("version", "options", "said"),
    [
        ("99", [], 'compatible with requested version "99"'),
        ("0.1", ["-DFLATCORE_SIMD=neon"], 'FLATCORE_SIMD is "neon"; expected all or baseline'),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, version, options, said):
    lines = ["cmake_minimum_required(VERSION 3.18)", "project(consumer LANGUAGES CXX)"]
    (tmp_path / "CMakeLists.txt").write_text("\n".join([*lines, f"find_package(flatcore {version} REQUIRED)"]))
    done = configure(tmp_path, tmp_path / "build", *options)
    assert done.returncode != 0
    assert said in " ".join(done.stderr.split())


def test_the_package_carries_the_sources_of_this_version():
    folder = Path(fc.cmake_dir())
    version = (folder / "flatcoreConfigVersion.cmake").read_text()
    assert f'set(PACKAGE_VERSION "{fc.__version__}")' in version
    assert importlib.metadata.version("flatcore") == fc.__version__
    listed = re.findall(r"^ +([\w/]+\.cpp)", (folder / "core.cmake").read_text(), re.MULTILINE)
    assert len(listed) > 20
    for name in listed:
        assert (folder / "core" / name).is_file(), name


def test_sources_that_are_not_there_are_missed(monkeypatch, tmp_path):
    monkeypatch.setattr(fc._core, "__file__", str(tmp_path / "_core.so"))
    with pytest.raises(FileNotFoundError, match="holds no flatcoreConfig"):
        fc.cmake_dir()
