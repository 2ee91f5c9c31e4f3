"""top_svd: the largest singular triplets of a matrix, or of each of many."""

from __future__ import annotations

import functools
import math
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from flatcore import _core
from flatcore._checks import FloatArray, as_float_array, check_callback, check_count, check_finite
from flatcore._threads import limit_threads
from flatcore.results import SvdResult, read_only
from flatcore.spectral._svd_operator import StoredOperator, as_matrix
from flatcore.spectral._svd_run import Callback, SvdRun
from flatcore.spectral._svd_solver import solve
from flatcore.spectral._tolerance import checked_tol, seeds

DEFAULT_STEPS = 1000
_ALONE = 1 << 24  # entries of a matrix that keeps all threads busy by itself


def top_svd(
    matrix: Any,
    k: int = 6,
    *,
    tol: float | None = None,
    seed: int = 0,
    v0: Any = None,
    maxiter: int | None = None,
    callback: Callback | None = None,
    threads: int | None = None,
) -> SvdResult | list[SvdResult]:
    """The k largest singular triplets of a matrix, certified; of a list of matrices, a list of results.

    Parameters
    ----------
    matrix
        (m, n), read in place whatever its strides; float16 and bfloat16 are read as stored. A list of
        matrices, or an array (L, m, n), is decomposed with one thread a matrix where the matrices are small.
    k
        Number of triplets, at most min(m, n).
    tol
        Relative: ‖Av − σu‖ and ‖Aᵀu − σv‖ ≤ tol·σ_1. None means 1e-6 in float64 and 1e-4 otherwise. A tolerance below
        what the precision attains is raised to that floor, and ``result.tol`` says so.
    seed
        Of all random vectors; the same seed, threads and input give the same bits.
    v0
        Start vectors (n,) or (n, b), for instance the right singular vectors of a nearby matrix. Not for lists.
    maxiter
        Most block steps before the best triplets so far are returned.
    callback
        Called after every step with a :class:`flatcore.results.SolverState`; returning True stops. LAPACK is
        one step, after which nothing is left to stop. Not for lists.
    threads
        Threads for this call; None leaves the process's setting alone.

    Returns
    -------
    SvdResult
        U (m, k), s (k,) descending, Vt (k, n), true residuals, a status, and a certificate about values that were not
        found; ``U, s, Vt = result`` unpacks. Not converging is a status, never an exception. Fewer than k triplets
        come back only where a run was stopped before its basis held k vectors.

    Raises
    ------
    ValueError
        A bad argument, or a matrix that holds NaN or Inf.
    MemoryError
        Before starting, where the search cannot fit. Before a search that begins later: Golub–Kahan's, which keeps left
        vectors too, and one for copies that a probe found.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> result = fc.top_svd(np.diag(np.arange(500.0)), k=2)
    >>> result.s.round(6), result.status
    (array([499., 498.]), 'converged')
    >>> [r.s.round(6).tolist() for r in fc.top_svd([np.diag([3.0, 1.0]), np.eye(3)], k=1)]
    [[3.0], [1.0]]

    Source: docs/theory.md, "Top-k SVD, counted".

    """
    many = _list_of(matrix)
    matrices = [as_matrix("matrix", matrix)] if many is None else many
    for index, A in enumerate(matrices):
        check_count("k", k, 1, min(A.shape)) if many is None else _check_k(k, A, index)
    seed = check_count("seed", seed, 0)
    steps = None if maxiter is None else check_count("maxiter", maxiter)
    check_callback(callback)
    if many is not None and (v0 is not None or callback is not None):
        given = "v0" if v0 is not None else "callback"
        raise ValueError(f"{given} is given with {len(many)} matrices; expected one matrix")
    one = functools.partial(search, k=k, tol=tol, seed=seed, v0=v0, steps=steps, callback=callback)
    with limit_threads(threads):
        return one("matrix", matrices[0])[0] if many is None else _each(one, matrices)


def _list_of(matrix: Any) -> list[FloatArray] | None:
    """The matrices of a list or a stack; None for a single matrix."""
    if isinstance(matrix, (list, tuple)):
        if not matrix or np.ndim(matrix[0]) < 2:
            return None
    elif getattr(matrix, "ndim", 2) != 3:
        return None
    return [as_matrix(f"matrix[{index}]", entry) for index, entry in enumerate(matrix)]


