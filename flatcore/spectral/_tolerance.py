"""Tolerances and seeds, the same for every solver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

# Relative residuals that products and orthogonalisation in this precision reach in practice.
FLOORS = {np.dtype(np.float32): 1e-6, np.dtype(np.float64): 1e-13}
DEFAULT_TOL = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-6}


def checked_tol(tol: Any, dtype: np.dtype[Any]) -> tuple[float, bool]:
    """The tolerance to use, and whether it was raised to what the precision attains."""
    if tol is None:
        return DEFAULT_TOL[dtype], False
    if isinstance(tol, bool) or not isinstance(tol, (int, float, np.floating)) or not np.isfinite(tol) or tol < 0:
        raise ValueError(f"tol is {tol!r}; expected a number that is not negative, or None")
    return max(float(tol), FLOORS[dtype]), bool(tol < FLOORS[dtype])


def raised_tol(tol: float, noise: float) -> tuple[float, bool]:
    """The tolerance to use for an operator whose products round by `noise`, and whether it was raised to that."""
    return max(tol, noise), tol < noise


def seeds(seed: int) -> Iterator[int]:
    """Seeds for the random vectors of one call."""
    sequence = np.random.default_rng(seed)
    while True:
        yield int(sequence.integers(0, 2**63))
