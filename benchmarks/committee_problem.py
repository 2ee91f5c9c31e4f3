"""The two products of patterns with vectors that committee machines are made of: ω = X m and S = Xᵀ g, in float32.

An edge is a pattern's entry and a unit that sees it: one signed addition, counted as two flops; an entry is one bit.
Answers are checked at 64 patterns or inputs against float64 sums of the unpacked entries. Sums of n random terms
round by a few 1e-7 of √n (core/simd/committee.hpp), and 2e-6 of the norm leaves room for NumPy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.contenders.base import Array
from benchmarks.runner import Agreement
from benchmarks.timing import Work
from flatcore.wfm import Committee, Patterns, random_patterns

TOLERANCE = 2e-6
CHECKED = 64


@dataclass(frozen=True)
class CommitteeProduct:
    """One of the products, ``"fields"`` or ``"sums"``, made `repeats` times in a call."""

    model: Committee
    patterns: Patterns
    product: str
    repeats: int = 1
    dtype: str = "float32"

    @cached_property
    def argument(self) -> Array:
        """m (K, n), or g (P, K)."""
        shape = self.model.shape if self.product == "fields" else (len(self.patterns), self.model.n_hidden)
        return np.random.default_rng(1).standard_normal(shape).astype(np.float32)

    @property
    def work(self) -> Work:
        """Two flops an edge; every bit is read once."""
        calls = float(self.repeats * len(self.patterns))
        edges = calls * self.model.num_weights
        return Work(2.0 * edges, calls * self.model.n_inputs / 8, edges)

    def describe(self) -> dict[str, Any]:
        """Sizes, for the JSON."""
        return {
            "product": self.product,
            "patterns": len(self.patterns),
            "shape": list(self.model.shape),
            "kind": self.model.kind,
            "repeats": self.repeats,
            "dtype": self.dtype,
        }

    def agreements(self, answer: Any) -> list[Agreement]:
        """Relative difference in the Frobenius norm over the checked rows of ω, or columns of S."""
        at, exact = self._exact
        checked = answer[at] if self.product == "fields" else answer[:, at]
        difference = float(np.linalg.norm(checked - exact) / np.linalg.norm(exact))
        return [Agreement("float64 sums of unpacked entries", difference, TOLERANCE)]

    @cached_property
    def _exact(self) -> tuple[Array, Array]:
        """Where, and what is expected there: (64, K) or (K, 64)."""
        model, vector = self.model, self.argument.astype(np.float64)
        total = len(self.patterns) if self.product == "fields" else model.fan_in
        at = np.unique(np.linspace(0, total - 1, CHECKED).astype(int))
        words, n = self.patterns.words, model.fan_in
        if self.product == "fields":
            rows = np.ascontiguousarray(words[at // 16, :, :, at % 16])  # (64, S, C)
            bits = np.unpackbits(rows.astype("<u4").view(np.uint8), axis=-1, bitorder="little")[:, :, :n]
            return at, np.einsum("psi,ki->pk" if model.kind == "full" else "pki,ki->pk", 2.0 * bits - 1, vector)
        columns = (words[:, :, at // 32, :] >> (at % 32)[:, None].astype(np.uint32)) & 1  # (groups, S, 64, 16)
        seen = columns.transpose(0, 3, 1, 2).reshape(-1, *columns.shape[1:3])[: len(self.patterns)]
        return at, np.einsum("psi,pk->ki" if model.kind == "full" else "pki,pk->ki", 2.0 * seen - 1, vector)


def committee_products(model: Committee, n_patterns: int, repeats: int) -> list[CommitteeProduct]:
    """Both products with the same patterns."""
    patterns = random_patterns(model, n_patterns, seed=0)
    return [CommitteeProduct(model, patterns, product, repeats) for product in ("fields", "sums")]
