"""Spectra of a model's layers one by one, balance and coupling of consecutive ones (`pairs.py`).

Cost: the top-k SVD of R for every layer and of C for every pair with K > 1, and two Gram matrices a pair. One layer's
weights and its predecessor's are held at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from flatcore._checks import check_count, check_finite
from flatcore._threads import limit_threads
from flatcore.results import LayerSpectrum, ModuleAnalysis, read_only
from flatcore.weights.layers import Kernel, Layer, kernel_rows
from flatcore.weights.pairs import Member, frobenius, layer_pair, positions_of, top_triplets

Progress = Callable[[str, float], None]


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
    before: Member | None = None
    with limit_threads(threads):
        for index, layer in enumerate(layers):
            if progress is not None:
                progress(layer.name, index / len(layers))
            kernel = _checked(layer)
            here = Member(layer, kernel, top_triplets(kernel_rows(kernel.weight), k, tol, seed))
            spectra.append(_spectrum(here, k))
            if before is not None and layer.parted:
                apart.append(f"{before.layer.name} → {layer.name}: {layer.parted}")
            elif before is not None and (positions := positions_of(before.layer, layer)) is None:
                lower = before.layer
                apart.append(f"{lower.name} → {layer.name}: {lower.outputs} go out, {layer.inputs} come in")
            elif before is not None:
                pairs.append(layer_pair(before, here, positions or 1, k=k, tol=tol, seed=seed))
            before = here
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


def _spectrum(member: Member, k: int) -> LayerSpectrum:
    layer, kernel, top = member
    spectral, size = float(top.svd.s[0]), frobenius(kernel.weight)
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
        frobenius=size,
        stable_rank=(size / spectral) ** 2 if spectral > 0.0 else math.nan,
        convolution=text,
        convolution_values=read_only(values[:k]),
        convolution_all=read_only(values),
    )
