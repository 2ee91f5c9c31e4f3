"""Full-batch gradient descent of networks, measured on the way.

    θ ← θ − η ∇L(θ),   L(θ) = (1/n) Σ ‖f_θ(x_i) − y_i‖²

in float32. A run's state (weights, step, history, the eigenvector that the next eigenvalue starts from) is a
checkpoint, written after every measurement: a run that was stopped goes on where its last measurement was, to the same
bits, and measures nothing twice.

Sharpness is λ_max(∇²L), certified by true residuals. The path of an input x: the layers' Jacobians J_1, …, J_M at x,
the top right singular vector z_0 of J = J_M⋯J_1, gains g_j = ‖J_j z_{j−1}‖ with z_j = J_j z_{j−1}/g_j, and coupling
residuals ‖J_jᵀz_j − g_j z_{j−1}‖/g_j, zero where the path goes from singular vector to singular vector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flatcore._checks import FloatArray
from flatcore._threads import limit_threads
from flatcore.spectral import eigsh
from flatcore.studies.folder import StudyFolder

Tick = Callable[[float], None]
_DIVERGED = 1e3  # times the first loss
_STATE = ("step", "status", "history_names", "history", "structure_names", "structure", "eigenvector")
_TICKS = 20  # steps between two


@dataclass(frozen=True)
class Digits:
    """Images as rows of pixels, one-hot targets and labels."""

    inputs: FloatArray
    targets: FloatArray
    labels: FloatArray
    test_inputs: FloatArray
    test_labels: FloatArray

    def tensors(self) -> tuple[Any, Any, Any]:
        """Inputs, targets and test inputs in float32."""
        import torch

        return tuple(torch.from_numpy(a.astype(np.float32)) for a in (self.inputs, self.targets, self.test_inputs))  # type: ignore[return-value]


@dataclass(frozen=True)
class Run:
    """One training run, fully described.

    `measure_at`: steps at which everything is measured; the last step always is. `paths`: test images whose Jacobian
    paths are followed. `tol`: of the sharpness.
    """

    name: str
    title: str
    architecture: str
    seed: int
    build: Callable[[], Any]
    step_size: float
    max_steps: int
    measure_at: tuple[int, ...]
    paths: int
    tol: float


@dataclass
class Trace:
    """What a run left: a row of numbers a measurement, and the layers' structure, first and last."""

    run: Run
    steps: int = 0
    status: str = "unfinished"  # finished | diverged (not measured) | unfinished
    rows: list[dict[str, float]] = field(default_factory=list)
    structure: list[dict[str, float]] = field(default_factory=list)

    def column(self, name: str) -> FloatArray:
        """One quantity over the measurements."""
        return np.array([row[name] for row in self.rows])

    @property
    def last(self) -> dict[str, float]:
        """The last measurement."""
        return self.rows[-1]


@dataclass
class _State:
    """A run under way: the network, what it left so far, and an eigenvector (P,) to start from."""

    network: Any
    trace: Trace
    near: FloatArray | None = None
    loss: float = float("nan")  # of the step before
    rises: int = 0  # steps since the last measurement that raised the loss


def squared_error(outputs: Any, targets: Any) -> Any:
    """(1/n) Σ ‖f(x_i) − y_i‖²."""
    return ((outputs - targets) ** 2).sum(dim=1).mean()


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread in torch and elsewhere: the networks are small, and all machines sum in the same order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with limit_threads(1):
            yield
    finally:
        torch.set_num_threads(before)


def train(run: Run, data: Digits, folder: StudyFolder, tick: Tick) -> Trace:
    """Run, or finish, one gradient descent; `tick` hears the fraction of its steps done."""
    with one_thread():
        return _train(run, data, folder, tick)


def _train(run: Run, data: Digits, folder: StudyFolder, tick: Tick) -> Trace:
    import torch

    state = _restored(run, folder)
    trace = state.trace
    if trace.status != "unfinished":
        return trace
    inputs, targets, _ = tensors = data.tensors()
    parameters = list(state.network.parameters())
    while trace.status == "unfinished":
        loss = squared_error(state.network(inputs), targets)
        _observe(state, loss.item())
        _record(state, data, tensors, folder, tick)
        if trace.status == "unfinished":
            slopes = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                for p, slope in zip(parameters, slopes, strict=True):
                    p.sub_(slope, alpha=run.step_size)
            trace.steps += 1
            if trace.steps % _TICKS == 0:
                tick(trace.steps / run.max_steps)
    return trace


def _observe(state: _State, loss: float) -> None:
    """Take note of this step's loss, and say whether to go on."""
    trace = state.trace
    state.rises += loss > state.loss
    state.loss = loss
    if trace.rows and not loss <= _DIVERGED * (1.0 + trace.rows[0]["loss"]):
        trace.status = "diverged"
    elif trace.steps >= trace.run.max_steps:
        trace.status = "finished"


def _record(state: _State, data: Digits, tensors: tuple[Any, Any, Any], folder: StudyFolder, tick: Tick) -> None:
    """Measure where it is time to, and write the checkpoint."""
    trace = state.trace
    due = trace.steps in trace.run.measure_at or trace.status != "unfinished"
    if not due or (trace.rows and trace.last["step"] == trace.steps and trace.status == "unfinished"):
        return
    if trace.status != "diverged":
        row, state.near = measure(state.network, trace.run, data, tensors, state.near)
        rises, state.rises = float(state.rises), 0
        trace.rows.append({"step": float(trace.steps), "loss": state.loss, "rises": rises, **row})
        if trace.steps == 0 or trace.status == "finished":
            trace.structure.append(structure(state.network, tensors[2][: trace.run.paths]))
    _save(state, folder)
    tick(trace.steps / trace.run.max_steps)


