"""eigsh: extreme eigenpairs of any symmetric operator, with true residuals and a probe for what was missed.

Three parts, each on top of the one before:

1. `_converge`: the control loop of `_lanczos.py` until the recurrence's residuals are small enough;
2. `_certified`: fresh products in float64 give Rayleigh quotients and true residuals; where these miss the tolerance
   that the recurrence promised, the loop goes on from the vectors found with a sharper one;
3. `_probe`: random blocks in the complement of everything found, until one finds nothing.

Operators so small that the basis would span the whole space are solved densely.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg

from flatcore._checks import FloatArray, as_float_array, check_choice, check_count, check_finite
from flatcore._threads import limit_threads
from flatcore.results import Certificate, EigenResult, SolverState, read_only
from flatcore.spectral._certificate import certified_gap
from flatcore.spectral._lanczos import BlockLanczos, Order, order_of
from flatcore.spectral._vectors import BlockVectors, HostVectors

PROBE_BLOCK = 4
PROBE_STEPS = 17
MISS_PROBABILITY = 1e-3
DEFAULT_BLOCK_STEPS = 2000
_ATTEMPTS = 3
# Relative residuals that products and orthogonalisation in this precision reach in practice.
FLOORS = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-13}
DEFAULT_TOL = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-6}

Callback = Callable[[SolverState], "bool | None"]


class Operator:
    """A user's operator on blocks of rows, its results checked and its products counted."""

    def __init__(self, operator: Any) -> None:
        shape = getattr(operator, "shape", None)
        if shape is None or not hasattr(operator, "__matmul__"):
            raise ValueError(f"operator is a {type(operator).__name__}; expected something with shape, dtype and @")
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"operator has shape {tuple(shape)}; expected a square one")
        if shape[0] < 1:
            raise ValueError("operator has shape (0, 0); expected at least one row")
        dtype = np.dtype(getattr(operator, "dtype", None) or np.float64)
        if dtype.kind == "c":
            raise ValueError(f"operator is complex ({dtype}); expected a real symmetric one")
        self.dtype = np.dtype(np.float32 if dtype == np.float32 else np.float64)
        self.length = int(shape[0])
        self.products = 0
        self._operator = operator

    def __call__(self, rows: FloatArray) -> FloatArray:
        """Products with the rows (b, N), as a new array of rows of the same precision."""
        image = np.asarray(self._operator @ rows.T)
        if image.shape != rows.T.shape:
            raise ValueError(f"operator @ V has shape {image.shape}; expected {rows.T.shape}")
        if image.dtype.kind == "c":
            raise ValueError("operator @ V is complex; expected a real symmetric operator")
        self.products += len(rows)
        out = image.T.astype(rows.dtype, order="C", copy=False)
        return out.copy() if np.shares_memory(out, rows) else out


@dataclass
class _Found:
    """Eigenpairs so far: rows (m, N) and their Rayleigh quotients and true residuals in float64."""

    rows: FloatArray
    values: FloatArray
    residuals: FloatArray

    def sorted(self, order: Order) -> _Found:
        index = order(self.values)
        return _Found(self.rows[index], self.values[index], self.residuals[index])

    def joined(self, other: _Found) -> _Found:
        return _Found(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.values, other.values]),
            np.concatenate([self.residuals, other.residuals]),
        )


@dataclass
class _Run:
    """What the parts of one eigsh call share."""

    operator: Operator
    vectors: BlockVectors
    order: Order
    which: str
    tol: float
    max_steps: int
    callback: Callback | None
    seeds: Iterator[int]
    steps: int = 0
    scale: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    status: str = "converged"

    def observe(self, process: BlockLanczos) -> None:
        """Remember the extent of the spectrum seen."""
        self.low, self.high = min(self.low, process.low), max(self.high, process.high)
        self.scale = max(self.scale, abs(self.low), abs(self.high))

    def beyond(self, value: FloatArray, limit: float) -> FloatArray:
        """How far values lie beyond `limit` on the side asked for."""
        if self.which == "LM":
            return np.abs(value) - abs(limit)
        return value - limit if self.which == "LA" else limit - value


