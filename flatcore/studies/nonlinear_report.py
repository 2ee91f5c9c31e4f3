"""What the study ``nonlinear`` leaves behind: sections, tables and files, all computed from the traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flatcore.report import Figure, Section, Table
from flatcore.results import plain
from flatcore.studies import nonlinear_figures as draw
from flatcore.studies import nonlinear_quantities as q
from flatcore.studies import nonlinear_words as words
from flatcore.studies.folder import StudyFolder, StudyResult
from flatcore.studies.nonlinear_groups import Group, Panels, Quantity, flat_minus_sharp, grouped
from flatcore.studies.nonlinear_training import Trace, pair_names
from flatcore.studies.pages import versions, write_pages

if TYPE_CHECKING:
    from flatcore.studies.nonlinear import Settings

_SUMMARY: tuple[tuple[str, Quantity, int], ...] = (
    ("larger steps end flatter", q.sharpness, -1),
    ("gains more equal at flat solutions", q.imbalance, -1),
    ("residuals smaller at flat solutions", q.residual, -1),
    ("layers more coupled at flat solutions", q.overlap, 1),
    ("fewer test errors at flat solutions", q.test_error, -1),
)
_ANSWERS = {1: "yes", -1: "no, the opposite", 0: "undecided"}


def write(folder: StudyFolder, settings: Settings, sizes: tuple[int, int], traces: dict[str, Trace]) -> StudyResult:
    """Write report.html, results.json, history.csv and the figures; `sizes` counts training and test images."""
    import torch

    panels = {a.title: grouped(list(traces.values()), a.name) for a in settings.architectures}
    sections = [
        _summary(panels),
        _edge(panels),
        _flatness(panels),
        _path(panels),
        _coupling(panels, settings),
        _errors(panels),
    ]
    sections.append(_table(panels, traces))
    lead = words.lead(panels, *sizes)
    torch_version = {"torch": str(torch.__version__)}
    results = _results(folder, lead, sections, traces, torch_version)
    history = {name: t.rows for name, t in traces.items()}
    title = "Flat and sharp solutions of nonlinear networks on handwritten digits"
    write_pages(folder, title, lead, sections, history, results, **torch_version)
    lines = tuple(f"{t.run.title}: {words.ending(t)}" for t in traces.values())
    return StudyResult(folder.path, folder.path / "report.html", lines, results)


# -- sections --------------------------------------------------------------------------------------------------------


def _summary(panels: Panels) -> Section:
    """The verdicts of all sections, a column a network."""
    header = ("claim", *panels)
    edge = ["sharpness settles at 2/η", *(_edge_cell(groups) for groups in panels.values())]
    others = [
        [claim, *(_ANSWERS[expected * flat_minus_sharp(groups, quantity).sign] for groups in panels.values())]
        for claim, quantity, expected in _SUMMARY
    ]
    caption = "First row: of how many step sizes. Undecided: the seeds cannot tell. The numbers are below."
    return Section("What came out", tables=(Table(header, [edge, *others], caption),))


def _edge_cell(groups: Sequence[Group]) -> str:
    kinds = [kind for _, kind in words.edge_cases(groups)]
    undecided = f" ({kinds.count('undecided')} undecided)" if "undecided" in kinds else ""
    return f"{kinds.count('at the edge')} of {len(kinds)}{undecided}"


def _edge(panels: Panels) -> Section:
    return Section(
        "One: the edge of stability",
        figures=(
            Figure(
                "edge",
                "Sharpness over 2/η",
                draw.over_time("edge", panels, "sharpness", "sharpness over 2/η", edge=True),
                words.edge_words(panels),
            ),
            Figure(
                "loss",
                "Training loss",
                draw.over_time("loss", panels, "loss", "training loss", log=True),
                words.loss_words(panels),
            ),
        ),
    )


def _flatness(panels: Panels) -> Section:
    svg = draw.against_step("flatness", panels, q.sharpness, "sharpness at the end", edge=True)
    return Section(
        "Two: large steps and flat solutions",
        figures=(Figure("flatness", "Sharpness against step size", svg, words.sharpness_words(panels)),),
    )


def _path(panels: Panels) -> Section:
    gains = draw.over_layers("gains", panels, "gain", "gain over σ^(1/M)", "layer", 1.0)
    residuals = draw.over_layers("residuals", panels, "residual", "coupling residual", "layer", 0.0)
    return Section(
        "Three: the way of the top direction through the layers",
        figures=(
            Figure("gains", "Gains along the Jacobian path", gains, words.gain_words(panels)),
            Figure("residuals", "Coupling residuals along the Jacobian path", residuals, words.residual_words(panels)),
        ),
    )


def _coupling(panels: Panels, settings: Settings) -> Section:
    pairs = "; ".join(f"{a.title} {', '.join(pair_names(a.build((0,))))}" for a in settings.architectures)
    svg = draw.over_layers("coupling", panels, "overlap_ratio", "largest overlap over chance", "pair of layers", 1.0)
    return Section(
        "Four: coupling of consecutive layers",
        figures=(Figure("coupling", "Largest overlap over chance", svg, words.coupling_words(panels, pairs)),),
    )


def _errors(panels: Panels) -> Section:
    labels = ("sharpness at the end", "test error in per cent")
    svg = draw.scatter("test_error", panels, q.sharpness, q.test_error, labels)
    return Section(
        "Five: held-out images",
        figures=(Figure("test_error", "Test error against sharpness, a point a run", svg, words.error_words(panels)),),
    )


def _table(panels: Panels, traces: dict[str, Trace]) -> Section:
    header = (
        "network", "η", "runs", "diverged", "steps", "loss", "test error %", "sharpness", "2/η", "second half, of 2/η",
        "rising steps %", "imbalance", "residual", "overlap/chance",
    )  # fmt: skip
    quantities = (q.rising, q.imbalance, q.residual, q.overlap_ratio)
    rows = []
    for title, groups in panels.items():
        for g in groups:
            counts = f"{g.step_size:g}", str(len(g.traces)), str(len(g.diverged)), str(_planned(g))
            start = (g.text(q.loss), g.text(q.test_error), g.text(q.sharpness), f"{2.0 / g.step_size:g}")
            rows.append((title, *counts, *start, g.text(q.settled), *(g.text(quantity) for quantity in quantities)))
    measured = [row for t in traces.values() for row in t.rows]
    certified = sum(row["certified"] == 1.0 for row in measured)
    ends = [t for t in traces.values() if t.status != "diverged"]
    followed, asked = sum(t.structure[-1]["paths"] for t in ends), sum(t.run.paths for t in ends)
    notes = (
        f"{certified} of {len(measured)} sharpness values are certified to their tolerance by true residuals.",
        f"At the end paths were followed at {followed:.0f} of {asked} images: those whose Jacobian is not zero.",
    )
    caption = f"At the last step. {words.error_bars(panels)}"
    return Section("All runs", text=notes, tables=(Table(header, rows, caption),))


def _planned(g: Group) -> int:
    return (*g.traces, *g.diverged)[0].run.max_steps


# -- files -----------------------------------------------------------------------------------------------------------


def _results(
    folder: StudyFolder,
    lead: Sequence[str],
    sections: Sequence[Section],
    traces: dict[str, Trace],
    packages: dict[str, str],
) -> dict[str, Any]:
    runs = {
        name: {
            "title": t.run.title,
            "architecture": t.run.architecture,
            "seed": t.run.seed,
            "step_size": t.run.step_size,
            "status": t.status,
            "steps": t.steps,
            "settled": q.settled(t) if t.status == "finished" else None,
            "last": t.last,
            "structure": dict(zip(("first", "last"), t.structure, strict=False)),
        }
        for name, t in traces.items()
    }
    findings = {picture.name: list(picture.caption) for section in sections for picture in section.figures}
    tables = {
        section.title: [dict(zip(table.header, row, strict=True)) for table in section.tables for row in table.rows]
        for section in sections
        if section.tables
    }
    everything = {
        **folder.settings,
        "versions": versions(**packages),
        "data": list(lead),
        "runs": runs,
        "findings": findings,
        "tables": tables,
    }
    return plain(everything)  # type: ignore[no-any-return]
