"""What devices differ in: memory that is free, and products of float32 numbers that are none.

TF32 (10 bits) and autocast would leave bases orthogonal to three digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from flatcore import _memory

_FORESEEN = 1 << 24  # bytes from which on the device is asked for what is free


def free_memory(device: torch.device) -> int | None:
    """Bytes free on the device, those included that torch keeps for itself; None where it does not tell."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + kept)
    return _memory.available_memory() if device.type == "cpu" else None


def check_memory(what: str, needed: float, device: torch.device) -> None:
    """Say how much memory is missing before an allocation that cannot succeed."""
    if device.type == "cpu":
        _memory.check_memory(what, int(needed))
    elif needed > _FORESEEN:
        free = free_memory(device)
        if free is not None and needed > free:
            raise MemoryError(f"{what} needs {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free on {device}")


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Switch off gradients, autocast, and whatever shortens the factors of float32 products, for a while."""
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(_full_float32(device))
        yield


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    switch, name, exact = _switch(device)
    used = exact if switch is None else getattr(switch, name)
    if used in (exact, "none"):
        yield
        return
    setattr(switch, name, exact)
    try:
        yield
    finally:
        setattr(switch, name, used)


def _switch(device: torch.device) -> tuple[Any, str, Any]:
    """What holds the setting for this device, its name there, and its value for full float32."""
    cuda: Any = torch.backends.cuda.matmul
    has_names = hasattr(cuda, "fp32_precision")  # torch 2.9 on; mixing them with the older flags raises errors
    if device.type == "cuda":
        return (cuda, "fp32_precision", "ieee") if has_names else (cuda, "allow_tf32", False)
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    return (matmul if has_names else None), "fp32_precision", "ieee"
