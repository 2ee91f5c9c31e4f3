r"""Coupling and balance of consecutive Linear layers while they train.

For consecutive layers W_j (d, ·) and W_{j+1} (·, d):

    coupling   largest |⟨u, v⟩| over the top k left vectors u of W_j and right vectors v of W_{j+1}, over its median for
               random directions in R^d,
    balance    ‖W_{j+1}ᵀW_{j+1} − W_jW_jᵀ − b_jb_jᵀ‖_F / (‖W_{j+1}ᵀW_{j+1}‖² + ‖W_jW_jᵀ + b_jb_jᵀ‖²)^{1/2}.

Layers are consecutive where they were registered one after the other with matching widths, and their names do not say
that they lie side by side in attention or a gated MLP. Singular vectors are sought from the last measurement's on, to
1e-2·σ_1: overlaps are read beside a chance level, not to many digits.

cost    top-k SVDs of all layers, some passes over the weights each; 2d²(d_in + d_out) flops a pair for the balance.
source  docs/theory.md, "Metrics".
"""

from __future__ import annotations

import itertools
import math
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from flatcore._checks import FloatArray, as_float_array
from flatcore.linear import LinearChain
from flatcore.results import SvdResult
from flatcore.spectral import top_svd
from flatcore.torch._forms import apart
from flatcore.weights import balance_of, overlap_chance

_TOL = 1e-2


class ConsecutiveLayers:
    """The Linear layers of a model, with the singular vectors met last.

    Parameters
    ----------
    model
        Any module; layers it shares count once.
    k
        Singular vectors a layer.
    seed
        Of the first search.

    Examples
    --------
    >>> import torch
    >>> from flatcore.torch._consecutive import ConsecutiveLayers
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    >>> for layer in (net[0], net[2]):
    ...     _ = torch.nn.init.eye_(layer.weight)
    >>> coupling, balance = ConsecutiveLayers(net, k=3, seed=0).measure()
    >>> balance
    0.0

    """

    def __init__(self, model: nn.Module, k: int, seed: int) -> None:
        self._model, self._k, self._seed = model, k, seed
        self._right: WeakKeyDictionary[nn.Linear, FloatArray] = WeakKeyDictionary()

    def measure(self) -> tuple[float, float]:
        """Largest ratio of an overlap to chance, and largest relative gap, over the pairs; NaN where there is none."""
        layers = {name: module for name, module in self._model.named_modules() if isinstance(module, nn.Linear)}
        shapes = {name: (layer.out_features, layer.in_features) for name, layer in layers.items()}
        pairs = [
            (a, b)
            for (lower, a), (upper, b) in itertools.pairwise(layers.items())
            if a.out_features == b.in_features and not apart(lower, upper, shapes)
        ]
        weights = {layer: _host("weight", layer.weight, 2) for pair in pairs for layer in pair}
        tops = {layer: self._top(layer, W) for layer, W in weights.items()}
        coupling, balance = math.nan, math.nan
        for a, b in pairs:
            overlaps = np.abs(tops[b].Vt.astype(float) @ tops[a].U.astype(float))
            ratio = float(overlaps.max()) / overlap_chance(a.out_features, overlaps.size)
            bias = None if a.bias is None else _host("bias", a.bias, 1)
            chain = LinearChain([weights[a], weights[b]], [bias, None])
            gap = float(balance_of(chain.core).relative_gap[0])
            coupling, balance = np.fmax(coupling, ratio), np.fmax(balance, gap)
        return float(coupling), float(balance)

    def _top(self, layer: nn.Linear, W: FloatArray) -> SvdResult:
        result = top_svd(W, min(self._k, *W.shape), tol=_TOL, seed=self._seed, v0=self._right.get(layer))
        assert isinstance(result, SvdResult)
        self._right[layer] = result.Vt.T
        return result


def _host(name: str, tensor: torch.Tensor, ndim: int) -> FloatArray:
    return as_float_array(name, tensor.detach().cpu(), ndim)
