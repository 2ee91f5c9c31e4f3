"""The Hessian of a loss of a linear chain, as an operator.

Design: the kernel (``src/cpp/core/hessian.hpp``) works in the narrow-end form and asks the loss for 𝓗 at the far end.
This module chooses the narrow end, translates between the kernel's far end and the loss's Φ, and keeps one kernel per
precision: float64 products read float32 weights in place and sum in float64, which is how answers are certified.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator

from flatcore import _core
from flatcore._checks import FloatArray, as_numpy, check_memory, human, like_input
from flatcore._threads import limit_threads
from flatcore.linear.chain import LinearChain
from flatcore.linear.losses import HessianProduct, Loss, check_loss_shape, linearized

_DENSE_BLOCK = 64


class StaleWeightsError(RuntimeError):
    """The weights changed after the Hessian was built."""


class NonFiniteLossError(ValueError):
    """The loss or its gradient overflows at the chain's end-to-end matrix."""


class ChainProducts:
    """A snapshot of a chain and a loss: partial products, loss gradient, and products with many directions.

    The narrow end is the output (rows: d_M) or the input (rows: the rank of the data for quadratic losses, d_0
    otherwise), whichever is narrower. At the input end the loss is met in the transposed coordinates Ψᵀ = (Φ·factor)ᵀ.
    """

    def __init__(self, chain: LinearChain, loss: Loss) -> None:
        self.chain = chain
        shape = (chain.dims[-1], chain.num_inputs)
        check_loss_shape(loss, shape, chain.has_biases)
        inner: Any = loss.whitened(chain.has_biases) if hasattr(loss, "whitened") else loss
        rank = inner.factor.shape[1] if hasattr(inner, "factor") else chain.num_inputs
        self.narrow_output = shape[0] < rank or rank == 0
        self.loss: Any = loss if self.narrow_output else inner
        factor = None
        if not self.narrow_output:
            factor = inner.factor.T if hasattr(inner, "factor") else np.eye(chain.num_inputs)
        self._kernel = _core.chain_hessian(chain.core, self.narrow_output, factor)
        self.end_to_end = self._far(self._kernel.end_to_end())
        self.fingerprint = chain.fingerprint()
        G = np.asarray(self.loss.gradient(self.end_to_end), dtype=np.float64)
        if G.shape != self.end_to_end.shape:
            raise ValueError(f"loss.gradient returned shape {G.shape}; expected {self.end_to_end.shape}")
        if not np.isfinite(G).all():
            raise NonFiniteLossError("loss.gradient returned NaN or Inf; the chain's output or the loss overflows")
        self.loss_gradient = G
        self._kernel.set_loss_gradient(self._far(G))
        self._kernel32: _core.ChainHessian32 | None = None
        self._results = _core.Recycler()

    @cached_property
    def _loss_hessian(self) -> HessianProduct:
        return linearized(self.loss, self.end_to_end)

    def _far(self, rows: FloatArray) -> FloatArray:
        """Between the kernel's far end and the loss's orientation (its own inverse)."""
        return np.ascontiguousarray(rows if self.narrow_output else rows.swapaxes(-1, -2))

    def check_fresh(self) -> None:
        """Refuse to go on with weights that have changed since the partial products were taken."""
        if self.chain.fingerprint() != self.fingerprint:
            raise StaleWeightsError("the weights changed after this Hessian was built; build a new one")

    def value(self) -> float:
        """The loss."""
        return float(self.loss.value(self.end_to_end))

    def gradient(self) -> FloatArray:
        """Its gradient (P,) in float64."""
        return self._kernel.gradient()

    def rows(self, directions: FloatArray, gauss_newton: bool) -> FloatArray:
        """Products with the rows of `directions` (k, P), summed in their precision."""
        self.check_fresh()
        kernel: Any = self._kernel
        if directions.dtype == np.float32:
            self._kernel32 = self._kernel32 or _core.in_float32(self._kernel)
            kernel = self._kernel32
        empty = self._results.empty32 if directions.dtype == np.float32 else self._results.empty64
        out = empty(*directions.shape)
        kernel.product(directions, out, gauss_newton, self._loss_callback)
        return out

    def _loss_callback(self, far_rows: FloatArray) -> FloatArray:
        expected = far_rows.shape
        image = self._far(np.asarray(self._loss_hessian(self._far(far_rows))))
        if image.shape != expected:
            raise ValueError(f"loss.hessian_product returned shape {image.shape}; expected {expected}")
        return image


