"""The question "what are all singular values of these layers?", and how answers are checked.

Every contender computes all of them; compared are the largest one and the root of the sum of squares, which all report,
with LAPACK in float64. Float32 decompositions are good to about ε·√n (3e-6 at n = 2048, ε = 6e-8); allowed is 1e-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.contenders.base import Array
from benchmarks.dense import singular_values
from benchmarks.runner import Agreement

TOLERANCE = 1e-4


@dataclass(frozen=True)
class LayerNorms:
    """Spectral and Frobenius norm of every layer."""

    spectral: Array
    frobenius: Array


@dataclass(frozen=True)
class WeightsProblem:
    """Square layers, the same width each."""

    layers: Sequence[Array]

    work = None
    argument = None
    dtype = "float32"

    def describe(self) -> dict[str, Any]:
        """What the JSON says about the layers."""
        return {"layers": len(self.layers), "shape": list(self.layers[0].shape), "dtype": self.dtype}

    @cached_property
    def _exact(self) -> LayerNorms:
        top = [singular_values(W, 1)[0] for W in self.layers]
        return LayerNorms(np.array(top), np.array([np.linalg.norm(W.astype(np.float64)) for W in self.layers]))

    def agreements(self, answer: LayerNorms) -> list[Agreement]:
        """Both norms against LAPACK in float64."""
        exact = self._exact
        return [
            Agreement(f"{name} norm in float64", float(np.max(np.abs(mine / theirs - 1))), TOLERANCE)
            for name, mine, theirs in (
                ("spectral", answer.spectral, exact.spectral),
                ("Frobenius", answer.frobenius, exact.frobenius),
            )
        ]
