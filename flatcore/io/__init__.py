"""Files: models and data read without unpickling anything, results written whole or not at all."""

from flatcore._atomic import atomic_file, check_target, write_npz_atomic, write_text_atomic
from flatcore.io.arrays import NamedArrays, register_reader
from flatcore.io.checkpoints import Checkpoint, StoredTensor, load_opener, open_checkpoint, register_opener
from flatcore.io.inspection import Inspection, inspect_checkpoint
from flatcore.io.model import ModelFile, NotAChainError, assign_names, bias_name, natural_key
from flatcore.io.npz import model_of, read_data, read_model

__all__ = [
    "Checkpoint",
    "Inspection",
    "ModelFile",
    "NamedArrays",
    "NotAChainError",
    "StoredTensor",
    "assign_names",
    "atomic_file",
    "bias_name",
    "check_target",
    "inspect_checkpoint",
    "load_opener",
    "model_of",
    "natural_key",
    "open_checkpoint",
    "read_data",
    "read_model",
    "register_opener",
    "register_reader",
    "write_npz_atomic",
    "write_text_atomic",
]