def eigsh(
    operator: Any,
    k: int = 6,
    *,
    which: str = "LA",
    tol: float | None = None,
    seed: int = 0,
    v0: Any = None,
    maxiter: int | None = None,
    callback: Callback | None = None,
    threads: int | None = None,
) -> EigenResult:
    """Extreme eigenpairs of a real symmetric operator, certified.

    Parameters
    ----------
    operator
        Anything with ``shape`` (N, N), ``dtype`` and ``@`` on arrays (N, b): a dense or sparse matrix, a SciPy
        ``LinearOperator``, a :class:`flatcore.Hessian`.
    k
        Number of eigenpairs, at most N.
    which
        ``"LA"`` largest, ``"SA"`` smallest, ``"LM"`` largest in modulus.
    tol
        Relative: ‖Hv − λv‖ ≤ tol·max|λ|. None means 1e-6 in float64 and 1e-4 in float32. A tolerance below what the
        precision attains is raised to that floor, and ``result.tol`` says so.
    seed
        Of all random vectors; the same seed, threads and input give the same bits.
    v0
        Start vectors (N,) or (N, b), for instance the eigenvectors of a nearby problem.
    maxiter
        Most block steps before the best values so far are returned.
    callback
        Called after every step with a :class:`flatcore.results.SolverState`; returning True stops.
    threads
        Threads for this call; None leaves the process's setting alone.

    Returns
    -------
    EigenResult
        Values (descending for LA and LM by modulus, ascending for SA), true residuals, a status, lazy vectors, and a
        certificate about eigenvalues that were not found. Not converging is a status, never an exception.

    Raises
    ------
    ValueError
        A bad argument, or an operator that is not symmetric, or that returns NaN or a wrong shape.
    MemoryError
        Before starting, where the basis cannot fit.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> result = fc.eigsh(np.diag(np.arange(500.0)), k=2)
    >>> result.values.round(6), result.status
    (array([499., 498.]), 'converged')

    Source: thick restart after Wu & Simon (2000); the probe is described in docs/theory.md.

    """
    wrapped = Operator(operator)
    N = wrapped.length
    k = check_count("k", k, 1, N)
    check_choice("which", which, ("LA", "SA", "LM"))
    used_tol, limited = _checked_tol(tol, wrapped.dtype)
    seed = check_count("seed", seed, 0)
    start = _checked_start(v0, N, wrapped.dtype)
    max_steps = DEFAULT_BLOCK_STEPS if maxiter is None else check_count("maxiter", maxiter)
    run = _Run(
        wrapped,
        HostVectors(N, wrapped.dtype),
        order_of(which),
        which,
        used_tol,
        max_steps,
        callback,
        _seeds(seed),
    )
    block, capacity = _sizes(k, 0 if start is None else len(start))
    with limit_threads(threads):
        if capacity + block >= N:
            found, certificate = _dense(run), Certificate("dense", 0.0, 0.0, 0, N, 0)
            method = f"Dense eigendecomposition of all {N} rows by LAPACK."
        else:
            found = _certified(run, k, block, capacity, start=start, locked=None)
            certificate = None
            if run.status == "converged":
                found, certificate = _probe(run, k, found)
            method = f"Block Lanczos, block {block}, basis {capacity}, thick restart, on {N} rows in {wrapped.dtype}."
    best = found.sorted(run.order)
    rows, values, residuals = best.rows[:k], best.values[:k], best.residuals[:k]
    converged = residuals <= used_tol * max(run.scale, float(np.abs(values).max()))
    if run.status == "converged" and not converged.all():
        run.status = "precision_limited"
    kept = read_only(rows)
    return EigenResult(
        values=read_only(values),
        residuals=read_only(residuals),
        converged=read_only(converged),
        status=run.status,
        message=_message(run, converged, limited),
        tol=used_tol,
        products=wrapped.products,
        seed=seed,
        certificate=certificate,
        method=method,
        _rows=lambda: kept,
        _split=getattr(getattr(operator, "chain", None), "blocks", None),
    )


def _checked_tol(tol: float | None, dtype: np.dtype[Any]) -> tuple[float, bool]:
    if tol is None:
        return DEFAULT_TOL[dtype], False
    if not isinstance(tol, (int, float, np.floating)) or not np.isfinite(tol) or tol < 0:
        raise ValueError(f"tol is {tol!r}; expected a number that is not negative, or None")
    return max(float(tol), FLOORS[dtype]), tol < FLOORS[dtype]


def _checked_start(v0: Any, N: int, dtype: np.dtype[Any]) -> FloatArray | None:
    if v0 is None:
        return None
    ndim = np.ndim(v0)
    array = as_float_array("v0", v0, 2 if ndim == 2 else 1)
    if array.shape[0] != N or array.size == 0:
        raise ValueError(f"v0 has shape {array.shape}; expected ({N},) or ({N}, b)")
    check_finite("v0", array)
    return np.ascontiguousarray(array.reshape(N, -1).T[:N], dtype=dtype)


def _sizes(k: int, start: int) -> tuple[int, int]:
    """Block and basis sizes: a block of k up to 16 for cheap operators, the basis a few times what is wanted."""
    block = max(2, min(k, 16), start)
    return block, max(48, 3 * k + 4 * block)


def _seeds(seed: int) -> Iterator[int]:
    sequence = np.random.default_rng(seed)
    while True:
        yield int(sequence.integers(0, 2**63))


def _dense(run: _Run) -> _Found:
    N = run.operator.length
    matrix = run.operator(np.eye(N))
    if not np.isfinite(matrix).all():
        raise ValueError("the operator returned NaN or Inf")
    size, asymmetry = float(np.abs(matrix).max()), float(np.abs(matrix - matrix.T).max())
    if asymmetry > 1e-3 * size:
        raise ValueError(
            f"the operator is not symmetric: entries differ by {asymmetry:.3g} across the diagonal (size {size:.3g})"
        )
    values, vectors = scipy.linalg.eigh((matrix + matrix.T) / 2)
    run.low, run.high = float(values[0]), float(values[-1])
    run.scale = max(abs(run.low), abs(run.high))
    residuals = np.linalg.norm(matrix.T @ vectors - vectors * values, axis=0)
    return _Found(np.ascontiguousarray(vectors.T, dtype=run.operator.dtype), values, residuals)


