"""The numbers that the study ``nonlinear`` compares, each of one run."""

from __future__ import annotations

import numpy as np

from flatcore._checks import FloatArray
from flatcore.studies.nonlinear_training import Trace

EDGE = 0.1  # sharpness within this part of 2/η is at the edge of stability


def edge_ratios(trace: Trace) -> FloatArray:
    """Sharpness over 2/η at every measurement."""
    return trace.column("sharpness") / trace.column("two_over_step")


def settled(trace: Trace) -> float:
    """Mean of sharpness over 2/η in the second half of the steps."""
    late = trace.column("step") >= trace.run.max_steps / 2.0
    return float(edge_ratios(trace)[late].mean())


def place(ratio: float) -> str:
    """Where a sharpness over 2/η lies."""
    return "below" if ratio < 1.0 - EDGE else "above" if ratio > 1.0 + EDGE else "at the edge"


def sharpness(trace: Trace) -> float:
    """At the last step."""
    return trace.last["sharpness"]


def loss(trace: Trace) -> float:
    """Training loss at the last step."""
    return trace.last["loss"]


def test_error(trace: Trace) -> float:
    """Wrong answers among the held-out images, in per cent."""
    return 100.0 * (1.0 - trace.last["test_accuracy"])


def rising(trace: Trace) -> float:
    """Steps that raised the training loss, in per cent of all."""
    return 100.0 * float(trace.column("rises").sum()) / max(trace.steps, 1)


def imbalance(trace: Trace, when: int = -1) -> float:
    """Standard deviation of log gains over the layers, mean over inputs."""
    return trace.structure[when]["imbalance"]


def residual(trace: Trace, when: int = -1) -> float:
    """Coupling residual, mean over layers and inputs."""
    return float(np.mean(layers(trace, "residual", when)))


def overlap(trace: Trace, when: int = -1) -> float:
    """Largest overlap of consecutive layers, mean over pairs."""
    return _mean_of_pairs(layers(trace, "overlap", when))


def overlap_ratio(trace: Trace, when: int = -1) -> float:
    """Largest overlap over its chance level, mean over pairs."""
    return _mean_of_pairs(layers(trace, "overlap_ratio", when))


def chance(trace: Trace) -> float:
    """Chance level of the largest overlap, mean over pairs."""
    return float(layers(trace, "overlap_chance").mean())


def _mean_of_pairs(values: FloatArray) -> float:
    """Pairs with a layer that is zero have no overlap and are left out."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else float("nan")


def layers(trace: Trace, prefix: str, when: int = -1) -> FloatArray:
    """Quantities prefix_1, prefix_2, … of the first (0) or last (−1) structure."""
    row = trace.structure[when]
    found = [name for name in row if name.startswith(f"{prefix}_") and name[len(prefix) + 1 :].isdigit()]
    return np.array([row[name] for name in found])
