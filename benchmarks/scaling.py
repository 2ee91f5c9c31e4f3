"""``python -m benchmarks scaling``: one Hessian product against samples, width and depth, as JSON and an SVG picture.

Around a chain 784 → 1024 × 5 → 10 with n = 1,024 in float32, one quantity is varied at a time. A contender's median of
five interleaved rounds is taken; a call longer than ``LIMIT_SECONDS`` is timed once, and its contender leaves.
Every product is compared with flatcore's in float64, layer by layer (benchmarks/hessian_problem.py).

A :class:`Study` is what is varied and who is measured at a size; ``scaling_wfm`` has another one.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender, answering
from benchmarks.contenders.base import CannotAnswerError
from benchmarks.hessian_problem import HessianProblem, gaussian_problem
from benchmarks.runner import Problem
from benchmarks.timing import Stages, interleaved_rounds, seconds_of

LIMIT_SECONDS = 10.0
MOST_IN_A_ROW = 5  # of the legend
ROUNDS, QUICK_ROUNDS = 5, 2
INPUTS, OUTPUTS, WIDTH, HIDDEN, SAMPLES = 784, 10, 1024, 5, 1024
SWEEPS: dict[str, Sequence[float]] = {
    "samples": (256, 1024, 4096, 16_384, 60_000),
    "width": (256, 512, 1024, 2048, 4096),
    "depth": (2, 3, 4, 6, 8, 12),
}
QUICK: dict[str, Sequence[float]] = {"samples": (16, 64), "width": (16, 32), "depth": (2, 3)}
LEFT_OUT = ("torch forward over reverse",)  # within a few per cent of double backward

# What is asked at a size (quantity varied, size, quick), by who answers: a line of the picture each.
Lines = dict[str, tuple[Contender, Problem]]


@dataclass(frozen=True)
class Study:
    """What is varied and measured; the name is also that of the files."""

    name: str
    what: str  # of which the seconds are
    sweeps: Mapping[str, Sequence[float]]
    quick: Mapping[str, Sequence[float]]
    lines_at: Callable[[str, float, bool], Lines]
    style: Callable[[str], dict[str, Any]]  # of a line, for matplotlib


@dataclass
class Sweep:
    """Seconds of every contender at the sizes it was measured at, and those whose answers were wrong."""

    varied: str
    sizes: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def run(
    folder: Path, facts: dict[str, Any], *, quick: bool, say: Callable[[str], None], study: Study | None = None
) -> int:
    """Measure, write scaling.json and scaling.svg (or the study's) into the folder; the exit code."""
    study = study or CHAINS
    sweeps = [measured(study, varied, quick, say) for varied in (study.quick if quick else study.sweeps)]
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": facts, "sweeps": [vars(sweep) for sweep in sweeps]}
    stem = f"{study.name}{'-quick' if quick else ''}"
    (folder / f"{stem}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draw(study, sweeps, folder / f"{stem}.svg")
    for sweep in sweeps:
        for name, seconds in sweep.seconds.items():
            pairs = zip(sweep.sizes[name], seconds, strict=True)
            print(f"{sweep.varied}: {name}: {', '.join(f'{size:,}: {t:.2g} s' for size, t in pairs)}")
        for name in dict.fromkeys(sweep.wrong):
            say(f"answers disagree: {sweep.varied}: {name}")
    return 1 if any(sweep.wrong for sweep in sweeps) else 0


def measured(study: Study, varied: str, quick: bool, say: Callable[[str], None]) -> Sweep:
    """One sweep, smallest size first."""
    sweep = Sweep(varied)
    for size in (study.quick if quick else study.sweeps)[varied]:
        say(f"{varied} {size:,}")
        lines = study.lines_at(varied, size, quick)
        lines = {name: line for name, line in lines.items() if sweep.seconds.get(name, [0.0])[-1] <= LIMIT_SECONDS}
        for name, seconds in medians(lines, sweep.wrong, QUICK_ROUNDS if quick else ROUNDS).items():
            sweep.sizes.setdefault(name, []).append(size)
            sweep.seconds.setdefault(name, []).append(seconds)
    return sweep


def medians(lines: Lines, wrong: list[str], rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds by line of a call, or of one of a problem's `repeats`; the names of those that disagree go to `wrong`."""
    calls: dict[str, Callable[[], Any]] = {}
    first: dict[str, float] = {}
    for name, (contender, problem) in lines.items():
        try:
            answer_to = contender.prepare(problem, Stages())
        except CannotAnswerError:
            continue
        call = _call(answer_to, problem.argument)
        first[name], answer = seconds_of(call)
        if not all(agreement.agrees for agreement in problem.agreements(answer)):
            wrong.append(name)
        if first[name] <= LIMIT_SECONDS:
            calls[name] = call
    times: dict[str, list[float]] = {}
    interleaved_rounds(calls, first, rounds, times)
    each = {name: getattr(problem, "repeats", 1) for name, (_, problem) in lines.items()}
    return {name: statistics.median(times.get(name) or [seconds]) / each[name] for name, seconds in first.items()}


def _call(answer_to: Callable[[Any], Any], argument: Any) -> Callable[[], Any]:
    return lambda: answer_to(argument)


def draw(study: Study, sweeps: Sequence[Sweep], path: Path) -> None:
    """A panel a quantity, both axes logarithmic, one line a contender."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "flatcore", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        axes = figure.subplots(1, len(sweeps), sharey=True)
        for ax, sweep in zip(axes, sweeps, strict=True):
            for name, seconds in sweep.seconds.items():
                ax.loglog(sweep.sizes[name], seconds, marker="o", markersize=3, label=name, **study.style(name))
            sizes = max(sweep.sizes.values(), key=len)
            ax.minorticks_off()
            ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
            if len(sizes) > 6:  # four-digit numbers side by side
                ax.tick_params(axis="x", labelrotation=45)
            ax.set_xlabel(sweep.varied)
            ax.grid(visible=True, which="major", linewidth=0.3)
        axes[0].set_ylabel(f"seconds per {study.what}")
        handles, labels = axes[0].get_legend_handles_labels()
        columns = len(labels) if len(labels) <= MOST_IN_A_ROW else -(-len(labels) // 2)
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
        figure.savefig(path, metadata={"Date": None})


def problem_at(varied: str, size: float, quick: bool) -> HessianProblem:
    """The base chain with one quantity changed; depth counts weight matrices."""
    inputs, width, hidden, samples = (12, 16, 2, 16) if quick else (INPUTS, WIDTH, HIDDEN, SAMPLES)
    width = int(size) if varied == "width" else width
    hidden = int(size) - 1 if varied == "depth" else hidden
    samples = int(size) if varied == "samples" else samples
    widths = [inputs, *[width] * hidden, OUTPUTS]
    return gaussian_problem(widths, samples, "float32", torch_reference=False)  # it is a contender


def _products(varied: str, size: float, quick: bool) -> Lines:
    problem = problem_at(varied, size, quick)
    return {contender.name: (contender, problem) for contender in _contenders()}


def _contenders() -> Iterator[Contender]:
    for contender in answering("Hessian product"):
        if contender.available() is None and contender.name not in LEFT_OUT:
            yield contender


def _bold_flatcore(name: str) -> dict[str, Any]:
    return {"linewidth": 2.2, "color": "black"} if name == "flatcore" else {"linewidth": 1.2}


CHAINS = Study("scaling", "Hessian product", SWEEPS, QUICK, _products, _bold_flatcore)
