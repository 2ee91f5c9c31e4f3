"""``mlp``: curvature products of 784 → 1024 × 3 → 10 with tanh and biases (P = 2.9 million).

Cross-entropy, n = 1,024.
"""

from __future__ import annotations

from benchmarks.model_problem import Mlp
from benchmarks.model_workload import model_workload

WORKLOAD = model_workload(
    "mlp",
    "curvature products in PyTorch, 784 → 1024 × 3 → 10, tanh, float32",
    full=Mlp((784, 1024, 1024, 1024), samples=1024),
    quick=Mlp((20, 24, 24), samples=64),
)
