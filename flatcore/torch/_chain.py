"""Linear chains from modules: each submodule is read, verified, or refused with the reason.

What is known by its class is read: ``Linear``, ``Sequential``, ``Identity``, ``Flatten`` in front, dropout that is
switched off, and :class:`Residual`. What a module of another class computes cannot be read from its code. A block with
exactly one ``Linear`` inside and no other parameters is *tested*: a float64 copy is run on random inputs of several
sizes, with its own W and b and with random ones of several sizes (which its own may hide: relu(Wx + b) is linear while
W = 0), and the block counts as x ↦ Wx + b or x ↦ x + Wx + b where its outputs are that to rounding on all of them.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from flatcore.linear import LinearChain
from flatcore.torch._device_chain import DeviceChain
from flatcore.torch._wrappers import unwrapped

_INSTEAD = "use flatcore.torch.Hessian(model, loss_fn, data) for the curvature of such a model"
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_TEST_SIZES = (1e-3, 1.0, 1e3)  # of random inputs
_TEST_INPUTS = 4  # of each size
_TEST_WEIGHTS = (1e-4, 1.0, 1.0, 1e4)  # sizes of random weights and biases, tested beside the layer's own
_TEST_ROUNDING = 1e-12  # relative: sums of up to 1e6 float64 products, each rounding at 1e-16


class Residual(nn.Module):
    """x ↦ x + module(x): a residual block that :func:`chain` knows without testing it.

    Parameters
    ----------
    module
        Any module whose outputs have the shape of its inputs; a square ``nn.Linear`` for a link of a chain.

    Examples
    --------
    >>> import torch, flatcore as fc
    >>> block = fc.torch.Residual(torch.nn.Linear(3, 3))
    >>> fc.torch.chain(torch.nn.Sequential(block, torch.nn.Linear(3, 2)))
    LinearChain(3 → 3 → 2, float32, biases, skip links, 20 parameters)

    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Inputs plus what the module makes of them."""
        out: Tensor = x + self.module(x)
        return out


@dataclass(frozen=True)
class Link:
    """One layer of a chain, with the submodule's name for messages."""

    name: str
    linear: nn.Linear
    skip: bool = False


