"""PyTorch's singular values: full decompositions, and the randomised ``svd_lowrank``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.contenders.base import missing
from benchmarks.svd_problem import Triplets
from benchmarks.timing import Stages

if TYPE_CHECKING:
    from torch import Tensor

    from benchmarks.svd_problem import SvdProblem


class _TorchSvd:
    name: str

    def available(self) -> str | None:
        """None where torch is installed."""
        return missing("torch", "'flatcore[torch]'")

    def prepare(self, problem: SvdProblem, stage: Stages) -> Callable[[int], Triplets]:
        """Share the matrix's memory."""
        import torch

        A = torch.from_numpy(problem.A)
        return lambda k: self.triplets(torch, A, k)

    def triplets(self, torch: Any, A: Tensor, k: int) -> Triplets:
        """The answer."""
        raise NotImplementedError


class FullSvd(_TorchSvd):
    """``torch.linalg.svd``."""

    name = "torch.linalg.svd"

    def triplets(self, torch: Any, A: Tensor, k: int) -> Triplets:
        """The first k of all."""
        U, s, Vt = torch.linalg.svd(A, full_matrices=False)
        return Triplets(U[:, :k].numpy(), s[:k].numpy(), Vt[:k].T.numpy())


class ValuesOnly(_TorchSvd):
    """``torch.linalg.svdvals``."""

    name = "torch.linalg.svdvals, values only"

    def triplets(self, torch: Any, A: Tensor, k: int) -> Triplets:
        """The first k of all values."""
        return Triplets(None, torch.linalg.svdvals(A)[:k].numpy(), None)


class LowRank(_TorchSvd):
    """``torch.svd_lowrank``."""

    def __init__(self, q: int, niter: int) -> None:
        self.name = f"torch.svd_lowrank, q = {q}, niter = {niter}"
        self._q, self._niter = q, niter

    def triplets(self, torch: Any, A: Tensor, k: int) -> Triplets:
        """The first k of q."""
        torch.manual_seed(0)
        U, s, V = torch.svd_lowrank(A, q=self._q, niter=self._niter)
        return Triplets(U[:, :k].numpy(), s[:k].numpy(), V[:, :k].numpy())


CONTENDERS = {"top singular triplets": (FullSvd(), ValuesOnly(), LowRank(26, 2), LowRank(32, 10))}
