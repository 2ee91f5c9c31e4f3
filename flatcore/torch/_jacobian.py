"""jacobian_path: the top singular pair of a network's input–output Jacobian, and its way through the layers.

At an input x (n entries, all axes but the first) with output f(x) (m entries), J = ∂f/∂x is m × n. With Jv = σu and
Jᵀu = σv for the largest σ, and the network cut at layers with outputs h_0 = x, h_1, …, h_M = f(x), the chain rule reads
J = J_M ⋯ J_1, J_j = ∂h_j/∂h_{j−1}, and the path is that of the linear theory (docs/theory.md, 5 and 6):

    z_0 = v,   g_j = ‖J_j z_{j−1}‖,   z_j = J_j z_{j−1} / g_j,   residual_j = ‖J_jᵀ z_j − g_j z_{j−1}‖ / g_j,

beside σ^{1/M}. Πg_j = σ and z_M = u hold exactly where h_j carries everything that h_{j+1} needs of x; where something
passes around the cut they fail, which is checked.

Products with J and its transpose are those of `_layer_graph.py`, each about a backward pass. σ² and the vectors come
from `flatcore.eigsh` on JᵀJ or JJᵀ, the smaller side, two products each; a path costs one product with each J_j and one
with its transpose, together about two passes through the network, and as much again for the check in `_layer_graph.py`.

Inputs are independent: J of a batch is block-diagonal, and each input is taken by itself, in a graph of its own.

Source: docs/theory.md, 5 and 6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from flatcore._checks import FloatArray, check_count
from flatcore.results import JacobianPath, read_only
from flatcore.spectral import eigsh
from flatcore.torch._layer_graph import DTYPES, Graph, Normal, Product, recorded
from flatcore.torch._preflight import check_modules, first_look, of_inputs_alone
from flatcore.torch._twice import explained
from flatcore.torch._weights import quiet_parametrizations
from flatcore.torch._wrappers import unwrapped

_CUT = {torch.float32: 1e-3, torch.float64: 1e-8}  # rounding of M products against that of one, and room


def jacobian_path(
    model: nn.Module,
    inputs: Tensor,
    layers: Sequence[str] | None = None,
    *,
    k: int = 1,
    tol: float | None = None,
    seed: int = 0,
) -> JacobianPath:
    """The top singular triplets of the input–output Jacobian at given inputs, and their path through the layers.

    Parameters
    ----------
    model
        A module that maps a batch to a tensor, the first axis of which counts the inputs; in evaluation mode. Nothing
        in it changes: parametrized weights are those of evaluation, spectral_norm's estimate as stored.
    inputs
        (inputs, …), floating point, on the model's device; for one input ``x[None]``. Each is taken by itself.
    layers
        Names of modules whose outputs cut the network, each called once; taken in the order in which they run. None,
        for a Sequential, means its children, those without parameters counted with the one before them: a layer ends
        where the next one with parameters begins.
    k
        Singular triplets an input. The path is that of the first.
    tol, seed
        Of :func:`flatcore.eigsh` on JᵀJ or JJᵀ.

    Returns
    -------
    JacobianPath
        Arrays over the inputs, and means. Not converging is in ``converged``.

    Raises
    ------
    ValueError
        A bad argument, active dropout, batch statistics, an output that is no tensor, layers that are no cut: something
        passes around them.

    Examples
    --------
    >>> import torch, flatcore as fc
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1, bias=False))
    >>> for layer, weight in zip((net[0], net[2]), ([[3.0, 0.0], [0.0, 1.0]], [[1.0, 1.0]])):
    ...     layer.weight.data = torch.tensor(weight)
    >>> path = fc.torch.jacobian_path(net, torch.tensor([[1.0, -1.0]]))  # the second unit is off
    >>> path.sigma.round(5), path.layers, path.gains.round(5)
    (array([[3.]]), ('1', '2'), array([[3., 1.]]))

    Source: docs/theory.md, 5 and 6.

    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    network = unwrapped(model)
    check_modules(network)
    _check_batch_statistics(network)
    _check_inputs(network, inputs)
    cuts = _checked_layers(network, layers)
    check_count("k", k)
    found = []
    with quiet_parametrizations(network):
        _check_first_pass(network, inputs[:1])
        for index in range(len(inputs)):
            try:
                with recorded(network, inputs[index : index + 1], cuts) as graph:
                    found.append(_at_input(graph, k, tol, seed))
            except RuntimeError as error:
                raise explained(error) from error
    return _record(found, seed)


