"""What the study ``wfm`` leaves behind: sections, pictures and tables, all computed from what was measured."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from flatcore._checks import FloatArray
from flatcore.report import Figure, Section, Table
from flatcore.studies import wfm_binary_words as binary_words
from flatcore.studies import wfm_figures as draw
from flatcore.studies import wfm_words as words
from flatcore.studies.folder import StudyFolder, StudyResult
from flatcore.studies.pages import write_pages
from flatcore.studies.wfm_files import data_of, history_of
from flatcore.studies.wfm_quantities import FLIP, NAMED_CENTRES, STRENGTHS, by_solver, compared, mean_of, part, solved
from flatcore.studies.wfm_solvers import (
    AMP_END,
    BINARY,
    CONTINUOUS,
    CURVATURES,
    FLIPS,
    FOCUSING,
    GAMMAS,
    LAL,
    LEVELS,
    NOISE,
    OVERLAPS,
    RULE_A,
    RULE_B,
    SLOW,
    TRIED_BINARY,
    TRIED_CONTINUOUS,
    UNIT_SHARPNESS,
)
from flatcore.studies.wfm_verdicts import verdicts

if TYPE_CHECKING:
    from flatcore.studies.wfm import Results, Size
    from flatcore.studies.wfm_quantities import Rows

TITLE = "Wide flat minima of committee machines"
FAMILIES = (LAL, RULE_A, RULE_B, SLOW, AMP_END)  # one of each, the clearest
VARIANTS = tuple(name for name in CONTINUOUS if "cross-entropy" in name or name in FOCUSING)
_SOLVED = "Means over the seeds that a solver solves, ± one standard error."
_PAIRED = "Mean difference over the seeds that both solve, ± half of its 95 % interval."


def write(folder: StudyFolder, size: Size, results: Results) -> StudyResult:
    """Write report.html, results.json, history.csv and the figures."""
    claims = verdicts(results)
    caption = "Undecided: the seeds cannot tell. The numbers are below."
    sections = [
        Section("What came out", tables=(Table(("claim", "answer"), claims, caption),), text=(words.summary(claims),)),
        _energies(size, results),
        _entropies(size, results),
        _hessians(size, results["committee"]),
        _capacity(size, results),
        _parity(size, results["parity"]),
        _gamma(results["gamma"]),
        _digits(results["digits"]),
    ]
    lead = words.lead(size, results)
    data = data_of(folder, lead, sections, dict(claims), results)
    write_pages(folder, TITLE, lead, sections, history_of(folder, size, results), data)
    return StudyResult(folder.path, folder.path / "report.html", tuple(f"{c}: {a}" for c, a in claims), data)


def _energies(size: Size, results: Results) -> Section:
    tree, flips = results["committee"], results["binary"]
    curves = by_solver(tree, "energy", CONTINUOUS)
    panels = {
        "one of each kind": (NOISE, {name: curves[name] for name in FAMILIES}),
        "schedules and forms": (NOISE, {name: curves[name] for name in VARIANTS}),
    }
    first = draw.energies("energy", panels, "strength δ of the noise")
    second = draw.energies(
        "flips", {"binary weights": (FLIPS, by_solver(flips, "energy", BINARY))}, "probability p of a flip"
    )
    third = draw.margins("margins", LEVELS, {n: by_solver(tree, "margins", CONTINUOUS)[n] for n in FAMILIES})
    overlap = words.mean_overlaps(tree)
    fourth = draw.matrix("overlap", list(CONTINUOUS), overlap)
    strong = NOISE[list(STRENGTHS)]
    header, place = ("solver", "solved", "sweeps"), STRENGTHS[0]
    return Section(
        "One: local energy",
        figures=(
            Figure("energy", "Continuous tree committee", first, words.energy_words(tree, size)),
            Figure("margins", "Margins of the patterns", third, words.margin_words(tree)),
            Figure("overlap", "Overlap between solutions", fourth, words.overlap_words(overlap)),
            Figure("flips", "Binary tree committee", second, binary_words.flip_words(flips, size)),
        ),
        tables=(
            Table(
                (*header, *(f"δE at δ = {s:g}" for s in strong), "δE at δ = 0.5"),
                _solver_rows(tree, CONTINUOUS, (*STRENGTHS, len(NOISE) - 1)),
                _SOLVED,
            ),
            Table(
                (*header, f"δE at p = {FLIPS[FLIP]:g}", f"δE at p = {FLIPS[-1]:g}"),
                _solver_rows(flips, BINARY, (FLIP, len(FLIPS) - 1)),
                _SOLVED,
            ),
            Table(
                ("solver", "δE: LAL minus it", f"it minus {AMP_END}"),
                _paired(tree, CONTINUOUS, (("energy", place),)),
                f"Seed by seed, continuous weights, δ = {NOISE[place]:g}. {_PAIRED}",
            ),
            Table(
                ("solver", "δE: LAL minus it", f"it minus {AMP_END}"),
                _paired(flips, BINARY, (("energy", FLIP),)),
                f"Seed by seed, binary weights, p = {FLIPS[FLIP]:g}. {_PAIRED}",
            ),
        ),
    )


def _solver_rows(rows: Rows, solvers: Iterable[str], places: tuple[int, ...]) -> list[tuple[str, ...]]:
    energy, sweeps = by_solver(rows, "energy", solvers), by_solver(rows, "sweeps", solvers)
    return [
        (name, _count(rows, i), mean_of(sweeps[name]), *(mean_of(energy[name][:, j]) for j in places))
        for i, name in enumerate(solvers)
    ]


def _paired(
    rows: Rows, solvers: Iterable[str], quantities: tuple[tuple[str, int | None], ...]
) -> list[tuple[str, ...]]:
    """Of every solver, each quantity: LAL minus it, and it minus focusing BP by AMP at its end."""
    index = {name: i for i, name in enumerate(solvers)}
    lal, flat = index[LAL], index[AMP_END]
    out = []
    for name, i in index.items():
        cells = [
            "" if j == k else compared(rows, j, k, key, place)
            for key, place in quantities
            for j, k in ((lal, i), (i, flat))
        ]
        out.append((name, *cells))
    return out


def _count(rows: Rows, i: int) -> str:
    return f"{int(solved(rows, i).sum())} of {len(rows)}"


def _entropies(size: Size, results: Results) -> Section:
    panels: dict[str, dict[str, FloatArray]] = {}
    for i, title in enumerate(("binary perceptron", "binary tree")):
        rows = part(results["entropy"], i)
        settled = np.array([row["converged"] for row in rows]) == 1.0
        values = by_solver(rows, "entropy", NAMED_CENTRES)
        panels[title] = {n: np.where(settled[:, j], values[n], np.nan) for j, n in enumerate(NAMED_CENTRES)}
    svg = draw.entropies("entropy", (1.0 - OVERLAPS) / 2.0, panels)
    said = binary_words.entropy_words(results["entropy"], size)
    return Section("Two: local entropy", figures=(Figure("entropy", "Solutions around a solution", svg, said),))


def _hessians(size: Size, rows: Rows) -> Section:
    quantities = {
        "largest eigenvalue": by_solver(rows, "top", CONTINUOUS),
        "trace": by_solver(rows, "trace", CONTINUOUS),
        "share of |λ| < 1e-3": by_solver(rows, "near_zero", CONTINUOUS),
    }
    density, above = (by_solver(rows, key, CONTINUOUS) for key in ("density", "above"))
    spectra = draw.spectra(
        "spectra",
        CURVATURES / size.tree[1],
        {name: density[name] for name in FAMILIES},
        {name: above[name] for name in FAMILIES},
    )
    table = [(name, *(mean_of(curves[name]) for curves in quantities.values())) for name in CONTINUOUS]
    return Section(
        "Three: Hessian spectra",
        figures=(
            Figure("spectra", "Spectra of the cross-entropy's Hessian", spectra, words.spectrum_words(size)),
            Figure("hessian", "Their sizes", draw.bars("hessian", quantities), words.hessian_words(rows)),
        ),
        tables=(
            Table(("solver", *quantities), table, _SOLVED),
            Table(
                ("solver", "λ: LAL minus it", "it minus AMP, end", "trace: LAL minus it", "it minus AMP, end"),
                _paired(rows, CONTINUOUS, (("top", None), ("trace", None))),
                f"Seed by seed, the largest eigenvalue λ and the trace. {_PAIRED}",
            ),
        ),
    )


def _capacity(size: Size, results: Results) -> Section:
    panels = {}
    for title, key, solvers, loads in (
        ("binary perceptron", "perceptron", TRIED_BINARY, size.loads[0]),
        ("continuous tree", "tree", TRIED_CONTINUOUS, size.loads[1]),
    ):
        share = np.array([row[key] == 0 for row in results["capacity"]]).astype(float)
        panels[title] = (loads, {name: share[:, i] for i, name in enumerate(solvers)})
    svg, said = draw.success("capacity", panels), binary_words.capacity_words(results["capacity"], size)
    return Section("Four: solvers against the load", figures=(Figure("capacity", "Instances solved", svg, said),))


def _parity(size: Size, rows: Rows) -> Section:
    panels = {
        title: (FLIPS, by_solver(part(rows, machine), "energy", TRIED_BINARY))
        for machine, title in enumerate(("committee", "parity machine"))
    }
    svg = draw.energies("parity", panels, "probability p of a flip", 4.2)
    said = binary_words.parity_words(rows, size)
    return Section("Five: the parity machine", figures=(Figure("parity", "Committee and parity machine", svg, said),))


def _gamma(rows: Rows) -> Section:
    families = (f"β = {UNIT_SHARPNESS:g}", "β = γ")
    strength = STRENGTHS[-1]
    values = {
        "training errors": np.array([row["errors"] for row in rows]),
        f"local energy at δ = {NOISE[strength]:g}": np.array([row["energy"][..., strength] for row in rows]),
        "smallest margin": np.array([row["margin"] for row in rows]),
        "overlap with focusing BP": np.array([row["overlap"] for row in rows]),
    }
    quantities = {title: {f: v[:, i] for i, f in enumerate(families)} for title, v in values.items()}
    svg = draw.against("gamma", GAMMAS, quantities, "γ")
    table = [
        (family, f"{value:g}", *(mean_of(v[:, i, j]) for v in values.values()))
        for i, family in enumerate(families)
        for j, value in enumerate(GAMMAS)
        if np.isfinite(values["training errors"][:, i, j]).any()
    ]
    caption = "Means over all seeds, with the errors they have, ± one standard error."
    return Section(
        "Six: minimisers of the cross-entropy",
        figures=(Figure("gamma", "Minimisers against γ", svg, words.gamma_words(rows)),),
        tables=(Table(("units", "γ", *quantities), table, caption),),
    )


def _digits(rows: Rows) -> Section:
    energy, test = by_solver(rows, "energy", CONTINUOUS), by_solver(rows, "test", CONTINUOUS)
    strength = STRENGTHS[-1]
    label = f"δE at δ = {NOISE[strength]:g}"
    svg = draw.scatter(
        "digits",
        {name: values[:, strength] for name, values in energy.items()},
        {name: 100.0 * values for name, values in test.items()},
        (f"local energy {label}", "test error in per cent"),
    )
    table = [
        (name, _count(rows, i), mean_of(100.0 * test[name]), mean_of(energy[name][:, strength]))
        for i, name in enumerate(CONTINUOUS)
    ]
    return Section(
        "Seven: real images",
        figures=(Figure("digits", "Test error against local energy", svg, words.digit_words(rows)),),
        tables=(Table(("solver", "solved", "test error %", label), table, _SOLVED),),
    )
