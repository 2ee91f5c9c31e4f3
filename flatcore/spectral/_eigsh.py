"""eigsh: extreme eigenpairs of any symmetric operator, with true residuals and a probe for what was missed.

The parts, each on top of the one before:

1. `_costs.choose`: dense or block Lanczos, block and basis size, from what the operator's products cost; the memory
   needed is compared with what there is before anything is allocated;
2. `_warm_start`: Rayleigh–Ritz on the start vectors with a product in float64; where these are eigenvectors already,
   that product is all the iteration there is, and otherwise it is its first step;
3. `_converge`: the control loop of `_lanczos.py` until the recurrence's residuals are small enough. The small
   eigenproblem is solved when convergence is expected, not in every step;
4. `_certified`: fresh products in float64 give Rayleigh quotients and true residuals; where these miss the tolerance
   that the recurrence promised, the loop goes on from the vectors found with a sharper one;
5. `_probe`: a random block in the complement of everything found, until one finds nothing. On a hit the probe itself
   goes on as the iteration that converges what it hit.

All of them work in one basis, allocated once: the vectors found are its first rows, the probe's follow.

The probe keeps its vectors orthogonal like any other process. Three-term recurrences would do until a Ritz value
converges, which need not be a hit: an isolated eigenvalue below the last one found converges in as many steps as well.
Orthogonal, T = VᵀAV is exact, the bound of `_certificate.py` is the theorem's, and a hit can go on; the second pass
costs two reads of some 60 rows a step at most, less than a product of any operator that fills a memory.

The iteration's own random start cannot replace the probe: a block of b vectors sees at most b copies of an eigenvalue,
and nothing in its run tells how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.linalg

from flatcore._checks import FloatArray, asks_to_stop, check_callback, check_choice, check_count, chunks
from flatcore._memory import check_memory
from flatcore._threads import limit_threads
from flatcore.results import Certificate, EigenResult, SolverState, read_only
from flatcore.spectral._certificate import beyond_seen, certified_gap
from flatcore.spectral._costs import (
    END_PROBABILITY,
    MISS_PROBABILITY,
    NO_PROBE,
    Choice,
    Probe,
    Problem,
    certifying_block,
    choose,
    guessed_cost,
)
from flatcore.spectral._lanczos import BlockLanczos, Order, order_of
from flatcore.spectral._operator import Operator, check_symmetric
from flatcore.spectral._small import eigh
from flatcore.spectral._tolerance import FLOORS, checked_tol, raised_tol, seeds
from flatcore.spectral._vectors import BlockVectors, norm, unit_rows

DEFAULT_BLOCK_STEPS = 2000
_ATTEMPTS = 3
_HIT_SHARE = 3  # a probe converges at most this part of its basis of missed eigenpairs
_LONGEST_WAIT = 8  # steps between two looks at the Ritz values

Callback = Callable[[SolverState], "bool | None"]


@dataclass
class _Found:
    """Eigenpairs so far: the first rows of the basis, best first, with Rayleigh quotients and true residuals."""

    rows: Any
    values: FloatArray
    residuals: FloatArray


@dataclass
class _Run:
    """What the parts of one eigsh call share."""

    operator: Operator
    k: int
    which: str
    tol: float
    max_steps: int
    callback: Callback | None
    seeds: Iterator[int]
    steps: int = 0
    restarts: int = 0
    scale: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    status: str = "converged"
    probe: Probe = NO_PROBE
    certifying: int = 1  # vectors a product in float64
    noise: float = 0.0  # relative rounding of the operator's products, where it states one
    done: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.order: Order = order_of(self.which)
        self.vectors = self.operator.vectors(self.operator.dtype)
        self.wide = self.operator.vectors(np.float64)

    def observe(self, low: float, high: float) -> None:
        """Remember the extent of the spectrum seen."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.scale = max(self.scale, abs(self.low), abs(self.high))

    def beyond(self, value: FloatArray, limit: float) -> FloatArray:
        """How far values lie beyond `limit` on the side asked for."""
        if self.which == "LM":
            return np.abs(value) - abs(limit)
        return value - limit if self.which == "LA" else limit - value

    def delta(self, found: _Found, steps: int) -> float:
        """How far beyond the last value found an eigenvalue may lie that so many steps of the probe have not met."""
        limit, margin = float(found.values[-1]), self.tol * self.scale  # Ritz values within the margin were no hits
        width, misses = 2.0 * (abs(limit) + margin), MISS_PROBABILITY
        if self.which != "LM":  # the other end may have been missed as well
            width, misses = abs(limit - (self.low if self.which == "LA" else self.high)) + margin, END_PROBABILITY
        relative = certified_gap(self.operator.length - self.k, self.probe.block, steps, 1.0, misses)
        return beyond_seen(relative) * width + margin + float(np.linalg.norm(found.residuals))

    def small(self, found: _Found) -> bool:
        """Whether the true residuals meet the tolerance."""
        return bool((found.residuals <= self.tol * max(self.scale, float(np.abs(found.values).max()))).all())


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
        Anything with ``shape`` (N, N), ``dtype`` and ``@`` on arrays (N,) and (N, b): a dense array or CPU tensor, a
        sparse matrix, a SciPy ``LinearOperator``, a :class:`flatcore.Hessian`. What its products cost, where it says so
        in an attribute ``cost`` (:class:`flatcore.spectral.OperatorCost`), chooses between block sizes. Vectors of an
        operator with methods ``block_vectors(dtype)`` and ``rows_product(rows)`` stay where these keep them, on a GPU
        for instance. An attribute ``noise_floor`` states relative rounding of the products beyond that of ``dtype``.
    k
        Number of eigenpairs, at most N.
    which
        ``"LA"`` largest, ``"SA"`` smallest, ``"LM"`` largest in modulus.
    tol
        Relative: ‖Hv − λv‖ ≤ tol·max|λ|. None means 1e-6 in float64 and 1e-4 in float32. A tolerance below what the
        precision, or the operator's ``noise_floor``, attains is raised to that floor, and ``result.tol`` says so.
    seed
        Of all random vectors; the same seed, threads and input give the same bits.
    v0
        Start vectors (N,) or (N, b), an array or a tensor, any number, for instance the eigenvectors of a nearby
        problem. Where they span the answer already, one block product and the probe are all that is left.
    maxiter
        Most block steps of the iteration before the best values so far are returned; a probe's come on top.
    callback
        Called after every step with a :class:`flatcore.results.SolverState`; returning True stops. The dense route is
        one step.
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
    return solve(
        operator,
        k,
        which=which,
        tol=tol,
        seed=seed,
        v0=v0,
        maxiter=maxiter,
        callback=callback,
        threads=threads,
    )


