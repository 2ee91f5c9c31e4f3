"""DeviceChain: a deep linear chain whose weights live on a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from flatcore._checks import human
from flatcore.linear import LinearChain, Loss
from flatcore.linear.chain import ChainShape
from flatcore.torch._device import exact_products

if TYPE_CHECKING:
    from flatcore.torch._device_hessian import DeviceHessian

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class DeviceChain(ChainShape):
    """Φ = W_M ⋯ W_1 as :class:`flatcore.LinearChain`, of tensors on one device; its vectors stay there.

    The chain holds detached views of the tensors. Their version counters tell when they change in place, and a Hessian
    built before says that it is stale.

    Parameters
    ----------
    weights
        One tensor a layer, ``weights[j]`` of shape (d_{j+1}, d_j), applied first to last, all on one device. float16
        and bfloat16 are kept as stored; such a chain works in float32. A mixture with float64 works in float64.
    biases
        None, or one entry a layer: a tensor (d_{j+1},) or None.
    skip
        True, False, or one flag a layer. A skip link is I + weights[j] and needs a square matrix.

    Raises
    ------
    ValueError
        Shapes that do not chain, NaN or Inf, several devices, or a device without float64; the message names the layer.

    Examples
    --------
    >>> import torch, flatcore as fc
    >>> from flatcore.torch import DeviceChain
    >>> chain = DeviceChain([torch.eye(3, 4), torch.ones(2, 3)])
    >>> chain
    DeviceChain(4 → 3 → 2, float32, 18 parameters, cpu)
    >>> H = chain.hessian(fc.QuadraticLoss(torch.eye(4), torch.ones(4, 2)))
    >>> (H @ torch.ones(18)).device
    device(type='cpu')

    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor | None] | None = None,
        skip: bool | Sequence[bool] = False,
    ) -> None:
        self._tensors = [value for value in (*weights, *(biases or ())) if value is not None]
        self.weights = _checked_weights(weights)
        self.device: torch.device = self.weights[0].device
        self.biases = _checked_biases(biases, self.weights)
        self.skip = _checked_skip(skip, self.weights)
        wide = any(value.dtype == torch.float64 for value in self._arrays())
        self.torch_dtype = torch.float64 if wide else torch.float32
        self.dtype: np.dtype[Any] = np.dtype(np.float64 if wide else np.float32)

    @property
    def num_parameters(self) -> int:
        """P, the length of a parameter vector."""
        return sum(value.numel() for value in self._arrays())

    def product(self) -> Tensor:
        """The end-to-end matrix Φ, (d_M, d_0), or (d_M, d_0 + 1) with biases, summed in float64."""
        from flatcore.torch._device_products import crossings

        narrow_output = self.dims[-1] <= self.num_inputs
        width = self.dims[-1] if narrow_output else self.num_inputs
        level = self.dims[-1] if narrow_output else self.dims[0]
        rows = torch.eye(width, level + self.has_biases, dtype=torch.float64, device=self.device)
        with exact_products(self.device):
            for crossing in crossings(self, narrow_output):
                rows = crossing.to_far(rows)
        return (rows if narrow_output else rows[:, : self.dims[-1]].mT).to(self.torch_dtype).contiguous()

    def to_vector(self) -> Tensor:
        """All parameters as one vector: W_1, b_1, W_2, b_2, …, row-major (the order of torch's parameters())."""
        return torch.cat([value.to(self.torch_dtype).flatten() for value in self._arrays()])

    def with_vector(self, v: Tensor) -> DeviceChain:
        """A chain of the same form whose parameters are those of `v` (P,)."""
        blocks = self.blocks(v)
        weights, biases = [], []
        for b in self.biases:
            weights.append(next(blocks))
            biases.append(None if b is None else next(blocks))
        return DeviceChain(weights, biases, self.skip)

    def cpu(self) -> LinearChain:
        """The chain in host memory; tensors that are there already are shared."""
        weights, biases = [W.cpu() for W in self.weights], [None if b is None else b.cpu() for b in self.biases]
        return LinearChain(weights, biases, self.skip)

    def blocks(self, vector: Any) -> Iterator[Any]:
        """Views of a parameter vector's blocks, in the order W_1, b_1, W_2, b_2 and so on."""
        if tuple(vector.shape) != (self.num_parameters,):
            raise ValueError(f"v has shape {tuple(vector.shape)}; expected ({self.num_parameters},)")
        first = 0
        for value in self._arrays():
            yield vector[first : first + value.numel()].reshape(tuple(value.shape))
            first += value.numel()

    def hessian(self, loss: Loss) -> DeviceHessian:
        """The exact Hessian of a loss as an operator on tensors of this device: :class:`DeviceHessian`."""
        from flatcore.torch._device_hessian import DeviceHessian

        return DeviceHessian(self, loss)

    def fingerprint(self) -> tuple[int, ...]:
        """What changes when the weights are changed in place: torch's version counters (``.data`` evades them)."""
        return tuple(0 if tensor.is_inference() else tensor._version for tensor in self._tensors)

    def _arrays(self) -> Iterator[Tensor]:
        for W, b in zip(self.weights, self.biases, strict=True):
            yield W
            if b is not None:
                yield b

    def __repr__(self) -> str:
        widths = " → ".join(str(d) for d in self.dims)
        extras = [name for name, on in (("biases", self.has_biases), ("skip links", any(self.skip))) if on]
        size = f"{human(self.num_parameters)} parameters"
        return f"DeviceChain({', '.join([widths, str(self.dtype), *extras, size, str(self.device)])})"


