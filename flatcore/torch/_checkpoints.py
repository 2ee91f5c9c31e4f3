"""PyTorch files as checkpoints: every tensor of the state dict listed as stored, mapped into memory, loaded one by one.

Importing this file registers the opener with `flatcore.io`.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flatcore.io import Checkpoint, StoredTensor, register_opener
from flatcore.io.checkpoints.openers import TORCH_ENDINGS
from flatcore.io.checkpoints.precisions import FORMATS, decoded
from flatcore.torch._files import load_state_dict, tied_tensors

_NAMES = {
    "bool": "BOOL",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "complex64": "C64",
    "complex128": "C128",
    **{f"{'u' * unsigned}int{bits}": f"{'IU'[unsigned]}{bits}" for unsigned in (0, 1) for bits in (8, 16, 32, 64)},
}
_FORMATS = {getattr(torch, name): stored for name, stored in _NAMES.items()}
_RAW = {"BF16": (torch.int16, np.uint16), "F8_E4M3": (torch.uint8, np.uint8), "F8_E5M2": (torch.uint8, np.uint8)}


def open_torch(path: Path) -> Checkpoint:
    """The tensors of a state dict that ``torch.save`` wrote; nothing else is unpickled.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Another kind of file, a damaged one, objects other than tensors, no or several state dicts.

    """
    state, notes = load_state_dict(path)
    tensors: dict[str, StoredTensor] = {}
    others = {}
    for name, value in state.items():
        reason = _why_not(value)
        if reason:
            others[name] = reason
            continue
        shape = tuple(int(extent) for extent in value.shape)
        nbytes, read = value.numel() * value.itemsize, functools.partial(_read, value)
        tensors[name] = StoredTensor(name, shape, _FORMATS[value.dtype], nbytes, path, read)
    tied = tied_tensors({name: state[name] for name in tensors if tensors[name].nbytes})
    return Checkpoint(path, "PyTorch", (path,), tensors, others, notes, tied)


def _why_not(value: Any) -> str:
    """Why a value is no tensor that can be read; empty where it is one."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}, no tensor"
    if value.is_quantized or value.dtype not in _FORMATS:
        return f"a tensor of {value.dtype}; expected one of {', '.join(FORMATS)}"
    if value.layout != torch.strided or value.device.type != "cpu":
        return f"a tensor of layout {value.layout} on {value.device}; expected a dense one with data"
    return ""


def _read(tensor: Tensor) -> NDArray[Any]:
    dtype, dense = _FORMATS[tensor.dtype], tensor.detach().resolve_conj().resolve_neg()
    if dtype in _RAW:
        view, stored = _RAW[dtype]
        return _locked(decoded(dtype, dense.view(view).numpy().view(stored)))
    return _locked(dense.numpy())


def _locked(array: NDArray[Any]) -> NDArray[Any]:
    """The array, through which the tensor cannot be changed."""
    array.flags.writeable = False
    return array


register_opener(TORCH_ENDINGS, open_torch)
