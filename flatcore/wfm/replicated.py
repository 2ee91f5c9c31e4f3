"""Replicated SGD of binary committees: replicas that learn by least action and attract each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore import _core
from flatcore._atomic import PathLike
from flatcore._checks import check_callback, check_choice, check_count
from flatcore._threads import limit_threads
from flatcore.wfm._online import EpochSearch, Examples, check_positive, checked_epochs
from flatcore.wfm.models import Committee, checked_model
from flatcore.wfm.patterns import checked_patterns, random_weights
from flatcore.wfm.results import WfmResult
from flatcore.wfm.solving import Callback, Look, solve

_EPOCHS = 2000


class ReplicatedSGD(EpochSearch):
    """Hidden reals (y, K, n) of the replicas."""

    name = "replicated_sgd"
    advice = "raise max_epochs, lower gamma_step, or lower the load"

    batch: int
    coupling: float
    gamma: float
    gamma_step: float
    until: str

    def advance(self) -> Look:
        """An epoch of all replicas; the best of them, or the centre."""
        e, replicas = self.examples, len(self.weights)
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
    if check_count("replicas", replicas) % 2 == 0:
        raise ValueError(f"replicas is {replicas}; expected an odd number, so that the centre is defined")
    batch = check_count("batch", batch)
    coupling, gamma = check_positive("coupling", coupling), check_positive("gamma", gamma)
    gamma_step = 0.0 if gamma_step == 0 else check_positive("gamma_step", gamma_step)
    check_choice("until", until, ("any", "center"))
    epochs = checked_epochs(max_epochs, _EPOCHS)
    rng = np.random.default_rng(check_count("seed", seed, 0))
    check_callback(callback)
    with limit_threads(threads):
        hidden = np.repeat(random_weights(model, rng)[None], replicas, axis=0)
        search = ReplicatedSGD(Examples(model, patterns), hidden, rng, epochs)
        search.batch, search.coupling, search.until = batch, coupling, until
        search.gamma, search.gamma_step = gamma, gamma_step
        settings = {"replicas": replicas, "batch": batch, "coupling": coupling, "gamma": gamma}
        return solve(
            search,
            model,
            patterns,
            settings={**settings, "gamma_step": gamma_step, "until": until, "max_epochs": epochs},
            seed=seed,
            callback=callback,
            checkpoint=checkpoint,
        )
