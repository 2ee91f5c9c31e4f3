"""Patterns → checkpoints in order, grouped into trajectories.

The *trajectory* of a checkpoint is its path with the numbers of one component replaced by ``#``: of the file's name,
or of its folder (``run1/checkpoint-500/weights.npz``). Where both have numbers it is the one that a word such as step
names; where that does not tell, the folder if the file has the same name in all such folders, else the file. Numbers
that follow a word such as seed, run or lr (``lr1e-3``) tell runs apart and stay. The checkpoints of a trajectory come
by their step.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from flatcore.checkpoints.config import ADAPTER_CONFIG, MODEL_CONFIG
from flatcore.io import natural_key
from flatcore.io.checkpoints.folders import INDEX, find_file
from flatcore.io.checkpoints.openers import ENDINGS
from flatcore.results.sweeps import left_aside_text
from flatcore.sweep.journal import Entry
from flatcore.sweep.searching import Search

CONFIGURATIONS = (MODEL_CONFIG, ADAPTER_CONFIG)
_NUMBER = re.compile(
    r"(?i)(?:seed|run|rank|fold|replica|trial)[-_=]?[0-9]+"
    r"|(?:width|depth|lr)[-_=]?[0-9]*\.?[0-9]+(?:e[-+]?[0-9]+)?"
    r"|(?P<mark>[-_=]?)(?P<number>[0-9]+)"
)
_LARGEST_STEP = 2**63 - 1
_STEP = re.compile(r"(?i)(?:step|steps|iter|iteration|checkpoint|ckpt|update)[-_=]?([0-9]+)")


@dataclass(frozen=True)
class Item:
    """One checkpoint to analyse.

    ``path`` is absolute. ``trajectory`` is the path with ``#`` for the numbers that count, ``step`` the number that
    does (the one after step, iter, checkpoint or update, else the first), None where the path has none that 64 bits
    hold.
    """

    path: str
    trajectory: str
    step: int | None


class Found(NamedTuple):
    """Checkpoints, trajectories one after the other, and files that hold the state of a training and no model."""

    items: list[Item]
    left_aside: tuple[str, ...]


def discover(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], order: str = "natural") -> Found:
    """The checkpoints that paths and patterns stand for, each once.

    Parameters
    ----------
    paths
        Files, folders and patterns (``*``, ``?``, ``[…]``, ``**``). A folder with a model under one of the usual names
        (``model.safetensors``, its index …) is one checkpoint; other folders are searched for checkpoints, whatever
        their depth, links to folders followed. Shards stand for their index. Folders that cannot be read and links
        that lead nowhere are among the checkpoints. What holds the state of a training (``optimizer.pt``,
        ``training_args.bin`` …) is left aside unless it is named in full.
    order
        ``"natural"``, or ``"given"``: as they come, all of them one trajectory.

    Returns
    -------
    Found

    Raises
    ------
    ValueError
        What is no path, a path or pattern that stands for nothing.

    """
    given: list[Any] = [paths]
    if isinstance(paths, Iterable) and not isinstance(paths, (str, bytes, os.PathLike)):
        given = list(paths)
    for path in given:
        if not isinstance(path, (str, os.PathLike)):
            raise ValueError(f"a path is {path!r}; expected paths and patterns as texts, or pathlib.Path")
    if not given:
        raise ValueError("no path is given; expected files, folders or patterns of checkpoints")
    found: dict[str, None] = {}
    search = Search()
    for path in [os.fspath(path) for path in given]:
        matches = [os.path.abspath(place) for place in search.expanded(path)]
        if not matches:
            aside = f" ({left_aside_text(tuple(search.left_aside))})" if search.left_aside else ""
            raise ValueError(
                f"{path!r} stands for no checkpoint{aside}; expected files or folders with {', '.join(ENDINGS)}"
            )
        found.update(dict.fromkeys(matches))
    left_aside = tuple(path for path in search.left_aside if path not in found)
    if order == "given":
        return Found([Item(path, "as given", place) for place, path in enumerate(_each_once(found))], left_aside)
    ordered = sorted(_each_once(found), key=natural_key)
    groups = by_trajectory(_items(ordered))
    return Found([item for group in groups.values() for item in sorted(group, key=by_step)], left_aside)


def by_step(known: Item | Entry) -> tuple[bool, int]:
    """What sorts the checkpoints of a trajectory: their step, where they have one."""
    return known.step is not None, known.step or 0


def _each_once(paths: Iterable[str]) -> list[str]:
    """Each file that is opened once: of a folder and the file in it the first, of ways through links the shortest."""
    kept: dict[str, str] = {}
    for path in paths:
        try:
            opened = os.path.realpath(find_file(Path(os.path.realpath(path)))[0])
        except (OSError, ValueError):  # its row will say what is wrong
            opened = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if opened not in kept or _detour(path) < _detour(kept[opened]):
            kept[opened] = path
    return list(kept.values())


def _detour(path: str) -> int:
    """How many folders a path goes through where links are among them, 0 where none are."""
    folder = os.path.dirname(path)
    return 0 if os.path.realpath(folder) == folder else folder.count(os.sep)


def _items(paths: Sequence[str]) -> list[Item]:
    """Every path with its trajectory and step."""
    names: dict[str, list[str]] = {}  # of the files whose paths differ in the numbers of name and folder alone
    for path in paths:
        names.setdefault(_unnumbered(path, -1, -2), []).append(os.path.basename(path))
    return [Item(path, *_trajectory(path, names[_unnumbered(path, -1, -2)])) for path in paths]


def _trajectory(path: str, alike: Sequence[str]) -> tuple[str, int | None]:
    """The path with # for the numbers that count, and the step; `alike` are the names of files of such paths."""
    parts = path.split(os.sep)
    places = [place for place in (-1, -2) if _numbers(parts[place])]
    if len(places) == 2:
        file, folder = (_STEP.search(parts[place]) is not None for place in places)
        constant = len(alike) > 1 and len(set(alike)) == 1
        if folder > file or (folder == file and constant):
            places.reverse()
    if not places:
        return path, None
    counts = parts[places[0]]
    step = _STEP.search(counts)
    number = int(step[1] if step else _numbers(counts)[0])
    return _unnumbered(path, places[0]), number if number <= _LARGEST_STEP else None


def _numbers(component: str) -> list[str]:
    """Its numbers that count."""
    return [found["number"] for found in _NUMBER.finditer(component) if found["number"]]


def _unnumbered(path: str, *places: int) -> str:
    """The path with # for the numbers of some components."""
    parts = path.split(os.sep)
    for place in places:
        parts[place] = _NUMBER.sub(lambda m: f"{m['mark']}#" if m["number"] else m[0], parts[place])
    return os.sep.join(parts)


def files_of(path: str) -> list[Path]:
    """The files whose tensors a checkpoint holds, an index among them; the path itself where it stands for none."""
    try:
        file = find_file(Path(path))[0]
    except (OSError, ValueError):
        return [Path(path)]
    if not file.name.endswith(INDEX):
        return [file]
    ending = Path(file.name.removesuffix(INDEX)).suffix
    try:
        return [file, *sorted(beside for beside in file.parent.iterdir() if beside.suffix == ending)]
    except OSError:
        return [file]


def identity(path: str) -> str:
    """A digest of sizes and times of change: another one means another content. Empty where nothing is there.

    The configuration beside a checkpoint, which says how many heads it has, belongs to it.
    """
    files = files_of(path)
    beside = [files[0].parent / name for name in CONFIGURATIONS]
    try:  # also of is_file: a folder may be closed
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
