"""Data as batches: what the model and the loss make of each, and with which weight it counts.

With reduction "mean" the loss of batch b is a mean over w_b samples and the total Σ w_b L_b / Σ w_b; with "sum" it is
Σ L_b. For batches (x, y) w_b is the number of targets along the first axis. Means over anything else (tokens, entries
that are not ignored) need a `forward` that returns what was divided by.

Iterating a DataLoader draws random numbers; `quiet` gives them a fixed seed, so that every pass meets the same batches
in the same order, and leaves all generators as they were.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DistributedSampler

from flatcore.torch._generators import held_generators
from flatcore.torch._preflight import of_inputs_alone, version_of
from flatcore.torch._reduce import Ranks

Forward = Callable[[nn.Module, Any], tuple[Any, Any, Any]]
_SAMPLED = 256  # entries of a tensor that its fingerprint reads
# Relative difference of the losses of a batch and of the batch twice that is rounding, in full and half precision.
_SAME, _SAME_IN_HALF = 1e-3, 0.05
_PIECES = 1e-4  # and of a batch's loss and the mean over two pieces of it
_IGNORED = -100  # the target that torch's losses ignore unless told otherwise
_HINT = "pass forward=, which returns (outputs, targets, weight) with what the batch's mean was divided by"
_UNEQUAL = f"their means are over different numbers of entries; {_HINT}"


class Evaluated(NamedTuple):
    """Outputs of the model, targets, and the weight w_b, of one batch."""

    outputs: Any
    targets: Any
    weight: float


class Batches:
    """The batches of `data`, brought to the model's device, with their weights.

    Parameters
    ----------
    data
        A tuple or dictionary is one batch; anything else is iterated, again for every pass.
    loss_fn
        (outputs, targets) → a scalar.
    forward
        None for batches (x, y) and loss_fn(model(x), y); else (model, batch) → (outputs, targets, weight).
    reduction
        How loss_fn reduces: "mean" or "sum".
    shard
        Whether other ranks hold data too: this one may then have none.

    """

    def __init__(
        self,
        data: Any,
        loss_fn: Any,
        forward: Forward | None,
        reduction: str,
        device: Any,
        *,
        shard: bool = False,
    ) -> None:
        if isinstance(data, Iterator):
            raise ValueError(
                f"data is a {type(data).__name__}, which can be read once; expected a batch (a tuple), or something to "
                "iterate again (a list of batches, a DataLoader)"
            )
        if isinstance(data, Tensor) or not isinstance(data, Iterable):
            raise ValueError(f"data is a {type(data).__name__}; expected a batch (a tuple), or batches to iterate")
        if not callable(loss_fn):
            raise ValueError(f"loss_fn is a {type(loss_fn).__name__}; expected a function of outputs and targets")
        if forward is not None and not callable(forward):
            raise ValueError(f"forward is a {type(forward).__name__}; expected a function of model and batch, or None")
        single = isinstance(data, (tuple, Mapping))
        if isinstance(data, Mapping) and forward is None:
            raise ValueError("data is a dictionary; expected forward=, which says what the model makes of it")
        self._data: Iterable[Any] = (data,) if single else data
        self._shard, self.single = shard, single and not shard
        self.source = data
        self._loss_fn, self._forward, self.mean = loss_fn, forward, reduction == "mean"
        self._device = device
        self.notes = _padding(data)
        self._known: list[tuple[Any, ...]] | None = None  # fingerprints of the first pass
        self.tail: tuple[int, ...] | None = None  # the targets' axes after the first, where that matters

    def __iter__(self) -> Iterator[Any]:
        """Each batch, on the device; refuses batches that differ from those of the first pass."""
        met: list[tuple[Any, ...]] = []
        known = self._known
        for batch in self._data:
            met.append(_fingerprint(batch))
            if known is not None and met[-1:] != known[len(met) - 1 : len(met)]:
                raise ValueError(
                    f"batch {len(met)} of data differs from that of the first pass; expected the same batches each time"
                )
            yield tree_map(self._brought, batch)
        if not met and not self._shard:
            raise ValueError("data has no batches; expected at least one")
        if known is not None and len(met) != len(known):
            raise ValueError(f"data gave {len(met)} batches; expected the {len(known)} of the first pass")
        self._known = met

    def evaluate(self, model: nn.Module, batch: Any, number: int) -> Evaluated:
        """Outputs, targets and weight of a batch; `number` counts from 1."""
        if self._forward is not None:
            answer = self._forward(model, batch)
            if not isinstance(answer, tuple) or len(answer) != 3:
                raise ValueError(
                    f"forward returned a {type(answer).__name__}; expected a tuple (outputs, targets, weight)"
                )
            outputs, targets, weight = answer
        else:
            outputs, targets, weight = self._plain(model, batch, number)
        try:
            value = float(weight)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"forward returned {_told(weight)} as the weight of batch {number}; expected a number, what the "
                "batch's mean was divided by; its samples where the reduction is 'sum'"
            ) from None
        if not 0.0 <= value < float("inf"):
            raise ValueError(f"batch {number} has weight {value}; expected a number that is not negative")
        return Evaluated(outputs, targets, value)

    def loss(self, evaluated: Evaluated, number: int) -> Tensor:
        """The loss of a batch as a scalar tensor."""
        tensors = [leaf for leaf in tree_leaves((evaluated.outputs, evaluated.targets)) if isinstance(leaf, Tensor)]
        before = [version_of(tensor) for tensor in tensors]
        loss = self._loss_fn(evaluated.outputs, evaluated.targets)
        if before != [version_of(tensor) for tensor in tensors]:
            raise ValueError("loss_fn changes its outputs or targets in place; expected a loss that leaves them alone")
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            raise ValueError(f"loss_fn returned {_told(loss)}; expected a scalar tensor (reduction='mean' or 'sum')")
        if not bool(torch.isfinite(loss.detach())):
            raise ValueError(f"the loss of batch {number} is {float(loss.detach())}; expected a finite number")
        return loss.reshape(())

    def check_reduction(self, evaluated: Evaluated) -> str | None:
        """Compare the loss of a batch with that of the batch twice; None, or why that says nothing."""
        outputs, targets, _ = evaluated
        if not all(isinstance(part, Tensor) and part.ndim for part in (outputs, targets)):
            return "outputs or targets are no tensors"
        z = outputs.detach()
        once = float(self._loss_fn(z.clone(), targets))
        try:
            twice = float(self._loss_fn(torch.cat([z, z]), torch.cat([targets, targets])))
        except Exception as error:  # of the caller's function, whatever it checks
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            return f"the loss of a batch taken twice along the first axis failed ({said})"
        ratio = 1.0 if once == twice else twice / once if once else float("inf")
        same = _SAME if z.dtype in (torch.float32, torch.float64) else _SAME_IN_HALF
        if once == 0.0 or abs(ratio - (1.0 if self.mean else 2.0)) <= same:
            return None
        given, other = ("mean", "sum") if self.mean else ("sum", "mean")
        found = f"a batch taken twice has {ratio:.4g} times the loss"
        if abs(ratio - (2.0 if self.mean else 1.0)) <= same:
            raise ValueError(f"reduction is {given!r}, but {found}; pass reduction={other!r}")
        if self.single:
            return f"{found}, which couples its samples"
        raise ValueError(
            f"reduction is {given!r}, but {found}, which couples its samples; expected 1 for a mean, 2 for a "
            "sum, or all data as one batch (a tuple)"
        )

    def check_pieces(self, evaluated: Evaluated, number: int) -> None:
        """Compare the loss of a batch (x, y) with those of two unequal pieces of it."""
        outputs, y, _ = evaluated
        if self._forward is not None or self.single or not isinstance(outputs, Tensor) or len(y) < 2:
            return
        z, n, cut = outputs.detach(), len(y), max(1, len(y) // 3)
        parts = (slice(None), slice(cut), slice(cut, None))
        try:
            whole, one, two = (float(self._loss_fn(z[part].clone(), y[part])) for part in parts)
        except Exception as error:  # of the caller's function, whatever it checks
            raise ValueError(
                f"loss_fn failed on a piece of batch {number} ({type(error).__name__}: {error}); expected a loss of "
                f"any number of samples, or all data as one batch (a tuple), or {_HINT.removeprefix('pass ')}"
            ) from error
        expected = (cut * one + (n - cut) * two) / n if self.mean else one + two
        same = _PIECES if z.dtype in (torch.float32, torch.float64) else _SAME_IN_HALF
        if not abs(whole - expected) <= same * max(abs(whole), abs(one), abs(two)):
            how = "the mean over its samples" if self.mean else "the sum of them"
            raise ValueError(
                f"the loss of batch {number} is {whole:.6g}, but {expected:.6g} by two pieces of it: it is not {how} "
                f"(weights, ignored targets, coupled samples?); {_HINT}"
            )

    def _brought(self, leaf: Any) -> Any:
        """A tensor of a batch on the device, out of inference mode."""
        if not isinstance(leaf, Tensor):
            return leaf
        with torch.inference_mode(False):
            return (leaf.clone() if leaf.is_inference() else leaf).to(self._device)

    def _plain(self, model: nn.Module, batch: Any, number: int) -> tuple[Any, Any, float]:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            got = f"{len(batch)} entries" if isinstance(batch, (tuple, list)) else f"type {type(batch).__name__}"
            raise ValueError(f"batch {number} has {got}; expected (x, y), or forward= to say what to do with it")
        x, y = batch
        if not isinstance(y, Tensor) or y.ndim == 0:
            raise ValueError(f"batch {number} has no tensor of targets; expected (x, y) with the samples along axis 0")
        outputs = of_inputs_alone(model, x, "pass forward=, which says what the model makes of a batch")
        if self.mean:
            self._check_plain_mean(outputs, y, number)
        return outputs, y, float(len(y))

    def _check_plain_mean(self, outputs: Any, y: Tensor, number: int) -> None:
        """Refuse means that are not over the samples of (x, y)."""
        if getattr(self._loss_fn, "weight", None) is not None:
            raise ValueError(f"loss_fn weighs its classes, so its mean is not over samples; {_HINT}")
        ignored = getattr(self._loss_fn, "ignore_index", _IGNORED)
        if not y.dtype.is_floating_point and bool((y == ignored).any()):
            raise ValueError(f"batch {number} has targets {ignored}, which loss_fn ignores; {_HINT}")
        if isinstance(outputs, Tensor) and outputs.ndim and len(outputs) != len(y):
            raise ValueError(f"batch {number} has {len(outputs)} outputs for {len(y)} targets; expected as many")
        tail = tuple(y.shape[1:])
        if self.tail is None:
            self.tail = tail
        if tail != self.tail:
            raise ValueError(
                f"batch {number} has targets of shape {tuple(y.shape)} where the first has "
                f"{_with_any_first(self.tail)}: {_UNEQUAL}"
            )

    def check_ranks(self, ranks: Ranks) -> None:
        """Refuse targets whose samples have one shape on this rank, and another elsewhere; all ranks must call."""
        if not ranks.alike(None if self.tail is None else crc32(repr(self.tail).encode())):
            raise ValueError(
                f"targets have different shapes on the ranks, here {_with_any_first(self.tail)}: {_UNEQUAL}"
            )


def _told(value: Any) -> str:
    """What a user's function returned, for a message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"


