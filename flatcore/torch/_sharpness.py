"""sharpness: the largest eigenvalues of a chain's Hessian, certified, wherever its weights live."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import flatcore.linear
from flatcore._checks import as_float_array, check_choice, check_count, is_tensor
from flatcore.linear import LinearChain, Loss
from flatcore.linear.sharpness import Pairs
from flatcore.results import EigenResult
from flatcore.spectral import eigsh
from flatcore.torch._chain import chain as chain_of
from flatcore.torch._device import check_memory
from flatcore.torch._device_chain import DeviceChain
from flatcore.torch._device_hessian import DeviceCurvature
from flatcore.torch._device_reduced import DeviceReduced

_ROUTES = ("auto", "reduced", "full")


def sharpness(
    chain: LinearChain | DeviceChain | nn.Module,
    loss: Loss,
    k: int = 1,
    *,
    which: str = "LA",
    curvature: str = "hessian",
    v0: Any = None,
    route: str = "auto",
    **options: Any,
) -> EigenResult:
    """The k largest eigenvalues of the Hessian or Gauss–Newton matrix of a chain, on the device of its weights.

    Parameters
    ----------
    chain
        A :class:`flatcore.LinearChain`, for which this is :func:`flatcore.sharpness`; a :class:`DeviceChain`; or a
        module that :func:`chain` reads.
    loss
        As in :class:`flatcore.Hessian` or :class:`DeviceHessian`.
    k, which, curvature
        As in :func:`flatcore.sharpness`.
    v0
        Start vectors, a tensor or array (P,) or (P, b).
    route
        On a device ``"reduced"`` (the N coordinates of the nonzero eigenvalues), ``"full"`` (all P parameters), or
        ``"auto"``: reduced where N < P. On the CPU as in :func:`flatcore.sharpness`.
    options
        ``tol``, ``seed``, ``maxiter``, ``callback``, ``threads`` of :func:`flatcore.eigsh`.

    Returns
    -------
    EigenResult
        Values and residuals of the full matrix, its zeros included. For a :class:`DeviceChain`, ``vectors`` is a tensor
        (P, k) on its device and ``layers(i)`` gives tensors.

    Raises
    ------
    ValueError
        A bad argument, or a module that is no chain.

    Examples
    --------
    >>> import torch, flatcore as fc
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False)).double()
    >>> for layer in model:
    ...     _ = torch.nn.init.eye_(layer.weight)
    >>> fc.torch.sharpness(model, fc.QuadraticLoss(torch.eye(3) * 3**0.5, torch.eye(3) * 3**0.5)).values.round(6)
    array([4.])

    Source: docs/theory.md, "The reduced Hessian".

    """
    if isinstance(chain, nn.Module):
        chain = chain_of(chain)
    if not isinstance(chain, DeviceChain):
        return flatcore.linear.sharpness(
            chain, loss, k, which=which, curvature=curvature, v0=v0, route=route, **options
        )
    k = check_count("k", k, 1, chain.num_parameters)
    check_choice("which", which, ("LA", "SA", "LM"))
    check_choice("curvature", curvature, ("hessian", "ggn"))
    start = None if v0 is None else _start(v0, chain.num_parameters, chain.device)
    check_choice("route", route, _ROUTES)
    H = chain.hessian(loss)
    operator: DeviceCurvature = H if curvature == "hessian" else H.gauss_newton
    R = operator.reduced()
    if route == "full" or (route == "auto" and R.num_annihilated == 0):
        found = eigsh(operator, k, which=which, v0=start, **options)
        return dataclasses.replace(found, _rows=lambda: _on(chain.device, found.vectors.T))
    return _by_reduced(R, k, start, which, options)


def _by_reduced(R: DeviceReduced, k: int, start: Tensor | None, which: str, options: dict[str, Any]) -> EigenResult:
    z0 = None if start is None else R.project(start)
    found = eigsh(R, min(k, R.shape[0]), which=which, v0=z0, **options)
    rows = _on(R.device, found.vectors.T)
    pairs = DevicePairs(R, rows, found.values, found.residuals, found.converged)
    method = f"In the {R.shape[0]} coordinates of the nonzero eigenvalues, on {R.device}: {found.method}"
    return pairs.complete(k, which, found.status).result(found, method=method)


@dataclass(frozen=True)
class DevicePairs(Pairs):
    """Eigenpairs of the full matrix whose vectors stay on the device."""

    @cached_property
    def lifted(self) -> Any:
        """All eigenvectors as rows (k, P)."""
        R, shape = self.R, (len(self.order), self.R.chain.num_parameters)
        what = f"the tensor of {shape[0]} eigenvectors of {shape[1]} entries (layers(i) gives one by layers)"
        check_memory(what, shape[0] * shape[1] * R.dtype.itemsize, R.chain.device)
        out = torch.empty(shape, dtype=R.chain.torch_dtype, device=R.chain.device)
        for i, row in enumerate(out):
            for block, target in zip(self.layers(i), R.chain.blocks(row), strict=True):
                target.copy_(block)
        return out


def _on(device: torch.device, rows: Any) -> Any:
    """Rows of a result as a tensor on the device."""
    return rows.to(device) if is_tensor(rows) else torch.tensor(np.asarray(rows), device=device)


def _start(v0: Any, P: int, device: torch.device) -> Tensor:
    """Start vectors as columns (P, b) on the device."""
    start: Tensor = (
        v0.detach() if is_tensor(v0) else torch.tensor(as_float_array("v0", v0, 2 if np.ndim(v0) == 2 else 1))
    )
    if start.ndim not in (1, 2) or start.shape[0] != P or start.numel() == 0:
        raise ValueError(f"v0 has shape {tuple(start.shape)}; expected ({P},) or ({P}, b)")
    if not torch.isfinite(start).all():
        raise ValueError("v0 contains NaN or Inf; expected finite numbers")
    return start.to(device).reshape(P, -1)