class CurvatureOperator(LinearOperator):  # type: ignore[misc]
    """A symmetric (P, P) matrix of second derivatives; see :class:`Hessian`.

    ``H @ v`` takes vectors (P,) and blocks (P, k). The result has the precision of what is multiplied: float64 input
    is multiplied in float64 whatever the weights' precision; float32 input in float32 where the weights are float32.
    """

    _gauss_newton: bool

    def __init__(self, products: ChainProducts, threads: int | None) -> None:
        P = products.chain.num_parameters
        super().__init__(dtype=products.chain.dtype, shape=(P, P))
        self._products = products
        self._threads = threads

    @property
    def chain(self) -> LinearChain:
        """The chain whose curvature this is."""
        return self._products.chain

    def _matmat(self, V: FloatArray) -> FloatArray:
        with limit_threads(self._threads):
            return self._rows(np.asarray(V).T).T

    def _matvec(self, v: FloatArray) -> FloatArray:
        return self._matmat(np.reshape(v, (-1, 1))).reshape(-1)

    def _adjoint(self) -> CurvatureOperator:
        return self

    _rmatvec = _matvec
    _rmatmat = _matmat

    def __matmul__(self, other: Any) -> Any:
        if isinstance(other, LinearOperator):
            return super().__matmul__(other)
        array = as_numpy("v", other)
        if array.dtype.kind == "c":
            raise ValueError(f"v is complex ({array.dtype}); expected real numbers")
        if array.ndim not in (1, 2) or array.shape[0] != self.shape[1]:
            raise ValueError(f"v has shape {array.shape}; expected ({self.shape[1]},) or ({self.shape[1]}, k)")
        return like_input(other, self.matvec(array) if array.ndim == 1 else self.matmat(array))

    def _rows(self, rows: FloatArray) -> FloatArray:
        given = rows.dtype if rows.dtype in (np.float32, np.float64) else np.dtype(np.float64)
        work = np.result_type(given, self.dtype)
        rows = rows.astype(work, copy=False)
        if rows.strides[1] != rows.itemsize:
            columns, rows = rows.T, np.empty(rows.shape, work)
            _core.to_rows(columns, rows)
        return self._products.rows(rows, self._gauss_newton).astype(given, copy=False)

    def dense(self) -> FloatArray:
        """The whole matrix (P, P) in float64."""
        P = self.shape[0]
        check_memory(f"a dense {P} × {P} matrix", 8 * P * P)
        out = np.empty((P, P))
        with limit_threads(self._threads):
            for first in range(0, P, _DENSE_BLOCK):
                count = min(_DENSE_BLOCK, P - first)
                unit = np.zeros((count, P))
                unit[np.arange(count), first + np.arange(count)] = 1.0
                out[first : first + count] = self._products.rows(unit, self._gauss_newton)
        return out

    def __repr__(self) -> str:
        end = "output" if self._products.narrow_output else "input"
        width = self.chain.dims[-1] if self._products.narrow_output else self._products.end_to_end.shape[1]
        return (
            f"{type(self).__name__}({human(self.shape[0])} parameters, {self.dtype}, narrow end: {end}, {width} rows)"
        )


class GaussNewton(CurvatureOperator):
    """The Gauss–Newton matrix JᵀHJ: the Hessian without the term in the loss's gradient; positive semidefinite."""

    _gauss_newton = True


class Hessian(CurvatureOperator):
    """The exact Hessian of a loss with respect to all parameters of a chain, as a SciPy ``LinearOperator``.

    The constructor computes the chain's partial products once. A product then costs 12·m·P flops (m the width of the
    narrow end) whatever the number of samples; a block of vectors reads the weights once.

    Parameters
    ----------
    chain
        A :class:`LinearChain` with P parameters.
    loss
        :class:`QuadraticLoss`, :class:`CrossEntropyLoss`, :class:`MaskedQuadraticLoss`, or any object with ``value``,
        ``gradient`` and ``hessian_product``.
    threads
        Threads of its products; None leaves the process's setting alone.

    Raises
    ------
    ValueError
        A loss that does not fit the chain, or that returns NaN or a wrong shape.
    StaleWeightsError
        By products, when the weights have changed since.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> chain = fc.LinearChain([np.eye(2), np.eye(2)])
    >>> H = fc.Hessian(chain, fc.QuadraticLoss(np.eye(2), np.eye(2)))
    >>> H
    Hessian(8 parameters, float64, narrow end: input, 2 rows)
    >>> round(float(np.linalg.eigvalsh(H.dense())[-1]), 9)
    2.0

    Source: Pearlmutter (1994) for the exact product; the narrow-end form is derived in docs/theory.md.

    """

    _gauss_newton = False

    def __init__(self, chain: LinearChain, loss: Loss, *, threads: int | None = None) -> None:
        if not isinstance(chain, LinearChain):
            raise ValueError(f"chain is a {type(chain).__name__}; expected a LinearChain")
        with limit_threads(threads):
            products = ChainProducts(chain, loss)
        super().__init__(products, threads)

    @property
    def value(self) -> float:
        """The loss."""
        return self._products.value()

    def gradient(self) -> FloatArray:
        """The gradient (P,), in the chain's precision."""
        self._products.check_fresh()
        with limit_threads(self._threads):
            return self._products.gradient().astype(self.dtype, copy=False)

    @property
    def gauss_newton(self) -> GaussNewton:
        """The Gauss–Newton part, sharing this Hessian's partial products."""
        return GaussNewton(self._products, self._threads)

    @property
    def loss_gradient_norm(self) -> float:
        """Frobenius norm of ∇f at the end-to-end matrix (in whitened coordinates at the input end)."""
        return float(np.linalg.norm(self._products.loss_gradient))
