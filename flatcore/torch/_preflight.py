"""What is looked at before the first graph is built: modules, determinism, buffers, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.flop_counter import FlopCounterMode

from flatcore.torch._device import check_memory
from flatcore.torch._parameters import shown

_SAME = 1e-3  # relative difference of two losses of one batch that rounding of any precision explains
_GRAPH_OVER_FORWARD = 3.0  # bytes that building a graph takes over those the forward pass saves; 1.9 to 2.3 stay


def check_modules(model: nn.Module) -> None:
    """Refuse modules that draw random numbers or update statistics in training mode."""
    random, statistics = [], []
    for name, module in model.named_modules():
        label = f"{name or 'the model'} ({type(module).__name__})"
        if not module.training:
            continue
        dropped = module.p if isinstance(module, _DropoutNd) else 0.0
        if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
            dropped = module.dropout
        if dropped > 0.0:
            random.append(label)
        elif isinstance(module, _NormBase) and module.track_running_stats:
            statistics.append(label)
    if random:
        raise ValueError(f"dropout is active in {shown(random)}: the loss is random; call model.eval() first")
    if statistics:
        raise ValueError(
            f"{shown(statistics)} would update running statistics with every pass; call model.eval() first"
        )


def first_look(model: nn.Module, loss_of: Callable[[], Tensor]) -> tuple[float, float]:
    """Loss and flops of a forward pass; refuses one that changes buffers, which get their values back."""
    buffers = dict(model.named_buffers())
    before = {name: (b._version, b.detach().clone()) for name, b in buffers.items()}
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        loss = float(loss_of())
    changed = [name for name, b in buffers.items() if b._version != before[name][0]]
    if changed:
        with torch.no_grad():
            for name in changed:
                buffers[name].copy_(before[name][1])
        raise ValueError(
            f"the forward pass changes the buffers {shown(changed)} (they have their values back); expected a model "
            "that computes the same every time: call model.eval() first"
        )
    return loss, float(counter.get_total_flops())


def check_same_loss(first: float, second: float) -> None:
    """Refuse a model whose loss on one batch came out differently the second time."""
    if not abs(first - second) <= _SAME * max(abs(first), abs(second)):
        raise ValueError(
            f"the loss of the first batch was {first:.6g} and then {second:.6g}: the forward pass is not "
            "deterministic; call model.eval(), and take random numbers out of forward"
        )


@dataclass
class SavedBytes:
    """Bytes that graphs built inside `counting` keep, each storage once, the parameters' own left out."""

    known: set[int]
    total: int = 0

    def pack(self, tensor: Tensor) -> Tensor:
        """Count a tensor that is being saved."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.known.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


@contextmanager
def counting(model: nn.Module) -> Iterator[SavedBytes]:
    """Count what is saved for backward passes inside."""
    saved = SavedBytes({p.untyped_storage().data_ptr() for p in model.parameters()})
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        yield saved


def check_room(saved: int, parameters: int, device: torch.device) -> None:
    """Refuse, after the first forward pass, a graph that cannot fit."""
    needed = _GRAPH_OVER_FORWARD * saved + 3 * parameters
    try:
        check_memory("the gradient's graph of one batch", needed, device)
    except MemoryError as error:
        raise MemoryError(f"{error}: pass the data in smaller batches") from None
