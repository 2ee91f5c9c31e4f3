"""The batches of a loss, linearised: graphs that fit into a budget are kept, the others built anew at every visit.

Setting up is one pass over the data: checks on the first batch, then each batch's graph (`_curvature.py`), its saved
bytes counted. The graphs that fit into the budget stay, in order; the batches after them are evaluated again whenever
the graphs are visited.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flatcore.torch._batches import Batches, Evaluated, cuda_devices, quiet
from flatcore.torch._curvature import HessianGraph, OutputGraph, linearised
from flatcore.torch._parameters import ParameterSet, shown
from flatcore.torch._preflight import check_room, check_same_loss, counting, first_look
from flatcore.torch._reduce import Ranks
from flatcore.torch._twice import explained, second_derivatives

Graph = HessianGraph | OutputGraph


@dataclass(frozen=True)
class Kept:
    """A batch: its weight, and its graph where that is kept."""

    weight: float
    graph: Graph | None


class Graphs:
    """Graphs of all batches, on this rank, and what they say of the loss over all ranks.

    Parameters
    ----------
    model, params, batches, loss_fn
        The unwrapped model, its chosen parameters, the data.
    curvature
        One of `CURVATURES`.
    budget
        Bytes of graphs to keep.
    seed
        Of drawn labels, and of the order of data that shuffle.
    ranks
        Who else holds data.

    Attributes
    ----------
    value, gradient
        The loss and its gradient (P,) over all data.
    samples
        The batches' weights in all.
    kept
        What is known of each batch.
    flops
        Of a forward pass over this rank's data.
    convolved
        Whether the model has convolutions.
    notes
        What the checks found that is no error.

    """

    def __init__(
        self,
        model: nn.Module,
        params: ParameterSet,
        batches: Batches,
        loss_fn: Any,
        curvature: str,
        *,
        budget: float,
        seed: int,
        ranks: Ranks,
    ) -> None:
        self._model, self._params, self._batches = model, params, batches
        self._loss_fn, self._curvature, self._seed, self._ranks = loss_fn, curvature, seed, ranks
        self.kept: list[Kept] = []
        self.notes: list[str] = []
        self.flops, self.convolved = 0.0, False
        self._set_up(budget)

    @property
    def rebuilt(self) -> float:
        """The share of the weight whose graphs are built anew at every visit."""
        total = sum(batch.weight for batch in self.kept)
        return sum(batch.weight for batch in self.kept if batch.graph is None) / total if total > 0.0 else 0.0

    def visit(self, use: Callable[[float, Graph], None]) -> None:
        """Call `use` with c_b and the graph of every batch, building those that were not kept."""
        for batch in self.kept:
            if batch.graph is not None:
                use(self._share(batch.weight), batch.graph)
        if all(batch.graph is not None or batch.weight == 0.0 for batch in self.kept):
            return
        with self._quiet():
            for number, content in enumerate(self._batches, 1):
                old = self.kept[number - 1]
                if old.graph is None and old.weight > 0.0:
                    weight, _, graph, _ = self._build(content, number, None)
                    if graph is not None:
                        use(self._share(weight), graph)
                    del graph

    # -- internals ---------------------------------------------------------------------------------------------------

    def _set_up(self, budget: float) -> None:
        """One pass over the data: checks, losses and gradients, and the graphs that fit."""
        used, value, mean = 0, 0.0, self._batches.mean
        gradient = torch.zeros(self._params.total, dtype=self._params.torch_dtype, device=self._params.device)
        unused: set[int] | None = None
        with self._quiet():
            for number, batch in enumerate(self._batches, 1):
                first = self._first_look(batch) if number == 1 else None
                weight, loss, graph, size = self._build(batch, number, first)
                if graph is None:
                    self.kept.append(Kept(weight, None))
                    continue
                factor = weight if mean else 1.0
                value += factor * loss
                gradient.add_(self._params.flat(graph.gradient), alpha=factor)
                unused = graph.unused if unused is None else unused & graph.unused
                used += size
                self.kept.append(Kept(weight, graph if used <= budget else None))
                del graph
        own = sum(batch.weight for batch in self.kept)
        self.samples, value = self._ranks.sums(own, value)
        if self.samples <= 0.0:
            raise ValueError("all batches have weight 0; expected samples that count")
        scale = 1.0 / self.samples if mean else 1.0
        self.value, self.gradient = scale * value, self._ranks.sum(gradient).mul_(scale)
        first_weight = self.kept[0].weight
        self.flops *= own / first_weight if first_weight > 0.0 else len(self.kept)
        self._say_unused(unused or set())

    def _say_unused(self, unused: set[int]) -> None:
        names = self._params.names
        if len(unused) == len(names):
            raise ValueError(f"the loss depends on none of {shown(names)}; expected a gradient through one at least")
        if unused:
            text = f"the loss does not depend on {shown(names[i] for i in sorted(unused))}"
            self.notes.append(text)
            warnings.warn(f"{text}: their rows are zero", stacklevel=5)

    def _first_look(self, batch: Any) -> float:
        """Loss of the first batch, before anything is built, its flops, and a check of the reduction."""
        evaluated: list[Evaluated] = []

        def loss_of() -> Tensor:
            evaluated.append(self._batches.evaluate(self._model, batch, 1))
            return self._batches.loss(evaluated[0], 1)

        with second_derivatives(self._model):
            loss, self.flops = first_look(self._model, loss_of)
            with torch.no_grad():
                unclear = self._batches.check_reduction(evaluated[0])
        if unclear is not None:
            how = "mean" if self._batches.mean else "sum"
            self.notes.append(f"that the loss reduces by a {how} was not verified: {unclear}")
        return loss

    def _build(self, batch: Any, number: int, first: float | None) -> tuple[float, float, Graph | None, int]:
        """Weight, loss, graph (None where the weight is 0) and bytes of the graph, of a batch.

        `first` is the loss that a first look at the batch has found.
        """
        with second_derivatives(self._model) as mode, counting(self._model) as saved:
            evaluated = self._batches.evaluate(self._model, batch, number)
            if evaluated.weight == 0.0:
                return 0.0, 0.0, None, 0
            if first is not None:
                check_same_loss(first, float(self._batches.loss(evaluated, number).detach()))
                check_room(saved.total, self._params.total * self._params.dtype.itemsize, self._params.device)
            try:
                loss, graph = linearised(
                    self._curvature,
                    evaluated,
                    lambda at: self._batches.loss(at, number),
                    self._params.tensors,
                    loss_fn=self._loss_fn,
                    mean=self._batches.mean,
                    seed=self._seed_of(number),
                )
            except RuntimeError as error:
                raise explained(error) from error
        self.convolved = self.convolved or mode.convolved
        return evaluated.weight, loss, graph, saved.total

    def _seed_of(self, number: int) -> int:
        """A seed for the labels of a batch."""
        state = np.random.SeedSequence([self._seed, self._ranks.rank, number]).generate_state(1, np.uint64)
        return int(state[0] >> np.uint64(1))

    def _quiet(self) -> AbstractContextManager[None]:
        return quiet(self._batches.source, cuda_devices(self._params.device), self._seed)

    def _share(self, weight: float) -> float:
        return weight / self.samples if self._batches.mean else 1.0
