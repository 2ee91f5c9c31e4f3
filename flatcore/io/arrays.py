"""Named arrays as a file holds them, and the readers of other kinds of files, which rooms to the left register."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flatcore._atomic import PathLike
from flatcore._checks import FloatArray
from flatcore.io.parametrized import why_set_aside


@dataclass(frozen=True, eq=False)
class NamedArrays:
    """The arrays of a file.

    Parameters
    ----------
    path
        The file.
    arrays
        By name, in the order in which layers are taken to be applied.
    ignored
        Names in the file of what is no dense array of real numbers.
    notes
        What else is to be said about how the file was read.
    tied
        Names of arrays that are the same memory as one before, with its name.
    parametrized
        Names of weights that the file holds only as what they are computed from, with the names of that.

    """

    path: Path
    arrays: Mapping[str, FloatArray]
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    parametrized: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def describe(self) -> str:
        """Say in words what was read, and in which order."""
        weights = [(name, array) for name, array in self.arrays.items() if array.ndim > 1]
        head = f"{self.path}: {len(weights)} array{'s' * (len(weights) != 1)} of two dimensions or more, in this order"
        width = max((len(name) for name, _ in weights), default=0)
        lines = [f"{name:<{width}}  {' × '.join(map(str, array.shape))} {array.dtype}" for name, array in weights]
        ignored = [f"ignored: {', '.join(self.ignored)}"] if self.ignored else []
        return "\n".join([head, *(f"  {text}" for text in (*lines, *self.set_aside(), *ignored, *self.notes))])

    def set_aside(self) -> list[str]:
        """The parametrized weights, and why they are not analysed."""
        return [f"{name}: {why_set_aside(parts)}" for name, parts in self.parametrized.items()]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain strings and lists, ready for JSON."""
        return {
            "path": str(self.path),
            "arrays": list(self.arrays),
            "shapes": [list(array.shape) for array in self.arrays.values()],
            "dtypes": [str(array.dtype) for array in self.arrays.values()],
            "ignored": list(self.ignored),
            "notes": list(self.notes),
            "tied": dict(self.tied),
            "parametrized": {name: list(parts) for name, parts in self.parametrized.items()},
        }


Reader = Callable[[Path], NamedArrays]
_readers: dict[str, Reader] = {}


def register_reader(suffixes: tuple[str, ...], reader: Reader) -> None:
    """Have files with these endings read by `reader`.

    Parameters
    ----------
    suffixes
        Endings in lower case, with the dot.
    reader
        Path → :class:`NamedArrays`; raises OSError or ValueError, with the path, for files it cannot read.

    """
    _readers.update(dict.fromkeys(suffixes, reader))


def reader_of(path: PathLike) -> Reader | None:
    """The reader of a file, by its ending; None for the files that this room reads itself."""
    return _readers.get(Path(path).suffix.lower())
