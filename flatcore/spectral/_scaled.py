"""A user's operator divided by a power of two near its size, so that small problems have entries near 1."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from flatcore._checks import FloatArray, chunks
from flatcore.spectral._operator import Operator
from flatcore.spectral._vectors import BlockVectors, unit_rows

_IDENTITY_BLOCK = 64
_SMALLEST, _LARGEST = 1e-150, 1e150  # squares of what is reported must not vanish or overflow


class ScaledOperator:
    """A/σ on blocks of rows; σ is the power of two below the largest entry of the first product that is not zero."""

    def __init__(self, operator: Any) -> None:
        self._operator = Operator(operator)
        self.length, self.dtype = self._operator.length, self._operator.dtype
        self.vectors = self.home(self.dtype)
        self._exponent: int | None = None

    def home(self, dtype: Any) -> BlockVectors:
        """Where vectors of that precision live."""
        return self._operator.vectors(dtype)

    @property
    def products(self) -> int:
        """Products with single vectors so far."""
        return self._operator.products

    @property
    def scale(self) -> float:
        """The power of two σ."""
        return math.ldexp(1.0, self._exponent or 0)

    def __call__(self, rows: Any) -> Any:
        """Products with the rows (b, N), divided by σ, as a new array that may be overwritten."""
        image = self._operator(rows)
        size = float(self.vectors.sizes(image).max())
        if not math.isfinite(size):
            raise ValueError("the operator returned NaN or Inf")
        if size > _LARGEST or (self._exponent is None and 0.0 < size < _SMALLEST):
            span = f"between {_SMALLEST:g} and {_LARGEST:g}"
            raise ValueError(f"the operator's size is {size:.3g}; expected it {span} (scale it)")
        if self._exponent is None and size > 0.0:
            self._exponent = math.frexp(size)[1] - 1
        if self._exponent:
            self.vectors.ldexp(image, -self._exponent)
        return image

    def identity_blocks(self) -> Iterator[tuple[slice, FloatArray]]:
        """All columns of A/σ as rows in host memory, block by block; refuses A unless Ax = Aᵀx for a random x.

        They are compared with the entries of A too: x may be one of the vectors that A takes to zero.
        """
        x = np.random.default_rng(0).standard_normal(self.length)
        forward, transposed = np.zeros(self.length), np.empty(self.length)
        size = 0.0
        for part in chunks(self.length, _IDENTITY_BLOCK):
            image = self.vectors.host(self(unit_rows(self.vectors, part)))
            forward += x[part] @ image
            transposed[part] = image @ x
            size = max(size, float(np.abs(image).max()))
            yield part, image
        check_symmetric(forward, transposed, max(size, np.abs(forward).max(), np.abs(transposed).max()))


def check_symmetric(forward: FloatArray, transposed: FloatArray, size: float) -> None:
    """Refuse an operator whose xᵀAy (`forward`) and yᵀAx (`transposed`) differ by more than 1e-3 of `size`."""
    asymmetry = float(np.abs(forward - transposed).max(initial=0.0))
    if asymmetry > 1e-3 * size:
        raise ValueError(
            f"the operator is not symmetric: xᵀAy and yᵀAx differ by {asymmetry / size:.3g} of the largest of them"
        )
