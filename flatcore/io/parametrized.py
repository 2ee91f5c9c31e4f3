"""Weights that a file holds only as what they are computed from."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from flatcore.io.model import natural_key


def parametrized_of(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, ...]]:
    """Names of weights that are computed from others of the file, with the names of these.

    ``torch.nn.utils.parametrize`` calls them ``parametrizations.weight.…``, the hooks before it ``weight_g`` and
    ``weight_v`` (weight_norm), ``weight_orig`` and ``weight_u`` (spectral_norm) or ``weight_mask`` (pruning).
    """
    found: dict[str, list[str]] = {}
    for name, shape in shapes.items():
        if match := re.match(r"((?:.+\.)?)parametrizations\.([^.]+)\.", name):
            found.setdefault(match[1] + match[2], []).append(name)
        elif name.endswith("_g") and _is_norm(shape, shapes.get(f"{name[:-2]}_v")):
            found[name[:-2]] = [name, f"{name[:-2]}_v"]
        elif name.endswith("_orig") and any(f"{name[:-5]}_{end}" in shapes for end in ("u", "mask")):
            found[name[:-5]] = [part for end in ("orig", "u", "v", "mask") if (part := f"{name[:-5]}_{end}") in shapes]
    return {name: tuple(found[name]) for name in sorted(found, key=natural_key)}


def why_set_aside(parts: tuple[str, ...]) -> str:
    """Why a weight that is computed from these parts is not analysed."""
    return f"parametrized, computed by its module from {', '.join(parts)}; give the module as package.module:name"


def _is_norm(g: tuple[int, ...], v: tuple[int, ...] | None) -> bool:
    """Whether g can hold norms of v: one number, or of each axis one number or all."""
    if v is None or len(v) < 2:
        return False
    return math.prod(g) == 1 or (len(g) == len(v) and all(a in (1, b) for a, b in zip(g, v, strict=True)))
