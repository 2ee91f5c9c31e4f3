"""Reports of checkpoints: everything of the analysis is there and said, whatever the size and the names."""

import html
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from checkpoint_records import HOSTILE, analysis, composition, failed, hostile, pair, product, tensor, transformer

from flatcore.results import number


def page_of(record, folder):
    record.report(str(folder / "page.html"))
    return (folder / "page.html").read_text(encoding="utf-8")


def text_of(page):
    return html.unescape(re.sub(r"<[^>]*>", " ", page.partition("<body>")[2].partition("<script>")[0]))


def captions(page):
    """The sentences under each figure."""
    return {
        name: html.unescape(" ".join(re.findall(r"<p>(.*?)</p>", body)))
        for name, body in re.findall(r'<figure id="(.*?)">.*?<figcaption>(.*?)</figcaption>', page, re.DOTALL)
    }


def table(page, caption):
    """Header and rows of a table: texts, and the values by which numbers sort."""
    found = next(t for t in re.findall(r"<table.*?</table>", page, re.DOTALL) if f"<caption>{caption}" in t)
    rows = re.findall(r"<tr>(.*?)</tr>", found, re.DOTALL)
    cells = [re.findall(r"<t[hd]( data-value=?([^>]*))?[^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
    header, *body = [[html.unescape(text) for _, _, text in row] for row in cells]
    values = [[float(value or text) if marked else None for marked, value, text in row] for row in cells[1:]]
    return header, body, values


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    record = transformer()
    return record, page_of(record, tmp_path_factory.mktemp("report"))


def test_pictures_come_first_then_tables_that_sort(whole):
    _, page = whole
    assert list(captions(page)) == ["ranks", "spectra", "heads", "composition", "coupling", "balance", "adapters"]
    tables = re.findall(r"<table(.*?)>", page)
    assert tables == [' class="sortable"'] * 5
    assert page.rindex("<figure") < page.index("<table")
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ET.fromstring(svg)
    labels = re.findall(r'role="img"\s+aria-label="(.*?)"', page)
    assert len(labels) == 7
    assert all(len(label) > 40 for label in labels)


def test_nothing_is_fetched_and_no_other_script_can_run(whole):
    _, page = whole
    targets = re.findall(r'(?:\b(?:src|href|data)=["\']?|url\(["\']?)([^"\')\s>]+)', page)
    assert all(target.startswith(("#", "data:image/png")) for target in targets)
    policy = html.unescape(re.search(r'Content-Security-Policy" content="(.*?)"', page)[1])
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert re.search(r"script-src 'sha256-[^']+';", policy)
    assert page.count("<script") == 1


def test_the_tables_hold_every_part_with_its_numbers(whole):
    record, page = whole
    _, rows, values = table(page, "Tensors")
    assert [row[0] for row in rows] == [t.name for t in record.tensors]
    for row, sorting, t in zip(rows, values, record.tensors, strict=True):
        assert row[1:4] == [t.role, " × ".join(map(str, t.shape)), t.dtype]
        expected = [
            t.spectral,
            t.frobenius,
            t.stable_rank,
            t.effective_rank,
            t.effective_rank_error,
            t.tail,
            t.outliers,
        ]
        np.testing.assert_allclose(sorting[4:11], expected, rtol=1e-6)
        assert row[4] == number(t.spectral, 4)
    _, rows, values = table(page, "Products")
    assert [(row[0], row[1]) for row in rows] == [(p.name, p.kind) for p in record.products]
    np.testing.assert_allclose([v[9] for v in values], [p.relative_gap for p in record.products], rtol=1e-6)
    _, rows, _ = table(page, "Pairs")
    assert [tuple(row[:2]) for row in rows] == [(p.lower, p.upper) for p in record.pairs]
    _, rows, values = table(page, "Strongest composition")
    best = sorted((float(c.scores.max()) for c in record.compositions), reverse=True)
    np.testing.assert_allclose([v[5] for v in values], best, rtol=1e-6)
    top = max(record.compositions, key=lambda c: c.scores.max())
    above, below = np.unravel_index(top.scores.argmax(), top.scores.shape)
    assert rows[0][:5] == [top.upper, str(above), top.lower, str(below), top.kind]


def test_captions_say_the_extremes(whole):
    record, page = whole
    said = captions(page)
    low = min(record.tensors, key=lambda t: t.stable_rank)
    top = max(record.tensors, key=lambda t: t.spectral)
    assert f"The stable rank goes from {number(low.stable_rank, 4)} ({low.name}) to" in said["ranks"]
    assert f"The largest spectral norm is {number(top.spectral)}, that of {top.name}" in said["ranks"]
    assert "1 of 22 tensors has no number in its name" in said["ranks"]
    heads = [p for p in record.products if p.kind == "QK"]
    strongest = max(heads, key=lambda p: p.spectral)
    ratio = strongest.spectral / np.median([p.spectral for p in heads])
    assert (
        f"QK: the strongest is head {strongest.head} of {strongest.name} with norm {number(strongest.spectral, 4)}, "
        f"{number(float(ratio), 3)} times the median."
    ) in said["heads"]
    queries = [c for c in record.compositions if c.kind == "Q"]
    beyond = sum(c.scores.max() > c.chance_95 for c in queries)
    assert f"Q: in {beyond} of {len(queries)} pairs of layers a score exceeds the 95 % level" in said["composition"]
    coupled = [p for p in record.pairs if p.largest > p.chance_95]
    assert f"In {len(coupled)} of 3 pairs" in said["coupling"]
    assert "model.layers.1.mlp.up_proj.weight → model.layers.1.mlp.down_proj.weight" in said["coupling"]
    assert "Scaling: alpha 8 over r 4." in said["adapters"]


def test_what_stands_out_is_far_from_its_role(tmp_path, rng):
    weights = [rng.standard_normal((12, 8)) for _ in range(6)]
    weights[3] *= 10.0
    weights[4] = 5.0 * np.outer(np.ones(12), np.ones(8)) / np.sqrt(96)
    tensors = [tensor(f"layers.{j}.weight", "linear weight", W) for j, W in enumerate(weights)]
    text = text_of(page_of(analysis([*tensors, tensor("zero", "linear weight", np.zeros((3, 3)))]), tmp_path))
    median = np.median([t.spectral for t in tensors] + [0.0])
    ratio = number(tensors[3].spectral / median, 3)
    assert f"its role (linear weight) {ratio} times the median" in text
    assert "layers.3.weight has the spectral norm" in text
    assert "layers.4.weight has the stable rank 1: of its role (linear weight) the median is" in text
    assert "1 tensor of zeros: zero." in text


def test_failed_tensors_stand_before_everything_else(tmp_path):
    page = page_of(analysis(transformer(1).tensors, failed=(failed(), failed("other", "truncated"))), tmp_path)
    assert re.search(r'<section class="alert">\s*<h2>2 tensors could not be analysed</h2>', page)
    assert page.index("2 tensors could not") < page.index("What stands out" if "What stands" in page else "Pictures")
    assert table(page, "Tensors that failed")[1][1] == ["other", "MLP up", "16 × 8", "BF16", "truncated"]


def test_what_is_not_certified_is_named(tmp_path, rng):
    tensors = [tensor(f"W{j}", "linear weight", rng.standard_normal((4, 4))) for j in range(3)]
    tensors[1] = tensor("W2", "linear weight", np.eye(4), status="max_iterations")
    text = text_of(page_of(analysis(tensors), tmp_path))
    assert "Not certified: singular triplets of 1 tensor (W2)." in text
    assert "All singular triplets are certified." in text_of(page_of(analysis([tensors[0]]), tmp_path))


def test_pages_of_unusual_checkpoints(tmp_path, rng):
    nothing = text_of(page_of(analysis([], failed=(failed(),)), tmp_path))
    assert "No tensor was analysed." in nothing
    zeros = page_of(analysis([tensor("a", "linear weight", np.zeros((3, 2)))]), tmp_path)
    assert "The stable rank is undefined for all tensors." in text_of(zeros)
    two = page_of(analysis([tensor(n, "unknown", rng.standard_normal((3, 2))) for n in "ab"]), tmp_path)
    assert list(captions(two)) == ["ranks", "spectra"]
    assert "<!-- tensor, counted from 1 in the order of the tables -->" in two
    adapter = product("h.0.attn.c_attn", "LoRA", -1, rng)
    assert list(captions(page_of(analysis([], [adapter]), tmp_path))) == ["adapters"]
    one = composition("a", "b", "V", np.array([[0.9]]))
    assert "V: in 1 of 1 pair of layers" in captions(page_of(analysis([], [], [one]), tmp_path))["composition"]


def test_many_pairs_are_drawn_in_one_picture_and_the_strongest_in_detail(tmp_path, rng):
    pairs = [pair(f"layers.{j}.up.weight", f"layers.{j}.down.weight", rng, aligned=j == 11) for j in range(12)]
    page = page_of(analysis([], pairs=pairs), tmp_path)
    assert list(captions(page)) == ["overlaps", "coupling", "balance"]
    assert "The most strongly coupled 8 pairs are drawn; the tables have all." in captions(page)["coupling"]
    drawn = page.partition('id="coupling"')[2].partition("</figure>")[0]
    assert "<!-- 11.up → 11.down -->" in drawn
    assert len(table(page, "Pairs")[1]) == 12


def test_names_of_strangers_stay_text(tmp_path):
    names = (HOSTILE, '"><img src=x onerror=alert(1)>', "$x^{", "a\nb\x00\x1b", "层", "\ud800", "n" * 5000)
    page = page_of(hostile(*names), tmp_path)
    assert page.count("<script") == 1
    assert "<img" not in page
    shown = [
        "a\nb\\x00\\x1b" if "\x1b" in name else name.encode("utf-8", "backslashreplace").decode() for name in names
    ]
    for caption in ("Tensors", "Products", "Pairs", "Strongest", "Tensors that failed", "Names that", "No matrix"):
        assert {row[0] for row in table(page, caption)[1]} == set(shown)
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        assert len(max(re.findall(r"<!--(.*?)-->", svg), key=len)) < 200


def test_long_names_are_whole_in_tables_alone(tmp_path):
    name = "n" * 3000 + ".weight"
    page = page_of(hostile(name), tmp_path)
    assert f">{name}</th>" in page
    around = re.sub(r"<(table|svg).*?</\1>", "", page, flags=re.DOTALL)
    assert "n" * 80 + "…" in around
    assert "n" * 200 not in around


def test_a_caption_about_outliers_ends_where_there_are_none(tmp_path):
    noise = [tensor("a.0.weight", "linear weight", np.eye(6))]
    spectra = captions(page_of(analysis(noise), tmp_path))["spectra"]
    assert "0 of 4 singular values lie above the edge where noise of the same size and norm would end." in spectra
    assert "most in one tensor" not in spectra


def test_a_page_of_a_large_model_stays_small(tmp_path):
    """400 tensors in 32 layers of 32 heads, compositions of all pairs of layers."""
    record = transformer(32, 32, extra=175)
    page = page_of(record, tmp_path)
    assert len(record.tensors) == 400
    assert len(page.encode()) < 3e6
    assert len(table(page, "Products")[1]) == 32 * (2 * 32 + 2)


def test_the_same_analysis_gives_the_same_bytes(tmp_path):
    record = analysis(transformer(1).tensors)
    assert page_of(record, tmp_path) == page_of(record, tmp_path)
