"""A contender on a given number of threads, its own and those of BLAS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from threadpoolctl import ThreadpoolController

from benchmarks.contenders.base import Contender
from benchmarks.timing import Stages
from flatcore._threads import limit_threads


@dataclass(frozen=True)
class OnThreads:
    """`contender` under a limit that is set and lifted in every call; None sets none."""

    contender: Contender
    threads: int | None

    @property
    def name(self) -> str:
        """The contender's: a limit makes no other program of it."""
        return self.contender.name

    def available(self) -> str | None:
        """As the contender says."""
        return self.contender.available()

    def prepare(self, problem: Any, stage: Stages) -> Callable[[Any], Any]:
        """As the contender does."""
        answer = self.contender.prepare(problem, stage)
        if self.threads is None:
            return answer
        blas = ThreadpoolController().select(user_api="blas")

        def limited(argument: Any) -> Any:
            with limit_threads(self.threads), blas.limit(limits=self.threads):
                return answer(argument)

        return limited
