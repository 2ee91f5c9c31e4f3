"""Spectra of a model's layers one by one, balance and coupling of consecutive ones.

With the unfoldings R and C of `layers.py`, consecutive layers share the d = g·o channels of the lower and g·i of the
upper layer. Balance compares the d × d Gram matrices CᵀC of the upper and RRᵀ (+ bbᵀ with a bias) of the lower one: in
linear networks gradient flow keeps their difference constant (docs/theory.md, 5), with homogeneous activations between
the layers its diagonal. Coupling compares left vectors of R with right vectors of C.

A convolution followed by Flatten meets a Linear layer with p positions a channel, channel-major: its weight
(out, d·p) is the kernel (1, out, d, p).

Cost: the top-k SVD of R for every layer and of C for every pair with K > 1, and two Gram matrices a pair, 2d²(iK + oK)
flops. One layer's weights and its predecessor's are held at a time.

Source: docs/theory.md, 5 and 6; Du, Hu & Lee (2018) for the diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.linalg

from flatcore import _core
from flatcore._checks import FloatArray, check_count, check_finite, chunks, is_half, with_unit_stride
from flatcore._memory import check_memory
from flatcore._threads import limit_threads
from flatcore.results import LayerPair, LayerSpectrum, ModuleAnalysis, SvdResult, read_only
from flatcore.spectral import top_svd
from flatcore.weights.coupling import angle_chance, overlap_chance, principal_cosines, usable_values
from flatcore.weights.layers import Kernel, Layer, kernel_columns, kernel_rows
from flatcore.weights.spectra import Svd

Progress = Callable[[str, float], None]
_PANEL_ENTRIES = 1 << 22  # converted to float64 together


class _Triplets(NamedTuple):
    """Top singular triplets of a block-diagonal matrix."""

    svd: Svd
    residuals: FloatArray
    converged: FloatArray
    status: str


def analyze_layers(
    model: str,
    layers: Sequence[Layer],
    k: int = 8,
    *,
    order: str,
    not_analysed: Sequence[str] = (),
    tied: Sequence[str] = (),
    tol: float | None = None,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> ModuleAnalysis:
    """Spectra of layers, balance and coupling of consecutive ones.

    Parameters
    ----------
    model
        What the record calls the model.
    layers
        In the order in which they are taken to be applied.
    k
        Singular vectors a layer (fewer where the layer has fewer).
    order, not_analysed, tied
        For the record: what the order is, and what was left out.
    tol, seed, threads
        As in :func:`flatcore.top_svd`.
    progress
        Called with what is being done and the fraction of all done.

    Returns
    -------
    ModuleAnalysis

    Raises
    ------
    ValueError
        A bad argument, no layer, weights that hold NaN or Inf.

    """
    check_count("k", k)
    if not layers:
        left_out = f" (not analysed: {'; '.join(not_analysed)})" if not_analysed else ""
        raise ValueError(f"{model} has no Linear layer and no convolution; expected at least one{left_out}")
    spectra, pairs, apart = [], [], []
    before: tuple[Layer, Kernel, _Triplets] | None = None
    with limit_threads(threads):
        for index, layer in enumerate(layers):
            if progress is not None:
                progress(layer.name, index / len(layers))
            kernel = _checked(layer)
            top = _top_triplets(kernel_rows(kernel.weight), k, tol, seed)
            spectra.append(_spectrum(layer, kernel, top, k))
            if before is not None and layer.parted:
                apart.append(f"{before[0].name} → {layer.name}: {layer.parted}")
            elif before is not None and (positions := _positions(before[0], layer)) is None:
                apart.append(f"{before[0].name} → {layer.name}: {before[0].outputs} go out, {layer.inputs} come in")
            elif before is not None:
                pairs.append(_pair(before, (layer, kernel, top), positions or 1, k, tol, seed))
            before = layer, kernel, top
    if progress is not None:
        progress("done", 1.0)
    return ModuleAnalysis(model, order, k, tuple(spectra), tuple(pairs), tuple(apart), tuple(not_analysed), tuple(tied))


def _checked(layer: Layer) -> Kernel:
    """The layer's kernel, refused by name where it is not finite."""
    kernel = layer.load()
    g, o, i, K = kernel.weight.shape
    check_finite(layer.name, kernel.weight.reshape(g * o, i * K))
    if kernel.bias is not None:
        check_finite(f"the bias of {layer.name}", kernel.bias)
    return kernel


def _top_triplets(blocks: FloatArray, k: int, tol: float | None, seed: int) -> _Triplets:
    """The top k triplets of diag(blocks): the largest among those of the blocks (g, m, n)."""
    g, m, n = blocks.shape
    found = [_one(block, min(k, m, n), tol, seed) for block in blocks]
    if g == 1:
        one = found[0]
        return _Triplets(Svd(one.U, one.s, one.Vt), one.residuals, one.converged, one.status)
    owner = np.repeat(np.arange(g), [len(r.s) for r in found])
    number = np.concatenate([np.arange(len(r.s)) for r in found])
    best = np.argsort(-np.concatenate([r.s for r in found]), kind="stable")[:k]
    U, Vt = np.zeros((g * m, len(best))), np.zeros((len(best), g * n))
    for place, (b, r) in enumerate(zip(owner[best], number[best], strict=True)):
        U[b * m : (b + 1) * m, place] = found[b].U[:, r]
        Vt[place, b * n : (b + 1) * n] = found[b].Vt[r]
    s, residuals, converged = (
        np.concatenate([getattr(r, name) for r in found])[best] for name in ("s", "residuals", "converged")
    )
    status = next((r.status for r in found if r.status != "converged"), "converged")
    return _Triplets(Svd(U, s, Vt), residuals, converged, status)


