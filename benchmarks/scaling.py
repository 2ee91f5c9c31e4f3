"""``python -m benchmarks scaling``: one Hessian product against samples, width and depth, as JSON and an SVG picture.

Around a chain 784 → 1024 × 5 → 10 with n = 1,024 in float32, one quantity is varied at a time. A contender's median of
five interleaved rounds is taken; a call longer than ``LIMIT_SECONDS`` is timed once, and its contender leaves.
Every product is compared with flatcore's in float64, layer by layer (benchmarks/hessian_problem.py).
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender, answering
from benchmarks.hessian_problem import HessianProblem, gaussian_problem
from benchmarks.timing import Stages, interleaved_rounds, seconds_of

LIMIT_SECONDS = 10.0
ROUNDS, QUICK_ROUNDS = 5, 2
INPUTS, OUTPUTS, WIDTH, HIDDEN, SAMPLES = 784, 10, 1024, 5, 1024
SWEEPS: dict[str, Sequence[int]] = {
    "samples": (256, 1024, 4096, 16_384, 60_000),
    "width": (256, 512, 1024, 2048, 4096),
    "depth": (2, 3, 4, 6, 8, 12),
}
QUICK: dict[str, Sequence[int]] = {"samples": (16, 64), "width": (16, 32), "depth": (2, 3)}
LEFT_OUT = ("torch forward over reverse",)  # within a few per cent of double backward


@dataclass
class Sweep:
    """Seconds of every contender at the sizes it was measured at, and those whose answers were wrong."""

    varied: str
    sizes: dict[str, list[int]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def run(folder: Path, facts: dict[str, Any], *, quick: bool, say: Callable[[str], None]) -> int:
    """Measure, write scaling.json and scaling.svg into the folder; the exit code."""
    sweeps = [measured(varied, sizes, quick, say) for varied, sizes in (QUICK if quick else SWEEPS).items()]
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": facts, "sweeps": [vars(sweep) for sweep in sweeps]}
    stem = f"scaling{'-quick' if quick else ''}"
    (folder / f"{stem}.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    draw(sweeps, folder / f"{stem}.svg")
    for sweep in sweeps:
        for name, seconds in sweep.seconds.items():
            pairs = zip(sweep.sizes[name], seconds, strict=True)
            print(f"{sweep.varied}: {name}: {', '.join(f'{size:,}: {t:.2g} s' for size, t in pairs)}")
        for name in dict.fromkeys(sweep.wrong):
            say(f"answers disagree: {sweep.varied}: {name}")
    return 1 if any(sweep.wrong for sweep in sweeps) else 0


def measured(varied: str, sizes: Sequence[int], quick: bool, say: Callable[[str], None]) -> Sweep:
    """One sweep, smallest size first."""
    sweep = Sweep(varied)
    for size in sizes:
        say(f"{varied} {size:,}")
        problem, contenders = problem_at(varied, size, quick), list(_still_in(sweep))
        for name, seconds in medians(problem, contenders, sweep.wrong, QUICK_ROUNDS if quick else ROUNDS).items():
            sweep.sizes.setdefault(name, []).append(size)
            sweep.seconds.setdefault(name, []).append(seconds)
    return sweep


def problem_at(varied: str, size: int, quick: bool) -> HessianProblem:
    """The base chain with one quantity changed; depth counts weight matrices."""
    inputs, width, hidden, samples = (12, 16, 2, 16) if quick else (INPUTS, WIDTH, HIDDEN, SAMPLES)
    width = size if varied == "width" else width
    hidden = size - 1 if varied == "depth" else hidden
    samples = size if varied == "samples" else samples
    widths = [inputs, *[width] * hidden, OUTPUTS]
    return gaussian_problem(widths, samples, "float32", torch_reference=False)  # it is a contender


def _still_in(sweep: Sweep) -> Iterator[Contender]:
    for contender in answering("Hessian product"):
        slow = sweep.seconds.get(contender.name, [0.0])[-1] > LIMIT_SECONDS
        if contender.available() is None and contender.name not in LEFT_OUT and not slow:
            yield contender


def medians(
    problem: HessianProblem, contenders: Sequence[Contender], wrong: list[str], rounds: int = ROUNDS
) -> dict[str, float]:
    """Seconds of one product by contender; the names of those that disagree are added to `wrong`."""
    calls: dict[str, Callable[[], Any]] = {}
    first: dict[str, float] = {}
    for contender in contenders:
        product = contender.prepare(problem, Stages())
        first[contender.name], image = seconds_of(lambda product=product: product(problem.argument))
        if not all(agreement.agrees for agreement in problem.agreements(image)):
            wrong.append(contender.name)
        if first[contender.name] <= LIMIT_SECONDS:
            calls[contender.name] = lambda product=product: product(problem.argument)
    times: dict[str, list[float]] = {}
    interleaved_rounds(calls, first, rounds, times)
    return {name: statistics.median(times.get(name) or [seconds]) for name, seconds in first.items()}


def draw(sweeps: Sequence[Sweep], path: Path) -> None:
    """Three panels, both axes logarithmic, one line a contender."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "flatcore", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        axes = figure.subplots(1, len(sweeps), sharey=True)
        for ax, sweep in zip(axes, sweeps, strict=True):
            for name, seconds in sweep.seconds.items():
                bold = {"linewidth": 2.2, "color": "black"} if name == "flatcore" else {"linewidth": 1.2}
                ax.loglog(sweep.sizes[name], seconds, marker="o", markersize=3, label=name, **bold)
            sizes = max(sweep.sizes.values(), key=len)
            ax.minorticks_off()
            ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
            ax.set_xlabel(sweep.varied)
            ax.grid(visible=True, which="major", linewidth=0.3)
        axes[0].set_ylabel("seconds per Hessian product")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        figure.savefig(path, metadata={"Date": None})
