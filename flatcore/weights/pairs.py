"""Balance and coupling of two layers in the width they share, and the triplets and norms that this takes.

With the unfoldings R and C of `layers.py`, consecutive layers share the d = g·o channels of the lower and g·i of the
upper layer. Balance compares the d × d Gram matrices X = CᵀC of the upper and Y = RRᵀ (+ bbᵀ with a bias) of the lower
one: in linear networks gradient flow keeps their difference constant (docs/theory.md, 5), with homogeneous activations
between the layers its diagonal. Coupling compares left vectors of R with right vectors of C.

A convolution followed by Flatten meets a Linear layer with p positions a channel, channel-major: its weight
(out, d·p) is the kernel (1, out, d, p).

Where two Gram matrices cost more than asked for, ‖X − Y‖_F² is the mean of ‖(X − Y)z‖² over random signs z.

cost    two Gram matrices, 2d²(iK + oK) flops; or 4·8·d(iK + oK) to 4·32·d(iK + oK) for the estimate.
source  docs/theory.md, 5 and 6; Du, Hu & Lee (2018) for the diagonal; Hutchinson (1990) for the estimate.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import scipy.linalg

from flatcore import _core
from flatcore._checks import FloatArray, chunks, is_half, with_unit_stride
from flatcore._memory import check_memory
from flatcore.results import LayerPair, SvdResult, read_only
from flatcore.spectral._svd_operator import as_matrix
from flatcore.spectral._top_svd import search
from flatcore.weights.coupling import angle_chance, overlap_chance, principal_cosines, usable_values
from flatcore.weights.layers import Kernel, Layer, kernel_columns, kernel_rows
from flatcore.weights.spectra import Svd

_PANEL_ENTRIES = 1 << 22  # converted to float64 together
_BATCH, _PROBES, _CLOSE = 8, 32, 0.02  # signs together, at most; relative error that needs no more of them


class Triplets(NamedTuple):
    """Top singular triplets of a block-diagonal matrix, and how often it was read for them."""

    svd: Svd
    residuals: FloatArray
    converged: FloatArray
    status: str
    reads: int

    @classmethod
    def of(cls, found: SvdResult) -> Triplets:
        """Those of one matrix."""
        return cls(Svd(found.U, found.s, found.Vt), found.residuals, found.converged, found.status, found.reads)


class Member(NamedTuple):
    """A layer with its weights and the triplets of its rows unfolding."""

    layer: Layer
    kernel: Kernel
    top: Triplets


class Gap(NamedTuple):
    """‖X − Y‖_F, the same over the hypotenuse of both norms, and the first one's standard error."""

    gap: float
    relative: float
    error: float = 0.0


NOT_BALANCED = Gap(math.nan, math.nan)


def top_triplets(blocks: FloatArray, k: int, tol: float | None = None, seed: int = 0) -> Triplets:
    """The top k triplets of diag(blocks): the largest among those of the blocks (g, m, n).

    Parameters
    ----------
    blocks
        (g, m, n), read in place.
    k, tol, seed
        As in :func:`flatcore.top_svd`; k at most the smaller side.

    Returns
    -------
    Triplets

    """
    g, m, n = blocks.shape
    found = [search("matrix", as_matrix("matrix", block), k=min(k, m, n), tol=tol, seed=seed)[0] for block in blocks]
    if g == 1:
        return Triplets.of(found[0])
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
    return Triplets(Svd(U, s, Vt), residuals, converged, status, sum(r.reads for r in found))


def frobenius(array: FloatArray) -> float:
    """‖array‖_F, summed in float64 without overflow, in the order of the memory."""
    flat = array.ravel(order="K")
    parts = [scipy.linalg.norm(flat[part].astype(float)) for part in chunks(flat.size, _PANEL_ENTRIES)]
    return float(scipy.linalg.norm(parts))


def positions_of(lower: Layer, upper: Layer) -> int | None:
    """Inputs of the upper layer a channel of the lower one: 1, p after Flatten, None where they do not fit."""
    if upper.inputs == lower.outputs:
        return 1
    flattened = bool(lower.offsets) and not upper.offsets and upper.inputs % lower.outputs == 0
    return upper.inputs // lower.outputs if flattened else None


def layer_pair(
    below: Member,
    above: Member,
    positions: int = 1,
    *,
    k: int,
    tol: float | None = None,
    seed: int = 0,
    balanced: bool = True,
    most_flops: float = math.inf,
) -> LayerPair:
    """Balance and coupling of two consecutive layers.

    Parameters
    ----------
    below, above
        The layers, applied in this order.
    positions
        From :func:`positions_of`.
    k, tol, seed
        Of the triplets of the upper layer's columns where these are another matrix than its rows.
    balanced
        Whether training keeps the difference of the Gram matrices, so that it means anything; if not, gaps are NaN.
    most_flops
        From here on the gap is estimated.

    Returns
    -------
    LayerPair

    """
    (lower, kernel, left), (upper, next_kernel, right) = below, above
    weight, name = next_kernel.weight, upper.unfolding(columns=True)
    if positions > 1:  # channel-major: (1, out, d·p, 1) is the kernel (1, out, d, p)
        weight = weight.reshape(1, upper.dims[1], lower.outputs, positions)
        name = f"weight reshaped (out·positions, channels), {positions} positions a channel, channel-major"
    columns = kernel_columns(weight)
    if weight.shape[-1] > 1:
        right = top_triplets(columns, k, tol, seed)
    gap = _gap(kernel, columns, most_flops, seed) if balanced else NOT_BALANCED
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
        gap=gap.gap,
        relative_gap=gap.relative,
        overlaps=read_only(overlaps),
        largest=largest,
        chance=chance,
        chance_95=overlap_chance(d, overlaps.size, 0.95),
        ratio=largest / chance,
        angles=read_only(principal_cosines(left.svd, right.svd)),
        angle_chance=angle_chance(d, min(overlaps.shape)),
        status=_status(left, right),
        gap_error=gap.error,
    )


