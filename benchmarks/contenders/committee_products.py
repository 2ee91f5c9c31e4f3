"""Products of ±1 patterns with vectors: flatcore on bits, NumPy on float32 patterns, on all threads and on one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import ThreadpoolController

from benchmarks.contenders.base import Array, CannotAnswerError, lacking
from benchmarks.timing import Stages
from flatcore import _core
from flatcore._threads import limit_threads

if TYPE_CHECKING:
    from benchmarks.committee_problem import CommitteeProduct

MOST_UNPACKED = 4e9  # bytes of float32 patterns


@dataclass(frozen=True)
class Bits:
    """flatcore's kernels on packed patterns."""

    name: str
    threads: int | None = None

    def available(self) -> str | None:
        """None where the extension has them."""
        return lacking(_core, "wfm_fields")

    def prepare(self, problem: CommitteeProduct, stage: Stages) -> Callable[[Any], Any]:
        """Patterns are packed already."""
        kernel = _core.wfm_fields if problem.product == "fields" else _core.wfm_sums
        words, count, n = problem.patterns.words, len(problem.patterns), problem.model.fan_in

        def products(vector: Array) -> Array:
            with limit_threads(self.threads):
                for _ in range(problem.repeats):
                    out = kernel(words, count, n, vector)
            return out

        return products


@dataclass(frozen=True)
class Floats:
    """NumPy's matrix products with patterns unpacked to float32, one for each segment."""

    name: str
    threads: int | None = None

    def available(self) -> str | None:
        """NumPy is always there."""
        return None

    def prepare(self, problem: CommitteeProduct, stage: Stages) -> Callable[[Any], Any]:
        """Unpack the patterns and cut them into segments."""
        needed = 4.0 * len(problem.patterns) * problem.model.n_inputs
        if needed > MOST_UNPACKED:
            raise CannotAnswerError(f"float32 patterns would take {needed / 1e9:.0f} GB")
        segments = problem.model.segments
        cut = np.split(problem.patterns.inputs.astype(np.float32), segments, axis=1)
        inputs = [np.ascontiguousarray(piece) for piece in cut]
        controller = ThreadpoolController()

        def limit() -> AbstractContextManager[Any]:
            return controller.limit(limits=self.threads, user_api="blas") if self.threads else nullcontext()

        def fields(m: Array) -> Array:
            if segments == 1:
                return inputs[0] @ m.T
            return np.stack([X @ m[k] for k, X in enumerate(inputs)], axis=1)

        def sums(g: Array) -> Array:
            if segments == 1:
                return g.T @ inputs[0]
            return np.stack([g[:, k] @ X for k, X in enumerate(inputs)])

        def products(vector: Array) -> Array:
            with limit():
                for _ in range(problem.repeats):
                    out = fields(vector) if problem.product == "fields" else sums(vector)
            return out

        return products


CONTENDERS = {
    "committee product": (
        Bits("flatcore"),
        Bits("flatcore, 1 thread", 1),
        Floats("NumPy, float32 patterns"),
        Floats("NumPy, float32 patterns, 1 thread", 1),
    )
}
