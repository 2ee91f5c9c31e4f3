r"""Hessian: the curvature of any model's loss, as an operator on its parameters.

For batches b the matrix is Σ_b c_b C_b with C_b the batch's Hessian, Gauss–Newton or Fisher matrix and c_b = w_b/Σw for
losses that are means, 1 for sums; over the ranks of torch.distributed where that runs. `_graphs.py` builds them.

cost    `_curvature.py`; with F the flops of a forward pass over all data: 6F a product (4F for JᵀMJ), and 9F (6F) more
        for the share of batches whose graphs are built again.
source  docs/torch.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor, nn

from flatcore._checks import FloatArray, as_numpy, check_choice, check_count, chunks, human
from flatcore._memory import check_memory
from flatcore.linear import StaleWeightsError
from flatcore.spectral import OperatorCost
from flatcore.spectral._vectors import BlockVectors
from flatcore.torch._batches import Batches, Forward
from flatcore.torch._curvature import CURVATURES
from flatcore.torch._device import free_memory
from flatcore.torch._graphs import Graph, Graphs
from flatcore.torch._parameters import ParameterSet, unit_blocks
from flatcore.torch._preflight import check_modules
from flatcore.torch._reduce import Ranks, home_of
from flatcore.torch._twice import SWITCHES, explained
from flatcore.torch._wrappers import unwrapped

_PRODUCT_PASSES = (4.0, 6.0)  # flops of a product of JᵀMJ, and of the Hessian, in forward passes
_REBUILD_PASSES = (6.0, 9.0)  # and of building a graph; counted as the bytes that take as long
_DENSE_BLOCK = 64
_TOGETHER = 32  # vectors that go through a graph together
_SMALL_FLOPS = 2e8  # of a product below which the calls cost more than the arithmetic


class Hessian:
    """Curvature of a model's loss with respect to all or some of its parameters.

    Parameters
    ----------
    model
        A ``torch.nn.Module`` that computes the same outputs every time (``.eval()`` where it has dropout or batch
        normalisation). Wrappers (DistributedDataParallel, torch.compile) are taken off.
    loss_fn
        (outputs, targets) → a scalar tensor.
    data
        One batch, a tuple (x, y), or something that yields batches and can be iterated again: a list, a DataLoader.
        Batches may differ in size.
    params
        None for all parameters that require gradients; else a name, a regular expression for whole names, a module, a
        parameter, or several of these.
    curvature
        ``"hessian"``; ``"ggn"``, the Gauss–Newton matrix JᵀHJ with the loss's Hessian at the outputs; ``"fisher_mc"``,
        an unbiased estimate of it by one label a sample, drawn from the model; ``"fisher_empirical"``, the mean of
        products of the samples' gradients. For these three the outputs are one tensor, samples along the first axis.
    reduction
        How loss_fn reduces a batch: ``"mean"`` or ``"sum"``. Checked by taking a batch twice.
    forward
        None where batches are (x, y) and their loss is loss_fn(model(x), y). Else a function (model, batch) → (outputs,
        targets, weight), weight being what the batch's mean was divided by: samples, or tokens that count.
        ``"fisher_empirical"`` takes an index of the outputs' first axis for a sample: flatten tokens into it.
    memory
        Bytes of the graphs that may be kept; None means half of the memory that is free.
    seed
        Of labels that are drawn, and of the order in which data that shuffle are read.
    group
        Ranks whose data belong together: None for all of them where ``torch.distributed`` is initialised (every rank
        must then call), False for this process alone, else a process group.

    Raises
    ------
    ValueError
        A bad argument; a model that is not deterministic, that is sharded, or that changes its buffers; a loss that
        does not reduce as said; an operator without second derivatives. The message says what to do.
    MemoryError
        Before the first graph is built, where it cannot fit.
    StaleWeightsError
        By products, when parameters have changed since.

    Examples
    --------
    >>> import torch, flatcore as fc
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    >>> data = torch.randn(20, 3).double(), torch.randint(2, (20,))
    >>> H = fc.torch.Hessian(model, torch.nn.CrossEntropyLoss(), data)
    >>> H
    Hessian(26 parameters, float64, cpu, 20 samples in 1 batch)
    >>> fc.eigsh(H, 2).status
    'converged'

    Source: Pearlmutter (1994) for products by automatic differentiation; docs/torch.md.

    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        data: Any,
        params: Any = None,
        curvature: str = "hessian",
        *,
        reduction: str = "mean",
        forward: Forward | None = None,
        memory: int | None = None,
        seed: int = 0,
        group: Any = None,
    ) -> None:
        inner = unwrapped(model)
        self._params = ParameterSet(inner, params)
        self.curvature = check_choice("curvature", curvature, CURVATURES)
        check_choice("reduction", reduction, ("mean", "sum"))
        self._ranks = Ranks(group, self._params.device)
        self._batches = Batches(data, loss_fn, forward, reduction, self._params.device, shard=self._ranks.size > 1)
        budget = _checked_budget(memory, self._params.device)
        self._seed = check_count("seed", seed, 0)
        check_modules(inner)
        self._options = (model, loss_fn, data, reduction, forward, memory, seed, group)
        self._graphs = Graphs(
            inner,
            self._params,
            self._batches,
            loss_fn,
            self.curvature,
            budget=budget,
            seed=self._seed,
            ranks=self._ranks,
        )
        small = self._passes * self._graphs.flops < _SMALL_FLOPS
        self._tried = False
        self._together = not self._graphs.convolved and (small or self.device.type == "cuda")

    # -- what it is ----------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, int]:
        """(P, P)."""
        return (self._params.total, self._params.total)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the products: that of the parameters, float32 where these are half precision."""
        return self._params.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self._params.device

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in the order of the vectors."""
        return self._params.names

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """The parameters themselves."""
        return self._params.tensors

    @property
    def value(self) -> float:
        """The loss over all data."""
        return self._graphs.value

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth knowing: tied and frozen parameters, checks that could not be made."""
        return (*self._params.notes(), *self._batches.notes, *self._graphs.notes)

    def gradient(self) -> Tensor:
        """The loss's gradient (P,), on the parameters' device."""
        return self._graphs.gradient.clone()

    def blocks(self, vector: Any) -> dict[str, Any]:
        """Views of a vector (P,), or of columns (P, k), shaped like the parameters, by name."""
        total = self._params.total
        if vector.shape[0] != total:
            raise ValueError(f"v has shape {tuple(vector.shape)}; expected ({total},) or ({total}, k)")
        ends = np.cumsum((0, *self._params.sizes))
        return {
            name: vector[ends[i] : ends[i + 1]].reshape(*shape, *vector.shape[1:])
            for i, (name, shape) in enumerate(zip(self.names, self._params.shapes, strict=True))
        }

    def layers(self) -> Iterator[tuple[str, Hessian]]:
        """The diagonal blocks: the operator of each module that holds chosen parameters itself, by name."""
        model, loss_fn, data, reduction, forward, memory, seed, group = self._options
        chosen = dict(zip(self.names, self.parameters, strict=True))
        for layer, names in self._params.layers().items():
            block = Hessian(
                model,
                loss_fn,
                data,
                [chosen[name] for name in names],
                self.curvature,
                reduction=reduction,
                forward=forward,
                memory=memory,
                seed=seed,
                group=group,
            )
            yield layer, block

    @property
    def cost(self) -> OperatorCost:
        """What a product costs, for the solvers' choice of block and basis."""
        size, flops = self.dtype.itemsize, self._graphs.flops
        return OperatorCost(
            shared_bytes=_REBUILD_PASSES[self.curvature == "hessian"] * self._graphs.rebuilt * flops * size / 8.0,
            bytes_per_vector=4.0 * self._params.total * size,
            flops_per_vector=self._passes * flops,
        )

    @property
    def _passes(self) -> float:
        """Flops of a product over those of a forward pass."""
        return _PRODUCT_PASSES[self.curvature == "hessian"]

    @cached_property
    def noise_floor(self) -> float:
        """Relative rounding of products, measured: ‖H(a + b) − Ha − Hb‖/‖H(a + b)‖ for two halves of a vector Hx."""
        generator = torch.Generator().manual_seed(self._seed)
        x = torch.randn(1, self._params.total, generator=generator, device="cpu")
        x = x.to(self.device, self._params.torch_dtype)
        w = self._products_of(x)
        first = (torch.rand(w.shape, generator=generator, device="cpu") < 0.5).to(self.device)
        whole = self._products_of(w)
        defect = whole - self._products_of(w * first) - self._products_of(w * ~first)
        size = float(torch.linalg.vector_norm(whole))
        return float(torch.linalg.vector_norm(defect)) / size if size > 0.0 else 0.0

    # -- products --------------------------------------------------------------------------------------------------

    def __matmul__(self, v: Any) -> Any:
        """Hv for a vector (P,), a block (P, k), or blocks shaped like the parameters; answers in kind."""
        if isinstance(v, (Mapping, list, tuple)):
            rows = self._params.from_blocks(v)
            out = self._products_of(rows if rows.ndim == 2 else rows[None])
            return self._params.to_blocks(out if rows.ndim == 2 else out[0], v)
        if isinstance(v, Tensor):
            if v.is_complex():
                raise ValueError(f"v is complex ({v.dtype}); expected real numbers")
            self._check_shape(v)
            given = v.detach() if v.is_floating_point() else v.double()
            rows = given.reshape(self._params.total, -1).T.to(self.device, self._params.torch_dtype)
            out = self._products_of(rows).to(given.device, given.dtype)
            return out[0] if v.ndim == 1 else out.T
        array = as_numpy("v", v)
        if array.dtype.kind not in "fbiu":
            raise ValueError(f"v has dtype {array.dtype}; expected real numbers")
        self._check_shape(array)
        floats = array if array.dtype.kind == "f" else array.astype(np.float64)
        image = self.rows_product(floats.reshape(self._params.total, -1).T)
        return image[0] if array.ndim == 1 else image.T

    def block_vectors(self, dtype: Any) -> BlockVectors:
        """Where the solvers keep their vectors: NumPy arrays for models on the CPU, else tensors on their device."""
        return home_of(self._params.total, dtype, self.device, self._ranks)

    def rows_product(self, rows: Any) -> Any:
        """Products with rows (k, P), an array in host memory or a tensor on the device, as new rows of their kind."""
        if isinstance(rows, Tensor):
            return self._products_of(rows.to(self._params.torch_dtype)).to(rows.dtype)
        host = np.require(rows, dtype=self.dtype, requirements=["C", "W"])
        given = torch.from_numpy(host)
        return self._products_of(given.to(self.device)).cpu().numpy().astype(rows.dtype, copy=False)

    def _products_of(self, rows: Tensor) -> Tensor:
        """Products with rows (k, P) on the device, summed over ranks."""
        self._ranks.check_same("v", rows)
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            out = torch.zeros(rows.shape, dtype=self._params.torch_dtype, device=self.device)
            with self._ranks.together("a product"):
                self._add_products(
                    out, self._params.split(rows.detach().clone() if rows.is_inference() else rows.detach())
                )
            return self._ranks.sum(out)

    def _add_products(self, out: Tensor, blocks: Sequence[Tensor]) -> None:
        """Add this rank's products with the rows in `blocks`."""

        def use(share: float, graph: Graph) -> None:
            for part in chunks(len(out), _TOGETHER):
                self._accumulate(out[part], share, graph, [block[part] for block in blocks])

        self._graphs.check_fresh()
        try:
            self._graphs.visit(use)
        except RuntimeError as error:
            if (told := explained(error)) is error:
                raise
            raise told from error

    def to_scipy(self) -> LinearOperator:
        """A SciPy ``LinearOperator`` on NumPy arrays, in the model's precision."""
        return LinearOperator(
            self.shape, matvec=self.__matmul__, matmat=self.__matmul__, rmatvec=self.__matmul__, dtype=self.dtype
        )

    def dense(self) -> FloatArray:
        """The whole matrix (P, P) in float64, by P products."""
        P = self._params.total
        check_memory(f"a dense {P} × {P} matrix", 8 * P * P)
        out = np.empty((P, P))
        for part, unit in unit_blocks(P, _DENSE_BLOCK, self.device, self._params.torch_dtype):
            out[part] = self._products_of(unit).cpu().numpy()
        return out

    def __reduce__(self) -> Any:
        raise TypeError("a Hessian holds autograd's graphs, which cannot be copied or pickled; build it again instead")

    def __repr__(self) -> str:
        count, samples = len(self._graphs.kept), self._graphs.samples
        held = sum(batch.graph is not None for batch in self._graphs.kept)
        batches = f"{count} batch{'es' * (count > 1)}" + (f", {held} kept" if held < count else "")
        what = "Hessian" if self.curvature == "hessian" else f"Hessian[{self.curvature}]"
        return (
            f"{what}({human(self._params.total)} parameters, {self.dtype}, {self.device}, "
            f"{human(samples)} samples in {batches})"
        )

    # -- internals ---------------------------------------------------------------------------------------------------

    def _accumulate(self, out: Tensor, share: float, graph: Graph, v: Sequence[Tensor]) -> None:
        """Add share·C v for rows v of a batch's matrix C, the rows together where that works."""
        if self._together and len(out) > 1 and (self._tried or self._try_together(graph, v)):
            out.add_(self._params.flat(graph.product(v, batched=True), out.shape[:1]), alpha=share)
            return
        for i, row in enumerate(out):
            row.add_(self._params.flat(graph.product([block[i] for block in v])), alpha=share)

    def _try_together(self, graph: Graph, v: Sequence[Tensor]) -> bool:
        """Whether all operators have rules for batches of vectors; those without warn or fail."""
        with SWITCHES, warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                graph.product([block[:2] for block in v], batched=True)
            except (RuntimeError, Warning) as error:
                if isinstance(error, (torch.OutOfMemoryError, StaleWeightsError)):
                    raise
                self._together = False
                self._graphs.notes.append(f"vectors are multiplied one by one: {str(error).splitlines()[0]}")
        self._tried = True
        return self._together

    def _check_shape(self, v: Any) -> None:
        P = self._params.total
        if v.ndim not in (1, 2) or v.shape[0] != P:
            raise ValueError(f"v has shape {tuple(v.shape)}; expected ({P},) or ({P}, k)")


def _checked_budget(memory: Any, device: torch.device) -> float:
    """Bytes of graphs to keep."""
    if memory is not None:
        return float(check_count("memory", memory, 0))
    free = free_memory(device)
    return float("inf") if free is None else 0.5 * free
