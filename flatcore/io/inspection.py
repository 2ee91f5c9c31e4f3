"""The table of a checkpoint: what each tensor is taken for, totals, and what was not recognised or not read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flatcore._checks import human, human_bytes
from flatcore.io.checkpoints import Checkpoint, StoredTensor
from flatcore.io.roles import BUFFER, UNKNOWN, roles_of
from flatcore.io.strict import shown

Lines = list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Inspection:
    """A checkpoint's table.

    Parameters
    ----------
    checkpoint
        Whose tensors these are.
    roles
        What each is taken for, by name; ``"unknown"`` for those that are not recognised.

    """

    checkpoint: Checkpoint
    roles: dict[str, str]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, as stored; tied ones once."""
        return sum(tensor.nbytes for tensor in self._once())

    @property
    def parameters(self) -> int:
        """Entries of all tensors of floating-point numbers that are no buffers; tied ones once."""
        floating = (tensor for tensor in self._once() if tensor.is_floating)
        return sum(tensor.entries for tensor in floating if self.roles[tensor.name] != BUFFER)

    def _once(self) -> Iterator[StoredTensor]:
        return (tensor for tensor in self.checkpoint.values() if tensor.name not in self.checkpoint.tied)

    def title(self) -> str:
        """Say what was opened, and the totals."""
        tensors, files = len(self.roles), len(self.checkpoint.files)
        return (
            f"{self.checkpoint.path}: {self.checkpoint.kind}, {files} file{'s' * (files != 1)}, {tensors} "
            f"tensor{'s' * (tensors != 1)}, {human(self.parameters)} parameters, {human_bytes(self.nbytes)}"
        )

    def groups(self) -> Iterator[tuple[str, Lines]]:
        """Titles and lines of the table and of what else is to be said."""
        found = self.checkpoint
        others = [(_printable(name), reason) for name, reason in found.others.items()]
        tied = [(_printable(name), f"the same memory as {_printable(other)}") for name, other in found.tied.items()]
        metadata = [(_printable(name), _printable(text)) for name, text in found.metadata.items()]
        unknown = [(_printable(name), _extents(found[name])) for name in self._unknown()]
        notes = [(f"{index}", _printable(note, 2000)) for index, note in enumerate(found.notes, 1)]
        groups = {
            "Tensors": self._table(),
            "Taken for": [(role, f"{count}") for role, count in self._counts().items()],
            "Not recognised by name": unknown,
            "Not read": others,
            "Missing": [(_printable(name), reason) for name, reason in found.missing.items()],
            "Tied": tied,
            "Metadata": metadata,
            "Notes": notes,
        }
        return ((title, lines) for title, lines in groups.items() if lines)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain strings, numbers and lists, ready for JSON."""
        found = self.checkpoint
        return {
            "path": str(found.path),
            "kind": found.kind,
            "files": [str(file) for file in found.files],
            "totals": {"tensors": len(found), "bytes": self.nbytes, "parameters": self.parameters},
            "tensors": [
                {
                    "name": tensor.name,
                    "shape": list(tensor.shape),
                    "dtype": tensor.dtype,
                    "bytes": tensor.nbytes,
                    "file": tensor.file.name,
                    "role": self.roles[tensor.name],
                }
                for tensor in found.values()
            ],
            "roles": self._counts(),
            "unknown": self._unknown(),
            "others": dict(found.others),
            "missing": dict(found.missing),
            "tied": dict(found.tied),
            "metadata": dict(found.metadata),
            "notes": list(found.notes),
        }

    def _unknown(self) -> list[str]:
        return [name for name, role in self.roles.items() if role == UNKNOWN]

    def _counts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for role in self.roles.values():
            counts[role] = counts.get(role, 0) + 1
        return counts

    def _table(self) -> Lines:
        cells = [(_extents(t), t.dtype, human_bytes(t.nbytes), self.roles[t.name]) for t in self.checkpoint.values()]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        names = (_printable(name) for name in self.checkpoint)
        rows = ("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells)
        return list(zip(names, rows, strict=True))


def inspect_checkpoint(checkpoint: Checkpoint) -> Inspection:
    """Tell what each tensor of a checkpoint is, by its name and shape; none is loaded.

    Parameters
    ----------
    checkpoint
        From :func:`flatcore.io.open_checkpoint`.

    Returns
    -------
    Inspection
        ``.title()`` and ``.groups()`` as text, ``.to_dict()`` for JSON.

    """
    return Inspection(checkpoint, roles_of(checkpoint))


def _extents(tensor: StoredTensor) -> str:
    return " × ".join(map(str, tensor.shape)) or "one number"


def _printable(text: str, most: int = 200) -> str:
    """The text itself where it is one short line, else as Python writes it."""
    return text if text.isprintable() and len(text) <= most else shown(text)
