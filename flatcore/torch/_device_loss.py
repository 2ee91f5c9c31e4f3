r"""Losses of the end-to-end matrix on a device, brought there once.

With ∇²f(Φ)[X] written 𝓗[X] (docs/theory.md, "Notation"):

- quadratic, rows at the output:  ∇f = 2·scale·(ΦL − T)Lᵀ,  𝓗[X] = 2·scale·X·S;
- quadratic, rows at the input:   in whitened coordinates Ψ = ΦL,  ∇f = 2·scale·(Ψ − T),  𝓗[X] = 2·scale·X;
- softmax cross-entropy:          ∇f = scale·Σ(p − y)xᵀ,  𝓗[X] = scale·Σ(diag p − ppᵀ)(Xx)xᵀ, over chunks of samples;
- masked quadratic:               ∇f = 2·mask∘(Φ − target),  𝓗[X] = 2·mask∘X.

The moments, L and T are those of the library's own losses. Values and gradients are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from flatcore._checks import FloatArray, chunks
from flatcore.linear import CrossEntropyLoss, Loss, MaskedQuadraticLoss, QuadraticLoss
from flatcore.linear.losses import check_loss_shape
from flatcore.linear.products import output_is_narrow

LossHessian = Callable[[Tensor], Tensor]  # (…, d_M, q) → the same shape and precision
_ENTRIES_TOGETHER = 1 << 24  # of inputs or of logits of all directions, in one chunk of samples


class DeviceLoss(Protocol):
    """A loss of Φ, or of Ψ = Φ·factor where `factor` (q, r) is not None, on the device of its tensors."""

    factor: Tensor | None

    def value(self, Phi: Tensor) -> float:
        """The loss."""

    def gradient(self, Phi: Tensor) -> Tensor:
        """Its gradient, float64."""

    def hessian(self, Phi: Tensor, dtype: torch.dtype) -> LossHessian:
        """𝓗 at Φ, for directions of this precision."""

    def flops(self, entries: int) -> float:
        """Of 𝓗 for one direction of so many entries."""


def loss_on_device(
    loss: Loss, shape: tuple[int, int], homogeneous: bool, device: torch.device
) -> tuple[DeviceLoss, bool]:
    """The loss for an end-to-end matrix of this shape, and whether its narrow end is the output."""
    if not isinstance(loss, (QuadraticLoss, CrossEntropyLoss, MaskedQuadraticLoss)):
        raise ValueError(
            f"loss is a {type(loss).__name__}; on a device expected a QuadraticLoss, CrossEntropyLoss or "
            "MaskedQuadraticLoss (any loss works on the CPU)"
        )
    check_loss_shape(loss, shape, homogeneous)
    rank = loss.whitened(homogeneous).factor.shape[1] if isinstance(loss, QuadraticLoss) else shape[1]
    narrow_output = output_is_narrow(shape[0], rank, shape[1])
    if isinstance(loss, CrossEntropyLoss):
        return _CrossEntropy(loss, homogeneous, device), narrow_output
    if isinstance(loss, MaskedQuadraticLoss):
        return _Masked(loss, device), narrow_output
    return (_Quadratic if narrow_output else _WhitenedQuadratic)(loss, homogeneous, device), narrow_output


def _tensor(array: FloatArray, device: torch.device) -> Tensor:
    return torch.tensor(array, device=device)


class _WhitenedQuadratic:
    """scale·(‖Ψ − T‖² + constant)."""

    factor: Tensor | None

    def __init__(self, loss: QuadraticLoss, homogeneous: bool, device: torch.device) -> None:
        form = loss.whitened(homogeneous)
        self.factor = _tensor(form.factor, device)
        self._target = _tensor(form.target, device)
        self._constant, self._scale = form.constant, form.scale

    def value(self, Psi: Tensor) -> float:
        return self._scale * (float((Psi - self._target).square().sum()) + self._constant)

    def gradient(self, Psi: Tensor) -> Tensor:
        return 2.0 * self._scale * (Psi - self._target)

    def hessian(self, Psi: Tensor, dtype: torch.dtype) -> LossHessian:
        return lambda dPsi: 2.0 * self._scale * dPsi

    def flops(self, entries: int) -> float:
        return float(entries)


class _Quadratic(_WhitenedQuadratic):
    """The same as a function of Φ."""

    def __init__(self, loss: QuadraticLoss, homogeneous: bool, device: torch.device) -> None:
        super().__init__(loss, homogeneous, device)
        assert self.factor is not None
        self._root, self.factor = self.factor, None  # L
        self._twice_moments = 2.0 * self._scale * (self._root @ self._root.mT)  # 2·scale·S

    def value(self, Phi: Tensor) -> float:
        return super().value(Phi @ self._root)

    def gradient(self, Phi: Tensor) -> Tensor:
        return super().gradient(Phi @ self._root) @ self._root.mT

    def hessian(self, Phi: Tensor, dtype: torch.dtype) -> LossHessian:
        matrix = self._twice_moments.to(dtype)
        return lambda dPhi: dPhi @ matrix

    def flops(self, entries: int) -> float:
        return 2.0 * entries * len(self._twice_moments)


class _CrossEntropy:
    """scale·Σ_i CE(Φx_i, y_i)."""

    factor: Tensor | None = None

    def __init__(self, loss: CrossEntropyLoss, homogeneous: bool, device: torch.device) -> None:
        self._inputs, self._labels = _tensor(loss.inputs, device), _tensor(loss.labels, device)
        self._homogeneous, self._scale = homogeneous, loss.scale

    def value(self, Phi: Tensor) -> float:
        total = torch.zeros((), dtype=Phi.dtype, device=Phi.device)
        for rows, x in self._chunks(Phi.dtype, len(Phi)):
            logits = x @ Phi.mT
            total += (torch.logsumexp(logits, -1, keepdim=True) - logits).mul_(self._targets(rows, logits)).sum()
        return self._scale * float(total)

    def gradient(self, Phi: Tensor) -> Tensor:
        out = torch.zeros_like(Phi)
        for rows, x in self._chunks(Phi.dtype, len(Phi)):
            logits = x @ Phi.mT
            out += (torch.softmax(logits, -1) - self._targets(rows, logits)).mT @ x
        return self._scale * out

    def hessian(self, Phi: Tensor, dtype: torch.dtype) -> LossHessian:
        parts = [torch.softmax(x @ Phi.mT, -1) for _, x in self._chunks(Phi.dtype, len(Phi))]
        probabilities = torch.cat(parts).to(dtype).mT  # classes × samples

        def product(dPhi: Tensor) -> Tensor:
            out = torch.zeros_like(dPhi)
            for rows, x in self._chunks(dPhi.dtype, dPhi[..., 0].numel()):
                p = probabilities[:, rows]
                Z = p * (dPhi @ x.mT)
                Z -= p * Z.sum(-2, keepdim=True)
                out += Z @ x
            return self._scale * out

        return product

    def flops(self, entries: int) -> float:
        return 4.0 * entries * len(self._inputs)

    def _chunks(self, dtype: torch.dtype, rows: int) -> Iterator[tuple[slice, Tensor]]:
        """Samples with their homogeneous entry, as many as `rows` rows of logits have room for."""
        for part in chunks(len(self._inputs), max(1, _ENTRIES_TOGETHER // max(rows, self._inputs.shape[1]))):
            x = self._inputs[part].to(dtype)
            yield part, torch.cat([x, x.new_ones(len(x), 1)], 1) if self._homogeneous else x

    def _targets(self, rows: slice, logits: Tensor) -> Tensor:
        if self._labels.ndim == 2:
            return self._labels[rows].to(logits.dtype)
        return torch.nn.functional.one_hot(self._labels[rows], logits.shape[-1]).to(logits.dtype)


class _Masked:
    """Σ (Φ − target)² over the mask."""

    factor: Tensor | None = None

    def __init__(self, loss: MaskedQuadraticLoss, device: torch.device) -> None:
        self._mask, self._target = _tensor(loss.mask, device), _tensor(loss.target, device)

    def value(self, Phi: Tensor) -> float:
        return float(((Phi - self._target) * self._mask).square().sum())

    def gradient(self, Phi: Tensor) -> Tensor:
        return 2.0 * self._mask * (Phi - self._target)

    def hessian(self, Phi: Tensor, dtype: torch.dtype) -> LossHessian:
        return lambda dPhi: 2.0 * self._mask * dPhi

    def flops(self, entries: int) -> float:
        return float(entries)
