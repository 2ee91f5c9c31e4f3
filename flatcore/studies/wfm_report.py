"""What the study ``wfm`` leaves behind: sections, tables and files, all computed from what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from flatcore._checks import FloatArray
from flatcore.report import Figure, Section, Table
from flatcore.results import plain
from flatcore.studies import wfm_figures as draw
from flatcore.studies import wfm_words as words
from flatcore.studies.folder import StudyFolder, StudyResult
from flatcore.studies.pages import versions, write_pages
from flatcore.studies.wfm import seeds_of
from flatcore.studies.wfm_experiments import (
    BINARY,
    BP,
    CONTINUOUS,
    FLIPS,
    GAMMAS,
    LEARNERS,
    NOISE,
    PLANTED,
)

if TYPE_CHECKING:
    from flatcore.studies.wfm import Results, Size

TITLE = "Wide flat minima of committee machines"
_SOLVED = "Means over the seeds that a solver solves, ± one standard error."


def write(folder: StudyFolder, size: Size, results: Results) -> StudyResult:
    """Write report.html, results.json, history.csv and the figures."""
    sections = [
        _energies(size, results),
        _entropies(size, results),
        _hessians(results),
        _capacity(size, results),
        _parity(size, results),
        _gamma(results),
        _digits(results),
    ]
    lead = words.lead(size, results)
    sections.insert(0, _summary(results))
    data = _data(folder, lead, sections, results)
    write_pages(folder, TITLE, lead, sections, _history(folder, size, results), data)
    lines = tuple(f"{claim}: {answer}" for claim, answer in words.verdicts(results))
    return StudyResult(folder.path, folder.path / "report.html", lines, data)


# -- quantities ------------------------------------------------------------------------------------------------------


def by_solver(rows: list[dict[str, FloatArray]], key: str, solvers: Mapping[str, Any]) -> dict[str, FloatArray]:
    """A quantity of every solver, a row a seed; NaN where the solver left errors."""
    found = np.array([row[key] for row in rows], dtype=float)
    solved = np.array([row["errors"] for row in rows]) == 0
    found[~solved] = np.nan
    return {name: found[:, i] for i, name in enumerate(solvers)}


# -- sections --------------------------------------------------------------------------------------------------------


def _summary(results: Results) -> Section:
    caption = "Undecided: the seeds cannot tell. The numbers are below."
    return Section("What came out", tables=(Table(("claim", "answer"), words.verdicts(results), caption),))


def _energies(size: Size, results: Results) -> Section:
    continuous = by_solver(results["committee"], "energy", CONTINUOUS)
    flips = by_solver(results["binary"], "energy", BINARY)
    first = draw.energies("energy", {"continuous weights": (NOISE, continuous)}, "strength δ of the noise")
    second = draw.energies("flips", {"binary weights": (FLIPS, flips)}, "probability p of a flip")
    rows = _solver_rows(results, "committee", CONTINUOUS) + _solver_rows(results, "binary", BINARY)
    header = ("committee", "solver", "solved", "sweeps", "δE at δ = 0.2, p = 0.1", "δE at δ = 0.5, p = 0.3")
    return Section(
        "One: local energy",
        figures=(
            Figure("energy", "Continuous tree committee", first, words.energy_words(results, size)),
            Figure("flips", "Binary tree committee", second, words.flip_words(results, size)),
        ),
        tables=(Table(header, rows, _SOLVED),),
    )


def _solver_rows(results: Results, experiment: str, solvers: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows, energy = results[experiment], by_solver(results[experiment], "energy", solvers)
    weak = 4  # of the strengths: δ = 0.2, p = 0.1
    out = []
    for i, name in enumerate(solvers):
        solved = [row["errors"][i] == 0 for row in rows]
        kept = energy[name][solved]
        sweeps = np.array([row["sweeps"][i] for row in rows], dtype=float)[solved]
        cells = [words.mean_of(kept[:, j]) for j in (weak, -1)]
        out.append(
            (
                "continuous" if experiment == "committee" else "binary",
                name,
                f"{sum(solved)} of {len(rows)}",
                words.mean_of(sweeps),
                *cells,
            )
        )
    return out


def _entropies(size: Size, results: Results) -> Section:
    rows = results["entropy"]
    distance, entropy = {}, {}
    for i, title in enumerate((BP, PLANTED)):
        values = np.array([row["entropy"][i] for row in rows])
        values[np.array([row["converged"][i] for row in rows]) == 0.0] = np.nan
        values[np.array([row["errors"][i] for row in rows]) != 0] = np.nan
        distance[title], entropy[title] = np.array([row["distance"][i] for row in rows]), values
    grid = np.linspace(1e-3, 0.25, 60)
    svg = draw.entropies("entropy", distance, entropy, grid)
    return Section(
        "Two: local entropy",
        figures=(Figure("entropy", "Solutions around a solution", svg, words.entropy_words(results, size)),),
    )


def _hessians(results: Results) -> Section:
    quantities = {
        "largest eigenvalue": by_solver(results["committee"], "top", CONTINUOUS),
        "trace": by_solver(results["committee"], "trace", CONTINUOUS),
        "share of |λ| < 1e-3": by_solver(results["committee"], "near_zero", CONTINUOUS),
    }
    svg, title = draw.bars("hessian", quantities), "Hessian of the cross-entropy at the solutions"
    table = [(name, *(words.mean_of(curves[name]) for curves in quantities.values())) for name in CONTINUOUS]
    return Section(
        "Three: Hessian spectra",
        figures=(Figure("hessian", title, svg, words.hessian_words(results)),),
        tables=(Table(("solver", *quantities), table, _SOLVED),),
    )


def _capacity(size: Size, results: Results) -> Section:
    rows = results["capacity"]
    panels = {}
    tasks = (("binary perceptron", "perceptron", BINARY, 0), ("continuous tree", "tree", LEARNERS, 1))
    for title, key, solvers, which in tasks:
        solved = np.array([row[key] for row in rows]) == 0
        panels[title] = (size.loads[which], {name: solved[:, i].astype(float) for i, name in enumerate(solvers)})
    svg = draw.success("capacity", panels)
    return Section(
        "Four: solvers against the load",
        figures=(Figure("capacity", "Share of instances solved", svg, words.capacity_words(results, size)),),
    )


def _parity(size: Size, results: Results) -> Section:
    panels = {}
    for machine, title in enumerate(("committee", "parity machine")):
        rows = [{"errors": row["errors"][machine], "energy": row["energy"][machine]} for row in results["parity"]]
        panels[title] = (FLIPS, by_solver(rows, "energy", BINARY))
    svg = draw.energies("parity", panels, "probability p of a flip")
    return Section(
        "Five: the parity machine",
        figures=(Figure("parity", "Committee and parity machine", svg, words.parity_words(results, size)),),
    )


def _gamma(results: Results) -> Section:
    rows = results["gamma"]
    errors = np.array([row["errors"] for row in rows], dtype=float)
    energy = np.array([row["energy"][:, words.NOISE_AT] for row in rows])
    quantities = {
        "training errors": errors,
        "local energy at δ = 0.3, solved": np.where(errors == 0, energy, np.nan),
        "overlap with focusing BP": np.array([row["overlap"] for row in rows]),
    }
    svg = draw.against("gamma", GAMMAS, quantities, "β = γ")
    table = [
        (f"{value:g}", *(words.mean_of(quantity[:, i]) for quantity in quantities.values()))
        for i, value in enumerate(GAMMAS)
    ]
    return Section(
        "Six: minimisers of the cross-entropy",
        figures=(Figure("gamma", "Cross-entropy at fixed β = γ", svg, words.gamma_words(results)),),
        tables=(
            Table(
                ("β = γ", *quantities),
                table,
                "Means over all seeds, local energies over those without errors, ± one standard error.",
            ),
        ),
    )


def _digits(results: Results) -> Section:
    rows = results["digits"]
    energy = by_solver(rows, "energy", CONTINUOUS)
    test = by_solver(rows, "test", CONTINUOUS)
    svg = draw.scatter(
        "digits",
        {name: values[:, words.NOISE_AT] for name, values in energy.items()},
        {name: 100.0 * values for name, values in test.items()},
        ("local energy at δ = 0.3", "test error in per cent"),
    )
    header = ("solver", "solved", "test error %", "δE at δ = 0.3")
    table = []
    for i, name in enumerate(CONTINUOUS):
        solved = [row["errors"][i] == 0 for row in rows]
        cells = words.mean_of(100.0 * test[name]), words.mean_of(energy[name][:, words.NOISE_AT])
        table.append((name, f"{sum(solved)} of {len(rows)}", *cells))
    return Section(
        "Seven: real images",
        figures=(Figure("digits", "Test error against local energy", svg, words.digit_words(results)),),
        tables=(Table(header, table, _SOLVED),),
    )


# -- files -----------------------------------------------------------------------------------------------------------


def _history(folder: StudyFolder, size: Size, results: Results) -> dict[str, list[dict[str, float]]]:
    """A run a solver and seed of the tree committee, its local energies as rows."""
    history = {}
    for seed, row in zip(seeds_of(folder.seed, size), results["committee"], strict=True):
        for i, name in enumerate(CONTINUOUS):
            history[f"{name}, seed {seed}"] = [
                {"errors": float(row["errors"][i]), "noise": float(s), "local_energy": float(e)}
                for s, e in zip(NOISE, row["energy"][i], strict=True)
            ]
    return history


def _data(folder: StudyFolder, lead: list[str], sections: list[Section], results: Results) -> dict[str, Any]:
    findings = {picture.name: list(picture.caption) for section in sections for picture in section.figures}
    everything = {
        **folder.settings,
        "versions": versions(),
        "data": lead,
        "verdicts": dict(words.verdicts(results)),
        "findings": findings,
        "measured": {name: list(rows) for name, rows in results.items()},
    }
    return plain(everything)  # type: ignore[no-any-return]