def solve(
    operator: Any,
    k: int,
    *,
    which: str,
    tol: float | None,
    seed: int,
    v0: Any,
    maxiter: int | None,
    callback: Callback | None,
    threads: int | None,
    route: str | None = None,
) -> EigenResult:
    """`eigsh`, with the route ("dense" or "block Lanczos") forced where one is given."""
    wrapped = Operator(operator)
    N = wrapped.length
    k = check_count("k", k, 1, N)
    check_choice("which", which, ("LA", "SA", "LM"))
    used_tol, limited = checked_tol(tol, wrapped.dtype)
    seed = check_count("seed", seed, 0)
    check_callback(callback)
    start = None if v0 is None else wrapped.vectors(wrapped.dtype).columns("v0", v0)
    max_steps = DEFAULT_BLOCK_STEPS if maxiter is None else check_count("maxiter", maxiter)
    noise = wrapped.noise_floor
    used_tol, noisy = raised_tol(used_tol, noise)
    run = _Run(wrapped, k, which, used_tol, max_steps, callback, seeds(seed), noise=noise)
    cost = wrapped.cost or guessed_cost(N, wrapped.dtype.itemsize)
    problem = Problem(N, k, wrapped.dtype.itemsize, used_tol, cost, 0 if start is None else start.shape[1])
    available = run.vectors.available()
    choice = choose(problem, guessed=wrapped.cost is None, available=available, route=route)
    plan = choice.plan
    run.probe, run.certifying = plan.probe, certifying_block(problem)
    certificate: Certificate | None
    with limit_threads(threads):
        if plan.route == "dense":
            check_memory(f"a dense eigendecomposition of {N} rows", plan.bytes(problem))
            found, certificate = _dense(run), Certificate("dense", 0.0, 0.0, 0, N, 0)
            method = f"Dense eigendecomposition of all {N} rows by LAPACK."
        else:
            what = f"block Lanczos with {plan.rows(k)} vectors of {N}, and the float64 products that certify,"
            run.vectors.check_memory(what, plan.bytes(problem))
            found, certificate = _lanczos(run, choice, start)
            method = (
                f"Block Lanczos, block {plan.block}, basis {plan.basis}, thick restart, on {N} rows in {wrapped.dtype}."
            )
    values, residuals = found.values[:k], found.residuals[:k]
    converged = residuals <= used_tol * max(run.scale, float(np.abs(values).max()))
    if run.status == "converged" and not converged.all():
        run.status = "precision_limited"
    kept = run.vectors.copy(found.rows[:k])
    kept = read_only(kept) if isinstance(kept, np.ndarray) else kept
    return EigenResult(
        values=read_only(values),
        residuals=read_only(residuals),
        converged=read_only(converged),
        status=run.status,
        message=_message(run, converged, limited, noisy),
        tol=used_tol,
        products=wrapped.products,
        seed=seed,
        certificate=certificate,
        method=method,
        _rows=lambda: kept,
        _split=_splitter(operator),
        explanation=(*choice.lines(), *run.done),
    )


