"""Coupling of consecutive layers beside its chance level, and the strongest path."""

from __future__ import annotations

import itertools

import numpy as np
import scipy

from flatcore import _core
from flatcore._checks import FloatArray
from flatcore.results import CouplingResult, read_only
from flatcore.weights.spectra import Svd

_TIES = {
    np.dtype(np.float32): 1e-4,
    np.dtype(np.float64): 1e-8,
}  # relative distance below which values are tied


def overlap_chance(dimension: int, pairs: int, quantile: float = 0.5) -> float:
    """Quantile of the largest of `pairs` overlaps |⟨u, v⟩| of independent random unit vectors in R^dimension.

    One overlap's square is Beta(½, (d−1)/2); the overlaps are treated as independent. Always 1 in one dimension.
    """
    if dimension == 1:
        return 1.0
    return float(np.sqrt(scipy.special.betaincinv(0.5, (dimension - 1) / 2, quantile ** (1.0 / pairs))))


def angle_chance(dimension: int, k: int) -> float:
    """Typical cosine of the first principal angle of two random k-dimensional subspaces of R^dimension."""
    c = k / dimension
    return float(2.0 * np.sqrt(c * (1.0 - c))) if c < 0.5 else 1.0


def coupling_of(svds: list[Svd], k: int, phi: Svd) -> CouplingResult:
    """Coupling of layers given by their top singular triplets; `phi` decomposes the end-to-end matrix."""
    # Rounding may carry an overlap of unit vectors beyond 1.
    overlaps = [np.minimum(_core.overlaps(a.U, b.Vt), 1.0) for a, b in itertools.pairwise(svds)]
    dims = [a.U.shape[0] for a in svds[:-1]]
    chance = np.array([overlap_chance(d, o.size) for d, o in zip(dims, overlaps, strict=True)])
    chance_95 = np.array([overlap_chance(d, o.size, 0.95) for d, o in zip(dims, overlaps, strict=True)])
    largest = np.array([o.max() for o in overlaps])
    angles = tuple(read_only(principal_cosines(a, b)) for a, b in itertools.pairwise(svds))
    angle_levels = [angle_chance(d, min(o.shape)) for d, o in zip(dims, overlaps, strict=True)]
    indices, log_strength = _core.strongest_path([usable_values(svd) for svd in svds], overlaps)
    agreement = (float("nan"), float("nan"))
    if indices and phi.s[0] > 0.0:
        u, v = svds[-1].U[:, indices[-1]], svds[0].Vt[indices[0]]
        agreement = (float(abs(u @ phi.U[:, 0])), float(abs(v @ phi.Vt[0])))
    return CouplingResult(
        k=k,
        singular_values=tuple(read_only(svd.s[:k]) for svd in svds),
        overlaps=tuple(read_only(o) for o in overlaps),
        largest=read_only(largest),
        chance=read_only(chance),
        chance_95=read_only(chance_95),
        ratio=read_only(largest / chance),
        angles=angles,
        angle_chance=read_only(angle_levels),
        path=tuple(int(i) for i in indices),
        path_strength=float(np.exp(log_strength)) if indices else 0.0,
        path_agreement=agreement,
        status=_status(svds, bool(indices)),
    )


def principal_cosines(a: Svd, b: Svd) -> FloatArray:
    """Cosines of the principal angles between the ranges of a.U and b.Vtᵀ, descending."""
    cosines = np.linalg.svd(b.Vt.astype(float) @ a.U.astype(float), compute_uv=False)
    return np.asarray(np.clip(cosines, 0.0, 1.0))


def usable_values(svd: Svd) -> list[float]:
    """The first k singular values, those that are zero or tied (whose single vectors mean nothing) set to zero."""
    s = svd.s.astype(float)
    tolerance = _TIES[svd.s.dtype] * s[0]
    close = np.zeros(len(s), dtype=bool)
    near = np.abs(np.diff(s)) <= tolerance
    close[:-1] |= near
    close[1:] |= near
    s[close | (s <= tolerance)] = 0.0
    return [float(x) for x in s[: len(svd.Vt)]]


def _status(svds: list[Svd], has_path: bool) -> str:
    if any(svd.s[0] <= 0.0 for svd in svds):
        return "a layer is zero: its singular vectors mean nothing"
    tied = [j + 1 for j, svd in enumerate(svds) if np.count_nonzero(usable_values(svd)) < len(svd.Vt)]
    if tied:
        layers = ", ".join(str(j) for j in tied)
        note = "" if has_path else "; no path is left"
        return f"tied or vanishing singular values in layers {layers} are left out of the path{note}: use the angles"
    return "computed"
