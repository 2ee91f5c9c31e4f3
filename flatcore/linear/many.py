"""analyze_many: sharpness, gradient, balance of many small chains of equal widths, threads over chains.

Chains share one quadratic loss, whose data are held as moments; the whole loop over chains runs in the kernels
(``src/cpp/core/many_chains.hpp``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import scipy.linalg

from flatcore import _core
from flatcore._checks import FloatArray, as_float_array, as_numpy, check_choice, check_count, check_finite, chunks
from flatcore._memory import check_memory
from flatcore._threads import limit_threads
from flatcore.linear.losses import QuadraticLoss
from flatcore.results import ManyAnalyses, read_only
from flatcore.spectral._certificate import beyond_seen, certified_gap
from flatcore.spectral._costs import MISS_PROBABILITY
from flatcore.spectral._tolerance import checked_tol

CERTIFIED_GAP = 0.1  # of the spectrum's width
DEFAULT_PRODUCTS = 2000
_BASIS_ROWS = 161  # of a thread's Lanczos basis, the next vector included: src/cpp/core/small_lanczos.cpp
_ENTRIES_PER_CHECK = 1 << 22  # looked at between two chances for Ctrl-C
_STATUS = np.array(["converged", "precision_limited", "max_iterations", "overflow"])


def analyze_many(
    weights_stack: Any,
    loss: QuadraticLoss,
    k: int = 1,
    *,
    curvature: str = "hessian",
    tol: float | None = None,
    seed: int = 0,
    maxiter: int | None = None,
    measures: bool = True,
    vectors: bool = False,
    threads: int | None = None,
) -> ManyAnalyses:
    """The largest curvatures, and the scalars of :func:`analyze`, of many chains under one loss.

    Parameters
    ----------
    weights_stack
        One array a layer, ``weights_stack[j]`` of shape (batch, d_{j+1}, d_j), or a single array
        (batch, M, d, d): NumPy arrays or CPU tensors, any strides.
    loss
        A :class:`QuadraticLoss`, shared by all chains. Other losses: call :func:`analyze` for each chain.
    k
        Eigenvalues a chain, at most its number of parameters P.
    curvature
        ``"hessian"`` or ``"ggn"``.
    tol
        Relative: ‖Hv − λv‖ ≤ tol·max|λ|; None means 1e-6 in float64 and 1e-4 in float32.
    seed
        Of all random vectors; the same seed gives the same bits for any number of threads.
    maxiter
        Most Hessian products a chain; None means 2000.
    measures
        Whether to measure gradient norms, ‖Φ‖₂ and gaps too, which takes about a tenth of the time; NaN without.
    vectors
        Whether to keep the eigenvectors, batch·k·P entries.
    threads
        Threads for this call; None leaves the process's setting alone.

    Returns
    -------
    ManyAnalyses
        Arrays over the batch. Not converging is a status of a chain, never an exception.

    Raises
    ------
    ValueError
        Shapes that do not chain, stacks of different lengths, NaN or Inf (layer and chain named), a loss that is not
        quadratic or has data for other widths, a bad argument.
    MemoryError
        Eigenvectors that cannot fit.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> stack = np.broadcast_to(np.eye(3), (5, 4, 3, 3))  # five chains of four identity layers
    >>> loss = fc.QuadraticLoss(np.eye(3) * 3**0.5, np.eye(3) * 3**0.5)
    >>> result = fc.analyze_many(stack, loss, k=2)
    >>> result.values.shape, result.values[0].round(9)
    ((5, 2), array([8., 8.]))

    Source: docs/theory.md; Lanczos with partial reorthogonalisation after Simon (1984).

    """
    with limit_threads(threads):
        layers = _checked_stack(weights_stack)
    _check_loss(loss, layers)
    parameters = sum(layer[0].size for layer in layers)
    k = check_count("k", k, 1, parameters)
    check_choice("curvature", curvature, ("hessian", "ggn"))
    dtype = layers[0].dtype
    used_tol, limited = checked_tol(tol, dtype)
    seed = check_count("seed", seed, 0, 2**64 - 1)
    products = DEFAULT_PRODUCTS if maxiter is None else check_count("maxiter", maxiter)
    _check_memory(len(layers[0]), k, parameters, dtype.itemsize, bool(vectors), threads)
    form = loss.whitened(False)
    basis, roots = _principal_axes(form.factor)
    settings = {
        "k": k,
        "tol": used_tol,
        "seed": seed,
        "max_steps": products,
        "certified_steps": _certified_steps(parameters, _share(k)),
        "gauss_newton": curvature == "ggn",
        "measures": bool(measures),
        "vectors": bool(vectors),
    }
    with limit_threads(threads):
        found = _core.many_sharpness(
            layers,
            basis,
            roots,
            np.ascontiguousarray(form.target),
            form.scale,
            form.constant,
            settings,
        )
    return _result(found, layers, curvature, used_tol, limited, seed, parameters)


def _check_memory(batch: int, k: int, parameters: int, itemsize: int, vectors: bool, threads: int | None) -> None:
    """A basis and the vectors found, in the chain's precision and with their images in float64, for each thread."""
    if vectors:
        check_memory("all eigenvectors", batch * k * parameters * itemsize)
    workers = min(threads or _core.max_threads(), batch)
    each = ((_BASIS_ROWS + k) * itemsize + 2 * 8 * (k + 1)) * parameters
    check_memory(f"a basis and {k} eigenvectors of {parameters} entries for each of {workers} threads", workers * each)


