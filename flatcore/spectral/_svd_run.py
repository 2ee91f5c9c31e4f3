"""What the parts of one search for singular triplets share, and triplets measured with fresh products."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from flatcore._checks import FloatArray, asks_to_stop
from flatcore._linalg import matmul
from flatcore.results import SolverState
from flatcore.spectral._small import svd
from flatcore.spectral._svd_operator import StoredOperator
from flatcore.spectral._svd_process import KrylovProcess

MEASURED_BYTES = 48  # of `measured` for each entry of k vectors of the longer side, most of it in float64

Callback = Callable[[SolverState], "bool | None"]


@dataclass
class Triplets:
    """Rows u (k, M) and v (k, N), values and two-sided residuals, in the operator's scaled units."""

    U: FloatArray
    s: FloatArray
    V: FloatArray
    residuals: FloatArray

    def within(self, tol: float) -> bool:
        """Whether all residuals are at most tol·σ_1."""
        return bool((self.residuals <= tol * self.s[0]).all())


@dataclass
class SvdRun:
    """What the parts of one call share; `probe` and `all_values` (scaled) stay for other uses of them."""

    operator: StoredOperator
    k: int
    tol: float
    max_steps: int
    callback: Callback | None
    seeds: Iterator[int]
    cancel: threading.Event | None = None
    steps: int = 0
    status: str = "converged"
    method: str = ""
    hits: int = 0
    probe: KrylovProcess | None = None  # the one that found nothing
    all_values: FloatArray | None = None  # where a full decomposition found them,
    hidden: float = 0.0  # and up to where zeros among them may be values

    def advance(self, process: KrylovProcess) -> None:
        """One step; another thread may have cancelled the run."""
        if self.cancel is not None and self.cancel.is_set():
            raise KeyboardInterrupt
        process.step()
        self.steps += 1

    def note(self, text: str) -> None:
        """Add a sentence to the method's description."""
        self.method = f"{self.method} {text}".strip()

    def tell(self, values: FloatArray, residuals: FloatArray) -> bool:
        """Tell the callback; whether it asks to stop."""
        if self.callback is None:
            return False
        unit = 1.0 / self.operator.scale
        state = SolverState(self.steps, values * unit, residuals * unit, self.operator.products)
        return asks_to_stop(self.callback(state))

    def stopped(self, values: FloatArray, residuals: FloatArray) -> bool:
        """`tell`, and note it in the status where the run ends here."""
        asked = self.tell(values, residuals)
        if asked:
            self.status = "stopped"
        return asked


def measured(run: SvdRun, V: FloatArray) -> Triplets:
    """The best triplets within the span of the orthonormal columns of V (N, k), from fresh products in float64.

    With AV = USWᵀ the triplets (U, S, VW) have Av = σu, and Aᵀu − σv measures the rest. Vectors are rounded to the
    matrix's precision; what that adds to a residual is at most σ_1 times the rounding.
    """
    operator = run.operator
    image = operator.forward(np.ascontiguousarray(V.T))
    U, s, Wt = svd(image.T)
    rows_u, rows_v = np.ascontiguousarray(U.T), matmul(Wt, V.T)
    u, v = rows_u.astype(operator.dtype), rows_v.astype(operator.dtype)
    back = operator.backward(u.astype(np.float64))
    right = np.linalg.norm(back - s[:, None] * v, axis=1)
    left = s * np.linalg.norm(rows_u - u, axis=1) + s[0] * np.linalg.norm(rows_v - v, axis=1)
    return Triplets(u, s, v, np.maximum(left, right))
