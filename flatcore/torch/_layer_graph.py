"""One input's forward pass with the outputs of named layers, and products with the Jacobians between them.

In a kept graph with tensors x (n entries) and y (m), Jᵀu for J = ∂y/∂x is a backward pass. It is linear in u, so its
own graph, built once with u as a variable, gives Jv as the derivative of u ↦ Jᵀu along v: no forward-mode rules are
needed, only second derivatives (`_twice.py`). An operator whose backward pass autograd cannot follow would drop out of
Jv without a word, not out of Jᵀu; so the adjoint identity ⟨u, Jv⟩ = ⟨Jᵀu, v⟩ is checked once, for a random u and
v = Jᵀu, where the right side is ‖Jᵀu‖².

Cost: two backward passes for J, kept, and two for the check; then one for each product.
Memory: the forward pass and these graphs.

Source: Pearlmutter (1994) for derivatives of gradients along a direction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatcore._checks import FloatArray
from flatcore.torch._twice import check_differentiable, second_derivatives
from flatcore.torch._wrappers import without_hooks

OUTPUT = "(output)"  # the part of the network above the last layer named
DTYPES: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}
_SAME = 1e-3  # relative difference of two outputs at one input that rounding of any precision explains
# Of max(‖u‖‖Jv‖, ‖Jᵀu‖‖v‖): rounding through a deep network, n·eps with room; an operator left out is of order one.
_ADJOINT = {torch.float32: 1e-3, torch.float64: 1e-8}


@dataclass
class Graph:
    """One input's forward pass: the tensors h_0, …, h_M, their names, and products counted."""

    names: tuple[str, ...]
    outputs: list[Tensor]
    products: int = 0


class Product:
    """The Jacobian ∂y/∂x of two tensors of a kept graph, as products with flat vectors."""

    def __init__(self, graph: Graph, x: Tensor, y: Tensor) -> None:
        self.graph, self.x, self.y = graph, x, y
        self.u = torch.zeros_like(y, requires_grad=True)
        (g,) = torch.autograd.grad(y, x, self.u, create_graph=True, allow_unused=True)
        self.transposed: Tensor | None = g if g is not None and g.requires_grad else None  # None: the Jacobian is zero
        if g is not None:
            check_differentiable([g])
            self._check_adjoint()

    def forward(self, v: Tensor) -> Tensor:
        """Jv (m,): the derivative of u ↦ Jᵀu along v."""
        self.graph.products += 1
        out = None
        if self.transposed is not None:
            (out,) = torch.autograd.grad(
                self.transposed, self.u, v.reshape(self.x.shape), retain_graph=True, allow_unused=True
            )
        return (torch.zeros_like(self.y) if out is None else out).detach().reshape(-1)

    def backward(self, u: Tensor) -> Tensor:
        """Jᵀu (n,)."""
        self.graph.products += 1
        (out,) = torch.autograd.grad(self.y, self.x, u.reshape(self.y.shape), retain_graph=True, allow_unused=True)
        return (torch.zeros_like(self.x) if out is None else out).detach().reshape(-1)

    def _check_adjoint(self) -> None:
        """Refuse J whose products forward are not those of its transpose. NaN is left to who takes products."""
        random = torch.randn(self.y.numel(), generator=torch.Generator().manual_seed(0), dtype=self.y.dtype)
        u = random.to(self.y.device)
        v = self.backward(u)
        image = self.forward(v)
        left, right = float(u.double() @ image.double()), float(v.double() @ v.double())
        size = max(float(torch.linalg.vector_norm(u.double()) * torch.linalg.vector_norm(image.double())), right)
        if abs(left - right) > _ADJOINT[self.y.dtype] * size:
            raise ValueError(
                f"an operator of the model has no second derivative: ⟨u, Jv⟩ is {left:.3g}, ⟨Jᵀu, v⟩ is "
                f"{right:.3g}; expected custom functions whose backward pass consists of differentiable operators"
            )


class Normal:
    """JᵀJ, or JJᵀ where the output is the smaller side, for `eigsh`."""

    def __init__(self, jacobian: Product) -> None:
        self.wide = jacobian.y.numel() < jacobian.x.numel()
        side = jacobian.y if self.wide else jacobian.x
        self.shape = (side.numel(), side.numel())
        self.dtype: np.dtype[Any] = DTYPES[side.dtype]
        self._jacobian, self._like = jacobian, side

    def __matmul__(self, V: FloatArray) -> FloatArray:
        rows = np.atleast_2d(V.T)
        out = np.empty(rows.shape, dtype=self.dtype)
        for row, image in zip(rows, out, strict=True):
            image[:] = self._once(torch.tensor(row, dtype=self._like.dtype, device=self._like.device)).cpu().numpy()
        return out.T if V.ndim == 2 else out[0]

    def _once(self, w: Tensor) -> Tensor:
        J = self._jacobian
        return J.forward(J.backward(w)) if self.wide else J.backward(J.forward(w))


@contextmanager
def recorded(network: nn.Module, x: Tensor, cuts: Sequence[str]) -> Iterator[Graph]:
    """The graph of one input, with the outputs of the layers in the order in which they ran.

    Each layer passes on a copy of its output, so that an operator that works in place above leaves the output alone.
    Hooks on gradients do not run: they may change them, and see no training step.
    """
    met: list[tuple[str, Tensor]] = []
    passed: list[Tensor] = []

    def hook_of(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                what = output.dtype if isinstance(output, Tensor) else type(output).__name__
                raise ValueError(f"layer {name} returns {what}; expected a tensor of floating-point numbers")
            if any(name == other for other, _ in met):
                raise ValueError(f"layer {name} is called more than once; expected layers that are called once")
            met.append((name, output))
            passed.append(output.clone())
            return passed[-1]

        return hook

    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        plain = network(x.clone())
    with second_derivatives(network), without_hooks(network):
        start = x.detach().clone().requires_grad_(True)
        handles = [network.get_submodule(name).register_forward_hook(hook_of(name)) for name in cuts]
        try:
            end = network(start.clone())
        finally:
            for handle in handles:
                handle.remove()
        _check_output(plain, end)
        if missing := [name for name in cuts if all(name != other for other, _ in met)]:
            raise ValueError(f"layers {', '.join(missing)} are not called by the model's forward pass")
        if not met or end is not passed[-1]:
            met.append((OUTPUT, end))
        names, outputs = zip(*met, strict=True)
        yield Graph(names, [start, *outputs])


def _check_output(plain: Any, end: Any) -> None:
    if not isinstance(end, Tensor):
        raise ValueError(
            f"model returns a {type(end).__name__}; expected a tensor (wrap it in a module that picks one)"
        )
    if not end.requires_grad:
        raise ValueError("the model's output does not depend on its input as far as autograd knows (is it detached?)")
    difference, size = (float(torch.linalg.vector_norm(t.double())) for t in (plain - end.detach(), plain))
    if not difference <= _SAME * size:
        raise ValueError(
            f"two forward passes at one input differ by {difference:.3g} ({size:.3g} is the output's norm): not "
            "deterministic, or not finite; call model.eval(), and take random numbers out of forward"
        )
