"""The interface of a contender."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray

import flatcore as fc
from benchmarks.timing import Stages

Array = NDArray[Any]
Product = Callable[[Array], Array]  # v (P,) or (P, k) → Hv, of the same shape


class Contender(Protocol):
    """One way to answer a workload's question.

    It may also have ``load(problem)``, which does what is done once in a process, such as imports, before the set-up is
    timed.
    """

    name: str

    def available(self) -> str | None:
        """None, or the reason why it cannot run here."""

    def prepare(self, problem: Any, stage: Stages) -> Callable[[Any], Any]:
        """Do what is done once (timed as the set-up; `stage` names its parts); return argument → answer."""


class CannotAnswerError(Exception):
    """Raised by a contender that ran and found no answer, such as a solver that does not converge."""


def missing(module: str, install: str) -> str | None:
    """None where `module` can be imported, otherwise what to install."""
    return None if importlib.util.find_spec(module) else f"{module} is not installed: pip install {install}"


def lacking(owner: Any, name: str) -> str | None:
    """None where the installed flatcore's `owner` has `name`; older versions are measured without it."""
    return None if hasattr(owner, name) else f"flatcore {fc.__version__} has no {name}"
