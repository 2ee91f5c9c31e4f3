"""sharpness: the largest eigenvalues of a chain's Hessian, certified."""

from __future__ import annotations

from typing import Any

from flatcore._checks import check_choice
from flatcore.linear.chain import LinearChain
from flatcore.linear.hessian import Hessian
from flatcore.linear.losses import Loss
from flatcore.results import EigenResult
from flatcore.spectral import eigsh


def sharpness(
    chain: LinearChain,
    loss: Loss,
    k: int = 1,
    *,
    which: str = "LA",
    curvature: str = "hessian",
    tol: float | None = None,
    seed: int = 0,
    v0: Any = None,
    maxiter: int | None = None,
    callback: Any = None,
    threads: int | None = None,
) -> EigenResult:
    """The k largest eigenvalues of the Hessian or Gauss–Newton matrix of a chain.

    Parameters
    ----------
    chain, loss
        As in :class:`flatcore.Hessian`; P parameters.
    k
        Number of eigenpairs, at most P. Beyond the nonzero ones the answer holds zeros.
    curvature
        ``"hessian"`` or ``"ggn"``.
    which, tol, seed, v0, maxiter, callback, threads
        As in :func:`flatcore.eigsh`.

    Returns
    -------
    EigenResult
        Its ``layers(i)`` gives eigenvector i as blocks shaped like the chain's parameters.

    Raises
    ------
    ValueError
        A bad argument.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> chain = fc.LinearChain([np.eye(3)] * 2)
    >>> fc.sharpness(chain, fc.QuadraticLoss(np.eye(3) * 3**0.5, np.eye(3) * 3**0.5)).values.round(9)
    array([4.])

    Source: docs/theory.md.

    """
    check_choice("curvature", curvature, ("hessian", "ggn"))
    H = Hessian(chain, loss, threads=threads)
    return eigsh(
        H if curvature == "hessian" else H.gauss_newton,
        k,
        which=which,
        tol=tol,
        seed=seed,
        v0=v0,
        maxiter=maxiter,
        callback=callback,
        threads=threads,
    )
