"""Committee machines: their shapes and conventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore._checks import as_float_array, as_numpy, check_choice, check_finite
from flatcore.wfm._arguments import check_size


@dataclass(frozen=True)
class Committee:
    """A committee or parity machine with one hidden layer of sign units.

    Unit k has the field h_k = w_k·ξ_k/√n and the sign τ_k = sgn h_k; the output is sgn Σ_k τ_k (majority) or ∏_k τ_k
    (parity). One hidden unit is the perceptron.

    Parameters
    ----------
    n_inputs
        N, all inputs of the machine.
    n_hidden
        K, hidden units: odd for a majority.
    kind
        ``"tree"``: each unit sees its own n = N/K inputs, in order. ``"full"``: every unit sees all n = N.
    weights
        ``"binary"``: ±1, n odd so that no field vanishes. ``"continuous"``: ‖w_k‖² = n.
    activation
        ``"majority"`` or ``"parity"``.

    Raises
    ------
    ValueError
        A majority of an even number, inputs that K units cannot share, binary weights with an even fan-in.

    References
    ----------
    Baldassi, Pittorino and Zecchina, arXiv:1905.07833.

    Examples
    --------
    >>> Committee(45, 5).shape
    (5, 9)
    """

    n_inputs: int
    n_hidden: int = 1
    kind: str = "tree"
    weights: str = "binary"
    activation: str = "majority"

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_inputs", check_size("n_inputs", self.n_inputs))
        object.__setattr__(self, "n_hidden", check_size("n_hidden", self.n_hidden))
        check_choice("kind", self.kind, ("tree", "full"))
        check_choice("weights", self.weights, ("binary", "continuous"))
        check_choice("activation", self.activation, ("majority", "parity"))
        if self.activation == "majority" and self.n_hidden % 2 == 0:
            raise ValueError(f"n_hidden is {self.n_hidden}; expected an odd number, so that a majority always exists")
        if self.kind == "tree" and self.n_inputs % self.n_hidden:
            raise ValueError(
                f"n_inputs is {self.n_inputs}; expected a multiple of n_hidden = {self.n_hidden}, to be shared"
            )
        if self.weights == "binary" and self.fan_in % 2 == 0:
            raise ValueError(
                f"n_inputs is {self.n_inputs}, {self.fan_in} for each unit; binary weights need an odd number, "
                "so that no field is zero"
            )

    @property
    def fan_in(self) -> int:
        """n, the inputs of one unit."""
        return self.n_inputs // self.n_hidden if self.kind == "tree" else self.n_inputs

    @property
    def shape(self) -> tuple[int, int]:
        """(K, n), the shape of the weights."""
        return self.n_hidden, self.fan_in

    @property
    def num_weights(self) -> int:
        """K·n."""
        return self.n_hidden * self.fan_in

    @property
    def segments(self) -> int:
        """Pieces into which inputs are cut: one for each unit of a tree."""
        return self.n_hidden if self.kind == "tree" else 1


def checked_model(model: Any) -> Committee:
    """Refuse anything but a committee."""
    if not isinstance(model, Committee):
        raise ValueError(f"model is a {type(model).__name__}; expected a Committee")
    return model


def checked_weights(model: Committee, weights: Any, name: str = "weights") -> NDArray[np.float64]:
    """Weights (K, n), or flat ones, as a float64 array: ±1 for a binary model, finite and no unit zero else."""
    array = as_numpy(name, weights)
    if array.shape == (model.num_weights,):
        array = array.reshape(model.shape)
    if array.shape != model.shape:
        raise ValueError(f"{name} has shape {array.shape}; expected (K, n) = {model.shape}")
    values: NDArray[np.float64] = np.ascontiguousarray(as_float_array(name, array, 2), dtype=np.float64)
    check_finite(name, values)
    if model.weights == "binary" and not np.all(np.abs(values) == 1.0):
        k, i = np.argwhere(np.abs(values) != 1.0)[0]
        raise ValueError(f"{name}[{k}, {i}] is {values[k, i]:g}; the model is binary, expected ±1")
    if not np.all(values.any(axis=1)):
        raise ValueError(f"{name}[{int(np.argmin(values.any(axis=1)))}] is zero; expected a unit with a direction")
    return values


def normalised(model: Committee, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each unit scaled to ‖w_k‖² = n; one without a direction gets ones, and NaN one that is not finite."""
    weights = np.where(weights.any(axis=-1, keepdims=True), weights, 1.0)
    # By a power of two first: squares of what is tiny or huge leave the range.
    weights = np.ldexp(weights, -np.frexp(np.abs(weights).max(axis=-1, keepdims=True))[1])
    norms = np.linalg.norm(weights, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        out: NDArray[np.float64] = weights * (np.sqrt(model.fan_in) / norms)
    return out
