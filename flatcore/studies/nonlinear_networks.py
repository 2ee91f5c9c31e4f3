"""The networks of the study ``nonlinear``: each a sequence of four layers x ↦ f_4(f_3(f_2(f_1(x)))) on 64 pixels.

    relu, tanh   φ(W x + b) three times, then W x + b
    residual     W x + b, then x + B φ(A x + a) + b twice with φ = relu, then W x + b
    convolution  relu of a 3 × 3 convolution of stride 2 three times (8 × 8 → 4 × 4 → 2 × 2 → one pixel), then W x + b

Weights start as N(0, 1/fan-in), the last layer's as N(0, 1/(10·fan-in)) so that outputs start small, biases and the
residual B at zero (the blocks start as the identity).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

CLASSES, PIXELS, SIDE = 10, 64, 8
_LAST_VARIANCE = 0.1
_ZERO = "module.2.weight"  # of a residual block


def build(kind: str, width: int, seed: Sequence[int]) -> Any:
    """A network, a ``torch.nn.Sequential`` of its four layers in float32, drawn from `seed`.

    Parameters
    ----------
    kind
        ``relu``, ``tanh``, ``residual`` or ``convolution``.
    width
        Hidden units; channels of the last convolution (a quarter and half of that in the first two).
    seed
        Of the weights.

    """
    from torch import nn

    makers = {
        "relu": lambda: _perceptron(width, nn.ReLU),
        "tanh": lambda: _perceptron(width, nn.Tanh),
        "residual": lambda: [nn.Linear(PIXELS, width), *_residual_blocks(width, 2), nn.Linear(width, CLASSES)],
        "convolution": lambda: _convolutions(width),
    }
    network = nn.Sequential(*makers[kind]())
    _draw(network, np.random.default_rng(seed))
    return network


def _perceptron(width: int, activation: Any) -> list[Any]:
    from torch import nn

    dims = (PIXELS, width, width, width)
    hidden = [nn.Sequential(nn.Linear(a, b), activation()) for a, b in pairwise(dims)]
    return [*hidden, nn.Linear(width, CLASSES)]


def _residual_blocks(width: int, count: int) -> list[Any]:
    """Blocks x ↦ x + B relu(A x + a) + b."""
    from torch import nn

    from flatcore.torch import Residual

    return [Residual(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))) for _ in range(count)]


def _convolutions(width: int) -> list[Any]:
    from torch import nn

    channels = (1, max(width // 4, 1), max(width // 2, 1), width)
    layers = [nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU()) for a, b in pairwise(channels)]
    return [
        nn.Sequential(nn.Unflatten(1, (1, SIDE, SIDE)), *layers[0]),
        *layers[1:],
        nn.Sequential(nn.Flatten(), nn.Linear(width, CLASSES)),
    ]


def _draw(network: Any, rng: np.random.Generator) -> None:
    import torch

    with torch.no_grad():
        for name, p in network.named_parameters():
            if p.ndim == 1 or name.endswith(_ZERO):
                p.zero_()
                continue
            variance = (_LAST_VARIANCE if len(p) == CLASSES and p.ndim == 2 else 1.0) / p[0].numel()
            p.copy_(torch.from_numpy(rng.standard_normal(tuple(p.shape)) * np.sqrt(variance)))
