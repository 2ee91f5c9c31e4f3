"""Checks of arguments that this room's functions share, and its random streams."""

from __future__ import annotations

from typing import Any

import numpy as np

from flatcore._checks import check_count

_MOST = 2**63 - 1  # what the kernels count with
_STREAMS = {"learning": 1, "local_energy": 2, "local_entropy": 3}


def stream(purpose: str, seed: Any) -> np.random.Generator:
    """The generator of one purpose, independent of those of the others.

    Patterns are drawn from ``default_rng(seed)`` itself: what learns them, or looks at what was learned, starts apart
    from them at the same seed too.
    """
    sequence = np.random.SeedSequence(check_count("seed", seed, 0), spawn_key=(_STREAMS[purpose],))
    return np.random.default_rng(sequence)


def check_size(name: str, value: Any, low: int = 1) -> int:
    """An integer that is at least `low` and that the kernels can count to."""
    count = check_count(name, value, low)
    if count > _MOST:
        raise ValueError(f"{name} is {count}; expected at most {_MOST}")
    return count


def check_positive(name: str, value: Any, *, or_zero: bool = False) -> float:
    """A finite number > 0, or >= 0."""
    number = _finite(value)
    if not (number > 0.0 or (or_zero and number == 0.0)):
        expected = "a number that is not negative" if or_zero else "a positive number"
        raise ValueError(f"{name} is {value!r}; expected {expected}")
    return number


def check_share(name: str, value: Any, *, open_below: bool = False) -> float:
    """A number in [0, 1), or (0, 1)."""
    number = _finite(value)
    if not (np.finfo(float).tiny <= number < 1.0 or (number == 0.0 and not open_below)):
        low = "(0" if open_below else "[0"
        raise ValueError(f"{name} is {value!r}; expected a number in {low}, 1)")
    return number


def check_flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} is {value!r}; expected True or False")
    return bool(value)


def _finite(value: Any) -> float:
    """The number, or NaN where it is none, or infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return np.nan
    try:
        number = float(value)
    except OverflowError:  # an integer
        return np.nan
    return number if np.isfinite(number) else np.nan
