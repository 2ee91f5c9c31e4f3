"""States of belief propagation on a committee, on edges and in its AMP form, that solvers and entropies share.

A binary state is swept with a field f (K, n) on the weights: b = S + f, and S (K, n), the sums of what the patterns
say, is renewed. A Gaussian one holds H, G with P(patterns | w_k) ∝ exp(H·w − G w²/2) and is swept with means and
variances.
The kernels are src/cpp/core/wfm/edge_bp.hpp and amp.hpp.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore import _core
from flatcore._checks import check_choice
from flatcore._memory import check_memory
from flatcore.wfm.models import Committee
from flatcore.wfm.patterns import Patterns

Array = NDArray[Any]
MOST_EDGES = 4_000_000  # messages up to which "auto" keeps all of them
_START = 0.01  # size of the first messages


def task_of(model: Committee, patterns: Patterns) -> _core.WfmTask:
    """What the kernels are told: the patterns, what multiplies them, what the output must be."""
    if model.activation == "majority":
        check_memory("the majority's laws", _core.max_threads() * 136 * (model.n_hidden + 1) ** 2)
    ones = np.ones(len(patterns), dtype=np.int8)
    keeps_label = model.activation == "parity" and model.n_hidden % 2 == 0
    sign, target = (ones, patterns.labels) if keeps_label else (patterns.labels, ones)
    parity = model.activation == "parity"
    return _core.WfmTask(patterns.words, len(patterns), model.fan_in, sign, target, parity, model.n_hidden)


def form_of(form: str, model: Committee, patterns: Patterns) -> str:
    """``"edge"`` or ``"amp"``: where it is left open, by the number of messages."""
    if check_choice("form", form, ("auto", "edge", "amp")) != "auto":
        return form
    return "edge" if len(patterns) * model.num_weights <= MOST_EDGES else "amp"


class BinaryEdges:
    """All messages a (P, K, n), in rows padded for the kernel."""

    def __init__(
        self, model: Committee, patterns: Patterns, rng: np.random.Generator, damping: float, copies: int = 1
    ) -> None:
        self.task, self.damping = task_of(model, patterns), damping
        self.shape = (len(patterns), *model.shape)
        messages = _empty_messages(self.shape, copies)
        for row in messages:  # a pattern at a time, so that nothing as large is made beside them
            row[:, : model.fan_in] = rng.uniform(-_START, _START, model.shape)
        self.messages = messages
        self.sums: Array = np.ascontiguousarray(messages.sum(axis=0)[:, : model.fan_in])
        self.change = np.inf

    def sweep(self, field: Array) -> None:
        """One sweep with b = S + f."""
        self.sums, self.change = _core.wfm_edge_sweep(self.task, self.messages, self.sums + field, self.damping)

    def arrays(self) -> dict[str, Any]:
        """Copies of the state."""
        return {"messages": self.messages.copy(), "sums": self.sums.copy(), "change": np.array(self.change)}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Go on from what `arrays` returned, in its memory."""
        self.messages, self.sums = arrays["messages"], arrays["sums"]
        self.change = float(arrays["change"])


