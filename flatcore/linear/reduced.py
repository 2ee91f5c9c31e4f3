"""The reduced Hessian: every nonzero eigenpair in N ≤ P coordinates, exactly."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from flatcore import _core
from flatcore._checks import FloatArray, as_float_array, check_finite, like_input
from flatcore._memory import check_memory
from flatcore._threads import limit_threads
from flatcore.linear.operators import RowOperator
from flatcore.linear.products import ChainProducts
from flatcore.spectral import OperatorCost


class Reduced(RowOperator):
    """A Hessian, or Gauss–Newton matrix, on the subspace that holds its nonzero eigenvalues.

    Its spectrum is that of the full matrix without P − N of the zeros. ``lift`` is an isometry, so norms, eigenvectors
    and residuals carry over unchanged; ``project`` is its adjoint, and project(lift(z)) = z. ``R @ z`` follows the
    rules of :class:`Hessian`. The partial products are a snapshot: products after the weights changed raise
    ``StaleWeightsError`` (lifting needs no weights and goes on working).

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> rng = np.random.default_rng(0)
    >>> chain = fc.LinearChain([rng.standard_normal(s) for s in ((40, 30), (40, 40), (2, 40))])
    >>> R = fc.Hessian(chain, fc.QuadraticLoss(rng.standard_normal((50, 30)), np.ones((50, 2)))).reduced()
    >>> R
    Reduced(372 of 2880 parameters, float64, narrow end: output, 2 rows)
    >>> z = np.linalg.eigh(R.dense())[1][:, -1]
    >>> round(float(np.linalg.norm(R.lift(z))), 9)
    1.0

    Source: docs/theory.md, "The reduced Hessian"; kernel ``src/cpp/core/reduced_hessian.hpp``.

    """

    def __init__(self, products: ChainProducts, gauss_newton: bool, threads: int | None) -> None:
        m, dims = products.narrow_width, products.chain.dims
        check_memory(f"factors of {m} rows for every layer", 5 * 8 * m * sum(dims))
        self._reduced = _core.reduced_hessian(products.kernel(np.dtype(np.float64)), gauss_newton)
        super().__init__(self._reduced.dimension, products, threads)

    @property
    def cost(self) -> OperatorCost:
        """4·m·P flops and two reads of the weights; some ten products of m × m by m × d a layer beside that."""
        return reduced_cost(self._products, self.shape[0])

    def lift(self, z: Any) -> Any:
        """Full directions (P,) or (P, b) that reduced ones (N,) or (N, b) stand for."""
        return self._mapped("z", z, self.shape[0], self.chain.num_parameters, "lift")

    def project(self, v: Any) -> Any:
        """Reduced directions (N,) or (N, b) of full ones (P,) or (P, b): the adjoint of `lift`."""
        return self._mapped("v", v, self.chain.num_parameters, self.shape[0], "project")

    def start(self, v0: Any) -> FloatArray:
        """Start vectors (N, b) for start vectors (P,) or (P, b); refuses NaN and Inf."""
        array = as_float_array("v0", v0, 2 if np.ndim(v0) == 2 else 1)
        if array.shape[0] != self.chain.num_parameters or array.size == 0:
            P = self.chain.num_parameters
            raise ValueError(f"v0 has shape {array.shape}; expected ({P},) or ({P}, b)")
        check_finite("v0", array)
        return np.asarray(self.project(array.reshape(len(array), -1)))

    def lift_layers(self, z: Any) -> Iterator[FloatArray]:
        """One lifted direction (N,) as blocks shaped like W_1, b_1, W_2, …; only one layer is in memory at a time."""
        array = as_float_array("z", z, 1)
        if array.shape[0] != self.shape[0]:
            raise ValueError(f"z has shape {array.shape}; expected ({self.shape[0]},)")
        row = self._contiguous(array[None, :])
        kernel, layers = self._kernel(row.dtype), range(1, self.chain.depth + 1)
        return (block for layer in layers for block in kernel.lift_layer(row, layer) if block is not None)

    @property
    def num_annihilated(self) -> int:
        """P − N: orthonormal directions outside the subspace, each with image zero."""
        return int(self.chain.num_parameters - self.shape[0])

    def annihilated_layers(self, index: int) -> Iterator[FloatArray]:
        """Number `index` of these directions, as blocks like those of `lift_layers`; it lies in a single layer."""
        kernel = self._kernel(self.dtype)
        for layer, (W, b) in enumerate(zip(self.chain.weights, self.chain.biases, strict=True), start=1):
            count = kernel.num_annihilated(layer)
            if 0 <= index < count:
                yield from (block for block in kernel.annihilated(layer, index) if block is not None)
            else:
                yield np.zeros(W.shape, self.dtype)
                if b is not None:
                    yield np.zeros(b.shape, self.dtype)
            index -= count

    def end_to_end_change(self, z: FloatArray) -> FloatArray:
        """(k, m, q) far rows of the kernel: how the end-to-end matrix moves along the rows of z (k, N)."""
        self._products.check_fresh()
        rows = self._kernel(z.dtype).end_to_end_change(z)
        return np.asarray(rows).reshape(len(z), -1, rows.shape[1])

    def pull_back(self, far_rows: FloatArray) -> FloatArray:
        """The adjoint: rows (k, N) of far rows (k, m, q)."""
        self._products.check_fresh()
        k, m, q = far_rows.shape
        out = np.empty((k, self.shape[0]), far_rows.dtype)
        self._kernel(out.dtype).pull_back(far_rows.reshape(k * m, q), out)
        return out

    @cached_property
    def _reduced32(self) -> _core.ReducedHessian32:
        return _core.reduced_in_float32(self._reduced, self._products.kernel(np.dtype(np.float32)))

    def _kernel(self, dtype: np.dtype[Any]) -> Any:
        return self._reduced32 if dtype == np.float32 else self._reduced

    def _products_of(self, rows: FloatArray) -> FloatArray:
        self._products.check_fresh()
        out = np.empty(rows.shape, rows.dtype)
        self._kernel(rows.dtype).product(rows, out, self._products.loss_hessian(rows.dtype))
        return out

    def _mapped(self, name: str, value: Any, source: int, target: int, how: str) -> Any:
        array = as_float_array(name, value, 1 if np.ndim(value) == 1 else 2)
        if array.shape[0] != source:
            raise ValueError(f"{name} has shape {array.shape}; expected ({source},) or ({source}, b)")
        rows = self._contiguous(array.T if array.ndim == 2 else array[None, :])
        check_memory(f"to {how} {len(rows)} directions to {target} entries each", len(rows) * target * rows.itemsize)
        out = np.empty((len(rows), target), rows.dtype)
        with limit_threads(self._threads):
            getattr(self._kernel(rows.dtype), how)(rows, out)
        out = out.astype(array.dtype, copy=False)
        return like_input(value, out[0] if array.ndim == 1 else out.T)


def reduced_dimension(products: ChainProducts, gauss_newton: bool) -> int:
    """N without building the operator: Σ r·right + ρ·(left − r)."""
    chain, m = products.chain, products.narrow_width
    curved = not (gauss_newton or products.at_interpolation)
    total = 0
    for below, above, b in zip(chain.dims[:-1], chain.dims[1:], chain.biases, strict=True):
        left, right = (above, below) if products.narrow_output else (below, above)
        if b is not None:
            left, right = (left, right + 1) if products.narrow_output else (left + 1, right)
        r = min(m, left)
        total += r * right + (min(m, right) * (left - r) if curved else 0)
    return total


def reduced_cost(products: ChainProducts, N: int) -> OperatorCost:
    """What a product costs in N coordinates."""
    chain, m, size = products.chain, products.narrow_width, products.chain.dtype.itemsize
    return OperatorCost(
        shared_bytes=2.0 * products.weight_bytes,
        bytes_per_vector=6.0 * N * size,
        flops_per_vector=4.0 * m * chain.num_parameters + 10.0 * m * N + products.loss_flops,
        workspace_bytes=3.0 * m * sum(chain.dims) * size,
    )
