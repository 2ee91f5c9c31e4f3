"""``python -m benchmarks scaling-wfm``: sweeps and epochs of committees against N, K, α and threads.

One sweep of binary belief propagation on edges and in AMP form, one epoch of binary least action learning, flatcore
beside NumPy. Around a perceptron with N = 1001, α = 0.6, on all threads, one quantity is varied at a time; K divides
some thousand inputs into odd numbers. Answers are checked as in ``fbp`` and ``least-action``; up to ten sweeps or
epochs are timed together, from the same start. NumPy stops where its float32 patterns would take more than 4 GB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.contenders.fbp_flatcore import FlatcoreSweeps
from benchmarks.contenders.fbp_numpy import AmpSweeps, EdgeSweeps
from benchmarks.contenders.on_threads import OnThreads
from benchmarks.contenders.online_flatcore import FlatcoreOnline
from benchmarks.contenders.online_numpy import NumpyOnline
from benchmarks.fbp_problem import sweep_problem
from benchmarks.machine import usable_cores
from benchmarks.online_problem import tree
from benchmarks.scaling import Lines, Study

INPUTS, LOAD = 1001, 0.6
MOST_EDGES = 10_001  # inputs up to which every edge has a message
EDGES_TIMED = 2e7  # about as many in a call, from one sweep to ten
# By unit n = round(N/K) inputs, made odd.
SIZES: dict[str, tuple[float, ...]] = {
    "N": (101, 301, 1001, 3001, 10_001, 30_001, 100_001),
    "K": (1, 3, 9, 17, 33),
    "α": (0.1, 0.2, 0.5, 1.0, 2.0),
    "threads": tuple(2**i for i in range(usable_cores().bit_length())),
}
QUICK: dict[str, tuple[float, ...]] = {"N": (51, 101), "K": (1, 3), "α": (0.3, 0.6), "threads": (1, 2)}
QUICK_INPUTS = 101
FORMS = {"edge sweep": ("edge", EdgeSweeps()), "AMP sweep": ("amp", AmpSweeps())}
EPOCH = "LAL epoch"
COLORS = dict(zip((*FORMS, EPOCH), ("tab:blue", "tab:orange", "tab:green"), strict=True))


def lines_at(varied: str, size: float, quick: bool) -> Lines:
    """Both programs for each kernel at a size; those that it is too large for are left out."""
    inputs = int(size) if varied == "N" else QUICK_INPUTS if quick else INPUTS
    units = int(size) if varied == "K" else 1
    load, threads = size if varied == "α" else LOAD, int(size) if varied == "threads" else None
    inputs = units * (inputs // units // 2 * 2 + 1)
    lines: Lines = {}
    for kernel, contenders, problem in _kernels(inputs, units, load):
        for program, contender in contenders.items():
            lines[f"{kernel}, {program}"] = (OnThreads(contender, threads), problem)
    return lines


def _kernels(inputs: int, units: int, load: float) -> Iterator[tuple[str, dict[str, Any], Any]]:
    repeats = max(1, min(10, round(EDGES_TIMED / (load * inputs**2 / units))))
    for kernel, (form, peer) in FORMS.items():
        if form == "amp" or inputs <= MOST_EDGES:
            problem = sweep_problem(inputs, units, form, load=load, sweeps=repeats)
            yield kernel, {"flatcore": FlatcoreSweeps(), "NumPy": peer}, problem
    if inputs <= MOST_EDGES:
        problem = tree("least action", inputs, units, "binary", load, repeats)
        yield EPOCH, {"flatcore": FlatcoreOnline(), "NumPy": NumpyOnline()}, problem


def style(name: str) -> dict[str, Any]:
    """A colour a kernel; NumPy dashed."""
    kernel, _, program = name.partition(", ")
    ours = program == "flatcore"
    return {"color": COLORS[kernel], "linewidth": 2.0 if ours else 1.2, "linestyle": "-" if ours else "--"}


COMMITTEES = Study("scaling-wfm", "sweep or epoch", SIZES, QUICK, lines_at, style)
