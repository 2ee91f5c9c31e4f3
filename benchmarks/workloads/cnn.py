"""``cnn``: curvature products of three convolutions, 3 → 32 → 64 (stride 2) → 64, and a linear layer.

ReLU, average over pixels, cross-entropy, 128 images of 32 × 32 (P = 57 thousand).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.model_problem import Cnn
from benchmarks.model_workload import model_cases, model_targets
from benchmarks.runner import Case, CaseResult, Options, Target, Workload
from benchmarks.timing import Yardsticks

FULL, QUICK = Cnn((32, 64, 64), samples=128, pixels=32), Cnn((4, 5, 6), samples=16, pixels=8)


def cases(options: Options) -> Iterator[Case]:
    """Hessian products, set-up and products, other curvatures."""
    return model_cases(QUICK if options.quick else FULL, options)


def targets(results: Sequence[CaseResult], yardsticks: Yardsticks) -> list[Target]:
    """P8."""
    return model_targets("cnn", results)


WORKLOAD = Workload(
    "cnn", "curvature products in PyTorch, convolutions 3 → 32 → 64 → 64, float32", cases, targets, "P8"
)
