"""Independent oracles: forward passes and second derivatives by torch autograd in float64, and random problems.

Nothing here uses the end-to-end matrix formulas of the library: losses are evaluated by passing samples through the
layers one after the other, and every derivative is taken by automatic differentiation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

import flatcore as fc

torch.set_num_threads(1)  # the matrices are tiny


@dataclass
class ChainCase:
    """Parameters of a chain as plain arrays."""

    weights: list[np.ndarray]
    biases: list[np.ndarray | None]
    skip: list[bool]
    seed: int = 0

    @property
    def d_in(self) -> int:
        return self.weights[0].shape[1]

    @property
    def d_out(self) -> int:
        return self.weights[-1].shape[0]

    @property
    def has_biases(self) -> bool:
        return any(b is not None for b in self.biases)

    def chain(self, dtype: Any = np.float64) -> fc.LinearChain:
        biases = [None if b is None else b.astype(dtype) for b in self.biases]
        return fc.LinearChain([W.astype(dtype) for W in self.weights], biases, self.skip)

    def theta(self) -> torch.Tensor:
        """All parameters, W_1, b_1, W_2, …"""
        parts = []
        for W, b in zip(self.weights, self.biases, strict=True):
            parts += [W.ravel()] if b is None else [W.ravel(), b]
        return torch.tensor(np.concatenate(parts))

    def forward(self, theta: torch.Tensor, X: torch.Tensor) -> torch.Tensor:
        """Outputs (n, d_out) of the rows of X."""
        first = 0
        for W, b, skip in zip(self.weights, self.biases, self.skip, strict=True):
            layer = theta[first : first + W.size].reshape(W.shape)
            first += W.size
            out = X @ layer.T
            if b is not None:
                out = out + theta[first : first + b.size]
                first += b.size
            X = out + X if skip else out
        return X

    def end_to_end(self, theta: torch.Tensor) -> torch.Tensor:
        """Φ, with the constant column last where there are biases, from what the unit inputs become."""
        zero = self.forward(theta, torch.zeros(1, self.d_in, dtype=torch.float64))
        columns = (self.forward(theta, torch.eye(self.d_in, dtype=torch.float64)) - zero).T
        return torch.cat([columns, zero.T], dim=1) if self.has_biases else columns


@dataclass
class LossCase:
    """A loss of the library, and the same as cost(outputs(theta))."""

    loss: Any
    outputs: Callable[[torch.Tensor], torch.Tensor]
    cost: Callable[[torch.Tensor], torch.Tensor]

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        return self.cost(self.outputs(theta))

    def gradient(self, theta: torch.Tensor) -> np.ndarray:
        return torch.func.grad(self.value)(theta).numpy()

    def hessian(self, theta: torch.Tensor) -> np.ndarray:
        return torch.autograd.functional.hessian(self.value, theta).numpy()

    def gauss_newton(self, theta: torch.Tensor) -> np.ndarray:
        """JᵀHJ, J the Jacobian of the outputs and H the Hessian of the cost of the outputs."""
        J = torch.autograd.functional.jacobian(lambda t: self.outputs(t).reshape(-1), theta).numpy()
        z = self.outputs(theta)
        H = torch.autograd.functional.hessian(lambda flat: self.cost(flat.reshape(z.shape)), z.reshape(-1)).numpy()
        return J.T @ H @ J


class CoupledLoss:
    """Σ cosh Φ + (ΣΦ)⁴/24: a loss the library has never heard of, whose Hessian couples all entries."""

    def value(self, Phi: np.ndarray) -> float:
        return float(np.cosh(Phi).sum() + Phi.sum() ** 4 / 24)

    def gradient(self, Phi: np.ndarray) -> np.ndarray:
        return np.sinh(Phi) + Phi.sum() ** 3 / 6

    def hessian_product(self, Phi: np.ndarray, dPhi: np.ndarray) -> np.ndarray:
        total = dPhi.sum(axis=(-2, -1), keepdims=True)
        return np.cosh(Phi).astype(dPhi.dtype) * dPhi + dPhi.dtype.type(Phi.sum() ** 2 / 2) * total


LOSS_KINDS = (
    "batchmean",
    "mean",
    "sum",
    "batches",
    "moments",
    "labels-mean",
    "labels-sum",
    "probabilities",
    "masked",
    "coupled",
)


def squared_error(prediction: torch.Tensor, target: torch.Tensor, reduction: str) -> torch.Tensor:
    if reduction == "batchmean":
        return ((prediction - target) ** 2).sum() / len(target)
    return torch.nn.functional.mse_loss(prediction, target, reduction=reduction)


def random_data(case: ChainCase, n: int, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs (n, d_in) of at most this rank, and targets (n, d_out)."""
    rng = np.random.default_rng(case.seed + 1)
    X = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, case.d_in))
    return X, rng.standard_normal((n, case.d_out))


