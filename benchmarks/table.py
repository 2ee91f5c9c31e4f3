"""Results as aligned plain text."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.runner import CaseResult, EntryResult, Target
from benchmarks.timing import Yardsticks

_NOTHING = "–"
_RATIOS = ("× base", "× by round")


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell, the first to the left, the others to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def case_table(case: CaseResult) -> str:
    """One case: a line a contender, without the columns that nothing is in; then those that are missing."""
    lines = [case.name]
    if case.entries:
        rows = [_cells(entry) for entry in case.entries]
        left_out = () if case.compares else _RATIOS
        columns = [name for name in rows[0] if name not in left_out and any(row[name] != _NOTHING for row in rows)]
        lines.append(aligned([columns, *([row[name] for name in columns] for row in rows)]))
    lines += [f"{label}: {reason}" for label, reason in case.missing.items()]
    return "\n".join(lines)


def _cells(entry: EntryResult) -> dict[str, str]:
    memory = entry.memory
    return {
        "contender": f"{entry.label} (timed once)" if entry.timed_once else entry.label,
        "set-up s": f"{entry.setup:.4f}",
        "first s": f"{entry.first:.4f}",
        "median s": f"{entry.median:.4f}",
        "min s": f"{entry.minimum:.4f}",
        "× base": f"{entry.ratio_of_medians:.2f}",
        "× by round": _number(entry.median_of_ratios, ".2f"),
        "of roofline": _number(entry.fraction_of_roofline, ".1%"),
        "G edges/s": _number(None if entry.edges_per_second is None else entry.edges_per_second / 1e9, ".3g"),
        "GFLOP/s": _number(entry.gflops_per_second, ".1f"),
        "peak MB": _NOTHING if memory is None else f"{'' if memory.complete else '> '}{memory.peak / 1e6:.0f}",
        "data MB": _number(None if memory is None else memory.data / 1e6, ".0f"),
        "difference": _difference(entry),
        "quality": ", ".join(f"{name} {value:.2g}" for name, value in entry.quality.items()) or _NOTHING,
    }


def _difference(entry: EntryResult) -> str:
    worst = max(entry.agreements, key=lambda agreement: agreement.difference / agreement.tolerance)
    return f"{worst.difference:.1e}{'' if worst.agrees else f' > {worst.tolerance:.0e} ({worst.reference})'}"


def _number(value: float | None, form: str) -> str:
    return _NOTHING if value is None else format(value, form)


def yardstick_lines(yardsticks: Yardsticks) -> str:
    """The machine's rates in this run."""
    lines = []
    for name, rate in yardsticks.measured.items():
        short = name.removesuffix("_bytes_per_second").removesuffix("_flops_per_second").replace("_", " ")
        if rate is None:
            lines.append(f"{short}: missing: torch is not installed")
            continue
        unit = "GB/s" if name.endswith("bytes_per_second") else "GFLOP/s"
        lines.append(f"{short}: {rate / 1e9:.1f} {unit}")
    return f"yardsticks, best of {yardsticks.repeats}: {', '.join(lines)}"


def target_lines(targets: Sequence[Target]) -> str:
    """What the project aims at, and whether this run met it."""
    verdicts = {True: "met", False: "not met", None: "not measured"}
    rows = [[t.name, _number(t.value, ".3g"), t.bound, verdicts[t.met]] for t in targets]
    return aligned([["target", "measured", "bound", ""], *rows])
