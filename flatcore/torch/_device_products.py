r"""Partial products of a chain on a device, and curvature products in the narrow-end form, in torch operations.

Layers in homogeneous coordinates, W̃ = [[W, b], [0, 1]] and directions D̃ = [[D, δ], [0, 0]] (skip links: I + W). Seen
from the narrow end every layer is a map from near rows to far rows, M = W̃ where rows start at the output and M = W̃ᵀ
where they start at the input. With near rows a (a at the narrow end is I, or Lᵀ of a whitened loss) and far rows b
(b at the far end is ∇f), both (m, width),

    near sweep:  da ← da·M + a·D̃,                 at its end the change of the end-to-end matrix
    far end:     σ = 𝓗[da]
    far sweep:   (HD) = aᵀσ + daᵀb,  σ ← σ·Mᵀ + b·D̃ᵀ

(docs/theory.md, "The narrow-end form"; the other side is the transpose). Blocks of k directions have a leading axis.

cost    12·m·P flops a direction (8 without terms in b), each weight read twice for any number of directions
memory  partial products 2·m·Σd entries, kept in float64 and, once asked for, in float32; three times that a direction

Partial products, the loss, its gradient and the Hessian's factors are computed in float64 whatever the weights, one
layer's weights converted at a time. Products are in the wider precision of weights and directions, float32 ones in
full float32. Half precision is converted layer by layer to float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from flatcore.linear import Loss
from flatcore.linear.products import NonFiniteLossError, StaleWeightsError
from flatcore.torch._device import check_memory, exact_products
from flatcore.torch._device_chain import DeviceChain
from flatcore.torch._device_loss import LossHessian, loss_on_device


@dataclass(frozen=True)
class Crossing:
    """One layer, seen from the narrow end."""

    weight: Tensor  # (above, below)
    bias: Tensor | None
    skip: bool
    from_output: bool
    homogeneous: bool  # whether rows carry the constant column
    first: int  # of its weight in a parameter vector

    @property
    def above(self) -> int:
        """Width of the layer's output, as it meets D."""
        return self.weight.shape[0]

    @property
    def below(self) -> int:
        """Width of the layer's input, with the constant that meets the bias."""
        return self.weight.shape[1] + (self.bias is not None)

    @property
    def near(self) -> int:
        """Width in which near rows meet D̃."""
        return self.above if self.from_output else self.below

    @property
    def far(self) -> int:
        """Width in which far rows meet D̃."""
        return self.below if self.from_output else self.above

    def to_far(self, rows: Tensor) -> Tensor:
        """rows·M."""
        return self._across(rows, *self._layer(rows.dtype), rows, self.from_output)

    def to_near(self, rows: Tensor) -> Tensor:
        """rows·Mᵀ."""
        return self._across(rows, *self._layer(rows.dtype), rows, not self.from_output)

    def direction_to_far(self, rows: Tensor, directions: Tensor) -> Tensor:
        """Near rows times D̃ of each direction (k, P)."""
        return self._across(rows, *self._blocks(directions), None, self.from_output)

    def direction_to_near(self, rows: Tensor, directions: Tensor) -> Tensor:
        """Far rows times D̃ᵀ of each direction (k, P)."""
        return self._across(rows, *self._blocks(directions), None, not self.from_output)

    def write(self, near: Tensor, far: Tensor, out: Tensor) -> None:
        """Nearᵀ·far, (k, m, ·) each, into the layer's blocks of out (k, P)."""
        upper, lower = (near, far) if self.from_output else (far, near)
        upper = upper[..., : self.above].mT
        weights, biases = self._blocks(out)
        torch.bmm(upper, lower[..., : self.weight.shape[1]], out=weights)
        if biases is not None:
            torch.bmm(upper, lower[..., self.below - 1 : self.below], out=biases[..., None])

    def write_block(self, blocks: Tensor, out: Tensor) -> None:
        """Blocks (k, near, far) into the layer's blocks of out (k, P)."""
        blocks = blocks if self.from_output else blocks.mT
        weights, biases = self._blocks(out)
        weights.copy_(blocks[..., : self.weight.shape[1]])
        if biases is not None:
            biases.copy_(blocks[..., -1])

    def read_block(self, vectors: Tensor) -> Tensor:
        """The layer's D̃ (k, near, far) of vectors (k, P), where rows meet it."""
        D, bias = self._blocks(vectors)
        block = D if bias is None else torch.cat([D, bias[..., None]], -1)
        return block if self.from_output else block.mT

    def pad_far(self, rows: Tensor) -> Tensor:
        """Rows of width `far` with the constant column of a sweep."""
        return self._padded(rows, self.weight.shape[1 if self.from_output else 0])

    def pad_near(self, rows: Tensor) -> Tensor:
        """Rows of width `near` with the constant column of a sweep."""
        return self._padded(rows, self.weight.shape[0 if self.from_output else 1])

    def _padded(self, rows: Tensor, width: int) -> Tensor:
        missing = width + self.homogeneous - rows.shape[-1]
        return torch.nn.functional.pad(rows, (0, missing)) if missing else rows

    def _layer(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        return self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype)

    def _blocks(self, vectors: Tensor) -> tuple[Tensor, Tensor | None]:
        """The layer's blocks (k, above, below) and (k, above) of vectors (k, P), as views."""
        k, end = len(vectors), self.first + self.weight.numel()
        D = vectors[:, self.first : end].view(k, *self.weight.shape)
        return D, None if self.bias is None else vectors[:, end : end + self.above]

    def _across(self, rows: Tensor, W: Tensor, b: Tensor | None, own: Tensor | None, down: bool) -> Tensor:
        """Rows times [[W, b], [0, 0]], from its upper side (`down`) or transposed from its lower one.

        `own` are the rows again where the layer itself is crossed: a skip link adds their linear part, the homogeneous
        corner their constant.
        """
        source = W.shape[-2] if down else W.shape[-1]
        linear = rows[..., :source] @ (W if down else W.mT)
        constant: Tensor | None = None
        if b is not None and down:
            constant = rows[..., :source] @ b[..., None]
        elif b is not None:
            linear = linear + rows[..., source : source + 1] * b[..., None, :]
        if own is not None and self.skip:
            linear = linear + own[..., :source]
        if not self.homogeneous:
            return linear
        if own is not None:
            constant = own[..., -1:] if constant is None else constant + own[..., -1:]
        return torch.cat([linear, linear.new_zeros(*linear.shape[:-1], 1) if constant is None else constant], -1)


