r"""trace: XTrace, an estimate in which every test vector serves twice.

With the projections of `_sketch.py`, P_i = I − Q_(i)ᵀQ_(i) of rank N − r_i, each test vector gives an estimate that is
unbiased because Q_(i) does not depend on ω_i, and P_i ω_i is uniform in direction:

    t_i = tr(Q_(i) A Q_(i)ᵀ) + (N − r_i)/‖P_iω_i‖² · ω_iᵀ P_i A P_i ω_i.

Their mean is the estimate, their standard deviation over √m its standard error. With w = W_i, c = C_i, s = s_i and
w' = (I − ssᵀ)w everything is small:

    tr(Q_(i) A Q_(i)ᵀ) = tr H − sᵀHs,    ‖P_iω_i‖² = ‖ω_i‖² − ‖w'‖²,    ω_iᵀP_iAP_iω_i = cᵀw − 2cᵀw' + w'ᵀHw'.

Source: Epperly, Tropp & Webber (2024), "XTrace: Making the most of every sample in stochastic trace estimation".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from flatcore._checks import asks_to_stop, check_callback, check_count
from flatcore._threads import limit_threads
from flatcore.results import SolverState, TraceEstimate
from flatcore.spectral._scaled import ScaledOperator
from flatcore.spectral._sketch import Sketch

DEFAULT_PRODUCTS = 128
_FEWEST_SAMPLES = 16  # before rtol may stop: errors estimated from fewer are too often too small
Callback = Callable[[SolverState], "bool | None"]


def trace(
    operator: Any,
    *,
    products: int | None = None,
    rtol: float | None = None,
    seed: int = 0,
    callback: Callback | None = None,
    threads: int | None = None,
) -> TraceEstimate:
    """Trace of a real symmetric operator with a standard error.

    Parameters
    ----------
    operator
        Anything with ``shape`` (N, N), ``dtype`` and ``@`` on arrays (N, b): a dense or sparse matrix, a SciPy
        ``LinearOperator``, a :class:`flatcore.Hessian`.
    products
        Most products with single vectors, at least 4; None means 128. Half of them meet test vectors, half the range
        found. From N on the trace is exact, by N products. Memory: products/2 vectors and a few blocks.
    rtol
        Stop where the standard error is at most rtol·|trace|; None spends all products.
    seed
        Of the test vectors; the same seed, threads and input give the same bits.
    callback
        Called after every 16 products with a :class:`flatcore.results.SolverState` (``values``: the estimate,
        ``residuals``: its standard error); returning True stops.
    threads
        Threads for this call; None leaves the process's setting alone.

    Returns
    -------
    TraceEstimate
        The value, its standard error, and a status; ``value, stderr = result`` unpacks.

    Raises
    ------
    ValueError
        A bad argument, or an operator that is not symmetric, or that returns NaN or a wrong shape.
    MemoryError
        Before starting, where the vectors cannot fit.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> result = fc.trace(np.diag(0.8 ** np.arange(500.0)), products=100)
    >>> round(result.value, 3), bool(result.stderr < 1e-4)
    (5.0, True)

    Source: XTrace, Epperly, Tropp & Webber (2024); see docs/theory.md.

    """
    check_callback(callback)
    scaled = ScaledOperator(operator)
    budget, seed = check_budget(products, rtol), check_count("seed", seed, 0)
    with limit_threads(threads):
        if budget >= scaled.length:
            total = sum(float(np.trace(image[:, part], dtype=np.float64)) for part, image in scaled.identity_blocks())
            message = f"the sum of all {scaled.length} diagonal entries."
            return TraceEstimate(total * scaled.scale, 0.0, "exact", message, scaled.products, 0, seed)
        sketch = Sketch(scaled, budget // 2, seed)
        status = None
        while status is None:
            sketch.extend()
            value, sampling, rounding = _estimate(sketch)
            stderr = math.hypot(sampling, rounding)
            units = np.array([value]) * scaled.scale, np.array([stderr]) * scaled.scale
            state = SolverState(sketch.samples, *units, scaled.products)
            stopped = callback is not None and asks_to_stop(callback(state))
            status = "stopped" if stopped else next_status(sketch, rtol, abs(value), sampling, rounding)
    message = outcome(status, abs(value), stderr, scaled.dtype)
    products = scaled.products
    return TraceEstimate(value * scaled.scale, stderr * scaled.scale, status, message, products, sketch.samples, seed)


def next_status(sketch: Sketch, rtol: float | None, size: float, sampling: float, rounding: float) -> str | None:
    """The status with which to end, or None to go on; `size` is what rtol is relative to."""
    if rtol is not None and sketch.samples >= min(_FEWEST_SAMPLES, sketch.capacity):
        if math.hypot(sampling, rounding) <= rtol * size:
            return "converged"
        if sampling <= rounding:
            return "precision_limited"
    if not sketch.full:
        return None
    return "estimated" if rtol is None else "max_products"


def outcome(status: str, size: float, stderr: float, dtype: np.dtype[Any]) -> str:
    """What the status means here, and what to do about it."""
    relative = 0.0 if stderr == 0.0 else stderr / size if size > 0.0 else math.inf
    reached = f"the standard error is {relative:.2g} of the value"
    return {
        "estimated": f"all products are spent; {reached}.",
        "converged": f"{reached}, rtol or less.",
        "max_products": f"all products are spent and {reached}; raise products or rtol.",
        "precision_limited": f"{reached}, the rounding of {dtype}; raise rtol, or use float64.",
        "stopped": f"the callback stopped the run; {reached}.",
    }[status]


def check_budget(products: int | None, rtol: float | None) -> int:
    """Both arguments checked; the number of products to spend at most."""
    budget = DEFAULT_PRODUCTS if products is None else check_count("products", products, 4)
    if rtol is not None and (not isinstance(rtol, (int, float, np.floating)) or not 0 < rtol < math.inf):
        raise ValueError(f"rtol is {rtol!r}; expected a positive number, or None")
    return budget


def _estimate(sketch: Sketch) -> tuple[float, float, float]:
    """Value, standard error of the sample, and size of rounding, of the scaled operator."""
    C, H, W, S = sketch.C, sketch.H, sketch.W, sketch.left_out()
    present = (S != 0.0).any(axis=0)
    rest = W - S * np.sum(S * W, axis=0)
    found = np.trace(H) - np.sum(S * (H @ S), axis=0)
    quadratic = np.sum(C.T * (W - 2.0 * rest) + rest * (H @ rest), axis=0)
    outside = sketch.squares - np.sum(rest * rest, axis=0)
    remaining = (sketch.vectors.length - sketch.rank + present) * quadratic / outside
    each = found + remaining
    eps = float(np.finfo(sketch.vectors.dtype).eps)
    rounding = eps * float(np.abs(np.linalg.eigvalsh(H)).sum() + abs(remaining.mean()))
    return float(each.mean()), float(each.std(ddof=1)) / math.sqrt(sketch.samples), rounding
