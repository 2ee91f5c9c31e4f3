"""Every example in a public docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import flatcore


def modules() -> list[str]:
    found = pkgutil.walk_packages(flatcore.__path__, "flatcore.")
    return ["flatcore", *(m.name for m in found if not m.name.endswith("._core"))]


@pytest.mark.parametrize("name", modules())
def test_examples_run(name):
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0


@pytest.mark.parametrize("name", flatcore.__all__)
def test_public_names_are_documented(name):
    text = getattr(flatcore, name).__doc__
    assert text is not None
    assert len(text) > 80


def test_there_are_examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    with_examples = [
        name for name in flatcore.__all__ if any(t.examples for t in finder.find(getattr(flatcore, name), name))
    ]
    assert len(with_examples) >= 9
