"""``flatcore analyze``."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import groupby, pairwise
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

import flatcore as fc
from flatcore.cli._app import JsonOption, SeedOption, app
from flatcore.cli._failures import NOT_CERTIFIED
from flatcore.cli._output import check_outputs, emit, progress_bar, result_file, show, text_stream, write_json
from flatcore.io import NamedArrays, NotAChainError, bias_name, natural_key, read_arrays, read_data, read_model
from flatcore.results import ModuleAnalysis
from flatcore.weights.layers import array_layers
from flatcore.weights.layerwise import analyze_layers

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


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
    check_outputs([None if is_target else Path(model), data], [out, result_file(json_file)])
    stream = text_stream(json_file)
    about, analyse = _read_target(model, stream) if is_target else _read_file(Path(model), data is not None, stream)
    loss = None if data is None else read_data(data)
    if loss is not None:
        emit(stream, f"{data}: {loss!r}")
    with progress_bar() as progress:
        result = analyse(loss, k, tol=tol, seed=seed, threads=threads, progress=progress)
    for title, group in groupby(result._lines(), key=lambda line: line[0].rpartition(": ")[0]):
        show(stream, title or result._title(), ((label.removeprefix(f"{title}: "), text) for label, text in group))
    if out is not None:
        result.report(str(out))
        emit(stream, f"report: {out}")
    if json_file is not None:
        head = {"flatcore": fc.__version__, "model": about, "data": None if data is None else str(data)}
        write_json(json_file, {**head, "certified": result.certified, "analysis": result.to_dict()})
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
        emit(stream, f"{arrays.describe()}\nno chain ({why}): analysed layer by layer")
        return arrays.to_dict(), functools.partial(_analyze_arrays, arrays, why)
    emit(stream, model.describe())
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
    emit(stream, f"{target}: {about['class']}, {about['parameters']} parameters")
    return about, functools.partial(fc.analyze, module)
