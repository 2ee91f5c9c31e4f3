"""The folder of a study: settings, checkpoints, and results that appear whole or not at all."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatcore._atomic import read_checkpoint
from flatcore._checks import FloatArray
from flatcore.io import write_npz_atomic, write_text_atomic


@dataclass(frozen=True)
class StudyResult:
    """What a study leaves: the folder, the report's path, lines for people and data for machines."""

    folder: Path
    report: Path
    lines: tuple[str, ...]
    data: dict[str, Any]

    def summary(self) -> str:
        """One line a run."""
        return "\n".join(self.lines)

    def to_dict(self) -> dict[str, Any]:
        """The content of results.json."""
        return self.data


class StudyFolder:
    """A study's files under one folder, made if it is missing.

    Parameters
    ----------
    path, name, seed, size
        The folder and the settings that its checkpoints belong to; no size where a study has one only.
    resume
        Whether checkpoints of the same settings may be there already; otherwise the folder must be empty.

    """

    def __init__(self, path: Path, name: str, seed: int, *, resume: bool, size: str | None = None) -> None:
        self.path, self.seed = path, seed
        self.settings: dict[str, str | int] = {"study": name, "seed": seed}
        if size is not None:
            self.settings["size"] = size
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; expected a folder to write the study to")
        if resume and not (path / "study.json").exists():
            raise ValueError(f"{path} holds no study to go on with; expected its folder, or a run without --resume")
        if not resume and path.exists() and any(path.iterdir()):
            raise ValueError(f"{path} is not empty; expected a new folder, or --resume to go on with the study in it")
        path.mkdir(parents=True, exist_ok=True)
        self._claim()
        self.checkpoints.mkdir(exist_ok=True)
        self.figures.mkdir(exist_ok=True)

    def _claim(self) -> None:
        place = self.path / "study.json"
        if place.exists():
            try:
                found = json.loads(place.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{place} is no study's settings: {error}") from None
            if found != self.settings:
                raise ValueError(f"{self.path} holds a study with settings {found}; expected {self.settings}")
        write_text_atomic(place, json.dumps(self.settings) + "\n")

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie, one .npz a run."""
        return self.path / "checkpoints"

    @property
    def figures(self) -> Path:
        """Where the figures lie, as SVG."""
        return self.path / "figures"

    def save(self, run: str, arrays: dict[str, Any]) -> None:
        """Replace the checkpoint of a run."""
        write_npz_atomic(self.checkpoints / f"{run}.npz", arrays)

    def load(self, run: str, required: tuple[str, ...] = ()) -> dict[str, FloatArray] | None:
        """The checkpoint of a run with at least the arrays `required`, or None where there is no checkpoint."""
        return read_checkpoint(self.checkpoints / f"{run}.npz", required)
