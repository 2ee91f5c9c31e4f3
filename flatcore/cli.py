"""The command line: ``flatcore analyze``, ``flatcore inspect``, ``flatcore study`` and ``flatcore doctor``.

Exit codes: 0 done; 1 internal error; 2 bad input; 3 done, but an eigenpair or singular triplet asked for is not
certified; 130 interrupted.
Results go to standard output, everything else to standard error; with ``--json -`` the results are the JSON alone.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from itertools import groupby, pairwise
from pathlib import Path
from typing import Annotated, Any, TextIO

import numpy as np

try:
    import typer
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
    from rich.text import Text
except ModuleNotFoundError as missing:
    print(f"flatcore: the command line needs {missing.name}: pip install 'flatcore[cli]'", file=sys.stderr)
    raise SystemExit(2) from None

import flatcore as fc
from flatcore import _core
from flatcore.io import (
    NamedArrays,
    NotAChainError,
    bias_name,
    check_target,
    inspect_checkpoint,
    natural_key,
    needs_torch,
    open_checkpoint,
    read_arrays,
    read_data,
    read_model,
    write_text_atomic,
)
from flatcore.results import ModuleAnalysis, plain
from flatcore.weights.layers import array_layers
from flatcore.weights.layerwise import analyze_layers

INTERNAL_ERROR, BAD_INPUT, NOT_CERTIFIED, INTERRUPTED = 1, 2, 3, 130
EXTRAS = {
    "files": ("safetensors", "ml_dtypes", "pyarrow"),
    "cli": ("typer", "rich", "jinja2", "matplotlib", "scikit-learn"),
    "torch": ("torch",),
    "scale": ("dask",),
}
_MODULES = {"sklearn": "scikit-learn"}  # modules called other than their packages

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

Lines = Iterable[tuple[str, str]]


def _failure(error: BaseException) -> tuple[int, str]:
    """Exit code and message of what went wrong."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, MemoryError):
        return BAD_INPUT, f"out of memory: {error}" if str(error) else "out of memory"
    if isinstance(error, OSError) and error.strerror is not None:
        return BAD_INPUT, ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None)
    if isinstance(error, OSError):
        return BAD_INPUT, str(error)
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = _MODULES.get(error.name, error.name)
        for extra, packages in EXTRAS.items():
            if package in packages:
                return BAD_INPUT, f"this needs {package}: pip install 'flatcore[{extra}]'"
    if isinstance(error, ValueError) and not isinstance(error, np.linalg.LinAlgError):
        return BAD_INPUT, str(error)
    return INTERNAL_ERROR, f"internal error: {type(error).__name__}: {error} (flatcore --debug … shows where)"


def _one_line(message: str) -> str:
    """The message, in which names that files give cannot break lines or steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)


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
                code, message = _failure(error)
            else:
                raise
            if code == INTERNAL_ERROR and ctx.params.get("debug"):
                traceback.print_exception(error)
            print(f"flatcore: {_one_line(message)}", file=sys.stderr)
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


def main() -> None:
    """Run the command line and exit.

    Raises
    ------
    SystemExit
        Always, with one of the exit codes above.

    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        _emit(sys.stdout, f"flatcore {fc.__version__}")
        raise typer.Exit(0)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an internal error happened.")] = False,
) -> None:
    """Curvature, spectra and flat minima of wide linear networks, exactly and with certificates."""


@app.command()
def analyze(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="An .npz file (W1, W2, … or 0.weight, 2.weight, …), a state dict (.pt, .pth), or package.module:name, "
            "a torch.nn.Module or a function that returns one, which is imported and so run.",
        ),
    ],
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="An .npz file: inputs and targets.")] = None,
    k: Annotated[int, typer.Option("-k", help="Singular vectors a layer.")] = 8,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report as HTML.")] = None,
    json_file: JsonOption = None,
    tol: Annotated[float | None, typer.Option(help="Relative tolerance of eigenpairs and singular triplets.")] = None,
    seed: SeedOption = 0,
    threads: Annotated[int | None, typer.Option(help="At most so many threads.")] = None,
) -> None:
    """Balance, coupling and gains of a chain, with data its sharpness too; of other models each layer and each pair."""
    is_target = bool(_TARGET.fullmatch(model)) and not Path(model).exists()
    _check_outputs([None if is_target else Path(model), data], [out, _file(json_file)])
    stream = _text_stream(json_file)
    about, analyse = _read_target(model, stream) if is_target else _read_file(Path(model), data is not None, stream)
    loss = None if data is None else read_data(data)
    if loss is not None:
        _emit(stream, f"{data}: {loss!r}")
    with _progress() as progress:
        result = analyse(loss, k, tol=tol, seed=seed, threads=threads, progress=progress)
    for title, group in groupby(result._lines(), key=lambda line: line[0].rpartition(": ")[0]):
        _show(stream, title or result._title(), ((label.removeprefix(f"{title}: "), text) for label, text in group))
    if out is not None:
        result.report(str(out))
        _emit(stream, f"report: {out}")
    if json_file is not None:
        head = {"flatcore": fc.__version__, "model": about, "data": None if data is None else str(data)}
        _write_json(json_file, {**head, "certified": result.certified, "analysis": result.to_dict()})
    if not result.certified:
        what = "a singular triplet" if isinstance(result, ModuleAnalysis) else "an eigenpair"
        print(f"flatcore: not certified: {what} misses the tolerance; its status says why", file=sys.stderr)
        raise typer.Exit(NOT_CERTIFIED)


