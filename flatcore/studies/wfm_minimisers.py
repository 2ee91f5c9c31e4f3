"""Minimisers of the cross-entropy on the spheres, followed from small sharpness to large."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import scipy.linalg
import scipy.optimize

from flatcore import wfm
from flatcore._checks import FloatArray
from flatcore.studies.wfm_experiments import Tick, energies, tree_task, unit_overlap
from flatcore.studies.wfm_solvers import AMP_END, BOTH_MOVE, FOCUSING, GAMMAS, NOISE, UNIT_SHARPNESS

if TYPE_CHECKING:
    from flatcore.studies.wfm import Size

_ITERATIONS = 2000
_NEWTON_STEPS, _HALVINGS = 40, 20
_LEAST_CURVATURE = 1e-12  # of the largest: steps do not divide by less
_LEVEL = 1e-13  # relative differences of losses that are rounding
_STATIONARY = 1e-9  # of the gradient, its part along the spheres over all of it


class GammaRow(TypedDict):
    """A row for β fixed and one for β = γ, a column a γ; NaN where β = γ is not followed.

    `errors`, `energy` (…, strengths), `margin` (the smallest of the patterns), `overlap` of units with focusing BP's;
    `gradient`: its part along the spheres over all of it; `curvature`: smallest eigenvalue of the Hessian on the
    spheres over the largest.
    """

    errors: FloatArray
    energy: FloatArray
    margin: FloatArray
    overlap: FloatArray
    gradient: FloatArray
    curvature: FloatArray


def gamma(size: Size, seed: int, tick: Tick) -> GammaRow:
    """Minimisers at growing γ on the patterns of `committee`, each followed from the one before."""
    model, patterns = tree_task(size, seed)
    flat = FOCUSING[AMP_END](model, patterns, seed=seed)
    start = wfm.cross_entropy_sgd(model, patterns, seed=seed).weights
    shape = (2, len(GAMMAS))
    row: GammaRow = {
        "errors": np.full(shape, np.nan),
        "energy": np.full((*shape, len(NOISE)), np.nan),
        "margin": np.full(shape, np.nan),
        "overlap": np.full(shape, np.nan),
        "gradient": np.full(shape, np.nan),
        "curvature": np.full(shape, np.nan),
    }
    for i, count in enumerate((len(GAMMAS), BOTH_MOVE)):
        w = start
        for j, value in enumerate(GAMMAS[:count]):
            minimum = minimise(model, patterns, w, UNIT_SHARPNESS if i == 0 else value, value)
            w = minimum.weights
            row["errors"][i, j] = wfm.errors(model, w, patterns)
            row["energy"][i, j] = energies(model, [w], patterns, NOISE, size.samples, seed)[0]
            row["margin"][i, j] = wfm.margins(model, w, patterns).min()
            row["overlap"][i, j] = unit_overlap(w, flat.weights) if flat.errors == 0 else np.nan
            row["gradient"][i, j], row["curvature"][i, j] = minimum.gradient, minimum.curvature
            tick((i * len(GAMMAS) + j + 1) / (len(GAMMAS) + BOTH_MOVE + 1))
    return row


@dataclass(frozen=True)
class Minimum:
    """Weights on the spheres, how far from stationary, and the smallest curvature; see `GammaRow`."""

    weights: FloatArray
    gradient: float
    curvature: float


def minimise(model: wfm.Committee, patterns: wfm.Patterns, w: FloatArray, beta: float, gamma: float) -> Minimum:
    """L-BFGS on the logarithm of the loss, w_k = √n v_k/‖v_k‖, and Newton steps on the spheres behind it.

    The logarithm has the same minima, and no scale: the loss itself falls as e^{−2γx}.
    """
    root = np.sqrt(model.fan_in)

    def log_loss(flat: FloatArray) -> tuple[float, FloatArray]:
        v = flat.reshape(model.shape)
        length = np.linalg.norm(v, axis=1, keepdims=True)
        unit = v / length
        value, g = wfm.cross_entropy(model, root * unit, patterns, beta=beta, gamma=gamma)
        along = g - (g * unit).sum(axis=1, keepdims=True) * unit
        return float(np.log(value)), (root * along / length / value).ravel()

    options = {"maxiter": _ITERATIONS, "maxfun": 2 * _ITERATIONS, "ftol": 0.0, "gtol": 1e-6}
    found = scipy.optimize.minimize(log_loss, w.ravel(), jac=True, method="L-BFGS-B", options=options)
    w = _on_spheres(model, found.x.reshape(model.shape))
    for _ in range(_NEWTON_STEPS):
        nearer = _newton_step(model, patterns, w, beta, gamma)
        if nearer is None:
            break
        w = nearer
    values = scipy.linalg.eigvalsh(_tangent_hessian(model, patterns, w, beta, gamma))
    left = _stationarity(model, patterns, w, beta, gamma)
    return Minimum(w, left, float(values[0] / np.abs(values).max()))


def _newton_step(
    model: wfm.Committee, patterns: wfm.Patterns, w: FloatArray, beta: float, gamma: float
) -> FloatArray | None:
    """Weights of a smaller loss, or of a smaller gradient where the loss is level; None at a stationary point.

    The step divides by the moduli of the eigenvalues, so that it leads downhill at saddles too, and is halved until it
    does.
    """
    gradient = _stationarity(model, patterns, w, beta, gamma)
    if gradient < _STATIONARY:
        return None
    value, _ = wfm.cross_entropy(model, w, patterns, beta=beta, gamma=gamma)
    _, along = _gradients(model, patterns, w, beta, gamma)
    values, vectors = scipy.linalg.eigh(_tangent_hessian(model, patterns, w, beta, gamma))
    sizes = np.maximum(np.abs(values), _LEAST_CURVATURE * np.abs(values).max())
    step = (vectors @ ((vectors.T @ along.ravel()) / sizes)).reshape(w.shape)
    for halvings in range(_HALVINGS):
        nearer = _on_spheres(model, w - 0.5**halvings * step)
        there, _ = wfm.cross_entropy(model, nearer, patterns, beta=beta, gamma=gamma)
        nearby = abs(there - value) <= _LEVEL * value
        if there < value * (1.0 - _LEVEL) or (
            nearby and _stationarity(model, patterns, nearer, beta, gamma) < gradient
        ):
            return nearer
    return None


def _on_spheres(model: wfm.Committee, v: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt(model.fan_in) * v / np.linalg.norm(v, axis=1, keepdims=True))


def _gradients(
    model: wfm.Committee, patterns: wfm.Patterns, w: FloatArray, beta: float, gamma: float
) -> tuple[FloatArray, FloatArray]:
    """The gradient and its part along the spheres."""
    _, g = wfm.cross_entropy(model, w, patterns, beta=beta, gamma=gamma)
    return g, g - (g * w).sum(axis=1, keepdims=True) * w / model.fan_in


def _stationarity(model: wfm.Committee, patterns: wfm.Patterns, w: FloatArray, beta: float, gamma: float) -> float:
    g, along = _gradients(model, patterns, w, beta, gamma)
    return float(np.linalg.norm(along) / np.linalg.norm(g))


def _tangent_hessian(
    model: wfm.Committee, patterns: wfm.Patterns, w: FloatArray, beta: float, gamma: float
) -> FloatArray:
    """The Hessian on the spheres, dense; the K directions along the w_k, where it is 0, get its mean eigenvalue."""
    H = wfm.CrossEntropyHessian(model, w, patterns, beta, gamma, tangent=True)
    normals = scipy.linalg.block_diag(*(w / np.sqrt(model.fan_in)))
    return np.asarray(H.dense() + H.trace() / model.num_weights * normals.T @ normals)
