"""Gains of layers along a direction, and norms of partial products."""

from __future__ import annotations

import numpy as np

from flatcore import _core
from flatcore._checks import FloatArray


def direction_gains(chain: _core.Chain, v: FloatArray) -> tuple[FloatArray, FloatArray]:
    """g_j and coupling residuals along v (d_0,), NaN from the layer on that maps it to zero."""
    return _core.gain_profile(chain, [float(x) for x in v])


def normalised_partial_norms(chain: _core.Chain) -> tuple[FloatArray, FloatArray, float]:
    """‖W_j⋯W_1‖₂/σ^{j/M} for j = 1 … M−1, ‖W_M⋯W_{j+1}‖₂/σ^{1−j/M} for the same j, and σ = ‖Φ‖₂."""
    bottom, top = _core.partial_norms(chain)
    depth, sigma = len(bottom) - 1, float(bottom[-1])
    if sigma <= 0.0:
        return np.full(depth - 1, np.nan), np.full(depth - 1, np.nan), sigma
    j = np.arange(1, depth)
    return bottom[1:depth] / sigma ** (j / depth), top[1:depth] / sigma ** (1.0 - j / depth), sigma
