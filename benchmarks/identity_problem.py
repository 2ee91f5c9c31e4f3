"""The question "are all copies of a multiple eigenvalue found?", asked of a chain of identities many times.

All W = I and Y = X, with L = (1/n) Σ‖Φx − x‖²: every block of the Hessian is 2·I ⊗ S, S = (1/n) XᵀX, so that
H = 2·(11ᵀ) ⊗ I ⊗ S has the eigenvalues 2M·λ_i(S), each exactly as often as the chain is wide; all others are zero. A
run misses a copy if one of its `width` largest values is below the middle between 2M·λ_1 and 2M·λ_2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.contenders.base import Array
from benchmarks.runner import Agreement


@dataclass(frozen=True)
class IdentityProblem:
    """Runs with seeds of their own: data and start vectors are drawn from them."""

    seeds: Array
    inputs: Array  # (runs, n, width)
    depth: int

    work = None
    dtype = "float64"

    @property
    def argument(self) -> Array:
        """The seeds."""
        return self.seeds

    @property
    def width(self) -> int:
        """Width of the chain, multiplicity of the top eigenvalue, and number of eigenvalues asked for."""
        return int(self.inputs.shape[2])

    def describe(self) -> dict[str, Any]:
        """What the JSON says about the question."""
        runs, n, width = self.inputs.shape
        return {"width": width, "depth": self.depth, "samples": n, "runs": runs, "dtype": self.dtype}

    def dense(self, X: Array) -> Array:
        """The Hessian (P, P) in closed form."""
        S = X.T @ X / len(X)
        return 2.0 * np.kron(np.ones((self.depth, self.depth)), np.kron(np.eye(self.width), S))

    def spectra(self) -> Array:
        """2M·λ_1 and 2M·λ_2 of every run, (runs, 2)."""
        S = np.einsum("rni,rnj->rij", self.inputs, self.inputs) / self.inputs.shape[1]
        return 2.0 * self.depth * np.linalg.eigvalsh(S)[:, [-1, -2]]

    def quality(self, values: Array) -> dict[str, float]:
        """Runs that miss a copy."""
        first, second = self.spectra().T
        return {"runs that miss a copy": float(np.sum(values.min(axis=1) < (first + second) / 2))}

    def agreements(self, values: Array) -> list[Agreement]:
        """The largest value of every run, which all methods find, against 2M·λ_1(S)."""
        first = self.spectra()[:, 0]
        return [Agreement("2M·λ_max(S)", float(np.max(np.abs(values[:, 0] / first - 1))), 1e-4)]


def identity_problem(runs: int, width: int = 12, depth: int = 4, samples: int = 60) -> IdentityProblem:
    """Runs with seeds 0, 1, …; inputs N(0, 1)."""
    seeds = np.arange(runs)
    inputs = np.stack([np.random.default_rng([1, seed]).standard_normal((samples, width)) for seed in seeds])
    return IdentityProblem(seeds, inputs, depth)
