"""The sentences of the study ``wfm`` on binary weights, on loads and on the parity machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flatcore._checks import FloatArray
from flatcore.studies.digits_words import joined
from flatcore.studies.wfm_quantities import (
    FLIP,
    NAMED_CENTRES,
    by_solver,
    entropy_gap,
    mean_of,
    parity_excess,
    part,
    solved,
)
from flatcore.studies.wfm_solvers import (
    AMP_END,
    BINARY,
    CAPPED,
    FLIPS,
    TRIED_BINARY,
    TRIED_CONTINUOUS,
)
from flatcore.studies.wfm_words import task

if TYPE_CHECKING:
    from flatcore.studies.wfm import Size
    from flatcore.studies.wfm_quantities import Rows


def flip_words(rows: Rows, size: Size) -> tuple[str, ...]:
    """Local energies of the binary tree."""
    values = {name: mean_of(curve[:, FLIP]) for name, curve in by_solver(rows, "energy", BINARY).items()}
    return (
        "Asked: the same with weights ±1, each flipped with probability p.",
        f"Measured: {task(size.binary, 'binary')}, {len(rows)} seeds. At p = {FLIPS[FLIP]:g}: "
        f"{'; '.join(f'{name} {value}' for name, value in values.items())}.",
    )


def entropy_words(rows: Rows, size: Size) -> tuple[str, ...]:
    """Local entropies."""
    kept, asked = (int(sum(f(row["converged"]) for row in rows)) for f in (np.sum, np.size))
    said = []
    for i, (machine, shape) in enumerate((("perceptron", size.entropy), ("committee", size.entropy_tree))):
        of_machine = part(rows, i)
        gaps = [f"{name} {entropy_gap(of_machine, AMP_END, name).text()}" for name in NAMED_CENTRES if name != AMP_END]
        said.append(f"{machine} of {task(shape, 'binary')}: {joined(gaps)}")
    return (
        "Asked: how many solutions lie at distance d from a solution, S = ln(number)/N?",
        "Paper: typical solutions are isolated, those that algorithms find lie in dense regions. Weights planted by a "
        "teacher who labelled the patterns stand for typical solutions; the solvers learn the same patterns.",
        f"Measured by belief propagation at fixed overlap (converged at {kept} of {asked} points; the others are left "
        f"out). S around {AMP_END}, minus around others, mean over distances: {'; '.join(said)}.",
        "Drawn is S less the entropy of all weights at that distance: what the patterns cost.",
    )


def capacity_words(rows: Rows, size: Size) -> tuple[str, ...]:
    """Success against load."""
    lines = []
    for title, key, solvers, loads in (
        (f"Binary perceptron, N = {size.capacity[0]}", "perceptron", TRIED_BINARY, size.loads[0]),
        (f"Continuous tree, 9 units of {size.capacity[1]}", "tree", TRIED_CONTINUOUS, size.loads[1]),
    ):
        clean = np.array([row[key] for row in rows]) == 0
        listed = [f"{name} {_largest_load(clean[:, i], np.array(loads))}" for i, name in enumerate(solvers)]
        lines.append(f"{title}: largest load at which most seeds are solved: {joined(listed)}.")
    return (
        "Asked: up to which load does each solver find a solution?",
        "Theory: the binary perceptron's capacity is α ≈ 0.833, where algorithms stop before; a tree of continuous "
        "units holds more than the continuous perceptron's 2.",
        f"Measured over {len(rows)} seeds, at most {size.epochs} epochs of {joined(CAPPED)}, the others to the end of "
        f"their schedules. {' '.join(lines)}",
    )


def _largest_load(clean: FloatArray, loads: FloatArray) -> str:
    often = clean.mean(axis=0) > 0.5
    if not often.any():
        return "none"
    return f"{loads[often].max():g}{' (the largest tried)' if often[-1] else ''}"


def parity_words(rows: Rows, size: Size) -> tuple[str, ...]:
    """Committee against parity machine."""
    counts = []
    for machine, title in enumerate(("committee", "parity machine")):
        of_machine = part(rows, machine)
        said = [f"{name} {int(solved(of_machine, i).sum())}" for i, name in enumerate(TRIED_BINARY)]
        counts.append(f"{title}, {joined(said)}")
    excess = [f"{name} {c.text()}" for name in TRIED_BINARY if len((c := parity_excess(rows, name)).differences)]
    sharper = joined(excess) if excess else "undefined, as no seed is solved on both"
    return (
        "Asked: are there wide flat minima where the output is a product of signs?",
        "Paper: parity machines have none, and learning them is hard.",
        f"Measured: {task(size.parity, 'binary')}, for both machines. Of {len(rows)} seeds are solved: "
        f"{'; '.join(counts)}. Parity machine minus committee at p = {FLIPS[FLIP]:g}: {sharper}.",
    )
