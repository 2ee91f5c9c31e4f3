r"""FlatnessMonitor: sharpness, its stability limit, coupling and balance during training, which never notices.

A measurement builds the Hessian of the loss on the monitor's own data and *follows* its largest eigenpairs from where
they were (`_follow.py`), a few products instead of a cold start's. Following can miss an eigenvalue that has grown
elsewhere; so every `certify_every`-th measurement, and any whose residuals do not come down, is *certified*: a full
`flatcore.eigsh` with its probe, warm-started. Its row says so, and keeps what following had found beside it.

cost    2 to 4 products a followed measurement; some 25 more a certified one (`flatcore.eigsh`); setting up the
        Hessian, about two products; (keep + 4(k + 1))·P numbers of memory between measurements.
source  docs/torch.md.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from flatcore._checks import FloatArray, check_count
from flatcore.spectral import eigsh
from flatcore.torch._batches import Forward
from flatcore.torch._callbacks import huggingface_callback, lightning_callback
from flatcore.torch._consecutive import ConsecutiveLayers
from flatcore.torch._follow import Follower
from flatcore.torch._hessian import Hessian
from flatcore.torch._row_files import CsvRows, TensorBoardRows
from flatcore.torch._stability import stability_limit
from flatcore.torch._untouched import untouched
from flatcore.torch._wrappers import unwrapped

Row = dict[str, Any]
_NOISE_PRODUCTS = 4  # that measuring `Hessian.noise_floor` takes
_NO_FAULT = (ValueError, ArithmeticError, MemoryError, torch.OutOfMemoryError)  # for which no training should end


class FlatnessMonitor:
    """Sharpness, stability limit, coupling and balance, every so many steps of a training.

    Parameters
    ----------
    model, loss_fn, data, forward, params, reduction, memory, group
        Of :class:`flatcore.torch.Hessian`. The data are the monitor's own, a fixed batch or a loader. Measured in
        evaluation mode.
    every
        Steps from one measurement to the next.
    k
        Number of eigenvalues.
    tol
        Relative residual ‖Hv − λv‖ ≤ tol·λ_1. An eigenvalue's error is at most that, and about its square over the
        relative gap to the next one: 1e-2 reads three digits where the gap is a tenth.
    optimizer
        Whose step size gives the limit; may come with each call instead.
    certify_every
        Every so many measurements one is certified, the first one among them; None certifies the first one alone, and
        those that following lost.
    keep
        Eigenvectors of the last measurement that are kept to follow with.
    coupling
        Singular vectors a layer for coupling and balance of consecutive Linear layers; 0 leaves both out.
    csv
        A file to append rows to. One with the same columns is continued: its rows from the first step that is written
        on go, as a training that was resumed from a checkpoint makes these steps again.
    tensorboard
        A folder, or a ``SummaryWriter``.
    seed
        Of random vectors; the training's generators are not touched.

    Attributes
    ----------
    rows
        One dictionary a measurement: ``step``; ``loss`` on the monitor's data; ``sharpness`` (and ``sharpness_2`` …);
        ``residual``, the largest relative one; ``status``: followed, certified, or why neither ("not measured: …" in a
        row of NaN: only the first measurement raises what it meets); ``followed``, what following alone gave;
        ``limit``, 2/lr for SGD, 2(1 + β)/lr with momentum, NaN for others, whose limit is one of a preconditioned
        Hessian; ``ratio``, sharpness over limit; ``coupling``, the largest overlap of consecutive layers' singular
        vectors over chance, and ``balance``, the largest relative gap, of Linear layers that were registered one after
        the other with matching widths; ``products``; ``seconds``.

    Raises
    ------
    ValueError
        A bad argument, or a CSV file with other columns; when measuring, what :class:`flatcore.torch.Hessian` refuses.
    ModuleNotFoundError
        TensorBoard is asked for and missing.

    Examples
    --------
    >>> import torch, flatcore as fc
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> data = torch.randn(64, 4), torch.randint(2, (64,))
    >>> loss_fn, sgd = torch.nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1)
    >>> monitor = fc.torch.FlatnessMonitor(model, loss_fn, data, every=10, optimizer=sgd)
    >>> for _ in range(20):
    ...     sgd.zero_grad()
    ...     loss_fn(model(data[0]), data[1]).backward()
    ...     sgd.step()
    ...     row = monitor.step()
    >>> [(row["step"], row["status"], row["limit"]) for row in monitor.rows]
    [(10, 'certified', 20.0), (20, 'followed', 20.0)]

    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        data: Any,
        *,
        every: int = 100,
        forward: Forward | None = None,
        k: int = 1,
        tol: float = 1e-2,
        params: Any = None,
        reduction: str = "mean",
        optimizer: Any = None,
        certify_every: int | None = 10,
        keep: int = 16,
        coupling: int = 4,
        csv: Any = None,
        tensorboard: Any = None,
        memory: int | None = None,
        group: Any = None,
        seed: int = 0,
    ) -> None:
        self._model = unwrapped(model)
        self._loss_fn, self._data = loss_fn, data
        self.every = check_count("every", every)
        self._k = check_count("k", k)
        if not 0.0 < tol < 1.0:
            raise ValueError(f"tol is {tol!r}; expected a number between 0 and 1")
        self._tol, self._seed = float(tol), check_count("seed", seed, 0)
        self._certify_every = None if certify_every is None else check_count("certify_every", certify_every)
        self._keep = check_count("keep", keep, k + 1)
        vectors = check_count("coupling", coupling, 0)
        self._options = {
            "forward": forward,
            "params": params,
            "reduction": reduction,
            "memory": memory,
            "group": group,
            "seed": seed,
        }
        self._optimizer = optimizer
        self._layers = ConsecutiveLayers(self._model, vectors, seed) if vectors else None
        self._follower = self._new_follower()
        self._measuring: Any = None  # what the last measurement's vectors belong to
        self._since = 0  # measurements since the last certified one
        self._step = 0
        self.rows: list[Row] = []
        alone = group is False or not (dist.is_available() and dist.is_initialized())
        writes = alone or dist.get_rank(group) == 0
        self._csv = CsvRows(csv, self.columns) if csv is not None and writes else None
        self._board = TensorBoardRows(tensorboard) if tensorboard is not None and writes else None
        self._written = {target: 0 for target in (self._csv, self._board) if target is not None}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of a row's entries, in the order of the CSV file."""
        more = tuple(f"sharpness_{i}" for i in range(2, self._k + 1))
        weights = ("coupling", "balance") if self._layers is not None else ()
        after = ("residual", "status", "followed", "limit", "ratio", *weights, "products", "seconds")
        return ("step", "loss", "sharpness", *more, *after)

    @property
    def history(self) -> dict[str, Any]:
        """All rows as arrays by column."""
        return {name: np.array([row[name] for row in self.rows]) for name in self.columns}

    def step(self, step: int | None = None, optimizer: Any = None) -> Row | None:
        """Count a step of the training, or be told its number; measure every `every` steps.

        Parameters
        ----------
        step
            How many steps were made; None counts the calls.
        optimizer
            In place of the one given at first.

        Returns
        -------
        dict or None
            The row, where this step was measured.

        """
        self._step = self._step + 1 if step is None else check_count("step", step, 0)
        return self.measure(self._step, optimizer) if self._step % self.every == 0 else None

    def measure(self, step: int | None = None, optimizer: Any = None) -> Row:
        """Measure now, whatever the step; the row is kept and written."""
        number = self._step if step is None else check_count("step", step, 0)
        begin = time.perf_counter()
        try:
            with untouched(self._model, self._data):
                row = self._measured(number, self._optimizer if optimizer is None else optimizer)
        except BaseException as error:
            self._follower = self._new_follower()  # it may have been interrupted half-way
            if not self.rows or not isinstance(error, _NO_FAULT):
                raise
            row = self._not_measured(number, error)
        row["seconds"] = time.perf_counter() - begin
        row = {name: row[name] for name in self.columns}
        self._step = number
        self.rows.append(row)
        self._write()
        return row

    def _not_measured(self, number: int, error: Exception) -> Row:
        """A row of NaN that says why: a training that diverges, or changes its model, goes on all the same."""
        warnings.warn(f"step {number} was not measured: {error}", stacklevel=4)
        row: Row = dict.fromkeys(self.columns, math.nan)
        return row | {"step": number, "status": f"not measured: {' '.join(str(error).split())}", "products": 0}

    def _write(self) -> None:
        """Write the rows that have not been written; what fails is tried again with the next one."""
        for target in self._written:
            try:
                for row in self.rows[self._written[target] :]:
                    target.write(row)
                    self._written[target] += 1
            except OSError as error:
                warnings.warn(f"rows of the monitor could not be written, and wait: {error}", stacklevel=4)

    def close(self) -> None:
        """Close TensorBoard's files, where the monitor opened them; also done at the end of a ``with`` block."""
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def lightning_callback(self) -> Any:
        """A callback for Lightning's Trainer (``lightning`` or ``pytorch_lightning``) that measures."""
        return lightning_callback(self)

    def huggingface_callback(self) -> Any:
        """A callback for the Hugging Face Trainer that measures."""
        return huggingface_callback(self)

    # -- internals ---------------------------------------------------------------------------------------------------

    def _new_follower(self) -> Follower:
        return Follower(self._k, tol=self._tol, keep=self._keep, seed=self._seed)

    def _measured(self, step: int, optimizer: Any) -> Row:
        H = Hessian(self._model, self._loss_fn, self._data, **self._options)
        measuring = (H.names, [p.shape for p in H.parameters], H.dtype, H.device)
        if measuring != self._measuring:  # the first measurement, a layer frozen or let go, a model that was moved
            self._follower, self._measuring = self._new_follower(), measuring
        if self._k > H.shape[0]:
            raise ValueError(f"k is {self._k}; expected at most {H.shape[0]}, the number of parameters")
        values, residual, status, followed, products = self._eigenvalues(H)
        limit = stability_limit(optimizer)
        row: Row = {"step": step, "loss": H.value, "sharpness": float(values[0])}
        row |= {f"sharpness_{i + 1}": float(values[i]) for i in range(1, self._k)}
        row |= {"residual": residual, "status": status, "followed": followed}
        row |= {"limit": limit, "ratio": float(values[0]) / limit if limit > 0.0 else math.nan, "products": products}
        if self._layers is not None:
            row["coupling"], row["balance"] = self._layers.measure()
        return row

    def _eigenvalues(self, H: Hessian) -> tuple[FloatArray, float, str, float, int]:
        """Values, largest relative residual, status, the followed sharpness (NaN at a cold start), products."""
        cold = not self._follower.ready
        found = self._follower.start(H) if cold else self._follower.follow(H)
        products = found.products
        followed = math.nan if cold else float(found.values[0])
        due = self._certify_every is not None and self._since + 1 >= self._certify_every
        if not (cold or due or not found.converged):
            self._since += 1
            return found.values, _relative(found.residuals, found.values), "followed", followed, products
        if not (cold or found.converged):  # a model that misled; the rest of it is as stale
            self._follower = self._new_follower()
            products += self._follower.start(H).products
        result = eigsh(H, self._k, tol=self._tol, v0=self._follower.columns, seed=self._seed)
        self._follower.adopt(result.values, result.vectors)
        self._since = 0
        status = "certified" if result.status == "converged" else result.status
        products += result.products + _NOISE_PRODUCTS
        return result.values, _relative(result.residuals, result.values), status, followed, products


def _relative(residuals: FloatArray, values: FloatArray) -> float:
    largest = float(np.abs(values).max())
    return float(residuals.max()) / largest if largest > 0.0 else math.nan
