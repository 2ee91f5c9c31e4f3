"""One checkpoint, wherever it is analysed: arguments and answer are plain values and arrays, which travel well."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flatcore.io import needs_torch, open_checkpoint
from flatcore.results import Array, CheckpointAnalysis
from flatcore.sweep.discovery import identity
from flatcore.sweep.rows import Row, file_row, notes_of, rows_of

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Task:
    """A checkpoint to analyse: `options` are those of ``analyze_checkpoint``, `starts` the vectors of `warm_from`."""

    path: str
    options: Mapping[str, Any]
    starts: Mapping[str, Array] | None = None
    warm_from: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Rows of a checkpoint, its identity when it was opened, and right singular vectors for the next one."""

    path: str
    identity: str
    rows: list[Row]
    right: dict[str, Array] = field(default_factory=dict)


def analyse(task: Task, progress: Progress | None = None) -> Outcome:
    """Analyse one checkpoint; what goes wrong becomes its row."""
    before, began = identity(task.path), time.perf_counter()
    try:
        found, nbytes = _analysis(task, progress)
        if identity(task.path) != before:
            raise ValueError("changed while it was read; the next sweep reads it again")
    except (Exception, RecursionError) as error:
        return failed(task.path, _said(error), before, time.perf_counter() - began)
    tensors = sum(tensor.reads * _entries(tensor.shape) for tensor in found.tensors)
    total = sum(_entries(tensor.shape) for tensor in found.tensors)
    row = file_row(
        status="done",
        certified=found.certified,
        note=notes_of(found),
        warm_from=task.warm_from,
        reads=round(tensors / total) if total else None,
        bytes=nbytes,
        seconds=time.perf_counter() - began,
    )
    return Outcome(task.path, before, [row, *rows_of(found)], found.right)


def failed(path: str, reason: str, known_identity: str, seconds: float | None = None) -> Outcome:
    """The outcome of a checkpoint that could not be analysed."""
    row = file_row(status="failed", certified=False, error=reason, seconds=seconds)
    return Outcome(path, known_identity, [row])


def _analysis(task: Task, progress: Progress | None) -> tuple[CheckpointAnalysis, int]:
    from flatcore.checkpoints import analyze_checkpoint

    if needs_torch(task.path):
        importlib.import_module("flatcore.torch._checkpoints")  # registers the opener
    with open_checkpoint(Path(task.path)) as checkpoint:
        found = analyze_checkpoint(checkpoint, starts=task.starts, progress=progress, **task.options)
        return found, sum(tensor.nbytes for tensor in checkpoint.values() if tensor.name not in checkpoint.tied)


def _said(error: BaseException) -> str:
    text = str(error)
    expected = isinstance(error, (ValueError, OSError, MemoryError)) and text
    return text if expected else f"{type(error).__name__}: {text}"


def _entries(shape: tuple[int, ...]) -> int:
    count = 1
    for extent in shape:
        count *= extent
    return count
