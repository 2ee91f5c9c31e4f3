"""``flatcore study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flatcore.cli._app import JsonOption, SeedOption, app
from flatcore.cli._output import check_outputs, emit, progress_bar, result_file, text_stream, write_json


@app.command()
def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which study; an unknown name lists them.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Directory of the results.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")] = False,
    seed: SeedOption = 0,
    size: Annotated[str | None, typer.Option(help="small or full, of studies that come in sizes (wfm).")] = None,
    json_file: JsonOption = None,
) -> None:
    """Run one of the papers' experiments."""
    from flatcore.studies import run_study, study_names

    if name not in study_names():
        raise ValueError(f"there is no study {name!r}; expected one of {', '.join(study_names())}")
    check_outputs([], [result_file(json_file)])
    with progress_bar() as progress:
        result = run_study(name, out, resume=resume, seed=seed, size=size, progress=progress)
    emit(text_stream(json_file), f"{result.summary()}\nreport: {result.report}")
    if json_file is not None:
        write_json(json_file, result.to_dict())
