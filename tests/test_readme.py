"""The examples of the README and of docs/embedding.md print what they say."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
PAGES = (README, README.parent / "docs/embedding.md")
NUMBER = r"-?\d+\.?\d*(?:e[-+]?\d+)?"


def blocks(language: str) -> list[str]:
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    found = [re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE) for text in texts]
    assert all(found), f"a page has no {language} block"
    return [block for page in found for block in page]


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target
