"""A torch.nn.Module by name: ``package.module:name``, a module or a function without arguments that returns one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn


def module_named(target: str) -> nn.Module:
    """Import a Python module and take a torch module out of it. Importing runs its code.

    Parameters
    ----------
    target
        ``package.module:name``; the name may have dots. Packages in the working directory are found.

    Returns
    -------
    torch.nn.Module
        What is called so, or what it returns when called.

    Raises
    ------
    ValueError
        There is no such thing, importing or calling it fails, it is something else, or lazy and not yet run.

    """
    source, _, name = target.partition(":")
    with _working_directory_first():
        try:
            found: Any = importlib.import_module(source)
        except (Exception, SystemExit) as error:
            raise ValueError(f"{target}: importing {source} failed ({type(error).__name__}: {error})") from error
        for part in name.split("."):
            if not hasattr(found, part):
                names = ", ".join(n for n in vars(importlib.import_module(source)) if not n.startswith("_"))
                raise ValueError(f"{target}: {source} has no {name}; it has {names[:200] or 'no public names'}")
            found = getattr(found, part)
        if not isinstance(found, nn.Module) and callable(found):
            try:
                found = found()
            except (Exception, SystemExit) as error:
                raise ValueError(f"{target}: calling {name}() failed ({type(error).__name__}: {error})") from error
    if not isinstance(found, nn.Module):
        raise ValueError(f"{target} gives a {type(found).__name__}; expected a torch.nn.Module")
    lazy = [name for name, parameter in found.named_parameters() if nn.parameter.is_lazy(parameter)]
    if lazy:
        raise ValueError(f"{target}: {lazy[0]} has no shape yet; run the model once")
    return found


@contextmanager
def _working_directory_first() -> Iterator[None]:
    """Python's search path with the working directory, where the console script leaves it out."""
    before, here = list(sys.path), str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path[:] = [path for path in sys.path if path != here or path in before]
