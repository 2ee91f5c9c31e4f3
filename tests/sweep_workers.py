"""What worker processes of the tests run instead of the analysis alone; and a sweep as a script, to be killed."""

import os
import signal
import sys
import time
from pathlib import Path

from flatcore.sweep.work import analyse


def dies_once(task):
    """Killed at the first try of step 2 of run 1."""
    marker = Path(task.path).parents[1] / "died"
    if task.path.endswith("run1/step2.npz") and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return analyse(task)


def dies_always(task):
    """Ends at every try of step 2 of run 1."""
    if task.path.endswith("run1/step2.npz"):
        os._exit(1)
    return analyse(task)


def takes_a_minute(task):
    """Nothing, for long."""
    time.sleep(60.0)


if __name__ == "__main__":
    from flatcore.sweep import sweep

    pattern, out, workers = sys.argv[1:]
    sweep(pattern, out, k=3, threads=1, workers=int(workers))
