"""Deep linear chains: their losses, curvature, flatness, balance, coupling and gains."""

from flatcore.linear.analysis import analyze, balance, coupling, gains
from flatcore.linear.chain import LinearChain
from flatcore.linear.dual import Dual
from flatcore.linear.flattest import flattest_sharpness
from flatcore.linear.hessian import GaussNewton, Hessian
from flatcore.linear.losses import CrossEntropyLoss, Loss, MaskedQuadraticLoss, QuadraticLoss
from flatcore.linear.many import analyze_many
from flatcore.linear.products import StaleWeightsError
from flatcore.linear.reduced import Reduced
from flatcore.linear.sharpness import sharpness

__all__ = [
    "CrossEntropyLoss",
    "Dual",
    "GaussNewton",
    "Hessian",
    "LinearChain",
    "Loss",
    "MaskedQuadraticLoss",
    "QuadraticLoss",
    "Reduced",
    "StaleWeightsError",
    "analyze",
    "analyze_many",
    "balance",
    "coupling",
    "flattest_sharpness",
    "gains",
    "sharpness",
]
