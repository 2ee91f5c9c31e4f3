"""Data parallel: sums over the ranks of ``torch.distributed``.

Every rank holds its shard of the batches and calls the same products with the same vectors; weights, losses, gradients
and products are summed over the ranks, so that all of them hold the answer for all data, in the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from flatcore.spectral._vectors import BlockVectors, HostVectors
from flatcore.torch._vectors import DeviceVectors

_SAME = 1e-9  # of a vector's norm: sums of its entries that ranks with other threads may round to


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

    def least(self, value: int | None) -> int | None:
        """The least of the ranks' numbers; None where one of them has none."""
        if self.size == 1:
            return value
        lowest = torch.tensor(-1 if value is None else value, dtype=torch.int64, device=self._device)
        dist.all_reduce(lowest, op=dist.ReduceOp.MIN, group=self._group)
        return None if int(lowest) < 0 else int(lowest)

    def alike(self, number: int | None) -> bool:
        """Whether all ranks that have a number have the same."""
        if self.size == 1:
            return True
        none = torch.iinfo(torch.int64).min
        ends = torch.tensor([none, none] if number is None else [number, -number], device=self._device)
        dist.all_reduce(ends, op=dist.ReduceOp.MAX, group=self._group)
        highest, lowest = int(ends[0]), -int(ends[1])
        return highest <= lowest

    def check_same(self, what: str, rows: Tensor) -> None:
        """Refuse vectors that differ between ranks: the sum of their products would belong to neither."""
        if self.size == 1:
            return
        x = rows.detach().reshape(-1)
        marks = torch.stack([x.sum(dtype=torch.float64), x[::2].sum(dtype=torch.float64), x.double().norm()])
        both = torch.cat([marks, -marks])
        dist.all_reduce(both, op=dist.ReduceOp.MAX, group=self._group)
        spread = float((both[:3] + both[3:]).max())
        if not spread <= _SAME * float(both[2]):
            raise ValueError(f"{what} differs between the ranks (by {spread:.3g}); expected the same")

    @contextmanager
    def together(self, what: str) -> Iterator[None]:
        """A block that fails on all ranks where it fails on one; nothing in it may wait for other ranks."""
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        if self.size > 1:
            (failures,) = self.sums(float(failure is not None))
            if failures and failure is None:
                raise RuntimeError(f"{what} failed on another rank, whose own message says why")
        if failure is not None:
            raise failure


class _Agreeing:
    """A home whose free memory is the least of the ranks', so that solvers choose the same on all of them."""

    ranks: Ranks

    def available(self) -> int | None:
        """Bytes free on the rank that has least."""
        return self.ranks.least(super().available())  # type: ignore[misc]


class _AgreeingHost(_Agreeing, HostVectors):
    pass


class _AgreeingDevice(_Agreeing, DeviceVectors):
    pass


def home_of(length: int, dtype: Any, device: torch.device, ranks: Ranks) -> BlockVectors:
    """Where the solvers keep vectors: NumPy arrays for models on the CPU, else tensors on their device."""
    if ranks.size == 1:
        return HostVectors(length, dtype) if device.type == "cpu" else DeviceVectors(length, dtype, device)
    shared = _AgreeingHost(length, dtype) if device.type == "cpu" else _AgreeingDevice(length, dtype, device)
    shared.ranks = ranks
    return shared
