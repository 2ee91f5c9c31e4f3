"""Wide flat minima of committee machines: models, solvers and measures of flatness (docs/wide-flat-minima.md).

Loaded when first used, as ``flatcore.wfm``.
"""

from flatcore.wfm.focusing_bp import focusing_bp
from flatcore.wfm.local_entropy import LocalEntropy, local_entropy
from flatcore.wfm.models import Committee
from flatcore.wfm.patterns import Patterns, random_patterns, teacher_patterns
from flatcore.wfm.predictions import errors, fields, margins

__all__ = [
    "Committee",
    "LocalEntropy",
    "Patterns",
    "errors",
    "fields",
    "focusing_bp",
    "local_entropy",
    "margins",
    "random_patterns",
    "teacher_patterns",
]