def _converge(run: _Run, process: BlockLanczos, wanted: Callable[[FloatArray], FloatArray], tol: float) -> FloatArray:
    """Step until the Ritz pairs that `wanted` picks from the sorted values converge; returns their indices."""
    while True:
        process.step()
        run.steps += 1
        run.observe(process)
        indices = wanted(run.order(process.values))
        residuals = process.residuals(indices)
        state = SolverState(run.steps, process.values[indices], residuals, run.operator.products)
        if run.callback is not None and run.callback(state) is True:
            run.status = "stopped"
            return indices
        if len(indices) and bool((residuals <= tol * run.scale).all()):
            return indices
        if process.exhausted:
            return indices
        if run.steps >= run.max_steps:
            run.status = "max_iterations"
            return indices
        process.restart_if_full(run.order, len(indices))


def _certified(
    run: _Run, k: int, block: int, capacity: int, *, start: FloatArray | None, locked: FloatArray | None
) -> _Found:
    """K eigenpairs orthogonal to `locked`, their residuals measured with fresh products in float64."""
    tol = 0.5 * run.tol
    for _ in range(_ATTEMPTS):
        process = BlockLanczos(
            run.operator,
            run.vectors,
            capacity=capacity,
            block=block,
            seeds=run.seeds,
            locked=locked,
            start=start,
            scale=run.scale,
        )
        indices = _converge(run, process, lambda order: order[:k] if len(order) >= k else order[:0], tol)
        if len(indices) == 0:  # stopped before the basis held k vectors
            indices = run.order(process.values)[:k]
        found = _measured(run, process.ritz_rows(indices))
        if run.status != "converged" or (found.residuals <= run.tol * run.scale).all():
            return found
        start, tol = found.rows, 0.25 * tol
    return found


def _measured(run: _Run, rows: FloatArray) -> _Found:
    """Rayleigh quotients and residual norms of the rows, from fresh products in float64."""
    values, residuals = np.empty(len(rows)), np.empty(len(rows))
    for first in range(0, len(rows), 16):
        part = slice(first, first + 16)
        X = rows[part].astype(np.float64)
        X /= np.linalg.norm(X, axis=1, keepdims=True)
        AX = run.operator(X)
        values[part] = np.einsum("ij,ij->i", X, AX)
        residuals[part] = np.linalg.norm(AX - values[part, None] * X, axis=1)
    return _Found(rows.copy(), values, residuals)


def _probe(run: _Run, k: int, found: _Found) -> tuple[_Found, Certificate]:
    """Look for eigenvalues beyond the k-th in the complement of everything found, until a probe finds none."""
    N, hits = run.operator.length, 0
    margin = run.tol * run.scale

    def certificate(process: BlockLanczos, delta: float) -> Certificate:
        return Certificate("probe", delta, MISS_PROBABILITY, process.steps, PROBE_BLOCK, hits)

    while True:
        found = found.sorted(run.order)
        limit = float(found.values[k - 1])
        process = BlockLanczos(
            run.operator,
            run.vectors,
            capacity=PROBE_BLOCK * (PROBE_STEPS + 1),
            block=PROBE_BLOCK,
            seeds=run.seeds,
            locked=found.rows,
            scale=run.scale,
        )
        while process.steps < PROBE_STEPS and not process.exhausted:
            process.step()
            run.steps += 1
            run.observe(process)
            if run.callback is not None:
                state = SolverState(run.steps, found.values[:k], found.residuals[:k], run.operator.products)
                if run.callback(state) is True:
                    run.status = "stopped"
                    return found, certificate(process, np.inf)
        missed = int((run.beyond(process.values, limit) > margin).sum())
        if missed == 0:
            width = 2.0 * abs(limit) if run.which == "LM" else abs(limit - (run.low if run.which == "LA" else run.high))
            gap = certified_gap(N - len(found.rows), PROBE_BLOCK, process.steps, width, MISS_PROBABILITY)
            return found, certificate(process, max(gap, margin))
        missed = min(missed, k)
        start = process.ritz_rows(run.order(process.values)[:missed]).copy()
        block, capacity = _sizes(missed, missed)
        found = found.joined(_certified(run, missed, block, capacity, start=start, locked=found.rows))
        hits += missed
        if run.status != "converged":
            return found, certificate(process, np.inf)


def _message(run: _Run, converged: FloatArray, limited: bool) -> str:
    floor = f" tol was below the floor of this precision; {run.tol:g} was used." if limited else ""
    if run.status == "converged":
        return f"all residuals are at most {run.tol:g} of the largest modulus." + floor
    if run.status == "stopped":
        return "the callback stopped the run; values and residuals are the best so far." + floor
    missing = int((~converged).sum())
    if run.status == "max_iterations":
        return f"{missing} pairs did not converge in {run.steps} steps; raise maxiter or tol, or pass v0." + floor
    return f"{missing} pairs stopped at the rounding of {run.operator.dtype}; raise tol, or use float64." + floor