def chain(module: nn.Module) -> LinearChain | DeviceChain:
    """The linear chain that a module computes, on the module's own weights.

    Tensors on the CPU are shared, not copied: training goes on changing the chain, and a Hessian built before is stale
    and says so.

    Parameters
    ----------
    module
        An ``nn.Linear``; an ``nn.Sequential`` of them (nested ones, ``Identity``, ``Flatten`` at the start and dropout
        in eval mode allowed); residual blocks x + Linear(x): :class:`Residual`, or a block of your own with one square
        ``Linear`` inside, which is then tested on random inputs in a float64 copy.

    Returns
    -------
    LinearChain or DeviceChain
        :class:`flatcore.LinearChain` for tensors on the CPU, :class:`DeviceChain` on other devices.

    Raises
    ------
    ValueError
        A submodule that is not linear, or whose linearity cannot be seen; a layer that occurs twice; several devices.
        The message names the submodule and says what to use instead.

    Examples
    --------
    >>> import torch, flatcore as fc
    >>> fc.torch.chain(torch.nn.Sequential(torch.nn.Linear(4, 5, bias=False), torch.nn.Linear(5, 2, bias=False)))
    LinearChain(4 → 5 → 2, float32, 30 parameters)

    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"module is a {type(module).__name__}; expected a torch.nn.Module")
    links = list(_links("", unwrapped(module), _Start()))
    if not links:
        raise ValueError("module has no Linear layer; expected at least one")
    _check_untied(links)
    _check_widths(links)
    _check_one_device(links)
    weights = [link.linear.weight for link in links]
    biases = [link.linear.bias for link in links]
    skip = [link.skip for link in links]
    return chain_of_tensors(weights, biases, skip)


def chain_of_tensors(
    weights: Sequence[Tensor], biases: Sequence[Tensor | None] | None = None, skip: bool | Sequence[bool] = False
) -> LinearChain | DeviceChain:
    """A LinearChain of tensors on the CPU, a DeviceChain of others."""
    kind = LinearChain if weights[0].device.type == "cpu" else DeviceChain
    return kind(weights, biases, skip)


@dataclass
class _Start:
    """Whether no layer has come yet, so that inputs may still be flattened."""

    open: bool = True


def _links(name: str, module: nn.Module, start: _Start) -> Iterator[Link]:
    """The links of a module, first to last."""
    label = _label(name, module)
    if isinstance(getattr(module, "weight", None), nn.parameter.UninitializedParameter):
        raise ValueError(f"{label} has no weights yet; run the model once")
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"{label} has forward hooks, which may change what it computes; remove them, or {_INSTEAD}")
    if "forward" in vars(module):
        raise ValueError(
            f"{label} has a forward of its own, set on the instance, so its class does not say what it computes; "
            f"remove it, or {_INSTEAD}"
        )
    forward = type(module).forward
    if isinstance(module, nn.Linear) and forward is nn.Linear.forward:
        yield _plain(name, module)
        start.open = False
    elif isinstance(module, nn.Sequential) and forward is nn.Sequential.forward:
        for child_name, child in module._modules.items():  # named_children() leaves out a module that comes again
            assert child is not None
            yield from _links(join(name, child_name), child, start)
    elif type(module) is nn.Identity:
        return
    elif isinstance(module, _DROPOUTS):
        if module.training and module.p > 0.0:
            raise ValueError(f"{label} is switched on; call eval() on the model before asking for its chain")
    elif type(module) is nn.Flatten:
        if not start.open or (module.start_dim, module.end_dim) != (1, -1):
            raise ValueError(f"{label} reshapes between layers; only Flatten() in front of the first is understood")
    elif type(module) is Residual:
        yield _residual(name, module)
        start.open = False
    else:
        yield _verified(name, module)
        start.open = False


def _plain(name: str, linear: nn.Linear, skip: bool = False) -> Link:
    if is_parametrized(linear):
        raise ValueError(
            f"{_label(name, linear)} is parametrized: its weight is computed from other parameters, whose curvature is "
            f"not that of a chain; {_INSTEAD}, or remove the parametrization"
        )
    if type(linear.weight) is not nn.Parameter and type(linear.weight) is not Tensor:
        raise ValueError(
            f"{_label(name, linear)} has a weight of type {type(linear.weight).__name__}; expected an ordinary tensor"
        )
    if skip and linear.in_features != linear.out_features:
        raise ValueError(
            f"{_label(name, linear)} has shape {tuple(linear.weight.shape)}; a residual block needs a square one"
        )
    return Link(name, linear, skip)


def _residual(name: str, block: Residual) -> Link:
    inside = list(_links(join(name, "module"), block.module, _Start(open=False)))
    if len(inside) != 1 or inside[0].skip:
        found = "a residual block" if len(inside) == 1 else f"{len(inside)} Linear layers"
        raise ValueError(
            f"{_label(name, block)} holds {found}; a link of a chain is x + Linear(x) with a single Linear; {_INSTEAD}"
        )
    return _plain(inside[0].name, inside[0].linear, skip=True)


def _verified(name: str, block: nn.Module) -> Link:
    """A block of unknown class as a link, where tests on random inputs show what it computes."""
    label = _label(name, block)
    inside = [(n, m) for n, m in block.named_modules() if isinstance(m, nn.Linear)]
    if not inside:
        raise ValueError(
            f"{label} is not linear as far as flatcore knows; a chain is a product of matrices; {_INSTEAD}"
        )
    if len(inside) > 1:
        raise ValueError(
            f"{label} holds {len(inside)} Linear layers, and in which way it combines them cannot be read from its "
            f"code; write it as an nn.Sequential, or {_INSTEAD}"
        )
    (inner, linear), own = inside[0], {id(p) for p in inside[0][1].parameters()}
    link = _plain(join(name, inner), linear)
    others = [n for n, p in block.named_parameters() if id(p) not in own]
    if others:
        raise ValueError(f"{label} has parameters beside its Linear layer ({', '.join(others)}); {_INSTEAD}")
    skip = _adds_inputs(label, block, inner)
    return _plain(link.name, linear, skip)


def _adds_inputs(label: str, block: nn.Module, inner: str) -> bool:
    """False where the block computes its Linear layer, True where it adds its inputs; anything else is refused."""
    layer = block.get_submodule(inner)
    assert isinstance(layer, nn.Linear)
    device = layer.weight.device
    generator = torch.Generator().manual_seed(0)
    inputs = _test_inputs(layer.in_features, generator).to(device)
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            double = copy.deepcopy(block).double()
            linear = double.get_submodule(inner)
            assert isinstance(linear, nn.Linear)
            possible = [False, True] if linear.in_features == linear.out_features else [False]
            for size in (None, *_TEST_WEIGHTS):
                if size is not None:
                    _randomise(linear, size, generator)
                plain = nn.functional.linear(inputs, linear.weight, linear.bias)
                outputs = double(inputs.clone())
                possible = [skip for skip in possible if _equal(outputs, inputs + plain if skip else plain)]
        except Exception as error:
            raise ValueError(
                f"{label} could not be run on inputs of shape {tuple(inputs.shape)}, which would show whether it is "
                f"linear: {error}"
            ) from error
    if not possible:
        raise ValueError(
            f"{label} computes neither Linear(x) nor x + Linear(x) (it was tested on {len(inputs)} random inputs and "
            f"with random weights in float64{', in training mode' if block.training else ''}); {_INSTEAD}"
        )
    return possible[0]


def _test_inputs(width: int, generator: torch.Generator) -> Tensor:
    """Random rows of several sizes, and zero."""
    sizes = torch.tensor(_TEST_SIZES, dtype=torch.float64).repeat_interleave(_TEST_INPUTS)
    rows = torch.randn(len(sizes), width, dtype=torch.float64, generator=generator) * sizes[:, None]
    return torch.cat([rows, torch.zeros(1, width, dtype=torch.float64)])


def _randomise(linear: nn.Linear, size: float, generator: torch.Generator) -> None:
    """Normal weights and biases of this size in place of the layer's own."""
    for p in linear.parameters():
        p.copy_(size * torch.randn(p.shape, dtype=torch.float64, generator=generator))


