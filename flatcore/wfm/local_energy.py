"""Local energy: errors in the neighbourhood of a solution, the simplest measure of its flatness."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore._checks import as_float_array, as_numpy, check_choice, check_finite, chunks
from flatcore._memory import check_memory
from flatcore._threads import limit_threads
from flatcore.results import read_only
from flatcore.wfm._arguments import check_size, stream
from flatcore.wfm._online import Array, Examples
from flatcore.wfm.models import Committee, checked_model, checked_weights, normalised
from flatcore.wfm.patterns import checked_patterns, sign_words
from flatcore.wfm.predictions import binary_errors
from flatcore.wfm.results import LocalEnergy

Progress = Callable[[float], Any]
_FLIPS = np.linspace(0.0, 0.3, 30)
_NOISE = np.linspace(0.0, 0.5, 11)
_DRAWN_TOGETHER = 1 << 20  # random numbers


def local_energy(
    model: Committee,
    weights: Any,
    patterns: Any,
    *,
    scale: Any = None,
    samples: int = 100,
    seed: int = 0,
    perturbation: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> LocalEnergy:
    """How many more errors perturbed weights make, δE = E[err(w')] − err(w), err the share of patterns that are wrong.

    Parameters
    ----------
    model, weights
        A :class:`Committee` and its weights (K, n); continuous ones are normalised to ‖w_k‖² = n first.
    patterns
        :class:`Patterns`, or arrays (inputs, labels) of ±1.
    scale
        Strengths of the perturbation. ``"flips"``: p in [0, 1], each weight changes its sign with probability p, to a
        multiple of 2⁻²⁴; by default 30 values from 0 to 0.3. ``"gaussian"``: δ ≥ 0, w' = w + δz with every unit
        normalised again, z normal; ``"multiplicative"``: w' = w + δ z∘w; by default 11 values from 0 to 0.5.
    samples
        Perturbed weights for each strength, at least 2.
    seed
        Of the perturbations, drawn afresh for each strength; the same seed gives the same ones.
    perturbation
        ``"auto"`` flips binary weights, and is Gaussian for continuous ones.
    threads
        Threads for this call; None leaves the process's setting alone.
    progress
        Called with the share done after every batch of samples. Ctrl-C stops between and within batches.

    Returns
    -------
    LocalEnergy
        ``scale``, ``values``, ``stderr`` (over samples), ``errors`` of the weights themselves.

    Raises
    ------
    ValueError
        A bad argument, flips of continuous weights or noise on binary ones.

    Examples
    --------
    >>> from flatcore import wfm
    >>> model = wfm.Committee(153, 3)
    >>> patterns, teacher = wfm.teacher_patterns(model, 60)
    >>> float(wfm.local_energy(model, teacher, patterns, scale=[0, 0.3], samples=20).values[0])
    0.0

    Source: arXiv:2110.14583; docs/wide-flat-minima.md.

    """
    patterns = checked_patterns(checked_model(model), patterns)
    W = checked_weights(model, weights)
    kind = _kind(model, perturbation)
    strengths = _scale(kind, scale)
    samples = check_size("samples", samples, 2)
    rng = stream("local_energy", seed)
    if progress is not None and not callable(progress):
        raise ValueError(f"progress is {progress!r}; expected a function of a float, or None")
    check_memory("the errors of all samples", 8 * len(strengths) * samples)
    counts = np.empty((len(strengths), samples), dtype=np.int64)
    with limit_threads(threads):
        examples = Examples(model, patterns)
        count = _flipped(examples, W) if kind == "flips" else _disturbed(examples, normalised(model, W), kind)
        base = int(examples.errors(W[None])[0])
        done = 0
        for rows, part in _batches(len(strengths), samples, model.num_weights):
            at = np.repeat(strengths[rows], part.stop - part.start)
            counts[rows, part] = count(at, rng).reshape(-1, part.stop - part.start)
            done += len(at)
            if progress is not None:
                progress(done / counts.size)
    P = examples.count
    return LocalEnergy(
        perturbation=kind,
        scale=read_only(strengths),
        values=read_only((counts.mean(axis=1) - base) / P),
        stderr=read_only(counts.std(axis=1, ddof=1) / (P * np.sqrt(samples))),
        errors=base,
        samples=samples,
        seed=seed,
    )


def _kind(model: Committee, perturbation: str) -> str:
    check_choice("perturbation", perturbation, ("auto", "flips", "gaussian", "multiplicative"))
    if perturbation == "auto":
        return "flips" if model.weights == "binary" else "gaussian"
    if (perturbation == "flips") != (model.weights == "binary"):
        wanted = "'flips'" if model.weights == "binary" else "'gaussian' or 'multiplicative'"
        raise ValueError(f"perturbation is {perturbation!r}; the model is {model.weights}, expected {wanted}")
    return perturbation


def _scale(kind: str, scale: Any) -> NDArray[np.float64]:
    if scale is None:
        return (_FLIPS if kind == "flips" else _NOISE).copy()
    strengths = np.array(as_float_array("scale", np.atleast_1d(as_numpy("scale", scale)), 1), dtype=np.float64)
    check_finite("scale", strengths)
    if strengths.size == 0:
        raise ValueError("scale is empty; expected at least one strength")
    if strengths.min() < 0.0 or (kind == "flips" and strengths.max() > 1.0):
        worst = strengths.min() if strengths.min() < 0.0 else strengths.max()
        expected = "probabilities in [0, 1]" if kind == "flips" else "strengths that are not negative"
        raise ValueError(f"scale contains {worst:g}; expected {expected}")
    return strengths


def _batches(strengths: int, samples: int, weights: int) -> Iterator[tuple[slice, slice]]:
    """Whole strengths together where they are small, else some samples of one."""
    together = max(1, _DRAWN_TOGETHER // weights)
    if together >= samples:
        for rows in chunks(strengths, together // samples):
            yield rows, slice(0, samples)
        return
    for row in range(strengths):
        for part in chunks(samples, together):
            yield slice(row, row + 1), part


def _flipped(examples: Examples, W: Array) -> Callable[[Array, np.random.Generator], Array]:
    """Errors (B,) of weights of which each flips with probability p (B,)."""
    words = sign_words(W)

    def count(p: Array, rng: np.random.Generator) -> Array:
        flips = rng.random((len(p), *W.shape), dtype=np.float32) < p[:, None, None].astype(np.float32)
        return binary_errors(examples.model, words ^ sign_words(flips), examples.patterns)

    return count


def _disturbed(examples: Examples, W: Array, kind: str) -> Callable[[Array, np.random.Generator], Array]:
    """Errors (B,) of weights with noise of strength δ (B,). Errors do not depend on a unit's norm."""
    e = examples

    def count(delta: Array, rng: np.random.Generator) -> Array:
        z = rng.standard_normal((len(delta), *W.shape))
        z *= delta[:, None, None]
        if kind == "multiplicative":
            z *= W
        z += W
        return e.errors(z)

    return count