def _checked(name: str, value: Any, ndim: int) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} is a {type(value).__name__}; expected a tensor")
    if value.layout != torch.strided:
        raise ValueError(f"{name} has layout {value.layout}; expected a dense tensor (use .to_dense())")
    if value.device.type in ("meta", "mps"):
        reason = "it has no data" if value.device.type == "meta" else "it has no float64 (use .cpu())"
        raise ValueError(f"{name} lives on {value.device}; {reason}")
    if value.dtype not in _FLOATS:
        raise ValueError(f"{name} has dtype {value.dtype}; expected real floating-point numbers")
    if value.ndim != ndim or value.numel() == 0:
        expected = f"{ndim} dimension{'s' * (ndim != 1)} and at least one entry"
        raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {expected}")
    if not torch.isfinite(value).all():
        raise ValueError(f"{name} contains NaN or Inf; expected finite numbers")
    return value.detach()


def _checked_weights(weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    checked: list[Tensor] = []
    for j, value in enumerate(weights):
        W = _checked(f"weights[{j}]", value, 2)
        if checked and W.shape[1] != checked[-1].shape[0]:
            raise ValueError(
                f"weights[{j}] has shape {tuple(W.shape)}; its columns must match weights[{j - 1}]'s "
                f"{checked[-1].shape[0]} rows"
            )
        if checked and W.device != checked[0].device:
            raise ValueError(f"weights[{j}] lives on {W.device}; expected weights[0]'s {checked[0].device}")
        checked.append(W)
    if not checked:
        raise ValueError("weights is empty; expected at least one matrix")
    return tuple(checked)


def _checked_biases(biases: Sequence[Tensor | None] | None, weights: tuple[Tensor, ...]) -> tuple[Tensor | None, ...]:
    if biases is None:
        return (None,) * len(weights)
    if len(biases) != len(weights):
        raise ValueError(f"biases has {len(biases)} entries; expected one for each of {len(weights)} layers")
    checked: list[Tensor | None] = []
    for j, (value, W) in enumerate(zip(biases, weights, strict=True)):
        b = None if value is None else _checked(f"biases[{j}]", value, 1)
        if b is not None and b.shape[0] != W.shape[0]:
            raise ValueError(f"biases[{j}] has shape {tuple(b.shape)}; expected ({W.shape[0]},)")
        if b is not None and b.device != W.device:
            raise ValueError(f"biases[{j}] lives on {b.device}; expected weights[0]'s {W.device}")
        checked.append(b)
    return tuple(checked)


def _checked_skip(skip: bool | Sequence[bool], weights: tuple[Tensor, ...]) -> tuple[bool, ...]:
    flags = [skip] * len(weights) if isinstance(skip, bool) else list(skip)
    if len(flags) != len(weights):
        raise ValueError(f"skip has {len(flags)} entries; expected one for each of {len(weights)} layers")
    for j, (flag, W) in enumerate(zip(flags, weights, strict=True)):
        if not isinstance(flag, bool):
            raise ValueError(f"skip[{j}] is {flag!r}; expected True or False")
        if flag and W.shape[0] != W.shape[1]:
            shape = tuple(W.shape)
            raise ValueError(f"skip[{j}] is True but weights[{j}] has shape {shape}; a skip link needs a square one")
    return tuple(flags)
