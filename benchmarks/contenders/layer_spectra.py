"""All singular values of several layers: flatcore's, WeightWatcher's (0.7.7), and PyTorch's alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import flatcore as fc
from benchmarks.contenders.base import Array, missing
from benchmarks.timing import Stages
from benchmarks.weights_problem import LayerNorms

if TYPE_CHECKING:
    from benchmarks.weights_problem import WeightsProblem


def norms_of(spectra: list[Array]) -> LayerNorms:
    """Largest value and root of the sum of squares of every spectrum."""
    return LayerNorms(np.array([s[0] for s in spectra]), np.array([np.linalg.norm(s) for s in spectra]))


def watcher_of(weights: Sequence[Any]) -> Any:
    """WeightWatcher on a model of layers with these weights (out, in), tensors of PyTorch's."""
    import torch
    import weightwatcher

    logging.getLogger("weightwatcher").setLevel(logging.ERROR)
    layers = [torch.nn.Linear(W.shape[1], W.shape[0], bias=False, device="meta") for W in weights]
    for layer, W in zip(layers, weights, strict=True):
        layer.weight = torch.nn.Parameter(W)
    return weightwatcher.WeightWatcher(model=torch.nn.Sequential(*layers))


def watched_norms(watcher: Any) -> LayerNorms:
    """What its analysis says of the norms."""
    details = watcher.analyze()
    return LayerNorms(
        details["sv_max"].to_numpy(), np.sqrt((details["stable_rank"] * details["lambda_max"]).to_numpy())
    )


class FlatcoreSpectra:
    """flatcore's decompositions of every layer: all values, and the first 8 vectors for the coupling."""

    name = "flatcore"

    def available(self) -> str | None:
        """Always."""
        return None

    def prepare(self, problem: WeightsProblem, stage: Stages) -> Callable[[Any], LayerNorms]:
        """Set up the chain."""
        from flatcore.weights import layer_svds

        chain = fc.LinearChain(problem.layers)
        return lambda _: norms_of([svd.s for svd in layer_svds(chain.core, chain.depth, 8)])


class WeightWatcherAnalyze:
    """``WeightWatcher(model).analyze()``, which also fits power laws."""

    name = "WeightWatcher analyze"

    def available(self) -> str | None:
        """None where torch and WeightWatcher are installed."""
        return missing("torch", "'flatcore[torch]'") or missing("weightwatcher", "weightwatcher==0.7.7")

    def prepare(self, problem: WeightsProblem, stage: Stages) -> Callable[[Any], LayerNorms]:
        """Set up the model."""
        import torch

        with stage("model"):
            watcher = watcher_of([torch.from_numpy(W) for W in problem.layers])
        return lambda _: watched_norms(watcher)


class TorchValues:
    """``torch.linalg.svdvals`` of every layer."""

    name = "torch.linalg.svdvals"

    def available(self) -> str | None:
        """None where torch is installed."""
        return missing("torch", "'flatcore[torch]'")

    def prepare(self, problem: WeightsProblem, stage: Stages) -> Callable[[Any], LayerNorms]:
        """Share the layers' memory."""
        import torch

        layers = [torch.from_numpy(W) for W in problem.layers]
        return lambda _: norms_of([torch.linalg.svdvals(W).numpy() for W in layers])


CONTENDERS = {"layer spectra": (FlatcoreSpectra(), WeightWatcherAnalyze(), TorchValues())}
