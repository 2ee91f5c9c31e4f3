"""``cnn``: curvature products of three convolutions, 3 → 32 → 64 (stride 2) → 64, and a linear layer.

ReLU, average over pixels, cross-entropy, 128 images of 32 × 32 (P = 57 thousand).
"""

from __future__ import annotations

from benchmarks.model_problem import Cnn
from benchmarks.model_workload import model_workload

WORKLOAD = model_workload(
    "cnn",
    "curvature products in PyTorch, three convolutions and a linear layer, float32",
    full=Cnn((32, 64, 64), samples=128, pixels=32),
    quick=Cnn((4, 5, 6), samples=16, pixels=8),
)
