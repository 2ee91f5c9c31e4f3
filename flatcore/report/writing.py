"""The page of each kind of result that has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flatcore.io import write_text_atomic
from flatcore.report.analysis import render_analysis
from flatcore.report.checkpoints import render_checkpoint_analysis
from flatcore.report.comparison import render_checkpoint_comparison
from flatcore.report.layers import render_module_analysis
from flatcore.results import Analysis, CheckpointAnalysis, CheckpointComparison, ModuleAnalysis, Reported

_PAGES: dict[type[Reported], Callable[[Any], str]] = {
    Analysis: render_analysis,
    ModuleAnalysis: render_module_analysis,
    CheckpointAnalysis: render_checkpoint_analysis,
    CheckpointComparison: render_checkpoint_comparison,
}


def write_report(result: Reported, path: str) -> None:
    """Write the HTML report of an analysis or a comparison.

    Parameters
    ----------
    result
        What to show.
    path
        The file; it appears whole or not at all.

    Raises
    ------
    OSError
        The file cannot be written.

    """
    write_text_atomic(path, _PAGES[type(result)](result))