@dataclass
class _Found:
    """What is known at one input."""

    names: tuple[str, ...]
    sigma: FloatArray
    residuals: FloatArray
    converged: FloatArray
    gains: FloatArray
    couplings: FloatArray
    cut_error: float
    products: int
    left: FloatArray
    right: FloatArray


def _at_input(graph: Graph, k: int, tol: float | None, seed: int) -> _Found:
    """The triplets by eigsh, then the path of the first."""
    J = Product(graph, graph.outputs[0], graph.outputs[-1])
    normal = Normal(J)
    result = eigsh(normal, k, tol=tol, seed=seed)
    # Where eigsh returned left vectors, one product more gives right ones: Jv = σu holds for all of them.
    starts = [torch.tensor(w, dtype=J.x.dtype, device=J.x.device) for w in result.vectors.T]
    right = [_unit(J.backward(w))[1] if normal.wide else w for w in starts]
    right.sort(key=lambda v: -_unit(J.forward(v))[0])
    lengths, left = zip(*(_unit(J.forward(v)) for v in right), strict=True)
    sigma = np.array(lengths)
    residuals = np.array([_distance(J.backward(u), s, v) for u, s, v in zip(left, lengths, right, strict=True)])
    gains, couplings, end = _path(graph, right[0], sigma[0])
    error = _distance(left[0], float(np.nan_to_num(gains).prod()) / lengths[0], end) if lengths[0] else np.nan
    if error > _CUT[J.x.dtype]:
        raise ValueError(
            f"information passes around the layers {', '.join(graph.names)}: the product of their Jacobians differs "
            f"from the end-to-end Jacobian by {error:.3g} of it along v; expected layers whose outputs carry all that "
            "the next one needs (of a residual block its output, skip included)"
        )
    return _Found(
        names=graph.names,
        sigma=sigma,
        residuals=residuals,
        converged=residuals <= result.tol * sigma[0],
        gains=gains,
        couplings=couplings,
        cut_error=error,
        products=graph.products,
        left=np.stack([u.cpu().numpy() for u in left]),
        right=np.stack([v.cpu().numpy() for v in right]),
    )


def _unit(x: Tensor) -> tuple[float, Tensor]:
    """‖x‖, summed in float64, and x/‖x‖; zero stays zero."""
    length = float(torch.linalg.vector_norm(x.double()))
    return length, x / length if length > 0.0 else x


def _distance(x: Tensor, factor: float, y: Tensor) -> float:
    """‖x − factor·y‖, in float64."""
    return float(torch.linalg.vector_norm(x.double() - factor * y.double()))


def _path(graph: Graph, v: Tensor, sigma: float) -> tuple[FloatArray, FloatArray, Tensor]:
    """Gains and coupling residuals along z_0 = v, and z_M; NaN where σ = 0, and from a layer on that maps z to zero."""
    gains, couplings = np.full((2, len(graph.names)), np.nan)
    z = v
    for j, (x, y) in enumerate(pairwise(graph.outputs)):
        if sigma == 0.0 or (j and gains[j - 1] == 0.0):
            break
        J = Product(graph, x, y)
        gains[j], image = _unit(J.forward(z))
        if gains[j] > 0.0:
            couplings[j] = _distance(J.backward(image), gains[j], z) / gains[j]
        z = image
    return gains, couplings, z


def _check_batch_statistics(network: nn.Module) -> None:
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) normalises over the batch, so no input has a "
                "Jacobian of its own; call model.eval(), with running statistics"
            )


def _check_first_pass(network: nn.Module, x: Tensor) -> None:
    """Refuse a model that draws random numbers or changes its buffers, which get their values back."""
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        hint = "expected a model of one tensor: wrap it in a module that fills in the rest"
        first_look(network, lambda: of_inputs_alone(network, x.clone(), hint), x.device)


