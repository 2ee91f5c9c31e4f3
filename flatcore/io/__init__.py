"""Files: models and data read without unpickling anything, results written whole or not at all."""

from flatcore.io.atomic import atomic_file, check_target, write_npz_atomic, write_text_atomic
from flatcore.io.model import ModelFile, assign_names, natural_key
from flatcore.io.npz import read_data, read_model

__all__ = [
    "ModelFile",
    "assign_names",
    "atomic_file",
    "check_target",
    "natural_key",
    "read_data",
    "read_model",
    "write_npz_atomic",
    "write_text_atomic",
]