def _splitter(operator: Any) -> Callable[[Any], Iterator[Any]] | None:
    """How a vector of the operator's splits into blocks shaped like parameters, where it knows."""
    chain = getattr(operator, "chain", None)
    if hasattr(chain, "blocks"):
        return chain.blocks  # type: ignore[union-attr, no-any-return]
    if hasattr(operator, "blocks"):
        return lambda vector: iter(operator.blocks(vector).values())
    return None


def _dense(run: _Run) -> _Found:
    """All eigenpairs, best first."""
    matrix = _dense_matrix(run)
    if not np.isfinite(matrix).all():
        raise ValueError("the operator returned NaN or Inf")
    check_symmetric(float(np.abs(matrix - matrix.T).max()), float(np.abs(matrix).max()), run.operator.dtype, run.noise)
    values, vectors = scipy.linalg.eigh((matrix + matrix.T) / 2, driver="evd", check_finite=False)
    run.observe(float(values[0]), float(values[-1]))
    best = run.order(values)[: run.k]
    values, vectors = values[best], vectors[:, best]
    residuals = np.linalg.norm(matrix @ vectors - vectors * values, axis=0)
    if run.callback is not None:  # once, and nothing is left to stop
        run.callback(SolverState(1, values, residuals, run.operator.products))
    return _Found(run.vectors.copy(vectors.T), values, residuals)


def _dense_matrix(run: _Run) -> FloatArray:
    """The matrix in host memory, from products with unit vectors."""
    N = run.operator.length
    if run.operator.matrix is not None:
        return run.operator.matrix.astype(np.float64)
    matrix = np.empty((N, N))
    for part in chunks(N, 256):
        matrix[:, part] = run.wide.host(run.operator(unit_rows(run.wide, part))).T
    return matrix


def _lanczos(run: _Run, choice: Choice, start: Any | None) -> tuple[_Found, Certificate | None]:
    """K eigenpairs, and the certificate that none was missed."""
    plan, N = choice.plan, run.operator.length
    basis = run.vectors.empty(min(N, max(plan.rows(run.k), plan.basis)))
    found, rows, image = _warm_start(run, basis, start, max(run.k, plan.block))
    if found is None:
        process = BlockLanczos(
            run.operator,
            run.vectors,
            capacity=plan.basis,
            block=plan.block,
            seeds=run.seeds,
            start=rows,
            scale=run.scale,
            storage=basis,
            noise=run.noise,
            image=image,
        )
        del rows, image
        found = _certified(run, process, basis, 0, run.k)
        run.done.append(f"The iteration took {run.steps} block steps with {run.restarts} restarts.")
    if run.status != "converged":
        return _sorted(run, found, run.k), None
    return _probe(run, basis, found)


