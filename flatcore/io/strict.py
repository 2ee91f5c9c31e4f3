"""What strangers wrote, with care: JSON without repeated names, values shown on one short line, regular files only."""

from __future__ import annotations

import errno
import json
import os
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 100
_SHORT.maxlevel = 2


def shown(value: object) -> str:
    """A value as Python writes it, shortened, without control characters or line breaks."""
    return _SHORT.repr(value)


def parse_object(what: str, text: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8 that names nothing twice.

    Raises
    ------
    ValueError
        Anything else, with `what` it was to be.

    """

    def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"{shown(name)} is there twice")
            found[name] = value
        return found

    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} is no UTF-8 ({error.reason} at byte {error.start}); expected a JSON object") from None
    except RecursionError:
        raise ValueError(f"{what} is nested too deeply; expected a JSON object") from None
    except ValueError as error:
        raise ValueError(f"{what} is no JSON object without repeated names: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {shown(value)}; expected a JSON object")
    return value


def check_file(path: Path, expected: str) -> None:
    """Refuse what is not there, and directories, pipes and devices.

    Raises
    ------
    FileNotFoundError, ValueError
        With the path and what was expected.

    """
    if not path.exists():
        raise FileNotFoundError(f"{path} {_why_absent(path)}; expected {expected}")
    if not path.is_file():
        raise ValueError(f"{path} is {'a directory' if path.is_dir() else 'no regular file'}; expected {expected}")


def _why_absent(path: Path) -> str:
    """What is wrong with a path that leads to nothing."""
    if not path.is_symlink():
        return "does not exist"
    try:
        path.stat()
    except OSError as error:
        back = error.errno == errno.ELOOP
    return f"is a link to {shown(os.readlink(path))}, which {'leads back to it' if back else 'does not exist'}"


def read_short(path: Path, expected: str, longest: int) -> bytes:
    """The bytes of a regular file that has at most so many.

    Raises
    ------
    FileNotFoundError, ValueError
        With the path and what was expected.

    """
    check_file(path, expected)
    size = path.stat().st_size
    if size > longest:
        raise ValueError(f"{path} has {size} bytes; expected at most {longest}")
    return path.read_bytes()
