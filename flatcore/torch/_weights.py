"""analyze: spectra, balance and coupling of the Linear layers and convolutions of a torch.nn.Module.

The mathematics is that of `flatcore.weights.layers`; here modules become its layers. Weights are copied to the host one
layer at a time, half precision as stored. Modules are taken in the order of registration (``named_modules``), which for
most models is the order in which they run; branches registered one after the other look consecutive where their widths
match, so read pairs beside the model's own forward pass.

For convolutions of stride one with circular padding that keep the size, the exact singular values of the whole map on a
grid are added (`_convolution.py`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from flatcore._checks import FloatArray, as_float_array, check_count
from flatcore.linear import LinearChain
from flatcore.linear import analyze as analyze_chain
from flatcore.results import Analysis, ModuleAnalysis
from flatcore.torch._chain import chain, join
from flatcore.torch._convolution import circular_singular_values
from flatcore.torch._forms import IN_PROJ, PROJ_WEIGHTS, apart
from flatcore.torch._wrappers import unwrapped
from flatcore.weights.layers import Kernel, Layer, offsets_text
from flatcore.weights.layerwise import analyze_layers

Progress = Callable[[str, float], None]
InputSize = int | Sequence[int] | Mapping[str, int | Sequence[int]]
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_DEFAULT_GRID = 16
_LAYERS = (nn.Linear, *_CONVOLUTIONS, *_TRANSPOSED)
ORDER = "of registration; branches registered one after the other look consecutive where their widths match"


def analyze(
    model: nn.Module,
    k: int = 8,
    *,
    input_size: InputSize | None = None,
    tol: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ModuleAnalysis:
    """Spectra of all Linear layers and convolutions of a model, balance and coupling of consecutive ones.

    Parameters
    ----------
    model
        Any module, on any device; wrappers (DataParallel, DistributedDataParallel, compiled) are taken off. Nothing in
        it changes.
    k
        Singular vectors a layer (fewer where the layer has fewer).
    input_size
        Points along each dimension of the grid on which circular convolutions act: a number, one for each dimension, or
        either by layer name. None means 16 (or the kernel's extent, where that is more).
    tol, seed, threads
        As in :func:`flatcore.top_svd`.
    progress
        Called with what is being done and the fraction of all done.

    Returns
    -------
    ModuleAnalysis
        With ``.summary()``, ``.to_dict()``, ``.report("file.html")`` and ``.certified``. Layers are Linear,
        convolutions, GPT-2's Conv1D, and queries, keys and values of ``nn.MultiheadAttention``. Consecutive means
        registered one after the other with matching widths, nothing unread between, and not side by side in attention
        or a gated MLP as far as names say; a convolution and a Linear layer match where each channel has the
        same number of inputs (Flatten, channel-major).

    Raises
    ------
    ValueError
        No module, a bad argument, no Linear layer and no convolution, weights that hold NaN or Inf.

    Examples
    --------
    >>> import torch, flatcore as fc
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> a = fc.torch.analyze(net, k=2)
    >>> [layer.name for layer in a.layers], [(p.lower, p.between, p.upper) for p in a.pairs]
    (['0', '2'], [('0', ('ReLU',), '2')])

    Source: docs/theory.md, 5 and 6; Sedghi, Gupta & Long (2019) for circular convolutions.

    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    check_count("k", k)
    inner = unwrapped(model)
    layers, others, tied = _layers(inner, input_size)
    return analyze_layers(
        type(inner).__name__,
        layers,
        k,
        order=ORDER,
        not_analysed=others,
        tied=tied,
        tol=tol,
        seed=seed,
        threads=threads,
        progress=progress,
    )


def analyze_module(
    module: nn.Module,
    loss: Any = None,
    k: int = 8,
    *,
    tol: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Analysis | ModuleAnalysis:
    """`flatcore.analyze` of a module: of its chain where it is linear, else, without a loss, of its layers."""
    try:
        linear = chain(module)
    except ValueError as reason:
        if loss is None:
            return analyze(module, k, tol=tol, seed=seed, threads=threads, progress=progress)
        raise ValueError(
            f"module {type(module).__name__} is given with a loss; expected a linear chain: {reason} and "
            "flatcore.eigsh; without a loss its layers are analysed one by one"
        ) from None
    if not isinstance(linear, LinearChain):  # on a device: the analysis is the host's
        linear = linear.cpu()
    return analyze_chain(linear, loss, k, tol=tol, seed=seed, threads=threads, progress=progress)


def _layers(model: nn.Module, input_size: InputSize | None) -> tuple[list[Layer], list[str], list[str]]:
    """Layers in the order of registration, weights of nothing known, and weights that were met before."""
    owners: dict[int, str] = {}
    layers: list[Layer] = []
    others: list[tuple[int, str]] = []
    tied: list[str] = []
    between: list[str] = []
    unread: list[str] = []
    with quiet_parametrizations(model), torch.no_grad():
        for name, module in _modules(model):
            stored = _stored(name, module)
            for one in stored:
                if owner := owners.get(id(one.source)):
                    tied.append(f"{join(name, one.own)} is {owner}")
                    between.append(f"{type(module).__name__} (tied)")
                    continue
                parted = f"{', '.join(unread)} between, not analysed" if unread else ""
                layers.append(_layer(join(name, one.part), module, one, (tuple(between), parted), input_size))
                between, unread = [], []
            for one in stored:  # after them all: queries, keys and values are of one tensor
                owners.setdefault(id(one.source), join(name, one.own))
            leaf = not any(True for _ in module.children())
            found = list(_others(name, module, {part for one in stored for part in _parts(module, one.own)}))
            if leaf and not stored:
                between.append(type(module).__name__)
                unread.extend([name or type(module).__name__] * bool(found))
            others.extend(found)
    _check_input_size(input_size, layers)
    texts = [f"{text}, tied to {owners[i]}" if i in owners else text for i, text in others]
    return _known_apart(layers), texts, tied


def _known_apart(layers: list[Layer]) -> list[Layer]:
    """Layers with the reason where names say that they do not follow the one before."""
    shapes = {layer.name: (layer.outputs, layer.inputs) for layer in layers}
    known = [(upper, apart(lower.name, upper.name, shapes)) for lower, upper in pairwise(layers)]
    return layers[:1] + [dataclasses.replace(one, parted=why or one.parted) for one, why in known]


class _Stored(NamedTuple):
    """A weight as its layer applies it, (out, in, …), and what it is stored as."""

    own: str  # the parameter's name in its module
    part: str  # of the layer's name, after the module's
    weight: torch.Tensor
    bias: torch.Tensor | None
    source: torch.Tensor  # whose identity tells tied weights; it lives as long as the layers


def _stored(name: str, module: Any) -> list[_Stored]:
    """The weights of one module that are analysed."""
    if isinstance(module, nn.MultiheadAttention):
        return _projections(module)
    transposed = type(module).__name__ == "Conv1D" and isinstance(getattr(module, "weight", None), torch.Tensor)
    if not (isinstance(module, _LAYERS) or (transposed and module.weight.dim() == 2)):
        return []
    weight, bias = _computed(module, "weight"), _computed(module, "bias")
    assert weight is not None
    if nn.parameter.is_lazy(weight):
        raise ValueError(f"{join(name, 'weight')} has no shape yet; run the model once")
    return [_Stored("weight", "", weight.mT if transposed else weight, bias, weight)]


def _projections(module: nn.MultiheadAttention) -> list[_Stored]:
    """Queries, keys and values of nn.MultiheadAttention."""
    biases = [None] * 3 if module.in_proj_bias is None else list(module.in_proj_bias.chunk(3))
    if module.in_proj_weight is None:
        parts = [(own, getattr(module, own)) for own in PROJ_WEIGHTS]
        return [_Stored(own, own, W, b, W) for (own, W), b in zip(parts, biases, strict=True)]
    source, own = module.in_proj_weight, "in_proj_weight"
    rows = zip(IN_PROJ, source.chunk(3), biases, strict=True)
    return [_Stored(own, part, W, b, source) for part, W, b in rows]


def _parts(module: nn.Module, own: str) -> tuple[str, ...]:
    """Names of the parameters a weight is stored as."""
    return (own,) if own in module._parameters else tuple(f"{own}_{end}" for end in ("g", "v", "orig"))


def _computed(module: nn.Module, name: str) -> torch.Tensor | None:
    """A tensor of a module, computed anew where a hook of torch.nn.utils computes it.

    The attribute is that of the last forward pass, and stale where a state dict was loaded since.
    """
    value: torch.Tensor | None = getattr(module, name, None)
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm) and hook.name == name:
            value = hook.compute_weight(module)
        elif isinstance(hook, SpectralNorm) and hook.name == name:
            value = hook.compute_weight(module, do_power_iteration=False)
        elif isinstance(hook, BasePruningMethod) and hook._tensor_name == name:
            value = hook.apply_mask(module)  # type: ignore[no-untyped-call]
    return value


def _modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules but those inside parametrizations, named without the prefixes of compiled parts."""
    for name, module in model.named_modules():
        parts = name.split(".")
        if "parametrizations" not in parts:
            yield ".".join(part for part in parts if part != "_orig_mod"), module


def _others(name: str, module: nn.Module, handled: set[str]) -> Iterator[tuple[int, str]]:
    """Identity and description of a module's own parameters of two dimensions or more that are no layer's weight."""
    kind = type(module).__name__
    for own, parameter in module.named_parameters(recurse=False):
        if own not in handled and not (parameter.dim() < 2 and not nn.parameter.is_lazy(parameter)):
            if nn.parameter.is_lazy(parameter):
                raise ValueError(f"{name}.{own} has no shape yet; run the model once")
            shape = " × ".join(str(d) for d in parameter.shape)
            yield id(parameter), f"{name}.{own} ({shape}) of {kind}: no Linear layer and no convolution".lstrip(".")
    if not handled and ("Linear" in kind or "Conv" in kind) and not any(True for _ in module.parameters()):
        yield id(module), f"{name} ({kind}): no parameters that could be read"


@contextmanager
def quiet_parametrizations(model: nn.Module) -> Iterator[None]:
    """Parametrized weights computed as in evaluation: spectral_norm's buffers stay as they are.

    The older spectral_norm is a hook that asks whether the module itself is in training.
    """
    lists = [m for m in model.modules() if isinstance(m, parametrize.ParametrizationList)]
    hooked = [m for m in model.modules() if any(isinstance(h, SpectralNorm) for h in m._forward_pre_hooks.values())]
    training = [m for m in (*hooked, *(m for part in lists for m in part.modules())) if m.training]
    try:
        for m in training:
            m.training = False
        yield
    finally:
        for m in training:
            m.training = True


def _layer(
    name: str, module: Any, stored: _Stored, before: tuple[tuple[str, ...], str], input_size: InputSize | None
) -> Layer:
    """One weight as a layer; `before` is what lies between it and the one before, and what parts them."""
    weight, text = stored.weight, join(name, stored.own) if not stored.part else name
    if weight.is_meta:
        raise ValueError(f"{text} is on the meta device; expected a model with its weights loaded")
    transposed = isinstance(module, _TRANSPOSED)
    groups = int(getattr(module, "groups", 1))
    first, second, *extent = weight.shape
    o, i = (second, first // groups) if transposed else (first // groups, second)
    return Layer(
        name=name or type(module).__name__,
        kind=type(module).__name__,
        shape=tuple(weight.shape),
        dtype=str(weight.dtype).removeprefix("torch."),
        dims=(groups, o, i, math.prod(extent)),
        offsets=offsets_text(len(extent)),
        load=lambda: _kernel(text, weight, stored.bias, groups, transposed),
        between=before[0],
        transposed=transposed,
        convolution=_whole_convolution(name, module, weight, input_size),
        parted=before[1],
    )


def _kernel(name: str, weight: torch.Tensor, bias: torch.Tensor | None, groups: int, transposed: bool) -> Kernel:
    """Weight (g, o, i, K) and bias on the host; a transposed convolution's weight is stored (in, out/groups, …)."""
    stored = as_float_array(name, weight.detach().cpu(), weight.dim(), keep_half=True)
    grouped = stored.reshape(groups, stored.shape[0] // groups, stored.shape[1], -1)
    vector = None if bias is None else as_float_array(f"the bias of {name}", bias.detach().cpu(), 1)
    return Kernel(grouped.swapaxes(1, 2) if transposed else grouped, vector)


def _whole_convolution(
    name: str, module: Any, weight: torch.Tensor, input_size: InputSize | None
) -> Callable[[], tuple[str, FloatArray]] | None:
    """Where the whole map is known: stride one, circular padding, output as large as the input."""
    if not isinstance(module, _CONVOLUTIONS) or module.padding_mode != "circular":
        return None
    extent, dilation = tuple(weight.shape[2:]), tuple(int(d) for d in module.dilation)
    reach = [d * (kernel - 1) for d, kernel in zip(dilation, extent, strict=True)]
    same = module.padding == "same" or (
        not isinstance(module.padding, str) and [2 * p for p in module.padding] == reach
    )
    if not same or any(stride != 1 for stride in module.stride):
        return None
    grid, given = _grid(name, input_size, reach)

    def values() -> tuple[str, FloatArray]:
        size = " × ".join(str(n) for n in grid)
        text = f"exact: Fourier, on a grid of {size} points ({given})"
        return text, circular_singular_values(weight, grid, dilation=dilation, groups=module.groups)

    return values


def _grid(name: str, input_size: InputSize | None, reach: Sequence[int]) -> tuple[tuple[int, ...], str]:
    """The grid of one layer, and where it comes from."""
    wanted = input_size.get(name) if isinstance(input_size, Mapping) else input_size
    if wanted is None:
        return tuple(max(_DEFAULT_GRID, r + 1) for r in reach), "the default: no input_size was given"
    sizes = [wanted] * len(reach) if isinstance(wanted, (int, np.integer)) else list(wanted)
    if len(sizes) != len(reach):
        raise ValueError(f"input_size is {wanted!r}; expected one number, or {len(reach)} for the layer {name}")
    return tuple(check_count("input_size", n) for n in sizes), "input_size"


def _check_input_size(input_size: InputSize | None, layers: Sequence[Layer]) -> None:
    if isinstance(input_size, Mapping):
        circular = [layer.name for layer in layers if layer.convolution is not None]
        for name in input_size:
            if name not in circular:
                names = ", ".join(circular) or "there is none"
                raise ValueError(f"input_size names {name!r}; expected a circular convolution: {names}")
