"""Checkpoints: named tensors that stay in their files until one of them is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from flatcore.io.strict import shown


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor in a file.

    Parameters
    ----------
    name, shape
        As the file says.
    dtype
        As stored, by safetensors' names: ``"F32"``, ``"BF16"``, ``"F8_E4M3"``, ``"I64"`` …
    nbytes
        Size as stored.
    file
        Where it is.

    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    file: Path
    _read: Callable[[], NDArray[Any]] = field(repr=False)

    @property
    def entries(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def is_floating(self) -> bool:
        """Whether these are real floating-point numbers."""
        return self.dtype.startswith(("F", "BF"))

    def load(self) -> NDArray[Any]:
        """Give this tensor alone.

        Returns
        -------
        array
            Read-only and mapped from the file where that holds it as it is in memory: pages are read when they are
            used. float16 and bfloat16 as stored (bfloat16 as float32 without ml_dtypes), float8 as float16.

        Raises
        ------
        ValueError
            A format that is not read, a damaged or changed file, with its path and the tensor's name.
        MemoryError
            What has to be copied does not fit into the memory that is free.

        """
        try:
            return self._read()
        except (ValueError, MemoryError) as error:
            text = str(error)
            raise type(error)(text if str(self.file) in text else f"{self.file}: {shown(self.name)}: {text}") from None


def _nothing() -> None:
    """For files that need no closing."""


@dataclass(frozen=True, eq=False)
class Checkpoint(Mapping[str, StoredTensor]):
    """The tensors of a file or of several, a read-only mapping from names; a context manager that closes the files.

    Parameters
    ----------
    path
        What was opened.
    kind
        What it was taken for.
    files
        All files that hold tensors.
    tensors
        In the files' order.
    others
        What is there and is no tensor that can be read, by name, with the reason.
    notes
        What else is to be said about how it was read.
    tied
        Names of matrices that are the same memory as one before, with its name, where the format tells.
    metadata
        Texts that the file holds beside its tensors.
    missing
        Tensors that an index has in a shard which does not hold them, by name, with the reason.

    """

    path: Path
    kind: str
    files: tuple[Path, ...]
    tensors: Mapping[str, StoredTensor]
    others: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    _close: Callable[[], None] = field(default=_nothing, repr=False)

    def __getitem__(self, name: str) -> StoredTensor:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def close(self) -> None:
        """Close the files that are open; arrays that were loaded stay valid, others cannot be counted on."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
