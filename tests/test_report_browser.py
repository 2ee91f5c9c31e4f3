"""Reports in a real browser: nothing fetched, phones, the keyboard alone, no scripts, paper.

Needs Chromium of the distribution (`apt-get install chromium`); skipped where no browser is found on the path.
"""

import re

import numpy as np
import pytest
from browser import Browser, find_chromium
from checkpoint_files import save_safetensors
from checkpoint_records import HOSTILE, analysis, failed, hostile, tensor, transformer

from flatcore.checkpoints import compare_checkpoints

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="no chromium, chromium-browser or google-chrome on PATH"
)

FIRST = "document.querySelector('table.sortable')"
NAMES = f"[...{FIRST}.tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[0].textContent)"


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    browser = Browser(find_chromium(), tmp_path_factory.mktemp("profile"))
    yield browser.page()
    browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def whole(folder):
    """A page with every kind of part."""
    record = transformer()
    changed = analysis(
        record.tensors, record.products, record.compositions, record.pairs, failed=(failed(),), notes=("a note",)
    )
    changed.report(str(folder / "whole.html"))
    return folder / "whole.html"


@pytest.fixture(scope="module")
def tensors(folder):
    """A page whose first table is that of twelve tensors, one of them zero."""
    rng = np.random.default_rng(5)
    weights = [rng.standard_normal((6, 4)) * scale for scale in (3, 1, 4, 1.5, 9, 2, 6, 5, 35, 8, 7)]
    found = [tensor(f"layers.{j}.weight", "linear weight", W) for j, W in enumerate([*weights, np.zeros((6, 4))])]
    analysis(found).report(str(folder / "tensors.html"))
    return folder / "tensors.html", found


def focused(tab):
    return tab.value("document.activeElement.textContent + document.activeElement.tagName")


def tab_to(tab, what):
    """Press Tab until something that is called so has the focus."""
    for _ in range(60):
        tab.press("Tab")
        if focused(tab) == what:
            return
    raise AssertionError(f"Tab does not reach {what}")


@pytest.fixture(scope="module")
def compared(folder):
    """A page of two checkpoints, in which one tensor failed and one did not change."""
    rng = np.random.default_rng(6)
    before = {f"model.layers.{j}.mlp.up_proj.weight": rng.standard_normal((8, 6)) for j in range(4)}
    after = {name: W * (1.0, 1.5, np.nan, 1.1)[j] for j, (name, W) in enumerate(before.items())}
    paths = [save_safetensors(folder / f"{label}.safetensors", W) for label, W in (("a", before), ("b", after))]
    compare_checkpoints(*paths, 3).report(str(folder / "compared.html"))
    return folder / "compared.html"


@pytest.mark.parametrize("width", [1200, 360])
@pytest.mark.parametrize("page", ["whole", "compared"])
def test_a_page_is_complete_quiet_and_no_wider_than_its_window(tab, page, width, request):
    tab.open(request.getfixturevalue(page), width=width)
    assert tab.complaints() == []
    assert tab.value("document.documentElement.scrollWidth <= innerWidth")
    assert tab.value("innerWidth") == width
    assert tab.value(
        "[...document.querySelectorAll('figure svg')].every(svg => svg.getBoundingClientRect().width > 200)"
    )
    scrollers = "[...document.querySelectorAll('.scroll')].filter(box => box.scrollWidth > box.clientWidth)"
    assert tab.value(f"{scrollers}.length > 0")
    assert tab.value(f"{scrollers}.every(box => box.tabIndex === 0 && box.getAttribute('aria-label'))")


def test_every_picture_has_words_and_every_control_a_name(tab, whole):
    tab.open(whole)
    tree = tab.call("Accessibility.getFullAXTree")["nodes"]
    kinds = {}
    for node in tree:
        if not node.get("ignored"):
            kinds.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert len(kinds["image"]) == tab.value("document.querySelectorAll('figure').length")
    assert len(kinds["table"]) == tab.value("document.querySelectorAll('table').length")
    for kind in ("image", "table", "button", "searchbox", "columnheader", "rowheader"):
        assert all(kinds[kind]), kind


def test_focus_is_visible(tab, tensors):
    tab.open(tensors[0])
    tab_to(tab, "stable rankBUTTON")
    assert tab.value("parseFloat(getComputedStyle(document.activeElement).outlineWidth)") >= 2.0


def test_text_stands_out_from_what_is_behind_it(tab, whole):
    tab.open(whole)
    kinds = "p, h1, h2, h3, th, td, caption, button, label, input, footer, figcaption"
    for kind, colour, ground in tab.value(f"[...document.querySelectorAll('{kinds}')].map({COLOURS})"):
        assert colour.startswith("rgb("), (kind, colour)  # nothing is half see-through
        assert ground.startswith("rgb("), (kind, ground)
        darker, lighter = sorted(map(luminance, (colour, ground)))
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (kind, colour, ground)


