r"""One batch linearised: products of its curvature through graphs that are built once.

**Hessian.** g = ∇L is kept with its graph; Hv = ∇⟨g, v⟩ is one backward pass through it.

**JᵀMJ** with outputs z = f(θ) and their Jacobian J. The graph of u ↦ Jᵀu (at any u; the map is linear) gives
J v = ∇_u⟨Jᵀu, v⟩, a second backward pass through f gives Jᵀ. M acts on the outputs alone:

    ggn               M = ∇²_z L
    fisher_empirical  M u = w Σ_i s_i⟨s_i, u_i⟩, s_i = ∂L/∂z_i, over samples i (the first axis); L a mean over w of them
    fisher_mc         M u = c Σ_i s_i⟨s_i, u_i⟩, s_i the score of a label drawn from the model: E M = ∇²_z L for

softmax cross-entropy (s = p − e_ŷ along the class axis), squared error (s standard normal, c twice the loss's factor)
and logistic cross-entropy (s = σ(z) − ŷ).

cost    in forward passes F: a Hessian product 6F, one of JᵀMJ 4F; building 9F and 6F, memory what the graphs save.
source  Pearlmutter (1994); Schraudolph (2002); Martens (2020), "New insights and perspectives on the natural gradient
        method"; docs/torch.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from flatcore.torch._batches import Evaluated
from flatcore.torch._twice import check_differentiable, linear_in_cotangents

Blocks = Sequence[Tensor]
CURVATURES = ("hessian", "ggn", "fisher_mc", "fisher_empirical")


class HessianGraph:
    """The Hessian of a batch's loss.

    Parameters
    ----------
    loss
        A scalar with its graph.
    params
        Leaves that require gradients.

    """

    def __init__(self, loss: Tensor, params: Blocks) -> None:
        self._params = params
        gradient, self.unused = _loss_gradient(loss, params, create_graph=True)
        self.gradient = [g.detach() for g in gradient]
        self._curved = [i for i, g in enumerate(gradient) if g.requires_grad]
        self._gradient = [gradient[i] for i in self._curved]
        if not check_differentiable([loss, *self._gradient]):  # on a path that may lead to other parameters alone
            self.product([torch.zeros_like(p) for p in params])

    def product(self, v: Blocks, *, batched: bool = False) -> list[Tensor]:
        """H v in blocks shaped like the parameters, with a first axis of vectors where `batched`."""
        if not self._curved:
            return [torch.zeros_like(block) for block in v]
        return _gradient(self._gradient, self._params, [v[i] for i in self._curved], batched=batched)


class OutputGraph:
    """JᵀMJ of a batch; `M` maps cotangents of the outputs to themselves."""

    def __init__(self, outputs: Tensor, loss: Tensor, params: Blocks, M: Callable[[Tensor], Tensor]) -> None:
        self._params, self._outputs, self._M = params, outputs, M
        self.gradient, self.unused = _loss_gradient(loss, params)
        self._u = torch.zeros_like(outputs, requires_grad=True)
        pulled: list[Tensor] = []
        if outputs.requires_grad:
            with linear_in_cotangents():
                pulled = _gradient([outputs], params, [self._u], create_graph=True)
        self._moving = [i for i, g in enumerate(pulled) if g.requires_grad]
        self._pulled = [pulled[i] for i in self._moving]
        check_differentiable([outputs, *self._pulled])

    def product(self, v: Blocks, *, batched: bool = False) -> list[Tensor]:
        """JᵀMJ v in blocks shaped like the parameters, with a first axis of vectors where `batched`."""
        if not self._moving:
            return [torch.zeros_like(block) for block in v]
        pushed = _gradient(self._pulled, [self._u], [v[i] for i in self._moving], batched=batched)[0]
        image = torch.stack([self._M(row) for row in pushed]) if batched else self._M(pushed)
        return _gradient([self._outputs], self._params, [image], batched=batched)


def linearised(
    curvature: str,
    evaluated: Evaluated,
    loss_of: Callable[[Evaluated], Tensor],
    params: Blocks,
    *,
    loss_fn: Any,
    mean: bool,
    seed: int,
) -> tuple[float, HessianGraph | OutputGraph]:
    """Loss of a batch and its curvature's graph; `seed` draws the labels of fisher_mc."""
    if curvature == "hessian":
        loss = loss_of(evaluated)
        return float(loss.detach()), HessianGraph(loss, params)
    outputs = evaluated.outputs
    if not isinstance(outputs, Tensor) or outputs.ndim == 0:
        raise ValueError(
            f"the model's outputs are a {type(outputs).__name__}; curvature={curvature!r} expected one tensor with "
            "samples along the first axis (return it from forward=)"
        )
    loss = loss_of(evaluated)
    leaf = outputs.detach().requires_grad_()
    at_leaf = loss_of(evaluated._replace(outputs=leaf))
    _check_through_outputs(at_leaf, params, curvature)
    if curvature == "ggn":
        M = _loss_hessian(at_leaf, leaf)
    elif curvature == "fisher_empirical":
        (s,) = torch.autograd.grad(at_leaf, leaf)
        M = _outer(s, range(1, s.ndim), evaluated.weight if mean else 1.0)
    else:
        M = sampled_fisher(loss_fn, leaf.detach(), evaluated.targets, mean, seed)
    return float(loss.detach()), OutputGraph(outputs, loss, params, M)


