"""One kernel at a time: flatcore's, NumPy's best, and plain Python on lists of floats.

Plain Python gets its lists in the set-up. The Hessian kernels are in ``narrow_end.py`` and ``flatcore_hessian.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from operator import mul
from typing import TYPE_CHECKING, Any

import numpy as np

import flatcore as fc
from benchmarks.contenders.base import lacking
from benchmarks.kernel_problem import gaps, normal_step, orthogonalised, overlaps
from benchmarks.narrow_end import ListMatrices
from benchmarks.timing import Stages
from flatcore import _core

if TYPE_CHECKING:
    from benchmarks.kernel_problem import KernelProblem

product, transpose, minus = ListMatrices.product, ListMatrices.transpose, ListMatrices.minus


@dataclass(frozen=True)
class Kernel:
    """A function of the problem's arrays, converted in the set-up."""

    name: str
    function: Callable[..., Any]
    convert: Callable[[Any], Any] = np.asarray
    needs: str | None = None  # a name flatcore's extension must have

    def available(self) -> str | None:
        """None where the extension has what is needed."""
        return None if self.needs is None else lacking(_core, self.needs)

    def prepare(self, problem: KernelProblem, stage: Stages) -> Callable[[Any], Any]:
        """Convert the arrays."""
        arrays = [self.convert(array) for array in problem.argument]
        return lambda _: self.function(*arrays)


def flatcore_orthogonalised(V: Any, W: Any) -> Any:
    """Gram matrix and update of the block vectors; W is overwritten there, so a copy is."""
    W = W.copy()
    _core.update(W, V, _core.gram(V, W))
    return W


def flatcore_normal_step(A: Any, X: Any) -> Any:
    """One read of A."""
    out = np.empty_like(X)
    _core.normal_product(A, X, out, 1.0)
    return out


def flatcore_gaps(*weights: Any) -> Any:
    """The chain is a view."""
    return np.array(_core.layer_balance(fc.LinearChain(weights).core))


def python_orthogonalised(V: Any, W: Any) -> Any:
    """W − (WVᵀ)V on lists."""
    return minus(W, product(product(W, transpose(V)), V))


def python_normal_step(A: Any, X: Any) -> Any:
    """X AᵀA on lists."""
    return product(product(X, transpose(A)), A)


def python_gaps(*weights: Any) -> Any:
    """Gaps on lists."""
    absolute, relative = [], []
    for lower, upper in pairwise(weights):
        a, b = product(transpose(upper), upper), product(lower, transpose(lower))
        gap = math.sqrt(squares(minus(a, b)))
        absolute.append(gap)
        relative.append(gap / math.sqrt(squares(a) + squares(b)))
    return [absolute, relative]


def squares(A: Any) -> float:
    """‖A‖_F² on lists."""
    return sum(sum(map(mul, row, row)) for row in A)


def python_overlaps(U: Any, Vt: Any) -> Any:
    """|UᵀV| on lists."""
    return [[abs(x) for x in row] for row in product(transpose(U), transpose(Vt))]


def _three(flatcore: Callable[..., Any], numpy: Callable[..., Any], python: Callable[..., Any], needs: str) -> Any:
    return (
        Kernel("flatcore", flatcore, needs=needs),
        Kernel("NumPy", numpy),
        Kernel("plain Python", python, lambda array: array.tolist()),
    )


CONTENDERS = {
    "kernel: orthogonalisation": _three(flatcore_orthogonalised, orthogonalised, python_orthogonalised, "update"),
    "kernel: top-k SVD step": _three(flatcore_normal_step, normal_step, python_normal_step, "normal_product"),
    "kernel: balance": _three(flatcore_gaps, gaps, python_gaps, "layer_balance"),
    "kernel: coupling": _three(_core.overlaps, overlaps, python_overlaps, "overlaps"),
}
