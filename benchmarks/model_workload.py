"""What ``mlp`` and ``cnn`` share: their cases, and how P8 is judged.

The set-up is reported with every case. What it is worth is measured by itself: set-up, 20 products and the release of
both are one call of a contender, so that nothing done late (in the first product, say) goes uncounted. Imports are no
part of a set-up: all contenders run once on a few parameters before, as ``vmap``, ``jvp`` and double backward load
PyTorch's tracing machinery when they first run, once in a process and for all alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.contenders import answering
from benchmarks.contenders.base import Array, Contender, Product
from benchmarks.model_problem import CURVLINOPS, FLOAT64, Architecture, ModelProblem
from benchmarks.runner import (
    Case,
    CaseResult,
    EntryResult,
    Options,
    Target,
    at_least,
    at_most,
    entries_for,
    peer_ratio,
)
from benchmarks.timing import Stages

BLOCK = 8
PRODUCTS, QUICK_PRODUCTS = 20, 3
OTHERS = {
    "ggn": "Gauss–Newton",
    "fisher_empirical": "empirical Fisher",
    "fisher_mc": "Fisher, labels drawn",
}


class FromScratch:
    """Set-up and products as one call."""

    def __init__(self, contender: Contender, products: int) -> None:
        self.name = contender.name
        self._contender, self._products = contender, products

    def available(self) -> str | None:
        """As the contender's."""
        return self._contender.available()

    def load(self, problem: ModelProblem) -> None:
        """As the contender's."""
        load: Callable[[Any], None] | None = getattr(self._contender, "load", None)
        if load is not None:
            load(problem)

    def prepare(self, problem: ModelProblem, stage: Stages) -> Product:
        """Nothing is kept from call to call."""

        def products(v: Array) -> Array:
            product = self._contender.prepare(problem, Stages())
            for _ in range(self._products - 1):
                product(v)
            image: Array = product(v)
            return image

        return products


def model_cases(architecture: Architecture, options: Options) -> Iterator[Case]:
    """Products with one vector and eight, from scratch, and with the other curvatures."""
    contenders = answering("model hessian")
    one = ModelProblem(architecture)
    yield Case("one vector", entries_for(contenders, one))
    yield Case(f"{BLOCK} vectors", entries_for(contenders, ModelProblem(architecture, vectors=BLOCK)))
    times = QUICK_PRODUCTS if options.quick else PRODUCTS
    yield Case(f"set-up and {times} products", entries_for([FromScratch(c, times) for c in contenders], one))
    for curvature, title in OTHERS.items():
        problem = ModelProblem(architecture, curvature=curvature)
        yield Case(f"{title}, one vector", entries_for(answering(f"model {curvature}"), problem))


def model_targets(name: str, results: Sequence[CaseResult]) -> list[Target]:
    """P8 for the model of this name."""
    one, block, scratch = results[:3]
    slower = peer_ratio(_peer(scratch))
    return [
        at_least(f"P8 times faster than curvlinops, {name}", peer_ratio(_peer(one)), 1.7),
        at_most(f"P8 set-up and {PRODUCTS} products over curvlinops', {name}", slower and 1 / slower, 1),
        at_most(f"P8 difference to curvlinops, {name}", _difference([one, block], CURVLINOPS), 1e-5),
        at_most(f"P8 difference to float64, {name}", _difference([one, block], FLOAT64), 1e-5),
    ]


def _peer(case: CaseResult) -> EntryResult | None:
    """curvlinops, where flatcore is there to be compared with."""
    return None if case.entry("flatcore") is None else case.entry("curvlinops")


def _difference(cases: Sequence[CaseResult], reference: str) -> float | None:
    """The largest difference of flatcore's answers from this reference."""
    entries = [entry for case in cases if (entry := case.entry("flatcore")) is not None]
    found = [a.difference for entry in entries for a in entry.agreements if a.reference == reference]
    return max(found, default=None)
