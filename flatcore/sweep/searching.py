"""Patterns, files and folders → paths of checkpoints; what cannot be read is among them, for its row to say why.

Folders behind links are searched after the others, and each folder once, so that links that lead back end nothing.
"""

from __future__ import annotations

import glob
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from flatcore.io import natural_key
from flatcore.io.checkpoints.folders import INDEX, USUAL, is_training_state
from flatcore.io.checkpoints.openers import ENDINGS
from flatcore.sweep.journal import FOLDER

_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}(?P<ending>\.\w+)")


@dataclass
class Search:
    """A search for checkpoints.

    Parameters
    ----------
    left_aside
        Files met that hold the state of a training and no model; one that is named in full is taken.

    """

    left_aside: dict[str, None] = field(default_factory=dict)

    def expanded(self, path: str) -> Iterator[str]:
        """A file or folder of that name, else what the pattern matches."""
        if os.path.lexists(path):
            yield from self._searched(path) if os.path.isdir(path) else [_whole(path)]
            return
        for match in _by_place(match for match in glob.glob(path, recursive=True) if not _is_of_a_sweep(match, path)):
            if os.path.isdir(match):
                yield from self._searched(match)
            else:
                yield from self._kept(match)
        yield from _closed_folders(path)

    def _searched(self, top: str) -> Iterator[str]:
        """The checkpoints below a folder, and what of it cannot be read."""
        seen: set[str] = set()
        waiting = deque([top])
        closed: list[str] = []
        while waiting:
            for folder, inner, names in os.walk(waiting.popleft(), onerror=lambda e: closed.append(str(e.filename))):
                place = os.path.realpath(folder)
                inner[:] = sorted((n for n in inner if not n.endswith(FOLDER)), key=natural_key) * (place not in seen)
                if place in seen:
                    continue
                seen.add(place)
                waiting += [path for name in inner if os.path.islink(path := os.path.join(folder, name))]
                if any(name in USUAL for name in names):
                    yield folder
                    continue
                for name in sorted(names, key=natural_key):
                    yield from self._kept(os.path.join(folder, name))
        yield from closed

    def _kept(self, file: str) -> Iterator[str]:
        """The file where it may be a checkpoint, or a link that leads nowhere."""
        if file.endswith((*ENDINGS, INDEX)) and is_training_state(os.path.basename(file)):
            self.left_aside[os.path.abspath(file)] = None
        elif file.endswith((*ENDINGS, INDEX)) or not os.path.exists(os.path.realpath(file)):
            yield _whole(file)


def _is_of_a_sweep(match: str, pattern: str) -> bool:
    """Whether a match lies in the journal of a sweep that the pattern does not name."""
    return any(part.endswith(FOLDER) for part in set(match.split(os.sep)).difference(pattern.split(os.sep)))


def _by_place(matches: Iterable[str]) -> list[str]:
    """Each place once, by the shortest way there: a ** goes round with links that lead back."""
    places: dict[str, str] = {}
    for match in sorted(matches, key=lambda match: (match.count(os.sep), natural_key(match))):
        place = os.path.join(os.path.realpath(os.path.dirname(match)), os.path.basename(match))
        places.setdefault(os.path.realpath(match) if os.path.isdir(place) else place, match)
    return sorted(places.values(), key=natural_key)


def _closed_folders(pattern: str) -> Iterator[str]:
    """Folders that a pattern leads into and that cannot be read, which glob passes over."""
    head = os.path.dirname(pattern)
    while head:
        for folder in _by_place(glob.glob(head, recursive=True)):
            try:
                os.scandir(folder).close()
            except NotADirectoryError:
                continue
            except OSError:
                yield folder
        head = os.path.dirname(head) if glob.has_magic(head) else ""


def _whole(file: str) -> str:
    """The index that a shard belongs to, and the folder that an index is the model of; else the file itself."""
    folder, name = os.path.split(file)
    if shard := _SHARD.fullmatch(name):
        index = shard["stem"] + shard["ending"] + INDEX
        name = index if os.path.isfile(os.path.join(folder, index)) else name
    if name.endswith(INDEX) and name in USUAL:
        return folder or "."
    return os.path.join(folder, name)
