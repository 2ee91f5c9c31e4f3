"""The random generators that data hold: of a loader, its samplers, its dataset and what these are made of."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_DEPTH = 6  # attributes of attributes: loader → subset → dataset → transforms → one of them → its generator
_SHORT = 64  # entries of a list that are looked at: of transforms or datasets, not of samples


class Held(NamedTuple):
    """A generator: its state, how that is put back, and how it begins from a seed."""

    state: Any
    restore: Callable[[Any], Any]
    reseed: Callable[[int], Any]


def held_generators(source: Any) -> list[Held]:
    """Generators of torch, NumPy and Python among the attributes of a loader and of what it holds, each once."""
    found = {id(g): g for g in _reached(source, set(), _DEPTH)}
    return [_held(g) for g in found.values()]


def _held(g: Any) -> Held:
    if isinstance(g, torch.Generator):
        return Held(g.get_state(), g.set_state, g.manual_seed)
    if isinstance(g, random.Random):
        return Held(g.getstate(), g.setstate, g.seed)
    if isinstance(g, np.random.RandomState):
        return Held(g.get_state(), g.set_state, lambda seed: g.seed(seed % 2**32))
    bits = g.bit_generator

    def restore(state: Any) -> None:
        bits.state = state

    return Held(bits.state, restore, lambda seed: restore(type(bits)(seed).state))


def _reached(owner: Any, seen: set[int], depth: int) -> Iterator[Any]:
    if isinstance(owner, (torch.Generator, random.Random, np.random.RandomState, np.random.Generator)):
        yield owner
        return
    if depth == 0 or id(owner) in seen or isinstance(owner, (Tensor, type)):
        return
    seen.add(id(owner))
    parts = owner.values() if isinstance(owner, dict) else owner if isinstance(owner, (list, tuple)) else ()
    inside = list(parts) if len(parts) <= _SHORT else []
    for part in (*inside, *getattr(owner, "__dict__", {}).values()):
        yield from _reached(part, seen, depth - 1)
