"""Where results and other texts go: standard output, files, standard error."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from flatcore._checks import abridged, of_short_words, one_line
from flatcore.io import check_target, write_text_atomic
from flatcore.io.checkpoints import ENDINGS
from flatcore.results import plain

Lines = Iterable[tuple[str, str]]


_OTHER_FORMATS = (".csv", ".json", ".jsonl", ".html", ".htm", ".txt")
_CONFIGURATIONS = ("config.json", ".index.json")  # ends of names


def result_file(json_file: str | None) -> Path | None:
    return None if json_file in (None, "-") else Path(str(json_file))


def text_stream(json_file: str | None) -> TextIO:
    return sys.stderr if json_file == "-" else sys.stdout


def check_outputs(inputs: Iterable[Path | None], outputs: Iterable[Path | None], parquet: Path | None = None) -> None:
    """Refuse, before anything is computed, results that would have no place or would overwrite something read.

    A Parquet file is refused the ending of another format.
    """
    if parquet is not None and parquet.suffix.lower() in _OTHER_FORMATS:
        raise ValueError(f"--parquet {parquet}: the ending is another format's; expected a name such as t.parquet")
    taken = {Path(os.path.realpath(path)) for path in inputs if path is not None}  # which loops of links do not stop
    for path in (*outputs, parquet):
        if path is None:
            continue
        place = check_target(path)
        if place in taken:
            raise ValueError(f"{path} is given twice; results need a file of their own")
        if path.suffix.lower() in ENDINGS or path.name.endswith(_CONFIGURATIONS):
            raise ValueError(f"{path} is named as part of a checkpoint; expected another name for results")
        taken.add(place)


def write_json(file: str, content: Any) -> None:
    text = json.dumps(plain(content), indent=2, allow_nan=False)
    if file == "-":
        emit(sys.stdout, text)
    else:
        write_text_atomic(file, text + "\n")


def show(stream: TextIO, title: str, lines: Lines) -> None:
    """Lines under a title: a table in a terminal, aligned text elsewhere. Long names are abridged."""
    title = one_line(of_short_words(title))
    rows = [(one_line(abridged(label)), one_line(of_short_words(text))) for label, text in lines]
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        width = max((len(label) for label, _ in rows), default=0)
        emit(stream, "\n".join(["", title, *(f"  {label:<{width}}  {text}" for label, text in rows)]))
        return
    table = Table(title=Text(title, style="bold"), title_justify="left", show_header=False, box=None, padding=(0, 1))
    for label, text in rows:
        table.add_row(Text(label, style="cyan"), Text(text))
    with console.capture() as captured:
        console.print()
        console.print(table)
    emit(stream, captured.get().removesuffix("\n"))


def emit(stream: TextIO, text: str) -> None:
    """Write a text and a newline; a reader that has left (``| head``) ends the output and nothing else."""
    try:
        stream.write(text + "\n")
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what is still buffered goes there
        if not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror, "standard output") from None


@contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """A progress bar on standard error, where that is a terminal; it disappears at the end."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal
    ) as bars:
        task = bars.add_task("starting", total=1.0)
        yield lambda what, fraction: bars.update(task, description=one_line(what), completed=fraction)
