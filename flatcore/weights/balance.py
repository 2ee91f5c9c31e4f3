"""Balance of consecutive layers."""

from __future__ import annotations

import numpy as np

from flatcore import _core
from flatcore.results import BalanceResult, read_only


def balance_of(chain: _core.Chain) -> BalanceResult:
    """Gaps of consecutive layers and spectral balance of every layer (docs/theory.md, "Metrics")."""
    gap, relative = _core.layer_balance(chain)
    bottom, top = _core.partial_norms(chain)
    depth, sigma = len(bottom) - 1, float(bottom[-1])
    if sigma > 0.0:
        spectral = top[1:] * bottom[:-1] / sigma ** (1.0 - 1.0 / depth)
        status = "computed"
    else:
        spectral = np.full(depth, np.nan)
        status = "the end-to-end matrix is zero: normalised quantities are undefined"
    if not (np.isfinite(gap).all() and np.isfinite(relative).all()):
        status = "gaps are beyond float64"
    return BalanceResult(read_only(gap), read_only(relative), read_only(spectral), status)
