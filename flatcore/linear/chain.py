"""LinearChain: Φ = W_M ⋯ W_1, with optional biases and skip links."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from flatcore import _core
from flatcore._checks import (
    FloatArray,
    as_float_array,
    check_finite,
    check_not_empty,
    common_type,
    human,
    is_half,
    is_tensor,
    with_unit_stride,
)


class ChainShape:
    """Depth and widths of a chain, wherever its weights live: ``weights[j]`` (d_{j+1}, d_j), ``biases[j]`` or None."""

    weights: tuple[Any, ...]
    biases: tuple[Any, ...]

    @property
    def depth(self) -> int:
        """Number of layers M."""
        return len(self.weights)

    @property
    def dims(self) -> tuple[int, ...]:
        """Widths (d_0, …, d_M)."""
        return (self.weights[0].shape[1], *(W.shape[0] for W in self.weights))

    @property
    def has_biases(self) -> bool:
        """Whether any layer has a bias; the end-to-end matrix then has a column for the constant input 1."""
        return any(b is not None for b in self.biases)

    @property
    def num_inputs(self) -> int:
        """Columns of the end-to-end matrix: d_0, or d_0 + 1 with biases."""
        return self.dims[0] + self.has_biases


class LinearChain(ChainShape):
    """A deep linear network, its layers applied first to last.

    The chain holds read-only views of the arrays it is given. They are copied only where their data type or strides
    force it, so a training loop may go on changing them in place; a Hessian built before such a change is stale and
    says so.

    Parameters
    ----------
    weights
        One matrix a layer, ``weights[j]`` of shape (d_{j+1}, d_j), PyTorch's ``Linear.weight`` layout: NumPy arrays or
        CPU tensors, float32 or float64 (integers become float64; a mixture becomes float64). float16 and bfloat16 are
        read as stored; such a chain works in float32.
    biases
        None, or one entry a layer: a vector of length d_{j+1} or None.
    skip
        True, False, or one flag a layer. A skip link is I + weights[j] and needs a square matrix.

    Raises
    ------
    ValueError
        Shapes that do not chain, NaN or Inf, empty or complex arrays; the message names the layer.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> chain = fc.LinearChain([np.eye(3, 4), np.ones((2, 3))])
    >>> chain
    LinearChain(4 → 3 → 2, float64, 18 parameters)
    >>> chain.product()
    array([[1., 1., 1., 0.],
           [1., 1., 1., 0.]])

    """

    def __init__(
        self,
        weights: Sequence[Any],
        biases: Sequence[Any] | None = None,
        skip: bool | Sequence[bool] = False,
    ) -> None:
        matrices = _checked_weights(weights)
        vectors = _checked_biases(biases, matrices)
        self.skip = _checked_skip(skip, matrices)
        dtype = common_type(*matrices, *vectors)
        self.dtype: np.dtype[Any] = dtype
        keeps_half = dtype == np.float32
        self.weights = tuple(
            _frozen(with_unit_stride(W if keeps_half and is_half(W.dtype) else W.astype(dtype, copy=False)))
            for W in matrices
        )
        self.biases = tuple(
            None if b is None else _frozen(np.ascontiguousarray(b.astype(dtype, copy=False))) for b in vectors
        )
        given = [*weights, *(biases or ())]
        self._tensors = [value for value in given if is_tensor(value) and not value.is_inference()]

    @property
    def num_parameters(self) -> int:
        """P, the length of a parameter vector."""
        return sum(a.size for a in self._arrays())

    def product(self) -> FloatArray:
        """The end-to-end matrix Φ, (d_M, d_0), or (d_M, d_0 + 1) with biases, summed in float64."""
        narrow_output = self.dims[-1] <= self.num_inputs
        factor = None if narrow_output else np.eye(self.num_inputs)
        rows = _core.chain_hessian(self.core, narrow_output, factor).end_to_end()
        return np.asarray(rows if narrow_output else rows.T, dtype=self.dtype, order="C")

    def to_vector(self) -> FloatArray:
        """All parameters as one vector: W_1, b_1, W_2, b_2, …, row-major (the order of torch's parameters())."""
        return np.concatenate([a.astype(self.dtype, copy=False).ravel() for a in self._arrays()])

    def with_vector(self, v: Any) -> LinearChain:
        """A chain of the same form whose parameters are those of `v` (P,)."""
        vector = as_float_array("v", v, 1)
        blocks = self.blocks(vector)
        weights, biases = [], []
        for b in self.biases:
            weights.append(next(blocks))
            biases.append(None if b is None else next(blocks))
        return LinearChain(weights, biases, self.skip)

    def blocks(self, vector: FloatArray) -> Iterator[FloatArray]:
        """Views of a parameter vector's blocks, in the order W_1, b_1, W_2, b_2 and so on."""
        if vector.shape != (self.num_parameters,):
            raise ValueError(f"v has shape {vector.shape}; expected ({self.num_parameters},)")
        first = 0
        for array in self._arrays():
            yield vector[first : first + array.size].reshape(array.shape)
            first += array.size

    @cached_property
    def core(self) -> _core.Chain:
        """The kernels' view of this chain."""
        return _core.Chain(list(self.weights), list(self.biases), list(self.skip))

    def fingerprint(self) -> tuple[int, ...]:
        """What changes when the weights do: a hash of sampled entries, and torch's version counters."""
        return (self.core.fingerprint(), *(tensor._version for tensor in self._tensors))

    def _arrays(self) -> Iterator[FloatArray]:
        for W, b in zip(self.weights, self.biases, strict=True):
            yield W
            if b is not None:
                yield b

    def __repr__(self) -> str:
        widths = " → ".join(str(d) for d in self.dims)
        extras = [name for name, on in (("biases", self.has_biases), ("skip links", any(self.skip))) if on]
        size = f"{human(self.num_parameters)} parameters"
        return f"LinearChain({', '.join([widths, str(self.dtype), *extras, size])})"


def check_chain(chain: Any) -> None:
    """Refuse what is no LinearChain, and say what to do with a chain on a device or a module."""
    if isinstance(chain, LinearChain):
        return
    advice = ""
    if hasattr(chain, "parameters"):
        advice = " (flatcore.torch.chain(module) makes one where the module is linear)"
    elif hasattr(chain, "hessian") and hasattr(chain, "device"):
        advice = f"; on {chain.device} use chain.hessian(loss) and flatcore.torch.sharpness, or chain.cpu()"
    raise ValueError(f"chain is a {type(chain).__name__}; expected a LinearChain{advice}")


def _frozen(array: FloatArray) -> FloatArray:
    view = array.view()
    view.flags.writeable = False
    return view


def _checked_weights(weights: Sequence[Any]) -> list[FloatArray]:
    try:
        given = list(weights)
    except TypeError:
        raise ValueError(f"weights is a {type(weights).__name__}; expected a sequence of matrices") from None
    if not given:
        raise ValueError("weights is empty; expected at least one matrix")
    matrices: list[FloatArray] = []
    for j, value in enumerate(given):
        W = as_float_array(f"weights[{j}]", value, 2, keep_half=True)
        check_not_empty(f"weights[{j}]", W)
        if matrices and W.shape[1] != matrices[-1].shape[0]:
            raise ValueError(
                f"weights[{j}] has shape {W.shape}; its columns must match weights[{j - 1}]'s "
                f"{matrices[-1].shape[0]} rows"
            )
        check_finite(f"weights[{j}]", W)
        matrices.append(W)
    return matrices


def _checked_biases(biases: Sequence[Any] | None, weights: list[FloatArray]) -> list[FloatArray | None]:
    if biases is None:
        return [None] * len(weights)
    if len(biases) != len(weights):
        raise ValueError(f"biases has {len(biases)} entries; expected one for each of {len(weights)} layers")
    vectors: list[FloatArray | None] = []
    for j, value in enumerate(biases):
        if value is None:
            vectors.append(None)
            continue
        b = as_float_array(f"biases[{j}]", value, 1)
        if b.shape[0] != weights[j].shape[0]:
            raise ValueError(f"biases[{j}] has shape {b.shape}; expected ({weights[j].shape[0]},)")
        check_finite(f"biases[{j}]", b)
        vectors.append(b)
    return vectors


def _checked_skip(skip: bool | Sequence[bool], weights: list[FloatArray]) -> tuple[bool, ...]:
    flags = [skip] * len(weights) if isinstance(skip, (bool, np.bool_)) else list(skip)
    if len(flags) != len(weights):
        raise ValueError(f"skip has {len(flags)} entries; expected one for each of {len(weights)} layers")
    for j, (flag, W) in enumerate(zip(flags, weights, strict=True)):
        if not isinstance(flag, (bool, np.bool_)):
            raise ValueError(f"skip[{j}] is {flag!r}; expected True or False")
        if flag and W.shape[0] != W.shape[1]:
            raise ValueError(f"skip[{j}] is True but weights[{j}] has shape {W.shape}; a skip link needs a square one")
    return tuple(bool(flag) for flag in flags)
