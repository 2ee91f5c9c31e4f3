"""Small questions that one kernel of flatcore answers, put to NumPy and plain Python too.

All in float64; each formula has at most a few hundred terms a sum, so different orders of summation differ by less than
1e-12, and 1e-9 leaves room while a wrong factor or transpose misses it by orders of magnitude. The reference is the
formula in NumPy's longest floats (80 bits where the machine has them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks.contenders.base import Array
from benchmarks.runner import Agreement
from benchmarks.timing import Work

TOLERANCE = 1e-9


@dataclass(frozen=True)
class KernelProblem:
    """Arrays, and the formula in extended precision that maps them to the answer."""

    argument: tuple[Array, ...]
    formula: Callable[..., Array]
    work: Work
    dtype: str = "float64"

    def describe(self) -> dict[str, Any]:
        """What the JSON says about the arrays."""
        return {"shapes": [list(np.shape(array)) for array in self.argument], "dtype": self.dtype}

    @cached_property
    def _exact(self) -> Array:
        return self.formula(*(array.astype(np.longdouble) for array in self.argument))

    def agreements(self, answer: Any) -> list[Agreement]:
        """Relative difference in the Frobenius norm."""
        exact = self._exact
        answer = np.asarray(answer)
        if answer.shape != exact.shape:
            return [Agreement("formula in extended precision", float("inf"), TOLERANCE)]
        difference = float(np.sqrt(np.sum((answer - exact) ** 2) / np.sum(exact**2)))
        return [Agreement("formula in extended precision", difference, TOLERANCE)]


def orthogonalised(V: Array, W: Array) -> Array:
    """One step of Gram–Schmidt: W − (WVᵀ)V; rows are vectors, those of V orthonormal."""
    return W - W @ V.T @ V


def normal_step(A: Array, X: Array) -> Array:
    """One step of the fused SVD: X AᵀA; rows of X are vectors."""
    return X @ A.T @ A


def gaps(*weights: Array) -> Array:
    """‖W_{j+1}ᵀW_{j+1} − W_jW_jᵀ‖_F and the same over √(‖W_{j+1}ᵀW_{j+1}‖² + ‖W_jW_jᵀ‖²), (2, M − 1)."""
    pairs = [(upper.T @ upper, lower @ lower.T) for lower, upper in pairwise(weights)]
    absolute = [np.sqrt(np.sum((a - b) ** 2)) for a, b in pairs]
    scales = [np.sqrt(np.sum(a**2) + np.sum(b**2)) for a, b in pairs]
    return np.array([absolute, [gap / scale for gap, scale in zip(absolute, scales, strict=True)]])


def overlaps(U: Array, Vt: Array) -> Array:
    """|UᵀV| of the columns of U with the rows of Vt."""
    return np.abs(Vt @ U).T


def kernel_problems(width: int) -> dict[str, KernelProblem]:
    """By name; sizes at which plain Python takes a fraction of a second."""
    rng = np.random.default_rng(0)
    N, p, b, M = 40 * width, 16, 4, 4
    V = np.linalg.qr(rng.standard_normal((N, p)))[0].T.copy()
    W = rng.standard_normal((b, N))
    A, X = rng.standard_normal((4 * width, 4 * width)), rng.standard_normal((b, 4 * width))
    layers = tuple(rng.standard_normal((width, width)) for _ in range(M))
    U = np.linalg.qr(rng.standard_normal((width, width)))[0][:, :8].copy()
    Vt = np.linalg.qr(rng.standard_normal((width, width)))[0][:8].copy()
    return {
        "orthogonalisation": KernelProblem((V, W), orthogonalised, Work(4.0 * p * b * N, 8.0 * N * (p + 2 * b))),
        "top-k SVD step": KernelProblem((A, X), normal_step, Work(4.0 * b * A.size, 8.0 * A.size)),
        "balance": KernelProblem(layers, gaps, Work(4.0 * width**3 * (M - 1), 8.0 * width**2 * M)),
        "coupling": KernelProblem((U, Vt), overlaps, Work(2.0 * U.size * 8, 16.0 * U.size)),
    }
