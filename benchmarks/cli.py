"""The command line of the benchmarks: tables to standard output, progress to standard error, results as JSON.

Exit codes: 0 all answers agree, 1 some do not, 2 bad arguments, 130 interrupted: what was measured is printed and kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine, scaling, table
from benchmarks.runner import Options, Workload, WorkloadResult, run
from benchmarks.scaling_wfm import COMMITTEES
from benchmarks.timing import YARDSTICK_REPEATS, Yardsticks
from benchmarks.workloads import WORKLOADS

RESULTS = Path(__file__).resolve().parent / "results"
FORMAT = {"format": "flatcore-benchmarks", "version": 2}
ROUNDS, QUICK_ROUNDS = 5, 2
STUDIES = {study.name: study for study in (scaling.CHAINS, COMMITTEES)}
_STUDIES = " or ".join(STUDIES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for; the exit code."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    others = (asked.skip, asked.rounds, asked.json, asked.memory, asked.full, asked.scratch)
    studies = [name for name in asked.names if name in STUDIES]
    if studies and (len(asked.names) > 1 or any(others)):
        parser.error(f"{studies[0]} runs by itself, with no option but --quick")
    if asked.list:
        print(table.aligned([[workload.name, workload.summary] for workload in WORKLOADS.values()]))
        return 0
    facts = machine.describe()
    print(f"{machine.flatcore_measured()}\n{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB\n")
    if studies:
        return scaling.run(RESULTS, facts, quick=asked.quick, say=_say, study=STUDIES[studies[0]])
    with tempfile.TemporaryDirectory(prefix="flatcore-benchmarks-") as scratch:
        options = Options(
            quick=asked.quick,
            full=asked.full,
            skip=tuple(asked.skip),
            rounds=asked.rounds or (QUICK_ROUNDS if asked.quick else ROUNDS),
            memory=asked.memory or not (asked.names or asked.quick),
            scratch=asked.scratch or Path(scratch),
        )
        results = _run_all(asked.names or _all_names(options), options, facts, asked.json)
    if len(results) > 1 and not options.quick:
        print(table.target_lines([target for result in results for target in result.targets]))
    return _exit_code(results)


def _all_names(options: Options) -> list[str]:
    return [name for name, workload in WORKLOADS.items() if workload.in_quick or not options.quick]


def _run_all(names: Sequence[str], options: Options, facts: dict[str, Any], file: Path | None) -> list[WorkloadResult]:
    """Run workloads until one is interrupted; what is measured is written as soon as it is."""
    results: list[WorkloadResult] = []
    for name in names:
        results.append(_run_and_print(WORKLOADS[name], options))
        if file is None:
            _write(RESULTS / f"{name}{'-quick' if options.quick else ''}.json", facts, results[-1:])
        else:
            _write(file, facts, results)
        if results[-1].interrupted:
            break
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks of the installed flatcore.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", type=_workload_name, help=f"workloads, all without one; or {_STUDIES}"
    )
    parser.add_argument("--list", action="store_true", help="name the workloads and stop")
    parser.add_argument("--quick", action="store_true", help="small sizes: checks the answers, says little of speed")
    parser.add_argument("--full", action="store_true", help="also contenders that take minutes")
    parser.add_argument("--skip", action="append", default=[], metavar="TEXT", help="leave out contenders so named")
    parser.add_argument("--memory", action="store_true", help="also peak memory; always in a full run of everything")
    parser.add_argument("--rounds", type=_positive, help=f"interleaved rounds ({ROUNDS}; {QUICK_ROUNDS} with --quick)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="one file for all; benchmarks/results/NAME.json")
    parser.add_argument("--scratch", type=_folder, metavar="DIR", help="keeps the 6.5 GB of weights that huge writes")
    return parser


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is no folder")
    return Path(text)


def _workload_name(text: str) -> str:
    if text not in {*WORKLOADS, *STUDIES}:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no workload; expected one of {', '.join(WORKLOADS)} or {_STUDIES}"
        )
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
    if yardsticks.measured:
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
    if any(result.interrupted for result in results):
        return 130
    return 1 if wrong else 0
