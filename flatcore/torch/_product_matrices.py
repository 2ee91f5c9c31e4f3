"""Weight matrices of layers in a larger model, and what is to be known to cut them into heads."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from flatcore.torch._chain import join

_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head")
_HEAD_WIDTHS = ("head_dim", "attention_head_size", "key_value_proj_dim")
_HOSTS = ("base_layer", "original_layer", "original", "linear", "base", "layer")  # what an adapter is added to


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
    if is_parametrized(layer) or "weight" not in layer._parameters:  # hooks (weight_norm, pruning) compute it too
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
            value = _item(getattr(holder, name, None))
            if isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0:
                return int(value)
    return None


def _item(value: Any) -> Any:
    """The number in a tensor of one element; anything else as it is."""
    return value.item() if isinstance(value, Tensor) and value.numel() == 1 and not value.is_meta else value


def _real(module: nn.Module, names: tuple[str, ...], adapter: str | None) -> float | None:
    """The first of these attributes that is a number, or holds one for the adapter."""
    for name in names:
        value = getattr(module, name, None)
        value = _item(value.get(adapter) if isinstance(value, dict) else value)
        if isinstance(value, Real) and not isinstance(value, bool):
            return float(value)
    return None


def scaling(module: nn.Module, adapter: str | None, A: Matrix) -> float | None:
    """What the model multiplies B·A by: `scaling` (peft: one an adapter) or alpha/rank; None where it does not say."""
    given = _real(module, ("scaling",), adapter)
    alpha = _real(module, ("lora_alpha", "alpha"), adapter)
    if given is not None or alpha is None:
        return given
    return alpha / (_real(module, ("r", "rank", "lora_rank"), adapter) or A.tensor.shape[0])


def host_shape(module: nn.Module) -> tuple[int, ...] | None:
    """Shape (outputs, inputs) of the weight that bare adapter matrices are added to, where it can be seen."""
    for layer in (module, *(getattr(module, name, None) for name in _HOSTS)):
        layer = _base("", layer)[1]
        if is_layer(layer):
            if isinstance(layer, nn.Linear):
                return layer.out_features, layer.in_features  # a quantised weight is packed into another shape
            return tuple(_weight(layer).mT.shape)
    return None


def low_rank_pair(A: Matrix, B: Matrix, host: tuple[int, ...] | None) -> tuple[Matrix, Matrix]:
    """A (r, inputs) and B (outputs, r) from parameters stored so, or as (inputs, r) and (r, outputs) for x·A·B.

    The product has the host's shape; without a host, the inner width r does not exceed both outer ones.
    """
    if A.tensor.ndim != 2 or B.tensor.ndim != 2:
        raise UnreadError(f"{B.parameter} and {A.parameter} have {B.tensor.ndim} and {A.tensor.ndim} axes; expected 2")
    turned = Matrix(A.tensor.mT, A.parameter, A.owner), Matrix(B.tensor.mT, B.parameter, B.owner)
    for low, high in ((A, B), turned):
        (rank, width), (outputs, inner) = low.tensor.shape, high.tensor.shape
        if rank == inner and ((outputs, width) == host if host else rank <= max(width, outputs)):
            return low, high
    expected = f"a product of the layer's shape {host}" if host else "a product of lower rank"
    shapes = f"{tuple(B.tensor.shape)} and {tuple(A.tensor.shape)}"
    raise UnreadError(
        f"{B.parameter} and {A.parameter} have shapes {shapes}: no product either way round is {expected}"
    )
