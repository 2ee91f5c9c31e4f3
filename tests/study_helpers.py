"""What the tests of all studies share: a finished study's files, its page, and interruptions."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

SCRIPT = Path(sysconfig.get_path("scripts")) / "flatcore"
COMMAND = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-P", "-c", "from flatcore.cli import main; main()"]


def quiet(fraction):
    """Hears of progress and says nothing."""


class StopAfter:
    """A tick that is interrupted when it has been called so many times."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self, fraction):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@dataclasses.dataclass
class Finished:
    """A study on the real data."""

    path: Path
    result: object
    heard: list

    def text(self, name):
        return (self.path / name).read_text(encoding="utf-8")

    def results(self):
        return json.loads(self.text("results.json"), parse_constant=reject_constant)

    def lines(self, figure):
        return self.results()["findings"][figure]

    def history(self):
        """The rows of each run as numbers."""
        rows = {}
        for row in csv.DictReader(self.text("history.csv").splitlines()):
            numbers = {name: float(text) if text else float("nan") for name, text in row.items() if name != "run"}
            rows.setdefault(row["run"], []).append(numbers)
        return rows


def reject_constant(name):
    raise AssertionError(f"{name} in JSON")


class Page(HTMLParser):
    """Tags, ids, references and the text of each figure's caption."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.ids, self.references, self.captions, self.figures = [], [], [], {}, []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.references += [
            value for name, value in attributes.items() if name in ("src", "href", "xlink:href", "srcset", "data")
        ]
        self.references += re.findall(r"url\(([^)]*)\)", " ".join(value or "" for value in attributes.values()))
        if tag == "figure":
            self.figures.append(attributes["id"])
            self.captions[attributes["id"]] = ""
        self._inside = self._inside or tag == "figcaption"

    def handle_endtag(self, tag):
        self._inside = self._inside and tag != "figcaption"

    def handle_data(self, data):
        if self._inside:
            self.captions[self.figures[-1]] += data + " "


def interrupted(study, out, place, ready, *options):
    """The study as a process of its own, interrupted when the checkpoint `place` is `ready`; steps of those seen."""
    process = subprocess.Popen(
        [*COMMAND, "study", study, "--out", str(out), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    known = _version(place)
    seen, limit = [], time.monotonic() + 120
    try:
        while not (seen and ready(seen[-1])):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit
            if (version := _version(place)) != known:
                known = version
                with np.load(place) as archive:
                    seen.append(int(archive["step"]))
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        asked = time.monotonic()
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert time.monotonic() - asked < 5  # the aim is 1 s; machines are shared
    assert (process.returncode, output, errors) == (130, "", "flatcore: interrupted\n")
    return seen


def _version(place):
    """Tells a file from the one that replaces it."""
    return (place.stat().st_ino, place.stat().st_mtime_ns) if place.exists() else None