def _principal_axes(L: FloatArray) -> tuple[FloatArray, list[float]]:
    """Q (d_0, d_0) orthogonal and roots (r,) with L = Q[:, :r]·diag(roots); the whitening's columns are orthogonal."""
    Q, R = scipy.linalg.qr(L)
    return np.ascontiguousarray(Q), np.diag(R).tolist()


def _checked_stack(stack: Any) -> list[FloatArray]:
    """The layers as arrays (batch, d_j, d_{j-1}) of one precision, views where possible."""
    if isinstance(stack, Sequence):
        given = [as_float_array(f"weights_stack[{j}]", layer, 3) for j, layer in enumerate(stack)]
        if not given:
            raise ValueError("weights_stack is empty; expected at least one layer")
    else:
        whole = as_numpy("weights_stack", stack)
        if whole.ndim != 4 or whole.shape[2] != whole.shape[3]:
            raise ValueError(
                f"weights_stack has shape {whole.shape}; expected (batch, M, d, d), "
                "or a list with one array (batch, d_j, d_{j-1}) a layer"
            )
        whole = as_float_array("weights_stack", whole, 4)
        given = [whole[:, j] for j in range(whole.shape[1])]
        if not given:
            raise ValueError(f"weights_stack has shape {whole.shape}; expected at least one layer")
    dtype = np.result_type(*given)
    layers = [_with_whole_strides(layer.astype(dtype, copy=False)) for layer in given]
    _check_shapes(layers)
    for j, layer in enumerate(layers):
        _check_entries(j, layer)
    return layers


def _with_whole_strides(layer: FloatArray) -> FloatArray:
    whole = all(stride % layer.itemsize == 0 for stride in layer.strides)
    return layer if whole else np.ascontiguousarray(layer)


def _check_shapes(layers: Sequence[FloatArray]) -> None:
    for j, layer in enumerate(layers):
        if layer.size == 0:
            raise ValueError(f"weights_stack[{j}] has shape {layer.shape}; expected at least one entry")
        if len(layer) != len(layers[0]):
            raise ValueError(
                f"weights_stack[{j}] has shape {layer.shape}; expected {len(layers[0])} chains, as in weights_stack[0]"
            )
        if j and layer.shape[2] != layers[j - 1].shape[1]:
            raise ValueError(
                f"weights_stack[{j}] has shape {layer.shape}; its columns must match weights_stack[{j - 1}]'s "
                f"{layers[j - 1].shape[1]} rows"
            )


