"""hessian-eigenthings 1.0: Lanczos with one vector and without restarts, full reorthogonalisation.

Its default of 2k steps is far from converged; it gets as many as one-vector Lanczos needs for the tolerance on
``narrow`` (docs/theory.md), and its residual is in the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.contenders.base import missing
from benchmarks.contenders.torch_model import torch_model
from benchmarks.eigen_problem import EigenAnswer
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from benchmarks.eigen_problem import EigenProblem

STEPS = 84


class EigenthingsLanczos:
    """``hessian_eigenthings.lanczos(HessianOperator(…), k=…)``."""

    name = f"hessian-eigenthings, {STEPS} Lanczos steps"

    def available(self) -> str | None:
        """None where torch and hessian-eigenthings are installed."""
        return missing("torch", "'flatcore[torch]'") or missing("hessian_eigenthings", "hessian-eigenthings")

    def prepare(self, problem: EigenProblem, stage: Stages) -> Callable[[int], EigenAnswer]:
        """Set up the model and the operator."""
        from hessian_eigenthings import HessianOperator, lanczos, supervised_loss

        with stage("operator"):
            model, loss, data = torch_model(problem.hessian)
            H = HessianOperator(model, [data], supervised_loss(loss))

        def answer(k: int) -> EigenAnswer:
            found = lanczos(H, k=k, max_iter=STEPS, tol=problem.tol, reorthogonalize=True, which="LA", seed=0)
            values, vectors = found.eigenvalues.numpy(), found.eigenvectors.numpy()
            order = np.argsort(values)[::-1]
            return EigenAnswer(values[order], lambda: vectors[order].T, promised=False)

        return answer


CONTENDERS = {"top eigenpairs": (EigenthingsLanczos(),)}
