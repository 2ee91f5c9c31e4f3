"""scikit-learn's ``randomized_svd``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.contenders.base import missing
from benchmarks.svd_problem import Triplets
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.svd_problem import SvdProblem


class RandomizedSvd:
    """``sklearn.utils.extmath.randomized_svd(A, k, n_iter=…)``."""

    def __init__(self, n_iter: int | str) -> None:
        self.name = f"scikit-learn randomized_svd, n_iter = {n_iter}"
        self._n_iter = n_iter

    def available(self) -> str | None:
        """None where scikit-learn is installed."""
        return missing("sklearn", "scikit-learn")

    def prepare(self, problem: SvdProblem, stage: Stages) -> Callable[[int], Triplets]:
        """Nothing is done in advance."""
        from sklearn.utils.extmath import randomized_svd

        def answer(k: int) -> Triplets:
            U, s, Vt = randomized_svd(problem.A, k, n_iter=self._n_iter, random_state=0)
            return Triplets(U, s, Vt.T)

        return answer


CONTENDERS = {"top singular triplets": (RandomizedSvd("auto"), RandomizedSvd(20))}
