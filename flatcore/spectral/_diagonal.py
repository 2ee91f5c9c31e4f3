r"""diagonal: a two-sided XDiag for symmetric operators.

With the projections of `_sketch.py`, Π_i = Q_(i)ᵀQ_(i) and P_i = I − Π_i, A = Π_iA + AΠ_i − Π_iAΠ_i + P_iAP_i. The
first three terms are known; random signs ω_i, on which Π_i does not depend, estimate the diagonal of the last:

    d_i = diag(2Π_iA − Π_iAΠ_i) + ω_i ∘ P_iAP_iω_i,

unbiased, entry k with variance Σ_{j≠k} (P_iAP_i)²_kj. (XDiag uses Π_iA and P_iA; the rows of P_iA are longer than those
of P_iAP_i.) With V = HQ − Z, s = s_i, w' = (I − ssᵀ)W_i, x = Qᵀs and α = (C_i − Hw')ᵀs

    d_i = Σ_j q_j ∘ (z_j − v_j) + x ∘ (2Vᵀs − (sᵀHs)x + αω_i) + ω_i ∘ Vᵀw'.

The mean over i is the estimate, the standard deviation of each entry over √m its standard error.

cost: 10·N·m² flops.
Source: XDiag of Epperly, Tropp & Webber (2024); the two-sided form was derived here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from flatcore._checks import FloatArray, asks_to_stop, check_callback, check_count, chunks
from flatcore._threads import limit_threads
from flatcore.results import DiagonalEstimate, SolverState, read_only
from flatcore.spectral._scaled import ScaledOperator
from flatcore.spectral._sketch import BLOCK, Sketch
from flatcore.spectral._trace import Callback, check_budget, next_status, outcome
from flatcore.spectral._vectors import norm


def diagonal(
    operator: Any,
    *,
    products: int | None = None,
    rtol: float | None = None,
    seed: int = 0,
    callback: Callback | None = None,
    threads: int | None = None,
) -> DiagonalEstimate:
    """Diagonal of a real symmetric operator with a standard error for every entry.

    Parameters
    ----------
    operator
        Anything with ``shape`` (N, N), ``dtype`` and ``@`` on arrays (N, b): a dense or sparse matrix, a SciPy
        ``LinearOperator``, a :class:`flatcore.Hessian`.
    products
        Most products with single vectors, at least 4; None means 128. Half of them meet test vectors, half the range
        found. From N on the diagonal is exact, by N products. Memory: as many vectors as products, and a few blocks.
    rtol
        Stop where the norm of the standard errors is at most rtol times the norm of the diagonal; None spends all
        products.
    seed
        Of the test vectors; the same seed, threads and input give the same bits.
    callback
        Called after every 16 products with a :class:`flatcore.results.SolverState` (``values``: the diagonal so far,
        ``residuals``: its standard errors); returning True stops.
    threads
        Threads for this call; None leaves the process's setting alone.

    Returns
    -------
    DiagonalEstimate
        Values (N,) and standard errors (N,) in float64, and a status; ``values, stderr = result`` unpacks.

    Raises
    ------
    ValueError
        A bad argument, or an operator that is not symmetric, or that returns NaN or a wrong shape.
    MemoryError
        Before starting, where the vectors cannot fit.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> result = fc.diagonal(np.outer(np.arange(300.0), np.arange(300.0)), products=8)
    >>> bool(np.allclose(result.values, np.arange(300.0) ** 2))
    True

    Source: after XDiag, Epperly, Tropp & Webber (2024); see docs/theory.md.

    """
    check_callback(callback)
    scaled = ScaledOperator(operator)
    budget, seed = check_budget(products, rtol), check_count("seed", seed, 0)
    with limit_threads(threads):
        if budget >= scaled.length:
            return _exact(scaled, seed)
        scaled.vectors.check_memory("estimates of a diagonal", 8 * (4 + 4 * BLOCK) * scaled.length)
        sketch = Sketch(scaled, budget // 2, seed, signs=True, keep_images=True)
        wide, status = scaled.home(np.float64), None
        while status is None:
            sketch.extend()
            if callback is None and rtol is None and not sketch.full:
                continue
            mean, deviation, rounding = _estimate(sketch)
            size, error = (norm(wide, row) for row in (mean, deviation))
            status = next_status(sketch, rtol, size, error, rounding)
            if status is None and callback is None:
                continue
            values, sampling = (wide.host(row)[0] for row in (mean, deviation))
            stderr = np.hypot(sampling, rounding / math.sqrt(scaled.length)) * scaled.scale
            values *= scaled.scale
            state = SolverState(sketch.samples, read_only(values), read_only(stderr), scaled.products)
            if callback is not None and asks_to_stop(callback(state)):
                status = "stopped"
    message = outcome(status, size, math.hypot(error, rounding), scaled.dtype)
    return DiagonalEstimate(state.values, state.residuals, status, message, scaled.products, sketch.samples, seed)


def _exact(scaled: ScaledOperator, seed: int) -> DiagonalEstimate:
    values = np.empty(scaled.length)
    for part, image in scaled.identity_blocks():
        values[part] = np.diagonal(image[:, part])
    message = f"all {scaled.length} diagonal entries were computed."
    values, stderr = read_only(values * scaled.scale), read_only(np.zeros(scaled.length))
    return DiagonalEstimate(values, stderr, "exact", message, scaled.products, 0, seed)


def _estimate(sketch: Sketch) -> tuple[Any, Any, float]:
    """Values, standard errors of the sample, both a float64 row, and the norm of rounding, of the scaled operator."""
    H, S, m = sketch.H, sketch.left_out(), sketch.samples
    rest = sketch.W - S * np.sum(S * sketch.W, axis=0)
    curvature = np.sum(S * (H @ S), axis=0)
    alpha = np.sum((sketch.C.T - H @ rest) * S, axis=0)
    mean, squares = _zeros(sketch), _zeros(sketch)
    for part in chunks(m, BLOCK):
        x = _combined(sketch, S[:, part], None)
        along, across = (_combined(sketch, H @ Y[:, part], Y[:, part]) for Y in (S, rest))
        for i, omega in enumerate(sketch.tests(part.start)):
            n = part.start + i
            each = x[i] * (2.0 * along[i] - x[i] * curvature[n] + omega * alpha[n]) + omega * across[i]
            step = each - mean[0]
            mean[0] += step / (n + 1)
            squares[0] += step * (each - mean[0])
    mean += _base(sketch)
    squares /= m * (m - 1)
    squares **= 0.5
    return mean, squares, float(np.finfo(sketch.vectors.dtype).eps) * float(np.linalg.norm(H))


def _zeros(sketch: Sketch) -> Any:
    """A row of zeros in float64."""
    row = sketch.operator.home(np.float64).empty(1)
    row[:] = 0.0
    return row


def _combined(sketch: Sketch, first: FloatArray, second: FloatArray | None) -> Any:
    """The rows firstᵀ Q − secondᵀ Z."""
    out = sketch.vectors.empty(first.shape[1])
    out[:] = 0.0
    sketch.vectors.update(out, sketch.Q, -first)
    if second is not None:
        sketch.vectors.update(out, sketch.Z, second)
    return out


def _base(sketch: Sketch) -> Any:
    """Σ_j q_j ∘ (2z_j − (HQ)_j), the diagonal of ΠA + AΠ − ΠAΠ for the projection Π on all of Q."""
    out = _zeros(sketch)
    for part in chunks(sketch.rank, BLOCK):
        known = _combined(sketch, sketch.H[:, part], None)
        for q, z, h in zip(sketch.Q[part], sketch.Z[part], known, strict=True):
            out[0] += q * (2.0 * z - h)
    return out
