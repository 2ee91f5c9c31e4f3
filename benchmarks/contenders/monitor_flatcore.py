"""The largest eigenvalue at one state after another: followed, followed and certified now and then, and from scratch.

From scratch means a random start: plain Lanczos that stops at the first step at which its residual meets the tolerance
(nothing verifies that no larger eigenvalue was missed), and ``flatcore.eigsh``, which does, and is asked at every fifth
state only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import flatcore as fc
from benchmarks.contenders.base import missing
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.monitor_problem import Measured, MonitorProblem

FOLLOWED, CERTIFIED = "flatcore, followed", "flatcore, followed, every tenth certified"
EVERY = 5
LANCZOS, COLD = "flatcore's plain Lanczos, cold, uncertified", "flatcore.eigsh, cold, every fifth state"


class _FromStateToState:
    """What all have in common: training in the set-up, all states in the call, all but the first counted."""

    name: str
    every = 1  # states from one measurement to the next

    def available(self) -> str | None:
        """None where PyTorch is installed."""
        return missing("torch", "torch")

    def prepare(self, problem: MonitorProblem, stage: Stages) -> Callable[[Any], Measured]:
        """Train, where nobody has yet."""
        with stage("training"):
            next(problem.models())
        return lambda _: self._measured(problem)

    def _measured(self, problem: MonitorProblem) -> Measured:
        from benchmarks.monitor_problem import Measured

        measure = self._start(problem)
        answer = Measured()
        measure(next(problem.models()))
        for model in problem.models(slice(1, None, self.every)):
            begin = time.perf_counter()
            value, products, probing = measure(model)
            answer.seconds.append(time.perf_counter() - begin)
            answer.values.append(value)
            answer.products.append(products)
            answer.probing.append(probing)
        answer.every = self.every
        return answer

    def _start(self, problem: MonitorProblem) -> Callable[[Any], tuple[float, int, int]]:
        """A function of the model: the value, all products, and those of probes."""
        raise NotImplementedError


def _hessian(model: Any, problem: MonitorProblem) -> Any:
    import torch

    return fc.torch.Hessian(model, torch.nn.CrossEntropyLoss(), problem.batch)


class Followed(_FromStateToState):
    """What the monitor does between two certified measurements."""

    name = FOLLOWED

    def _start(self, problem: MonitorProblem) -> Callable[[Any], tuple[float, int, int]]:
        from flatcore.torch._follow import Follower

        follower = Follower(1, tol=problem.tol)

        def measure(model: Any) -> tuple[float, int, int]:
            found = (follower.follow if follower.ready else follower.start)(_hessian(model, problem))
            return float(found.values[0]), found.products, 0

        return measure


class Monitored(_FromStateToState):
    """The monitor as it is used."""

    name = CERTIFIED

    def _start(self, problem: MonitorProblem) -> Callable[[Any], tuple[float, int, int]]:
        import torch

        from flatcore.torch._monitor import FlatnessMonitor

        monitors: list[FlatnessMonitor] = []

        def measure(model: Any) -> tuple[float, int, int]:
            if not monitors:
                loss_fn = torch.nn.CrossEntropyLoss()
                monitors.append(FlatnessMonitor(model, loss_fn, problem.batch, tol=problem.tol, coupling=0))
            row = monitors[0].measure()
            return row["sharpness"], row["products"], 0

        return measure


class ColdLanczos(_FromStateToState):
    """Plain Lanczos from a random vector, the residual looked at in every step."""

    name = LANCZOS

    def _start(self, problem: MonitorProblem) -> Callable[[Any], tuple[float, int, int]]:
        from flatcore.torch._follow import Follower

        def measure(model: Any) -> tuple[float, int, int]:
            found = Follower(1, tol=problem.tol).start(_hessian(model, problem))
            return float(found.values[0]), found.products, 0

        return measure


class ColdEigsh(_FromStateToState):
    """The solver from a random vector, its residual measured anew, and its probe."""

    name, every = COLD, EVERY

    def _start(self, problem: MonitorProblem) -> Callable[[Any], tuple[float, int, int]]:
        def measure(model: Any) -> tuple[float, int, int]:
            found = fc.eigsh(_hessian(model, problem), 1, tol=problem.tol)
            probing = 0 if found.certificate is None else found.certificate.steps * found.certificate.block
            return float(found.values[0]), found.products, probing

        return measure


CONTENDERS = {"sharpness along a training": (Followed(), Monitored(), ColdLanczos(), ColdEigsh())}
