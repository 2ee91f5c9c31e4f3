"""Wide flat minima of committee machines: models, solvers and measures of flatness (docs/wide-flat-minima.md).

Loaded when first used, as ``flatcore.wfm``.
"""

from flatcore.wfm.cross_entropy import CrossEntropyHessian, cross_entropy
from flatcore.wfm.cross_entropy_sgd import cross_entropy_sgd
from flatcore.wfm.focusing_bp import focusing_bp
from flatcore.wfm.hessian_spectrum import hessian_spectrum
from flatcore.wfm.least_action import entropic_least_action, least_action
from flatcore.wfm.local_energy import local_energy
from flatcore.wfm.local_entropy import LocalEntropy, local_entropy
from flatcore.wfm.models import Committee
from flatcore.wfm.patterns import Patterns, random_patterns, teacher_patterns
from flatcore.wfm.predictions import errors, fields, margins
from flatcore.wfm.replicated import replicated_sgd

__all__ = [
    "Committee",
    "CrossEntropyHessian",
    "LocalEntropy",
    "Patterns",
    "cross_entropy",
    "cross_entropy_sgd",
    "entropic_least_action",
    "errors",
    "fields",
    "focusing_bp",
    "hessian_spectrum",
    "least_action",
    "local_energy",
    "local_entropy",
    "margins",
    "random_patterns",
    "replicated_sgd",
    "teacher_patterns",
]
