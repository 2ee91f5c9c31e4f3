"""What the report of the study ``wfm`` computes from rows: averages over solved seeds, and what seeds tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import scipy.stats

from flatcore._checks import FloatArray
from flatcore.results import number
from flatcore.studies.digits_words import joined
from flatcore.studies.statistics import Comparison, with_error
from flatcore.studies.wfm_solvers import CENTRES, FLIPS, NOISE, PLANTED, TRIED_BINARY, at

Rows = Sequence[Mapping[str, FloatArray]]

STRENGTHS = (at(NOISE, 0.2), at(NOISE, 0.3))  # at both of which a claim about continuous weights must hold
FLIP = at(FLIPS, 0.1)
NAMED_CENTRES = (*CENTRES, PLANTED)


def part(rows: Rows, place: int) -> list[dict[str, FloatArray]]:
    """The rows of one machine, where an experiment has several along the first axis."""
    return [{name: values[place] for name, values in row.items()} for row in rows]


def by_solver(rows: Rows, key: str, solvers: Iterable[str]) -> dict[str, FloatArray]:
    """A quantity of every solver, a row a seed; NaN where the solver left errors."""
    found = np.array([row[key] for row in rows], dtype=float)
    found[np.array([row["errors"] for row in rows]) != 0] = np.nan
    return {name: found[:, i] for i, name in enumerate(solvers)}


def solved(rows: Rows, i: int) -> FloatArray:
    """Which seeds solver i solves."""
    return np.array([row["errors"][i] == 0 for row in rows])


def difference(rows: Rows, i: int, j: int, key: str, place: int | None = None) -> Comparison:
    """Solver i minus solver j, over the seeds that both solve."""
    values = np.array([row[key] if place is None else row[key][..., place] for row in rows], dtype=float)
    d = np.where(solved(rows, i) & solved(rows, j), values[:, i] - values[:, j], np.nan)
    return Comparison(d[np.isfinite(d)])


def mean_of(values: FloatArray) -> str:
    """Mean ± standard error over the seeds that have a value."""
    kept = values[np.isfinite(values)]
    return with_error(kept) if len(kept) else "undefined"


def compared(rows: Rows, i: int, j: int, key: str, place: int | None = None) -> str:
    """Solver i minus solver j: mean ± half of its 95 % interval, and how many seeds both solve where not all."""
    d = difference(rows, i, j, key, place)
    if not len(d.differences):
        return "undefined"
    count = "" if len(d.differences) == len(rows) else f" ({len(d.differences)} seeds)"
    span = f" ± {number(d.half_width, 2)}" if np.isfinite(d.half_width) else ""
    return number(d.mean, 3) + span + count


def signs_against(
    rows: Rows,
    solvers: Iterable[str],
    one: str,
    others: Iterable[str],
    key: str,
    places: Sequence[int | None],
    more: bool = True,
) -> dict[str, int]:
    """1 where another solver has more (less) of a quantity than `one` at all places, −1 the opposite at one, else 0."""
    index = {name: i for i, name in enumerate(solvers)}
    found = {}
    for other in others:
        i, j = (index[other], index[one]) if more else (index[one], index[other])
        signs = [difference(rows, i, j, key, place).sign for place in places]
        found[other] = -1 if -1 in signs else min(signs)
    return found


def answer(sign: int) -> str:
    """Of a claim that a difference is positive."""
    return {1: "yes", -1: "no, the opposite", 0: "undecided"}[sign]


def answer_for_all(signs: Mapping[str, int]) -> str:
    """Of a claim about several: yes for all, or which are the exceptions."""
    undecided, against = ([name for name, sign in signs.items() if sign == s] for s in (0, -1))
    if len(undecided) == len(signs):
        return "undecided"
    if len(against) == len(signs):
        return "no, the opposite"
    if not undecided and not against:
        return "yes"
    parts = [f"undecided for {joined(undecided)}"] if undecided else []
    parts += [f"the opposite for {joined(against)}"] if against else []
    return f"yes for {len(signs) - len(undecided) - len(against)} of {len(signs)}; {'; '.join(parts)}"


def entropy_gap(rows: Rows, one: str, other: str) -> Comparison:
    """Entropy around one centre minus around another, mean over distances both have, a seed each."""
    i, j = NAMED_CENTRES.index(one), NAMED_CENTRES.index(other)
    gaps = []
    for row in rows:
        both = (row["converged"][[i, j]] == 1.0).all(axis=0)
        if both.any() and row["errors"][i] == 0 and row["errors"][j] == 0:
            gaps.append(float((row["entropy"][i] - row["entropy"][j])[both].mean()))
    return Comparison(np.array(gaps))


def parity_excess(rows: Rows, name: str) -> Comparison:
    """A solver's local energy on the parity machine minus on the committee, over the seeds it solves on both."""
    i = list(TRIED_BINARY).index(name)
    both = [row for row in rows if (row["errors"][:, i] == 0).all()]
    return Comparison(np.array([row["energy"][1][i][FLIP] - row["energy"][0][i][FLIP] for row in both]))


def correlations(rows: Rows, place: int, without: Sequence[int] = ()) -> Comparison:
    """Rank correlation over solvers (but those `without`) of local energy with test error, a seed each."""
    found = []
    for row in rows:
        kept = row["errors"] == 0
        kept[list(without)] = False
        if kept.sum() >= 3:
            found.append(float(scipy.stats.spearmanr(row["energy"][kept, place], row["test"][kept]).statistic))
    values = np.array(found)
    return Comparison(values[np.isfinite(values)])


def gamma_difference(rows: Rows, key: str, row_of: int, i: int, j: int, place: int | None = None) -> Comparison:
    """A quantity of the minimiser at the i-th γ minus at the j-th, all seeds; row 0: β fixed, row 1: β = γ."""
    values = np.array([row[key] if place is None else row[key][..., place] for row in rows], dtype=float)
    d = values[:, row_of, i] - values[:, row_of, j]
    return Comparison(d[np.isfinite(d)])
