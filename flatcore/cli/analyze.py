"""``flatcore analyze``."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

import flatcore as fc
from flatcore._checks import counted, one_line
from flatcore.checkpoints import BrokenChainError, Rules, analyze_checkpoint, chain_of, recognise
from flatcore.cli._app import JsonOption, ParquetOption, ReportOption, SeedOption, ThreadsOption, TolOption, app
from flatcore.cli._checkpoint_text import failed_words, groups_of
from flatcore.cli._failures import NOT_CERTIFIED
from flatcore.cli._output import (
    check_outputs,
    emit,
    progress_bar,
    result_file,
    show,
    text_stream,
    write_json,
)
from flatcore.cli._rules import HeadsOption, KvHeadsOption, PairOption, RulesOption, rules_of
from flatcore.io import NotAChainError, load_opener, open_checkpoint, read_data
from flatcore.results import Analysis, CheckpointAnalysis

_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

Analyse = Callable[..., Any]


@app.command()
def analyze(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A file (.safetensors, .npz, .npy, .pt, .pth, .bin), an index of shards or a folder with one; or "
            "package.module:name, a torch.nn.Module or a function that returns one, which is imported and so run.",
        ),
    ],
    data: Annotated[Path | None, typer.Option(metavar="FILE", help="An .npz file: inputs and targets.")] = None,
    k: Annotated[int, typer.Option("-k", help="Singular vectors a layer.")] = 8,
    rules: RulesOption = None,
    pair: PairOption = None,
    heads: HeadsOption = None,
    kv_heads: KvHeadsOption = None,
    out: ReportOption = None,
    json_file: JsonOption = None,
    parquet: ParquetOption = None,
    tol: TolOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
) -> None:
    """Spectra of every tensor of a checkpoint, of heads and adapters, coupling and balance of its layers.

    A file that is one linear chain: its balance, coupling and gains, with data its sharpness too.
    """
    is_target = bool(_TARGET.fullmatch(model)) and not Path(model).exists()
    check_outputs([None if is_target else Path(model), data, rules], [out, result_file(json_file)], parquet)
    said = rules_of(rules, pair, heads, kv_heads)
    stream = text_stream(json_file)
    if is_target:
        if said or parquet is not None:
            raise ValueError(f"rules, pairs, heads and Parquet are for files; {model} is a module by name")
        about, analyse = _read_target(model, stream)
    else:
        needed = "rules are given" if said else "--parquet asks for a table of tensors" if parquet is not None else ""
        about, analyse = _read_file(Path(model), said, needed, data is not None, stream)
    loss = None if data is None else read_data(data)
    if loss is not None:
        emit(stream, f"{data}: {loss!r}")
    with progress_bar() as progress:
        result = analyse(loss, k, tol=tol, seed=seed, threads=threads, progress=progress)
    _show_result(stream, result)
    if out is not None:
        result.report(str(out))
        emit(stream, f"report: {out}")
    if parquet is not None:
        result.frame().to_parquet(parquet)
        emit(stream, f"table: {parquet}")
    if json_file is not None:
        head = {"flatcore": fc.__version__, "model": about, "data": None if data is None else str(data)}
        write_json(json_file, {**head, "certified": result.certified, "analysis": result.to_dict()})
    if not result.certified:
        print(one_line(f"flatcore: not certified: {_why(result)}"), file=sys.stderr)
        raise typer.Exit(NOT_CERTIFIED)


def _why(result: Any) -> str:
    if isinstance(result, CheckpointAnalysis) and result.failed:
        return failed_words(result.failed)
    what = "an eigenpair" if isinstance(result, Analysis) else "a singular triplet"
    return f"{what} misses the tolerance; its status says why"


def _show_result(stream: TextIO, result: Any) -> None:
    if isinstance(result, CheckpointAnalysis):
        for title, lines in groups_of(result):
            show(stream, title, lines)
        return
    for title, group in groupby(result._lines(), key=lambda line: line[0].rpartition(": ")[0]):
        show(stream, title or result._title(), ((label.removeprefix(f"{title}: "), text) for label, text in group))


def _read_file(
    path: Path, rules: Rules, needed: str, with_data: bool, stream: TextIO
) -> tuple[dict[str, Any], Analyse]:
    """What was read, and the analysis of its chain, or of its tensors where they are none or `needed` says why."""
    load_opener(path)
    with open_checkpoint(path) as checkpoint:
        structure = recognise(checkpoint, rules)
        try:
            if needed:
                raise NotAChainError(needed)
            model, chain = chain_of(checkpoint, structure, any_size=with_data)
        except NotAChainError as reason:
            if with_data and not isinstance(reason, BrokenChainError):
                raise ValueError(f"{reason}; with data expected the layers of one chain") from None
            why = str(reason)
        else:
            emit(stream, "\n".join(map(one_line, model.describe().split("\n"))))
            return model.to_dict(), functools.partial(fc.analyze, chain)
    about = {
        "path": str(path),
        "kind": checkpoint.kind,
        "files": [str(file) for file in checkpoint.files],
        "family": structure.family,
        "not_a_chain": why,
    }
    count = counted(len(checkpoint), "tensor")
    emit(stream, one_line(f"{path}: {checkpoint.kind}, {count}, taken for {structure.family}"))
    emit(stream, one_line(f"analysed tensor by tensor, not as one chain: {why}"))
    return about, functools.partial(_analyze_tensors, path, rules)


def _analyze_tensors(path: Path, rules: Rules, loss: Any, k: int, **options: Any) -> CheckpointAnalysis:
    return analyze_checkpoint(path, k, rules=rules, **options)


def _read_target(target: str, stream: TextIO) -> tuple[dict[str, Any], Analyse]:
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
