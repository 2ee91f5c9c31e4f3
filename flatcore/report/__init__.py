"""Plain results → figures and self-contained HTML (needs the extra ``cli``)."""

from flatcore.report.analysis import write_analysis
from flatcore.report.checkpoints import write_checkpoint_analysis
from flatcore.report.comparison import write_checkpoint_comparison
from flatcore.report.figures import Figure, figure, svg_text
from flatcore.report.layers import write_module_analysis
from flatcore.report.page import Cell, Section, Table, numeric, render_page

__all__ = [
    "Cell",
    "Figure",
    "Section",
    "Table",
    "figure",
    "numeric",
    "render_page",
    "svg_text",
    "write_analysis",
    "write_checkpoint_analysis",
    "write_checkpoint_comparison",
    "write_module_analysis",
]
