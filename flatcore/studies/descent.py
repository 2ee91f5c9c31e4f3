"""Full-batch gradient descent of linear chains with the library's own gradient, measured on the way.

A run is a start, a loss, a step size and the steps at which to measure. Its state (weights, step, history) is a
checkpoint, written after every measurement: a run that was stopped goes on where its last measurement was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flatcore._checks import FloatArray
from flatcore.io import natural_key
from flatcore.linear import LinearChain, QuadraticLoss, balance, coupling, flattest_sharpness, gains
from flatcore.linear.hessian import Hessian
from flatcore.linear.products import ChainProducts, NonFiniteLossError
from flatcore.spectral import eigsh
from flatcore.studies.folder import StudyFolder

Tick = Callable[[float], None]
_DIVERGED = 1e6  # times the first loss


@dataclass(frozen=True)
class Run:
    """One training run, fully described.

    `title` is for sentences, `label` for crowded pictures.
    `stop_excess`: stop once the excess loss is at most this (quadratic losses). `measure_at`: steps at which
    everything is measured; the last step always is. `tol`: of the eigenvalues.
    """

    name: str
    title: str
    label: str
    start: Callable[[], list[FloatArray]]
    loss: Any
    step_size: float
    max_steps: int
    measure_at: tuple[int, ...]
    skip: bool = False
    stop_excess: float | None = None
    tol: float = 1e-4


@dataclass
class Trace:
    """What a run left: its last weights and one row of numbers a measurement."""

    run: Run
    chain: LinearChain
    steps: int
    status: str  # converged | max_steps | diverged (not measured) | unfinished
    rows: list[dict[str, float]] = field(default_factory=list)

    def column(self, name: str) -> FloatArray:
        """One quantity over the measurements."""
        return np.array([row[name] for row in self.rows])

    def columns(self, prefix: str) -> FloatArray:
        """Quantities prefix_1, prefix_2, … as columns."""
        names = [name for name in self.rows[0] if name.startswith(f"{prefix}_") and name[len(prefix) + 1 :].isdigit()]
        return np.array([[row[name] for name in names] for row in self.rows])

    @property
    def last(self) -> dict[str, float]:
        """The last measurement."""
        return self.rows[-1]


def train(run: Run, folder: StudyFolder, tick: Tick) -> Trace:
    """Run, or finish, one gradient descent; `tick` hears the fraction of its largest number of steps done."""
    weights, trace = _restored(run, folder)
    eigenvectors: FloatArray | None = None
    while trace.status == "unfinished":
        with np.errstate(over="ignore", invalid="ignore"):  # divergence is a status
            products, trace.status = _status(run, trace)
        if trace.status != "diverged" and (trace.steps in run.measure_at or trace.status != "unfinished"):
            row, eigenvectors = measure(trace.chain, run, eigenvectors)
            trace.rows.append({"step": float(trace.steps), **row})
        if trace.steps in run.measure_at or trace.status != "unfinished":
            _save(run, folder, weights, trace)
            tick(trace.steps / max(run.max_steps, 1))
        if products is not None and trace.status == "unfinished":
            with np.errstate(over="ignore", invalid="ignore"):
                for W, slope in zip(weights, trace.chain.blocks(products.gradient()), strict=True):
                    W -= run.step_size * slope
            trace.steps += 1
            if trace.steps % 100 == 0:
                tick(trace.steps / run.max_steps)
    return trace


def _status(run: Run, trace: Trace) -> tuple[ChainProducts | None, str]:
    """Partial products of the current weights, and whether to go on with them."""
    try:
        products = ChainProducts(trace.chain, run.loss)
    except NonFiniteLossError:
        if not trace.rows:
            raise
        return None, "diverged"
    # On the input side the end-to-end matrix is whitened and the inner loss measures the same excess.
    if run.stop_excess is not None and products.loss.excess(products.end_to_end) <= run.stop_excess:
        return products, "converged"
    if trace.rows and not products.value() <= _DIVERGED * (1.0 + abs(trace.rows[0]["loss"])):
        return products, "diverged"
    return products, "max_steps" if trace.steps >= run.max_steps else "unfinished"


def _restored(run: Run, folder: StudyFolder) -> tuple[list[FloatArray], Trace]:
    saved = folder.load(run.name, ("W1", "step", "status", "history_names", "history"))
    if saved is None:
        weights = run.start()
        return weights, Trace(run, LinearChain(weights, skip=run.skip), 0, "unfinished")
    weights = [saved[name] for name in sorted(saved, key=natural_key) if name.startswith("W")]
    names = [str(name) for name in saved["history_names"]]
    rows = [dict(zip(names, (float(x) for x in row), strict=True)) for row in saved["history"]]
    trace = Trace(run, LinearChain(weights, skip=run.skip), int(saved["step"]), str(saved["status"]), rows)
    if trace.status == "unfinished":
        trace.rows.pop()  # measured again, from the same weights
    return weights, trace


def _save(run: Run, folder: StudyFolder, weights: list[FloatArray], trace: Trace) -> None:
    arrays: dict[str, Any] = {f"W{j}": W for j, W in enumerate(weights, start=1)}
    arrays["skip"] = np.array(run.skip)
    arrays["step"] = np.array(trace.steps)
    arrays["status"] = np.array(trace.status)
    arrays["history_names"] = np.array(list(trace.rows[0]))
    arrays["history"] = np.array([list(row.values()) for row in trace.rows])
    folder.save(run.name, arrays)


def measure(chain: LinearChain, run: Run, near: FloatArray | None) -> tuple[dict[str, float], FloatArray]:
    """Everything the study records of a chain; `near` are eigenvectors to start from, and the new ones come back."""
    loss = run.loss
    H = Hessian(chain, loss)
    top = eigsh(H, 1, tol=run.tol, v0=near)
    row = {
        "loss": H.value,
        "gradient_norm": float(np.linalg.norm(H.gradient())),
        "sharpness": float(top.values[0]),
        "sharpness_residual": float(top.residuals[0]),
        "certified": float(top.converged.all()),
        "two_over_step": 2.0 / run.step_size,
        **_flatness(chain, loss, H, run.tol, top.vectors),
        **_structure(chain),
    }
    return row, top.vectors


def _flatness(chain: LinearChain, loss: Any, H: Hessian, tol: float, near: FloatArray) -> dict[str, float]:
    """Flattest sharpness and the Gauss–Newton sharpness over it; NaN where the theorem says nothing."""
    if not isinstance(loss, QuadraticLoss):
        return dict.fromkeys(("excess", "flattest", "gauss_newton_sharpness", "flatness_ratio"), float("nan"))
    ggn = float(eigsh(H.gauss_newton, 1, tol=tol, v0=near).values[0])
    best = flattest_sharpness(chain, loss, at="current")
    return {
        "excess": loss.excess(chain.product().astype(np.float64)),
        "flattest": best,
        "gauss_newton_sharpness": ggn,
        "flatness_ratio": ggn / best if best > 0 else float("nan"),
    }


def _structure(chain: LinearChain) -> dict[str, float]:
    """Balance, gains and coupling as flat columns."""
    b, g, c = balance(chain), gains(chain), coupling(chain)
    lists = {
        "gap": b.gap,
        "relative_gap": b.relative_gap,
        "gain": g.gains,
        "coupling_residual": g.residuals,
        "partial_gain": g.partial,
        "overlap": c.largest,
        "overlap_chance": c.chance,
        "overlap_ratio": c.ratio,
    }
    row = {f"{name}_{j}": float(x) for name, values in lists.items() for j, x in enumerate(values, start=1)}
    phi = chain.product().astype(np.float64)
    determinant = float(np.linalg.det(phi)) if phi.shape[0] == phi.shape[1] else float("nan")
    smallest = float(np.linalg.svd(phi, compute_uv=False)[-1])
    return {"sigma": g.sigma, "sigma_min": smallest, "determinant": determinant, **row}
