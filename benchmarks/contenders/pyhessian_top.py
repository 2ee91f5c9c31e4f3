"""PyHessian 0.1: power iteration on the gradient's graph, kept; its default tolerance and number of iterations.

It stops when two estimates of the eigenvalue are close, which power iteration reaches long before the vector is; its
answer is the value of the last estimate. Several eigenpairs, found one after the other, are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.contenders.base import CannotAnswerError, missing
from benchmarks.contenders.torch_model import torch_model
from benchmarks.eigen_problem import EigenAnswer
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.eigen_problem import EigenProblem


class PyHessianTop:
    """``pyhessian.hessian(model, criterion, data).eigenvalues()``."""

    name = "PyHessian"

    def available(self) -> str | None:
        """None where torch and PyHessian are installed."""
        return missing("torch", "'flatcore[torch]'") or missing("pyhessian", "PyHessian==0.1")

    def prepare(self, problem: EigenProblem, stage: Stages) -> Callable[[int], EigenAnswer]:
        """Set up the model and the gradient's graph."""
        import torch
        from pyhessian import hessian

        if problem.k != 1:
            raise CannotAnswerError("power iteration with deflation, minutes a pair: the top pair alone is compared")
        with stage("gradient graph"):
            model, loss, data = torch_model(problem.hessian)
            H = hessian(model, loss, data=data, cuda=False)

        def answer(k: int) -> EigenAnswer:
            torch.manual_seed(0)
            values, vectors = H.eigenvalues(top_n=k)
            flat = np.stack([torch.cat([x.reshape(-1) for x in vector]).numpy() for vector in vectors]).T
            return EigenAnswer(np.array(values), lambda: flat, promised=False)

        return answer


CONTENDERS = {"top eigenpairs": (PyHessianTop(),)}
