"""Wide flat minima of committee machines: models, solvers and measures of flatness (docs/wide-flat-minima.md).

Loaded when first used, as ``flatcore.wfm``.
"""

from flatcore.wfm.models import Committee
from flatcore.wfm.patterns import Patterns, random_patterns, teacher_patterns
from flatcore.wfm.predictions import errors, fields, margins

__all__ = ["Committee", "Patterns", "errors", "fields", "margins", "random_patterns", "teacher_patterns"]
