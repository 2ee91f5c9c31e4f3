"""What every study's folder holds beside its checkpoints: figures, history.csv, results.json, report.html."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy

from flatcore.io import write_text_atomic
from flatcore.report import Section, render_page
from flatcore.studies.folder import StudyFolder

Rows = Sequence[Mapping[str, float | str]]


def write_pages(
    folder: StudyFolder,
    title: str,
    lead: Sequence[str],
    sections: Sequence[Section],
    history: Mapping[str, Rows],
    results: dict[str, Any],
    **packages: str,
) -> None:
    """Write all of a study's files, the report last; `history` has the rows of each run."""
    for picture in (picture for section in sections for picture in section.figures):
        text = '<?xml version="1.0" encoding="utf-8"?>\n' + picture.svg
        write_text_atomic(folder.figures / f"{picture.name}.svg", text)
    write_text_atomic(folder.path / "history.csv", history_csv(history))
    write_text_atomic(folder.path / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    found = ", ".join(f"{name} {version}" for name, version in versions(**packages).items())
    about = f"Study {folder.settings['study']}, seed {folder.seed}. {found}."
    footer = f"{about} Every number on this page was computed by the run."
    write_text_atomic(folder.path / "report.html", render_page(title, lead, sections, footer))


def history_csv(history: Mapping[str, Rows]) -> str:
    """One line a measurement; what is undefined stays empty."""
    names = list(dict.fromkeys(name for rows in history.values() for row in rows for name in row))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["run", *names])
    for run, rows in history.items():
        for row in rows:
            writer.writerow([run, *(_cell(row.get(name, "")) for name in names)])
    return stream.getvalue()


def _cell(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "" if np.isnan(value) else repr(value)


def versions(**packages: str) -> dict[str, str]:
    """Versions of what computed the study; `packages` are those that only some studies use."""
    import flatcore

    return {
        "flatcore": flatcore.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        **packages,
    }