def crossings(chain: DeviceChain, from_output: bool) -> tuple[Crossing, ...]:
    """The layers in the order of the near sweep."""
    made, first = [], 0
    for W, b, skip in zip(chain.weights, chain.biases, chain.skip, strict=True):
        made.append(Crossing(W, b, skip, from_output, chain.has_biases, first))
        first += W.numel() + (0 if b is None else b.numel())
    return tuple(reversed(made) if from_output else made)


class DeviceProducts:
    """A snapshot of a chain and a loss: partial products, loss gradient, and products with many directions."""

    def __init__(self, chain: DeviceChain, loss: Loss) -> None:
        self.chain = chain
        shape = (chain.dims[-1], chain.num_inputs)
        with exact_products(chain.device):
            self.loss, self.narrow_output = loss_on_device(loss, shape, chain.has_biases, chain.device)
            start = self._start()
            self.narrow_width = m = len(start)
            what = f"sweeps of {m} rows through all levels of the chain"
            check_memory(what, 3 * 8 * m * sum(chain.dims), chain.device)
            self.crossings = crossings(chain, self.narrow_output)
            self.fingerprint = chain.fingerprint()
            self._near = [start]
            for crossing in self.crossings:
                self._near.append(crossing.to_far(self._near[-1]))
            self.end_to_end = self._loss_side(self._near[-1])
            self.loss_gradient = self.loss.gradient(self.end_to_end)
            if not torch.isfinite(self.loss_gradient).all():
                raise NonFiniteLossError("loss.gradient returned NaN or Inf; the chain's output or the loss overflows")
            far = [self._kernel_side(self.loss_gradient)]
            for crossing in reversed(self.crossings[1:]):
                far.append(crossing.to_near(far[-1]))
            self._far = far[::-1]
            self.at_interpolation = not bool(self.loss_gradient.any())
        self._sides: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        self._hessians: dict[torch.dtype, LossHessian] = {}

    def _start(self) -> Tensor:
        """Rows at the narrow end: I without constant, or Lᵀ with it."""
        outputs, inputs, device = self.chain.dims[-1], self.chain.num_inputs, self.chain.device
        if self.narrow_output:
            return torch.eye(outputs, outputs + self.chain.has_biases, dtype=torch.float64, device=device)
        factor = self.loss.factor
        return torch.eye(inputs, dtype=torch.float64, device=device) if factor is None else factor.mT

    def _loss_side(self, rows: Tensor) -> Tensor:
        """The loss's matrix (…, d_M, q) of rows at the far end."""
        return rows if self.narrow_output else rows[..., : self.chain.dims[-1]].mT

    def _kernel_side(self, matrix: Tensor) -> Tensor:
        """Rows at the far end of the loss's matrix."""
        return matrix if self.narrow_output else self.crossings[-1].pad_far(matrix.mT)

    @cached_property
    def value(self) -> float:
        """The loss."""
        with exact_products(self.chain.device):
            return self.loss.value(self.end_to_end)

    def gradient(self) -> Tensor:
        """Its gradient (P,) in float64: blocks aᵀb."""
        out = self.loss_gradient.new_empty(1, self.chain.num_parameters)
        with exact_products(self.chain.device):
            for crossing, a, b in zip(self.crossings, self._near, self._far, strict=False):
                crossing.write(a[None], b[None], out)
        return out[0]

    def sides(self, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """Near rows a and far rows b of every crossing, in this precision."""
        if dtype not in self._sides:
            near, far = self._near[:-1], self._far
            self._sides[dtype] = ([a.to(dtype) for a in near], [b.to(dtype) for b in far])
        return self._sides[dtype]

    def loss_hessian(self, rows: Tensor) -> Tensor:
        """𝓗 of rows (k, m, ·) at the far end."""
        if rows.dtype not in self._hessians:
            self._hessians[rows.dtype] = self.loss.hessian(self.end_to_end, rows.dtype)
        return self._kernel_side(self._hessians[rows.dtype](self._loss_side(rows)))

    def rows(self, directions: Tensor, gauss_newton: bool) -> Tensor:
        """Products with the rows (k, P), summed in their precision."""
        self.check_fresh()
        curved = not (gauss_newton or self.at_interpolation)
        near, far = self.sides(directions.dtype)
        k, out = len(directions), torch.empty_like(directions)
        with exact_products(self.chain.device):
            changes: list[Tensor] = []  # da of every crossing
            da = torch.zeros_like(near[0]).expand(k, -1, -1)
            for crossing, a in zip(self.crossings, near, strict=True):
                changes.append(da)
                moved = crossing.direction_to_far(a, directions)
                da = moved if len(changes) == 1 else crossing.to_far(da) + moved
            sigma = self.loss_hessian(da)
            for i in reversed(range(len(near))):
                crossing, a, b = self.crossings[i], near[i].expand(k, -1, -1), far[i].expand(k, -1, -1)
                with_b = curved and i > 0
                left, right = (torch.cat([a, changes[i]], 1), torch.cat([sigma, b], 1)) if with_b else (a, sigma)
                crossing.write(left, right, out)
                if i > 0:
                    sigma = crossing.to_near(sigma)
                    sigma = sigma + crossing.direction_to_near(far[i], directions) if curved else sigma
        return out

    def check_fresh(self) -> None:
        """Refuse to go on with weights that have changed since the partial products were taken."""
        if self.chain.fingerprint() != self.fingerprint:
            raise StaleWeightsError("the weights changed after this Hessian was built; build a new one")

    @property
    def weight_bytes(self) -> int:
        """What one read of all weights moves."""
        return sum(W.numel() * W.element_size() for W in self.chain.weights)

    @property
    def loss_flops(self) -> float:
        """Of 𝓗 for one direction."""
        return self.loss.flops(self.end_to_end.numel())
