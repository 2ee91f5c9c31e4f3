"""The sentences of the study ``digits``: what theory predicts, and what was measured, computed from the traces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flatcore.results import CouplingResult, number
from flatcore.studies.descent import Trace
from flatcore.studies.digits_data import Halves

_ROUNDING = 1e-9  # ratios nearer to 1 than this are equal to it at the accuracy of the eigenvalues
_BAND_SLACK = 0.01  # runs end at flatness ratio 1 + O(η²), so partial gains may leave the band by O(η)


def with_prefix(traces: dict[str, Trace], prefix: str) -> list[Trace]:
    """The traces whose run is called so."""
    return [t for name, t in traces.items() if name.startswith(prefix)]


def lead(data: Halves) -> list[str]:
    """What the data are, and what the words mean."""
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


def ending(trace: Trace) -> str:
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
    """The exponent p of values ∝ ηᵖ between the first and the last step size; NaN where none fits."""
    etas = [t.run.step_size for t in traces]
    if not (values[0] > 0.0 and values[-1] > 0.0):
        return float("nan")
    return float(np.log(values[-1] / values[0]) / np.log(etas[-1] / etas[0]))


def at_rounding(traces: Sequence[Trace]) -> bool:
    """Whether all flatness ratios are 1 to the accuracy of the eigenvalues."""
    return all(abs(t.last["flatness_ratio"] - 1.0) < _ROUNDING for t in traces)


def joined(parts: Sequence[str]) -> str:
    """Parts as a list in words."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _times(value: float, unit: float) -> str:
    return f"{value / unit:.4f}" if unit > 0.0 and np.isfinite(value) else "undefined"


def sharpness_words(traces: Sequence[Trace]) -> tuple[str, ...]:
    """Sharpness at the end against 2/η and λ*."""
    above = [t for t in traces if not t.last["sharpness"] <= t.last["two_over_step"] * (1 + 1e-3)]
    verdict = "no run lies above 2/η" if not above else f"not below 2/η: {joined([t.run.title for t in above])}"
    ends = [
        f"{t.run.title}: {number(t.last['sharpness'], 4)} = {number(t.last['sharpness'] / t.last['two_over_step'], 3)} "
        f"of 2/η and {_times(t.last['sharpness'], t.last['flattest'])} λ*"
        for t in traces
    ]
    return (
        "Theory: gradient descent cannot settle where the sharpness exceeds 2/η, and balanced starts (a ResNet from "
        f"zero is one) end at λ*. Measured: at the end of training {verdict}. " + "; ".join(ends) + ".",
    )


def order_words(families: dict[str, Sequence[Trace]]) -> tuple[str, ...]:
    """Flatness ratio and gap against the step size."""
    lines = ["Theory: a ResNet from zero ends at flatness ratio 1 + O(η²), with a balance gap of order η."]
    for label, traces in families.items():
        excess = [t.last["flatness_ratio"] - 1.0 for t in traces]
        gaps = [float(t.columns("gap")[-1].max()) for t in traces]
        at = joined([f"{number(e, 3)} at η = {t.run.step_size:g}" for e, t in zip(excess, traces, strict=True)])
        converged = all(t.status == "converged" for t in traces)
        start = f"Measured, {label} ({'all converged' if converged else 'not all converged'}): ratio − 1 is {at}"
        if at_rounding(traces):
            why = (
                "the layers stay balanced to rounding as well, as equal layers and a symmetric target make them"
                if max(gaps) < _ROUNDING
                else "although the layers are not balanced"
            )
            lines.append(f"{start}, zero to rounding; {why} (largest gap {number(max(gaps), 2)}).")
        else:
            p, q = order_in_step(traces, excess), order_in_step(traces, gaps)
            lines.append(f"{start}, which is of order {number(p, 3)} in η; the largest gap is of order {number(q, 3)}.")
    return tuple(lines)


def band_words(traces: Sequence[Trace]) -> tuple[str, ...]:
    """How many normalised partial gains lie in the band."""
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


