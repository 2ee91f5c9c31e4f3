"""LoRA adapters: pairs B·A of one module, what scales them, and the spectrum of s·B·A.

PEFT's names are ``X.lora_A.weight`` and ``X.lora_B.weight``, with an adapter's name before ``weight`` where a file
holds several, and ``X.lora_embedding_A``; others write ``X.lora_down.weight`` and ``X.lora_up.weight``. A is (r, in),
B (out, r); kernels of convolutions are (r, in, k, k) and (out, r, 1, 1). The scaling is s = α/r, or α/√r where the
adapter is rank-stabilised; α comes from ``X.alpha`` in the file or from ``adapter_config.json``, r from the shape.

Source: Hu et al. (2022), LoRA; Kalajdzievski (2023) for α/√r.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from flatcore._checks import FloatArray, as_float_array, counted, listed
from flatcore.checkpoints.config import AdapterConfig
from flatcore.checkpoints.products import product_spectrum, scaled_gram
from flatcore.io import Checkpoint, StoredTensor, natural_key
from flatcore.io.roles import LORA_A, LORA_B
from flatcore.results import ProductSpectrum

# The last of these in a name says that it is a B, and what the A beside it is called.
_PARTNERS = {"lora_B": "lora_A", "lora_up": "lora_down", "lora_embedding_B": "lora_embedding_A"}
_UNKNOWN = "the scaling is not known, 1 was taken"
_NO_ALPHA = f"no alpha beside it: {_UNKNOWN}"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Adapter:
    """A pair B (out, r) and A (r, in), the module they belong to, and what scales their product."""

    name: str
    B: str
    A: str
    rank: int
    scaling: float
    note: str


def find_adapters(
    checkpoint: Checkpoint, roles: Mapping[str, str], config: AdapterConfig
) -> tuple[tuple[Adapter, ...], list[str]]:
    """Pairs of a checkpoint, and notes about what has no partner or other ranks than it should.

    Parameters
    ----------
    checkpoint
        Whose names and shapes are looked at; of its tensors only numbers ``X.alpha`` are loaded.
    roles
        What its tensors were taken for.
    config
        From `read_adapter_config`.

    """
    found, alone, notes = [], [], []
    partners = set()
    for name in sorted((name for name, role in roles.items() if role == LORA_B), key=natural_key):
        module, A = _partner(name)
        if A not in checkpoint or not _fit(checkpoint[name].shape, checkpoint[A].shape):
            alone.append(name)
            continue
        partners.add(A)
        rank = checkpoint[A].shape[0]
        expected = _of(config.ranks, module, config.rank)
        if expected is not None and expected != rank:
            notes.append(f"{module}: rank {rank} by its shape; adapter_config.json says {expected}")
        found.append(Adapter(module, name, A, rank, *_scaling(checkpoint, module, rank, config)))
    alone += [name for name, role in roles.items() if role == LORA_A and name not in partners]
    for note, count in Counter(adapter.note for adapter in found if adapter.note.endswith(_UNKNOWN)).items():
        notes.append(f"{counted(count, 'adapter')}: {note}")
    if alone:
        notes.append(f"LoRA factors without a partner that fits: {listed(alone)}")
    return tuple(found), notes


def analyze_adapter(adapter: Adapter, checkpoint: Checkpoint, k: int) -> ProductSpectrum:
    """The spectrum of s·B·A and the balance ‖BᵀB − AAᵀ‖ of its factors.

    Raises
    ------
    ValueError
        A damaged file.
    ArithmeticError
        Singular values beyond float64.

    """
    B, A = factors_of(adapter, checkpoint)
    return product_spectrum(
        scaled_gram(B.T),
        scaled_gram(A),
        k,
        name=adapter.name,
        kind="LoRA",
        factors=(adapter.B, adapter.A),
        shape=(B.shape[0], A.shape[1]),
        scaling=adapter.scaling,
        note=adapter.note,
    )


def factors_of(adapter: Adapter, checkpoint: Checkpoint) -> tuple[FloatArray, FloatArray]:
    """B (out, r) and A (r, in) in place; kernels unfolded."""
    return _factor(checkpoint[adapter.B]), _factor(checkpoint[adapter.A])


def _factor(tensor: StoredTensor) -> FloatArray:
    array = as_float_array(tensor.name, tensor.load(), len(tensor.shape), keep_half=True)
    return array.reshape(array.shape[0], -1)


def _partner(name: str) -> tuple[str, str]:
    """The module of a B, and what its A is called."""
    place, own = max((name.rfind(own), own) for own in _PARTNERS)
    module = name[:place].rstrip(".")
    named = re.fullmatch(r"\.(\w+)(\.weight)?", name[place + len(own) :])
    adapter = named[1] if named is not None and named[1] != "weight" else "default"
    title = module if adapter == "default" else f"{module} ({adapter})"
    return title, name[:place] + _PARTNERS[own] + name[place + len(own) :]


def _fit(B: tuple[int, ...], A: tuple[int, ...]) -> bool:
    return math.prod(B[1:]) == A[0]


def _scaling(checkpoint: Checkpoint, module: str, rank: int, config: AdapterConfig) -> tuple[float, str]:
    """S and where it came from."""
    alpha, source = _of(config.alphas, module, config.alpha), "adapter_config.json"
    stored = checkpoint.get(f"{module}.alpha")
    if stored is not None and stored.entries == 1:
        value = float(np.asarray(stored.load(), dtype=float).ravel()[0])
        if not math.isfinite(value):
            return 1.0, f"{stored.name} is {value}, not finite: {_UNKNOWN}"
        alpha, source = value, stored.name
    if alpha is None:
        return 1.0, _NO_ALPHA
    by = "√r" if config.rank_stabilised else "r"
    return alpha / (math.sqrt(rank) if config.rank_stabilised else rank), f"scaling α/{by}, α = {alpha:g} from {source}"


def _of(table: Mapping[str, _T], module: str, otherwise: _T | None) -> _T | None:
    """The value of the longest name of the table that ends the module's name, as PEFT's patterns do."""
    plain = module.partition(" (")[0]
    fits = [name for name in table if plain == name or plain.endswith(f".{name}")]
    return table[max(fits, key=len)] if fits else otherwise
