"""What is looked at before the first graph is built: modules, determinism, buffers, memory."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.flop_counter import FlopCounterMode

from flatcore.linear import StaleWeightsError
from flatcore.torch._device import check_memory
from flatcore.torch._parameters import shown

_SAME = 100.0  # units of rounding by which two passes over one batch may differ
_GRAPH_OVER_FORWARD = 3.0  # bytes that building a graph takes over those the forward pass saves; 1.9 to 2.3 stay
_SAMPLED = 64  # entries of a parameter that are read to see whether it changed


def check_modules(model: nn.Module) -> None:
    """Refuse modules that draw random numbers, update statistics, or change their weights while they compute."""
    dropping, statistics, renormed, sparse, rescaled = [], [], [], [], []
    for name, module in model.named_modules():
        label = f"{name or 'the model'} ({type(module).__name__})"
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            renormed += [label] * (module.max_norm is not None)
            sparse += [label] * module.sparse
            rescaled += [label] * module.scale_grad_by_freq
        if not module.training:
            continue
        dropped = module.p if isinstance(module, _DropoutNd) else 0.0
        if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
            dropped = module.dropout
        if dropped > 0.0:
            dropping.append(label)
        elif isinstance(module, _NormBase) and module.track_running_stats:
            statistics.append(label)
    if dropping:
        raise ValueError(f"dropout is active in {shown(dropping)}: outputs are random; call model.eval() first")
    if statistics:
        raise ValueError(
            f"{shown(statistics)} would update running statistics with every pass; call model.eval() first"
        )
    if renormed:
        raise ValueError(f"{shown(renormed)} shortens its rows in every pass (max_norm); set max_norm to None")
    if sparse:
        raise ValueError(f"{shown(sparse)} has sparse gradients; set sparse to False")
    if rescaled:
        raise ValueError(
            f"{shown(rescaled)} has gradients that are not those of the loss; set scale_grad_by_freq to False"
        )


def of_inputs_alone(model: nn.Module, inputs: Any, hint: str) -> Any:
    """What the model makes of its inputs; says so where its forward pass needs another argument."""
    try:
        return model(inputs)
    except TypeError as error:
        try:
            inspect.signature(model.forward).bind(inputs)
        except TypeError as missing:
            raise ValueError(f"the model cannot be called with the inputs alone ({missing}); {hint}") from error
        raise


def version_of(tensor: Tensor) -> int:
    """How often torch has seen a tensor change in place; 0 for those of inference mode, which are not counted."""
    return 0 if tensor.is_inference() else tensor._version


class Snapshot:
    """A model's parameters and buffers as they were: what they were, and whether they still are.

    For each tensor: torch's version counter, its place, on the CPU a sum of some entries.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._marks = self._taken()
        self._modes = self._training()

    def changed(self) -> list[str]:
        """Names of tensors that are not what they were."""
        now = self._taken()
        return [name for name, mark in self._marks.items() if now.get(name) != mark]

    def changed_modes(self) -> list[str]:
        """Names of modules that went from evaluation to training or back."""
        now = self._training()
        return [name or "the model" for name, flag in self._modes.items() if now.get(name) != flag]

    def _taken(self) -> dict[str, tuple[Any, ...]]:
        tensors = dict(self._model.named_parameters()) | dict(self._model.named_buffers())
        values = {name: t.detach() for name, t in tensors.items()}
        read = {name: v for name, v in values.items() if v.device.type == "cpu" and _is_plain(v) and v.numel()}
        sums = torch.stack([_some(v) for v in read.values()]).tolist() if read else []
        some = {name: x.hex() for name, x in zip(read, sums, strict=True)}  # as text NaN is what it was
        return {
            name: (version_of(v), v.data_ptr() if v.layout == torch.strided else 0, v.dtype, some.get(name))
            for name, v in values.items()
        }

    def _training(self) -> dict[str, bool]:
        return {name: module.training for name, module in self._model.named_modules()}


def _is_plain(value: Tensor) -> bool:
    return value.layout == torch.strided and not value.is_complex()


