"""Spectrum of the cross-entropy's Hessian at a solution, by this library's own eigensolver and density."""

from __future__ import annotations

from typing import Any

import numpy as np

from flatcore._checks import check_count
from flatcore._threads import limit_threads
from flatcore.results import SpectralDensity
from flatcore.spectral import eigsh, spectral_density
from flatcore.wfm.cross_entropy import CrossEntropyHessian
from flatcore.wfm.models import Committee
from flatcore.wfm.results import HessianSpectrum

_NEAR_ZERO = 1e-3
_ALL_EIGENVALUES = 1500  # weights up to which they are all computed
_PROBES, _STEPS = 16, 96


def hessian_spectrum(
    model: Committee,
    weights: Any,
    patterns: Any,
    *,
    beta: float = 2.0,
    gamma: float = 2.0,
    tangent: bool = False,
    k: int = 1,
    seed: int = 0,
    threads: int | None = None,
) -> HessianSpectrum:
    """Largest eigenvalues, trace, share near zero and density of the Hessian of the mean γ-cross-entropy.

    Parameters
    ----------
    model, weights, patterns, beta, gamma, tangent
        As in :class:`CrossEntropyHessian`: by default the full Hessian, as a function of all weights, at the weights as
        they are; solvers return them normalised.
    k
        Largest eigenvalues, at most K·n.
    seed
        Of random vectors.
    threads
        Threads for this call; None leaves the process's setting alone.

    Returns
    -------
    HessianSpectrum
        ``near_zero`` is the share of |λ| < 1e-3, exact up to 1,500 weights and else from the density, with its error.
        The K zeros of a tangent Hessian along the weights are counted, in all of these.

    Raises
    ------
    ValueError
        A bad argument.

    Examples
    --------
    >>> from flatcore import wfm
    >>> model = wfm.Committee(45, 5, weights="continuous")
    >>> patterns, teacher = wfm.teacher_patterns(model, 20)
    >>> wfm.hessian_spectrum(model, teacher, patterns).kind
    'full'

    Source: docs/wide-flat-minima.md; the eigensolver's certificate and the density: docs/theory.md.

    """
    check_count("seed", seed, 0)
    with limit_threads(threads):
        H = CrossEntropyHessian(model, weights, patterns, beta, gamma, tangent)
        top = eigsh(H, k=check_count("k", k, 1, H.shape[0]), seed=seed)
        if H.shape[0] <= _ALL_EIGENVALUES:
            density = spectral_density(H, probes=2, steps=-(-H.shape[0] // 2), seed=seed)
        else:
            density = spectral_density(H, probes=_PROBES, steps=_STEPS, seed=seed)
    near_zero, stderr = _share(density)
    return HessianSpectrum(
        kind="tangent" if tangent else "full",
        values=top.values,
        status=top.status,
        trace=H.trace(),
        near_zero=near_zero,
        near_zero_stderr=stderr,
        density=density,
        top=top,
        beta=float(beta),
        gamma=float(gamma),
        seed=seed,
    )


def _share(density: SpectralDensity) -> tuple[float, float]:
    return density.expectation(lambda x: (np.abs(x) < _NEAR_ZERO).astype(float))
