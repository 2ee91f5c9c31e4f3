"""Named arrays → the layers of a chain: which arrays are weights, in which order, with which biases.

Weights are the matrices called ``W`` and a number, or a name that ends in ``weight``; where no matrix is called so, all
matrices are. They are applied in natural order: W2 before W10. The bias of ``W3`` is ``b3``, that of ``x.weight`` is
``x.bias``. Everything else is ignored, and said to be.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from flatcore._checks import FloatArray
from flatcore.linear.chain import LinearChain


class NotAChainError(ValueError):
    """The arrays are not the layers of one linear chain."""


_MOST_DIGITS = 1000  # of a number in a name that are looked at: Python converts 4300

_LETTER_W = re.compile(r"(?:^|(?<=[._/]))[Ww](?=_?[0-9]*$)")
_WORD_WEIGHT = re.compile(r"(?P<w>[Ww])eight$")


def natural_key(name: str) -> tuple[str | int, ...]:
    """Sort key that counts: W2 before W10.

    Parameters
    ----------
    name
        Any name.

    Returns
    -------
    tuple
        Text and numbers, alternating.

    Examples
    --------
    >>> sorted(["W10", "W2", "W1"], key=natural_key)
    ['W1', 'W2', 'W10']

    """
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part[:_MOST_DIGITS]) if i % 2 else part for i, part in enumerate(parts))


def _looks_like_weight(name: str) -> bool:
    return bool(_LETTER_W.search(name) or _WORD_WEIGHT.search(name))


def bias_name(weight: str) -> str | None:
    """W3 → b3, x.weight → x.bias, and None for a name of neither form."""
    if _WORD_WEIGHT.search(weight):
        return _WORD_WEIGHT.sub(lambda match: "Bias" if match["w"] == "W" else "bias", weight)
    return _LETTER_W.sub("b", weight) if _LETTER_W.search(weight) else None


def assign_names(
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[tuple[str, ...], tuple[str | None, ...], tuple[str, ...]]:
    """Tell weights, biases and other arrays apart by name and shape.

    Parameters
    ----------
    shapes
        Shape of each array of numbers, by name.

    Returns
    -------
    weights
        Names of the layers' matrices, first to last.
    biases
        For each of them the name of its bias, or None.
    ignored
        All other names.

    Raises
    ------
    NotAChainError
        No matrix, a weight of three dimensions or more (a convolution's kernel), an order that the names leave open.
    ValueError
        A bias that is no vector.

    Examples
    --------
    >>> assign_names({"W10": (2, 3), "W2": (3, 3), "b2": (3,), "step": ()})
    (('W2', 'W10'), ('b2', None), ('step',))

    """
    matrices = sorted((name for name, shape in shapes.items() if len(shape) == 2), key=natural_key)
    weights = [name for name in matrices if _looks_like_weight(name)] or matrices
    kernel = next((name for name, shape in shapes.items() if len(shape) > 2 and _WORD_WEIGHT.search(name)), None)
    if kernel is not None:
        raise NotAChainError(f"{kernel} has shape {shapes[kernel]}; expected matrices, not kernels of convolutions")
    if not weights:
        raise NotAChainError(f"no matrix among {_listed(shapes)}; expected one a layer, such as W1, W2, …")
    _check_order(weights)
    biases: list[str | None] = []
    for weight in weights:
        bias = bias_name(weight)
        shape = None if bias is None else shapes.get(bias)
        if shape is not None and len(shape) != 1:
            raise ValueError(f"{bias} has shape {shape}; expected a vector, the bias of {weight}")
        biases.append(None if shape is None else bias)
    used = {*weights, *biases}
    return tuple(weights), tuple(biases), tuple(name for name in shapes if name not in used)


def _check_order(weights: list[str]) -> None:
    """Refuse names whose numbers do not say which layer comes first."""
    sequences = sorted({re.sub("[0-9]+", "#", name) for name in weights if re.search("[0-9]", name)})
    if len(sequences) > 1:
        raise NotAChainError(
            f"the order of the layers is ambiguous: their names are numbered as {' and as '.join(sequences)}; "
            "expected the layers of one chain"
        )
    for first, second in pairwise(weights):
        if natural_key(first) == natural_key(second):
            raise NotAChainError(f"the order of the layers is ambiguous: both {first} and {second}")


def _listed(shapes: Mapping[str, tuple[int, ...]], most: int = 8) -> str:
    names = [f"{name} {shape}" for name, shape in shapes.items()]
    return (
        ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
        or "no arrays of numbers"
    )


@dataclass(frozen=True, eq=False)
class ModelFile:
    """A model as read from a file.

    Parameters
    ----------
    path
        The file.
    weights, weight_names
        The layers' matrices, first to last, and what the file calls them.
    biases, bias_names
        For each layer a vector and its name, or None.
    ignored
        Names in the file that are neither.
    skip
        Which layers have a skip link, where the file says so.
    notes
        What else is to be said about how the file was read.

    """

    path: Path
    weights: tuple[FloatArray, ...]
    biases: tuple[FloatArray | None, ...]
    weight_names: tuple[str, ...]
    bias_names: tuple[str | None, ...]
    ignored: tuple[str, ...] = ()
    skip: tuple[bool, ...] | None = None
    notes: tuple[str, ...] = ()

    def layers(self) -> Iterator[tuple[str, str]]:
        """Name, and shape, type and bias, of each layer in the order in which they are applied."""
        skip = self.skip or (False,) * len(self.weights)
        for name, W, bias, skips in zip(self.weight_names, self.weights, self.bias_names, skip, strict=True):
            extras = (f", bias {bias}" if bias else "") + ", skip link" * skips
            yield name, f"{W.shape[0]} × {W.shape[1]} {W.dtype}" + extras

    def describe(self) -> str:
        """Say in words what was read, and in which order."""
        layers = list(self.layers())
        width = max(len(name) for name, _ in layers)
        head = f"{self.path}: {len(layers)} layer{'s' * (len(layers) != 1)}, applied in this order"
        lines = [f"  {j:>{len(str(len(layers)))}}  {name:<{width}}  {what}" for j, (name, what) in enumerate(layers, 1)]
        ignored = [f"ignored: {', '.join(self.ignored)}"] if self.ignored else []
        return "\n".join([head, *lines, *(f"  {text}" for text in (*ignored, *self.notes))])

    def to_dict(self) -> dict[str, Any]:
        """The same as plain strings and lists, ready for JSON."""
        return {
            "path": str(self.path),
            "weights": list(self.weight_names),
            "shapes": [list(W.shape) for W in self.weights],
            "dtypes": [str(W.dtype) for W in self.weights],
            "biases": list(self.bias_names),
            "skip": list(self.skip or ()),
            "ignored": list(self.ignored),
            "notes": list(self.notes),
        }

    def chain(self) -> LinearChain:
        """The model as a chain.

        Returns
        -------
        LinearChain
            With skip links where the file has an array ``skip``.

        Raises
        ------
        NotAChainError
            Widths that do not match, with the file's own names for the layers.
        ValueError
            As :class:`flatcore.LinearChain`.

        """
        names = {"weights": self.weight_names, "biases": self.bias_names}
        try:
            return LinearChain(self.weights, self.biases if any(self.bias_names) else None, self.skip or False)
        except ValueError as error:
            message = re.sub(
                r"\b(weights|biases)\[([0-9]+)\]", lambda match: str(names[match[1]][int(match[2])]), str(error)
            )
            fits = all(W.shape[1] == V.shape[0] for V, W in pairwise(self.weights))
            raise (ValueError if fits else NotAChainError)(f"{self.path}: {message}") from None
