"""One HTML page for every report: self-contained, readable without a network, printable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from jinja2 import Environment, StrictUndefined

from flatcore.report.figures import Figure


@dataclass(frozen=True)
class Table:
    """A table of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A titled part of a page: pictures first, then tables, then text."""

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = field(default=())


_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1d2733; background: #fff; margin: 0 auto; max-width: 60rem;
       padding: 1.5rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; border-top: 1px solid #d7dce2; padding-top: 1rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem; }
figure { margin: 1rem 0 2rem; }
figure svg { max-width: 100%; height: auto; }
figcaption { color: #3d4a5a; font-size: .95rem; }
figcaption p { margin: .35rem 0; }
.scroll { overflow-x: auto; }
@media screen and (max-width: 40rem) { figure svg { max-width: none; min-width: 36rem; } }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; margin: .75rem 0; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #e6e8eb; text-align: left; white-space: pre; }
td.wrap { white-space: pre-wrap; }
th { background: #f5f7f9; }
caption { text-align: left; color: #3d4a5a; padding-bottom: .3rem; }
footer { color: #5c677d; font-size: .85rem; margin-top: 3rem; border-top: 1px solid #d7dce2; padding-top: .75rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% for line in lead %}<p>{{ line }}</p>
{% endfor %}
{% for section in sections %}
<h2>{{ section.title }}</h2>
{% for picture in section.figures %}
<figure id="{{ picture.name }}">
<h3>{{ picture.title }}</h3>
<div class="scroll">{{ picture.svg | safe }}</div>
<figcaption>{% for line in picture.caption %}<p>{{ line }}</p>{% endfor %}</figcaption>
</figure>
{% endfor %}
{% for table in section.tables %}
<div class="scroll"><table>{% if table.caption %}<caption>{{ table.caption }}</caption>{% endif %}
<thead><tr>{% for cell in table.header %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in table.rows %}<tr>{% for cell in row -%}
<td{% if cell|length > 60 %} class="wrap"{% endif %}>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table></div>
{% endfor %}
{% for line in section.text %}<p>{{ line }}</p>
{% endfor %}
{% endfor %}
<footer>{{ footer }}</footer>
</body>
</html>
"""


def render_page(title: str, lead: Sequence[str], sections: Sequence[Section], footer: str) -> str:
    """The page as text; all strings but the figures' SVG are escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_TEMPLATE).render(title=title, lead=lead, sections=sections, footer=footer)
