"""Curvature, spectra and flat minima of wide linear networks, exactly and with certificates.

>>> import numpy as np, flatcore as fc
>>> chain = fc.LinearChain([np.eye(3)] * 4)
>>> loss = fc.QuadraticLoss(np.eye(3) * 3**0.5, np.eye(3) * 3**0.5)
>>> fc.sharpness(chain, loss).values.round(9), round(fc.flattest_sharpness(chain, loss), 9)
(array([8.]), 8.0)
"""

try:
    import flatcore._core
except ImportError as error:
    raise ImportError(
        "flatcore's compiled extension cannot be imported. In a clone, install the package first "
        "(pip install .) and run Python from another folder or with the installed package ahead on the path."
    ) from error

import importlib
from pathlib import Path
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
    "cmake_dir",
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


_LAZY = ("checkpoints", "io", "sweep", "torch", "wfm")  # rooms that load when first used


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return importlib.import_module(f"flatcore.{name}")
    raise AttributeError(f"module 'flatcore' has no attribute {name!r}")


def cmake_dir() -> str:
    """Where CMake finds the C++ library: its headers and sources travel with the package (docs/embedding.md).

    Returns
    -------
    str
        The directory of ``flatcoreConfig.cmake``, for ``cmake -Dflatcore_DIR=…`` and ``find_package(flatcore)``.

    Raises
    ------
    FileNotFoundError
        An installation without these files.

    Examples
    --------
    >>> import os, flatcore as fc
    >>> os.path.isfile(os.path.join(fc.cmake_dir(), "flatcoreConfig.cmake"))
    True

    """
    folder = Path(flatcore._core.__file__).parent / "cpp"  # beside the extension, in an editable installation too
    if not (folder / "flatcoreConfig.cmake").is_file():
        raise FileNotFoundError(f"{folder} holds no flatcoreConfig.cmake; expected the C++ sources that pip installs")
    return str(folder)


def _analyze_module(*arguments: Any, **options: Any) -> Any:
    """`analyze` of a torch.nn.Module."""
    from flatcore.torch._weights import analyze_module

    return analyze_module(*arguments, **options)


register_module_analysis(_analyze_module)
