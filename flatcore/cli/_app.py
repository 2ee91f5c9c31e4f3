"""The application: options before the commands, and what failures of commands become."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

import flatcore as fc
from flatcore._checks import one_line
from flatcore.cli._failures import BAD_INPUT, INTERNAL_ERROR, failure
from flatcore.cli._output import emit


class _Commands(typer.core.TyperGroup):
    """The commands, every failure of which becomes a message and an exit code here."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:
            if hasattr(error, "format_message"):  # a usage error
                code, message = BAD_INPUT, f"{error.format_message().rstrip('.')}; see --help"
            elif isinstance(error, (Exception, KeyboardInterrupt)):
                code, message = failure(error)
            else:
                raise
            if code == INTERNAL_ERROR and ctx.params.get("debug"):
                traceback.print_exception(error)
            print(f"flatcore: {one_line(message)}", file=sys.stderr)
            raise typer.Exit(code) from None


app = typer.Typer(
    name="flatcore",
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Curvature, spectra and flat minima of wide linear networks, exactly and with certificates.",
    epilog="Exit codes: 0 done, 1 internal error, 2 bad input, 3 done but not certified, 130 interrupted.",
)

JsonOption = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Write the results as JSON; - for standard output.")
]
SeedOption = Annotated[int, typer.Option(help="Of all random numbers.")]
TolOption = Annotated[float | None, typer.Option(help="Relative tolerance of eigenpairs and singular triplets.")]
ThreadsOption = Annotated[int | None, typer.Option(help="At most so many threads.")]
ReportOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report as HTML.")]
ParquetOption = Annotated[Path | None, typer.Option(metavar="FILE", help="Write a table as Parquet, one row a tensor.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        emit(sys.stdout, f"flatcore {fc.__version__}")
        raise typer.Exit(0)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an internal error happened.")] = False,
) -> None:
    """Curvature, spectra and flat minima of wide linear networks, exactly and with certificates."""
