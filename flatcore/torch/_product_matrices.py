"""Weight matrices of layers in a larger model, and what is to be known to cut them into heads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from flatcore.torch._chain import join

_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_HEAD_WIDTHS = ("head_dim", "attention_head_size", "key_value_proj_dim")


@dataclass(frozen=True)
class Matrix:
    """A weight matrix (outputs, inputs) and its parameter's name; `owner` is the layer that holds it."""

    tensor: Tensor
    parameter: str
    owner: str | None  # None where the parameter lies beside layers

    def rows(self, part: slice) -> Matrix:
        """Some of its outputs."""
        return Matrix(self.tensor[part], self.parameter, self.owner)


class UnreadError(Exception):
    """A module that looks like a known form and cannot be read."""


def is_layer(module: Any) -> bool:
    """Linear, or the transposed one of GPT-2."""
    return isinstance(module, nn.Linear) or (type(module).__name__ == "Conv1D" and _weight(module).ndim == 2)


def _base(name: str, module: Any) -> tuple[str, Any]:
    """The layer under an adapter."""
    inner = getattr(module, "base_layer", None)
    return _base(join(name, "base_layer"), inner) if isinstance(inner, nn.Module) else (name, module)


def has_layer(module: nn.Module, part: str) -> bool:
    return is_layer(_base("", getattr(module, part, None))[1])


def _weight(module: Any) -> Tensor:
    weight: Tensor = module.weight
    return weight


def matrix(name: str, module: nn.Module) -> Matrix:
    """A layer's weight as (outputs, inputs)."""
    name, layer = _base(name, module)
    if not is_layer(layer):
        raise UnreadError(f"{name} is a {type(layer).__name__}; expected a Linear layer")
    if is_parametrized(layer):
        raise UnreadError(f"{name} is parametrized, so its weight is no parameter")
    weight = _weight(layer)
    if weight.ndim != 2 or not weight.is_floating_point():
        raise UnreadError(f"{name}.weight is {weight.dtype} of shape {tuple(weight.shape)}; expected a float matrix")
    return Matrix(weight if isinstance(layer, nn.Linear) else weight.mT, f"{name}.weight".lstrip("."), name)


def thirds(stacked: Matrix, out: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """Queries, keys and values of one matrix, each as many rows as the output has columns."""
    rows, width = stacked.tensor.shape[0], out.tensor.shape[1]
    if rows != 3 * width:
        raise UnreadError(f"{stacked.parameter} has {rows} rows; expected three times the output's {width} columns")
    return stacked.rows(part(0, width)), stacked.rows(part(1, width)), stacked.rows(part(2, width))


def part(index: int, width: int) -> slice:
    return slice(index * width, (index + 1) * width)


def head_counts(module: nn.Module, q: Matrix, k: Matrix) -> tuple[int, int]:
    """Heads of queries, from the module or its configuration, and of keys, from the widths."""
    rows = q.tensor.shape[0]
    heads = _number(module, _HEADS)
    if heads is None:
        width = _number(module, _HEAD_WIDTHS)
        if width is None:
            names = ", ".join((*_HEADS, *_HEAD_WIDTHS))
            raise UnreadError(f"neither it nor its config says how many heads it has ({names})")
        heads = rows // width
    if heads < 1 or rows % heads:
        raise UnreadError(f"{rows} queries do not divide into {heads} heads")
    return heads, k.tensor.shape[0] * heads // rows


def _number(module: nn.Module, names: tuple[str, ...]) -> int | None:
    """The first of these attributes of a module or of its config that is a positive integer."""
    for holder in (module, getattr(module, "config", None)):
        for name in names:
            value = getattr(holder, name, None)
            if isinstance(value, int) and value > 0:
                return value
    return None


def scaling(module: nn.Module, adapter: str | None) -> float:
    """What the model multiplies B·A by: `scaling` (peft: one an adapter), alpha/rank, or 1."""
    given = getattr(module, "scaling", None)
    if isinstance(given, dict):
        given = given.get(adapter)
    if isinstance(given, (int, float)):
        return float(given)
    alpha, rank = getattr(module, "alpha", None), getattr(module, "rank", None)
    return float(alpha) / float(rank) if isinstance(alpha, (int, float)) and isinstance(rank, int) and rank else 1.0
