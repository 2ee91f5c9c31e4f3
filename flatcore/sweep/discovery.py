"""Patterns → checkpoints in order, grouped into trajectories.

The *trajectory* of a checkpoint is its path with the numbers of one component replaced by ``#``: of the file's name
where it has any, else of its folder (``run1/checkpoint-500/weights.npz``). Numbers that follow a word
such as seed or run tell runs apart and stay.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from flatcore.checkpoints.config import ADAPTER_CONFIG, MODEL_CONFIG
from flatcore.io import natural_key
from flatcore.io.checkpoints.folders import INDEX, USUAL, find_file
from flatcore.io.checkpoints.openers import ENDINGS
from flatcore.sweep.journal import FOLDER

CONFIGURATIONS = (MODEL_CONFIG, ADAPTER_CONFIG)
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}(?P<ending>\.\w+)")
_NUMBER = re.compile(
    r"(?i)(?P<word>seed|run|rank|fold|replica|trial|width|depth|lr)?(?P<mark>[-_=]?)(?P<number>[0-9]+)"
)
_STEP = re.compile(r"(?i)(?:step|steps|iter|iteration|checkpoint|ckpt|update)[-_=]?([0-9]+)")


@dataclass(frozen=True)
class Item:
    """One checkpoint to analyse.

    ``path`` is absolute. ``trajectory`` is the path with ``#`` for the numbers that count, ``step`` the number that
    does (the one after step, iter, checkpoint or update, else the first), None where the path has none.
    """

    path: str
    trajectory: str
    step: int | None


def discover(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], order: str = "natural") -> list[Item]:
    """The checkpoints that paths and patterns stand for, each once.

    Parameters
    ----------
    paths
        Files, folders and patterns (``*``, ``?``, ``[…]``, ``**``). A folder with a model under one of the usual names
        (``model.safetensors``, its index …) is one checkpoint; other folders are searched for checkpoints, whatever
        their depth. Shards stand for their index.
    order
        ``"natural"``, or ``"given"``: as they come, all of them one trajectory.

    Returns
    -------
    list of Item
        Trajectories one after the other.

    Raises
    ------
    ValueError
        A path or pattern that stands for nothing.

    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not given:
        raise ValueError("no path is given; expected files, folders or patterns of checkpoints")
    found: dict[str, None] = {}
    for path in [os.fspath(path) for path in given]:
        matches = [os.path.abspath(place) for place in _expanded(path)]
        if not matches:
            raise ValueError(f"{path!r} stands for no checkpoint; expected files or folders with {', '.join(ENDINGS)}")
        found.update(dict.fromkeys(matches))
    if order == "given":
        return [Item(path, "as given", number) for number, path in enumerate(_each_once(found))]
    ordered = sorted(_each_once(found), key=natural_key)
    groups = by_trajectory(Item(path, *_trajectory(path)) for path in ordered)
    return [item for group in groups.values() for item in group]


def _expanded(path: str) -> Iterator[str]:
    """A file or folder of that name, else what the pattern matches."""
    if os.path.lexists(path):
        yield from _checkpoints(path)
        return
    for match in sorted(glob.glob(path, recursive=True), key=natural_key):
        if os.path.isdir(match) or match.endswith((*ENDINGS, INDEX)):
            yield from _checkpoints(match)


def _checkpoints(path: str) -> Iterator[str]:
    """The path as one checkpoint, or those in its folders."""
    if not os.path.isdir(path):
        yield _whole(path)
        return
    for folder, inner, names in os.walk(path):
        inner[:] = sorted((name for name in inner if not name.endswith(FOLDER)), key=natural_key)
        if any(name in USUAL for name in names):
            yield folder
        else:
            yield from (_whole(os.path.join(folder, n)) for n in sorted(names, key=natural_key) if n.endswith(ENDINGS))


def _whole(file: str) -> str:
    """The index that a shard belongs to, and the folder that an index is the model of; else the file itself."""
    folder, name = os.path.split(file)
    if shard := _SHARD.fullmatch(name):
        index = shard["stem"] + shard["ending"] + INDEX
        name = index if os.path.isfile(os.path.join(folder, index)) else name
    if name.endswith(INDEX) and name in USUAL:
        return folder or "."
    return os.path.join(folder, name)


def _each_once(paths: Iterable[str]) -> list[str]:
    """Without those that open the same file as one before, such as a folder and the file in it."""
    kept: dict[str, str] = {}
    for path in paths:
        try:
            opened = os.path.realpath(find_file(Path(path))[0])
        except (OSError, ValueError):
            opened = path  # its row will say what is wrong
        kept.setdefault(opened, path)
    return list(kept.values())


def _trajectory(path: str) -> tuple[str, int | None]:
    """The path with # for the numbers that count, and the step."""
    parts = path.split(os.sep)
    for place in (len(parts) - 1, len(parts) - 2):
        pattern = _NUMBER.sub(lambda m: m[0] if m["word"] else f"{m['mark']}#", parts[place])
        if pattern != parts[place]:
            numbers = [m["number"] for m in _NUMBER.finditer(parts[place]) if not m["word"]]
            step = _STEP.search(parts[place])
            return os.sep.join([*parts[:place], pattern, *parts[place + 1 :]]), int(step[1] if step else numbers[0])
    return path, None


def files_of(path: str) -> list[Path]:
    """The files whose tensors a checkpoint holds, an index among them; the path itself where it stands for none."""
    try:
        file = find_file(Path(path))[0]
    except (OSError, ValueError):
        return [Path(path)]
    if not file.name.endswith(INDEX):
        return [file]
    ending = Path(file.name.removesuffix(INDEX)).suffix
    return [file, *sorted(beside for beside in file.parent.iterdir() if beside.suffix == ending)]


def identity(path: str) -> str:
    """A digest of sizes and times of change: another one means another content. Empty where nothing is there.

    The configuration beside a checkpoint, which says how many heads it has, belongs to it.
    """
    files = files_of(path)
    beside = [files[0].parent / name for name in CONFIGURATIONS]
    try:
        stats = [(file.name, file.stat()) for file in (*files, *(file for file in beside if file.is_file()))]
    except OSError:
        return ""
    text = " ".join(f"{name}:{found.st_size}:{found.st_mtime_ns}" for name, found in stats)
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:32]


def by_trajectory(items: Iterable[Item]) -> dict[str, list[Item]]:
    """The items of each trajectory, in order."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.trajectory, []).append(item)
    return groups


def segments(items: Sequence[Item], workers: int, warm: bool) -> list[list[Item]]:
    """Runs of consecutive checkpoints of one trajectory, at least as many as there are workers where that can be.

    Each trajectory is cut into about its share of the workers; without warm starts every checkpoint is on its own.
    """
    if not warm:
        return [[item] for item in items]
    out, groups = [], by_trajectory(items)
    for group in groups.values():
        pieces = 1 if len(groups) >= workers else min(len(group), -(-workers * len(group) // len(items)))
        bounds = [len(group) * piece // pieces for piece in range(pieces + 1)]
        out += [group[first:last] for first, last in pairwise(bounds)]
    return out
