r"""How far beyond the last value returned a missed eigenvalue can still lie.

A random Gaussian block of b vectors, q block Lanczos steps in the complement (dimension N) of what was found, whose
spectrum has width w: an eigenvalue ≥ θ_k + δ stays unseen with probability at most

    (y/2)^{b/2} / Γ(b/2 + 1),    y = N·w / (δ·T²),    T = cosh((q − 1)·arccosh(1 + 2δ/w)),

which bounds the chance that a χ² variable with b degrees of freedom is at most y: a block version of Kuczyński &
Woźniakowski (1992); see docs/theory.md.
"""

from __future__ import annotations

import math

import scipy  # its subpackages load when first used: optimize and special take half the time of an import


def log_miss_probability(relative_gap: float, dimension: int, block: int, steps: int) -> float:
    """The bound's logarithm at δ/w = relative_gap."""
    x = (steps - 1) * math.acosh(1.0 + 2.0 * relative_gap)
    log_cosh = x + math.log1p(math.exp(-2.0 * x)) - math.log(2.0)
    log_half_y = math.log(dimension / (2.0 * relative_gap)) - 2.0 * log_cosh
    return block / 2 * log_half_y - math.lgamma(block / 2 + 1)


def steps_needed(relative_gap: float, dimension: int, block: int, probability: float) -> int:
    """Block steps after which the bound at δ/w = relative_gap is at most `probability`."""
    per_step = math.acosh(1.0 + 2.0 * relative_gap)
    log_half_y = (math.log(probability) + math.lgamma(block / 2 + 1)) * 2.0 / block
    log_T = (math.log(dimension / (2.0 * relative_gap)) - log_half_y) / 2.0
    return 1 + max(0, math.ceil((log_T + math.log(2.0)) / per_step))


def certified_gap(dimension: int, block: int, steps: int, width: float, probability: float) -> float:
    """The smallest δ for which the bound is at most `probability`; 0 where the probe spanned the whole complement."""
    if dimension <= block * steps or width <= 0.0:
        return 0.0
    target = math.log(probability)

    def excess(log_gap: float) -> float:
        return log_miss_probability(math.exp(log_gap), dimension, block, steps) - target

    low, high = math.log(1e-12), math.log(1e6)
    if excess(low) <= 0.0:
        return width * math.exp(low)
    return width * math.exp(scipy.optimize.brentq(excess, low, high, xtol=1e-6))
