"""history.csv and results.json of the study ``wfm``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flatcore._checks import FloatArray
from flatcore.report import Section
from flatcore.results import plain
from flatcore.studies.folder import StudyFolder
from flatcore.studies.pages import versions
from flatcore.studies.wfm import seeds_of
from flatcore.studies.wfm_quantities import NAMED_CENTRES, part
from flatcore.studies.wfm_solvers import (
    BINARY,
    CONTINUOUS,
    FLIPS,
    GAMMAS,
    LEVELS,
    NOISE,
    OVERLAPS,
    TRIED_BINARY,
    TRIED_CONTINUOUS,
    UNIT_SHARPNESS,
)

if TYPE_CHECKING:
    from flatcore.studies.wfm import Measured, Results, Size

Line = dict[str, float | str]


def history_of(folder: StudyFolder, size: Size, results: Results) -> dict[str, list[Line]]:
    """A run an experiment and seed; a line a solver, or one for each strength, distance, load or γ."""
    makers: dict[str, Callable[[Measured, Size], Iterator[Line]]] = {
        "committee": _tree,
        "binary": lambda row, size: _energies(row, BINARY, FLIPS, machine="binary tree"),
        "entropy": _entropies,
        "capacity": _loads,
        "parity": _parity,
        "gamma": _minimisers,
        "digits": lambda row, size: _energies(row, CONTINUOUS, NOISE, machine="digits", test_error=row["test"]),
    }
    return {
        f"{name}-{seed}": [{"experiment": name, "seed": float(seed), **line} for line in makers[name](row, size)]
        for name, rows in results.items()
        for seed, row in zip(seeds_of(folder.seed, size), rows, strict=True)
    }


def _energies(
    row: Measured, solvers: Iterable[str], scale: FloatArray, machine: str, **numbers: FloatArray
) -> Iterator[Line]:
    """A line a solver with the numbers that it has one of, and one for each strength."""
    for i, name in enumerate(solvers):
        who: Line = {"machine": machine, "solver": name, "errors": float(row["errors"][i])}
        yield {**who, "sweeps": float(row["sweeps"][i]), **{key: float(v[i]) for key, v in numbers.items()}}
        for strength, energy in zip(scale, row["energy"][i], strict=True):
            yield {**who, "strength": float(strength), "local_energy": float(energy)}


def _tree(row: Measured, size: Size) -> Iterator[Line]:
    yield from _energies(
        row,
        CONTINUOUS,
        NOISE,
        machine="continuous tree",
        largest_eigenvalue=row["top"],
        trace=row["trace"],
        near_zero=row["near_zero"],
        median_margin=row["margins"][:, len(LEVELS) // 2],
    )


def _parity(row: Measured, size: Size) -> Iterator[Line]:
    for i, machine in enumerate(("binary tree", "parity machine")):
        yield from _energies(part([row], i)[0], TRIED_BINARY, FLIPS, machine=machine)


def _entropies(row: Measured, size: Size) -> Iterator[Line]:
    for i, machine in enumerate(("binary perceptron", "binary tree")):
        for j, name in enumerate(NAMED_CENTRES):
            for q, entropy, settled in zip(OVERLAPS, row["entropy"][i, j], row["converged"][i, j], strict=True):
                yield {
                    "machine": machine,
                    "solver": name,
                    "errors": float(row["errors"][i, j]),
                    "distance": float((1.0 - q) / 2.0),
                    "local_entropy": float(entropy),
                    "converged": float(settled),
                }


def _loads(row: Measured, size: Size) -> Iterator[Line]:
    for machine, key, solvers, loads in (
        ("binary perceptron", "perceptron", TRIED_BINARY, size.loads[0]),
        ("continuous tree", "tree", TRIED_CONTINUOUS, size.loads[1]),
    ):
        for i, name in enumerate(solvers):
            for j, alpha in enumerate(loads):
                yield {"machine": machine, "solver": name, "load": alpha, "errors": float(row[key][i, j])}


def _minimisers(row: Measured, size: Size) -> Iterator[Line]:
    for i in range(2):
        for j, gamma in enumerate(GAMMAS):
            if not np.isfinite(row["errors"][i, j]):
                continue
            who: Line = {
                "machine": "continuous tree",
                "solver": "cross-entropy, minimiser",
                "followed": "β fixed" if i == 0 else "β = γ",  # both have a minimiser at β = γ = 2, not the same one
                "beta": UNIT_SHARPNESS if i == 0 else gamma,
                "gamma": gamma,
                "errors": float(row["errors"][i, j]),
            }
            yield {
                **who,
                **{key: float(row[key][i, j]) for key in ("margin", "overlap", "gradient", "curvature")},
            }
            for strength, energy in zip(NOISE, row["energy"][i, j], strict=True):
                yield {**who, "strength": float(strength), "local_energy": float(energy)}


def data_of(
    folder: StudyFolder,
    lead: Sequence[str],
    sections: Sequence[Section],
    verdicts: Mapping[str, str],
    results: Results,
) -> dict[str, Any]:
    """The content of results.json."""
    findings = {picture.name: list(picture.caption) for section in sections for picture in section.figures}
    everything = {
        **folder.settings,
        "versions": versions(),
        "data": list(lead),
        "verdicts": verdicts,
        "findings": findings,
        "measured": {name: list(rows) for name, rows in results.items()},
    }
    return plain(everything)  # type: ignore[no-any-return]
