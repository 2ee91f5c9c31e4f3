"""Plain results → figures and self-contained HTML (needs the extra ``cli``)."""

from flatcore.report.figures import Figure, figure, svg_text
from flatcore.report.page import Cell, Section, Table, numeric, render_page
from flatcore.report.writing import write_report

__all__ = [
    "Cell",
    "Figure",
    "Section",
    "Table",
    "figure",
    "numeric",
    "render_page",
    "svg_text",
    "write_report",
]
