"""Which opener reads a file, by its ending; other rooms register theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flatcore.io.checkpoints.checkpoint import Checkpoint
from flatcore.io.checkpoints.numpy_files import open_npy, open_npz
from flatcore.io.checkpoints.safetensors import open_safetensors
from flatcore.io.npz import kind_of

Opener = Callable[[Path], Checkpoint]
TORCH_ENDINGS = (".pt", ".pth", ".bin")
_openers: dict[str, Opener] = {".safetensors": open_safetensors, ".npz": open_npz, ".npy": open_npy}
ENDINGS = (*_openers, *TORCH_ENDINGS)


def register_opener(endings: tuple[str, ...], opener: Opener) -> None:
    """Have checkpoints with these endings opened by `opener`.

    Parameters
    ----------
    endings
        In lower case, with the dot.
    opener
        Path → :class:`Checkpoint`; raises OSError or ValueError, with the path, for files it cannot read.

    """
    _openers.update(dict.fromkeys(endings, opener))


def open_file(path: Path) -> Checkpoint:
    """The tensors of one file.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`flatcore.io.open_checkpoint`.

    """
    ending = path.suffix.lower()
    if ending in _openers:
        return _openers[ending](path)
    if ending in TORCH_ENDINGS:
        raise ValueError(f"{path} is read by PyTorch alone; expected import flatcore.torch before it")
    with open(path, "rb") as stream:
        kind = kind_of(stream.read(8))
    raise ValueError(
        f"{path} is {kind}; expected {', '.join(ENDINGS)}, an index of shards or a folder; pickled tensors are safe to "
        "pass on as safetensors.torch.save_file(state_dict, path)"
    )
