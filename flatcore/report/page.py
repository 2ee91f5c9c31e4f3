"""One HTML page for every report: self-contained, readable without a network or scripts, printable, by keyboard alone.

Names in reports come from strangers' files: every text is escaped, and a content security policy lets nothing be loaded
and no script run but the one below, which only sorts and filters tables that are there without it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from flatcore._checks import of_short_words
from flatcore.report.figures import Figure
from flatcore.results import number


class Cell(NamedTuple):
    """A cell that sorts by its value, whatever its text; NaN comes last."""

    text: str
    value: float


def numeric(value: float, digits: int = 4) -> Cell:
    """A number as a cell of a table."""
    return Cell(number(value, digits), float(value))


@dataclass(frozen=True)
class Table:
    """A table; `sortable` ones can be sorted by any column and filtered, and begin their rows with what they name."""

    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    caption: str = ""
    sortable: bool = False


@dataclass(frozen=True)
class Section:
    """A titled part of a page: pictures first, then tables, then text; an `alert` stands out."""

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = field(default=())
    alert: bool = False


_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1d2733; background: #fff; margin: 0 auto; max-width: 60rem;
       padding: 1.5rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; border-top: 1px solid #d7dce2; padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
section.alert { border: 2px solid #b3261e; border-radius: .4rem; padding: 0 1rem; margin-top: 1.5rem; }
section.alert h2 { color: #b3261e; border: 0; margin-top: 0; }
figure { margin: 1rem 0 2rem; }
figure svg { max-width: 100%; height: auto; }
figcaption { color: #3d4a5a; font-size: .95rem; }
figcaption p { margin: .35rem 0; }
.scroll { overflow: auto; max-height: 85vh; margin: .75rem 0 2rem; }
figure .scroll { max-height: none; margin: 0; }
:focus-visible { outline: 3px solid #1a5fb4; outline-offset: 2px; }
@media screen and (max-width: 40rem) {
  body { padding: 1rem; }
  figure svg { max-width: 36rem; }
}
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums;
        overflow-wrap: normal; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e6e8eb; text-align: left; white-space: pre; }
td.wrap { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 16rem; }
td[data-value] { text-align: right; }
thead th { background: #f5f7f9; }
tbody th { background: #fff; font-weight: normal; }
tbody th.wrap { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 16rem; }
.sortable thead th { position: sticky; top: 0; z-index: 2; }
.sortable tbody th { position: sticky; left: 0; z-index: 1; }
@media screen and (max-width: 40rem) {
  tbody th, tbody th.wrap { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 7rem; max-width: 8.5rem; }
}
.sortable button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer;
                   text-align: left; text-decoration: underline dotted; }
[aria-sort] button { text-decoration: underline; }
[aria-sort=ascending] button::after { content: " ▲" / ""; }
[aria-sort=descending] button::after { content: " ▼" / ""; }
.filter { display: block; margin: .75rem 0; font-size: .92rem; }
.filter input { font: inherit; padding: .2rem .4rem; border: 1px solid #5c677d; border-radius: .2rem; max-width: 60%; }
caption { text-align: left; color: #3d4a5a; padding-bottom: .3rem; }
footer { color: #5c677d; font-size: .85rem; margin-top: 3rem; border-top: 1px solid #d7dce2; padding-top: .75rem; }
@page { size: landscape; margin: 1cm; }
@media print {
  .filter { display: none; }
  .scroll { max-height: none; overflow: visible; }
  figure { break-inside: avoid; }
  body { max-width: none; padding: 0; }
  .sortable { font-size: .5rem; }
  .sortable thead th, .sortable tbody th, .sortable td { position: static; padding: .1rem .2rem; min-width: 0;
                                                         white-space: pre-wrap; }
  .sortable tbody th, .sortable td { overflow-wrap: anywhere; min-width: 4em; }
  .sortable td[data-value] { white-space: nowrap; overflow-wrap: normal; min-width: 0; }
  .sortable button { text-decoration: none; }
}
"""

