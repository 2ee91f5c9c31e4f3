"""The question "what are the k largest singular triplets?", and how answers are checked.

An answer's residual is the larger of ‖Av − σu‖ and ‖Aᵀu − σv‖ over σ_1, the worst over its triplets, in float64. Its
values must be the k largest: those of AᵀA's dense eigenvalues in float64 (whose error, ε·σ_1²/σ, is far below the
tolerances here). The difference allowed is 3e-5·σ_1, some ten times the ε·√n of a float32 decomposition, or twice the
residual where that is larger, as methods that promise no accuracy are not failed for it: their residual is in the
table, and what they are good for is the reader's to judge. Without vectors there is no residual, and only the values
count.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg

from benchmarks.contenders.base import Array
from benchmarks.runner import Agreement

VALUES_TOLERANCE = 3e-5


@dataclass(frozen=True)
class Triplets:
    """Singular values (k,) in descending order; left (m, k) and right (n, k) vectors, or None for values only."""

    U: Array | None
    s: Array
    V: Array | None


@dataclass(frozen=True)
class SvdProblem:
    """The k largest singular triplets of a matrix, to a tolerance relative to the largest value."""

    A: Array
    k: int
    tol: float

    work = None  # iterations cannot be counted in advance

    @property
    def argument(self) -> int:
        """k."""
        return self.k

    @property
    def dtype(self) -> str:
        """Precision of the matrix."""
        return str(self.A.dtype)

    def describe(self) -> dict[str, Any]:
        """What the JSON says about the question."""
        return {"shape": list(self.A.shape), "triplets": self.k, "tolerance": self.tol, "dtype": self.dtype}

    @cached_property
    def _in_float64(self) -> Array:
        return self.A.astype(np.float64)

    @cached_property
    def _exact(self) -> Array:
        A = self._in_float64
        n = A.shape[1]
        squares = scipy.linalg.eigh(A.T @ A, eigvals_only=True, subset_by_index=(n - self.k, n - 1))
        return np.sqrt(squares[::-1])

    def residual(self, answer: Triplets) -> float | None:
        """max(‖Av − σu‖, ‖Aᵀu − σv‖)/σ_1, the worst triplet's."""
        if answer.U is None or answer.V is None:
            return None
        A, U, V = self._in_float64, answer.U.astype(np.float64), answer.V.astype(np.float64)
        left = np.linalg.norm(A @ V - U * answer.s, axis=0)
        right = np.linalg.norm(A.T @ U - V * answer.s, axis=0)
        return float(max(left.max(), right.max()) / self._exact[0])

    def agreements(self, answer: Triplets) -> list[Agreement]:
        """Values against the dense ones."""
        difference = float(np.max(np.abs(answer.s - self._exact)) / self._exact[0])
        allowed = max(VALUES_TOLERANCE, 2.0 * (self.residual(answer) or 0.0))
        return [Agreement("dense eigenvalues of AᵀA", difference, allowed)]

    def quality(self, answer: Triplets) -> dict[str, float]:
        """The residual, where there are vectors."""
        residual = self.residual(answer)
        return {} if residual is None else {"residual": residual}


def gaussian_bulk(size: int) -> Array:
    """Entries N(0, 1/size), float32."""
    A = np.random.default_rng(0).standard_normal((size, size), dtype=np.float32)
    A /= np.float32(np.sqrt(size))
    return A


def planted_spikes(size: int, count: int) -> Array:
    """Orthonormal vectors with singular values 6/√i, i = 1 … count, to be added to the bulk."""
    rng = np.random.default_rng(1)
    U, V = (np.linalg.qr(rng.standard_normal((size, count)))[0] for _ in range(2))
    spikes: Array = ((U * (6.0 / np.sqrt(np.arange(1, count + 1)))) @ V.T).astype(np.float32)
    return spikes
