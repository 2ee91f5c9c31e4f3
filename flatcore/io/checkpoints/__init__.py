"""Checkpoints of any size, from anyone: tables of tensors first, one tensor in memory at a time, no code run."""

import importlib
from pathlib import Path

from flatcore._atomic import PathLike
from flatcore._checks import as_path
from flatcore.io.checkpoints.checkpoint import Checkpoint, StoredTensor
from flatcore.io.checkpoints.folders import INDEX, find_file, open_located
from flatcore.io.checkpoints.openers import ENDINGS, TORCH_ENDINGS, register_opener

__all__ = ["ENDINGS", "Checkpoint", "StoredTensor", "load_opener", "open_checkpoint", "register_opener"]


def open_checkpoint(path: PathLike) -> Checkpoint:
    """Open a checkpoint; its tensors stay in the files until they are loaded.

    Parameters
    ----------
    path
        A file (``.safetensors``, ``.npz``, ``.npy``; ``.pt``, ``.pth``, ``.bin`` after ``import flatcore.torch``), an
        index of shards (``model.safetensors.index.json``), or a folder with one of these, as Hugging Face's.

    Returns
    -------
    Checkpoint
        A mapping from names to :class:`StoredTensor`; a context manager.

    Raises
    ------
    FileNotFoundError
        No such file or shard.
    ValueError
        No path, another kind of file, a damaged one, headers that their files do not bear out, Python objects, archives
        that inflate without measure, shards outside the folder.

    Examples
    --------
    >>> import numpy as np, tempfile, flatcore.io
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/m.npz", W1=np.eye(2), b1=np.zeros(2))
    ...     with flatcore.io.open_checkpoint(f"{folder}/m.npz") as checkpoint:
    ...         print(list(checkpoint), checkpoint["W1"].dtype, checkpoint["b1"].load())
    ['W1', 'b1'] F64 [0. 0.]

    """
    return open_located(as_path("path", path))


def load_opener(*paths: PathLike) -> None:
    """Import what reads PyTorch files, where one of the paths stands for such a file.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`open_checkpoint`.
    ModuleNotFoundError
        There is no PyTorch.

    """
    if any(find_file(Path(path))[0].name.removesuffix(INDEX).lower().endswith(TORCH_ENDINGS) for path in paths):
        importlib.import_module("flatcore.torch._checkpoints")  # registers the opener
