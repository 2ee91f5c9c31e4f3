"""The study ``wfm``: wide flat minima of committee machines, and which algorithms find them.

Committees and perceptrons learn random patterns by every solver of ``flatcore.wfm``; around each solution the local
energy, the Hessian of the cross-entropy and the local entropy say how flat it is. The parity machine is asked the same
questions, and so are committees on real images. A unit of work is one experiment with one seed, which draws patterns
and starts; each is a checkpoint. What the report says of all this is computed in ``wfm_report.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flatcore._checks import FloatArray
from flatcore.studies.folder import StudyFolder, StudyResult

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Size:
    """How large everything is.

    `tree`: (K, n, α) of the continuous tree committee. `binary`: (K, n, α) of the binary one. `entropy`: (N, α) of the
    binary perceptron. `loads`: α at which solvers are tried, (binary perceptron, continuous tree); `capacity`: (N of
    the perceptron, n of the tree's nine units). `parity`: (K, n, α). `digits`: K of the full committee, images (half
    are held out). `samples`: of a local energy. `epochs`: most epochs of the solvers that make epochs, where loads are
    tried.
    """

    seeds: int
    samples: int
    tree: tuple[int, int, float]
    binary: tuple[int, int, float]
    entropy: tuple[int, float]
    loads: tuple[tuple[float, ...], tuple[float, ...]]
    capacity: tuple[int, int]
    parity: tuple[int, int, float]
    digits: tuple[int, int]
    epochs: int


SIZES = {
    "small": Size(
        seeds=5,
        samples=50,
        tree=(9, 51, 1.0),
        binary=(5, 101, 0.3),
        entropy=(501, 0.3),
        loads=((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), (0.5, 1.0, 1.5, 2.0, 2.5)),
        capacity=(201, 21),
        parity=(3, 51, 0.3),
        digits=(9, 1797),
        epochs=150,
    ),
    "full": Size(
        seeds=10,
        samples=100,
        tree=(9, 111, 1.0),
        binary=(5, 201, 0.3),
        entropy=(1001, 0.3),
        loads=((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75), (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)),
        capacity=(1001, 51),
        parity=(3, 111, 0.3),
        digits=(9, 1797),
        epochs=400,
    ),
}

Measured = dict[str, FloatArray]
Results = dict[str, list[Measured]]  # by experiment, a dictionary a seed


def seeds_of(seed: int, size: Size) -> range:
    """Seeds of the repetitions: studies with different seeds share none."""
    return range(seed * size.seeds, (seed + 1) * size.seeds)


def run(folder: StudyFolder, progress: Progress) -> StudyResult:
    """Make every experiment, or finish what a stopped study left, and write the report."""
    from flatcore.studies.wfm_experiments import EXPERIMENTS
    from flatcore.studies.wfm_report import write

    size = SIZES[str(folder.settings["size"])]
    total = size.seeds * sum(e.cost for e in EXPERIMENTS)
    results: Results = {e.name: [] for e in EXPERIMENTS}
    done = 0.0
    for seed in seeds_of(folder.seed, size):
        for e in EXPERIMENTS:
            unit, title = f"{e.name}-{seed}", f"{e.title}, seed {seed}"

            def tick(fraction: float, title: str = title, at: float = done, of: float = e.cost) -> None:
                progress(title, 0.97 * (at + of * fraction) / total)

            tick(0.0)
            measured = folder.load(unit)
            if measured is None:
                measured = e.measure(size, seed, tick)
                folder.save(unit, measured)
            results[e.name].append(measured)
            done += e.cost
    progress("report", 0.97)
    result = write(folder, size, results)
    progress("done", 1.0)
    return result
