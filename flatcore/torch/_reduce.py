"""Data parallel: sums over the ranks of ``torch.distributed``, wrapped models, and the ones that are refused.

Every rank holds its shard of the batches and calls the same products with the same vectors; weights, losses, gradients
and products are summed over the ranks, so that all of them hold the answer for all data, in the same bits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Ranks:
    """Sums over the processes of a group; where there is one process, nothing.

    Parameters
    ----------
    group
        None: all ranks where ``torch.distributed`` is initialised. False: this process alone. Else a process group.
    device
        Where tensors to be summed live.

    """

    def __init__(self, group: Any, device: torch.device) -> None:
        running = dist.is_available() and dist.is_initialized()
        if group not in (None, False) and not running:
            raise ValueError("group is given but torch.distributed is not initialised; expected init_process_group()")
        self._group = None if group in (None, False) else group
        self.size = dist.get_world_size(self._group) if running and group is not False else 1
        self.rank = dist.get_rank(self._group) if self.size > 1 else 0
        self._device = device

    def sum(self, tensor: Tensor) -> Tensor:
        """The tensor summed over ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, group=self._group)
        return tensor

    def sums(self, *values: float) -> list[float]:
        """Numbers summed over ranks in float64."""
        dtype = torch.float64 if self._device.type != "mps" else torch.float32
        return [float(x) for x in self.sum(torch.tensor(values, dtype=dtype, device=self._device))]

    def check_same(self, what: str, rows: Tensor) -> None:
        """Refuse vectors that differ between ranks: the sum of their products would belong to neither."""
        if self.size == 1:
            return
        mark = rows.double().sum(dtype=torch.float64)
        both = torch.stack([mark, -mark])
        dist.all_reduce(both, op=dist.ReduceOp.MAX, group=self._group)
        spread = float(both[0] + both[1])
        if not spread <= 0.0:
            raise ValueError(f"{what} differs between the ranks (sums of entries by {spread:.3g}); expected the same")


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
