"""Replicated SGD of binary committees: replicas that learn by least action and attract each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore import _core
from flatcore._atomic import PathLike
from flatcore._checks import check_choice
from flatcore._memory import check_memory
from flatcore.wfm._arguments import check_positive, check_size
from flatcore.wfm._online import Array, EpochSearch, checked_epochs, learn
from flatcore.wfm.models import Committee, checked_model
from flatcore.wfm.patterns import checked_patterns
from flatcore.wfm.results import WfmResult
from flatcore.wfm.solving import Callback, Look

_EPOCHS = 2000


class ReplicatedSGD(EpochSearch):
    """Hidden reals (y, K, n) of the replicas."""

    name = "replicated_sgd"
    advice = "raise max_epochs, lower gamma_step, or lower the load"

    replicas: int
    batch: int
    coupling: float
    gamma: float
    gamma_step: float
    until: str

    def first_weights(self) -> Array:
        """The same for all replicas."""
        return np.repeat(super().first_weights()[None], self.replicas, axis=0)

    def advance(self) -> Look:
        """An epoch of all replicas; the best of them, or the centre."""
        e, replicas = self.examples, self.replicas
        gamma = self.gamma + self.gamma_step * self.sweeps
        orders = np.stack([self.rng.permutation(e.count) for _ in range(replicas)])
        moved = _core.wfm_replicated(e.rows, e.labels, e.parity, orders, self.batch, self.coupling, gamma, self.weights)
        self.sweeps += 1
        machines, distance = self._machines()
        errors = e.errors(machines)
        best = int(np.argmin(errors)) if self.until == "any" else 0
        extras = {
            "gamma": gamma,
            "moved": moved / replicas,
            "center_errors": float(errors[0]),
            "replica_errors": float(errors[1:].mean()),
            "distance": distance,
        }
        done = errors[best] == 0 or self.sweeps >= self.max_epochs
        return Look(machines[best].copy(), int(errors[best]), extras, done=bool(done))

    def _machines(self) -> tuple[NDArray[np.int8], float]:
        """The centre, sgn Σ_a W^a, before the replicas' W (y + 1, K, n); their mean distance (1 − q)/2 from it."""
        W = np.where(self.weights > 0, 1, -1).astype(np.int8)
        center = np.where(W.sum(axis=0, dtype=np.int64) > 0, 1, -1).astype(np.int8)
        return np.concatenate([center[None], W]), float(np.mean(center != W))


def replicated_sgd(
    model: Committee,
    patterns: Any,
    *,
    replicas: int = 7,
    batch: int = 80,
    coupling: float = 0.75,
    gamma: float = 0.05,
    gamma_step: float = 0.001,
    until: str = "any",
    max_epochs: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    callback: Callback | None = None,
    checkpoint: PathLike | None = None,
) -> WfmResult:
    """Replicated SGD of a binary machine: y replicas with hidden reals H, W = sgn H, that attract each other.

    Each learns batches of its own by least action, H += 2σξ for the units that move; after each batch
    H += λ[tanh(γ y W̄) − W], W̄ the mean of all W. γ grows by `gamma_step` an epoch, until the replicas collapse.

    Parameters
    ----------
    model, patterns
        A binary :class:`Committee`, and :class:`Patterns` or arrays (inputs, labels) of ±1.
    replicas
        y, odd, so that the centre sgn W̄ is defined; they start at the same weights.
    batch
        Patterns a batch.
    coupling
        λ.
    gamma, gamma_step
        γ in the first epoch, and what each epoch adds.
    until
        ``"any"``: ends when a replica or the centre makes no errors; ``"center"``: when the centre does.
    max_epochs
        Most passes over the patterns; None means 2000.
    seed, threads, callback, checkpoint
        As in :func:`least_action`; replicas run on threads, with the same bits for any number of them. The callback's
        ``extras``: ``gamma``, ``moved`` (mean errors during the epoch), ``center_errors``, ``replica_errors`` (mean),
        ``distance`` (mean (1 − q)/2 between replicas and centre).

    Returns
    -------
    WfmResult
        ``weights`` are the centre's or the best replica's. Not solving is a status with the best weights found.

    Raises
    ------
    ValueError
        A bad argument, a continuous machine, or the checkpoint of another run.

    Examples
    --------
    >>> from flatcore import wfm
    >>> model = wfm.Committee(303, 3)
    >>> wfm.replicated_sgd(model, wfm.random_patterns(model, 60), replicas=3, batch=20).errors
    0

    Source: Baldassi et al. (2016), "Unreasonable effectiveness of learning neural networks", and
    BinaryCommitteeMachineRSGD.jl, whose replicas step in turn where these step together; docs/wide-flat-minima.md.

    """
    if checked_model(model).weights != "binary":
        raise ValueError(f"model has {model.weights} weights; replicated_sgd expects binary ones")
    patterns = checked_patterns(model, patterns)
    if check_size("replicas", replicas) % 2 == 0:
        raise ValueError(f"replicas is {replicas}; expected an odd number, so that the centre is defined")
    # Hidden reals, the steps of a batch and what the errors are counted on; orders.
    check_memory("the replicas", 8 * replicas * (4 * model.num_weights + 2 * len(patterns)))
    settings = {
        "replicas": int(replicas),
        "batch": check_size("batch", batch),
        "coupling": check_positive("coupling", coupling),
        "gamma": check_positive("gamma", gamma),
        "gamma_step": check_positive("gamma_step", gamma_step, or_zero=True),
        "until": check_choice("until", until, ("any", "center")),
        "max_epochs": checked_epochs(max_epochs, _EPOCHS),
    }
    return learn(
        ReplicatedSGD, model, patterns, settings, seed=seed, threads=threads, callback=callback, checkpoint=checkpoint
    )
