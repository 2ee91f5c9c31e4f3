"""Balance, coupling, gains, and everything together, for a chain."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import numpy as np

from flatcore import _core
from flatcore._checks import FloatArray, check_count, is_module
from flatcore._threads import limit_threads
from flatcore.linear.chain import LinearChain, check_chain
from flatcore.linear.flattest import BoundDoesNotApplyError, FlattestMinimum, flattest_minimum
from flatcore.linear.hessian import Hessian
from flatcore.linear.losses import Loss, check_loss_shape
from flatcore.linear.sharpness import extreme_eigenpairs
from flatcore.results import Analysis, BalanceResult, CouplingResult, GainsResult, ModuleAnalysis, read_only
from flatcore.weights import (
    Svd,
    balance_of,
    coupling_of,
    direction_gains,
    layer_svds,
    normalised_partial_norms,
)

Progress = Callable[[str, float], None]
_module_analysis: list[Callable[..., Any]] = []  # how torch.nn.Modules are analysed, the last one registered


def register_module_analysis(analysis: Callable[..., Any]) -> None:
    """Have :func:`analyze` call this for a torch.nn.Module, with its own arguments (torch is a room to the left)."""
    _module_analysis.append(analysis)


def balance(chain: LinearChain) -> BalanceResult:
    """Balance of consecutive layers.

    Parameters
    ----------
    chain
        A :class:`LinearChain`. Biases enter the gaps as b_jb_jᵀ; the spectral balance is of the weights alone.

    Returns
    -------
    BalanceResult
        Gaps and relative gaps (M − 1,), spectral balance (M,).

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> fc.balance(fc.LinearChain([np.eye(2), np.eye(2)])).gap
    array([0.])

    Source: docs/theory.md, "Metrics".

    """
    check_chain(chain)
    return balance_of(chain.core)


def coupling(chain: LinearChain, k: int = 8, *, progress: Callable[[float], None] | None = None) -> CouplingResult:
    """Overlaps of consecutive layers' top singular vectors, beside chance, and the strongest path.

    Parameters
    ----------
    chain
        A :class:`LinearChain`; biases are left out.
    k
        Singular vectors a layer (fewer where the layer has fewer).
    progress
        Called with the fraction of layers decomposed.

    Returns
    -------
    CouplingResult

    Raises
    ------
    ValueError
        k below 1.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> result = fc.coupling(fc.LinearChain([np.diag([3.0, 1.0]), np.diag([2.0, 1.0])]), k=1)
    >>> result.largest, result.path, round(result.path_strength, 9)
    (array([1.]), (0, 0), 6.0)

    Source: docs/theory.md, "Metrics".

    """
    check_chain(chain)
    check_count("k", k)
    return coupling_of(layer_svds(chain.core, chain.depth, k, progress), k, _end_to_end_svd(chain))


def gains(chain: LinearChain, loss: Loss | None = None) -> GainsResult:
    """What each layer does to the chain's top direction.

    Parameters
    ----------
    chain
        A :class:`LinearChain`; biases are left out.
    loss
        A :class:`QuadraticLoss` adds the gains along the data-weighted direction.

    Returns
    -------
    GainsResult

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> fc.gains(fc.LinearChain([np.diag([4.0, 1.0]), np.eye(2)])).gains
    array([4., 1.])

    Source: docs/theory.md, "Metrics".

    """
    check_chain(chain)
    phi = _end_to_end_svd(chain)
    weights_only = LinearChain(chain.weights, None, chain.skip) if chain.has_biases else chain
    partial, partial_top, sigma = normalised_partial_norms(chain.core)
    depth = chain.depth
    along, residuals = direction_gains(chain.core, phi.Vt[0])
    status = "computed" if sigma > 0.0 else "the end-to-end matrix is zero: normalised quantities are undefined"
    if sigma <= 0.0:
        along, residuals = np.full(depth, np.nan), np.full(depth, np.nan)
    weighted = _weighted_gains(weights_only, loss) if sigma > 0.0 else None
    reference, weighted_gains, weighted_residuals = weighted or (float("nan"), np.zeros(0), np.zeros(0))
    return GainsResult(
        sigma=sigma,
        reference=sigma ** (1.0 / depth) if sigma > 0.0 else float("nan"),
        gains=read_only(along),
        residuals=read_only(residuals),
        partial=read_only(partial),
        partial_top=read_only(partial_top),
        band=(1.0, float(np.sqrt(max(depth - 1, 1)))),
        weighted_reference=reference,
        weighted_gains=read_only(weighted_gains),
        weighted_residuals=read_only(weighted_residuals),
        status=status,
    )


def _weighted_gains(chain: LinearChain, loss: Any) -> tuple[float, FloatArray, FloatArray] | None:
    """Reference, gains and residuals (j ≥ 2) along Lv*, v* the direction that attains λ*; None where there is none."""
    try:
        best = flattest_minimum(chain, loss, at="current")
    except BoundDoesNotApplyError:
        return None
    Lv = loss.whitened(False).factor @ best.v
    length = float(np.linalg.norm(Lv))
    if length == 0.0:
        return None
    along, residuals = direction_gains(chain.core, Lv / length)
    residuals[0] = np.nan
    gain = float(np.prod(along))
    return gain ** (1.0 / chain.depth), along, residuals


def _end_to_end_svd(chain: LinearChain) -> Svd:
    return Svd(*_core.thin_svd(np.ascontiguousarray(chain.product()[:, : chain.dims[0]])))


@overload
def analyze(
    chain: LinearChain,
    loss: Loss | None = None,
    k: int = 8,
    *,
    tol: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Analysis: ...


@overload
def analyze(
    chain: Any,
    loss: Loss | None = None,
    k: int = 8,
    *,
    tol: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Analysis | ModuleAnalysis: ...


def analyze(
    chain: Any,
    loss: Loss | None = None,
    k: int = 8,
    *,
    tol: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Analysis | ModuleAnalysis:
    """Everything at once: balance, coupling, gains, and at a loss sharpness beside the flattest possible.

    Parameters
    ----------
    chain
        A :class:`LinearChain`, or a ``torch.nn.Module``: a linear one is analysed as its chain, of any other, without a
        loss, the layers as in ``flatcore.torch.analyze``.
    loss
        None, or any loss; the flattest sharpness is known for :class:`QuadraticLoss` without biases.
    k
        Singular vectors a layer in the coupling.
    tol, seed, threads
        Of the eigensolver, as in :func:`flatcore.eigsh`.
    progress
        Called with what is being done and the fraction of all done.

    Returns
    -------
    Analysis
        With ``.summary()``, ``.to_dict()`` and ``.report("file.html")``; of a nonlinear module a ``ModuleAnalysis``
        with the same methods.

    Raises
    ------
    ValueError
        A bad argument, a loss whose shape is not the chain's, a loss with a nonlinear module.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> a = fc.analyze(fc.LinearChain([np.eye(3)] * 2), fc.QuadraticLoss(np.eye(3), np.eye(3)))
    >>> round(a.flatness_ratio, 9)
    1.0

    """
    if is_module(chain) and _module_analysis:
        analysis: Analysis | ModuleAnalysis = _module_analysis[-1](
            chain, loss, k, tol=tol, seed=seed, threads=threads, progress=progress
        )
        return analysis
    check_chain(chain)
    check_count("k", k)
    report = progress or (lambda what, fraction: None)
    if loss is not None:
        check_loss_shape(loss, (chain.dims[-1], chain.num_inputs), chain.has_biases)
    with limit_threads(threads):
        return _analyze(chain, loss, k, tol, seed, report)


def _analyze(chain: LinearChain, loss: Loss | None, k: int, tol: float | None, seed: int, report: Progress) -> Analysis:
    report("balance", 0.0)
    weights: dict[str, Any] = {
        "chain": repr(chain),
        "dims": chain.dims,
        "num_parameters": chain.num_parameters,
        "balance": balance(chain),
        "coupling": coupling(chain, k, progress=lambda f: report("singular value decompositions", 0.1 + 0.5 * f)),
        "gains": gains(chain, loss),
    }
    if loss is None:
        report("done", 1.0)
        return Analysis(**weights)
    report("sharpness", 0.6)
    H = Hessian(chain, loss)
    full = extreme_eigenpairs(H, tol=tol, seed=seed)
    report("Gauss–Newton sharpness", 0.8)
    ggn = extreme_eigenpairs(H.gauss_newton, tol=tol, seed=seed, v0=full.vectors)
    best, reason = _flattest_or_reason(chain, loss)
    report("done", 1.0)
    return Analysis(
        **weights,
        loss=repr(loss),
        value=H.value,
        gradient_norm=float(np.linalg.norm(H.gradient())),
        sharpness=full,
        gauss_newton_sharpness=ggn,
        flattest=best.value if best else float("nan"),
        flattest_status=reason,
        flatness_ratio=float(ggn.values[0]) / best.value if best and best.value > 0.0 else float("nan"),
    )


def _flattest_or_reason(chain: LinearChain, loss: Loss) -> tuple[FlattestMinimum | None, str]:
    try:
        return flattest_minimum(chain, loss, at="current"), ""
    except BoundDoesNotApplyError as reason:
        return None, str(reason)
