"""The user's model inside its wrappers; models whose parameters are sharded are refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def unwrapped(model: Any) -> nn.Module:
    """The module inside DistributedDataParallel, DataParallel and torch.compile; sharded models are refused."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    inner: nn.Module = model
    while (deeper := _wrapped(inner)) is not None:
        inner = deeper
    _refuse_sharded(inner)
    return inner


def _wrapped(model: nn.Module) -> nn.Module | None:
    """What a wrapper holds; None where the module is none."""
    parallel = isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel))
    found = model.module if parallel else getattr(model, "_orig_mod", None)
    return found if isinstance(found, nn.Module) else None


@contextmanager
def without_hooks(model: nn.Module) -> Iterator[None]:
    """Hooks on gradients, of parameters and of modules, neither run nor change anything inside."""
    dicts = [p._backward_hooks for p in model.parameters() if p._backward_hooks]
    for module in model.modules():
        dicts += [hooks for hooks in (module._backward_hooks, module._backward_pre_hooks) if hooks]
    held = [dict(hooks) for hooks in dicts]
    try:
        for hooks in dicts:
            hooks.clear()
        yield
    finally:
        for hooks, kept in zip(dicts, held, strict=True):
            hooks.update(kept)


def _refuse_sharded(model: nn.Module) -> None:
    reason = (
        "its parameters are sharded over ranks, and second derivatives through sharded parameters are not implemented; "
        "expected whole parameters on every rank: load the full state dict (get_model_state_dict with "
        "full_state_dict=True) into an unwrapped model, or wrap it in DistributedDataParallel"
    )
    for name, module in model.named_modules():
        if type(module).__name__ == "FullyShardedDataParallel":
            raise ValueError(f"model holds FullyShardedDataParallel at {name or 'its top'}: {reason}")
    for name, p in model.named_parameters():
        if hasattr(p, "placements") and hasattr(p, "device_mesh"):  # DTensor: FSDP2 and tensor parallelism
            raise ValueError(f"{name} is a DTensor with placements {p.placements}: {reason}")
