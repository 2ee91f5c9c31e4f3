"""Contenders: the fastest honest version of each way to answer, one file a way.

A contender has a ``name``, ``available()``, which is None or the reason why it cannot run, and ``prepare(problem,
stage)``, which does what is done once and returns a function from the argument (a vector, a block of vectors) to the
answer. All get the same arrays, precision and threads, and only the returned function is timed in the rounds.
"""

from benchmarks.contenders.base import Contender
from benchmarks.contenders.curvlinops_hessian import CurvlinopsHessian
from benchmarks.contenders.flatcore_hessian import FlatcoreHessian
from benchmarks.contenders.torch_hessian import DoubleBackward, DoubleBackwardGraphKept, ForwardOverReverse

HESSIAN_PRODUCTS: tuple[Contender, ...] = (
    FlatcoreHessian(),
    DoubleBackward(),
    DoubleBackwardGraphKept(),
    ForwardOverReverse(),
    CurvlinopsHessian(),
)

__all__ = ["HESSIAN_PRODUCTS", "Contender", "DoubleBackwardGraphKept", "FlatcoreHessian"]
