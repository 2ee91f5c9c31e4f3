"""The interface of a contender, and the registry of those that can be asked for by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray

from benchmarks.timing import Stages

Array = NDArray[Any]
Product = Callable[[Array], Array]  # v (P,) or (P, k) → Hv, of the same shape


class Contender(Protocol):
    """One way to answer a workload's question."""

    name: str

    def available(self) -> str | None:
        """None, or the reason why it cannot run here."""

    def prepare(self, problem: Any, stage: Stages) -> Callable[[Any], Any]:
        """Do what is done once (timed as the set-up; `stage` names its parts); return argument → answer."""


def missing(module: str, install: str) -> str | None:
    """None where `module` can be imported, otherwise what to install."""
    return None if importlib.util.find_spec(module) else f"{module} is not installed: pip install {install}"
