"""What answers about singular values are checked with: dense eigenvalues in float64."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from benchmarks.contenders.base import Array


def singular_values(A: Array, k: int | None = None) -> Array:
    """The k largest singular values of a matrix, all where k is None, descending: of the smaller of AAᵀ and AᵀA."""
    A = A.astype(np.float64)
    A = A if A.shape[0] <= A.shape[1] else A.T
    n = len(A)
    places = None if k is None else (max(0, n - k), n - 1)
    squares = scipy.linalg.eigh(
        A @ A.T, eigvals_only=True, subset_by_index=places, overwrite_a=True, check_finite=False
    )
    return np.sqrt(np.maximum(squares[::-1], 0.0))


def effective_rank(values: Array) -> float:
    """Exp of the entropy of σ/Σσ (Roy & Vetterli 2007)."""
    p = values / values.sum()
    return float(np.exp(-np.sum(p * np.log(np.maximum(p, 1e-300)))))