def make_loss(kind: str, case: ChainCase, n: int = 7, rank: int = 9) -> LossCase:
    """A loss of this kind for the chain; n samples of at most this rank."""
    X, Y = random_data(case, n, rank)
    rng = np.random.default_rng(case.seed + 2)
    x, y = torch.tensor(X), torch.tensor(Y)

    def outputs(theta: torch.Tensor) -> torch.Tensor:
        return case.forward(theta, x)

    if kind in ("batchmean", "mean", "sum"):
        return LossCase(fc.QuadraticLoss(X, Y, kind), outputs, lambda z: squared_error(z, y, kind))
    if kind == "batches":
        cuts = [0, *np.sort(rng.integers(1, n, 2)), n] if n > 1 else [0, n]
        pieces = ((X[a:b], Y[a:b]) for a, b in itertools.pairwise(cuts) if b > a)
        return LossCase(fc.QuadraticLoss.from_batches(pieces, "mean"), outputs, lambda z: squared_error(z, y, "mean"))
    if kind == "moments":
        means = {"mean_x": X.mean(0), "mean_y": Y.mean(0)} if case.has_biases else {}
        loss = fc.QuadraticLoss.from_moments(X.T @ X / n, Y.T @ X / n, (Y**2).sum() / n, n=n, reduction="sum", **means)
        return LossCase(loss, outputs, lambda z: squared_error(z, y, "sum"))
    if kind.startswith("labels"):
        labels, reduction = rng.integers(0, case.d_out, n), kind.partition("-")[2]
        target = torch.tensor(labels)
        return LossCase(
            fc.CrossEntropyLoss(X, labels, reduction),
            outputs,
            lambda z: torch.nn.functional.cross_entropy(z, target, reduction=reduction),
        )
    if kind == "probabilities":
        P = rng.dirichlet(np.ones(case.d_out), n)
        soft = torch.tensor(P)
        return LossCase(fc.CrossEntropyLoss(X, P), outputs, lambda z: torch.nn.functional.cross_entropy(z, soft))
    shape = (case.d_out, case.d_in + case.has_biases)
    if kind == "masked":
        target, mask = rng.standard_normal(shape), rng.random(shape) < 0.5
        mask.flat[0] = True
        t, m = torch.tensor(target), torch.tensor(mask)
        return LossCase(
            fc.MaskedQuadraticLoss(np.where(mask, target, np.nan), mask),
            case.end_to_end,
            lambda Phi: ((Phi - t)[m] ** 2).sum(),
        )
    assert kind == "coupled"
    return LossCase(CoupledLoss(), case.end_to_end, lambda Phi: torch.cosh(Phi).sum() + Phi.sum() ** 4 / 24)


def make_case(
    dims: list[int] | tuple[int, ...],
    seed: int = 0,
    biases: list[bool] | bool = False,
    skip: list[bool] | bool = False,
    zero: tuple[int, ...] = (),
) -> ChainCase:
    """A random chain of these widths; layers in `zero` vanish, skip links only where the layer is square."""
    rng = np.random.default_rng(seed)
    depth = len(dims) - 1
    has_bias = [biases] * depth if isinstance(biases, bool) else biases
    wants_skip = [skip] * depth if isinstance(skip, bool) else skip
    weights = [rng.standard_normal((b, a)) / np.sqrt(a) for a, b in itertools.pairwise(dims)]
    vectors = [rng.standard_normal(b) if on else None for b, on in zip(dims[1:], has_bias, strict=True)]
    for j in zero:
        weights[j][:] = 0.0
    links = [bool(on) and a == b for on, a, b in zip(wants_skip, dims[:-1], dims[1:], strict=True)]
    return ChainCase(weights, vectors, links, seed)


@st.composite
def cases(draw: Any, max_width: int = 4) -> ChainCase:
    """Chains of depth 1 to 5: any widths from 1, biases and skip links on any layers, sometimes a zero layer."""
    depth = draw(st.integers(1, 5))
    square = draw(st.booleans())  # skip links need square layers, which free widths seldom give
    widths = st.integers(1, max_width)
    dims = [draw(widths)] * (depth + 1) if square else [draw(widths) for _ in range(depth + 1)]
    flags = st.lists(st.booleans(), min_size=depth, max_size=depth)
    biases = draw(flags) if draw(st.booleans()) else False
    zero = (draw(st.integers(0, depth - 1)),) if draw(st.integers(0, 4)) == 0 else ()
    return make_case(dims, draw(st.integers(0, 10_000)), biases, draw(flags), zero)


def relative_error(got: Any, want: Any, scale: float | None = None) -> float:
    """Largest difference over the largest entry of `want` (or over `scale`)."""
    size = float(np.abs(want).max()) if scale is None else scale
    difference = float(np.abs(np.asarray(got) - np.asarray(want)).max())
    return difference if size == 0.0 else difference / size


def random_orthogonal(n: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def with_spectrum(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """A dense symmetric matrix with these eigenvalues."""
    Q = random_orthogonal(len(values), seed)
    A = (Q * values) @ Q.T
    return (A + A.T) / 2
