"""PyTorch files, .pt and .pth: state dicts as named arrays, mapped into memory, nothing unpickled but tensors.

``torch.load(weights_only=True)`` builds tensors, containers and numbers and refuses everything else, so that reading a
file runs no code of whoever wrote it. A pickled module is refused with the way out: save its state dict.

Importing this file registers the reader with `flatcore.io`.
"""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flatcore._checks import as_numpy
from flatcore._memory import check_memory
from flatcore.io import NamedArrays, natural_key, register_reader
from flatcore.io.npz import check_inflation, kind_of
from flatcore.io.parametrized import parametrized_of
from flatcore.io.strict import check_file

SUFFIXES = (".pt", ".pth")
CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
_PREFIXES = ("module.", "_orig_mod.")  # of wrapped and compiled models
_ZIP = b"PK\x03\x04"
_BEFORE_ZIP = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # how files of torch before 1.6 begin
_SAFE = "expected a state dict: torch.save(model.state_dict(), path)"


def read_state_dict(path: Path) -> NamedArrays:
    """Read the arrays of a state dict.

    Parameters
    ----------
    path
        A file written by ``torch.save``: a mapping of names to tensors, or one that holds such a mapping under
        ``state_dict``, ``model`` or the like. The tensors stay in the file until they are read.

    Returns
    -------
    NamedArrays
        Floating-point tensors in natural order of their names; what was unwrapped, in its notes.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Another kind of file, a damaged one, objects other than tensors, no or several state dicts.

    """
    place = Path(path)
    state, notes = load_state_dict(place)
    dense = {name: value for name, value in state.items() if _is_dense(value)}
    if not dense:
        raise ValueError(f"{place} holds no dense tensors of floating-point numbers; {_SAFE}")
    ignored = tuple(name for name in state if name not in dense)
    parametrized = parametrized_of({name: tuple(value.shape) for name, value in dense.items()})
    for name in {part for parts in parametrized.values() for part in parts}:
        del dense[name]
    ordered = sorted(dense, key=natural_key)
    return NamedArrays(
        place,
        {name: as_numpy(name, dense[name], keep_half=True) for name in ordered},
        ignored=ignored,
        notes=(*notes, "a state dict tells neither activations nor the order of layers: names in natural order"),
        tied=tied_tensors({name: dense[name] for name in ordered}),
        parametrized=parametrized,
    )


def load_state_dict(place: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the state dict of a file holds, by name, and how it was reached.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`read_state_dict`.

    """
    check_file(place, "a PyTorch file: torch.save(model.state_dict(), path)")
    found, notes = _state_dict(place, _loaded(place))
    state = {str(name): value for name, value in found.items()}
    for prefix in _PREFIXES * 2:  # either may be outside
        if state and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
            notes += (f"names without the prefix {prefix}",)
    return state, notes


def _loaded(place: Path) -> Any:
    """What the file holds, tensors on the host, mapped where the format allows it."""
    with open(place, "rb") as stream:
        start = stream.read(len(_BEFORE_ZIP))
    if not start.startswith((_ZIP, _BEFORE_ZIP)):
        raise ValueError(f"{place} is {kind_of(start)}; {_SAFE}")
    if start.startswith(_ZIP):
        check_inflation(place, _declared(place))
    else:  # cannot be mapped
        check_memory(f"reading {place}", place.stat().st_size)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "'torch.load' received a zip file that looks like a TorchScript archive")
            return torch.load(place, weights_only=True, mmap=start.startswith(_ZIP), map_location="cpu")
    except pickle.UnpicklingError as error:
        raise ValueError(f"{place} holds {_unsafe(str(error))}; {_SAFE}") from None
    except UserWarning:
        raise ValueError(f"{place} is a TorchScript archive; {_SAFE}") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{place} is truncated, corrupt or no PyTorch file ({reason[:120]}); {_SAFE}") from None


def _declared(place: Path) -> int:
    """Bytes of the members of a zip file, as it says; none of a damaged one, which torch will tell."""
    try:
        with zipfile.ZipFile(place) as file:
            return sum(info.file_size for info in file.infolist())
    except (zipfile.BadZipFile, struct.error, OSError, ValueError, NotImplementedError):
        return 0


def _unsafe(message: str) -> str:
    """What torch refused to unpickle, by name where it says so."""
    found = re.search(r"(?:GLOBAL|class|function|global:?)\s+[`'\"]?([A-Za-z_]\w*(?:\.\w+)+)", message)
    what = f"Python objects ({found[1]})" if found else "Python objects"
    return f"{what}, which are never unpickled: doing so could run any code"


def _state_dict(place: Path, loaded: Any) -> tuple[Mapping[Any, Any], tuple[str, ...]]:
    """The mapping of names to tensors, and how it was reached."""
    notes: tuple[str, ...] = ()
    while True:
        if not isinstance(loaded, Mapping):
            raise ValueError(f"{place} holds a {type(loaded).__name__}; {_SAFE}")
        inner = [key for key, value in loaded.items() if key in CONTAINERS and isinstance(value, Mapping)]
        tensors = [value for value in loaded.values() if isinstance(value, Tensor)]
        if tensors and (not inner or any(_is_dense(value) and value.dim() > 1 for value in tensors)):
            return loaded, notes  # beside a container numbers and vectors, a step or a loss, are no layers
        if len(inner) != 1:
            known = f"several state dicts ({', '.join(inner)})" if inner else "no state dict"
            keys = ", ".join(str(key) for key in list(loaded)[:8]) or "nothing"
            raise ValueError(f"{place} holds {known} among {keys}; {_SAFE}")
        others = ", ".join(str(key) for key in loaded if key != inner[0])
        notes += (f"the state dict is that under {inner[0]!r}" + (f", beside {others}" if others else ""),)
        loaded = loaded[inner[0]]


def _is_dense(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.is_floating_point()
        and not value.is_quantized
        and value.numel() > 0
    )


def tied_tensors(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of matrices that are the same memory as one before."""
    first: dict[tuple[Any, ...], str] = {}
    tied = {}
    for name, tensor in tensors.items():
        if tensor.dim() > 1:
            other = first.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
            if other != name:
                tied[name] = other
    return tied


register_reader(SUFFIXES, read_state_dict)
