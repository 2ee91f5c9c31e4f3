r"""Operators with second derivatives that exist, and are fast, switched in while a graph is built.

**Convolutions.** With z = conv(x, w), and the backward pass (g, x, w) ↦ (X, W) = (input gradient, weight gradient),
let U and V be cotangents of X and W. Written out, the derivative of ⟨U, X⟩ + ⟨V, W⟩ is

    ∂g: conv(U, w) + conv(x, V),    ∂x: input gradient(g, V),    ∂w: weight gradient(g, U),

native calls of the same sizes as the convolution itself. torch's own formula takes the weights' part by a convolution
with a kernel as large as the image. On the CPU float32 images are laid out channels last, which its kernels prefer.

**Attention.** The fused back ends have no second derivative, the one called "math" has.
**Weight normalisation** v·g/‖v‖ fused has a wrong one: its norm is taken for a constant. **Hard sigmoids** have none.
Both are written in operators that have.
**Recurrent layers** of cuDNN have none either, torch's own loops have.
**Compiled modules and functions** run as they were written.

cost    a product through the kept graph of a convolution: two convolutions, two input and two weight gradients.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

_Geometry = tuple[list[int], list[int], list[int], int]  # stride, padding, dilation, groups
_backward = torch.ops.aten.convolution_backward
_DIMENSIONS: dict[Callable[..., Any], int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
SWITCHES = threading.RLock()  # settings of torch and random generators belong to the process
_NATIVE_LAYOUT = (torch.float32, torch.bfloat16, torch.float16)


def _convolved(x: Tensor, w: Tensor, b: Tensor | None, geometry: _Geometry) -> Tensor:
    stride, padding, dilation, groups = geometry
    return torch.convolution(x, w, b, stride, padding, dilation, False, [0] * len(stride), groups)


def _gradients(g: Tensor, x: Tensor, w: Tensor, geometry: _Geometry, wanted: tuple[bool, bool]) -> Sequence[Any]:
    """Gradients of input and weight; None for those not wanted."""
    stride, padding, dilation, groups = geometry
    found = _backward(g, x, w, None, stride, padding, dilation, False, [0] * len(stride), groups, [*wanted, False])
    return [gradient if want else None for gradient, want in zip(found, wanted, strict=False)]


def _applied(function: type[torch.autograd.Function], *args: Any) -> Any:
    return function.apply(*args)  # type: ignore[no-untyped-call]


class _Graphs:
    """Whether graphs that are being built are for derivatives in the cotangents alone."""

    linear = False


@contextmanager
def linear_in_cotangents() -> Iterator[None]:
    """Inside, graphs of backward passes need no derivatives in inputs and weights: convolutions leave them out."""
    with SWITCHES:
        _Graphs.linear = True
        try:
            yield
        finally:
            _Graphs.linear = False


class _Convolution(torch.autograd.Function):
    """conv(x, w) + b, whose backward pass is differentiated by `_ConvolutionBackward`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, geometry: _Geometry) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, w)
        ctx.geometry = geometry
        return _convolved(x, w, b, geometry)

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> Any:
        if g is None:
            return None, None, None, None
        x, w = ctx.saved_tensors
        if _Graphs.linear:
            x, w = x.detach(), w.detach()
        wanted = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        gx, gw = _applied(_ConvolutionBackward, g, x, w, ctx.geometry, wanted) if any(wanted) else (None, None)
        gb = g.sum([0, *range(2, g.ndim)]) if ctx.needs_input_grad[2] else None
        return gx, gw, gb, None


class _ConvolutionBackward(torch.autograd.Function):
    """(g, x, w) ↦ gradients of input and weight, with the derivative of the module's header."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, geometry: _Geometry, wanted: tuple[bool, bool]) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(g, x, w)
        ctx.geometry = geometry
        return tuple(_gradients(g, x, w, geometry, wanted))

    @staticmethod
    def backward(ctx: Any, U: Tensor | None, V: Tensor | None) -> Any:
        g, x, w = ctx.saved_tensors
        dg = dx = dw = None
        if V is not None:
            dg = _convolved(x, V, None, ctx.geometry)
            if ctx.needs_input_grad[1]:
                dx = _gradients(g, x, V, ctx.geometry, (True, False))[0]
        if U is not None:
            along = _convolved(U, w, None, ctx.geometry)
            dg = along if dg is None else dg + along
            if ctx.needs_input_grad[2]:
                dw = _gradients(g, U, w, ctx.geometry, (False, True))[1]
        return dg, dx, dw, None, None


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """v·g/‖v‖, the norm over all axes but `dim`."""
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002, torch's names
    out = torch.clamp(input / 6.0 + 0.5, 0.0, 1.0)
    return input.copy_(out) if inplace else out


_WRITTEN_OUT: dict[Callable[..., Any], Callable[..., Any]] = {
    torch._weight_norm: _weight_norm,
    nn.functional.hardsigmoid: _hardsigmoid,
}


class _TwiceDifferentiable(TorchFunctionMode):
    """Calls of convolutions go to `_Convolution`, others to `_WRITTEN_OUT`; `convolved` tells of convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.convolved = False

    def __torch_function__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if function in _DIMENSIONS and (call := _plain_call(_DIMENSIONS[function], args, given)) is not None:
            self.convolved = True
            return _applied(_Convolution, *call)
        return _WRITTEN_OUT.get(function, function)(*args, **given)


