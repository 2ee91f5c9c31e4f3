"""What the study ``digits`` found: sentences, tables and files, all computed from the traces."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy

from flatcore.io import write_text_atomic
from flatcore.linear import LinearChain, coupling
from flatcore.report import Figure, Section, Table, render_page
from flatcore.results import CouplingResult, number, plain
from flatcore.studies import digits_figures as draw
from flatcore.studies.descent import Trace
from flatcore.studies.digits_data import Halves
from flatcore.studies.folder import StudyFolder, StudyResult

_ROUNDING = 1e-9  # ratios nearer to 1 than this are equal to it at the accuracy of the eigenvalues
_BAND_SLACK = 0.01  # runs end at flatness ratio 1 + O(η²), so partial gains may leave the band by O(η)
_K = 8


def write(folder: StudyFolder, data: Halves, traces: dict[str, Trace]) -> StudyResult:
    """Write report.html, results.json, history.csv and the figures; the report last."""
    sections = [_halves_section(traces), _classifier_section(traces), _negative_section(traces), _table(traces)]
    pictures = [picture for section in sections for picture in section.figures]
    for picture in pictures:
        write_text_atomic(folder.figures / f"{picture.name}.svg", _standalone(picture.svg))
    write_text_atomic(folder.path / "history.csv", _history(traces))
    lead = _lead(data)
    results = _results(folder, lead, pictures, traces)
    write_text_atomic(folder.path / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    report = folder.path / "report.html"
    page = render_page("Flat minima of linear networks on handwritten digits", lead, sections, _footer(folder))
    write_text_atomic(report, page)
    lines = tuple(f"{t.run.title}: {_ending(t)}" for t in traces.values())
    return StudyResult(folder.path, report, lines, results)


# -- words -----------------------------------------------------------------------------------------------------------


def _lead(data: Halves) -> list[str]:
    s = np.linalg.svd(data.correlation, compute_uv=False)
    sign = "negative" if np.linalg.det(data.correlation) < 0 else "positive"
    return [
        f"Data: {len(data.left)} images of handwritten digits. Task one predicts the top {len(s)} whitened principal "
        f"components of the right half of an image from those of its left half; the singular values of the best "
        f"linear map Φ* are the canonical correlations of the halves, from {number(s[0], 3)} down to "
        f"{number(s[-1], 2)}, and its determinant is {sign}.",
        "Sharpness is the largest eigenvalue of the Hessian of the training loss. λ* is the smallest one that any "
        "factorisation of the same end-to-end matrix into as many layers can have, and the flatness ratio is the "
        "Gauss–Newton sharpness over λ* at the current Φ; it is at least 1.",
    ]


def _ending(trace: Trace) -> str:
    """How a run ended, in a phrase."""
    last = trace.last
    if trace.status == "converged":
        how = f"converged after {trace.steps} steps"
    elif trace.status == "diverged":
        how = f"diverged after {trace.steps} steps"
    else:
        how = f"stopped at step {trace.steps}"
    ratio = f", flatness ratio {number(last['flatness_ratio'], 7)}" if np.isfinite(last["flatness_ratio"]) else ""
    return f"{how}, sharpness {number(last['sharpness'])}{ratio}"


def order_in_step(traces: Sequence[Trace], values: Sequence[float]) -> float:
    """The exponent p of values ∝ ηᵖ between the smallest and the largest step size."""
    etas = [t.run.step_size for t in traces]
    return float(np.log(values[-1] / values[0]) / np.log(etas[-1] / etas[0]))


def at_rounding(traces: Sequence[Trace]) -> bool:
    """Whether all flatness ratios are 1 to the accuracy of the eigenvalues."""
    return max(abs(t.last["flatness_ratio"] - 1.0) for t in traces) < _ROUNDING


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _sharpness_words(traces: Sequence[Trace]) -> tuple[str, ...]:
    above = [t for t in traces if t.last["sharpness"] > t.last["two_over_step"] * (1 + 1e-3)]
    verdict = "none does" if not above else f"{_joined([t.run.title for t in above])} did"
    ends = [
        f"{t.run.title}: {number(t.last['sharpness'], 4)} = {number(t.last['sharpness'] / t.last['two_over_step'], 3)} "
        f"of 2/η and {t.last['sharpness'] / t.last['flattest']:.4f} λ*"
        for t in traces
    ]
    return (
        "Theory: gradient descent cannot settle where the sharpness exceeds 2/η, and balanced starts (a ResNet from "
        f"zero is one) end at λ*. Measured: at the end of training {verdict} lie above 2/η. " + "; ".join(ends) + ".",
    )


def _order_words(families: dict[str, Sequence[Trace]]) -> tuple[str, ...]:
    lines = ["Theory: a ResNet from zero ends at flatness ratio 1 + O(η²), with a balance gap of order η."]
    for label, traces in families.items():
        excess = [t.last["flatness_ratio"] - 1.0 for t in traces]
        gaps = [float(t.columns("gap")[-1].max()) for t in traces]
        at = _joined([f"{number(e, 3)} at η = {t.run.step_size:g}" for e, t in zip(excess, traces, strict=True)])
        converged = all(t.status == "converged" for t in traces)
        start = f"Measured, {label} ({'all converged' if converged else 'not all converged'}): ratio − 1 is {at}"
        if at_rounding(traces):
            lines.append(
                f"{start}, zero to rounding: a symmetric target and equal symmetric layers stay equal, so the balance "
                f"is exact (largest gap {number(max(gaps), 2)})."
            )
        else:
            p, q = order_in_step(traces, excess), order_in_step(traces, gaps)
            lines.append(f"{start}, which is of order {number(p, 3)} in η; the largest gap is of order {number(q, 3)}.")
    return tuple(lines)


def _band_words(traces: Sequence[Trace]) -> tuple[str, ...]:
    parts = []
    for t in traces:
        values = t.columns("partial_gain")[-1]
        low, high = 1.0, float(np.sqrt(len(values)))
        inside = int(np.sum((values >= low * (1 - _BAND_SLACK)) & (values <= high * (1 + _BAND_SLACK))))
        span = f"{number(float(values.min()), 4)} to {number(float(values.max()), 4)}"
        parts.append(f"{t.run.title}: {inside} of {len(values)} inside ({span})")
    return (
        "Theory: at a flattest minimum on whitened data ‖W_j⋯W_1‖/σ^(j/M) lies between 1 and √(M−1) = "
        f"{number(float(np.sqrt(traces[0].columns('partial_gain').shape[1])), 4)}. Measured at the end, "
        f"to {100 * _BAND_SLACK:g} %: " + "; ".join(parts) + ".",
    )


def _balance_words(traces: Sequence[Trace]) -> tuple[str, ...]:
    parts = []
    for t in traces:
        gaps = t.columns("relative_gap").max(axis=1)
        parts.append(f"{t.run.title}: {number(float(gaps[0]), 3)} → {number(float(gaps[-1]), 3)}")
    return (
        "Theory: gradient flow conserves W_{j+1}ᵀW_{j+1} − W_jW_jᵀ exactly, gradient descent up to terms of order η, "
        "so what starts balanced stays nearly so and what starts unbalanced stays unbalanced. Measured (largest "
        "relative gap, first → last): " + "; ".join(parts) + ".",
    )


def _residual_words(traces: Sequence[Trace]) -> tuple[str, ...]:
    parts = [f"{t.run.title}: {number(float(t.columns('coupling_residual')[-1].max()), 3)}" for t in traces]
    return (
        "Theory: at a flattest minimum on whitened data the top direction passes from singular vector to singular "
        "vector and every coupling residual is 0. Measured at the end (largest over the layers): "
        + "; ".join(parts)
        + ".",
    )


def _coupling_words(results: dict[str, CouplingResult]) -> tuple[str, ...]:
    parts = []
    for label, r in results.items():
        values = ", ".join(
            f"{number(float(a), 3)} ({number(float(b), 3)} × chance)" for a, b in zip(r.largest, r.ratio, strict=True)
        )
        parts.append(f"{label}: {values}")
    chance = ", ".join(number(float(c), 3) for c in next(iter(results.values())).chance)
    return (
        "Theory: coupled layers share singular vectors, overlap 1; the chance level of the largest overlap is "
        f"{chance} for the pairs shown. Measured, largest overlaps: " + "; ".join(parts) + ".",
    )


# -- sections --------------------------------------------------------------------------------------------------------


def _with(traces: dict[str, Trace], prefix: str) -> list[Trace]:
    return [t for name, t in traces.items() if name.startswith(prefix)]


def _halves_section(traces: dict[str, Trace]) -> Section:
    mine = _with(traces, "halves-")
    families: dict[str, Sequence[Trace]] = {
        "targets as they come": _with(traces, "halves-resnet-"),
        "rotated targets": _with(traces, "halves-rotated-"),
    }
    shown = [families["targets as they come"][0], *mine[4:]]
    final = {t.run.title.split(",")[0]: coupling(t.chain, _K) for t in (shown[0], traces["halves-random"])}
    return Section(
        "One: left half to right half",
        figures=(
            Figure("sharpness", "Sharpness over training", draw.sharpness(mine), _sharpness_words(mine)),
            Figure("orders", "Flatness against step size", _orders_picture(families), _order_words(families)),
            Figure("partial_gains", "Normalised partial gains", draw.partial_gains(shown), _band_words(shown)),
            Figure(
                "balance",
                "Balance gap over training",
                draw.over_training(mine, "relative_gap", "largest relative gap", "balance"),
                _balance_words(mine),
            ),
            Figure(
                "residuals",
                "Coupling residuals over training",
                draw.over_training(mine, "coupling_residual", "largest residual", "residuals"),
                _residual_words(mine),
            ),
            Figure("coupling", "Coupling at the end", draw.heat_maps(final, "coupling"), _coupling_words(final)),
        ),
        text=_convergence_words(traces),
    )


def _orders_picture(families: dict[str, Sequence[Trace]]) -> str:
    """Families that are flat to rounding have no order to draw."""
    return draw.flatness_orders({label: traces for label, traces in families.items() if not at_rounding(traces)})


def _convergence_words(traces: dict[str, Trace]) -> list[str]:
    mine = _with(traces, "halves-")
    missed = [t.run.title for t in mine if t.status != "converged"]
    first = "Every run of task one converged" if not missed else f"Not converged: {_joined(missed)}; the others did"
    plain_, spd = _with(traces, "halves-resnet-")[0], _with(traces, "halves-rotated-")[0]
    target = plain_.run.loss.minimiser()
    s = float(np.linalg.svd(target, compute_uv=False)[-1])
    lines = [first + " (excess loss at most 1e-4 of the target's variance)."]
    words = f"On rotated targets Φ* is symmetric positive definite and convergence is a theorem: {spd.status}."
    if np.linalg.det(target) < 0 and plain_.status == "converged":
        words += (
            " The targets as they come have a negative determinant, which a gradient flow from zero cannot reach; the "
            f"run counts as converged because the smallest singular value, {number(s, 2)}, contributes an excess of "
            f"only {number(s**2, 2)}."
        )
    return [*lines, words]


def _classifier_section(traces: dict[str, Trace]) -> Section:
    mine = _with(traces, "classifier-")
    entropy = traces["classifier-entropy"]
    start = LinearChain(entropy.run.start())
    maps = {"start": coupling(start, _K), "end": coupling(entropy.chain, _K)}
    return Section(
        "Two: pixels to classes",
        figures=(
            Figure("classifier_loss", "Loss over training", draw.losses(mine), _loss_words(mine)),
            Figure(
                "classifier_sharpness",
                "Sharpness over training",
                draw.sharpness(mine, "classifier_sharpness"),
                _classifier_sharpness_words(mine),
            ),
            Figure(
                "classifier_gains",
                "Normalised partial gains",
                draw.partial_gains(mine, "classifier_gains"),
                (*_band_words(mine), "The pixels are not whitened, so here the band is a yardstick, not a theorem."),
            ),
            Figure("structure", "Coupling and balance over training", draw.structure(mine), _structure_words(mine)),
            Figure(
                "classifier_coupling",
                "Coupling under cross-entropy, first and last step",
                draw.heat_maps(maps, "classifier_coupling"),
                _coupling_words(maps),
            ),
        ),
    )


def _loss_words(traces: Sequence[Trace]) -> tuple[str, ...]:
    parts = []
    for t in traces:
        values = t.column("loss")
        rises = int(np.sum(np.diff(values) > 0))
        parts.append(
            f"{t.run.title}: {number(float(values[0]), 4)} → {number(float(values[-1]), 4)}"
            + (f", rising between {rises} pairs of measurements" if rises else ", falling throughout")
        )
    return (
        "Theory: gradient descent lowers the loss steadily while the sharpness is below 2/η, and may raise it while "
        "it is above. Measured: " + "; ".join(parts) + ".",
    )


def _classifier_sharpness_words(traces: Sequence[Trace]) -> tuple[str, ...]:
    lines = ["Theory: training cannot settle above 2/η; λ* is known for squared error only."]
    for t in traces:
        first, last, limit = t.rows[0]["sharpness"], t.last["sharpness"], t.last["two_over_step"]
        side = "above" if first > limit else "below"
        ratio = f"; flatness ratio {number(t.last['flatness_ratio'], 4)}" * bool(np.isfinite(t.last["flatness_ratio"]))
        lines.append(
            f"Measured, {t.run.title}: starts {side} 2/η at {number(first / limit, 3)} of it and ends at "
            f"{number(last / limit, 3)} of it{ratio}."
        )
    return tuple(lines)


def _structure_words(traces: Sequence[Trace]) -> tuple[str, ...]:
    lines = [
        "Theory: from a random start the gap is conserved up to order η, so these chains are neither balanced nor at a "
        "flattest minimum; coupling beyond chance shows the path along which the classes are learned."
    ]
    for t in traces:
        ratio, residual, gap = t.columns("overlap_ratio"), t.columns("coupling_residual"), t.columns("relative_gap")
        lines.append(
            f"Measured, {t.run.title}: overlaps go from {number(float(ratio[0].max()), 3)} to "
            f"{number(float(ratio[-1].max()), 3)} times chance (largest pair), residuals from "
            f"{number(float(residual[0].max()), 3)} to {number(float(residual[-1].max()), 3)} (largest layer), "
            f"relative gaps by at most {number(float(np.abs(gap[-1] - gap[0]).max()), 2)}."
        )
    return tuple(lines)


def _negative_section(traces: dict[str, Trace]) -> Section:
    mine = _with(traces, "negative-")
    target = mine[0].run.loss.minimiser()
    s = float(np.linalg.svd(target, compute_uv=False)[-1])
    return Section(
        "Three: where ResNets from zero fail",
        figures=(
            Figure(
                "negative",
                f"A target of determinant {number(float(np.linalg.det(target)), 3)}",
                draw.negative(mine, s**2),
                _negative_words(mine, s),
            ),
        ),
    )


def _negative_words(traces: Sequence[Trace], s: float) -> tuple[str, ...]:
    lines = [
        "Theory: gradient flow from zero keeps the layers balanced, so det Φ, positive at the start, cannot change "
        "sign; towards a target of negative determinant the flow only approaches the best matrix with determinant "
        f"zero, an excess of {number(s**2, 3)} = {number(s, 3)}² above the minimum, while the smallest singular value "
        "goes to zero."
    ]
    for t in traces:
        excess = t.column("excess")
        crossed = np.flatnonzero(t.column("determinant") < 0)
        words = f"Measured, η = {t.run.step_size:g}: "
        if len(crossed) == 0:
            words += (
                f"after {t.steps} steps the excess is {number(t.last['excess'], 5)} and the smallest singular value "
                f"{number(t.last['sigma_min'], 2)}: it fails, as the theory says."
            )
        else:
            at = crossed[0]
            words += (
                f"the excess sits at {number(float(excess[at]), 5)} when the determinant is first measured negative, "
                f"at step {int(t.rows[at]['step'])}; after {t.steps} steps it is {number(t.last['excess'], 3)} "
                f"({t.status}). Finite steps are no flow: they break the conserved balance by terms of order η, and "
                "over so long a plateau that lets the determinant cross zero."
            )
        lines.append(words)
    return tuple(lines)


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


def _history(traces: dict[str, Trace]) -> str:
    names = list(dict.fromkeys(name for t in traces.values() for row in t.rows for name in row))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["run", *names])
    for run, t in traces.items():
        for row in t.rows:
            writer.writerow(
                [run, *("" if name not in row or np.isnan(row[name]) else repr(row[name]) for name in names)]
            )
    return stream.getvalue()


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
    versions = _versions()
    return plain({**folder.settings, "versions": versions, "data": list(lead), "runs": runs, "findings": findings})  # type: ignore[no-any-return]


def _versions() -> dict[str, str]:
    import flatcore

    return {
        "flatcore": flatcore.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def _footer(folder: StudyFolder) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in _versions().items())
    return f"Study digits, seed {folder.seed}. {versions}. Every number on this page was computed by the run."


def _standalone(svg: str) -> str:
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg
