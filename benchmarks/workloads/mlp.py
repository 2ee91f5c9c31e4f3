"""``mlp``: curvature products of 784 → 1024 × 3 → 10 with tanh and biases (P = 2.9 million).

Cross-entropy, n = 1,024.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.model_problem import Mlp
from benchmarks.model_workload import model_cases, model_targets
from benchmarks.runner import Case, CaseResult, Options, Target, Workload
from benchmarks.timing import Yardsticks

FULL, QUICK = Mlp((784, 1024, 1024, 1024), samples=1024), Mlp((20, 24, 24), samples=64)


def cases(options: Options) -> Iterator[Case]:
    """Hessian products, set-up and products, other curvatures."""
    return model_cases(QUICK if options.quick else FULL, options)


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """P8."""
    return model_targets("mlp", results)


WORKLOAD = Workload("mlp", "curvature products in PyTorch, 784 → 1024 × 3 → 10, tanh, float32", cases, targets, "P8")