def _with_any_first(tail: tuple[int, ...] | None) -> str:
    """A shape with any number of samples."""
    return "none" if tail is None else f"({', '.join(['…', *map(str, tail)])})"


def _padding(data: Any) -> tuple[str, ...]:
    """Says where a DistributedSampler gives some samples to two ranks."""
    sampler = getattr(data, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.total_size <= (size := len(data.dataset)):
        return ()
    extra = sampler.total_size - size
    return (f"the DistributedSampler gives {extra} of {size} samples to two ranks, where they count twice",)


def _entries(tensor: Tensor) -> Tensor:
    """The stored entries in a row."""
    if tensor.layout != torch.strided:
        tensor = tensor._values() if tensor.layout == torch.sparse_coo else tensor.values()
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).reshape(-1)


def _fingerprint(batch: Any) -> tuple[Any, ...]:
    """Shapes, types and some entries of a batch's tensors."""
    found = []
    for leaf in tree_leaves(batch):
        if isinstance(leaf, Tensor):
            flat = _entries(leaf.detach())
            some = flat[:: max(1, len(flat) // _SAMPLED)].double() if len(flat) else flat.double()
            found.append((tuple(leaf.shape), leaf.dtype, float(torch.nan_to_num(some).sum())))
    return tuple(found)


@contextmanager
def quiet(source: Any, devices: Sequence[int], seed: int | None) -> Iterator[None]:
    """All random generators as they were afterwards: torch's, Python's, NumPy's and a DataLoader's and its data set's.

    With a seed, they all begin from it inside.
    """
    generators = held_generators(source)
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        try:
            if seed is not None:
                torch.default_generator.manual_seed(seed)
                for index in devices:
                    torch.cuda.default_generators[index].manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed % 2**32)  # noqa: NPY002
                for generator in generators:
                    generator.reseed(seed)
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002
            for generator in generators:
                generator.restore(generator.state)


def cuda_devices(device: torch.device) -> list[int]:
    """Index of the device where it is a CUDA one, for `quiet`."""
    return [device.index if device.index is not None else torch.cuda.current_device()] if device.type == "cuda" else []
