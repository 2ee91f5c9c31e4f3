"""Reports: one page with everything in it, written whole or not at all, saying the numbers of the analysis."""

import dataclasses
import html
import os
import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pytest
from oracles import make_case, make_loss

import flatcore as fc
from flatcore.report import Figure, Section, Table, figure, render_page, svg_text

SVG = "{http://www.w3.org/2000/svg}svg"


def analysis_of(dims=(4, 5, 3), kind="batchmean", *, dtype=np.float64, **case_options):
    case = make_case(dims, 3, **case_options)
    loss = None if kind is None else make_loss(kind, case, n=12).loss
    return fc.analyze(case.chain(dtype), loss)


ANALYSES = {
    "squared error": lambda: analysis_of(),
    "cross-entropy": lambda: analysis_of(kind="labels-mean"),
    "no loss": lambda: analysis_of(kind=None),
    "depth 1": lambda: analysis_of((4, 3)),
    "depth 1, no loss": lambda: analysis_of((4, 3), None),
    "width 1": lambda: analysis_of((1, 1, 1)),
    "zero": lambda: analysis_of((3, 3, 3), zero=(0, 1)),
    "zero, no loss": lambda: analysis_of((3, 3, 3), None, zero=(0, 1)),
    "one zero layer": lambda: analysis_of((3, 4, 4, 3), zero=(1,)),
    "biases": lambda: analysis_of(biases=True),
    "skip links": lambda: analysis_of((4, 4, 4, 4), skip=True),
    "float32": lambda: analysis_of(dtype=np.float32),
    "deep": lambda: analysis_of((3,) * 13),
}


def page_of(analysis, folder):
    analysis.report(str(folder / "page.html"))
    return (folder / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=list(ANALYSES))
def written(request, tmp_path_factory):
    """An analysis, and its page alone in a folder."""
    folder, analysis = tmp_path_factory.mktemp("report"), ANALYSES[request.param]()
    page = page_of(analysis, folder)
    assert os.listdir(folder) == ["page.html"]
    return analysis, page


def said(page):
    """The text of the paragraphs and cells of a page."""
    return [html.unescape(text) for text in re.findall(r"<(?:p|td)[^>]*>(.*?)</(?:p|td)>", page, re.DOTALL)]


def pictures(page):
    return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_a_page_has_all_it_needs_and_nothing_beside_it(written):
    _, page = written
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert not re.search(r"<(script|link|img|iframe|object|embed|base)\b|@import", page)
    targets = re.findall(r'(?:\b(?:src|href|data)=["\']?|url\(["\']?)([^"\')\s>]+)', page)
    assert all(target.startswith("#") for target in targets)
    assert {target[1:] for target in targets} <= set(re.findall(r'\bid="([^"]+)"', page))


def test_every_figure_is_there_with_words_under_it(written):
    analysis, page = written
    expected = ["spectra", "gains"] + ["coupling"] * (len(analysis.dims) > 2)
    assert re.findall(r'<figure id="(.*?)">', page) == expected
    assert [picture.tag for picture in pictures(page)] == [SVG] * len(expected)
    assert all("<p>" in caption for caption in re.findall(r"<figcaption>(.*?)</figcaption>", page))


def test_every_id_on_a_page_is_there_once(tmp_path):
    ids = re.findall(r'\bid="([^"]+)"', page_of(ANALYSES["squared error"](), tmp_path))
    twice = sorted({name for name in ids if ids.count(name) > 1})
    assert not twice, f"{len(twice)} ids stand more than once: {twice[:8]}"


def test_the_tables_hold_every_line_of_the_analysis(written):
    analysis, page = written
    texts = said(page)
    for title, part in analysis.sections():
        assert f"<caption>{html.escape(title, quote=False)}</caption>" in page
        for label, text in part._lines():
            assert label in texts
            assert text in texts


def test_the_lead_says_loss_sharpness_and_flatness(tmp_path):
    case = make_case((4, 5, 3), 3)
    loss = make_loss("batchmean", case, n=12)
    a = fc.analyze(case.chain(), loss.loss)
    text = " ".join(said(page_of(a, tmp_path)))
    theta = case.theta()
    sharpness = np.linalg.eigvalsh(loss.hessian(theta))[-1]
    ratio = np.linalg.eigvalsh(loss.gauss_newton(theta))[-1] / a.flattest
    assert f"Loss {float(loss.value(theta)):.5g} (QuadraticLoss(4 → 3" in text
    assert f"gradient norm {np.linalg.norm(loss.gradient(theta)):.3g}" in text
    assert f"largest eigenvalue of the Hessian is {sharpness:.6g} (converged" in text
    assert f"can have is {a.flattest:.6g}; the Gauss–Newton sharpness is {ratio:.5g} times that" in text


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("no loss", "No loss was given"),
        ("cross-entropy", "is not known here: loss is a CrossEntropyLoss"),
        ("biases", "is not known here: the chain has biases"),
        ("zero", "the end-to-end matrix is zero: normalised quantities are undefined"),
        ("one zero layer", "the end-to-end matrix is zero: normalised quantities are undefined"),
    ],
)
def test_what_is_not_known_is_said(name, sentence, tmp_path):
    assert sentence in " ".join(said(page_of(ANALYSES[name](), tmp_path)))


