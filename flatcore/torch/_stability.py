r"""The sharpness at which an optimizer's steps along the sharpest direction stop shrinking.

On a quadratic with curvature λ, gradient descent x ← x − ηλx is stable below λ = 2/η. With momentum β and dampening τ,
v ← βv + (1 − τ)λx, x ← x − ηv, it is below

    λ < 2(1 + β)/(η(1 − τ)),      Nesterov's form, x ← x − η(λx + βv):   λ < 2(1 + β)/(η(1 + 2β)),

from the characteristic polynomial at −1. Weight decay w adds w to every eigenvalue and is taken off the limit.

source  Cohen, Kaur, Li, Kolter & Talwalkar (2021), "Gradient descent on neural networks typically occurs at the edge of
        stability", for the first two.
"""

from __future__ import annotations

import math
from typing import Any

import torch


def stability_limit(optimizer: Any) -> float:
    """The limit for SGD as it is set now; NaN where there is no such number.

    Parameters
    ----------
    optimizer
        A ``torch.optim.SGD``, or something that wraps one in an attribute ``optimizer``. NaN is returned for None, for
        optimizers that scale coordinates (Adam: the limit is one of the preconditioned Hessian, not of the sharpness),
        for parameter groups with different limits, for lr = 0, a dampening of 1 or more, and for ascent.

    Examples
    --------
    >>> import torch
    >>> from flatcore.torch._stability import stability_limit
    >>> stability_limit(torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.5))
    30.0

    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    if not isinstance(optimizer, torch.optim.SGD):
        return math.nan
    limits = {_group_limit(group) for group in optimizer.param_groups}
    decays = [float(group["weight_decay"]) for group in optimizer.param_groups]
    return limits.pop() - max(decays) if len(limits) == 1 else math.nan


def _group_limit(group: dict[str, Any]) -> float:
    lr, beta = float(group["lr"]), float(group["momentum"])
    if lr <= 0.0 or group["maximize"]:
        return math.nan
    if beta == 0.0:
        return 2.0 / lr
    if group["nesterov"]:
        return 2.0 * (1.0 + beta) / (lr * (1.0 + 2.0 * beta))
    damped = 1.0 - float(group["dampening"])
    return 2.0 * (1.0 + beta) / (lr * damped) if damped > 0.0 else math.nan  # nothing of the gradient is left, or less
