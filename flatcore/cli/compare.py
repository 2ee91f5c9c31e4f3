"""``flatcore compare``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import flatcore as fc
from flatcore._checks import one_line
from flatcore.checkpoints import compare_checkpoints
from flatcore.cli._app import JsonOption, ParquetOption, ReportOption, SeedOption, ThreadsOption, TolOption, app
from flatcore.cli._checkpoint_text import failed_words
from flatcore.cli._failures import NOT_CERTIFIED
from flatcore.cli._output import check_outputs, emit, progress_bar, result_file, show, text_stream, write_json
from flatcore.io import load_opener


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A checkpoint: a file, an index of shards, or a folder.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one, of the same model.")],
    k: Annotated[int, typer.Option("-k", help="Singular vectors a tensor.")] = 8,
    out: ReportOption = None,
    json_file: JsonOption = None,
    parquet: ParquetOption = None,
    tol: TolOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """What changed from checkpoint A to B: spectra side by side, rotation of singular subspaces, rank of the update."""
    check_outputs([a, b], [out, result_file(json_file)], parquet)
    load_opener(a, b)
    stream = text_stream(json_file)
    with progress_bar() as progress:
        result = compare_checkpoints(a, b, k, tol=tol, seed=seed, threads=threads, progress=progress)
    for title, lines in result.groups():
        show(stream, title, lines)
    if out is not None:
        result.report(str(out))
        emit(stream, f"report: {out}")
    if parquet is not None:
        result.frame().to_parquet(parquet)
        emit(stream, f"table: {parquet}")
    if json_file is not None:
        head = {"flatcore": fc.__version__, "certified": result.certified}
        write_json(json_file, {**head, "comparison": result.to_dict()})
    if not result.certified:
        missed = "a singular triplet misses the tolerance; its status says why"
        what = failed_words(result.failed) if result.failed else missed
        print(one_line(f"flatcore: not certified: {what}"), file=sys.stderr)
        raise typer.Exit(NOT_CERTIFIED)
