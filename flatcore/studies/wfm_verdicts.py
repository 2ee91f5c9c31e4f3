"""The claims of the papers that the study ``wfm`` puts to the test, and what the seeds say of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flatcore.studies.wfm_quantities import (
    FLIP,
    NAMED_CENTRES,
    STRENGTHS,
    answer,
    answer_for_all,
    correlations,
    entropy_gap,
    gamma_difference,
    parity_excess,
    part,
    signs_against,
)
from flatcore.studies.wfm_solvers import (
    AMP_END,
    AMP_FIRST,
    BINARY,
    BOTH_MOVE,
    CONTINUOUS,
    EDGES_END,
    EDGES_FIRST,
    FAST,
    FAST_DOWN,
    FOCUSING,
    GAMMAS,
    LAL,
    MODERATE,
    NOISE,
    PLANTED,
    REPLICATED,
    SLOW,
    SLOW_DOWN,
    TRIED_BINARY,
    UNIT_SHARPNESS,
    at,
)

if TYPE_CHECKING:
    from flatcore.studies.wfm import Results
    from flatcore.studies.wfm_quantities import Rows

Claims = list[tuple[str, str]]
UNFOCUSED = tuple(name for name in CONTINUOUS if name not in FOCUSING)
PAIRS = ((FAST, SLOW), (FAST_DOWN, SLOW_DOWN), (SLOW_DOWN, SLOW))  # (sharper, flatter)?


def verdicts(results: Results) -> Claims:
    """The claims and the answers, in the order of the report."""
    claims = [
        *_energies(results["committee"]),
        *_flips(results["binary"]),
        *_entropies(results["entropy"]),
        *_hessians(results["committee"]),
        ("every solver that solves both ends sharper on the parity machine", _parity(results["parity"])),
        *_minimisers(results["gamma"]),
        (
            f"solutions flatter at δ = {NOISE[STRENGTHS[-1]]:g} make fewer errors on unseen digits",
            answer(correlations(results["digits"], STRENGTHS[-1]).sign),
        ),
    ]
    return [(claim[0].upper() + claim[1:], said) for claim, said in claims]


def _flatter(rows: Rows, one: str, others: tuple[str, ...]) -> str:
    return answer_for_all(signs_against(rows, CONTINUOUS, one, others, "energy", STRENGTHS))


def _above(rows: Rows, one: str, key: str, places: Sequence[int | None]) -> str:
    """Whether `one` has more of a quantity than every other solver."""
    signs = signs_against(rows, CONTINUOUS, one, (n for n in CONTINUOUS if n != one), key, places, more=False)
    return answer_for_all(signs)


def _energies(rows: Rows) -> Claims:
    """Continuous weights."""
    claims = [("continuous tree: LAL is sharper than every other solver", _above(rows, LAL, "energy", STRENGTHS))]
    every = tuple(name for name in CONTINUOUS if name != AMP_END)
    claims.append((f"{AMP_END} of the schedule, is flatter than every other solver", _flatter(rows, AMP_END, every)))
    for name, said in (
        (AMP_FIRST, f"{AMP_FIRST} solution, is flatter than every solver that does not focus"),
        (EDGES_FIRST, f"{EDGES_FIRST} solution, is flatter than every solver that does not focus"),
        (EDGES_END, f"{EDGES_END} of the schedule, is flatter than every solver that does not focus"),
    ):
        claims.append((said, _flatter(rows, name, UNFOCUSED)))
    for one, other in PAIRS:
        claims.append((f"{other}, ends flatter than {one}", _flatter(rows, other, (one,))))
    return claims


def _flips(rows: Rows) -> Claims:
    """Binary weights."""
    signs = signs_against(rows, BINARY, AMP_END, (LAL, REPLICATED), "energy", (FLIP,))
    return [(f"binary tree: {AMP_END}, is flatter than {other}", answer(sign)) for other, sign in signs.items()]


def _entropies(rows: Rows) -> Claims:
    """Both machines."""
    return [
        (
            f"{machine}: more solutions lie around those of {AMP_END}, than around {_centre(other)}",
            answer(entropy_gap(part(rows, i), AMP_END, other).sign),
        )
        for i, machine in enumerate(("binary perceptron", "binary tree"))
        for other in NAMED_CENTRES
        if other != AMP_END
    ]


def _centre(name: str) -> str:
    return f"{name} ones" if name == PLANTED else f"those of {name}"


def _hessians(rows: Rows) -> Claims:
    """Largest eigenvalues and traces."""
    claims = []
    for key, said in (("top", "largest eigenvalue"), ("trace", "trace")):
        least = signs_against(rows, CONTINUOUS, AMP_END, UNFOCUSED, key, (None,))
        claims += [
            (f"Hessian: the {said} of LAL is above every other solver's", _above(rows, LAL, key, (None,))),
            (f"Hessian: the {said} of {AMP_END}, is below all that do not focus", answer_for_all(least)),
        ]
    return claims


def _parity(rows: Rows) -> str:
    signs = {name: c.sign for name in TRIED_BINARY if len((c := parity_excess(rows, name)).differences)}
    return f"{answer_for_all(signs) if signs else 'undecided'} ({len(signs)} of {len(TRIED_BINARY)} solvers solve both)"


def _minimisers(rows: Rows) -> Claims:
    """Moderate γ against large."""
    place, last = at(GAMMAS, MODERATE), len(GAMMAS) - 1
    fixed, both = f"β = {UNIT_SHARPNESS:g}", "β = γ"
    energy, end = STRENGTHS[-1], BOTH_MOVE - 1
    said = f"minimisers at γ = {MODERATE:g} are flatter at δ = {NOISE[energy]:g} than at γ"
    shared = f"minimisers at γ = {MODERATE:g} overlap more with {AMP_END}, than at γ"
    return [
        (
            f"{said} = {GAMMAS[last]:g} ({fixed})",
            answer(gamma_difference(rows, "energy", 0, last, place, energy).sign),
        ),
        (f"{said} = {GAMMAS[end]:g} ({both})", answer(gamma_difference(rows, "energy", 1, end, place, energy).sign)),
        (f"{shared} = {GAMMAS[last]:g} ({fixed})", answer(gamma_difference(rows, "overlap", 0, place, last).sign)),
        (f"{shared} = {GAMMAS[end]:g} ({both})", answer(gamma_difference(rows, "overlap", 1, place, end).sign)),
    ]