# Of an element: its kind, the colour of its text, and that of the nearest ground behind it that is not see-through.
COLOURS = """e => {
    const grounds = [];
    for (let up = e; up; up = up.parentElement) grounds.push(getComputedStyle(up).backgroundColor);
    const solid = grounds.find(ground => !/^rgba.*, 0\\)$/.test(ground));
    return [e.closest('thead, tbody, section.alert, body').tagName + ' ' + e.tagName, getComputedStyle(e).color, solid];
}"""


def luminance(colour):
    """Relative luminance of WCAG 2."""
    c = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
    return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("key", ["Enter", " "])
def test_a_table_is_sorted_by_the_keyboard(tab, tensors, key):
    path, found = tensors
    tab.open(path, width=360)
    direction = f"[...{FIRST}.tHead.rows[0].cells].map(head => head.getAttribute('aria-sort'))"
    column = tab.value(f"[...{FIRST}.tHead.rows[0].cells].map(head => head.textContent)").index("stable rank")
    tab_to(tab, "stable rankBUTTON")
    known = sorted((t for t in found if t.spectral > 0.0), key=lambda t: t.stable_rank)
    zero = [found[-1].name]
    for order, said in ((known, "ascending"), (known[::-1], "descending"), (known, "ascending")):
        tab.press(key)
        assert tab.value(NAMES) == [t.name for t in order] + zero  # what is undefined stays last
        assert tab.value(direction) == [said if j == column else None for j in range(14)]
    tab.press("Tab")
    tab.press(key)  # another column takes over
    assert tab.value(direction)[column : column + 2] == [None, "ascending"]


def test_names_are_sorted_as_people_count(tab, tensors):
    tab.open(tensors[0])
    tab_to(tab, "tensorBUTTON")
    tab.press("Enter")
    assert tab.value(NAMES) == [f"layers.{j}.weight" for j in range(12)]


def test_rows_are_filtered_by_the_keyboard(tab, tensors):
    tab.open(tensors[0], width=360)
    tab_to(tab, "INPUT")
    for letter in "RS.1":
        tab.press(letter)
    assert tab.value(NAMES) == ["layers.1.weight", "layers.10.weight", "layers.11.weight"]
    assert tab.value("document.querySelector('.filter').textContent") == "Rows whose names contain  3 of 12 rows"
    for letter in "no":
        tab.press(letter)
    assert tab.value(NAMES) == []
    assert tab.complaints() == []


def test_names_of_strangers_do_nothing(tab, folder):
    names = (HOSTILE, "<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>")
    hostile(*names).report(str(folder / "hostile.html"))
    tab.open(folder / "hostile.html", width=360)
    assert tab.complaints() == []
    assert tab.value("document.documentElement.scrollWidth <= innerWidth")
    assert (
        tab.value("document.title") == tab.value("document.querySelector('h1').textContent") == f"Analysis of {HOSTILE}"
    )
    assert tab.value("document.scripts.length") == 1
    assert tab.value("document.querySelectorAll('img, iframe, object, a').length") == 0
    tab_to(tab, "tensorBUTTON")
    tab.press("Enter")
    assert tab.complaints() == []
    assert set(names) <= set(tab.value(NAMES))


def test_a_script_that_slips_in_cannot_run(tab, folder, whole):
    """The policy of the page itself: beside the script whose digest it names none runs, and nothing is fetched."""
    page = whole.read_text(encoding="utf-8")
    slipped = "<script>document.title = 'ran'</script><img src='x.png' onerror='document.title = 1'>"
    (folder / "slipped.html").write_text(page.replace("<footer>", slipped + "<footer>"), encoding="utf-8")
    tab.open(folder / "slipped.html")
    assert tab.value("document.title") == "Analysis of model.safetensors"
    assert any("Content Security Policy" in str(complaint) for complaint in tab.complaints())


def test_without_scripts_the_tables_are_there(tab, tensors):
    path, found = tensors
    tab.open(path, scripts=False)
    text = tab.text()
    for t in found:
        assert t.name in text
    assert "stable rank" in text
    assert "BUTTON" not in tab.tags()


def test_printed_pages(tab, whole):
    tab.open(whole, width=1000)  # about the width of paper, landscape
    tab.call("Emulation.setEmulatedMedia", media="print")
    assert tab.value("document.documentElement.scrollWidth <= innerWidth")
    tab.call("Emulation.setEmulatedMedia", media="")
    pdf = tab.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 2


@pytest.mark.parametrize("media", ["print", "screen"])
def test_paper_shows_whole_tables_and_no_filter(tab, tensors, media):
    tab.open(tensors[0])
    tab.call("Emulation.setEmulatedMedia", media=media)
    shown = tab.value("getComputedStyle(document.querySelector('.filter')).display")
    assert (shown == "none") == (media == "print")
    height = tab.value("getComputedStyle(document.querySelector('.scroll[role=region]')).maxHeight")
    assert (height == "none") == (media == "print")
    tab.call("Emulation.setEmulatedMedia", media="")
