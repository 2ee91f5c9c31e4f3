"""Partial products of a chain at a loss: what every curvature operator of that chain is made of.

The kernel (``src/cpp/core/hessian.hpp``) works in the narrow-end form and asks the loss for 𝓗 at the far end. This
module chooses the narrow end, translates between the kernel's far end and the loss's Φ, and keeps one kernel per
precision: float64 products read float32 weights in place and sum in float64, which is how answers are certified.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from flatcore import _core
from flatcore._checks import FloatArray
from flatcore._memory import check_memory
from flatcore.linear.chain import LinearChain
from flatcore.linear.losses import (
    CrossEntropyLoss,
    HessianProduct,
    Loss,
    MatrixHessian,
    WhitenedQuadratic,
    check_loss_shape,
    linearized,
)


class StaleWeightsError(RuntimeError):
    """The weights changed after the Hessian was built."""


class NonFiniteLossError(ValueError):
    """The loss or its gradient overflows at the chain's end-to-end matrix."""


def output_is_narrow(outputs: int, rank: int, inputs: int) -> bool:
    """Whether rows at the output end are fewer than at the input end, where a loss leaves `rank` of them."""
    return outputs < rank or rank == 0 or outputs == rank == inputs


class ChainProducts:
    """A snapshot of a chain and a loss: partial products, loss gradient, and products with many directions.

    The narrow end is the output (rows: d_M) or the input (rows: the rank of the data for quadratic losses, d_0
    otherwise), whichever is narrower; of equal ones the output, where rows start from the identity, unless whitening
    saves more at the input. There the loss is met in the transposed coordinates Ψᵀ = (Φ·factor)ᵀ.
    """

    def __init__(self, chain: LinearChain, loss: Loss) -> None:
        self.chain = chain
        shape = (chain.dims[-1], chain.num_inputs)
        check_loss_shape(loss, shape, chain.has_biases)
        inner: Any = loss.whitened(chain.has_biases) if hasattr(loss, "whitened") else loss
        self.whitened: WhitenedQuadratic | None = inner if isinstance(inner, WhitenedQuadratic) else None
        rank = inner.factor.shape[1] if hasattr(inner, "factor") else chain.num_inputs
        self.narrow_output = output_is_narrow(shape[0], rank, chain.num_inputs)
        self.loss: Any = loss if self.narrow_output else inner
        factor = None
        if not self.narrow_output:
            factor = inner.factor.T if hasattr(inner, "factor") else np.eye(chain.num_inputs)
        m = shape[0] if factor is None else len(factor)
        check_memory(f"sweeps of {m} rows through all levels of the chain", 3 * 8 * m * sum(chain.dims))
        self._kernel = _core.chain_hessian(chain.core, self.narrow_output, factor)
        self.narrow_width = self._kernel.narrow_width
        self.end_to_end = self.far(self._kernel.end_to_end())
        self.fingerprint = chain.fingerprint()
        G = _real("loss.gradient", self.loss.gradient(self.end_to_end)).astype(np.float64, copy=False)
        if G.shape != self.end_to_end.shape:
            raise ValueError(f"loss.gradient returned shape {G.shape}; expected {self.end_to_end.shape}")
        if not np.isfinite(G).all():
            raise NonFiniteLossError("loss.gradient returned NaN or Inf; the chain's output or the loss overflows")
        self.loss_gradient = G
        self._kernel.set_loss_gradient(self.far(G))
        self._results = _core.Recycler()

    @cached_property
    def _linearized(self) -> HessianProduct:
        return linearized(self.loss, self.end_to_end)

    def far(self, rows: FloatArray) -> FloatArray:
        """Between the kernel's far end and the loss's orientation (its own inverse)."""
        return np.ascontiguousarray(rows if self.narrow_output else rows.swapaxes(-1, -2))

    @property
    def at_interpolation(self) -> bool:
        """Whether the loss gradient is exactly zero."""
        return not self.loss_gradient.any()

    def value(self) -> float:
        """The loss."""
        return float(self.loss.value(self.end_to_end))

    def gradient(self) -> FloatArray:
        """Its gradient (P,) in float64."""
        return self._kernel.gradient()

    def rows(self, directions: FloatArray, gauss_newton: bool) -> FloatArray:
        """Products with the rows of `directions` (k, P), summed in their precision."""
        self.check_fresh()
        empty = self._results.empty32 if directions.dtype == np.float32 else self._results.empty64
        out = empty(*directions.shape)
        self.kernel(directions.dtype).product(directions, out, gauss_newton, self.loss_hessian(directions.dtype))
        return out

    def kernel(self, dtype: np.dtype[Any]) -> Any:
        """The compiled partial products in float32 or float64."""
        return self._kernel32 if dtype == np.float32 else self._kernel

    @cached_property
    def _kernel32(self) -> _core.ChainHessian32:
        return _core.in_float32(self._kernel)

    def check_fresh(self) -> None:
        """Refuse to go on with weights that have changed since the partial products were taken."""
        if self.chain.fingerprint() != self.fingerprint:
            raise StaleWeightsError("the weights changed after this Hessian was built; build a new one")

    def loss_hessian(self, dtype: np.dtype[Any]) -> Any:
        """𝓗 for the compiled products: the matrix that rows at the far end are multiplied by, or a function of them."""
        if self.narrow_output and isinstance(self._linearized, MatrixHessian):
            return self._linearized.matrix(dtype)
        return self._loss_callback

    def _loss_callback(self, far_rows: FloatArray) -> FloatArray:
        """𝓗 of stacked rows at the kernel's far end."""
        expected = far_rows.shape
        image = self.far(_real("loss.hessian_product", self._linearized(self.far(far_rows))))
        if image.shape != expected:
            raise ValueError(f"loss.hessian_product returned shape {image.shape}; expected {expected}")
        return image

    @property
    def weight_bytes(self) -> int:
        """What one read of all weights moves."""
        return sum(W.nbytes for W in self.chain.weights)

    @property
    def loss_flops(self) -> float:
        """Of 𝓗 for one direction; a loss the library does not know counts as an entrywise one."""
        entries = float(self.end_to_end.size)
        if isinstance(self.loss, CrossEntropyLoss):
            return 4.0 * float(self.loss.num_samples) * entries
        quadratic = self.whitened is not None and self.narrow_output  # dΦ·S, else entrywise
        return 2.0 * entries * (int(self.end_to_end.shape[1]) if quadratic else 1)


def _real(name: str, value: Any) -> FloatArray:
    """What a loss returned, as an array of real numbers."""
    array = np.asarray(value)
    if array.dtype.kind not in "fbiu":
        raise ValueError(f"{name} returned {array.dtype}; expected real numbers")
    return array