def _each(one: functools.partial[tuple[SvdResult, SvdRun]], matrices: list[FloatArray]) -> list[SvdResult]:
    """A result for each matrix: several at a time with one thread each, or large ones in turn with all threads."""
    names = [f"matrix[{index}]" for index in range(len(matrices))]
    workers = min(_core.max_threads(), len(matrices))
    if workers <= 1 or max(A.size for A in matrices) >= _ALONE:
        return [one(name, A)[0] for name, A in zip(names, matrices, strict=True)]
    cancel = threading.Event()
    # OpenMP's thread count belongs to the thread that sets it, the BLAS's to the process.
    with limit_threads(1), ThreadPoolExecutor(workers, initializer=_core.set_threads, initargs=(1,)) as pool:
        futures = [pool.submit(one, name, A, cancel=cancel) for name, A in zip(names, matrices, strict=True)]
        try:
            return [future.result()[0] for future in futures]
        except BaseException:
            cancel.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def search(
    name: str,
    A: FloatArray,
    *,
    k: int,
    tol: float | None = None,
    seed: int = 0,
    v0: Any = None,
    steps: int | None = None,
    callback: Callback | None = None,
    cancel: threading.Event | None = None,
    largest: float | None = None,
) -> tuple[SvdResult, SvdRun]:
    """`top_svd` of one matrix from `as_matrix`, and the run with what it found besides.

    Parameters
    ----------
    largest
        max |a_ij| where all entries are known to be finite: the matrix is not read for it again.

    """
    operator = StoredOperator(name, A, largest)
    used_tol, limited = checked_tol(tol, operator.dtype)
    start = _checked_start(v0, A.shape[1], operator)
    run = SvdRun(operator, k, used_tol, DEFAULT_STEPS if steps is None else steps, callback, seeds(seed), cancel)
    with np.errstate(over="ignore"):  # of values that are refused below
        found, certificate = solve(run, start)
    if math.log2(max(found.s[0], 1.0)) - math.log2(operator.scale) >= sys.float_info.max_exp:
        raise ValueError(f"{name} has singular values beyond float64; scale it")
    converged = found.residuals <= used_tol * found.s[0]
    left, right = (found.V, found.U) if operator.transposed else (found.U, found.V)
    result = SvdResult(
        U=read_only(left.T),
        s=read_only(found.s / operator.scale),
        Vt=read_only(right),
        residuals=read_only(found.residuals / operator.scale),
        converged=read_only(converged),
        status=run.status,
        message=_message(run, converged, limited),
        tol=used_tol,
        products=operator.products,
        reads=operator.reads,
        seed=seed,
        certificate=certificate,
        method=run.method,
    )
    return result, run


def _checked_start(v0: Any, n: int, operator: StoredOperator) -> FloatArray | None:
    """Rows to start with on the operator's smaller side."""
    if v0 is None:
        return None
    array = as_float_array("v0", v0, 2 if np.ndim(v0) == 2 else 1)
    if array.shape[0] != n or array.size == 0:
        raise ValueError(f"v0 has shape {array.shape}; expected ({n},) or ({n}, b)")
    check_finite("v0", array)
    vectors = array.reshape(n, -1).T[: operator.cols].astype(float)
    sizes = np.exp2(np.frexp(np.abs(vectors).max(axis=1, keepdims=True))[1].clip(-1000, 1000))  # directions matter
    rows = np.ascontiguousarray(vectors / sizes, dtype=operator.dtype)
    return operator.backward(rows) if operator.transposed else rows


def _check_k(k: Any, A: FloatArray, index: int) -> None:
    check_count("k", k)
    if k > min(A.shape):
        raise ValueError(f"k is {k}; expected at most {min(A.shape)}, the smaller side of matrix[{index}]")


def _message(run: SvdRun, converged: Sequence[bool] | FloatArray, limited: bool) -> str:
    floor = f" tol was below the floor of this precision; {run.tol:g} was used." if limited else ""
    if run.status == "converged":
        return f"all residuals are at most {run.tol:g} of the largest singular value." + floor
    if run.status == "stopped":
        return "the callback stopped the run; triplets and residuals are the best so far." + floor
    missing = int((~np.asarray(converged)).sum())
    if run.status == "max_iterations":
        return f"{missing} triplets did not converge in {run.steps} steps; raise maxiter or tol, or pass v0." + floor
    return f"{missing} triplets stopped at the rounding of {run.operator.dtype}; raise tol, or use float64." + floor
