"""``flatcore sweep``."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from flatcore._checks import counted, one_line
from flatcore.cli._app import JsonOption, SeedOption, TolOption, app
from flatcore.cli._failures import NOT_CERTIFIED
from flatcore.cli._output import check_outputs, emit, progress_bar, result_file, show, text_stream, write_json
from flatcore.cli._rules import HeadsOption, KvHeadsOption, PairOption, RulesOption, rules_of
from flatcore.results import SweepPlan


@app.command()
def sweep(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATHS…",
            help="Checkpoints, folders that hold them, and patterns in quotes, such as 'runs/*/step*.safetensors'. "
            "Files, or folders, whose names differ only in numbers are analysed in order.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The table: .parquet, .csv or .jsonl.")],
    k: Annotated[int, typer.Option("-k", help="Singular values a tensor.")] = 8,
    rules: RulesOption = None,
    pair: PairOption = None,
    heads: HeadsOption = None,
    kv_heads: KvHeadsOption = None,
    tol: TolOption = None,
    seed: SeedOption = 0,
    threads: Annotated[int | None, typer.Option(help="Threads of each worker.")] = None,
    workers: Annotated[int | None, typer.Option(help="So many checkpoints at a time, each in a process.")] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="A Dask scheduler, tcp://host:8786, or the .json file that it writes."),
    ] = None,
    spectra_only: Annotated[
        bool, typer.Option("--spectra-only", help="Leave out effective ranks, heads and pairs, which take longest.")
    ] = False,
    cold: Annotated[bool, typer.Option("--cold", help="Start no search from the checkpoint before.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Throw away what an earlier sweep left.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    json_file: JsonOption = None,
) -> None:
    """Analyse many checkpoints, to one table; killed at any moment and started again it goes on."""
    from flatcore.sweep import sweep as run_sweep
    from flatcore.sweep.pools import dask_executor

    check_outputs([rules], [out, result_file(json_file)])
    said = rules_of(rules, pair, heads, kv_heads)
    stream = text_stream(json_file)

    def started(plan: SweepPlan) -> None:
        show(sys.stderr, plan._title(), plan._lines())

    cluster = nullcontext() if scheduler is None else dask_executor(scheduler)
    with cluster as executor, progress_bar() as progress:
        result = run_sweep(
            paths,
            out,
            k=k,
            rules=said or None,
            tol=tol,
            seed=seed,
            threads=threads,
            executor=executor,
            workers=workers,
            warm=not cold,
            spectra_only=spectra_only,
            restart=restart,
            retry_failed=retry_failed,
            dry_run=dry_run,
            started=started,
            progress=progress,
        )
    if dry_run:
        show(stream, result.plan._title(), result.plan._lines())
        for path in result.plan.paths:
            emit(stream, path)
    elif not result.computed:
        emit(stream, f"{out}: everything is done: {counted(result.files, 'checkpoint')}, {counted(result.rows, 'row')}")
        for label, text in result.plan._left_aside_lines():
            emit(stream, one_line(f"{label}: {text}"))
    else:
        show(stream, result._title(), result._lines())
    if json_file is not None:
        write_json(json_file, {**result.to_dict(), "plan": result.plan.to_dict()})
    if not dry_run and not result.certified:
        print(
            f"flatcore: {counted(result.failed, 'checkpoint')} could not be analysed, {result.uncertified} "
            f"{'is' if result.uncertified == 1 else 'are'} not certified; the columns error and status say why",
            file=sys.stderr,
        )
        raise typer.Exit(NOT_CERTIFIED)
