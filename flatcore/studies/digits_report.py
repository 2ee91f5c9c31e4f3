"""What the study ``digits`` leaves behind: sections, tables and files, all computed from the traces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flatcore.linear import LinearChain, coupling
from flatcore.report import Figure, Section, Table
from flatcore.results import number, plain
from flatcore.studies import digits_figures as draw
from flatcore.studies import digits_words as words
from flatcore.studies.descent import Trace
from flatcore.studies.digits_data import Halves
from flatcore.studies.folder import StudyFolder, StudyResult
from flatcore.studies.pages import versions, write_pages

_K = 8


def write(folder: StudyFolder, data: Halves, traces: dict[str, Trace]) -> StudyResult:
    """Write report.html, results.json, history.csv and the figures; the report last."""
    sections = [_halves_section(traces), _classifier_section(traces), _negative_section(traces), _table(traces)]
    pictures = [picture for section in sections for picture in section.figures]
    lead = words.lead(data)
    results = _results(folder, lead, pictures, traces)
    title = "Flat minima of linear networks on handwritten digits"
    write_pages(folder, title, lead, sections, {name: t.rows for name, t in traces.items()}, results)
    lines = tuple(f"{t.run.title}: {words.ending(t)}" for t in traces.values())
    return StudyResult(folder.path, folder.path / "report.html", lines, results)


# -- sections --------------------------------------------------------------------------------------------------------


def _halves_section(traces: dict[str, Trace]) -> Section:
    mine = words.with_prefix(traces, "halves-")
    families: dict[str, Sequence[Trace]] = {
        "targets as they come": words.with_prefix(traces, "halves-resnet-"),
        "rotated targets": words.with_prefix(traces, "halves-rotated-"),
    }
    shown = [families["targets as they come"][0], *mine[4:]]
    final = {t.run.title.split(",")[0]: coupling(t.chain, _K) for t in (shown[0], traces["halves-random"])}
    return Section(
        "One: left half to right half",
        figures=(
            Figure("sharpness", "Sharpness over training", draw.sharpness(mine), words.sharpness_words(mine)),
            Figure("orders", "Flatness against step size", _orders_picture(families), words.order_words(families)),
            Figure("partial_gains", "Normalised partial gains", draw.partial_gains(shown), words.band_words(shown)),
            Figure(
                "balance",
                "Balance gap over training",
                draw.over_training(mine, "relative_gap", "largest relative gap", "balance"),
                words.balance_words(mine),
            ),
            Figure(
                "residuals",
                "Coupling residuals over training",
                draw.over_training(mine, "coupling_residual", "largest residual", "residuals"),
                words.residual_words(mine),
            ),
            Figure("coupling", "Coupling at the end", draw.heat_maps(final, "coupling"), words.coupling_words(final)),
        ),
        text=words.convergence_words(traces),
    )


def _orders_picture(families: dict[str, Sequence[Trace]]) -> str:
    """Families that are flat to rounding have no order to draw."""
    return draw.flatness_orders({label: traces for label, traces in families.items() if not words.at_rounding(traces)})


def _classifier_section(traces: dict[str, Trace]) -> Section:
    mine = words.with_prefix(traces, "classifier-")
    entropy = traces["classifier-entropy"]
    start = LinearChain(entropy.run.start())
    maps = {"start": coupling(start, _K), "end": coupling(entropy.chain, _K)}
    return Section(
        "Two: pixels to classes",
        figures=(
            Figure("classifier_loss", "Loss over training", draw.losses(mine), words.loss_words(mine)),
            Figure(
                "classifier_sharpness",
                "Sharpness over training",
                draw.sharpness(mine, "classifier_sharpness"),
                words.classifier_sharpness_words(mine),
            ),
            Figure(
                "classifier_gains",
                "Normalised partial gains",
                draw.partial_gains(mine, "classifier_gains"),
                (
                    *words.band_words(mine),
                    "The pixels are not whitened, so here the band is a yardstick, not a theorem.",
                ),
            ),
            Figure(
                "structure", "Coupling and balance over training", draw.structure(mine), words.structure_words(mine)
            ),
            Figure(
                "classifier_coupling",
                "Coupling under cross-entropy, first and last step",
                draw.heat_maps(maps, "classifier_coupling"),
                words.coupling_words(maps),
            ),
        ),
    )


def _negative_section(traces: dict[str, Trace]) -> Section:
    mine = words.with_prefix(traces, "negative-")
    target = mine[0].run.loss.minimiser()
    s = float(np.linalg.svd(target, compute_uv=False)[-1])
    return Section(
        "Three: where ResNets from zero fail",
        figures=(
            Figure(
                "negative",
                f"A target of determinant {number(float(np.linalg.det(target)), 3)}",
                draw.negative(mine, s**2),
                words.negative_words(mine, s),
            ),
        ),
    )


def _table(traces: dict[str, Trace]) -> Section:
    header = (
        "run",
        "status",
        "steps",
        "loss",
        "excess/variance",
        "sharpness",
        "2/η",
        "λ*",
        "ratio",
        "relative gap",
    )
    rows = []
    for t in traces.values():
        last = t.last
        variance = getattr(t.run.loss, "syy", float("nan"))
        gap = float(t.columns("relative_gap")[-1].max())
        cells = (
            last["loss"], last["excess"] / variance, last["sharpness"], last["two_over_step"], last["flattest"],
            last["flatness_ratio"], gap,
        )  # fmt: skip
        loss, *rest = (number(x, 5) for x in cells)
        rows.append((t.run.title.replace("ResNet from zero, ", "ResNet, "), t.status, str(t.steps), loss, *rest))
    uncertified = sum(row["certified"] == 0.0 for t in traces.values() for row in t.rows)
    total = sum(len(t.rows) for t in traces.values())
    note = f"{total - uncertified} of {total} sharpness values are certified to their tolerance by true residuals."
    return Section("All runs", text=(note,), tables=(Table(header, rows, "At the last step of each run."),))


# -- files -----------------------------------------------------------------------------------------------------------


def _results(
    folder: StudyFolder, lead: Sequence[str], pictures: Sequence[Figure], traces: dict[str, Trace]
) -> dict[str, Any]:
    runs = {
        name: {
            "title": t.run.title,
            "step_size": t.run.step_size,
            "skip": t.run.skip,
            "status": t.status,
            "steps": t.steps,
            "last": t.last,
        }
        for name, t in traces.items()
    }
    findings = {picture.name: list(picture.caption) for picture in pictures}
    return plain({**folder.settings, "versions": versions(), "data": list(lead), "runs": runs, "findings": findings})  # type: ignore[no-any-return]