def _equal(outputs: object, wanted: Tensor) -> bool:
    """Whether every row agrees to rounding, relative to its size."""
    if not isinstance(outputs, Tensor) or outputs.shape != wanted.shape:
        return False
    size = wanted.abs().amax(1, keepdim=True).clamp_min(1e-300)
    return bool(((outputs - wanted).abs() <= _TEST_ROUNDING * size).all())


def _check_untied(links: list[Link]) -> None:
    """Refuse tensors that occur twice."""
    seen: dict[tuple[torch.device, int], str] = {}
    for link in links:
        for kind in ("weight", "bias"):
            tensor, name = getattr(link.linear, kind), join(link.name, kind)
            if tensor is None:
                continue
            first = seen.setdefault((tensor.device, tensor.data_ptr() or id(tensor)), name)
            if first != name:
                raise ValueError(
                    f"{name} is the same tensor as {first}; a chain counts every layer's parameters separately, so its "
                    f"Hessian would not be the model's; {_INSTEAD}, which counts tied parameters once"
                )


def _check_widths(links: list[Link]) -> None:
    for before, after in itertools.pairwise(links):
        if before.linear.out_features != after.linear.in_features:
            raise ValueError(
                f"{after.name} takes {after.linear.in_features} inputs but {before.name} gives "
                f"{before.linear.out_features}"
            )


def _check_one_device(links: list[Link]) -> None:
    first = links[0]
    for link in links[1:]:
        if link.linear.weight.device != first.linear.weight.device:
            raise ValueError(
                f"{link.name} lives on {link.linear.weight.device} and {first.name} on {first.linear.weight.device}; "
                "a chain needs all on one device"
            )


def join(*names: str) -> str:
    """A submodule's dotted name, empty parts left out."""
    return ".".join(name for name in names if name)


def _label(name: str, module: nn.Module) -> str:
    """A submodule for messages: its name and class."""
    return f"{name or 'module'} ({type(module).__name__})"