_SCRIPT = """
"use strict";
const collator = new Intl.Collator("en", { numeric: true });

function key(row, column) {
  const cell = row.cells[column], { value } = cell.dataset;
  return value === undefined ? cell.textContent : Number(value || cell.textContent);
}

function compare(a, b) {
  return typeof a === "string" || typeof b === "string" ? collator.compare(a, b) : a - b;
}

function sort(table, column, descending) {
  const body = table.tBodies[0];
  const keyed = [...body.rows].map((row) => [key(row, column), row]);
  const known = keyed.filter(([value]) => !Number.isNaN(value));
  const undefinedLast = keyed.filter(([value]) => Number.isNaN(value));
  known.sort(([a], [b]) => (descending ? compare(b, a) : compare(a, b)));
  body.append(...[...known, ...undefinedLast].map(([, row]) => row));
}

function addButtons(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(table, column, descending);
    });
    head.replaceChildren(button);
  });
}

function addFilter(table) {
  const rows = [...table.tBodies[0].rows];
  const label = document.createElement("label"), input = document.createElement("input");
  const count = document.createElement("output");
  const texts = rows.map((row) =>
    [...row.cells].filter((cell) => cell.dataset.value === undefined).map((cell) => cell.textContent).join("\\n"));
  input.type = "search";
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    rows.forEach((row, index) => { row.hidden = !texts[index].toLowerCase().includes(wanted); });
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = wanted ? ` ${shown} of ${rows.length} rows` : "";
  });
  label.className = "filter";
  label.append("Rows whose names contain ", input, count);
  table.parentElement.before(label);
}

for (const table of document.querySelectorAll("table.sortable")) {
  addButtons(table);
  if (table.tBodies[0].rows.length > 8) addFilter(table);
}
"""

_LONG = 60  # letters of a cell that does not stay on one line

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<title>{{ title | short }}</title>
<style>{{ style | safe }}</style>
</head>
<body>
<h1>{{ title | short }}</h1>
{% for line in lead %}<p>{{ line | short }}</p>
{% endfor %}
{% for section in sections %}
<section{% if section.alert %} class="alert"{% endif %}>
<h2>{{ section.title }}</h2>
{% for picture in section.figures %}
<figure id="{{ picture.name }}">
<h3>{{ picture.title }}</h3>
<div class="scroll" tabindex="0" role="img"
     aria-label="{{ picture.title }}. {{ picture.caption | join(' ') | short }}">
<div aria-hidden="true">{{ picture.svg | safe }}</div></div>
<figcaption>{% for line in picture.caption %}<p>{{ line | short }}</p>{% endfor %}</figcaption>
</figure>
{% endfor %}
{% for table in section.tables %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ table.caption or section.title }}">
<table{% if table.sortable %} class="sortable"{% endif %}>{% if table.caption %}<caption>{{ table.caption }}</caption>
{%- endif %}
<thead><tr>{% for cell in table.header %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in table.rows %}<tr>{% for cell in row -%}
{% if table.sortable and loop.first %}<th scope="row"{{ cell | wrapped }}>{{ cell }}</th>
{%- elif cell is string %}<td{{ cell | wrapped }}>{{ cell }}</td>
{%- else %}<td data-value{{ cell | sortable }}>{{ cell.text }}</td>{% endif %}{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endfor %}
{% for line in section.text %}<p>{{ line | short }}</p>
{% endfor %}
</section>
{% endfor %}
<footer>{{ footer }}</footer>
{% if script %}<script>{{ script | safe }}</script>
{% endif %}
</body>
</html>
"""


def _visible(value: object) -> object:
    """Texts without characters that steer terminals or turn the direction of what follows, as names may hold."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in value)


def render_page(
    title: str, lead: Sequence[str], sections: Sequence[Section], footer: str = "Written by flatcore."
) -> str:
    """The page as text, without sections that hold nothing; all strings but the figures' SVG are escaped.

    Long names stand whole in tables alone.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_visible
    )
    environment.filters["sortable"] = _value
    environment.filters["short"] = of_short_words
    environment.filters["wrapped"] = lambda text: Markup(' class="wrap"') if len(text) > _LONG else ""
    script = _SCRIPT if any(table.sortable for section in sections for table in section.tables) else ""
    page = environment.from_string(_TEMPLATE).render(
        title=title,
        lead=lead,
        sections=[section for section in sections if section.text or section.figures or section.tables],
        footer=footer,
        style=_STYLE,
        script=script,
        policy=_policy(script),
    )
    return page.encode("utf-8", "backslashreplace").decode()  # half characters, which JSON can name and UTF-8 cannot


def _value(cell: Cell) -> str:
    """What follows ``data-value`` in a cell: nothing where the text is the number."""
    value = f"{cell.value:.7g}"
    return "" if value == cell.text else f"={value}"


def _policy(script: str) -> str:
    """Nothing is loaded but pictures inside the page; of scripts only this one runs, told by its digest."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = f"script-src 'sha256-{digest}'; " if script else ""
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; {scripts}base-uri 'none'; form-action 'none'"
