"""``weights``: all singular values of four layers of 2048 × 2048, N(0, 1/2048) in float32."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.contenders import answering
from benchmarks.runner import Case, Options, Workload, entries_for, no_targets
from benchmarks.weights_problem import WeightsProblem

LAYERS = 4


def cases(options: Options) -> Iterator[Case]:
    """All layers."""
    width = 128 if options.quick else 2048
    rng = np.random.default_rng(0)
    layers = [rng.standard_normal((width, width), dtype=np.float32) / np.float32(width**0.5) for _ in range(LAYERS)]
    yield Case(f"{LAYERS} layers of {width} × {width}", entries_for(answering("layer spectra"), WeightsProblem(layers)))


WORKLOAD = Workload("weights", "spectra of four layers of 2048 × 2048, float32", cases, no_targets)