def _read_file(path: Path, with_data: bool, stream: TextIO) -> tuple[dict[str, Any], Callable[..., Any]]:
    """What was read, and the analysis of its chain, or of its arrays one by one where they are no chain."""
    if path.suffix.lower() in (".pt", ".pth"):
        importlib.import_module("flatcore.torch._files")  # registers the reader
    try:
        model = read_model(path)
        chain = model.chain()
    except NotAChainError as reason:
        if with_data:
            raise ValueError(f"{reason}; with data expected the layers of one chain") from None
        arrays, why = read_arrays(path), str(reason)
        _emit(stream, f"{arrays.describe()}\nno chain ({why}): analysed layer by layer")
        return arrays.to_dict(), functools.partial(_analyze_arrays, arrays, why)
    _emit(stream, model.describe())
    return model.to_dict(), functools.partial(fc.analyze, chain)


def _analyze_arrays(read: NamedArrays, why: str, loss: None, k: int, **options: Any) -> ModuleAnalysis:
    """Layer by layer: each array of two to five dimensions, tied ones once; no pair across a parametrized weight."""
    once = {name: array for name, array in read.arrays.items() if name not in read.tied}
    layers, others = array_layers(once, {name: bias_name(name) for name in once})
    if not layers:
        raise ValueError(why)
    for index, (lower, upper) in enumerate(pairwise(layers), 1):
        first, last = natural_key(lower.name), natural_key(upper.name)
        parted = [name for name in read.parametrized if first < natural_key(name) < last]
        if parted:
            layers[index] = dataclasses.replace(upper, parted=f"{', '.join(parted)} between, not analysed")
    others += read.set_aside()
    tied = [f"{name} is {other}" for name, other in read.tied.items()]
    order = "of the names; kernels are taken as convolutions without groups"
    return analyze_layers(str(read.path), layers, k, order=order, not_analysed=others, tied=tied, **options)


