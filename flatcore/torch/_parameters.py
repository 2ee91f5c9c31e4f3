"""Which parameters of a model, and vectors ↔ blocks shaped like them.

A vector (P,) holds the chosen parameters row-major, one after the other, in the order of ``named_parameters()``; a
parameter that several modules share counts once, under its first name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatcore._checks import check_finite

Choice = "str | re.Pattern[str] | nn.Module | nn.Parameter | Iterable[Any] | None"
_SHOWN = 8  # names in a message


class ParameterSet:
    """Chosen parameters of a model.

    Parameters
    ----------
    model
        The module.
    params
        None (all that require gradients), a name of a parameter or module, a regular expression that matches whole
        names, a module or a parameter of the model, or several of these.

    Raises
    ------
    ValueError
        A choice that matches nothing, parameters that are frozen, of different devices, complex, or not initialised.

    """

    def __init__(self, model: nn.Module, params: Any = None) -> None:
        every = dict(model.named_parameters())
        if not every:
            raise ValueError(f"model is a {type(model).__name__} without parameters; expected at least one")
        names = _trainable(every) if params is None else _chosen(model, every, params)
        self.names: tuple[str, ...] = tuple(name for name in every if name in names)
        self.tensors: tuple[Tensor, ...] = tuple(every[name] for name in self.names)
        self.frozen = tuple(name for name, p in every.items() if not p.requires_grad)
        self.aliases = _aliases(model, self.names, self.tensors)
        _check(self.names, self.tensors)
        self.shapes = tuple(p.shape for p in self.tensors)
        self.sizes = tuple(p.numel() for p in self.tensors)
        self.total = sum(self.sizes)
        self.device = self.tensors[0].device
        self.torch_dtype = _widest(p.dtype for p in self.tensors)
        self.dtype = np.dtype(np.float64 if self.torch_dtype == torch.float64 else np.float32)

    def notes(self) -> tuple[str, ...]:
        """Which parameters are tied, and which were left out."""
        tied = [f"{name} is tied to {', '.join(others)} and counts once" for name, others in self.aliases.items()]
        left = [name for name in self.frozen if name not in self.names]
        places: dict[int, list[str]] = {}
        for name, p in zip(self.names, self.tensors, strict=True):
            if p.numel():  # empty ones have no place
                places.setdefault(p.untyped_storage().data_ptr(), []).append(name)
        shared = [f"{shown(names)} share memory and count one by one" for names in places.values() if len(names) > 1]
        return (*tied, *shared, *([f"frozen and left out: {shown(left)}"] if left else []))

    def sums(self) -> Tensor:
        """The sum of each parameter's entries, in float64."""
        return torch.stack([p.detach().sum(dtype=torch.float64) for p in self.tensors])

    def split(self, rows: Tensor) -> list[Tensor]:
        """Blocks (…, *shape) of vectors (…, P), in each parameter's precision."""
        return [part.to(p.dtype) for part, p in zip(self._parts(rows), self.tensors, strict=True)]

    def flat(self, blocks: Sequence[Tensor], lead: tuple[int, ...] = ()) -> Tensor:
        """Vectors (*lead, P) of blocks (*lead, *shape)."""
        return torch.cat([block.reshape(*lead, -1).to(self.torch_dtype) for block in blocks], dim=-1)

    def from_blocks(self, value: Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        """Rows (k, P), or a vector (P,), of a dictionary or list of blocks with an optional last axis k."""
        blocks = self._ordered(value)
        k = blocks[0].shape[-1] if blocks[0].ndim == self.tensors[0].ndim + 1 else None
        rows = []
        for name, block, shape in zip(self.names, blocks, self.shapes, strict=True):
            expected = tuple(shape) if k is None else (*shape, k)
            if not isinstance(block, Tensor) or tuple(block.shape) != expected:
                got = f"shape {tuple(block.shape)}" if isinstance(block, Tensor) else f"a {type(block).__name__}"
                raise ValueError(f"v[{name!r}] has {got}; expected a tensor of shape {expected}")
            if block.is_complex():
                raise ValueError(f"v[{name!r}] is complex ({block.dtype}); expected real numbers")
            rows.append((block if k is None else block.movedim(-1, 0)).to(self.device))
        return self.flat(rows, () if k is None else (k,))

    def to_blocks(self, rows: Tensor, like: Mapping[str, Tensor] | Sequence[Tensor]) -> Any:
        """The inverse of :meth:`from_blocks`, as a dictionary or a list."""
        blocks = self._parts(rows)
        if rows.ndim == 2:
            blocks = [block.movedim(0, -1) for block in blocks]
        given = self._ordered(like)
        blocks = [
            block.to(g.device, g.dtype if g.is_floating_point() else torch.float64)
            for block, g in zip(blocks, given, strict=True)
        ]
        return dict(zip(self.names, blocks, strict=True)) if isinstance(like, Mapping) else blocks

    def layers(self) -> dict[str, tuple[str, ...]]:
        """Parameter names by the module that holds them, in order."""
        found: dict[str, list[str]] = {}
        for name in self.names:
            parametrized, _, _ = f".{name}".partition(".parametrizations.")
            owner = parametrized if ".parametrizations." in f".{name}" else f".{name}".rpartition(".")[0]
            found.setdefault(owner.removeprefix("."), []).append(name)
        return {layer: tuple(names) for layer, names in found.items()}

    def _parts(self, rows: Tensor) -> list[Tensor]:
        parts = torch.split(rows, list(self.sizes), dim=-1)
        return [part.reshape(*rows.shape[:-1], *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def _ordered(self, value: Mapping[str, Tensor] | Sequence[Tensor]) -> list[Tensor]:
        if not isinstance(value, Mapping):
            if len(value) != len(self.names):
                raise ValueError(f"v has {len(value)} tensors; expected {len(self.names)}, one for each parameter")
            return list(value)
        missing = [name for name in self.names if name not in value]
        unknown = [name for name in value if name not in self.names]
        if missing or unknown:
            what = f"lacks {shown(missing)}" if missing else f"has unknown names {shown(unknown)}"
            raise ValueError(f"v {what}; expected a tensor for each of {shown(self.names)}")
        return [value[name] for name in self.names]


def shown(names: Iterable[str]) -> str:
    """A few names for a message."""
    every = list(names)
    return ", ".join(every[:_SHOWN]) + (f", … ({len(every)} in all)" if len(every) > _SHOWN else "")


def _trainable(every: Mapping[str, Tensor]) -> set[str]:
    names = {name for name, p in every.items() if p.requires_grad}
    if not names:
        raise ValueError(
            f"all {len(every)} parameters of the model are frozen; expected one that requires gradients "
            "(call .requires_grad_(), or name them in params after that)"
        )
    return names


def _chosen(model: nn.Module, every: Mapping[str, Tensor], params: Any) -> set[str]:
    """Names that a choice stands for."""
    first = {id(p): name for name, p in every.items()}
    if isinstance(params, Tensor):
        if id(params) not in first:
            raise ValueError(f"params holds a tensor of shape {tuple(params.shape)} that is no parameter of the model")
        names = {first[id(params)]}
    elif isinstance(params, nn.Module):
        names = {first[id(p)] for p in params.parameters() if id(p) in first}
        if not names:
            raise ValueError(f"params holds a {type(params).__name__} that has no parameter in the model")
    elif isinstance(params, (str, re.Pattern)):
        names = _named(model, every, first, params)
    elif isinstance(params, Iterable):
        names = set[str]().union(*(_chosen(model, every, part) for part in params))
        if not names:
            raise ValueError("params is empty; expected at least one parameter, or None for all")
    else:
        raise ValueError(
            f"params is a {type(params).__name__}; expected None, names, regular expressions, modules or parameters"
        )
    frozen = [name for name in every if name in names and not every[name].requires_grad]
    if frozen:
        raise ValueError(f"params includes frozen parameters: {shown(frozen)}; call .requires_grad_() on them first")
    return names


def _named(
    model: nn.Module, every: Mapping[str, Tensor], first: Mapping[int, str], text: str | re.Pattern[str]
) -> set[str]:
    """A parameter's name, a module's, or a regular expression for whole names of parameters."""
    with_aliases = dict(model.named_parameters(remove_duplicate=False))
    if isinstance(text, str):
        if text in with_aliases:
            return {first[id(with_aliases[text])]}
        modules = dict(model.named_modules(remove_duplicate=False))
        if text in modules and any(True for _ in modules[text].parameters()):
            return {first[id(p)] for p in modules[text].parameters()}
    try:
        expression = re.compile(text)
    except re.error as error:
        raise ValueError(f"params holds {text!r}, no name, and no regular expression either: {error}") from None
    names = {first[id(p)] for name, p in with_aliases.items() if expression.fullmatch(name)}
    if not names:
        pattern = text if isinstance(text, str) else text.pattern
        raise ValueError(f"params holds {pattern!r}, which matches no parameter; there are {shown(every)}")
    return names


def _aliases(model: nn.Module, names: Sequence[str], tensors: Sequence[Tensor]) -> dict[str, tuple[str, ...]]:
    """Further names of tied parameters, by the name under which they count."""
    chosen = {id(p): name for name, p in zip(names, tensors, strict=True)}
    found: dict[str, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if id(p) in chosen and name != chosen[id(p)]:
            found.setdefault(chosen[id(p)], []).append(name)
    return {name: tuple(others) for name, others in found.items()}


def _widest(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    every = list(dtypes)
    widest = every[0]
    for dtype in every[1:]:
        widest = torch.promote_types(widest, dtype)
    return widest if widest in (torch.float32, torch.float64) else torch.float32


def _check(names: Sequence[str], tensors: Sequence[Tensor]) -> None:
    for name, p in zip(names, tensors, strict=True):
        if nn.parameter.is_lazy(p):
            raise ValueError(f"{name} is not initialised; expected the model to have seen a batch")
        if not p.dtype.is_floating_point:
            raise ValueError(f"{name} has dtype {p.dtype}; expected real floating-point parameters")
        if p.device.type == "meta":
            raise ValueError(f"{name} lives on the meta device, without values; expected a model that was loaded")
        if p.device != tensors[0].device:
            raise ValueError(f"{name} lives on {p.device} and {names[0]} on {tensors[0].device}; expected one device")
        if not bool(torch.isfinite(p.detach()).all()):
            check_finite(name, np.atleast_1d(p.detach().double().cpu().numpy()))


def unit_blocks(total: int, size: int, device: Any, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the identity (total, total), `size` at a time."""
    for start in range(0, total, size):
        part = slice(start, min(total, start + size))
        rows = torch.zeros(part.stop - part.start, total, device=device, dtype=dtype)
        rows[torch.arange(len(rows)), torch.arange(part.start, part.stop)] = 1.0
        yield part, rows