def _check_inputs(network: nn.Module, inputs: Any) -> None:
    if not isinstance(inputs, Tensor):
        raise ValueError(f"inputs is a {type(inputs).__name__}; expected a tensor (inputs, …)")
    if inputs.dtype not in DTYPES:
        hint = "; for tokens pass their embeddings, and the part of the model that takes them"
        extra = hint * (not inputs.is_floating_point())
        raise ValueError(f"inputs has dtype {inputs.dtype}; expected float32 or float64{extra}")
    if inputs.dim() < 2 or inputs.numel() == 0:
        raise ValueError(f"inputs has shape {tuple(inputs.shape)}; expected (inputs, …), for one input x[None]")
    if not bool(torch.isfinite(inputs).all()):
        raise ValueError("inputs holds NaN or Inf; expected finite numbers")
    parameter = next((p for p in network.parameters() if p.is_floating_point()), None)
    if parameter is not None and parameter.dtype not in DTYPES:
        raise ValueError(f"the model's parameters are {parameter.dtype}; expected float32 or float64 (model.float())")
    if parameter is not None and (parameter.dtype, parameter.device) != (inputs.dtype, inputs.device):
        raise ValueError(
            f"inputs is {inputs.dtype} on {inputs.device}; expected the model's {parameter.dtype} on {parameter.device}"
        )


def _checked_layers(network: nn.Module, layers: Sequence[str] | None) -> list[str]:
    modules = dict(network.named_modules(remove_duplicate=False))
    if layers is None:
        if isinstance(network, nn.Sequential) and len(network):
            return _without_shared(modules, _children(network))
        candidates = [name for name in modules if name]
        listed = ", ".join(candidates[:24]) + (", …" if len(candidates) > 24 else "")
        raise ValueError(
            f"layers is None and {type(network).__name__} is no Sequential with children; "
            f"expected names out of {listed}"
        )
    names = [layers] if isinstance(layers, str) else list(layers)
    for name in names:
        if name not in modules or not name:
            listed = ", ".join(other for other in list(modules)[1:25])
            raise ValueError(f"layers names {name!r}, which the model has not; expected names out of {listed}")
        if names.count(name) > 1:
            raise ValueError(f"layers names {name!r} twice")
    return _without_shared(modules, names)


def _without_shared(modules: Mapping[str, nn.Module], names: list[str]) -> list[str]:
    """The names, unless two of them are one module."""
    first: dict[nn.Module, str] = {}
    for name in names:
        module = modules[name]
        if (other := first.setdefault(module, name)) != name:
            raise ValueError(
                f"layers {other} and {name} are one module ({type(module).__name__}), which runs more than once; "
                "expected a module of its own for each layer"
            )
    return names


def _children(network: nn.Sequential) -> list[str]:
    """A Sequential's children, cut before each that has parameters but the first such."""
    names, seen = [], False
    children = list(network._modules.items())
    for index, (name, _) in enumerate(children):
        seen = seen or _has_parameters(children[index][1])
        if index + 1 == len(children) or (seen and _has_parameters(children[index + 1][1])):
            names.append(name)
    return names


def _has_parameters(module: nn.Module | None) -> bool:
    return module is not None and any(True for _ in module.parameters())


def _record(found: Sequence[_Found], seed: int) -> JacobianPath:
    sigma = np.stack([f.sigma for f in found])
    gains, couplings = np.stack([f.gains for f in found]), np.stack([f.couplings for f in found])
    depth, converged = gains.shape[1], np.stack([f.converged for f in found])
    zero, missed = int((sigma[:, 0] == 0.0).sum()), int((~converged).sum())
    dtype = found[0].left.dtype
    status = f"{missed} triplets did not converge: raise tol" if missed else "converged"
    return JacobianPath(
        layers=found[0].names,
        sigma=read_only(sigma),
        residuals=read_only(np.stack([f.residuals for f in found])),
        converged=read_only(converged),
        reference=read_only(np.where(sigma[:, 0] > 0.0, sigma[:, 0] ** (1.0 / depth), np.nan)),
        gains=read_only(gains),
        coupling_residuals=read_only(couplings),
        cut_error=read_only(np.array([f.cut_error for f in found])),
        mean_sigma=float(sigma[:, 0].mean()),
        mean_gains=read_only(gains.mean(axis=0)),
        mean_coupling_residuals=read_only(couplings.mean(axis=0)),
        products=sum(f.products for f in found),
        seed=seed,
        status=status + (f"; at {zero} inputs σ is 0, or too small for {dtype}: no path" if zero else ""),
        left=read_only(np.stack([f.left for f in found])),
        right=read_only(np.stack([f.right for f in found])),
    )