def _check_entries(j: int, layer: FloatArray) -> None:
    """Refuse NaN and Inf by layer, chain and position; the largest modulus tells where all is well."""
    for part in chunks(len(layer), max(1, _ENTRIES_PER_CHECK // layer[0].size)):
        if not np.isfinite(_core.magnitude(layer[part].reshape(-1, layer[0].size))[0]):
            chain = next(i for i in range(part.start, part.stop) if not np.isfinite(layer[i]).all())
            check_finite(f"weights_stack[{j}] of chain {chain}", layer[chain])


def _check_loss(loss: Any, layers: Sequence[FloatArray]) -> None:
    if not isinstance(loss, QuadraticLoss):
        raise ValueError(
            f"loss is a {type(loss).__name__}; analyze_many takes a QuadraticLoss (call analyze for each chain)"
        )
    loss.check_shape((layers[-1].shape[1], layers[0].shape[2]), False)


def _share(k: int) -> float:
    """Each of k runs may miss at its end, and one at the other, which bounds the width."""
    return MISS_PROBABILITY / (k + 1)


@cache
def _certified_steps(parameters: int, probability: float) -> int:
    """The fewest Lanczos steps from a random vector that certify δ = CERTIFIED_GAP of the spectrum's width."""
    steps = 2
    while _relative_gap(parameters, steps, probability) > CERTIFIED_GAP:
        steps += 1
    return steps


def _relative_gap(parameters: int, steps: int, probability: float) -> float:
    """δ over the spectrum's width after so many Lanczos steps from one random vector; unknown after a single one.

    Its entries are uniform, not normal: a component is small √(π/3) times as likely (src/cpp/core/many_chains.hpp).
    """
    normal = probability * math.sqrt(3.0 / math.pi)
    return certified_gap(parameters, 1, steps, 1.0, normal) if steps > 1 else float("inf")


def _gaps(found: dict[str, FloatArray], parameters: int) -> FloatArray:
    """The certified δ of each chain, from the fewest steps any of its k runs made."""
    probability = _share(found["values"].shape[1])
    steps, inverse = np.unique(found["steps"], return_inverse=True)
    beyond = [0.0 if q == 0 else beyond_seen(_relative_gap(parameters, int(q), probability)) for q in steps]
    shares = np.array(beyond)[inverse]
    told = np.isfinite(shares)
    gaps = np.where(told, shares, 0.0) * found["width"] + np.linalg.norm(found["residuals"], axis=1)
    return np.where(told | np.isnan(gaps), gaps, np.inf)


def _result(
    found: dict[str, FloatArray],
    layers: Sequence[FloatArray],
    curvature: str,
    tol: float,
    limited: bool,
    seed: int,
    parameters: int,
) -> ManyAnalyses:
    converged = found["residuals"] <= tol * found["extent"][:, None]
    rows = found.get("vectors")
    return ManyAnalyses(
        dims=(layers[0].shape[2], *(layer.shape[1] for layer in layers)),
        num_parameters=parameters,
        curvature=curvature,
        values=read_only(found["values"]),
        residuals=read_only(found["residuals"]),
        converged=read_only(converged),
        status=read_only(_STATUS[found["status"]]),
        products=read_only(found["products"]),
        delta=read_only(_gaps(found, parameters)),
        probability=MISS_PROBABILITY,
        loss=read_only(found["loss"]),
        gradient_norm=read_only(found["gradient_norm"]),
        spectral_norm=read_only(found["spectral_norm"]),
        gap=read_only(found["gap"]),
        relative_gap=read_only(found["relative_gap"]),
        tol=tol,
        seed=seed,
        message=_message(found["status"], tol, limited, layers[0].dtype),
        vectors=None if rows is None else read_only(rows.swapaxes(1, 2)),
    )


def _message(status: FloatArray, tol: float, limited: bool, dtype: np.dtype[Any]) -> str:
    advice = (
        f"reached residuals of {tol:g} of the largest modulus",
        f"stopped at the rounding of {dtype}: raise tol, or use float64",
        "reached maxiter: raise it, or tol",
        "overflow: their loss is not finite",
    )
    counts = np.bincount(status, minlength=len(advice))
    parts = [f"{count} chains {text}" for count, text in zip(counts, advice, strict=True) if count]
    floor = f"; tol was below the floor of this precision, {tol:g} was used" if limited else ""
    return "; ".join(parts) + floor + "."
