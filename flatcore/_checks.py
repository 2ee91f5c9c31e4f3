"""Argument checks and conversions, shared by every room; imports nothing of flatcore."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[Any]  # float32 or float64
_ROWS_PER_CHECK = 1 << 22  # entries looked at together, so that no check allocates much
# DLPack's numbers of devices: memory that the host reads (its own, pinned, managed), and names for messages.
_HOST_DEVICES = (1, 3, 11, 13)
_DEVICE_NAMES = {2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm", 14: "oneapi", 15: "webgpu"}


def is_tensor(value: object) -> bool:
    """Tell a torch tensor without importing torch."""
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def is_module(value: object) -> bool:
    """Tell a torch.nn.Module without importing torch."""
    return any(c.__name__ == "Module" and c.__module__ == "torch.nn.modules.module" for c in type(value).__mro__)


def exports_dlpack(value: object) -> bool:
    """Tell another library's array (JAX, CuPy, …) that NumPy reads through the DLPack protocol."""
    return hasattr(type(value), "__dlpack__") and not isinstance(value, (np.ndarray, np.generic))


def as_numpy(name: str, value: Any, *, keep_half: bool = False) -> NDArray[Any]:
    """A NumPy view of an array, a CPU tensor (detached; of half precision only where allowed) or nested sequences.

    Arrays of other libraries come through DLPack, without a copy; those in a device's memory are refused.
    """
    if is_tensor(value):
        tensor = value.detach()
        if str(tensor.layout) != "torch.strided":
            raise ValueError(f"{name} has layout {tensor.layout}; expected a dense tensor (use .to_dense())")
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} lives on {tensor.device}; expected a CPU tensor (use .cpu())")
        if keep_half and str(tensor.dtype) == "torch.bfloat16":
            return _bfloat16(tensor)
        if tensor.dtype.itemsize < (2 if keep_half else 4) and tensor.dtype.is_floating_point:
            tensor = tensor.float()
        return np.asarray(tensor.numpy())
    if exports_dlpack(value):
        return _from_dlpack(name, value)
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} is a masked array; expected every entry to count (use .filled())")
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is no array of one shape; expected rows of equal length ({error})") from None


def _from_dlpack(name: str, value: Any) -> NDArray[Any]:
    """The array's own memory; its own conversion where it cannot be exported, or its type is none of NumPy's."""
    try:
        kind, index = value.__dlpack_device__()
        if kind not in _HOST_DEVICES:
            place = f"{_DEVICE_NAMES.get(int(kind), f'device type {int(kind)}')}:{index}"
            raise ValueError(f"{name} lives on {place}; expected host memory (use jax.device_get, or CuPy's .get())")
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError) as error:
        if hasattr(value, "__array__"):
            return np.asarray(value)
        what = type(value).__name__
        raise ValueError(f"{name} is a {what}; expected an array that NumPy reads through DLPack ({error})") from None


def _bfloat16(tensor: Any) -> NDArray[Any]:
    """The tensor's own memory where ml_dtypes has the type NumPy lacks, else a float32 copy."""
    try:
        from ml_dtypes import bfloat16
    except ModuleNotFoundError:
        return np.asarray(tensor.float().numpy())
    return np.asarray(tensor.view(sys.modules["torch"].int16).numpy().view(bfloat16))


def is_half(dtype: np.dtype[Any]) -> bool:
    """Tell float16 and bfloat16, which the kernels read as stored."""
    return dtype.name in ("float16", "bfloat16")


def as_float_array(name: str, value: Any, ndim: int, *, keep_half: bool = False) -> FloatArray:
    """A float32 or float64 array of `ndim` dimensions, native and aligned; copied only where that is needed.

    Integers and booleans become float64; half precision becomes float32, or stays where `keep_half` allows it; complex
    and other types are refused.
    """
    array = as_numpy(name, value, keep_half=keep_half)
    if array.ndim != ndim:
        raise ValueError(f"{name} has shape {array.shape}; expected {ndim} dimension{'s' * (ndim != 1)}")
    if array.dtype.kind == "c":
        raise ValueError(f"{name} is complex ({array.dtype}); expected real numbers")
    if keep_half and is_half(array.dtype) and array.dtype.isnative:
        return np.require(array, requirements="A")
    if array.dtype.kind in "biu":
        dtype: np.dtype[Any] = np.dtype(np.float64)
    elif array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        dtype = np.dtype(np.float32 if array.dtype.itemsize <= 4 else np.float64)
    else:
        raise ValueError(f"{name} has dtype {array.dtype}; expected real numbers")
    return np.require(array.astype(dtype, copy=False), requirements="A")