def _read_target(target: str, stream: TextIO) -> tuple[dict[str, Any], Callable[..., Any]]:
    """A torch.nn.Module by name, and its analysis. What its code prints goes where the other text goes."""
    with redirect_stdout(stream):
        module = importlib.import_module("flatcore.torch._targets").module_named(target)
    about = {
        "target": target,
        "class": f"{type(module).__module__}.{type(module).__qualname__}",
        "parameters": sum(p.numel() for p in module.parameters()),
    }
    _emit(stream, f"{target}: {about['class']}, {about['parameters']} parameters")
    return about, functools.partial(fc.analyze, module)


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
    if needs_torch(path):
        importlib.import_module("flatcore.torch._checkpoints")  # registers the opener
    with open_checkpoint(path) as checkpoint:
        found = inspect_checkpoint(checkpoint)
    if as_json:
        _write_json("-", found.to_dict())
        return
    _emit(sys.stdout, found.title())
    for title, lines in found.groups():
        _show(sys.stdout, title, lines)


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
    _check_outputs([], [_file(json_file)])
    with _progress() as progress:
        result = run_study(name, out, resume=resume, seed=seed, size=size, progress=progress)
    _emit(_text_stream(json_file), f"{result.summary()}\nreport: {result.report}")
    if json_file is not None:
        _write_json(json_file, result.to_dict())


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what was installed and how it was built, and whether it computes."""
    facts = {"versions": _versions(), "build": _build(), "extras": dict(_extras()), "self_check": _self_check()}
    if as_json:
        _write_json("-", facts)
    else:
        for title, lines in facts.items():
            _show(sys.stdout, title.replace("_", "-").capitalize(), lines.items())
    if any(result != "ok" for result in facts["self_check"].values()):
        raise typer.Exit(INTERNAL_ERROR)


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("numpy", "scipy")}
    return {"flatcore": fc.__version__, "python": platform.python_version(), **packages, "system": platform.platform()}


def _build() -> dict[str, str]:
    info = _core.build_info()
    return {
        "compiler": str(info["compiler"]),
        "openmp": f"{_core.max_threads()} threads" if info["openmp"] else "not built in: serial",
        "blas": _blas(),
        "simd": str(info["simd"]),
        "eigen": f"{info['eigen']}, {info['eigen_simd']}",
    }


def _blas() -> str:
    try:
        from threadpoolctl import threadpool_info
    except ModuleNotFoundError:
        return f"{_core.get_blas_threads() or 'unknown number of'} threads"
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    names = (
        f"{pool['internal_api']} {pool['version']} ({pool.get('architecture', 'any')}, {pool['num_threads']} threads)"
        for pool in pools
    )
    return "; ".join(dict.fromkeys(names)) or "unknown"


def _extras() -> Iterator[tuple[str, str]]:
    for extra, packages in EXTRAS.items():
        for package in packages:
            try:
                yield package, importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                yield package, f"missing: pip install 'flatcore[{extra}]'"


def _self_check() -> dict[str, str]:
    """On whitened data two identity layers have sharpness 4 and are flattest."""
    identity = np.eye(3)
    loss = fc.QuadraticLoss(3**0.5 * identity, 3**0.5 * identity)

    def check(dtype: Any) -> str:
        try:
            chain = fc.LinearChain([identity.astype(dtype)] * 2)
            values = float(fc.sharpness(chain, loss).values[0]), fc.flattest_sharpness(chain, loss)
        except Exception as error:
            return f"failed: {type(error).__name__}: {error}"
        return "ok" if np.allclose(values, 4.0, rtol=1e-4) else f"failed: sharpness {values}; expected 4"

    return {f"{np.dtype(dtype)} sharpness": check(dtype) for dtype in (np.float32, np.float64)}


def _file(json_file: str | None) -> Path | None:
    return None if json_file in (None, "-") else Path(str(json_file))


def _text_stream(json_file: str | None) -> TextIO:
    return sys.stderr if json_file == "-" else sys.stdout


def _check_outputs(inputs: Iterable[Path | None], outputs: Iterable[Path | None]) -> None:
    """Refuse, before anything is computed, results that would have no place or would overwrite something read."""
    taken = {path.resolve() for path in inputs if path is not None}
    for path in outputs:
        if path is None:
            continue
        if check_target(path) in taken:
            raise ValueError(f"{path} is given twice; results need a file of their own")
        taken.add(path.resolve())


def _write_json(file: str, content: Any) -> None:
    text = json.dumps(plain(content), indent=2, allow_nan=False)
    if file == "-":
        _emit(sys.stdout, text)
    else:
        write_text_atomic(file, text + "\n")


def _show(stream: TextIO, title: str, lines: Lines) -> None:
    """Lines under a title: a table in a terminal, aligned text elsewhere."""
    rows = list(lines)
    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        width = max((len(label) for label, _ in rows), default=0)
        _emit(stream, "\n".join(["", title, *(f"  {label:<{width}}  {text}" for label, text in rows)]))
        return
    table = Table(title=Text(title, style="bold"), title_justify="left", show_header=False, box=None, padding=(0, 1))
    for label, text in rows:
        table.add_row(Text(label, style="cyan"), Text(text))
    with console.capture() as captured:
        console.print()
        console.print(table)
    _emit(stream, captured.get().removesuffix("\n"))


def _emit(stream: TextIO, text: str) -> None:
    """Write a text and a newline; a reader that has left (``| head``) ends the output and nothing else."""
    try:
        stream.write(text + "\n")
        stream.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what is still buffered goes there
        if not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror, "standard output") from None


@contextmanager
def _progress() -> Iterator[Callable[[str, float], None]]:
    """A progress bar on standard error, where that is a terminal; it disappears at the end."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, transient=True, redirect_stdout=False, disable=not console.is_terminal
    ) as bars:
        task = bars.add_task("starting", total=1.0)
        yield lambda what, fraction: bars.update(task, description=what, completed=fraction)
