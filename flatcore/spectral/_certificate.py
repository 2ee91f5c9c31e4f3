"""How far beyond the last value returned a missed eigenvalue can still lie.

A random Gaussian block of b vectors, q block Lanczos steps in the complement (dimension N) of what was found, whose
spectrum has width w: an eigenvalue ≥ θ_k + δ stays unseen with probability at most

    (y/2)^{b/2} / Γ(b/2 + 1),    y = N / sinh²((2q − 1)·arsinh √(δ/w)),

which bounds the chance that a χ² variable with b degrees of freedom is at most y: a block version of Kuczyński &
Woźniakowski (1992) with the polynomials that are best for it; see docs/theory.md. Where w is only known as far as it
was seen, r = δ/w bounds what was missed at both ends, and δ is r/(1 − r) times the width seen.
"""

from __future__ import annotations

import math

import scipy  # its subpackages load when first used: optimize and special take half the time of an import


def log_miss_probability(relative_gap: float, dimension: int, block: int, steps: int) -> float:
    """The bound's logarithm at δ/w = relative_gap."""
    x = (2 * steps - 1) * math.asinh(math.sqrt(relative_gap))
    log_sinh = x + math.log(-math.expm1(-2.0 * x)) - math.log(2.0)
    return block / 2 * (math.log(dimension / 2.0) - 2.0 * log_sinh) - math.lgamma(block / 2 + 1)


def steps_needed(relative_gap: float, dimension: int, block: int, probability: float) -> int:
    """Block steps after which the bound at δ/w = relative_gap is at most `probability`."""
    log_half_y = (math.log(probability) + math.lgamma(block / 2 + 1)) * 2.0 / block
    least = math.asinh(math.exp((math.log(dimension / 2.0) - log_half_y) / 2.0))
    return max(1, math.ceil((least / math.asinh(math.sqrt(relative_gap)) + 1.0) / 2.0))


def beyond_seen(relative_gap: float) -> float:
    """The gap over the width seen, where at either end as much of the whole width may have been missed."""
    return relative_gap / (1.0 - relative_gap) if relative_gap < 1.0 else math.inf


def certified_gap(dimension: int, block: int, steps: int, width: float, probability: float) -> float:
    """The smallest δ for which the bound is at most `probability`; infinite where there is none.

    0 where the probe spanned the whole complement.
    """
    if dimension <= block * steps or width <= 0.0:
        return 0.0
    target = math.log(probability)

    def excess(log_gap: float) -> float:
        return log_miss_probability(math.exp(log_gap), dimension, block, steps) - target

    low, high = math.log(1e-12), math.log(1e6)
    if excess(low) <= 0.0:
        return width * math.exp(low)
    if excess(high) > 0.0:
        return math.inf
    return width * math.exp(scipy.optimize.brentq(excess, low, high, xtol=1e-6))
