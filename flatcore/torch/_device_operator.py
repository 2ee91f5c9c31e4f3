"""What the operators of a chain on a device share: vectors and blocks in, answers in kind and on the device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from flatcore._checks import as_float_array, chunks, human, is_tensor
from flatcore.spectral import OperatorCost
from flatcore.torch._device import check_memory, exact_products
from flatcore.torch._device_chain import DeviceChain
from flatcore.torch._device_products import DeviceProducts
from flatcore.torch._vectors import DeviceVectors

_DENSE_BLOCK = 64
_WORKING = (torch.float32, torch.float64)


class DeviceOperator:
    """A symmetric (N, N) operator given by products with contiguous rows on a device.

    ``H @ v`` takes tensors (N,) and (N, k) and answers on their device; NumPy arrays are carried there and back. The
    result has the precision of what is multiplied: float64 input is multiplied in float64 whatever the weights'
    precision; float32 input in float32 where the weights are float32 or narrower.
    """

    def __init__(self, size: int, products: DeviceProducts) -> None:
        self.shape = (size, size)
        self.dtype: np.dtype[Any] = products.chain.dtype
        self.device: torch.device = products.chain.device
        self._products = products

    @property
    def products(self) -> DeviceProducts:
        """The partial products behind this operator."""
        return self._products

    @property
    def chain(self) -> DeviceChain:
        """The chain whose curvature this is."""
        return self._products.chain

    @property
    def cost(self) -> OperatorCost:
        """What a product costs, for the solvers' choice of a block and a basis."""
        raise NotImplementedError

    def _products_of(self, rows: Tensor) -> Tensor:
        """Products with contiguous rows (k, N) in float32 or float64."""
        raise NotImplementedError

    def __matmul__(self, other: Any) -> Any:
        return self._mapped("v", other, self.shape[1], self._products_of)

    def block_vectors(self, dtype: Any) -> DeviceVectors:
        """The home of the solvers' vectors: this device."""
        return DeviceVectors(self.shape[0], np.dtype(dtype), self.device)

    def rows_product(self, rows: Tensor) -> Tensor:
        """Products with the rows (k, N) of that home, as new rows of their precision."""
        return self._rows(rows, self._products_of)

    def dense(self) -> Tensor:
        """The whole matrix (N, N) in float64, on the device."""
        N = self.shape[0]
        check_memory(f"a dense {N} × {N} matrix", 8 * N * N, self.device)
        out = torch.empty(N, N, dtype=torch.float64, device=self.device)
        for part in chunks(N, _DENSE_BLOCK):
            unit = torch.zeros(part.stop - part.start, N, dtype=torch.float64, device=self.device)
            unit[torch.arange(len(unit)), torch.arange(part.start, part.stop)] = 1.0
            out[part] = self._products_of(unit)
        return out

    def _mapped(self, name: str, value: Any, source: int, how: Any) -> Any:
        """`how`, a function of contiguous rows, for vectors (source,) or blocks (source, k); the answer in kind."""
        array: Any = (
            value.detach() if is_tensor(value) else as_float_array(name, value, 1 if np.ndim(value) == 1 else 2)
        )
        if array.ndim not in (1, 2) or array.shape[0] != source:
            raise ValueError(f"{name} has shape {tuple(array.shape)}; expected ({source},) or ({source}, k)")
        if is_tensor(value) and value.is_complex():
            raise ValueError(f"{name} is complex ({value.dtype}); expected real numbers")
        given: Tensor = array if is_tensor(value) else torch.tensor(array)
        rows = given.to(self.device).reshape(source, -1).mT
        out = self._rows(rows, how).mT.to(given.device)
        out = out[:, 0] if array.ndim == 1 else out
        return out if is_tensor(value) else np.asarray(out)

    def _rows(self, rows: Tensor, how: Any) -> Tensor:
        given = rows.dtype if rows.dtype in _WORKING else torch.float64
        rows = rows.to(torch.promote_types(given, self.chain.torch_dtype)).contiguous()
        with exact_products(self.device):
            out: Tensor = how(rows)
        return out.to(given)

    def __repr__(self) -> str:
        end = "output" if self._products.narrow_output else "input"
        size = "" if self.shape[0] == self.chain.num_parameters else f"{human(self.shape[0])} of "
        return (
            f"{type(self).__name__}({size}{human(self.chain.num_parameters)} parameters, {self.dtype}, {self.device}, "
            f"narrow end: {end}, {self._products.narrow_width} rows)"
        )