# -- measurements ----------------------------------------------------------------------------------------------------


def measure(
    network: Any, run: Run, data: Digits, tensors: tuple[Any, Any, Any], near: FloatArray | None
) -> tuple[dict[str, float], FloatArray]:
    """Sharpness and accuracies; `near` is an eigenvector to start from, and the new one comes back."""
    from flatcore.torch import Hessian

    inputs, targets, test_inputs = tensors
    H = Hessian(network, squared_error, (inputs, targets), group=False)
    top = eigsh(H, 1, tol=run.tol, v0=near)
    row = {
        "gradient_norm": float(H.gradient().norm()),
        "sharpness": float(top.values[0]),
        "sharpness_residual": float(top.residuals[0]),
        "certified": float(top.converged.all()),
        "products": float(top.products),
        "two_over_step": 2.0 / run.step_size,
        "train_accuracy": _accuracy(network, inputs, data.labels),
        "test_accuracy": _accuracy(network, test_inputs, data.test_labels),
    }
    return row, top.vectors[:, 0]


def _accuracy(network: Any, inputs: Any, labels: FloatArray) -> float:
    import torch

    with torch.no_grad():
        return float(np.mean(network(inputs).argmax(dim=1).numpy() == labels))


def structure(network: Any, inputs: Any) -> dict[str, float]:
    """Means over the inputs' Jacobian paths, and coupling of consecutive layers, as flat columns.

    `gain_j`: geometric mean of g_j/σ^{1/M}; `residual_j`: mean coupling residual; `imbalance`: mean over inputs of the
    standard deviation of log g_j over the layers, 0 where all gains are equal. Inputs whose Jacobian is zero have no
    path and are left out; `paths` says how many are in.
    """
    from flatcore.torch import jacobian_path

    path = jacobian_path(network, inputs)
    there = np.isfinite(path.gains).all(axis=1)
    undefined = np.full(path.gains.shape[1], np.nan)
    logs = np.log(path.gains[there] / path.reference[there, None])
    gains = np.exp(logs.mean(axis=0)) if there.any() else undefined
    residuals = path.coupling_residuals[there].mean(axis=0) if there.any() else undefined
    return {
        "paths": float(there.sum()),
        "paths_certified": float(path.converged.all(axis=1).sum()),
        "sigma": float(path.sigma[there, 0].mean()) if there.any() else float("nan"),
        "imbalance": float(logs.std(axis=1).mean()) if there.any() else float("nan"),
        **{f"gain_{j}": float(g) for j, g in enumerate(gains, start=1)},
        **{f"residual_{j}": float(r) for j, r in enumerate(residuals, start=1)},
        **_coupling(network),
    }


def _coupling(network: Any) -> dict[str, float]:
    """Largest overlaps of consecutive layers, their chance levels and ratios; NaN where a layer is zero."""
    from flatcore.torch import analyze

    zero = {name.removesuffix(".weight") for name, p in network.named_parameters() if not p.any()}
    found: dict[str, float] = {}
    for j, pair in enumerate(analyze(network).pairs, start=1):
        defined = 1.0 if not {pair.lower, pair.upper} & zero else float("nan")
        found[f"overlap_{j}"] = defined * float(pair.largest)
        found[f"overlap_chance_{j}"] = float(pair.chance)
        found[f"overlap_chance_95_{j}"] = float(pair.chance_95)
        found[f"overlap_ratio_{j}"] = defined * float(pair.ratio)
    return found


def pair_names(network: Any) -> list[str]:
    """The pairs of consecutive layers whose coupling is measured, by name."""
    from flatcore.torch import analyze

    return [f"{pair.lower} → {pair.upper}" for pair in analyze(network).pairs]


# -- checkpoints -----------------------------------------------------------------------------------------------------


def _restored(run: Run, folder: StudyFolder) -> _State:
    import torch

    network = run.build()
    own = dict(network.named_parameters())
    saved = folder.load(run.name, (*own, *_STATE))
    if saved is None:
        return _State(network, Trace(run))
    with torch.no_grad():
        for name, p in own.items():
            p.copy_(torch.from_numpy(saved[name]))
    rows, structure = _table(saved, "history"), _table(saved, "structure")
    trace = Trace(run, int(saved["step"]), str(saved["status"]), rows, structure)
    return _State(network, trace, saved["eigenvector"])


def _table(saved: dict[str, FloatArray], name: str) -> list[dict[str, float]]:
    names = [str(column) for column in saved[f"{name}_names"]]
    return [dict(zip(names, (float(x) for x in row), strict=True)) for row in saved[name]]


def _save(state: _State, folder: StudyFolder) -> None:
    trace = state.trace
    arrays: dict[str, Any] = {name: p.detach().numpy() for name, p in state.network.named_parameters()}
    arrays |= {"step": np.array(trace.steps), "status": np.array(trace.status), "eigenvector": state.near}
    for name, rows in (("history", trace.rows), ("structure", trace.structure)):
        arrays[f"{name}_names"] = np.array(list(rows[0]))
        arrays[name] = np.array([list(row.values()) for row in rows])
    folder.save(trace.run.name, arrays)
