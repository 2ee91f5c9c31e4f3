"""Least action learning in vectorised NumPy, same algorithm and dtype.

Most patterns are right and change nothing, so fields are computed for the next few together by BLAS, and thrown away
behind the first error: twice as fast as one pattern after another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.contenders.base import Array
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.online_problem import OnlineProblem

_AHEAD = 16  # patterns whose fields are computed together


class NumpyLeastAction:
    """Fields of a few patterns by one batched product, steps of whole units."""

    name = "NumPy, same algorithm"

    def available(self) -> str | None:
        """Always."""
        return None

    def prepare(self, problem: OnlineProblem, stage: Stages) -> Callable[[Array], Array]:
        """The patterns unpacked, the label multiplied in, units first: (K, P, n)."""
        with stage("patterns as floats"):
            seen = problem.seen * problem.patterns.labels[:, None, None].astype(problem.seen.dtype)
            seen = np.ascontiguousarray(seen.transpose(1, 0, 2))
        binary = problem.model.weights == "binary"

        def answer(start: Array) -> Array:
            weights = start.copy()
            for order in problem.orders:
                _epoch(seen[:, order], weights, binary)
            return weights

        return answer


def _epoch(seen: Array, weights: Array, binary: bool) -> None:
    """One epoch over patterns (K, P, n) in their order, weights in place."""
    K, P, n = seen.shape
    step = 2 if binary else 1.0 / np.sqrt(n)
    used = np.sign(weights).astype(np.float32) if binary else weights
    columns, half, at = used[:, :, None], (K - 1) // 2, 0
    while at < P:
        right = np.matmul(seen[:, at : at + _AHEAD], columns)[:, :, 0]
        missing = np.count_nonzero(right <= 0, axis=0) - half
        errors = np.flatnonzero(missing > 0)
        if len(errors) == 0:
            at += _AHEAD
            continue
        first = errors[0]
        fields = right[:, first]
        # Equal fields: the lower unit first.
        units = np.argsort(np.where(fields > 0, np.inf, -fields), kind="stable")[: missing[first]]
        pattern = seen[units, at + first]
        weights[units] += (step * pattern).astype(weights.dtype) if binary else step * pattern
        if binary:
            used[units] = np.sign(weights[units])
        at += first + 1


CONTENDERS = {"least action learning": (NumpyLeastAction(),)}