def _one(matrix: FloatArray, k: int, tol: float | None, seed: int) -> SvdResult:
    result = top_svd(matrix, k, tol=tol, seed=seed)
    assert isinstance(result, SvdResult)
    return result


def _spectrum(layer: Layer, kernel: Kernel, top: _Triplets, k: int) -> LayerSpectrum:
    spectral, frobenius = float(top.svd.s[0]), _frobenius(kernel.weight)
    text, values = layer.convolution() if layer.convolution is not None else ("", np.zeros(0))
    return LayerSpectrum(
        name=layer.name,
        kind=layer.kind,
        shape=layer.shape,
        dtype=layer.dtype,
        matrix=layer.unfolding(),
        values=read_only(top.svd.s),
        residuals=read_only(top.residuals),
        converged=read_only(top.converged),
        status=top.status,
        spectral=spectral,
        frobenius=frobenius,
        stable_rank=(frobenius / spectral) ** 2 if spectral > 0.0 else math.nan,
        convolution=text,
        convolution_values=read_only(values[:k]),
        convolution_all=read_only(values),
    )


def _frobenius(array: FloatArray) -> float:
    """‖array‖_F, summed in float64 without overflow."""
    flat = array.reshape(-1)
    parts = [scipy.linalg.norm(flat[part].astype(float)) for part in chunks(flat.size, _PANEL_ENTRIES)]
    return float(scipy.linalg.norm(parts))


def _positions(lower: Layer, upper: Layer) -> int | None:
    """Inputs of the upper layer a channel of the lower one: 1, p after Flatten, None where they do not fit."""
    if upper.inputs == lower.outputs:
        return 1
    flattened = bool(lower.offsets) and not upper.offsets and upper.inputs % lower.outputs == 0
    return upper.inputs // lower.outputs if flattened else None


def _pair(
    below: tuple[Layer, Kernel, _Triplets],
    above: tuple[Layer, Kernel, _Triplets],
    positions: int,
    k: int,
    tol: float | None,
    seed: int,
) -> LayerPair:
    (lower, kernel, left), (upper, next_kernel, right) = below, above
    weight, name = next_kernel.weight, upper.unfolding(columns=True)
    if positions > 1:  # channel-major: (1, out, d·p, 1) is the kernel (1, out, d, p)
        weight = weight.reshape(1, upper.dims[1], lower.outputs, positions)
        name = f"weight reshaped (out·positions, channels), {positions} positions a channel, channel-major"
    columns = kernel_columns(weight)
    if weight.shape[-1] > 1:
        right = _top_triplets(columns, k, tol, seed)
    gap, relative = _gaps(kernel, columns)
    U, Vt = left.svd.U.astype(float), right.svd.Vt.astype(float)
    overlaps = np.minimum(np.abs(Vt @ U).T, 1.0)  # rounding may carry it beyond 1
    d, largest = lower.outputs, float(overlaps.max())
    chance = overlap_chance(d, overlaps.size)
    return LayerPair(
        lower=lower.name,
        upper=upper.name,
        width=d,
        matrices=(lower.unfolding(), name),
        between=upper.between,
        gap=gap,
        relative_gap=relative,
        overlaps=read_only(overlaps),
        largest=largest,
        chance=chance,
        chance_95=overlap_chance(d, overlaps.size, 0.95),
        ratio=largest / chance,
        angles=read_only(principal_cosines(left.svd, right.svd)),
        angle_chance=angle_chance(d, min(overlaps.shape)),
        status=_pair_status(left, right),
    )


def _pair_status(left: _Triplets, right: _Triplets) -> str:
    if min(left.svd.s[0], right.svd.s[0]) <= 0.0:
        return "a layer is zero: its singular vectors mean nothing"
    if any(np.count_nonzero(usable_values(t.svd)) < len(t.svd.s) for t in (left, right)):
        return "some singular values are tied or vanish: look at the angles"
    if not (left.converged.all() and right.converged.all()):
        return "some singular vectors did not converge"
    return "computed"


def _gaps(lower: Kernel, columns: FloatArray) -> tuple[float, float]:
    """‖CᵀC − RRᵀ − bbᵀ‖_F and the relative gap; the kernels' own where both matrices are whole."""
    rows = kernel_rows(lower.weight)
    if len(rows) == len(columns) == 1:
        chain = _chain_of(rows[0], lower.bias, columns[0])
        gap, relative = _core.layer_balance(chain)
        return float(gap[0]), float(relative[0])
    d = rows.shape[0] * rows.shape[1]
    check_memory(f"the balance of layers {d} wide", 3 * 8 * d * d)
    Y = scipy.linalg.block_diag(*(R @ R.T for R in rows.astype(float)))
    X = scipy.linalg.block_diag(*(C.T @ C for C in columns.astype(float)))
    if lower.bias is not None:
        Y += np.outer(lower.bias.astype(float), lower.bias.astype(float))
    size = math.hypot(scipy.linalg.norm(X), scipy.linalg.norm(Y))
    gap = float(scipy.linalg.norm(X - Y))
    return gap, gap / size if size > 0.0 else 0.0


def _chain_of(R: FloatArray, bias: FloatArray | None, C: FloatArray) -> _core.Chain:
    """Two layers as the kernels take them: one precision, half as stored beside float32."""
    wide = any(a is not None and a.dtype == np.float64 for a in (R, bias, C))
    dtype = np.dtype(np.float64 if wide else np.float32)
    matrices = [with_unit_stride(A if is_half(A.dtype) and not wide else A.astype(dtype, copy=False)) for A in (R, C)]
    vector = None if bias is None else np.ascontiguousarray(bias.astype(dtype, copy=False))
    return _core.Chain(matrices, [vector, None], [False, False])
