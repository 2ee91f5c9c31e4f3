r"""The Gauss–Newton dual: the nonzero Gauss–Newton spectrum of a quadratic loss in d_M·r unknowns.

With J[D] = Σ_j A_j D̃_j B̃_j L the derivative of Ψ = ΦL, the Gauss–Newton matrix is 2·scale·JᵀJ, and

    K[X] = 2·scale·J Jᵀ[X] = 2·scale Σ_j (A_jA_jᵀ) X (LᵀB̃_jᵀB̃_jL),    X: d_M × r,

has the same nonzero eigenvalues. Biases: a direction D̃_j = (D_j, δ_j) has no bottom row, so of A_j its first d_j
columns count; B̃_j keeps its homogeneous row where layer j has a bias (it meets δ_j) and loses it otherwise. Where
KX = θX, θ > 0, the direction v = JᵀX, blocks v_j = A_jᵀ X (B̃_jL)ᵀ, is an eigenvector of the Gauss–Newton matrix and
‖v‖² = θ‖X‖²/(2·scale).

Set-up: 2·(r + d_M)·P flops and the Gram matrices; a product: 2·M·(d_M·r² + d_M²·r) flops and no weights at all.
Source: docs/theory.md, "The Gauss–Newton dual".
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg

from flatcore import _core
from flatcore._checks import FloatArray, as_float_array, like_input
from flatcore._linalg import matmul
from flatcore._memory import check_memory
from flatcore._threads import limit_threads
from flatcore.linear.operators import RowOperator
from flatcore.linear.products import ChainProducts
from flatcore.linear.reduced import Reduced
from flatcore.spectral import OperatorCost


class Dual(RowOperator):
    """K, a symmetric positive semidefinite operator on (d_M·r)-vectors, X row-major; in float64 whatever the weights.

    Raises
    ------
    ValueError
        For losses that are not quadratic, and for inputs that are all zero.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> chain = fc.LinearChain([np.eye(3)] * 2)
    >>> K = fc.Hessian(chain, fc.QuadraticLoss(np.eye(3) * 3**0.5, np.eye(3))).gauss_newton.dual()
    >>> K
    Dual(9 unknowns for 18 parameters)
    >>> K.spectrum().round(9)
    array([4., 4., 4., 4., 4., 4., 4., 4., 4.])

    """

    def __init__(self, products: ChainProducts, threads: int | None) -> None:
        form = products.whitened
        if form is None:
            raise ValueError(f"loss is a {type(products.loss).__name__}; the dual is known for quadratic losses only")
        if form.factor.shape[1] == 0:
            raise ValueError("the inputs are all zero, and so is the Gauss–Newton matrix; the dual has no unknowns")
        core, d, r = products.chain.core, products.chain.dims[-1], form.factor.shape[1]
        needed = 2 * 8 * products.chain.depth * (d * d + r * r)
        check_memory(f"Gram matrices of {d} and {r} rows for every layer", needed)
        self._factor = form.factor
        self._twice_scale = 2.0 * form.scale
        self.above = np.stack(_core.side_grams(core, None))  # A_jA_jᵀ, (M, d_M, d_M)
        self.below = np.stack(_core.side_grams(core, np.ascontiguousarray(form.factor.T)))  # (M, r, r)
        super().__init__(self.above.shape[1] * self.below.shape[1], products, threads)
        self.dtype = np.dtype(np.float64)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(d_M, r), the shape of X."""
        return self.above.shape[1], self.below.shape[1]

    @property
    def cost(self) -> OperatorCost:
        """Gram matrices once a block; the flops of the module's formula."""
        return dual_cost(self.chain.depth, *self.matrix_shape)

    @property
    def trace(self) -> float:
        """2·scale Σ_j ‖A_j‖_F² ‖B_jL‖_F², the trace of the Gauss–Newton matrix."""
        return self._twice_scale * float(np.sum(np.trace(self.above, 0, 1, 2) * np.trace(self.below, 0, 1, 2)))

    @property
    def upper_bound(self) -> float:
        """2·scale Σ_j ‖A_j‖² ‖B_jL‖², at least the largest eigenvalue."""
        norms = np.linalg.eigvalsh(self.above)[:, -1] * np.linalg.eigvalsh(self.below)[:, -1]
        return self._twice_scale * float(np.sum(norms))

    def spectrum(self) -> FloatArray:
        """All nonzero eigenvalues of the Gauss–Newton matrix, descending, by one dense eigendecomposition.

        Nonzero means above n·eps times the largest. Raises ``MemoryError`` before starting where n² does not fit.
        """
        n = self.shape[0]
        check_memory(f"the spectrum by a dense {n} × {n} eigendecomposition", 2 * 8 * n * n)
        values = scipy.linalg.eigh(self.dense(), eigvals_only=True, overwrite_a=True, check_finite=False)[::-1]
        return np.asarray(values[values > n * np.finfo(np.float64).eps * values[0]])

    def dense(self) -> FloatArray:
        """The whole matrix (n, n): a sum of Kronecker products."""
        n = self.shape[0]
        check_memory(f"a dense {n} × {n} matrix", 8 * n * n)
        self._products.check_fresh()
        d, r = self.matrix_shape
        out = np.einsum("jab,jcd->acbd", self.above, self.below, optimize=True)
        out *= self._twice_scale
        return np.asarray(out.reshape(d * r, d * r))

    def lift(self, x: Any) -> Any:
        """Unit directions v = JᵀX/‖JᵀX‖ (P,) or (P, k) of dual vectors (n,) or (n, k)."""
        array = as_float_array("x", x, 1 if np.ndim(x) == 1 else 2)
        n = self.shape[0]
        if array.shape[0] != n:
            raise ValueError(f"x has shape {array.shape}; expected ({n},) or ({n}, k)")
        R = self.reduced
        with limit_threads(self._threads):
            z = self.reduced_rows(R, array.reshape(n, -1).T)
        v = R.lift(z.T)
        return like_input(x, v[:, 0] if array.ndim == 1 else v)

    @cached_property
    def reduced(self) -> Reduced:
        """The reduced Gauss–Newton matrix, in whose coordinates directions are built."""
        return Reduced(self._products, True, self._threads)

    def reduced_rows(self, R: Reduced, rows: FloatArray) -> FloatArray:
        """JᵀX of dual rows (k, n) in the coordinates of `R`, normalised (k, N); zero where JᵀX is."""
        X = rows.astype(np.float64).reshape(-1, *self.matrix_shape)
        if self._products.narrow_output:
            far = matmul(X, np.ascontiguousarray(self._factor.T))
        else:
            far = np.ascontiguousarray(X.swapaxes(1, 2))
        z = R.pull_back(far)
        norms = np.linalg.norm(z, axis=1, keepdims=True)
        return np.asarray(z / np.where(norms > 0.0, norms, 1.0))

    def start_rows(self, R: Reduced, z: FloatArray) -> FloatArray:
        """J of reduced rows (k, N) as dual rows (k, n): start vectors."""
        far = R.end_to_end_change(z.astype(np.float64, copy=False))
        X = matmul(far, self._factor) if self._products.narrow_output else far.swapaxes(1, 2)
        return np.ascontiguousarray(X).reshape(len(z), -1)

    def _products_of(self, rows: FloatArray) -> FloatArray:
        self._products.check_fresh()
        above, below = self._sides
        (d, r), M, k = self.matrix_shape, self.chain.depth, len(rows)
        Y = matmul(rows.reshape(k, d, r), below).reshape(k, d, M, r)
        stacked = np.ascontiguousarray(Y.transpose(2, 1, 0, 3)).reshape(M * d, k * r)
        out = matmul(above, stacked).reshape(d, k, r)
        return np.ascontiguousarray(out.transpose(1, 0, 2)).reshape(k, d * r)

    @cached_property
    def _sides(self) -> tuple[FloatArray, FloatArray]:
        """2·scale·[A_1A_1ᵀ, A_2A_2ᵀ, …] (d, M·d) and [LᵀB_1ᵀB_1L, …] (r, M·r)."""
        (d, r), M = self.matrix_shape, self.chain.depth
        above = (self._twice_scale * self.above).transpose(1, 0, 2).reshape(d, M * d)
        return above, self.below.transpose(1, 0, 2).reshape(r, M * r)

    def __repr__(self) -> str:
        return f"Dual({self.shape[0]} unknowns for {self.chain.num_parameters} parameters)"


def dual_cost(depth: int, d: int, r: int) -> OperatorCost:
    """What a product with d × r unknowns costs."""
    return OperatorCost(
        shared_bytes=8.0 * depth * (d * d + r * r),
        bytes_per_vector=8.0 * 6.0 * depth * d * r,
        flops_per_vector=2.0 * depth * (d * r * r + d * d * r),
        workspace_bytes=8.0 * 3.0 * depth * d * r,
    )