def test_nothing_is_undefined_times_something(tmp_path):
    assert "undefined times" not in " ".join(said(page_of(ANALYSES["zero"](), tmp_path)))


def test_captions_quote_layers_gains_and_coupling(tmp_path):
    case = make_case((4, 5, 5, 3), 8)
    text = " ".join(said(page_of(fc.analyze(case.chain()), tmp_path)))
    W = case.weights
    norms = [np.linalg.norm(layer, 2) for layer in W]
    assert "Largest singular values: " + ", ".join(f"{s:.4g} (layer {j})" for j, s in enumerate(norms, 1)) in text
    _, s, Vt = np.linalg.svd(np.linalg.multi_dot(W[::-1]))
    z, gains = Vt[0], []
    for layer in W:
        gains.append(np.linalg.norm(layer @ z))
        z = layer @ z / gains[-1]
    reference = s[0] ** (1 / 3)
    worst = np.exp(np.abs(np.log(np.array(gains) / reference)).max())
    assert f"σ^(1/M) = {reference:.4g}; here the farthest is off by a factor {worst:.3g}" in text
    below, above = [norms[0], np.linalg.norm(W[1] @ W[0], 2)], [np.linalg.norm(W[2] @ W[1], 2), norms[2]]
    partial = np.concatenate([below / reference ** np.array([1, 2]), above / reference ** np.array([2, 1])])
    inside = np.sum((partial >= 1) & (partial <= 2**0.5))
    assert f"{inside} of 4 normalised partial gains lie in the band [1, 1.414]" in text
    for j in (0, 1):
        largest = np.abs(np.linalg.svd(W[j])[0][:, : min(W[j].shape)].T @ np.linalg.svd(W[j + 1])[2].T).max()
        if len(W[j + 1]) == 5:  # all five right vectors are kept
            assert f"Layers {j + 1} and {j + 2}: largest overlap {largest:.3g} against" in text


def test_gains_outside_the_band_are_not_counted_inside(tmp_path):
    """Equal norms that are not flat: σ = 1, but each layer alone stretches ten times."""
    a = fc.analyze(fc.LinearChain([np.diag([10.0, 0.001]), np.diag([0.1, 10.0])]))
    assert "0 of 2 normalised partial gains lie in the band [1, 1]" in " ".join(said(page_of(a, tmp_path)))


def test_names_are_escaped(tmp_path):
    a = dataclasses.replace(
        ANALYSES["squared error"](), chain="<script>alert('x')</script>", loss='"a" & <img src="http://nowhere">'
    )
    page = page_of(a, tmp_path)
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") == 2
    assert """("a" & <img src="http://nowhere">)""" in " ".join(said(page))


def test_every_text_of_a_page_is_escaped_and_pictures_are_not():
    hostile = "<b>&\"'"
    picture = Figure(hostile, hostile, "<svg><g/></svg>", (hostile,))
    table = Table((hostile,), ((hostile,), (hostile * 20,)), hostile)
    page = render_page(hostile, [hostile], [Section(hostile, (hostile,), (picture,), (table,))], hostile)
    assert "<b>" not in page
    assert page.count("&lt;b&gt;&amp;&#34;&#39;") == 15 + 20  # captions name tables and pictures twice: aria-label
    assert "<svg><g/></svg>" in page
    assert page.count('class="wrap"') == 1


def test_the_same_analysis_gives_the_same_bytes(tmp_path):
    a = ANALYSES["squared error"]()
    assert page_of(a, tmp_path) == page_of(a, tmp_path)


def fails(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["flatcore.report.analysis.render_page", "os.replace", "os.fsync"])
def test_a_page_replaces_the_one_before_whole_or_not_at_all(tmp_path, monkeypatch, step):
    a = ANALYSES["no loss"]()
    (tmp_path / "page.html").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(step, fails)
        with pytest.raises(KeyboardInterrupt):
            a.report(str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").read_text() == "old"
    assert os.listdir(tmp_path) == ["page.html"]
    assert page_of(a, tmp_path).startswith("<!doctype html>")


def test_places_that_cannot_be_written(tmp_path):
    a = ANALYSES["depth 1, no loss"]()
    with pytest.raises(FileNotFoundError, match=r"no/page\.html cannot be written"):
        a.report(str(tmp_path / "no" / "page.html"))
    with pytest.raises(IsADirectoryError, match="is a directory"):
        a.report(str(tmp_path))


def settings():
    return {name: value for name, value in matplotlib.rcParams.items() if name != "backend"}  # found when first needed


def test_figures_carry_no_date_and_leave_the_settings_of_matplotlib_alone():
    before = settings()
    texts = []
    for _ in range(2):
        with figure("one", 1, 2, (4, 2)) as (canvas, axes):
            assert axes.shape == (1, 2)
            axes[0, 0].plot([1, 2, 3], "o-")
            texts.append(svg_text(canvas))
    assert settings() == before
    assert texts[0] == texts[1]
    assert texts[0].startswith("<svg")
    assert "dc:date" not in texts[0]
    assert ET.fromstring(texts[0]).tag == SVG