def _status(left: Triplets, right: Triplets) -> str:
    if min(left.svd.s[0], right.svd.s[0]) <= 0.0:
        return "a layer is zero: its singular vectors mean nothing"
    if any(np.count_nonzero(usable_values(t.svd)) < len(t.svd.s) for t in (left, right)):
        return "some singular values are tied or vanish: look at the angles"
    if not (left.converged.all() and right.converged.all()):
        return "some singular vectors did not converge"
    return "computed"


def _gap(lower: Kernel, columns: FloatArray, most_flops: float, seed: int) -> Gap:
    """‖CᵀC − RRᵀ − bbᵀ‖_F; by the kernels' own where both matrices are whole, estimated where that costs too much."""
    rows = kernel_rows(lower.weight)
    if len(rows) == len(columns) == 1:
        width = rows.shape[1]
        if 2.0 * width * (rows[0].size + columns[0].size) > most_flops:
            return _estimated(rows[0], lower.bias, columns[0], seed)
        gap, relative = _core.layer_balance(_chain_of(rows[0], lower.bias, columns[0]))
        return Gap(float(gap[0]), float(relative[0]))
    d = rows.shape[0] * rows.shape[1]
    check_memory(f"the balance of layers {d} wide", 3 * 8 * d * d)
    Y = scipy.linalg.block_diag(*(R @ R.T for R in rows.astype(float)))
    X = scipy.linalg.block_diag(*(C.T @ C for C in columns.astype(float)))
    if lower.bias is not None:
        Y += np.outer(lower.bias.astype(float), lower.bias.astype(float))
    gap = float(scipy.linalg.norm(X - Y))
    return Gap(gap, _ratio(gap, math.hypot(scipy.linalg.norm(X), scipy.linalg.norm(Y))))


def _estimated(R: FloatArray, bias: FloatArray | None, C: FloatArray, seed: int) -> Gap:
    """The gap from products with random signs; a relative error is that of the gap, as both norms share the signs.

    Batches of signs until the error is small beside the gap: that of large layers without a few strong directions is
    after the first.
    """
    rng, differences, sizes = np.random.default_rng(seed), np.zeros(0), np.zeros(0)
    while True:
        X, Y = _seen(R, bias, C, rng)
        differences = np.append(differences, ((X - Y) ** 2).sum(axis=1))
        sizes = np.append(sizes, (X**2).sum(axis=1) + (Y**2).sum(axis=1))
        gap, count = math.sqrt(float(differences.mean())), len(differences)
        error = float(differences.std(ddof=1)) / math.sqrt(count) / (2.0 * gap) if gap > 0.0 else 0.0
        if error <= _CLOSE * gap or count >= _PROBES:
            return Gap(gap, _ratio(gap, math.sqrt(float(sizes.mean()))), error)


def _seen(
    R: FloatArray, bias: FloatArray | None, C: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, FloatArray]:
    """The images of random signs under X and Y."""
    wide = any(a is not None and a.dtype == np.float64 for a in (R, bias, C))
    dtype = np.dtype(np.float64 if wide else np.float32)
    Z = rng.choice(np.array([-1.0, 1.0], dtype), (_BATCH, R.shape[0]))
    X, Y = np.empty_like(Z), np.empty_like(Z)
    _core.normal_product(with_unit_stride(C), Z, X, 1.0)
    _core.normal_product(with_unit_stride(R).T, Z, Y, 1.0)
    X, Y = X.astype(float), Y.astype(float)
    if bias is not None:
        b = bias.astype(float)
        Y += np.outer(Z @ b, b)
    return X, Y


def _ratio(gap: float, size: float) -> float:
    return gap / size if size > 0.0 else 0.0


def _chain_of(R: FloatArray, bias: FloatArray | None, C: FloatArray) -> _core.Chain:
    """Two layers as the kernels take them: one precision, half as stored beside float32."""
    wide = any(a is not None and a.dtype == np.float64 for a in (R, bias, C))
    dtype = np.dtype(np.float64 if wide else np.float32)
    matrices = [with_unit_stride(A if is_half(A.dtype) and not wide else A.astype(dtype, copy=False)) for A in (R, C)]
    vector = None if bias is None else np.ascontiguousarray(bias.astype(dtype, copy=False))
    return _core.Chain(matrices, [vector, None], [False, False])
