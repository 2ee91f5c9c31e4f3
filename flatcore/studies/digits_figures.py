"""The pictures of the study ``digits``, drawn from traces; what is said under them is in ``digits_report.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flatcore.report.analysis import heat_map
from flatcore.report.figures import COLOURS, figure, panel_grid, svg_text
from flatcore.results import CouplingResult
from flatcore.studies.descent import Trace

_GUIDE = {"color": "#1d2733", "ls": "--", "lw": 1.0}


def _steps(trace: Trace) -> Any:
    return trace.column("step") + 1.0  # so that the start is on a logarithmic axis


def sharpness(traces: Sequence[Trace], name: str = "sharpness") -> str:
    """Sharpness over training, the 2/η line and λ*, a panel a run."""
    with panel_grid(name, len(traces), 3, (3.3, 2.6)) as (canvas, axes):
        for ax, trace in zip(axes.ravel(), traces, strict=False):
            ax.plot(_steps(trace), trace.column("sharpness"), "o-", ms=2.5, label="sharpness")
            ax.axhline(trace.last["two_over_step"], label="2/η", **_GUIDE)
            if np.isfinite(trace.column("flattest")).any():
                ax.plot(_steps(trace), trace.column("flattest"), color=COLOURS[2], label="flattest possible λ*")
            ax.set(xscale="log", yscale="log", title=trace.run.label, xlabel="step + 1")
        axes[0, 0].legend()
        return svg_text(canvas)


def flatness_orders(families: dict[str, Sequence[Trace]]) -> str:
    """Flatness ratio − 1 and largest balance gap at the end against the step size."""
    with figure("orders", 1, 2, (8.5, 3.2)) as (canvas, axes):
        if not families:
            axes[0, 0].text(0.5, 0.5, "every run is flat to rounding", ha="center", transform=axes[0, 0].transAxes)
            return svg_text(canvas)
        for label, traces in families.items():
            etas = [t.run.step_size for t in traces]
            excess = [t.last["flatness_ratio"] - 1.0 for t in traces]
            gaps = [float(t.columns("gap")[-1].max()) for t in traces]
            axes[0, 0].plot(etas, excess, "o-", label=label)
            axes[0, 1].plot(etas, gaps, "o-", label=label)
        span = np.array([t.run.step_size for t in next(iter(families.values()))])
        for ax, order, title in zip(axes[0], (2, 1), ("flatness ratio − 1", "largest balance gap"), strict=True):
            top = ax.get_lines()[0].get_ydata()[-1]
            ax.plot(span, top * (span / span[-1]) ** order, label=f"slope {order}", **_GUIDE)
            ax.set(xscale="log", yscale="log", xlabel="step size η", title=title)
            ax.set_xticks(span, [f"{eta:g}" for eta in span])
            ax.minorticks_off()
            ax.legend()
        return svg_text(canvas)


def partial_gains(traces: Sequence[Trace], name: str = "partial_gains") -> str:
    """Normalised partial gains over training inside the band, a panel a run."""
    with figure(name, 1, len(traces), (2.9 * len(traces), 2.8), sharey=True) as (canvas, axes):
        for ax, trace in zip(axes[0], traces, strict=True):
            values = trace.columns("partial_gain")
            depth = values.shape[1] + 1
            ax.axhspan(1.0, np.sqrt(depth - 1), color="#dfe9f5", label="band")
            for j in range(depth - 1):
                ax.plot(_steps(trace), values[:, j], label=f"layers 1–{j + 1}" if j else "layer 1")
            ax.set(xscale="log", yscale="log", title=trace.run.label, xlabel="step + 1")
        axes[0, 0].legend()
        return svg_text(canvas)


def over_training(traces: Sequence[Trace], prefix: str, label: str, name: str, floor: float = 1e-16) -> str:
    """The largest of several columns over training, a curve a run."""
    with figure(name, 1, 1, (7.5, 3.4)) as (canvas, axes):
        ax = axes[0, 0]
        for trace in traces:
            ax.plot(
                _steps(trace),
                np.maximum(trace.columns(prefix).max(axis=1), floor),
                "o-",
                ms=2.5,
                label=trace.run.label,
            )
        ax.set(xscale="log", yscale="log", xlabel="step + 1", ylabel=label)
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return svg_text(canvas)


def heat_maps(results: dict[str, CouplingResult], name: str) -> str:
    """Coupling of consecutive layers, a row a chain."""
    pairs = len(next(iter(results.values())).overlaps)
    with figure(name, len(results), pairs, (2.6 * pairs + 0.4, 2.7 * len(results))) as (canvas, axes):
        for row, (label, result) in zip(axes, results.items(), strict=True):
            for j, (ax, overlap) in enumerate(zip(row, result.overlaps, strict=True)):
                heat_map(ax, overlap, f"{label}: {j + 1}, {j + 2}")
        return svg_text(canvas)


def losses(traces: Sequence[Trace]) -> str:
    """Loss over training of both classifiers."""
    with figure("classifier_loss", 1, len(traces), (4.2 * len(traces), 2.6)) as (canvas, axes):
        for ax, trace in zip(axes[0], traces, strict=True):
            ax.plot(_steps(trace), trace.column("loss"), "o-", ms=2.5)
            ax.set(xscale="log", yscale="log", title=trace.run.label, xlabel="step + 1", ylabel="loss")
        return svg_text(canvas)


def structure(traces: Sequence[Trace]) -> str:
    """Coupling residuals, overlaps over chance and balance gap of both classifiers over training."""
    panels = (
        ("coupling_residual", "coupling residual", "layer {}"),
        ("overlap_ratio", "largest overlap / chance", "layers {}, {}"),
        ("relative_gap", "relative balance gap", "layers {}, {}"),
    )
    with figure("structure", len(traces), 3, (10.0, 2.7 * len(traces))) as (canvas, axes):
        for row, trace in zip(axes, traces, strict=True):
            for ax, (prefix, title, label) in zip(row, panels, strict=True):
                values = trace.columns(prefix)
                for j in range(values.shape[1]):
                    ax.plot(_steps(trace), values[:, j], label=label.format(j + 1, j + 2))
                ax.set(xscale="log", title=title, xlabel="step + 1")
                ax.legend()
            row[1].axhline(1.0, **_GUIDE)
            row[0].set_ylabel(trace.run.label, fontsize=8)
        return svg_text(canvas)


def negative(traces: Sequence[Trace], infimum: float) -> str:
    """Excess loss and smallest singular value against training time η·step."""
    with figure("negative", 1, 2, (9.0, 3.2)) as (canvas, axes):
        left, right = axes[0]
        for trace in traces:
            time = trace.run.step_size * _steps(trace)
            left.plot(
                time, np.maximum(trace.column("excess"), 1e-16), "o-", ms=2.5, label=f"η = {trace.run.step_size:g}"
            )
            right.plot(time, trace.column("sigma_min"), "o-", ms=2.5, label=trace.run.label)
        left.axhline(infimum, label="infimum over det ≥ 0", **_GUIDE)
        left.set(xscale="log", yscale="log", xlabel="training time η·step", title="excess loss")
        right.set(xscale="log", yscale="log", xlabel="training time η·step", title="smallest singular value of Φ")
        left.legend()
        return svg_text(canvas)
