"""Estimates from random vectors, with their error bars."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from flatcore._checks import check_count, chunks
from flatcore.results.frame import Rows
from flatcore.results.record import Array, Record, number, numbers, read_only

_POINTS = 2048  # of a density, evaluated together


def _with_error(value: float, stderr: float) -> str:
    return f"{number(value, 8)} ± {number(stderr, 2)}"


@dataclass(frozen=True, repr=False)
class TraceEstimate(Record):
    """A trace and its standard error; ``value, stderr = estimate`` unpacks.

    ``status``: exact (one product for every row; ``stderr`` is 0), estimated (all products spent), converged (``rtol``
    reached), max_products (``rtol`` not reached), precision_limited or stopped. ``samples`` is the number of random
    test vectors, 0 where the trace is exact.
    """

    value: float
    stderr: float
    status: str
    message: str
    products: int
    samples: int
    seed: int

    def __iter__(self) -> Iterator[float]:
        return iter((self.value, self.stderr))

    def __float__(self) -> float:
        return self.value

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "trace", _with_error(self.value, self.stderr)
        yield "status", f"{self.status}: {self.message}"
        yield "products", f"{self.products}, {self.samples} test vectors"

    def __repr__(self) -> str:
        return f"TraceEstimate({_with_error(self.value, self.stderr)}, status={self.status!r})"


@dataclass(frozen=True, repr=False)
class DiagonalEstimate(Record):
    """A diagonal (N,) and the standard error of each entry (N,); ``values, stderr = estimate`` unpacks.

    The statuses are those of :class:`TraceEstimate`, with norms in place of the value.
    """

    _ROWS = (Rows("entries", "entry", 0, ("values", "stderr")),)

    values: Array
    stderr: Array
    status: str
    message: str
    products: int
    samples: int
    seed: int

    def __iter__(self) -> Iterator[Array]:
        return iter((self.values, self.stderr))

    def _lines(self) -> Iterator[tuple[str, str]]:
        yield "values", numbers(self.values)
        yield "standard errors", numbers(self.stderr, 2)
        yield "status", f"{self.status}: {self.message}"
        yield "products", f"{self.products}, {self.samples} test vectors"

    def __repr__(self) -> str:
        return f"DiagonalEstimate({len(self.values)} values, status={self.status!r}, products={self.products})"


@dataclass(frozen=True, repr=False)
class SpectralDensity(Record):
    """The density of N eigenvalues, broadened, with standard errors over probes.

    ``density`` (n,) on ``grid`` (n,) integrates to 1; times ``size`` = N it counts eigenvalues. It is the sum over the
    quadrature of normal densities of standard deviation ``broadening``. ``nodes``, ``weights``, ``residuals`` are
    (probes, steps): each probe's weights sum to 1, and an eigenvalue lies within its residual of each node. ``zeros``
    of the N eigenvalues are known to be 0 and not in the quadrature.
    ``status``: exact (the nodes are all eigenvalues, errors are 0), estimated or stopped.
    """

    _ROWS = (
        Rows("grid", "point", 0, ("grid", "density", "stderr")),
        Rows("probes", "probe", 0, ("nodes", "weights", "residuals")),
    )

    grid: Array
    density: Array
    stderr: Array
    broadening: float
    nodes: Array
    weights: Array
    residuals: Array
    size: int
    zeros: int
    status: str
    message: str
    products: int
    seed: int

    @classmethod
    def on_a_grid(cls, nodes: Array, weights: Array, residuals: Array, broadening: float, **rest: Any) -> Self:
        """The record on a grid that reaches 6 broadenings beyond the nodes, 8 points or more to a broadening."""
        least, most = float(nodes.min()), float(nodes.max())
        if rest["zeros"]:
            least, most = min(least, 0.0), max(most, 0.0)
        low, high = least - 6.0 * broadening, most + 6.0 * broadening
        grid = np.linspace(low, high, max(513, 1 + 8 * int(np.ceil((high - low) / broadening))))
        bare = cls(grid, grid, grid, broadening, nodes, weights, residuals, **rest)
        density, stderr = bare.at(grid)
        return dataclasses.replace(bare, grid=read_only(grid), density=read_only(density), stderr=read_only(stderr))

    def at(self, x: Any, broadening: float | None = None) -> tuple[Array, Array]:
        """Density and standard error at the points `x`, with another broadening if wanted."""
        width = self.broadening if broadening is None else float(broadening)
        if not 0.0 < width < np.inf:
            raise ValueError(f"broadening is {broadening!r}; expected a positive number, or None")
        points = np.asarray(x, dtype=float)
        flat = points.ravel()
        out = np.empty((2, flat.size))
        for part in chunks(flat.size, _POINTS):
            z = (flat[part] - self.nodes[..., None]) / width
            values, errors = self._mean(np.exp(-0.5 * z * z), np.exp(-0.5 * np.square(flat[part] / width)))
            out[:, part] = values, errors
        peak = 1.0 / (width * np.sqrt(2.0 * np.pi))
        return peak * out[0].reshape(points.shape), peak * out[1].reshape(points.shape)

    def expectation(self, f: Callable[[Array], Any]) -> tuple[float, float]:
        """The mean of f over the eigenvalues, tr f(A)/N, and its standard error; f takes an array of eigenvalues."""
        at_nodes = np.broadcast_to(np.asarray(f(self.nodes), dtype=float), self.nodes.shape)
        at_zero = np.ravel(f(np.zeros((1, 1)))) if self.zeros else np.zeros(1)
        value, error = self._mean(at_nodes[..., None], at_zero)
        return float(value[0]), float(error[0])

    def _mean(self, at_nodes: Array, at_zero: Array) -> tuple[Array, Array]:
        """Means over the eigenvalues, and their errors, of functions (probes, steps, functions) and (functions,).

        The errors are the standard errors over probes, and no less than what the variance of a random unit vector in
        dimension n says, 2/(n + 2) times that of f over the eigenvalues; the least and the greatest node count there
        as one eigenvalue at least, so that an outlier which all probes happened to miss is not forgotten.
        """
        probes, n = len(self.nodes), self.size - self.zeros
        weights = self.weights[..., None]
        each = np.sum(weights * at_nodes, axis=1)
        mean, error = each.mean(axis=0), np.zeros(each.shape[1])
        if probes > 1:
            squares = np.square(at_nodes - mean)
            ends = [squares.reshape(-1, squares.shape[-1])[k] for k in (self.nodes.argmin(), self.nodes.argmax())]
            spread = np.maximum(np.sum(weights * squares, axis=1).mean(axis=0), (ends[0] + ends[1]) / n)
            expected = np.sqrt(2.0 * spread / ((n + 2) * probes))
            error = np.maximum(each.std(axis=0, ddof=1) / np.sqrt(probes), expected)
        kept = n / self.size
        return kept * mean + (1.0 - kept) * at_zero, kept * error

    def count(self, a: float, b: float) -> tuple[float, float]:
        """How many eigenvalues lie in [a, b], and an error.

        Where an end is nearer to a node than the node's residual, the node may stand for eigenvalues on either side:
        its weight is spread evenly up to the middles between it and its neighbours, and 1/√12 of it, the deviation of
        an end that is anywhere in there, joins the standard error.
        """
        if not a <= b:
            raise ValueError(f"the interval is [{a}, {b}]; expected a ≤ b")
        inside, error = self.expectation(lambda x: (a <= x) & (x <= b))
        (below, open_a), (upto, open_b) = self._spread(a, self.nodes < a), self._spread(b, self.nodes <= b)
        sampled = self.size - self.zeros
        undecided = sampled * (open_a + open_b) / 12.0**0.5
        return self.size * inside + sampled * (upto - below), float(np.hypot(self.size * error, undecided))

    def _spread(self, end: float, below: Array) -> tuple[float, float]:
        """What the sampled part below `end` gains when undecided nodes are spread, and their weight; means of probes.

        `below` (probes, steps) says which nodes count as below.
        """
        middles = (self.nodes[:, 1:] + self.nodes[:, :-1]) / 2.0
        left = np.hstack([self.nodes[:, :1] - self.residuals[:, :1], middles])
        right = np.hstack([middles, self.nodes[:, -1:] + self.residuals[:, -1:]])
        distance = np.abs(self.nodes - end)
        nearest = np.arange(len(distance)), distance.argmin(axis=1)
        undecided = self.weights[nearest] * (distance[nearest] < self.residuals[nearest])
        fraction = np.zeros(len(distance))
        np.divide(end - left[nearest], right[nearest] - left[nearest], out=fraction, where=undecided > 0.0)
        return float(np.mean(undecided * (fraction.clip(0.0, 1.0) - below[nearest]))), float(np.mean(undecided))

    def with_zeros(self, count: int) -> Self:
        """The density with `count` more eigenvalues that are exactly 0.

        For a Hessian with P parameters from its reduced operator R of N rows: ``with_zeros(P - N)``. The broadening
        stays, but for at least a thousandth of the new width.
        """
        check_count("count", count, 0)
        width = max(float(self.nodes.max()), 0.0) - min(float(self.nodes.min()), 0.0)
        return self.on_a_grid(
            self.nodes,
            self.weights,
            self.residuals,
            max(self.broadening, width / 1000.0 * (count > 0)),
            size=self.size + count,
            zeros=self.zeros + count,
            status=self.status,
            message=self.message,
            products=self.products,
            seed=self.seed,
        )

    def _lines(self) -> Iterator[tuple[str, str]]:
        known = f", and {self.zeros} exact zeros" if self.zeros else ""
        count = f"{self.size - self.zeros} between {number(self.nodes.min())} and {number(self.nodes.max())}"
        yield "eigenvalues", count + known
        yield "mean", _with_error(*self.expectation(lambda x: x))
        yield "broadening", number(self.broadening, 3)
        yield "this near to 0", _with_error(*self.count(-self.broadening, self.broadening))
        yield "status", f"{self.status}: {self.message}"
        yield "products", str(self.products)

    def __repr__(self) -> str:
        return f"SpectralDensity({self.size} eigenvalues, status={self.status!r}, products={self.products})"
