"""The Hessian of a loss of a linear chain, as an operator."""

from __future__ import annotations

import numpy as np

from flatcore._checks import FloatArray
from flatcore._threads import limit_threads
from flatcore.linear.chain import LinearChain, check_chain
from flatcore.linear.dual import Dual
from flatcore.linear.losses import Loss
from flatcore.linear.operators import RowOperator
from flatcore.linear.products import ChainProducts
from flatcore.linear.reduced import Reduced
from flatcore.spectral import OperatorCost


class CurvatureOperator(RowOperator):
    """A symmetric (P, P) matrix of second derivatives; see :class:`Hessian`."""

    _gauss_newton: bool

    def __init__(self, products: ChainProducts, threads: int | None) -> None:
        super().__init__(products.chain.num_parameters, products, threads)

    @property
    def is_gauss_newton(self) -> bool:
        """Whether terms in the loss gradient are left out."""
        return self._gauss_newton

    def _products_of(self, rows: FloatArray) -> FloatArray:
        return self._products.rows(rows, self._gauss_newton)

    @property
    def cost(self) -> OperatorCost:
        """12·m·P flops (8 without terms in the loss gradient); weights read twice, v once or twice, Hv written once."""
        P, size, m = self.shape[0], self.dtype.itemsize, self._products.narrow_width
        curved = not (self._gauss_newton or self._products.at_interpolation)
        rows = m * sum(self.chain.dims)
        return OperatorCost(
            shared_bytes=2.0 * self._products.weight_bytes,
            bytes_per_vector=2.5 * P * size,
            flops_per_vector=(12.0 if curved else 8.0) * m * P + self._products.loss_flops,
            workspace_bytes=1.5 * rows * size,
        )

    def reduced(self) -> Reduced:
        """The same matrix in N ≤ P coordinates that hold every nonzero eigenvalue."""
        with limit_threads(self._threads):
            return Reduced(self._products, self._gauss_newton, self._threads)


class GaussNewton(CurvatureOperator):
    """The Gauss–Newton matrix JᵀHJ: the Hessian without the term in the loss's gradient; positive semidefinite."""

    _gauss_newton = True

    def dual(self) -> Dual:
        """The Gauss–Newton dual of a quadratic loss: d_M·r unknowns with the same nonzero eigenvalues."""
        with limit_threads(self._threads):
            return Dual(self._products, self._threads)


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
    Hessian(8 parameters, float64, narrow end: output, 2 rows)
    >>> round(float(np.linalg.eigvalsh(H.dense())[-1]), 9)
    2.0

    Source: Pearlmutter (1994) for the exact product; the narrow-end form is derived in docs/theory.md.

    """

    _gauss_newton = False

    def __init__(self, chain: LinearChain, loss: Loss, *, threads: int | None = None) -> None:
        check_chain(chain)
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
