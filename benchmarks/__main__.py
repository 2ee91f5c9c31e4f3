"""``python -m benchmarks [NAME …]``: run workloads against the installed flatcore.

The clone's root leaves the module search path before flatcore is imported: the folder ``flatcore/`` there holds no
compiled extension, and what is measured must be what users install.
"""

from __future__ import annotations

import sys
from pathlib import Path


def drop_clone_root() -> None:
    """Let ``import flatcore`` find the installed package, not the sources beside this one."""
    root = Path(__file__).resolve().parent.parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != root]


if __name__ == "__main__":
    drop_clone_root()
    from benchmarks.cli import main

    sys.exit(main())
