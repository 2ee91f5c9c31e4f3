"""The command line of the benchmarks: tables to standard output, progress to standard error, results as JSON.

Exit codes: 0 all answers agree, 1 some do not, 2 bad arguments.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, table
from benchmarks.runner import Options, Workload, WorkloadResult, run
from benchmarks.timing import YARDSTICK_REPEATS, Yardsticks
from benchmarks.workloads import WORKLOADS

RESULTS = Path(__file__).resolve().parent / "results"
FORMAT = {"format": "flatcore-benchmarks", "version": 1}
QUICK_ROUNDS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; the exit code."""
    asked = _parser().parse_args(arguments)
    if asked.list:
        print(table.aligned([[workload.name, workload.summary] for workload in WORKLOADS.values()]))
        return 0
    rounds = asked.rounds or (QUICK_ROUNDS if asked.quick else 5)
    options = Options(quick=asked.quick, full=asked.full, rounds=rounds)
    facts = machine.describe()
    print(f"{machine.flatcore_measured()}\n{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB\n")
    results = []
    for name in asked.names or WORKLOADS:
        results.append(_run_and_print(WORKLOADS[name], options))
        if asked.json is None:
            _write(RESULTS / f"{name}{'-quick' if options.quick else ''}.json", facts, results[-1:])
    if asked.json is not None:
        _write(asked.json, facts, results)
    return _exit_code(results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks of the installed flatcore.")
    parser.add_argument("names", nargs="*", metavar="NAME", type=_workload_name, help="workloads; all without one")
    parser.add_argument("--list", action="store_true", help="name the workloads and stop")
    parser.add_argument("--quick", action="store_true", help="small sizes: checks the answers, says little of speed")
    parser.add_argument("--full", action="store_true", help="also contenders that take minutes")
    parser.add_argument("--rounds", type=_positive, help=f"interleaved rounds (5; {QUICK_ROUNDS} with --quick)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="one file for all; benchmarks/results/NAME.json")
    return parser


def _workload_name(text: str) -> str:
    if text not in WORKLOADS:
        raise argparse.ArgumentTypeError(f"{text!r} is no workload; expected one of {', '.join(WORKLOADS)}")
    return text


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of rounds; expected 1 or more")
    return int(text)


def _run_and_print(workload: Workload, options: Options) -> WorkloadResult:
    print(f"{workload.name}: {workload.summary}{' (--quick: small sizes)' if options.quick else ''}\n")
    yardsticks = Yardsticks(1 if options.quick else YARDSTICK_REPEATS)
    result = run(workload, options, yardsticks, _say)
    for case in result.cases:
        print(f"{table.case_table(case)}\n")
    print(table.yardstick_lines(yardsticks))
    if result.targets:
        print(f"\n{table.target_lines(result.targets)}")
    print(flush=True)
    return result


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _write(path: Path, facts: dict[str, Any], results: Sequence[WorkloadResult]) -> None:
    document = {**FORMAT, "machine": facts, "workloads": [result.to_dict() for result in results]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_strict(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _strict(value: Any) -> Any:
    """JSON has no infinity: a difference that is not finite is written as text."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return "inf" if value == float("inf") else value


def _exit_code(results: Sequence[WorkloadResult]) -> int:
    wrong = [
        f"{result.workload}, {case.name}: {entry.label}"
        for result in results
        for case in result.cases
        for entry in case.entries
        if not entry.agrees
    ]
    for line in wrong:
        print(f"answers disagree: {line}", file=sys.stderr)
    return 1 if wrong else 0