def common_type(*arrays: FloatArray | None) -> np.dtype[Any]:
    """The precision in which arrays are taken together: float64 where one of them has it, else float32."""
    wide = any(array is not None and array.dtype == np.float64 for array in arrays)
    return np.dtype(np.float64 if wide else np.float32)


def with_unit_stride(array: FloatArray) -> FloatArray:
    """The matrix itself where BLAS can read it (row- or column-major, any leading dimension), else a copy."""
    rows, cols = (stride // array.itemsize for stride in array.strides)
    exact = all(stride % array.itemsize == 0 for stride in array.strides)
    row_major = cols == 1 and rows >= array.shape[1]
    column_major = rows == 1 and cols >= array.shape[0]
    return array if exact and (row_major or column_major) else np.ascontiguousarray(array)


def check_not_empty(name: str, array: FloatArray) -> None:
    """Refuse an array without entries."""
    if array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; expected at least one entry")


def check_finite(name: str, array: FloatArray) -> None:
    """Refuse NaN and Inf, by name and first position."""
    rows = max(1, _ROWS_PER_CHECK // max(1, array[:1].size))
    for first in range(0, array.shape[0], rows):
        bad = ~np.isfinite(array[first : first + rows])
        if bad.any():
            index = np.argwhere(bad)[0]
            index[0] += first
            value = array[tuple(index)]
            position = ", ".join(str(int(i)) for i in index)
            raise ValueError(f"{name} contains {value} at index ({position}); expected finite numbers")


def check_count(name: str, value: Any, low: int = 1, high: int | None = None) -> int:
    """An integer in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name} is {value!r}; expected an integer")
    if value < low or (high is not None and value > high):
        span = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ValueError(f"{name} is {value}; expected {span}")
    return int(value)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of the strings `choices`."""
    if not isinstance(value, str) or value not in choices:
        expected = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} is {value!r}; expected one of {expected}")
    return str(value)


def check_callback(callback: Any, state: str = "SolverState") -> None:
    """Refuse what cannot be called before any work is done."""
    if callback is not None and not callable(callback):
        raise ValueError(f"callback is {callback!r}; expected a function of a {state}, or None")


def check_progress(progress: Any) -> None:
    """Refuse what cannot hear how far the work is."""
    if progress is not None and not callable(progress):
        raise ValueError(f"progress is {progress!r}; expected a function of a text and a fraction, or None")


def check_flags(**flags: Any) -> None:
    """Refuse what is neither True nor False."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise ValueError(f"{name} is {value!r}; expected True or False")


def asks_to_stop(answer: Any) -> bool:
    """Whether a callback returned True, Python's or NumPy's; anything else it may return means nothing."""
    return isinstance(answer, (bool, np.bool_)) and bool(answer)


def like_input(value: Any, out: NDArray[Any]) -> Any:
    """`out` as a tensor where `value` was one."""
    return sys.modules["torch"].from_numpy(out) if is_tensor(value) else out


def human(count: float) -> str:
    """A count with a unit prefix: 18.4 M."""
    for size, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if count >= size:
            return f"{count / (1e3 if unit == ' k' else size):.3g}{unit}"
    return f"{count:g}"


def human_bytes(count: float) -> str:
    """A number of bytes with a unit: 18.4 MB."""
    text = human(count)
    return f"{text}B" if " " in text else f"{text} B"


def one_line(text: str) -> str:
    """The text, in which names that files give cannot break lines or steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def as_path(name: str, value: Any, or_what: str = "") -> Path:
    """A path, given as one or as text."""
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{name} is {value!r}; expected {or_what}a path")
    return Path(value)


def abridged(text: str, most: int = 100) -> str:
    """The text, its middle left out where it is long."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-((most - 1) // 2) :]}"


def of_short_words(text: str, most: int = 200) -> str:
    """The text, the middle of its long words left out: names in it are as long as strangers like."""
    return " ".join(abridged(word, most) for word in text.split(" "))


def counted(count: int, what: str) -> str:
    """A number of things."""
    return f"{count} {what}" + "s" * (count != 1)


def listed(names: Sequence[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def chunks(total: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` that cover range(total)."""
    for first in range(0, total, size):
        yield slice(first, min(total, first + size))
