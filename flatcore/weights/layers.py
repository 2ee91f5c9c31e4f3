"""Spectra, balance and coupling of a model's layers, taken one by one: kernels of Linear layers and convolutions.

A kernel is w (g, o, i, K): g groups, each of which maps i input channels to o output channels at K offsets (g = K = 1
for Linear; a transposed convolution has its channels exchanged). Its two unfoldings are block-diagonal over the groups,

    rows     R: (g·o) × (g·i·K), one row an output channel,
    columns  C: (g·o·K) × (g·i), one column an input channel,

and are the same matrix where K = 1. Consecutive layers share the channels d = g·o of the lower and g·i of the upper
layer: balance compares the d × d Gram matrices CᵀC of the upper and RRᵀ (+ bbᵀ with a bias) of the lower one, which
gradient flow keeps a constant distance apart in linear networks (docs/theory.md, 5), and, on the diagonal, in networks
of homogeneous activations; coupling compares left vectors of R with right vectors of C.

A convolution followed by Flatten meets a Linear layer with p positions a channel, channel-major: its weight
(out, d·p) is the kernel (1, out, d, p).

Cost: the top-k SVD of R for every layer and of C for every pair with K > 1, and two Gram matrices a pair, 2d²(iK + oK)
flops. One layer's weights and its predecessor's are held at a time.

Source: docs/theory.md, 5 and 6; the unfoldings are those of Sedghi, Gupta & Long (ICLR 2019), section 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from flatcore import _core
from flatcore._checks import FloatArray, as_float_array, check_count, check_finite, chunks, is_half, with_unit_stride
from flatcore._memory import check_memory
from flatcore._threads import limit_threads
from flatcore.results import LayerPair, LayerSpectrum, ModuleAnalysis, SvdResult, read_only
from flatcore.spectral import top_svd
from flatcore.weights.coupling import angle_chance, overlap_chance, principal_cosines, usable_values
from flatcore.weights.spectra import Svd

Progress = Callable[[str, float], None]
_PANEL_ENTRIES = 1 << 22  # converted to float64 together


class Kernel(NamedTuple):
    """Weights w (g, o, i, K) and a bias (g·o,) or None."""

    weight: FloatArray
    bias: FloatArray | None = None


@dataclass(frozen=True)
class Layer:
    """A layer whose weights are loaded when they are needed.

    Parameters
    ----------
    name, kind, shape, dtype
        What the model calls it, what it is, and its weight as stored.
    dims
        (g, o, i, K) of its kernel.
    offsets
        The kernel's extent as text, ``"kh·kw"``; empty for matrices.
    load
        Gives the kernel.
    between
        Names of what is registered since the layer before.
    transposed
        Whether it is a transposed convolution.
    convolution
        Gives a text and all singular values of the whole convolution map, where these are known.

    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    dims: tuple[int, int, int, int]
    offsets: str
    load: Callable[[], Kernel]
    between: tuple[str, ...] = ()
    transposed: bool = False
    convolution: Callable[[], tuple[str, FloatArray]] | None = None

    @property
    def inputs(self) -> int:
        """Units or channels that come in, g·i."""
        return self.dims[0] * self.dims[2]

    @property
    def outputs(self) -> int:
        """Units or channels that go out, g·o."""
        return self.dims[0] * self.dims[1]

    def unfolding(self, columns: bool = False) -> str:
        """What the rows or columns unfolding is called."""
        if not self.offsets:
            return "weight (out, in)"
        rows = f"(out·{self.offsets}, in)" if columns else f"(out, in·{self.offsets})"
        kernel = "transposed convolution's kernel" if self.transposed else "kernel"
        return f"{kernel} reshaped {rows}" + (f", {self.dims[0]} diagonal blocks" if self.dims[0] > 1 else "")


class _Triplets(NamedTuple):
    """Top singular triplets of a block-diagonal matrix."""

    svd: Svd
    residuals: FloatArray
    converged: FloatArray
    status: str


def kernel_columns(weight: FloatArray) -> FloatArray:
    """Blocks (g, o·K, i) of the columns unfolding of a kernel (g, o, i, K)."""
    g, o, i, K = weight.shape
    return weight.transpose(0, 1, 3, 2).reshape(g, o * K, i)


def _rows(weight: FloatArray) -> FloatArray:
    """Blocks (g, o, i·K) of the rows unfolding."""
    g, o, i, K = weight.shape
    return weight.reshape(g, o, i * K)


def array_layers(arrays: Mapping[str, Any], biases: Mapping[str, str | None]) -> tuple[list[Layer], list[str]]:
    """Layers of named arrays: matrices (out, in) and kernels (out, in, …) of one to three offsets.

    Parameters
    ----------
    arrays
        Arrays by name, in the order of the layers.
    biases
        Name of the bias of each weight that has one.

    Returns
    -------
    layers
        One for each array of two to five dimensions that is not a bias.
    others
        The other arrays of two dimensions or more, with the reason.

    Raises
    ------
    ValueError
        An array of other than real numbers.

    """
    layers, others = [], []
    for name, value in arrays.items():
        shape = tuple(int(d) for d in value.shape)
        if len(shape) < 2:
            continue
        if len(shape) > 5 or 0 in shape:
            others.append(f"{name} {shape}: no matrix and no kernel of one to three offsets")
            continue
        kernel_of = _array_loader(name, value, biases.get(name), arrays)
        kind = "matrix" if len(shape) == 2 else f"kernel of a Conv{len(shape) - 2}d"
        dims = (1, shape[0], shape[1], math.prod(shape[2:]))
        layers.append(Layer(name, kind, shape, str(value.dtype), dims, offsets_text(len(shape) - 2), kernel_of))
    return layers, others


def offsets_text(dimensions: int) -> str:
    """The extent of a kernel of so many dimensions."""
    return ("", "k", "kh·kw", "kd·kh·kw")[dimensions]


def _array_loader(name: str, value: Any, bias: str | None, arrays: Mapping[str, Any]) -> Callable[[], Kernel]:
    def load() -> Kernel:
        weight = as_float_array(name, value, len(value.shape), keep_half=True)
        vector = None if bias is None or bias not in arrays else as_float_array(bias, arrays[bias], 1)
        fits = vector is not None and vector.shape == (weight.shape[0],)
        return Kernel(weight.reshape(1, *weight.shape[:2], -1), vector if fits else None)

    return load


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
            top = _top_triplets(_rows(kernel.weight), k, tol, seed)
            spectra.append(_spectrum(layer, kernel, top, k))
            if before is not None and (positions := _positions(before[0], layer)) is None:
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
    rows = _rows(lower.weight)
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
