"""The command line: ``flatcore analyze``, ``compare``, ``sweep``, ``inspect``, ``study`` and ``doctor``.

Exit codes: 0 done; 1 internal error; 2 bad input; 3 done, but an eigenpair or singular triplet asked for is not
certified, or a file of a sweep failed; 130 interrupted.
Results go to standard output, everything else to standard error; with ``--json -`` the results are the JSON alone.
"""

from __future__ import annotations

import os
import sys

try:
    import rich  # noqa: F401
    import typer  # noqa: F401
except ModuleNotFoundError as missing:
    print(f"flatcore: the command line needs {missing.name}: pip install 'flatcore[cli]'", file=sys.stderr)
    raise SystemExit(2) from None

from flatcore.cli import analyze, compare, doctor, inspect, study, sweep  # noqa: F401  (each registers its command)
from flatcore.cli._app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line and exit.

    Raises
    ------
    SystemExit
        Always, with one of the exit codes above.

    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    app()