def _warm_start(run: _Run, basis: Any, start: Any | None, most: int) -> tuple[_Found | None, Any | None, Any | None]:
    """Rayleigh–Ritz on the start vectors: what is found where they are eigenvectors, else rows to begin with.

    Of more than `most` vectors the best Ritz vectors are kept. Their products come with them. All in float64.
    """
    vectors = run.wide
    rows = None if start is None else _orthonormal(vectors, vectors.copy(start.T))
    if start is None or rows is None:
        return None, None, None
    image = vectors.empty(len(rows))
    for part in chunks(len(rows), run.certifying):
        image[part] = run.operator(rows[part])
    H = vectors.gram(rows, image)
    if not np.isfinite(H).all():
        raise ValueError("the operator returned NaN or Inf")
    check_symmetric(float(np.abs(H - H.T).max()), float(np.abs(H).max()), run.operator.dtype, run.noise)
    values, U = eigh((H + H.T) / 2)
    run.observe(float(values[0]), float(values[-1]))
    best = run.order(values)[:most]
    for block in (rows, image):
        vectors.combine(block, U[:, best])
    rows, image, values = rows[: len(best)], image[: len(best)], values[best]
    if len(best) >= run.k:
        pairs = ((rows[i : i + 1], vectors.copy(image[i : i + 1]), values[i]) for i in range(run.k))
        residuals = np.array([_residual(vectors, *pair) for pair in pairs])
        found = _Found(basis[: run.k], values[: run.k], residuals)
        if run.small(found):
            found.rows[:] = rows[: run.k]
            run.done.append(f"The start vectors, {start.shape[1]}, hold converged ones: no iteration.")
            return found, None, None
    if run.operator.dtype == np.float64:
        return None, rows, image
    return None, run.vectors.copy(rows), run.vectors.copy(image)


def _orthonormal(vectors: BlockVectors, rows: Any) -> Any | None:
    """Orthonormal rows with the same span, in the same memory; None where all rows are zero."""
    sizes = vectors.sizes(rows)
    count = int((sizes > 0.0).sum())
    vectors.combine(rows, np.diag(1.0 / np.where(sizes > 0.0, sizes, 1.0))[:, sizes > 0.0])
    rows = rows[:count]
    for _ in range(3):  # the first two leave what is small of them inexact; well-conditioned rows stay
        if len(rows) == 0:
            return None
        G = vectors.gram(rows, rows)
        d = np.sqrt(G.diagonal())
        values, U = eigh(G / np.outer(d, d))
        kept = values > 1e-12 * len(rows)
        vectors.combine(rows, U[:, kept] / np.sqrt(values[kept]) / d[:, None])
        rows = rows[: int(kept.sum())]
    return rows


def _converge(run: _Run, process: BlockLanczos, count: int, tol: float) -> FloatArray:
    """Step until the `count` most wanted Ritz pairs converge; returns their indices.

    Residuals fall geometrically: after two looks the third waits for part of the steps that seem to be left.
    """
    next_look, last_step, last_worst = 0, 0, math.inf
    while True:
        process.step()
        run.steps += 1
        over = process.exhausted or run.steps >= run.max_steps
        if over or process.full or run.callback is not None or run.steps >= next_look:
            indices = run.order(process.values)[:count]
            run.observe(process.low, process.high)
            residuals = process.residuals(indices)
            if _told_to_stop(run, process.values[indices], residuals):
                return indices
            limit = tol * run.scale
            if len(indices) == count and bool((residuals <= limit).all()):
                return indices
            if over:
                run.status = run.status if process.exhausted else "max_iterations"
                return indices
            worst = float(residuals.max()) / limit if len(indices) == count and limit > 0.0 else math.inf
            next_look = run.steps + _wait(worst, last_worst, run.steps - last_step)
            last_step, last_worst = run.steps, worst
        if process.full:
            process.restart_if_full(run.order, count)
            run.restarts += 1


def _wait(worst: float, before: float, steps: int) -> int:
    """Steps until the next look, when `steps` steps took the largest residual, in tolerances, to `worst`."""
    if not math.isfinite(before):
        return 1
    if worst >= before:
        return 2
    left = steps * math.log(worst) / math.log(before / worst)
    return max(1, min(_LONGEST_WAIT, int(0.4 * left)))


def _told_to_stop(run: _Run, values: FloatArray, residuals: FloatArray) -> bool:
    if run.callback is None:
        return False
    if asks_to_stop(run.callback(SolverState(run.steps, values, residuals, run.operator.products))):
        run.status = "stopped"
    return run.status == "stopped"


def _certified(run: _Run, process: BlockLanczos, basis: Any, locked: int, count: int) -> _Found:
    """`count` eigenpairs orthogonal to the first `locked` rows of the basis, the rows behind these.

    Their residuals are measured with fresh products in float64. Where rounding is far below the tolerance the
    recurrence's residuals are as good as true.
    """
    tol = run.tol * (0.9 if run.tol >= 30.0 * max(FLOORS[run.operator.dtype], run.noise) else 0.5)
    for _ in range(_ATTEMPTS):
        found = _measured(run, process.ritz_rows(_converge(run, process, count, tol)))
        if run.status != "converged" or run.small(found):
            break
        tol *= 0.25
        process = BlockLanczos(
            run.operator,
            run.vectors,
            capacity=process.capacity,
            block=process.block,
            seeds=run.seeds,
            locked=basis[:locked],
            start=found.rows,
            scale=run.scale,
            storage=basis,
            noise=run.noise,
        )
    return found


