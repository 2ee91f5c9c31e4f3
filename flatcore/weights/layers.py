"""The layers of a model as kernels, whatever they are called: Linear, convolutions, matrices of a file.

A kernel is w (g, o, i, K): g groups, each of which maps i input channels to o output channels at K offsets (g = K = 1
for Linear; a transposed convolution has its channels exchanged). Its two unfoldings are block-diagonal over the groups,

    rows     R: (g·o) × (g·i·K), one row an output channel,
    columns  C: (g·o·K) × (g·i), one column an input channel,

and are the same matrix where K = 1. Weights are loaded when they are needed, so that one or two layers' are held.

Source: R is the "reshaped kernel" of Yoshida & Miyato (2017); Sedghi, Gupta & Long (2019) compare it with the map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from flatcore._checks import FloatArray


class Kernel(NamedTuple):
    """Weights w (g, o, i, K) and a bias (g·o,) or None."""

    weight: FloatArray
    bias: FloatArray | None = None


@dataclass(frozen=True)
class Layer:
    """A layer whose weights are loaded when they are needed.

    Parameters
    ----------
    name, kind, shape, dtype
        What the model calls it, what it is, and its weight as stored.
    dims
        (g, o, i, K) of its kernel.
    offsets
        The kernel's extent as text, ``"kh·kw"``; empty for matrices.
    load
        Gives the kernel.
    between
        Names of what is registered since the layer before.
    transposed
        Whether it is a transposed convolution.
    convolution
        Gives a text and all singular values of the whole convolution map, where these are known.
    parted
        Why the layer before and this one are no pair; empty where nothing is known against it.

    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    dims: tuple[int, int, int, int]
    offsets: str
    load: Callable[[], Kernel]
    between: tuple[str, ...] = ()
    transposed: bool = False
    convolution: Callable[[], tuple[str, FloatArray]] | None = None
    parted: str = ""

    @property
    def inputs(self) -> int:
        """Units or channels that come in, g·i."""
        return self.dims[0] * self.dims[2]

    @property
    def outputs(self) -> int:
        """Units or channels that go out, g·o."""
        return self.dims[0] * self.dims[1]

    def unfolding(self, columns: bool = False) -> str:
        """What the rows or columns unfolding is called."""
        if not self.offsets:
            return "weight (out, in)"
        rows = f"(out·{self.offsets}, in)" if columns else f"(out, in·{self.offsets})"
        kernel = "transposed convolution's kernel" if self.transposed else "kernel"
        return f"{kernel} reshaped {rows}" + (f", {self.dims[0]} diagonal blocks" if self.dims[0] > 1 else "")


def kernel_columns(weight: FloatArray) -> FloatArray:
    """Blocks (g, o·K, i) of the columns unfolding of a kernel (g, o, i, K)."""
    g, o, i, K = weight.shape
    return weight.transpose(0, 1, 3, 2).reshape(g, o * K, i)


def kernel_rows(weight: FloatArray) -> FloatArray:
    """Blocks (g, o, i·K) of the rows unfolding."""
    g, o, i, K = weight.shape
    return weight.reshape(g, o, i * K)


def offsets_text(dimensions: int) -> str:
    """The extent of a kernel of so many dimensions."""
    return ("", "k", "kh·kw", "kd·kh·kw")[dimensions]
