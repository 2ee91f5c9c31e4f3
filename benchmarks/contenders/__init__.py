"""Contenders: the fastest honest version of each way to answer, one file a way.

A contender has a ``name``, ``available()``, which is None or the reason why it cannot run, and ``prepare(problem,
stage)``, which does what is done once and returns a function from the argument (a vector, a number of eigenpairs) to
the answer. All get the same arrays, precision and threads, and only the returned function is timed in the rounds.

Every file lists what it has, by the question it answers, in ``CONTENDERS``; a new file is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from benchmarks.contenders.base import Contender

__all__ = ["Contender", "answering"]


def answering(question: str) -> tuple[Contender, ...]:
    """Every contender for a question: flatcore's first, then by file."""
    found = [contender for listed in _listed() for contender in listed.get(question, ())]
    return tuple(sorted(found, key=lambda contender: not contender.name.startswith("flatcore")))


@cache
def _listed() -> tuple[dict[str, tuple[Contender, ...]], ...]:
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return tuple(getattr(module, "CONTENDERS", {}) for module in modules)
