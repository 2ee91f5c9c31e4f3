"""The Hessian of a loss of a chain on a device, as an operator on tensors."""

from __future__ import annotations

from torch import Tensor

from flatcore.linear import Loss
from flatcore.spectral import OperatorCost
from flatcore.torch._device_chain import DeviceChain
from flatcore.torch._device_operator import DeviceOperator
from flatcore.torch._device_products import DeviceProducts
from flatcore.torch._device_reduced import DeviceReduced


class DeviceCurvature(DeviceOperator):
    """A symmetric (P, P) matrix of second derivatives; see :class:`DeviceHessian`."""

    _gauss_newton: bool

    def __init__(self, products: DeviceProducts) -> None:
        super().__init__(products.chain.num_parameters, products)

    @property
    def is_gauss_newton(self) -> bool:
        """Whether terms in the loss gradient are left out."""
        return self._gauss_newton

    def _products_of(self, rows: Tensor) -> Tensor:
        return self._products.rows(rows, self._gauss_newton)

    @property
    def cost(self) -> OperatorCost:
        """12·m·P flops (8 without terms in the loss gradient); weights read twice, v once or twice, Hv written once."""
        P, size, m = self.shape[0], self.dtype.itemsize, self._products.narrow_width
        curved = not (self._gauss_newton or self._products.at_interpolation)
        return OperatorCost(
            shared_bytes=2.0 * self._products.weight_bytes,
            bytes_per_vector=(3.0 if curved else 2.0) * P * size,
            flops_per_vector=(12.0 if curved else 8.0) * m * P + self._products.loss_flops,
            workspace_bytes=3.0 * m * sum(self.chain.dims) * size,
        )

    def reduced(self) -> DeviceReduced:
        """The same matrix in N ≤ P coordinates that hold every nonzero eigenvalue."""
        return DeviceReduced(self._products, self._gauss_newton)


class DeviceGaussNewton(DeviceCurvature):
    """The Gauss–Newton matrix: the Hessian without the term in the loss's gradient; positive semidefinite."""

    _gauss_newton = True


class DeviceHessian(DeviceCurvature):
    """The exact Hessian of a loss with respect to all parameters of a chain on a device.

    The constructor computes the chain's partial products once, in float64. A product then costs 12·m·P flops (m the
    width of the narrow end) whatever the number of samples, and its vectors never leave the device.

    Parameters
    ----------
    chain
        A :class:`DeviceChain` with P parameters.
    loss
        :class:`flatcore.QuadraticLoss`, :class:`flatcore.CrossEntropyLoss` or :class:`flatcore.MaskedQuadraticLoss`,
        brought to the device once.

    Raises
    ------
    ValueError
        Another loss, or one that does not fit the chain, or that overflows.
    StaleWeightsError
        By products, when the weights have been changed in place since.

    Examples
    --------
    >>> import torch, flatcore as fc
    >>> from flatcore.torch import DeviceChain
    >>> H = DeviceChain([torch.eye(2).double()] * 2).hessian(fc.QuadraticLoss(torch.eye(2), torch.eye(2)))
    >>> H
    DeviceHessian(8 parameters, float64, cpu, narrow end: output, 2 rows)
    >>> round(float(torch.linalg.eigvalsh(H.dense())[-1]), 9)
    2.0

    Source: docs/theory.md, "The narrow-end form".

    """

    _gauss_newton = False

    def __init__(self, chain: DeviceChain, loss: Loss) -> None:
        if not isinstance(chain, DeviceChain):
            raise ValueError(f"chain is a {type(chain).__name__}; expected a DeviceChain")
        super().__init__(DeviceProducts(chain, loss))

    @property
    def value(self) -> float:
        """The loss."""
        return self._products.value

    def gradient(self) -> Tensor:
        """The gradient (P,) on the device, in the chain's precision."""
        self._products.check_fresh()
        return self._products.gradient().to(self.chain.torch_dtype)

    @property
    def gauss_newton(self) -> DeviceGaussNewton:
        """The Gauss–Newton part, sharing this Hessian's partial products."""
        return DeviceGaussNewton(self._products)

    @property
    def loss_gradient_norm(self) -> float:
        """Frobenius norm of ∇f at the end-to-end matrix (in whitened coordinates at the input end)."""
        return float(self._products.loss_gradient.norm())
