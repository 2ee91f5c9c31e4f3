"""sharpness: the largest eigenvalues of a chain's Hessian, certified, by the cheapest of three equivalent problems."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np

from flatcore._checks import FloatArray, check_choice, check_count, chunks
from flatcore._memory import check_memory
from flatcore._threads import limit_threads
from flatcore.linear.chain import LinearChain
from flatcore.linear.dual import Dual
from flatcore.linear.hessian import CurvatureOperator, Hessian
from flatcore.linear.losses import Loss
from flatcore.linear.reduced import Reduced
from flatcore.linear.routes import ROUTES, choose_route
from flatcore.results import EigenResult, read_only
from flatcore.spectral import eigsh
from flatcore.spectral._lanczos import order_of
from flatcore.spectral._tolerance import checked_tol

_DUAL_ATTEMPTS = 3
_MEASURED_TOGETHER = 16
_UNFINISHED = ("max_iterations", "stopped")  # statuses with which more eigenpairs may be missing


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
    route: str = "auto",
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
        As in :func:`flatcore.eigsh`; v0 is (P,) or (P, b).
    route
        ``"auto"``: whichever of ``"dual"``, ``"reduced"`` and ``"full"`` is predicted to be fastest; the eigenvalues
        are those of the full matrix whatever the route. ``result.explain()`` gives the prediction.

    Returns
    -------
    EigenResult
        Its ``layers(i)`` gives eigenvector i as blocks shaped like the chain's parameters, one at a time. Residuals
        and the certificate are about the full matrix.

    Raises
    ------
    ValueError
        A bad argument, or ``route="dual"`` where the dual does not apply.

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
    options = {"seed": seed, "maxiter": maxiter, "callback": callback}
    operator = H if curvature == "hessian" else H.gauss_newton
    return extreme_eigenpairs(operator, k, which=which, tol=tol, v0=v0, threads=threads, route=route, **options)


def extreme_eigenpairs(
    H: CurvatureOperator,
    k: int = 1,
    *,
    which: str = "LA",
    tol: float | None = None,
    v0: Any = None,
    threads: int | None = None,
    route: str = "auto",
    **options: Any,
) -> EigenResult:
    """As :func:`sharpness`, for an operator at hand; `options` go to :func:`flatcore.eigsh`."""
    k = check_count("k", k, 1, H.shape[0])
    check_choice("which", which, ("LA", "SA", "LM"))
    check_choice("route", route, ("auto", *ROUTES))
    used_tol, _ = checked_tol(tol, H.dtype)
    start = 0 if v0 is None else int(np.shape(v0)[-1]) if np.ndim(v0) == 2 else 1
    options |= {"which": which, "tol": tol}
    with limit_threads(threads):
        choice = choose_route(H, k, which, used_tol, start, route)
        if choice.route.name == "full":
            result = eigsh(H, k, v0=v0, **options)
        else:
            R = H.reduced()
            z0 = None if v0 is None else R.start(v0)
            by_dual = choice.route.name == "dual"
            result = _by_dual(H, R, k, z0, options) if by_dual else _by_reduced(R, k, z0, options)
    return dataclasses.replace(result, explanation=(*choice.lines, *result.explanation))


def _by_reduced(R: Reduced, k: int, z0: FloatArray | None, options: dict[str, Any]) -> EigenResult:
    found = eigsh(R, min(k, R.shape[0]), v0=z0, **options)
    pairs = Pairs(R, found.vectors.T, found.values, found.residuals, found.converged)
    method = f"In the {R.shape[0]} coordinates of the nonzero eigenvalues: {found.method}"
    return pairs.complete(k, options["which"], found.status).result(found, method=method)


def _by_dual(H: CurvatureOperator, R: Reduced, k: int, z0: FloatArray | None, options: dict[str, Any]) -> EigenResult:
    """Eigenpairs of the Gauss–Newton dual, brought into reduced coordinates and measured there.

    v = JᵀX/‖JᵀX‖ has a residual of up to √(λ_1/θ) times that of X, so the dual's tolerance is sharpened until the
    pairs, measured with the matrix asked about, reach theirs. Values below tol·λ_1 count as zeros, and the certificate
    of an answer without them says so. Zeros of the full matrix are other than those of the dual: where more are wanted
    than lie outside the reduced space, the reduced matrix is solved.
    """
    K = Dual(H.products, None)
    tol, limited = checked_tol(options["tol"], H.dtype)
    start = None if z0 is None else K.start_rows(R, np.ascontiguousarray(z0.T)).T
    inner, products = 0.5 * tol, 0
    for _ in range(_DUAL_ATTEMPTS):
        found = eigsh(K, min(k, K.shape[0]), v0=start, **(options | {"tol": inner}))
        kept = found.values > tol * max(0.0, float(found.values[0]))
        rows = K.reduced_rows(R, found.vectors.T[kept]).astype(R.dtype)
        values, residuals = _measured(R, rows)
        products += found.products + len(rows)
        top = float(values.max(initial=0.0))
        worst = float(residuals.max(initial=0.0))
        if found.status != "converged" or worst <= tol * top:
            break
        start, inner = found.vectors, 0.5 * inner * tol * top / worst
    pairs = Pairs(R, rows, values, residuals, residuals <= tol * top)
    if found.status not in _UNFINISHED and len(rows) + R.num_annihilated < k:
        reason = f"The dual has {len(rows)} eigenvalues above tol·λ_1; the reduced matrix was solved for the zeros."
        result = _by_reduced(R, k, z0, options)
        return dataclasses.replace(
            result, products=products + result.products, explanation=(reason, *result.explanation)
        )
    status = found.status if found.status != "converged" or pairs.converged.all() else "precision_limited"
    missing = int((~pairs.converged).sum())
    message = {
        "converged": f"all residuals are at most {tol:g} of the largest modulus.",
        "precision_limited": f"{missing} pairs stopped at the rounding of {H.dtype}; raise tol, or use float64.",
    }.get(status, found.message.partition(" tol was below")[0])
    if limited:
        message += f" tol was below the floor of this precision; {tol:g} was used."
    certificate = found.certificate
    if certificate is not None:
        dropped = 0.0 if kept.all() else tol * float(found.values[0])  # beyond the zeros that stand for them
        changed = 0.0 if H.is_gauss_newton or H.products.at_interpolation else 0.1 * tol * top
        certificate = dataclasses.replace(certificate, delta=certificate.delta + dropped + changed)
    return pairs.complete(k, options["which"], found.status).result(
        found,
        method=f"In the {K.shape[0]} unknowns of the Gauss–Newton dual: {found.method}",
        status=status,
        message=message,
        tol=tol,
        products=products,
        certificate=certificate,
    )


def _measured(R: Reduced, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Rayleigh quotients and residual norms of unit rows (k, N), by products in float64."""
    values, residuals = np.empty(len(rows)), np.empty(len(rows))
    for part in chunks(len(rows), _MEASURED_TOGETHER):
        X = rows[part].astype(np.float64)
        X /= np.linalg.norm(X, axis=1, keepdims=True)
        image = (R @ X.T).T
        values[part] = np.einsum("ij,ij->i", X, image)
        residuals[part] = np.linalg.norm(image - values[part, None] * X, axis=1)
    return values, residuals


