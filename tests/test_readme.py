"""The README's example prints what the README says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
NUMBER = r"-?\d+\.?\d*(?:e[-+]?\d+)?"


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found, f"the README has no {language} block"
    return found[1]


def test_example_prints_what_it_says():
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(block("python"), {})
    printed, promised = out.getvalue(), block("text")
    assert re.sub(NUMBER, "#", printed).split() == re.sub(NUMBER, "#", promised).split()
    # Four digits are printed, and another BLAS may round the last one differently. The residual is a power of ten.
    for a, b in zip(re.findall(NUMBER, printed), re.findall(NUMBER, promised), strict=True):
        ours, said = float(a), float(b)
        assert ours <= 1e-4 if said < 1e-3 else ours == pytest.approx(said, rel=2e-3)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