def _some(value: Tensor) -> Tensor:
    return torch.nan_to_num(value.reshape(-1)[:: max(1, value.numel() // _SAMPLED)].double()).sum()


Seen = TypeVar("Seen")


def first_look(model: nn.Module, run: Callable[[], Seen], device: torch.device) -> tuple[Seen, float]:
    """What a first pass gives and its flops (0 where they cannot be counted).

    Refuses a pass that draws random numbers or changes parameters or buffers; the buffers get their values back.
    """
    before, kept = Snapshot(model), _Buffers(model)
    state = _random_state(device)
    counter = FlopCounterMode(display=False)
    try:
        with counter:
            seen = run()
    except RuntimeError as error:
        kept.restore()
        if "_will_engine_execute_node" not in str(error):  # torch's counter and a model that differentiates in forward
            raise
        counter, seen = FlopCounterMode(display=False), run()
    drawn = state != _random_state(device)
    changed = sorted({*before.changed(), *kept.replaced()})
    kept.restore()
    if drawn:
        raise ValueError(
            "the forward pass draws random numbers: outputs are random; call model.eval(), and take them out of forward"
        )
    if changed:
        raise ValueError(
            f"the forward pass changes {shown(changed)} (buffers have their values back); expected a model that "
            "computes the same every time: call model.eval() first"
        )
    return seen, float(counter.get_total_flops())


class _Buffers:
    """The model's buffers with copies of their values."""

    def __init__(self, model: nn.Module) -> None:
        self._held = [
            (f"{path}.{name}".lstrip("."), module, name, buffer, buffer.detach().clone(), version_of(buffer))
            for path, module in model.named_modules()
            for name, buffer in module.named_buffers(recurse=False)
        ]

    def replaced(self) -> list[str]:
        """Names whose tensor is another one now."""
        return [label for label, module, name, buffer, _, _ in self._held if module._buffers.get(name) is not buffer]

    def restore(self) -> None:
        """The same tensors with the same values again."""
        for _, module, name, buffer, value, version in self._held:
            module._buffers[name] = buffer
            if version_of(buffer) != version:
                with torch.no_grad():
                    buffer.copy_(value)


def _random_state(device: torch.device) -> tuple[Any, ...]:
    """States of the generators that a pass on the device may draw from: torch's, Python's and NumPy's."""
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    legacy = tuple(np.asarray(part).tobytes() for part in np.random.get_state())  # noqa: NPY002
    return (*(bytes(state.numpy()) for state in states), random.getstate(), legacy)


def check_same(first: Tensor, second: Tensor, what: str) -> None:
    """Refuse a model that gave something else for the first batch the second time."""
    if first.shape == second.shape:
        size = float(first.double().abs().max()) if first.numel() else 0.0
        difference = float((first.double() - second.double()).abs().max()) if first.numel() else 0.0
        if difference <= _SAME * torch.finfo(first.dtype).eps * size:
            return
    raise ValueError(
        f"{what} of the first batch came out differently the second time: the forward pass is not deterministic; call "
        "model.eval(), and take out of forward what changes from call to call"
    )


@dataclass
class Saved:
    """What graphs built inside `counting` keep: bytes, each storage once, the parameters' own left out."""

    known: set[int]
    total: int = 0

    def pack(self, tensor: Tensor) -> tuple[Tensor, int]:
        """Count a tensor that is being saved. Its graph stays out of the pair, which would be a cycle for ever."""
        if tensor.layout != torch.strided:  # without a storage: of the data, mostly, and not worth a count
            return tensor.detach(), tensor._version
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.known.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor.detach(), tensor._version

    @staticmethod
    def unpack(saved: tuple[Tensor, int]) -> Tensor:
        """The tensor again, unless it has changed: torch checks only what it saves itself."""
        tensor, version = saved
        if tensor._version != version:
            raise StaleWeightsError(
                f"a tensor of shape {tuple(tensor.shape)} that the graph needs was changed in place since: data, a "
                "buffer or a parameter (build a new operator), or a value inside forward (write it out of place)"
            )
        return tensor


@contextmanager
def counting(model: nn.Module) -> Iterator[Saved]:
    """Count, and watch, what is saved for backward passes inside."""
    saved = Saved({p.untyped_storage().data_ptr() for p in model.parameters()})
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, saved.unpack):
        yield saved


def check_room(saved: int, parameters: int, device: torch.device) -> None:
    """Refuse, after the first forward pass, a graph that cannot fit."""
    needed = _GRAPH_OVER_FORWARD * saved + 3 * parameters
    try:
        check_memory("the gradient's graph of one batch", needed, device)
    except MemoryError as error:
        raise MemoryError(f"{error}: pass the data in smaller batches") from None
