"""What a sweep will cost, before it starts: bytes, memory, time; rates are measured here and now."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flatcore._checks import human_bytes
from flatcore._memory import available_memory
from flatcore.io import load_opener, open_checkpoint
from flatcore.results import SweepPlan
from flatcore.spectral import top_svd
from flatcore.sweep.discovery import Item, by_trajectory, files_of
from flatcore.sweep.running import Segment

# Passes over a matrix that a search for eight triplets takes, cold and with the vectors of the checkpoint before, probe
# and final products included; what effective ranks and pairs take in their terms; and what a checkpoint takes however
# small it is. Measured on matrices of 2048 and 4096, and on files of 8 kB.
COLD_READS, WARM_READS, REST_READS, FILE_SECONDS = 60, 15, 15, 0.01
OVERHEAD = 300_000_000  # bytes of a worker beside its tensors
_PIECE, _SAMPLE = 1 << 25, 1024  # bytes to read; side of the matrix to multiply


@dataclass(frozen=True)
class Size:
    """Of a checkpoint: bytes of its files, entries of its matrices, bytes of its largest tensor in memory."""

    nbytes: int
    entries: int
    largest: int


def plan(
    out: Path,
    segments: Sequence[Segment],
    done: int,
    *,
    workers: int,
    shared: bool,
    k: int,
    threads: int | None,
    spectra_only: bool,
) -> SweepPlan:
    """Estimate a sweep, and reduce the workers to what fits.

    Parameters
    ----------
    out, segments, done
        Where to, what is to be done, how many are done.
    workers
        How many are asked for.
    shared
        Whether they share this machine's memory and cores.
    k, threads, spectra_only
        Of the analyses.

    Raises
    ------
    MemoryError
        Not even one worker fits.

    """
    todo = [segment.items[position] for segment in segments for position in segment.todo]
    sizes = _sizes(todo)
    largest = max((size.largest for size in sizes.values()), default=0)
    memory, available = 2 * largest + OVERHEAD, available_memory() or 0
    fitting, note = _fitting(workers, memory, available) if shared and todo else (workers, "")
    cold = sum(bool(segment.todo) and not segment.kept for segment in segments)
    nbytes, entries = (sum(getattr(size, name) for size in sizes.values()) for name in ("nbytes", "entries"))
    read_rate, product_rate = _rates(todo, k, threads) if todo else (math.nan, math.nan)
    reads = COLD_READS, WARM_READS
    if not spectra_only:
        reads = COLD_READS + REST_READS, WARM_READS + REST_READS
    passes = (reads[0] * cold + reads[1] * (len(todo) - cold)) / max(1, len(todo))
    seconds = nbytes / read_rate + passes * entries / product_rate + FILE_SECONDS * len(todo)
    return SweepPlan(
        out=str(out),
        trajectories=tuple(
            (name, len(group), sum(sizes[item].nbytes for item in group)) for name, group in by_trajectory(todo).items()
        ),
        paths=tuple(item.path for item in todo),
        done=done,
        nbytes=nbytes,
        entries=entries,
        largest=largest,
        memory=memory,
        available=available,
        workers=fitting,
        segments=sum(bool(segment.todo) for segment in segments),
        reads=reads,
        read_rate=read_rate,
        product_rate=product_rate,
        seconds=seconds if shared else seconds / fitting,
        note=note,
    )


def _fitting(workers: int, memory: int, available: int) -> tuple[int, str]:
    """So many workers as fit, and a remark where these are fewer."""
    most = available // memory if available else workers
    if most < 1:
        raise MemoryError(f"one worker needs {human_bytes(memory)}; {human_bytes(available)} are available")
    if most < workers:
        return most, f"{most} of {workers} workers fit into the memory that is free"
    return workers, ""


def _sizes(todo: Sequence[Item]) -> dict[Item, Size]:
    """Of every checkpoint; headers are read of one a trajectory, in whose proportions the others are taken to be."""
    seen: dict[str, Size] = {}
    out = {}
    for item in todo:
        nbytes = size_of(item.path)
        model = seen.get(item.trajectory)
        if model is None or model.entries == 0:
            model = seen[item.trajectory] = _opened(item.path, nbytes)
        share = nbytes / model.nbytes if model.nbytes else 0.0
        out[item] = Size(nbytes, round(model.entries * share), round(model.largest * max(1.0, share)))
    return out


def size_of(path: str) -> int:
    """Bytes of a checkpoint's files, 0 where it is gone."""
    try:
        return sum(file.stat().st_size for file in files_of(path))
    except OSError:
        return 0  # its row will say what is wrong


def _opened(path: str, nbytes: int) -> Size:
    """By the headers; nothing where they cannot be read."""
    try:
        load_opener(path)
        with open_checkpoint(Path(path)) as checkpoint:
            matrices = [tensor for tensor in checkpoint.values() if len(tensor.shape) > 1]
            in_memory = [max(t.nbytes, 4 * t.entries if t.dtype.startswith("F8") else 0) for t in matrices]
            return Size(nbytes, sum(tensor.entries for tensor in matrices), max(in_memory, default=0))
    except (ValueError, OSError, MemoryError, ModuleNotFoundError):
        return Size(nbytes, 0, 0)


def _rates(todo: Sequence[Item], k: int, threads: int | None) -> tuple[float, float]:
    """Bytes read a second, and entries multiplied a second."""
    return _read_rate(todo), _product_rate(min(k, 8), threads)


def _read_rate(todo: Sequence[Item]) -> float:
    """Of a piece from the middle of the first file that can be read."""
    for item in todo[:8]:
        try:
            file = max(files_of(item.path), key=lambda file: file.stat().st_size)
            with open(file, "rb", buffering=0) as stream:
                stream.seek(max(0, (os.fstat(stream.fileno()).st_size - _PIECE) // 2))
                began = time.perf_counter()
                count = len(stream.read(_PIECE))
                return max(1, count) / max(1e-6, time.perf_counter() - began)
        except (OSError, ValueError):
            continue
    return math.inf


def _product_rate(k: int, threads: int | None) -> float:
    """Of a few steps of a search in a random matrix."""
    matrix = np.random.default_rng(0).standard_normal((_SAMPLE, _SAMPLE), dtype=np.float32)
    began = time.perf_counter()
    found = top_svd(matrix, k, maxiter=4, threads=threads)
    assert not isinstance(found, list)
    return found.reads * matrix.size / (time.perf_counter() - began)
