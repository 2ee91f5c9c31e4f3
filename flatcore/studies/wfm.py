"""The study ``wfm``: wide flat minima of committee machines, and which algorithms find them.

Committees and perceptrons learn random patterns by every solver of ``flatcore.wfm``; around each solution the local
energy, the Hessian of the cross-entropy and the local entropy say how flat it is. The parity machine is asked the same
questions, and so are committees on real images. A unit of work is one experiment with one seed, which draws patterns
and starts; each is a checkpoint. What the report says of all this is computed in ``wfm_report.py``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flatcore._checks import FloatArray
from flatcore._threads import limit_threads
from flatcore.studies import wfm_experiments as experiments
from flatcore.studies import wfm_minimisers, wfm_solvers
from flatcore.studies.folder import StudyFolder, StudyResult
from flatcore.studies.wfm_experiments import Experiment

Progress = Callable[[str, float], None]
_MODULES = (experiments, wfm_minimisers, wfm_solvers)  # whose constants say what is measured


@dataclass(frozen=True)
class Size:
    """How large everything is.

    `tree`: (K, n, α) of the continuous tree committee. `binary`: (K, n, α) of the binary one. `entropy`,
    `entropy_tree`: (K, n, α) of the binary machines around whose solutions others are counted. `loads`: α at which
    solvers are tried, (binary perceptron, continuous tree); `capacity`: (N of the perceptron, n of the tree's nine
    units). `parity`: (K, n, α). `digits`: K of the full committee, images (half are held out). `samples`: of a local
    energy. `epochs`: most epochs of the solvers that make epochs, where loads are tried.
    """

    seeds: int
    samples: int
    tree: tuple[int, int, float]
    binary: tuple[int, int, float]
    entropy: tuple[int, int, float]
    entropy_tree: tuple[int, int, float]
    loads: tuple[tuple[float, ...], tuple[float, ...]]
    capacity: tuple[int, int]
    parity: tuple[int, int, float]
    digits: tuple[int, int]
    epochs: int


SIZES = {
    "small": Size(
        seeds=10,
        samples=50,
        tree=(9, 51, 1.0),
        binary=(5, 101, 0.3),
        entropy=(1, 501, 0.3),
        entropy_tree=(5, 101, 0.3),
        loads=((0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)),
        capacity=(201, 15),
        parity=(3, 51, 0.3),
        digits=(9, 1797),
        epochs=400,
    ),
    "full": Size(
        seeds=10,
        samples=100,
        tree=(9, 111, 1.0),
        binary=(5, 201, 0.3),
        entropy=(1, 1001, 0.3),
        entropy_tree=(5, 201, 0.3),
        loads=((0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8), (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)),
        capacity=(1001, 51),
        parity=(3, 111, 0.3),
        digits=(9, 1797),
        epochs=400,
    ),
}
EXPERIMENTS = (
    Experiment("committee", "Continuous tree committee", experiments.committee, experiments.TreeRow, 4.0),
    Experiment("binary", "Binary tree committee", experiments.binary, experiments.EnergyRow, 0.5),
    Experiment("entropy", "Local entropy", experiments.entropy, experiments.EntropyRow, 3.5),
    Experiment("capacity", "Solvers against the load", experiments.capacity, experiments.CapacityRow, 6.0),
    Experiment("parity", "Parity machine", experiments.parity, experiments.EnergyRow, 0.5),
    Experiment("gamma", "Minimisers of the cross-entropy", wfm_minimisers.gamma, wfm_minimisers.GammaRow, 4.0),
    Experiment("digits", "Handwritten digits", experiments.digits, experiments.DigitsRow, 6.0),
)

Measured = dict[str, FloatArray]
Results = dict[str, list[Measured]]  # by experiment, a dictionary a seed


def seeds_of(seed: int, size: Size) -> range:
    """Seeds of the repetitions: studies with different seeds share none."""
    return range(seed * size.seeds, (seed + 1) * size.seeds)


def run(folder: StudyFolder, progress: Progress) -> StudyResult:
    """Make every experiment, or finish what a stopped study left, and write the report."""
    from flatcore.studies import digits_data
    from flatcore.studies.wfm_report import write

    digits_data.load()  # a package that is missing is missed now, not after everything else
    size = SIZES[str(folder.settings["size"])]
    total = size.seeds * sum(e.cost for e in EXPERIMENTS)
    results: Results = {e.name: [] for e in EXPERIMENTS}
    done = 0.0
    for seed in seeds_of(folder.seed, size):
        for e in EXPERIMENTS:
            title = f"{e.title}, seed {seed}"

            def tick(fraction: float, title: str = title, at: float = done, of: float = e.cost) -> None:
                progress(title, 0.97 * (at + of * fraction) / total)

            tick(0.0)
            results[e.name].append(_measured(folder, e, size, seed, tick))
            done += e.cost
    progress("report", 0.97)
    result = write(folder, size, results)
    progress("done", 1.0)
    return result


def _measured(folder: StudyFolder, e: Experiment, size: Size, seed: int, tick: Callable[[float], None]) -> Measured:
    """What an experiment measures with a seed, from its checkpoint where there is one."""
    unit, layout = f"{e.name}-{seed}", layout_of(size)
    found = folder.load(unit, (*e.required, "layout"))
    if found is None:
        with limit_threads(1):  # kernels of some microseconds: more threads would wait for one another
            found = e.measure(size, seed, tick)
        folder.save(unit, {**found, "layout": np.array(layout)})
    elif str(found["layout"]) != layout:
        place = folder.checkpoints / f"{unit}.npz"
        raise ValueError(f"{place} has other sizes, solvers or grids than this version; delete it to start afresh")
    return {name: found[name] for name in e.required}


def layout_of(size: Size) -> str:
    """A fingerprint of all that checkpoints depend on besides the code: sizes, solvers and their options, constants."""
    said = [(name, _said(value)) for module in _MODULES for name, value in vars(module).items() if _constant(name)]
    return hashlib.sha256(repr((size, said)).encode()).hexdigest()


def _constant(name: str) -> bool:
    return name.strip("_").isupper() and not name.startswith("__")


def _said(value: Any) -> Any:
    """Solvers by name and options; grids by their numbers."""
    if isinstance(value, Mapping):
        return [(name, getattr(each, "keywords", None)) for name, each in value.items()]
    return np.asarray(value).tolist()
