"""The papers' experiments, runnable: each writes a report and everything it is made of into one folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flatcore.studies.folder import StudyFolder, StudyResult

__all__ = ["Progress", "StudyFolder", "StudyResult", "run_study", "study_names"]

Progress = Callable[[str, float], None]


def study_names() -> tuple[str, ...]:
    """Names that :func:`run_study` knows."""
    return ("digits", "nonlinear")


def run_study(
    name: str, out: str | Path, *, resume: bool = False, seed: int = 0, progress: Progress | None = None
) -> StudyResult:
    """Run a study and write its report.

    Parameters
    ----------
    name
        One of :func:`study_names`.
    out
        A folder, made if missing. It must be empty unless `resume`.
    resume
        Go on from the checkpoints in `out`.
    seed
        Of every random initialisation.
    progress
        Called with what is being done and the fraction of all done.

    Returns
    -------
    StudyResult
        Where the report is, and its numbers.

    Raises
    ------
    ValueError
        An unknown name, a folder that is not empty, checkpoints of other settings.

    """
    if name not in study_names():
        raise ValueError(f"study is {name!r}; expected one of {', '.join(study_names())}")
    from flatcore.studies import digits, nonlinear

    studies = {"digits": digits.run, "nonlinear": nonlinear.run}
    folder = StudyFolder(Path(out), name, seed, resume=resume)
    return studies[name](folder, progress or (lambda what, fraction: None))
