"""A training that does not notice what is done in between: everything that could differ afterwards is put back.

Inside, every module is in evaluation mode (dropout off, statistics of batch normalisation fixed), gradients can be
taken whatever surrounds the call (`no_grad`, `inference_mode`), and autocast is off. Afterwards, also after an error or
Ctrl-C, each module has its own training flag back, and torch's generators (CPU and every CUDA device in use), Python's,
NumPy's and those that a DataLoader or its dataset holds continue where they were; workers that a loader keeps from one
iteration to the next go on with the one that they were at. Nothing here writes parameters, gradients or buffers.

Flags are set directly: `train()` and `eval()` may be overridden and do more than they can undo.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from flatcore.torch._batches import quiet


@contextmanager
def untouched(model: nn.Module, data: Any = None) -> Iterator[None]:
    """Run a block in evaluation mode, with gradients and without autocast; all is as before afterwards.

    Parameters
    ----------
    model
        Its modules' training flags are set and restored one by one.
    data
        A DataLoader whose generators and workers are left alone as well.

    """
    flags = [(module, module.training) for module in model.modules()]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    kinds = {"cpu", *(p.device.type for p in model.parameters())} - {"meta"}
    with ExitStack() as stack:
        stack.enter_context(quiet(data, devices, None))
        stack.enter_context(_own_workers(data))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in sorted(kinds):
            stack.enter_context(torch.autocast(kind, enabled=False))
        try:
            for module, _ in flags:
                module.training = False
            yield
        finally:
            for module, flag in flags:
                module.training = flag


@contextmanager
def _own_workers(data: Any) -> Iterator[None]:
    """A loader with persistent workers starts others inside: iterating it again would end the iteration under way."""
    kept = data._iterator if isinstance(data, DataLoader) else None
    if kept is None:
        yield
        return
    data._iterator = None
    try:
        yield
    finally:
        data._iterator = kept