def balance_words(traces: Sequence[Trace]) -> tuple[str, ...]:
    """Relative gaps, first and last."""
    parts = []
    for t in traces:
        gaps = t.columns("relative_gap").max(axis=1)
        parts.append(f"{t.run.title}: {number(float(gaps[0]), 3)} → {number(float(gaps[-1]), 3)}")
    return (
        "Theory: gradient flow conserves W_{j+1}ᵀW_{j+1} − W_jW_jᵀ exactly, gradient descent up to terms of order η, "
        "so what starts balanced stays nearly so and what starts unbalanced stays unbalanced. Measured (largest "
        "relative gap, first → last): " + "; ".join(parts) + ".",
    )


def residual_words(traces: Sequence[Trace]) -> tuple[str, ...]:
    """Coupling residuals at the end."""
    parts = [f"{t.run.title}: {number(float(t.columns('coupling_residual')[-1].max()), 3)}" for t in traces]
    return (
        "Theory: at a flattest minimum on whitened data the top direction passes from singular vector to singular "
        "vector and every coupling residual is 0. Measured at the end (largest over the layers): "
        + "; ".join(parts)
        + ".",
    )


def coupling_words(results: dict[str, CouplingResult]) -> tuple[str, ...]:
    """Largest overlaps against chance."""
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


def convergence_words(traces: dict[str, Trace]) -> list[str]:
    """Which runs of task one converged, and why."""
    mine = with_prefix(traces, "halves-")
    missed = [t.run.title for t in mine if t.status != "converged"]
    first = "Every run of task one converged" if not missed else f"Not converged: {joined(missed)}; the others did"
    plain_, spd = with_prefix(traces, "halves-resnet-")[0], with_prefix(traces, "halves-rotated-")[0]
    target = plain_.run.loss.minimiser()
    s = float(np.linalg.svd(target, compute_uv=False)[-1])
    lines = [first + " (excess loss at most 1e-4 of the target's variance)."]
    words = f"On rotated targets Φ* is symmetric positive definite and convergence is a theorem: {spd.status}."
    stays = plain_.last["determinant"] >= 0 and s**2 <= (plain_.run.stop_excess or 0.0)
    if np.linalg.det(target) < 0:
        words += " The targets as they come have a negative determinant, which a gradient flow from zero cannot reach"
        if plain_.status == "converged" and stays:
            words += (
                f"; the run counts as converged because the smallest singular value, {number(s, 2)}, contributes an "
                f"excess of only {number(s**2, 2)}"
            )
        words += f". Its own determinant ends at {number(plain_.last['determinant'], 2)}."
    return [*lines, words]


def loss_words(traces: Sequence[Trace]) -> tuple[str, ...]:
    """Where the loss fell."""
    parts = []
    for t in traces:
        values = t.column("loss")
        steps = len(values) - 1
        falls = int(np.sum(np.diff(values) < 0))
        how = "falling throughout" if falls == steps else f"falling in {falls} of {steps} intervals"
        parts.append(f"{t.run.title}: {number(float(values[0]), 4)} → {number(float(values[-1]), 4)}, {how}")
    return (
        "Theory: gradient descent lowers the loss steadily while the sharpness is below 2/η, and may raise it while "
        "it is above. Measured: " + "; ".join(parts) + ".",
    )


def classifier_sharpness_words(traces: Sequence[Trace]) -> tuple[str, ...]:
    """Sharpness of the classifiers against 2/η."""
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


def structure_words(traces: Sequence[Trace]) -> tuple[str, ...]:
    """How coupling, residuals and gaps of the classifiers changed."""
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


def negative_words(traces: Sequence[Trace], s: float) -> tuple[str, ...]:
    """Whether a negative determinant was reached; `s` is the target's smallest singular value."""
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
            predicted = t.status != "converged" and t.last["excess"] >= s**2 * (1 - 1e-3)
            words += (
                f"after {t.steps} steps the excess is {number(t.last['excess'], 5)} and the smallest singular value "
                f"{number(t.last['sigma_min'], 2)} ({t.status}): "
                + ("it fails, as the theory says." if predicted else "this contradicts the theory.")
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
