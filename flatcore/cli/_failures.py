"""What went wrong, as an exit code and one line."""

from __future__ import annotations

import numpy as np

INTERNAL_ERROR, BAD_INPUT, NOT_CERTIFIED, INTERRUPTED = 1, 2, 3, 130
EXTRAS = {
    "files": ("safetensors", "ml_dtypes", "pyarrow"),
    "cli": ("typer", "rich", "jinja2", "matplotlib", "scikit-learn"),
    "torch": ("torch",),
    "scale": ("dask",),
}
_MODULES = {"sklearn": "scikit-learn", "distributed": "dask"}  # modules called other than their packages


def failure(error: BaseException) -> tuple[int, str]:
    """Exit code and message of what went wrong."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    if isinstance(error, MemoryError):
        return BAD_INPUT, f"out of memory: {error}" if str(error) else "out of memory"
    if isinstance(error, OSError) and error.strerror is not None:
        return BAD_INPUT, ": ".join(str(part) for part in (error.filename, error.strerror) if part is not None)
    if isinstance(error, OSError):
        return BAD_INPUT, str(error)
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = _MODULES.get(error.name, error.name)
        for extra, packages in EXTRAS.items():
            if package in packages:
                return BAD_INPUT, f"this needs {package}: pip install 'flatcore[{extra}]'"
    if isinstance(error, ValueError) and not isinstance(error, np.linalg.LinAlgError):
        return BAD_INPUT, str(error)
    return INTERNAL_ERROR, f"internal error: {type(error).__name__}: {error} (flatcore --debug … shows where)"
