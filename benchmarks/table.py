"""Results as aligned plain text."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.runner import CaseResult, EntryResult, Target
from benchmarks.timing import Yardsticks

_HEADER = (
    "contender",
    "set-up s",
    "first s",
    "median s",
    "min s",
    "× base",
    "× by round",
    "of roofline",
    "GFLOP/s",
    "difference",
)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell, the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def case_table(case: CaseResult) -> str:
    """One case: a line a contender, then those that are missing."""
    lines = [case.name, aligned([_HEADER, *map(_row, case.entries)])]
    lines += [f"{label}: missing: {reason}" for label, reason in case.missing.items()]
    return "\n".join(lines)


def _row(entry: EntryResult) -> list[str]:
    worst = max(entry.agreements, key=lambda agreement: agreement.difference / agreement.tolerance)
    verdict = "" if worst.agrees else f" > {worst.tolerance:.0e} ({worst.reference})"
    return [
        f"{entry.label} (timed once)" if entry.timed_once else entry.label,
        f"{entry.setup:.4f}",
        f"{entry.first:.4f}",
        f"{entry.median:.4f}",
        f"{entry.minimum:.4f}",
        f"{entry.ratio_of_medians:.2f}",
        _number(entry.median_of_ratios, ".2f"),
        _number(entry.fraction_of_roofline, ".1%"),
        f"{entry.gflops_per_second:.1f}",
        f"{worst.difference:.1e}{verdict}",
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def yardstick_lines(yardsticks: Yardsticks) -> str:
    """The machine's rates in this run."""
    lines = []
    for name, rate in yardsticks.measured.items():
        if rate is None:
            lines.append("copy: missing: torch is not installed")
            continue
        unit = "GB/s" if name.endswith("bytes_per_second") else "GFLOP/s"
        short = name.removesuffix("_bytes_per_second").removesuffix("_flops_per_second").replace("_", " ")
        lines.append(f"{short}: {rate / 1e9:.1f} {unit}")
    return f"yardsticks, best of {yardsticks.repeats}: {', '.join(lines)}"


def target_lines(targets: Sequence[Target]) -> str:
    """What the project aims at, and whether this run met it."""
    verdicts = {True: "met", False: "not met", None: "not measured"}
    rows = [[t.name, _number(t.value, ".3g"), t.bound, verdicts[t.met]] for t in targets]
    return aligned([["target", "measured", "bound", ""], *rows])
