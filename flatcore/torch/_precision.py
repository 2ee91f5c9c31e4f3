"""Products in the precision that their tensors state: no autocast, no TF32 or bfloat16 inside float32 products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


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
