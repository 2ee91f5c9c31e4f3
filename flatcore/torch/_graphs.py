"""The batches of a loss, linearised: graphs that fit into a budget are kept, the others built anew at every visit.

Setting up is one pass over the data: checks on the first batch, then each batch's graph (`_curvature.py`), its saved
bytes counted. The graphs that fit into the budget stay, in order; the batches after them are evaluated again whenever
the graphs are visited.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from flatcore.linear import StaleWeightsError
from flatcore.torch._batches import Batches, Evaluated, cuda_devices, quiet
from flatcore.torch._curvature import HessianGraph, OutputGraph, linearised
from flatcore.torch._parameters import ParameterSet, shown
from flatcore.torch._preflight import Snapshot, check_room, check_same, counting, first_look
from flatcore.torch._reduce import Ranks
from flatcore.torch._twice import SWITCHES, explained, second_derivatives
from flatcore.torch._wrappers import without_hooks

Graph = HessianGraph | OutputGraph


@dataclass(frozen=True)
class Kept:
    """A batch: its weight, and its graph where that is kept."""

    weight: float
    graph: Graph | None


class _Look(NamedTuple):
    """The first look at a batch: detached outputs (where they are a tensor) and loss, and what it could not check."""

    outputs: Tensor | None
    loss: Tensor | None
    unclear: str | None


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
    rebuilt
        The share of the weight whose graphs are built anew at every visit.
    flops
        Of a forward pass over a rank's data, the mean over ranks.
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
        self._snapshot = Snapshot(model)
        self._set_up(budget)

    def check_fresh(self) -> None:
        """Refuse a model whose parameters or buffers have changed."""
        changed = self._snapshot.changed()
        if changed:
            raise StaleWeightsError(f"{shown(changed)} changed since this operator was built; build a new one")

    def visit(self, use: Callable[[float, Graph], None]) -> None:
        """Call `use` with c_b and the graph of every batch, building those that were not kept."""
        with without_hooks(self._model):
            self._visit(use)

    def _visit(self, use: Callable[[float, Graph], None]) -> None:
        for batch in self.kept:
            if batch.graph is not None:
                use(self._share(batch.weight), batch.graph)
        if all(batch.graph is not None or batch.weight == 0.0 for batch in self.kept):
            return
        modes = self._snapshot.changed_modes()
        if modes:
            raise StaleWeightsError(
                f"{shown(modes)} went from evaluation to training mode, or back, since this operator was built; graphs "
                "that were not kept would differ from those that were"
            )
        with self._quiet():
            for number, content in enumerate(self._batches, 1):
                old = self.kept[number - 1]
                if old.graph is None and old.weight > 0.0:
                    weight, _, graph, _ = self._build(content, number)
                    if graph is not None:
                        use(self._share(weight), graph)
                    del graph

    # -- internals ---------------------------------------------------------------------------------------------------

    def _set_up(self, budget: float) -> None:
        """One pass over the data, on every rank; then what all ranks hold together."""
        self._ranks.check_same("the model's parameters", self._params.sums())
        value, used = 0.0, torch.zeros(len(self._params.names), device=self._params.device)
        gradient = torch.zeros(self._params.total, dtype=self._params.torch_dtype, device=self._params.device)
        with self._ranks.together("setting up the Hessian"), self._quiet(), without_hooks(self._model):
            value = self._passed(budget, gradient, used)
        self._batches.check_ranks(self._ranks)
        mean, own = self._batches.mean, sum(batch.weight for batch in self.kept)
        rebuilt = sum(batch.weight for batch in self.kept if batch.graph is None)
        self.samples, value, rebuilt, self.flops = self._ranks.sums(own, value, rebuilt, self.flops)
        if self.samples <= 0.0:
            raise ValueError("all batches have weight 0; expected samples that count")
        scale = 1.0 / self.samples if mean else 1.0
        self.value, self.gradient = scale * value, self._ranks.sum(gradient).mul_(scale)
        self.rebuilt, self.flops = rebuilt / self.samples, self.flops / self._ranks.size
        self._say_unused([i for i, count in enumerate(self._ranks.sum(used).tolist()) if not count])

    def _passed(self, budget: float, gradient: Tensor, used: Tensor) -> float:
        """The sum of this rank's losses; adds to the gradient, and to the counts of parameters with influence."""
        held, value, looked, seen, flops = 0, 0.0, None, 0.0, 0.0
        for number, batch in enumerate(self._batches, 1):
            if looked is None:
                looked, flops = self._first_look(batch, number)
                if looked is None:
                    self.kept.append(Kept(0.0, None))
                    continue
            weight, loss, graph, size = self._build(batch, number, looked)
            looked = looked._replace(outputs=None, loss=None)
            seen = seen or weight
            if graph is None:
                self.kept.append(Kept(weight, None))
                continue
            factor = weight if self._batches.mean else 1.0
            value += factor * loss
            gradient.add_(self._params.flat(graph.gradient), alpha=factor)
            used += torch.tensor([float(i not in graph.unused) for i in range(len(used))], device=used.device)
            held += size
            self.kept.append(Kept(weight, graph if held <= budget else None))
            del graph
        own = sum(batch.weight for batch in self.kept)
        counted = flops or 2.0 * self._params.total * seen  # one product and sum a parameter and sample
        self.flops = counted * own / seen if seen else 0.0
        return value

    def _say_unused(self, unused: list[int]) -> None:
        names = self._params.names
        if len(unused) == len(names):
            raise ValueError(f"the loss depends on none of {shown(names)}; expected a gradient through one at least")
        if unused:
            text = f"the loss does not depend on {shown(names[i] for i in unused)}"
            self.notes.append(text)
            warnings.warn(f"{text}: their rows are zero", stacklevel=5)

    def _first_look(self, batch: Any, number: int) -> tuple[_Look | None, float]:
        """Outputs and loss of the first batch that counts, before anything is built, and flops; None for weight 0."""

        def run() -> _Look | None:
            evaluated = self._batches.evaluate(self._model, batch, number)
            if evaluated.weight == 0.0:
                return None
            loss = self._batches.loss(evaluated, number).detach()
            outputs = evaluated.outputs.detach() if isinstance(evaluated.outputs, Tensor) else None
            with torch.no_grad():
                return _Look(outputs, loss, self._batches.check_reduction(evaluated))

        with second_derivatives(self._model):
            look, flops = first_look(self._model, run, self._params.device)
        if look is not None and look.unclear is not None:
            how = "mean" if self._batches.mean else "sum"
            self.notes.append(f"that the loss reduces by a {how} was not verified: {look.unclear}")
        return look, flops

    def _build(self, batch: Any, number: int, looked: _Look | None = None) -> tuple[float, float, Graph | None, int]:
        """Weight, loss, graph (None where the weight is 0) and bytes of the graph, of a batch.

        `looked`, while setting up: what the first look at this batch, or nothing of an earlier one, has found.
        """
        with second_derivatives(self._model) as mode, counting(self._model) as saved:
            try:
                evaluated = self._batches.evaluate(self._model, batch, number)
                if evaluated.weight == 0.0:
                    return 0.0, 0.0, None, 0
                if looked is not None:
                    self._compare(evaluated, number, looked, saved.total)
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
                if (told := explained(error)) is error:
                    raise
                raise told from error
        self.convolved = self.convolved or mode.convolved
        return evaluated.weight, loss, graph, saved.total

    def _compare(self, evaluated: Evaluated, number: int, looked: _Look, saved: int) -> None:
        """A batch against the first look at it, against its pieces, and its graph against the memory."""
        with torch.no_grad():
            self._batches.check_pieces(evaluated, number)
            if looked.outputs is not None:
                check_same(looked.outputs, evaluated.outputs.detach(), "the output")
            if looked.loss is not None:
                check_same(looked.loss, self._batches.loss(evaluated, number).detach(), "the loss")
                check_room(saved, self._params.total * self._params.dtype.itemsize, self._params.device)

    def _seed_of(self, number: int) -> int:
        """A seed for the labels of a batch."""
        state = np.random.SeedSequence([self._seed, self._ranks.rank, number]).generate_state(1, np.uint64)
        return int(state[0] >> np.uint64(1))

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Random generators in a state of their own, one thread at a time."""
        with SWITCHES, quiet(self._batches.source, cuda_devices(self._params.device), self._seed):
            yield

    def _share(self, weight: float) -> float:
        return weight / self.samples if self._batches.mean else 1.0
