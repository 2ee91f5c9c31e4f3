"""The child of ``process.EntryProcess``: one entry, commands from standard input, replies on standard output."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any


def serve(asked: dict[str, Any], replies: Any) -> None:
    """Build the problem, then obey until the input ends."""
    from benchmarks.process import Address
    from benchmarks.runner import Options
    from benchmarks.timing import Stages

    address = Address(**asked["address"])
    scratch = None if asked["scratch"] is None else Path(asked["scratch"])
    cases = getattr(importlib.import_module(address.module), address.function)
    options = Options(quick=asked["quick"], full=asked["full"], scratch=scratch)
    entry = next(islice(cases(options), address.case, None)).entries[address.number]
    if hasattr(entry.contender, "load"):
        entry.contender.load(entry.problem)
    print(json.dumps({"ready": entry.label}), file=replies, flush=True)
    answer_to: Any = None
    answer: Any = None
    for line in sys.stdin:
        reply: dict[str, Any] = {"done": line.strip()}
        if line == "prepare\n":
            answer_to = entry.contender.prepare(entry.problem, Stages())
        elif line == "call\n":
            answer = None
            answer = answer_to(entry.problem.argument)
        else:
            reply["agreements"] = [
                {"reference": a.reference, "difference": a.difference, "tolerance": a.tolerance}
                for a in entry.problem.agreements(answer)
            ]
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    # The clone's root comes last: flatcore is imported from where it is installed. What peers print goes to standard
    # error, as standard output is for replies alone.
    sys.path.append(str(Path(__file__).resolve().parent.parent))
    with os.fdopen(os.dup(1), "w") as replies, contextlib.suppress(KeyboardInterrupt):
        os.dup2(2, 1)
        serve(json.loads(sys.argv[1]), replies)
