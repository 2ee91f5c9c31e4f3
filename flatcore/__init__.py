"""Curvature, spectra and flat minima of wide linear networks, exactly and with certificates.

>>> import numpy as np, flatcore as fc
>>> chain = fc.LinearChain([np.eye(3)] * 4)
>>> loss = fc.QuadraticLoss(np.eye(3) * 3**0.5, np.eye(3) * 3**0.5)
>>> fc.sharpness(chain, loss).values.round(9), round(fc.flattest_sharpness(chain, loss), 9)
(array([8.]), 8.0)
"""

try:
    import flatcore._core  # noqa: F401
except ImportError as error:
    raise ImportError(
        "flatcore's compiled extension cannot be imported. In a clone, install the package first "
        "(pip install .) and run Python from another folder or with the installed package ahead on the path."
    ) from error

import importlib
from typing import Any

from flatcore.linear import (
    CrossEntropyLoss,
    Hessian,
    LinearChain,
    MaskedQuadraticLoss,
    QuadraticLoss,
    analyze,
    analyze_many,
    balance,
    coupling,
    flattest_sharpness,
    gains,
    sharpness,
)
from flatcore.linear.analysis import register_module_analysis
from flatcore.spectral import diagonal, eigsh, spectral_density, top_svd, trace

__version__ = "0.1.0"

__all__ = [
    "CrossEntropyLoss",
    "Hessian",
    "LinearChain",
    "MaskedQuadraticLoss",
    "QuadraticLoss",
    "analyze",
    "analyze_many",
    "balance",
    "coupling",
    "diagonal",
    "eigsh",
    "flattest_sharpness",
    "gains",
    "sharpness",
    "spectral_density",
    "top_svd",
    "trace",
]


_LAZY = ("checkpoints", "io", "torch", "wfm")  # rooms that load when first used


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"flatcore.{name}")
    raise AttributeError(f"module 'flatcore' has no attribute {name!r}")


def _analyze_module(*arguments: Any, **options: Any) -> Any:
    """`analyze` of a torch.nn.Module."""
    from flatcore.torch._weights import analyze_module

    return analyze_module(*arguments, **options)


register_module_analysis(_analyze_module)