def _measured(run: _Run, rows: Any) -> _Found:
    """Rayleigh quotients and residual norms of the rows, from fresh products in float64."""
    vectors = run.wide
    values, residuals = np.empty(len(rows)), np.empty(len(rows))
    for part in chunks(len(rows), run.certifying):
        X = vectors.copy(rows[part])
        for i in range(len(X)):
            X[i] /= norm(vectors, X[i : i + 1])
        AX = run.operator(X)
        for i in range(len(X)):
            x, image, at = X[i : i + 1], AX[i : i + 1], part.start + i
            values[at] = vectors.gram(x, image)[0, 0]
            residuals[at] = _residual(vectors, x, image, values[at])
        if not np.isfinite(residuals[part]).all():
            raise ValueError("the operator returned NaN or Inf")
        del X, AX, x, image
    return _Found(rows, values, residuals)


def _residual(vectors: BlockVectors, x: Any, image: Any, value: float) -> float:
    """‖Ax − λx‖ of the blocks (1, N), in the memory of Ax."""
    vectors.update(image, x, np.array([[value]]))
    return norm(vectors, image)


def _sorted(run: _Run, found: _Found, most: int) -> _Found:
    """The best `most` of what was found, best first, in the same rows."""
    index = run.order(found.values)[:most]
    if not np.array_equal(index, np.arange(len(found.rows))):
        run.vectors.combine(found.rows, np.eye(len(found.rows))[:, index])
    return _Found(found.rows[: len(index)], found.values[index], found.residuals[index])


def _probe(run: _Run, basis: Any, found: _Found) -> tuple[_Found, Certificate]:
    """Look for eigenvalues beyond the k-th in the complement of everything found, until a probe finds none."""
    k, hits, probes = run.k, 0, 0

    def certificate(process: BlockLanczos, delta: float) -> Certificate:
        run.done.append(
            f"The last probe took {process.steps} steps of {run.probe.block} vectors; {hits} hits were merged."
        )
        return Certificate("probe", delta, probes * MISS_PROBABILITY, process.steps, run.probe.block, hits)

    while True:
        probes += 1  # each may miss
        found = _sorted(run, found, k)
        limit, margin = float(found.values[k - 1]), run.tol * run.scale
        process = BlockLanczos(
            run.operator,
            run.vectors,
            capacity=run.probe.rows,
            block=run.probe.block,
            seeds=run.seeds,
            locked=found.rows,
            scale=run.scale,
            storage=basis,
            noise=run.noise,
        )
        while process.steps < run.probe.steps and not process.exhausted:
            process.step()
            run.steps += 1
            if _told_to_stop(run, found.values, found.residuals):
                return found, certificate(process, np.inf)
        run.observe(process.low, process.high)
        missed = min(int((run.beyond(process.values, limit) > margin).sum()), run.probe.rows // _HIT_SHARE)
        if missed == 0:
            return found, certificate(process, run.delta(found, process.steps))
        process.restart_if_full(run.order, missed)
        hit = _certified(run, process, basis, k, missed)
        hits += len(hit.rows)
        found = _Found(
            basis[: k + len(hit.rows)],
            np.concatenate([found.values, hit.values]),
            np.concatenate([found.residuals, hit.residuals]),
        )
        if run.status != "converged":
            return _sorted(run, found, k), certificate(process, np.inf)


def _message(run: _Run, converged: FloatArray, limited: bool, noisy: bool) -> str:
    floor = f" tol was below the floor of this precision; {run.tol:g} was used." if limited else ""
    if noisy:
        floor = f" tol was below the floor of the operator's own rounding; {run.tol:g} was used."
    if run.status == "converged":
        return f"all residuals are at most {run.tol:g} of the largest modulus." + floor
    if run.status == "stopped":
        return "the callback stopped the run; values and residuals are the best so far." + floor
    missing = int((~converged).sum())
    if run.status == "max_iterations":
        return f"{missing} pairs did not converge in {run.steps} steps; raise maxiter or tol, or pass v0." + floor
    rounding = f"{run.operator.dtype}" if run.noise <= FLOORS[run.operator.dtype] else "the operator's products"
    return f"{missing} pairs stopped at the rounding of {rounding}; raise tol, or use float64." + floor
