"""A checkpoint as one linear chain, where it is one: finite layers that follow each other, of moderate size."""

from __future__ import annotations

from collections.abc import Iterator

from flatcore._checks import FloatArray, human
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

# A chain's analysis decomposes every layer by LAPACK: entries times the smaller side, some ten seconds' work.
MOST_WORK = 2e10
_OWN_READER = (".npz", ".pt", ".pth")


class BrokenChainError(NotAChainError):
    """Layers of one chain, some of which hold NaN or Inf or cannot be read."""


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
        Names of another family, widths that do not match, too much work.
    BrokenChainError
        NaN or Inf, tensors that cannot be read.
    ValueError
        As :class:`flatcore.LinearChain`.

    """
    if not structure.is_plain:
        raise NotAChainError(f"{checkpoint.path}: its names are those of {structure.family}")
    shapes = [checkpoint[name].shape for name in structure.analysed]
    work = sum(rows * cols * min(rows, cols) for rows, cols in (shape for shape in shapes if len(shape) == 2))
    if work > MOST_WORK and not any_size:
        raise NotAChainError(
            f"{checkpoint.path}: too large for full decompositions ({human(work)} entries times sides)"
        )
    path = checkpoint.path
    own = path.suffix.lower() in _OWN_READER and path.is_file()
    model = read_model(path) if own else model_of(_arrays_of(checkpoint))
    fault = next(_faults(model), None)
    if fault is not None:
        raise BrokenChainError(f"{path}: {fault}")
    return model, model.chain()


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
