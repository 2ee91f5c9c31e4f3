"""One checkpoint, wherever it is analysed: arguments and answer are plain values and arrays, which travel well."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatcore
from flatcore.checkpoints import analyze_checkpoint
from flatcore.io import load_opener, open_checkpoint
from flatcore.results import Array, CheckpointAnalysis
from flatcore.sweep.discovery import identity
from flatcore.sweep.following import Vectors, extrapolated, foretold, starts
from flatcore.sweep.rows import Row, file_row, notes_of, rows_of

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Task:
    """A checkpoint to analyse: `options` are those of ``analyze_checkpoint``, `history` at most two before it.

    ``version`` is that of the flatcore which asks.
    """

    path: str
    step: int | None
    options: Mapping[str, Any]
    history: tuple[Vectors, ...] = ()
    version: str = flatcore.__version__


@dataclass(frozen=True)
class Outcome:
    """Rows of a checkpoint, its identity when it was opened, and singular vectors for the next ones."""

    path: str
    identity: str
    rows: list[Row]
    vectors: Vectors | None = None


def analyse(task: Task, progress: Progress | None = None) -> Outcome:
    """Analyse one checkpoint; what goes wrong becomes its row.

    Raises
    ------
    RuntimeError
        Asked by another version of flatcore.

    """
    if task.version != flatcore.__version__:
        raise RuntimeError(f"flatcore {task.version} asks a worker that has {flatcore.__version__}")
    before, began = identity(task.path), time.perf_counter()
    try:
        ahead = extrapolated(task.history, task.step)
        found, nbytes = _analysis(task, starts(task.history, ahead), progress)
        if identity(task.path) != before:
            raise ValueError("changed while it was read; the next sweep reads it again")
        better = foretold(task.history, ahead, found.right)
    except Exception as error:
        return failed(task.path, _said(error), before, time.perf_counter() - began)
    entries = [math.prod(tensor.shape) for tensor in found.tensors]
    read = sum(tensor.reads * count for tensor, count in zip(found.tensors, entries, strict=True))
    row = file_row(
        status="done",
        certified=found.certified,
        note=notes_of(found),
        warm_from=task.history[-1].path if task.history else None,
        reads=round(read / sum(entries)) if entries else None,
        bytes=nbytes,
        seconds=time.perf_counter() - began,
    )
    vectors = Vectors(task.path, task.step, found.right, better) if found.right else None
    return Outcome(task.path, before, [row, *rows_of(found)], vectors)


def failed(path: str, reason: str, known_identity: str, seconds: float | None = None) -> Outcome:
    """The outcome of a checkpoint that could not be analysed."""
    row = file_row(status="failed", certified=False, error=reason, seconds=seconds)
    return Outcome(path, known_identity, [row])


def _analysis(task: Task, start: Mapping[str, Array], progress: Progress | None) -> tuple[CheckpointAnalysis, int]:
    load_opener(task.path)
    with open_checkpoint(Path(task.path)) as checkpoint:
        found = analyze_checkpoint(checkpoint, starts=start, progress=progress, **task.options)
        return found, sum(tensor.nbytes for tensor in checkpoint.values() if tensor.name not in checkpoint.tied)


def _said(error: BaseException) -> str:
    text = str(error)
    expected = isinstance(error, (ValueError, OSError, MemoryError)) and text
    return text if expected else f"{type(error).__name__}: {text}"