def _plain_call(
    dimensions: int, args: Sequence[Any], given: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor | None, _Geometry] | None:
    """Arguments of a convolution of a batch as `_Convolution` takes them; None for calls to leave alone."""
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    call: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
    call |= dict(zip(names, args, strict=False)) | dict(given)
    x, w = call["input"], call["weight"]
    if (
        _transformed()
        or x.ndim != dimensions + 2
        or not (x.requires_grad or w.requires_grad)
        or not w.dtype.is_floating_point
    ):
        return None
    stride, dilation = _each(call["stride"], dimensions), _each(call["dilation"], dimensions)
    padding = call["padding"]
    if isinstance(padding, str):
        extra = [d * (k - 1) for d, k in zip(dilation, w.shape[2:], strict=True)]
        if padding == "same" and any(e % 2 for e in extra):
            return None  # unequal at the two ends
        padding = [e // 2 for e in extra] if padding == "same" else 0
    if dimensions == 2 and x.device.type == "cpu" and x.dtype in _NATIVE_LAYOUT:
        x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
    return x, w, call["bias"], (stride, _each(padding, dimensions), dilation, call["groups"])


def _transformed() -> bool:
    """Whether torch.func is at work: its transforms differentiate convolutions in their own way."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def _each(value: Any, dimensions: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dimensions if len(values) == 1 else values


@contextmanager
def second_derivatives(model: nn.Module) -> Iterator[_TwiceDifferentiable]:
    """Inside, what the model computes has second derivatives, in its own precision and with gradients recorded.

    One thread at a time: the settings are the process's.
    """
    modules = list(model.modules())
    device = next((p.device.type for p in model.parameters()), "cpu")
    with SWITCHES, ExitStack() as stack:
        fast_path = torch.backends.mha.get_fastpath_enabled()
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.autocast(device, enabled=False))
        stack.enter_context(sdpa_kernel([SDPBackend.MATH]))
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast_path)
        torch.backends.mha.set_fastpath_enabled(False)
        if any(isinstance(module, nn.RNNBase) for module in modules):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):  # something may be compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield stack.enter_context(_TwiceDifferentiable())


def check_differentiable(outputs: Sequence[Tensor]) -> bool:
    """Whether each operator that a backward pass through the graph of `outputs` may meet has a derivative.

    Functions that are differentiable once are refused here: what lies behind them is no part of the graph, so that a
    backward pass would end there without a word.
    """
    seen: set[Any] = set()
    waiting, missing = [output.grad_fn for output in outputs], False
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        kind = node.name().rpartition("::")[2]
        if kind in ("Error", "DelayedError"):
            raise RuntimeError("a function marked with @once_differentiable was called")
        if kind == "CheckpointFunctionBackward":
            raise RuntimeError("Checkpointing is not compatible with .grad()")
        missing = missing or kind == "NotImplemented"
        waiting += [following for following, _ in node.next_functions]
    return not missing


def explained(error: RuntimeError) -> Exception:
    """What autograd's error about a missing derivative means here; any other error as it came."""
    text = str(error)
    if "Checkpointing is not compatible with .grad()" in text:
        return ValueError("the model checkpoints activations reentrantly; expected checkpoint(…, use_reentrant=False)")
    if "saved tensor hooks" in text:
        return ValueError(
            "the model or the loss calls torch.func.grad or vjp, inside which graphs cannot be counted; expected "
            "torch.autograd.grad(…, create_graph=True), or torch.func.jvp"
        )
    if "derivative for" in text or "double backward" in text or "once_differentiable" in text:
        first = text.splitlines()[0].rstrip(".")
        return ValueError(
            f"an operator of the model or the loss has no second derivative in PyTorch ({first}); replace it by "
            "operators that have one, or leave its parameters out with params="
        )
    return error
