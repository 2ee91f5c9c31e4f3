"""A checkpoint as one linear chain, where it is one: two or more finite layers in a row, of moderate size."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from flatcore._checks import FloatArray, human, listed
from flatcore.checkpoints.ranks import survey
from flatcore.checkpoints.structure import Structure
from flatcore.io import (
    Checkpoint,
    ModelFile,
    NamedArrays,
    NotAChainError,
    StoredTensor,
    model_of,
    natural_key,
    read_model,
)
from flatcore.io.parametrized import parametrized_of
from flatcore.linear import LinearChain

# A chain's analysis decomposes every layer by LAPACK: entries times the smaller side, some two seconds' work of a core.
MOST_WORK = 2e9
_MOST_POWER: dict[type, int] = {np.float64: 500, np.float32: 60}  # of two, of what is squared again
_OWN_READER = (".npz", ".pt", ".pth")


class BrokenChainError(NotAChainError):
    """Layers of one chain, some of which hold NaN or Inf, cannot be read or are not there."""


def chain_of(checkpoint: Checkpoint, structure: Structure, any_size: bool = False) -> tuple[ModelFile, LinearChain]:
    """The layers and the chain.

    Parameters
    ----------
    checkpoint
        An open one.
    structure
        What it was taken for.
    any_size
        Whether the analysis may take as long as it likes.

    Raises
    ------
    NotAChainError
        Names of another family, widths that do not match, a single layer or too much work (but for `any_size`), entries
        whose products leave float64, whatever else the file's own reader or :class:`flatcore.LinearChain` refuses.
    BrokenChainError
        NaN or Inf, tensors that cannot be read, or that an index promises in vain.

    """
    try:
        return _read(checkpoint, structure, any_size)
    except NotAChainError:
        raise
    except ValueError as error:
        raise NotAChainError(str(error)) from None


def _read(checkpoint: Checkpoint, structure: Structure, any_size: bool) -> tuple[ModelFile, LinearChain]:
    if not structure.is_plain:
        raise NotAChainError(f"{checkpoint.path}: its names are those of {structure.family}")
    for name, reason in checkpoint.missing.items():
        raise BrokenChainError(f"{checkpoint.path}: {name}: {reason}")
    shapes = [checkpoint[name].shape for name in structure.analysed]
    work = sum(rows * cols * min(rows, cols) for rows, cols in (shape for shape in shapes if len(shape) == 2))
    if work > MOST_WORK and not any_size:
        raise NotAChainError(
            f"{checkpoint.path}: too large for full decompositions ({human(work)} entries times sides)"
        )
    path = checkpoint.path
    own = path.suffix.lower() in _OWN_READER and path.is_file()
    model = read_model(path) if own else model_of(_arrays_of(checkpoint))
    if len(model.weights) == 1 and not any_size:
        raise NotAChainError(f"{path}: a single layer")
    fault = next(_faults(model), None)
    if fault is not None:
        raise BrokenChainError(f"{path}: {fault}")
    _check_sizes(model)
    return model, model.chain()


def _check_sizes(model: ModelFile) -> None:
    """Refuse layers whose squares, or whose products, would overflow or vanish in the precision of the chain."""
    most = _MOST_POWER[np.float64 if any(W.dtype == np.float64 for W in model.weights) else np.float32]
    typical = [survey(W).frobenius / math.sqrt(min(W.shape)) for W in model.weights]
    powers = [math.log2(size) for size in typical if size > 0.0]
    if max(map(abs, [*(2.0 * power for power in powers), sum(powers)]), default=0.0) > most:
        texts = dict.fromkeys(f"2^{power:.0f}" for power in powers)
        raise NotAChainError(
            f"{model.path}: singular values near {listed(list(texts))}; expected their squares, and the product of all "
            f"layers, between 2^−{most} and 2^{most}"
        )


def _arrays_of(checkpoint: Checkpoint) -> NamedArrays:
    """Its floating-point tensors in natural order of their names, mapped where that is possible."""
    floating = [name for name, tensor in checkpoint.items() if tensor.is_floating and tensor.nbytes]
    parametrized = parametrized_of({name: checkpoint[name].shape for name in floating})
    parts = {part for own in parametrized.values() for part in own}
    names = sorted((name for name in floating if name not in parts), key=natural_key)
    return NamedArrays(
        checkpoint.path,
        {name: _loaded(checkpoint[name]) for name in names},
        ignored=(*(name for name in checkpoint if name not in floating), *checkpoint.others),
        notes=(*checkpoint.notes, "the order of layers is that of the names"),
        tied=checkpoint.tied,
        parametrized=parametrized,
    )


def _loaded(tensor: StoredTensor) -> FloatArray:
    try:
        return tensor.load()
    except ValueError as error:
        raise BrokenChainError(str(error)) from None


def _faults(model: ModelFile) -> Iterator[str]:
    named = zip((*model.weight_names, *model.bias_names), (*model.weights, *model.biases), strict=True)
    for name, array in named:
        if array is not None and (fault := survey(array).fault):
            yield f"{name}: {fault}"