class Restriction(Protocol):
    """What eigenpairs need of a reduced operator to be those of the full one."""

    dtype: np.dtype[Any]

    @property
    def chain(self) -> Any:
        """The chain, with ``num_parameters`` and ``blocks``."""

    @property
    def num_annihilated(self) -> int:
        """P − N."""

    def lift_layers(self, z: Any) -> Iterator[Any]:
        """One lifted direction (N,), layer by layer."""

    def annihilated_layers(self, index: int) -> Iterator[Any]:
        """One direction outside the subspace, layer by layer."""


@dataclass(frozen=True)
class Pairs:
    """Eigenpairs of the full matrix: rows (a, N) to lift, then directions that it annihilates, in the order `order`."""

    R: Restriction
    rows: Any
    values: FloatArray
    residuals: FloatArray
    converged: FloatArray
    order: tuple[int, ...] = ()

    def complete(self, k: int, which: str, status: str) -> Self:
        """The k most wanted, exact zeros included where the search came to an end."""
        zeros = np.zeros(0 if status in _UNFINISHED else min(k, self.R.num_annihilated))
        values = np.concatenate([self.values, zeros])
        order = order_of(which)(values)[:k]
        residuals = np.concatenate([self.residuals, zeros])[order]
        converged = np.concatenate([self.converged, zeros == 0.0])[order]
        changes: dict[str, Any] = {"values": values[order], "residuals": residuals, "converged": converged}
        return dataclasses.replace(self, **changes, order=tuple(int(i) for i in order))

    def result(self, found: EigenResult, **changes: Any) -> EigenResult:
        """As the record `found`, about the full matrix."""
        return dataclasses.replace(
            found,
            values=read_only(self.values),
            residuals=read_only(self.residuals),
            converged=read_only(self.converged.astype(bool)),
            _rows=lambda: self.lifted,
            _split=None,
            _layers=lambda i: self.layers(i),  # unlike a bound method, copied with the record
            **changes,
        )

    def layers(self, i: int) -> Iterator[FloatArray]:
        """Pair i's eigenvector, layer by layer."""
        at = self.order[i]
        if at < len(self.rows):
            return self.R.lift_layers(self.rows[at])
        return self.R.annihilated_layers(at - len(self.rows))

    @cached_property
    def lifted(self) -> FloatArray:
        """All eigenvectors as rows (k, P)."""
        shape = (len(self.order), self.R.chain.num_parameters)
        needed = shape[0] * shape[1] * self.R.dtype.itemsize
        check_memory(
            f"the array of {shape[0]} eigenvectors of {shape[1]} entries (layers(i) gives one by layers)", needed
        )
        out = np.empty(shape, self.R.dtype)
        for i, row in enumerate(out):
            for block, target in zip(self.layers(i), self.R.chain.blocks(row), strict=True):
                target[...] = block
        return read_only(out)