class BinaryAmp:
    """One number for each pattern and unit, g (P, K), in place of their messages to single weights."""

    def __init__(
        self, model: Committee, patterns: Patterns, rng: np.random.Generator, damping: float, dtype: Any = np.float64
    ) -> None:
        self.task, self.damping, self.dtype = task_of(model, patterns), damping, np.dtype(dtype)
        _check_amp_memory(model, patterns, self.dtype)
        start = _START * np.sqrt(len(patterns))
        self.sums: Array = rng.uniform(-start, start, model.shape).astype(self.dtype)
        self.outputs: Array = np.zeros((len(patterns), model.n_hidden), dtype=self.dtype)
        self.change, self.log_partition = np.inf, 0.0
        self.variances = self.squares = np.zeros(model.n_hidden)

    def sweep(self, field: Array) -> None:
        """One sweep with m = tanh(S + f)."""
        field = np.ascontiguousarray(field, dtype=self.dtype)
        self.variances, self.squares, self.log_partition, self.change = _core.wfm_binary_amp_sweep(
            self.task, field, self.outputs, self.damping, self.sums
        )

    def arrays(self) -> dict[str, Any]:
        """Copies of the state."""
        return {"outputs": self.outputs.copy(), "sums": self.sums.copy(), "change": np.array(self.change)}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Go on from what `arrays` returned."""
        self.outputs, self.sums = arrays["outputs"].copy(), arrays["sums"].copy()
        self.change = float(arrays["change"])


class GaussianEdges:
    """Messages g (P, K, n) and Γ (P, K) to continuous weights."""

    def __init__(self, model: Committee, patterns: Patterns, copies: int = 1) -> None:
        self.task, self.shape = task_of(model, patterns), (len(patterns), *model.shape)
        self.messages = _empty_messages(self.shape, copies)
        self.gamma: Array = np.zeros((len(patterns), model.n_hidden))
        self.fields: Array = np.zeros(model.shape)  # H
        self.precisions: Array = np.zeros(model.n_hidden)  # G
        self.change = np.inf

    def sweep(self, means: Array, variances: Array, damping: float) -> None:
        """H and G given means (K, n) and variances (K) of the weights."""
        self.fields, precisions, self.change = _core.wfm_gaussian_sweep(
            self.task, self.messages, self.gamma, means, variances, damping
        )
        self.precisions = np.maximum(precisions, 0.0)

    def arrays(self) -> dict[str, Any]:
        """Copies of the state."""
        return {"messages": self.messages.copy(), "gamma": self.gamma.copy(), "change": np.array(self.change)}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Go on from what `arrays` returned, in its memory."""
        self.messages, self.gamma = arrays["messages"], arrays["gamma"]
        self.change = float(arrays["change"])


class GaussianAmp:
    """The same from outputs g (P, K) alone."""

    def __init__(self, model: Committee, patterns: Patterns, dtype: Any = np.float64) -> None:
        self.task, self.dtype = task_of(model, patterns), np.dtype(dtype)
        _check_amp_memory(model, patterns, self.dtype)
        self.scale = 1.0 / np.sqrt(model.fan_in)
        self.outputs: Array = np.zeros((len(patterns), model.n_hidden), dtype=self.dtype)
        self.gamma: Array = np.zeros(model.n_hidden)  # Σ_μ Γ
        self.fields: Array = np.zeros(model.shape)
        self.precisions: Array = np.zeros(model.n_hidden)
        self.change, self.log_partition = np.inf, 0.0
        self.squares: Array = np.zeros(model.n_hidden)

    def sweep(self, means: Array, variances: Array, damping: float) -> None:
        """H and G given means (K, n) and variances (K) of the weights."""
        means = np.ascontiguousarray(means, dtype=self.dtype)
        self.fields, self.squares, self.log_partition, self.change = _core.wfm_gaussian_amp_sweep(
            self.task, self.scale, means, variances, self.outputs, self.gamma, damping
        )
        self.precisions = np.maximum(self.scale**2 * self.gamma, 0.0)

    def arrays(self) -> dict[str, Any]:
        """Copies of the state."""
        return {"outputs": self.outputs.copy(), "gamma": self.gamma.copy(), "change": np.array(self.change)}

    def restore(self, arrays: dict[str, Any]) -> None:
        """Go on from what `arrays` returned."""
        self.outputs, self.gamma = arrays["outputs"].copy(), arrays["gamma"].copy()
        self.change = float(arrays["change"])


def _empty_messages(shape: tuple[int, int, int], copies: int) -> Array:
    """Zeros, where there is room for them and the copies that checkpoints take."""
    padded = (*shape[:2], _core.wfm_padded_inputs(shape[2]))
    check_memory("the messages of all edges (form='amp' needs far less)", 8 * copies * math.prod(padded))
    return np.zeros(padded)


def _check_amp_memory(model: Committee, patterns: Patterns, dtype: np.dtype[Any]) -> None:
    outputs, weights = len(patterns) * model.n_hidden, model.num_weights
    check_memory("message passing", (7 * outputs + 14 * weights) * dtype.itemsize)
