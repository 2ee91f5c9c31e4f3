"""The papers' experiments, runnable: each writes a report and everything it is made of into one folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flatcore._checks import check_choice, check_count
from flatcore.studies.folder import StudyFolder, StudyResult

__all__ = ["Progress", "StudyFolder", "StudyResult", "run_study", "study_names"]

Progress = Callable[[str, float], None]


def study_names() -> tuple[str, ...]:
    """Names that :func:`run_study` knows."""
    return ("digits", "nonlinear", "wfm")


def run_study(
    name: str,
    out: str | Path,
    *,
    resume: bool = False,
    seed: int = 0,
    size: str | None = None,
    progress: Progress | None = None,
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
    size
        ``"small"`` (None means this) or ``"full"``, for studies that come in sizes: ``wfm``.
    progress
        Called with what is being done and the fraction of all done.

    Returns
    -------
    StudyResult
        Where the report is, and its numbers.

    Raises
    ------
    ValueError
        An unknown name or size, a folder that is not empty, checkpoints of other settings.

    """
    if name not in study_names():
        raise ValueError(f"study is {name!r}; expected one of {', '.join(study_names())}")
    from flatcore.studies import digits, nonlinear, wfm

    studies = {"digits": digits.run, "nonlinear": nonlinear.run, "wfm": wfm.run}
    if name == "wfm":
        size = check_choice("size", "small" if size is None else size, tuple(wfm.SIZES))
    elif size is not None:
        raise ValueError(f"size is {size!r}; the study {name} comes in one size, expected None")
    check_count("seed", seed, 0)
    folder = StudyFolder(Path(out), name, seed, resume=resume, size=size)
    return studies[name](folder, progress or (lambda what, fraction: None))
