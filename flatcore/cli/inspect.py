"""``flatcore inspect``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from flatcore.cli._app import app
from flatcore.cli._output import emit, show, write_json
from flatcore.io import inspect_checkpoint, load_opener, open_checkpoint


@app.command()
def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A file (.safetensors, .npz, .npy, .pt, .pth, .bin), an index of shards, or a folder with one.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what a checkpoint holds: each tensor's name, shape, precision and size, and what it is taken for."""
    load_opener(path)
    with open_checkpoint(path) as checkpoint:
        found = inspect_checkpoint(checkpoint)
    if as_json:
        write_json("-", found.to_dict())
        return
    emit(sys.stdout, found.title())
    for title, lines in found.groups():
        show(sys.stdout, title, lines)