def _gradient(
    outputs: Blocks,
    inputs: Blocks,
    cotangents: Blocks,
    *,
    create_graph: bool = False,
    batched: bool = False,
) -> list[Tensor]:
    """Gradients with respect to `inputs`, zeros where nothing depends on them; graphs stay."""
    lead = cotangents[0].shape[:1] if batched and len(cotangents) else ()
    if not outputs:
        return [x.new_zeros(*lead, *x.shape) for x in inputs]
    found = torch.autograd.grad(
        outputs,
        inputs,
        cotangents,
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        is_grads_batched=batched,
    )
    return [x.new_zeros(*lead, *x.shape) if g is None else g for g, x in zip(found, inputs, strict=True)]


def _loss_gradient(loss: Tensor, params: Blocks, *, create_graph: bool = False) -> tuple[list[Tensor], set[int]]:
    """The gradient, and the numbers of the parameters on which the loss does not depend."""
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in params], set(range(len(params)))
    found = torch.autograd.grad(loss, params, retain_graph=True, create_graph=create_graph, allow_unused=True)
    unused = {i for i, g in enumerate(found) if g is None}
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, params, strict=True)], unused


def _check_through_outputs(loss: Tensor, params: Blocks, curvature: str) -> None:
    """Refuse a loss, taken at detached outputs, that still depends on parameters."""
    if loss.requires_grad and len(_loss_gradient(loss, params)[1]) < len(params):
        raise ValueError(
            f"the loss depends on parameters by its targets, or by itself (a penalty on weights?); "
            f"curvature={curvature!r} expected the outputs alone: detach the targets, or use 'hessian'"
        )


def _loss_hessian(loss: Tensor, leaf: Tensor) -> Callable[[Tensor], Tensor]:
    """U ↦ ∇²_z L u."""
    (g,) = torch.autograd.grad(loss, leaf, create_graph=True)
    if not g.requires_grad:
        return torch.zeros_like
    return lambda u: _gradient([g], [leaf], [u])[0]


def _outer(s: Tensor, axes: Sequence[int], factor: float) -> Callable[[Tensor], Tensor]:
    """U ↦ factor·s⟨s, u⟩ with the inner product over `axes`."""
    return lambda u: factor * s * (s * u).sum(list(axes), keepdim=True) if axes else factor * s * (s * u)


# -- labels drawn from the model -------------------------------------------------------------------------------------


def sampled_fisher(loss_fn: Any, z: Tensor, targets: Any, mean: bool, seed: int) -> Callable[[Tensor], Tensor]:
    """M of fisher_mc, one label a sample."""
    generator = torch.Generator(device=z.device).manual_seed(seed)
    if type(loss_fn) is nn.CrossEntropyLoss or loss_fn is functional.cross_entropy:
        return _categorical(loss_fn, z, targets, mean, generator)
    axes = range(1, z.ndim)
    factor = 1.0 / z.numel() if mean else 1.0
    if type(loss_fn) is nn.MSELoss or loss_fn is functional.mse_loss:
        s = torch.randn(z.shape, generator=generator, dtype=z.dtype, device=z.device)
        return _outer(s, axes, 2.0 * factor)
    if type(loss_fn) is nn.BCEWithLogitsLoss or loss_fn is functional.binary_cross_entropy_with_logits:
        if getattr(loss_fn, "weight", None) is not None or getattr(loss_fn, "pos_weight", None) is not None:
            raise ValueError("loss_fn weighs its entries; curvature='fisher_mc' expected none (use 'ggn')")
        p = z.sigmoid()
        return _outer(p - torch.bernoulli(p, generator=generator), axes, factor)
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    raise ValueError(
        f"loss_fn is {name}; curvature='fisher_mc' draws labels and expected CrossEntropyLoss, MSELoss, "
        "BCEWithLogitsLoss or their functional forms (use 'ggn', which needs none)"
    )


def _categorical(
    loss_fn: Any, z: Tensor, targets: Any, mean: bool, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    """Scores p − e_ŷ along the class axis, at positions that count."""
    if getattr(loss_fn, "weight", None) is not None or getattr(loss_fn, "label_smoothing", 0.0) != 0.0:
        raise ValueError("loss_fn weighs classes or smooths labels; curvature='fisher_mc' expected neither (use 'ggn')")
    axis = 1 if z.ndim > 1 else 0
    p = z.softmax(axis)
    rows = p.movedim(axis, -1).reshape(-1, p.shape[axis])
    drawn = torch.multinomial(rows, 1, generator=generator).reshape(p.movedim(axis, -1).shape[:-1])
    s = p - functional.one_hot(drawn, p.shape[axis]).movedim(-1, axis)
    count = float(drawn.numel())
    ignored = getattr(loss_fn, "ignore_index", -100)
    if isinstance(targets, Tensor) and not targets.dtype.is_floating_point:
        counted = (targets != ignored).reshape(drawn.shape)
        s, count = s * counted.unsqueeze(axis), float(counted.sum())
    return _outer(s, [axis], 1.0 / count if mean else 1.0)
