"""The README's example prints what the README says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
NUMBER = r"-?\d+\.?\d*(?:e[-+]?\d+)?"


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert found, f"the README has no {language} block"
    return found


@pytest.mark.parametrize(("code", "promised"), list(zip(blocks("python"), blocks("text"), strict=True)))
def test_examples_print_what_they_say(code, promised):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    printed = out.getvalue()
    assert re.sub(NUMBER, "#", printed).split() == re.sub(NUMBER, "#", promised).split()
    # Four digits are printed, and another BLAS may round the last one differently. The residual is a power of ten.
    for a, b in zip(re.findall(NUMBER, printed), re.findall(NUMBER, promised), strict=True):
        ours, said = float(a), float(b)
        assert ours <= 1e-4 if said < 1e-3 else ours == pytest.approx(said, rel=2e-3)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert (README.parent / target).exists(), target
