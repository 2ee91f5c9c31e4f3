"""The sentences of the study ``nonlinear``: what was asked, what theory says, what was measured, from the traces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from flatcore._checks import FloatArray
from flatcore.results import number
from flatcore.studies import nonlinear_quantities as q
from flatcore.studies.digits_words import joined
from flatcore.studies.nonlinear_groups import Group, Panels, Quantity, flat_minus_sharp
from flatcore.studies.nonlinear_training import Trace
from flatcore.studies.statistics import half_width, with_error

UNDECIDED = "no difference that the seeds can tell"


def finished(panels: Panels) -> list[Trace]:
    """All runs that did not diverge."""
    return [t for groups in panels.values() for g in groups for t in g.traces]


def lead(panels: Panels, train: int, test: int) -> list[str]:
    """What was done, and what the words mean."""
    lines = [
        f"Data: {train + test} images of handwritten digits, {train} to train on and {test} held out, drawn anew by "
        f"every seed. Networks: {joined(list(panels))}, trained by full-batch gradient descent on squared error, each "
        "at several step sizes η from the same start for the same training time η·steps. Squared error, because its "
        "curvature at the outputs is constant; that of cross-entropy goes to zero as the outputs saturate, and takes "
        "the sharpness with it.",
        "Sharpness is the largest eigenvalue of the Hessian of the training loss. Flat solutions are those of the "
        "largest step, sharp ones those of the smallest. The theory of flat minima is about linear networks on "
        f"whitened data; here it is asked of others, about which it proves nothing. {error_bars(panels)}",
        "Smallest and largest step are compared seed by seed; a difference counts where the 95 % interval of its mean "
        "(Student's t, one comparison at a time) leaves out 0, and intervals follow these differences after ±; where "
        "sharpness settles counts where the interval of its mean leaves out the thresholds. Equal "
        "training time is not equal loss: how the losses differ stands under the second picture.",
    ]
    gone = [t.run.title for groups in panels.values() for g in groups for t in g.diverged]
    return [*lines, f"Diverged, and left out of all averages: {joined(gone)}."] if gone else lines


def error_bars(panels: Panels) -> str:
    """What ± means."""
    seeds = {t.run.seed for groups in panels.values() for g in groups for t in (*g.traces, *g.diverged)}
    if len(seeds) == 1:
        return "One seed was run, so there are no error bars."
    return f"Averages are over {len(seeds)} seeds; ± and bars are one standard error of the mean."


def ending(trace: Trace) -> str:
    """How a run ended, in a phrase."""
    if trace.status == "diverged":
        return f"diverged after {trace.steps} steps"
    last = trace.last
    return (
        f"{trace.steps} steps, loss {number(last['loss'], 3)}, sharpness {number(last['sharpness'], 4)} = "
        f"{number(last['sharpness'] / last['two_over_step'], 3)} of 2/η, test error {number(q.test_error(trace), 3)} %"
    )


def _each(panels: Panels, words: Callable[[list[Group]], str]) -> tuple[str, ...]:
    """One line an architecture."""
    return tuple(f"Measured, {title}: {words(groups)}." for title, groups in panels.items())


def _steps(groups: Sequence[Group], quantity: Quantity, unit: str = "") -> str:
    return ", ".join(f"{g.text(quantity)}{unit} at η = {g.step_size:g}" for g in groups)


# -- the edge of stability -------------------------------------------------------------------------------------------


def edge_words(panels: Panels) -> tuple[str, ...]:
    """Sharpness over 2/η in the second half of training."""
    traces = finished(panels)
    where = [q.place(q.settled(t)) for t in traces]
    counts = ", ".join(f"{where.count(kind)} {kind}" for kind in ("at the edge", "below", "above"))
    stable = [t for t in traces if q.edge_ratios(t)[0] < 1.0]
    sharper = sum(q.edge_ratios(t)[-1] > q.edge_ratios(t)[0] for t in stable)
    return (
        "Asked: does sharpness rise to 2/η and stay there?",
        "Theory: gradient descent on a quadratic diverges where the sharpness exceeds 2/η. Full-batch training of "
        "neural networks was seen to raise sharpness until it reaches 2/η and to hover there (Cohen et al. 2021).",
        f"Measured, mean of sharpness over 2/η in the second half of the steps (at the edge: within {100 * q.EDGE:g} % "
        f"of 1): of {len(traces)} runs {counts}. {len(stable)} start below 2/η, and {sharper} of these end sharper "
        "than they started.",
        *_each(panels, lambda groups: f"{_steps(groups, q.settled)} of 2/η"),
        edge_verdict(panels),
    )


def edge_cases(groups: Sequence[Group]) -> list[tuple[Group, str]]:
    """Where each step size settles, as far as the seeds can tell."""
    return [(g, _settles(g.values(q.settled)) if g.traces else "diverged") for g in groups]


def _settles(values: FloatArray) -> str:
    """Where a mean over seeds lies; undecided where its 95 % interval reaches over a threshold, or there is none."""
    mean, half = float(values.mean()), half_width(values)
    ends = {q.place(mean - half), q.place(mean + half)}
    return ends.pop() if np.isfinite(half) and len(ends) == 1 else "undecided"


def edge_verdict(panels: Panels) -> str:
    """Whether the claim came out."""
    cases = [(title, *case) for title, groups in panels.items() for case in edge_cases(groups)]
    kinds = [kind for _, _, kind in cases]
    if set(kinds) == {"at the edge"}:
        return f"The claim came out in all {len(cases)} cases: every network settles at the edge with every step size."
    found: dict[bool, list[str]] = {True: [], False: []}
    for title, g, kind in cases:
        if kind != "at the edge":
            found[kind == "undecided"].append(f"{title} at η = {g.step_size:g}{_told(g, kind)}")
    parts = [f"The claim came out in {kinds.count('at the edge')} of {len(cases)} cases"]
    parts += [f"it did not for {joined(found[False])}"] if found[False] else []
    parts += [f"the seeds cannot tell for {joined(found[True])}"] if found[True] else []
    return "; ".join(parts) + "."


def _told(group: Group, kind: str) -> str:
    """Where a step size settled, in brackets; below 2/η, also how many runs were sharpest when they ended."""
    if kind == "undecided":
        return ""
    if kind != "below":
        return f" ({kind})"
    rising = sum(bool(q.edge_ratios(t)[-1] == q.edge_ratios(t).max()) for t in group.traces)
    return f" ({kind}, and sharpest at the last step in {rising} of {len(group.traces)} runs)"


def loss_words(panels: Panels) -> tuple[str, ...]:
    """Rising steps and final losses."""
    traces = finished(panels)
    kinds = (
        ("never measured above 2/η", [t for t in traces if q.edge_ratios(t).max() <= 1.0]),
        ("measured above 2/η", [t for t in traces if q.edge_ratios(t).max() > 1.0]),
    )
    parts = [
        f"in the {len(some)} runs {words} {number(float(np.mean([q.rising(t) for t in some])), 3)} % of the steps "
        "raise the loss"
        for words, some in kinds
        if some
    ]
    lower = sum(t.last["loss"] < t.rows[0]["loss"] for t in traces)
    return (
        "Asked: does the loss fall at the edge?",
        "Theory: below 2/η every step lowers a quadratic. Beyond it single steps may raise the loss, while over longer "
        "times it was seen to fall (Cohen et al. 2021).",
        f"Measured: {'; '.join(parts)}. {lower} of {len(traces)} runs end with a lower loss than they started with.",
        *_each(panels, lambda groups: f"training loss at the end {_compared(groups, q.loss)}"),
    )


# -- flat against sharp solutions ------------------------------------------------------------------------------------


def _compared(groups: Sequence[Group], quantity: Quantity, unit: str = "") -> str:
    """Means at all step sizes, and the paired difference."""
    difference = flat_minus_sharp(groups, quantity).text()
    return f"{_steps(groups, quantity, unit)}; largest step − smallest {difference}"


def verdict(panels: Panels, quantity: Quantity, expected: int, claim: str, opposite: str) -> str:
    """In which architectures the flat solutions differ from sharp ones as expected (−1 smaller, 1 larger)."""
    signs = {title: flat_minus_sharp(groups, quantity).sign for title, groups in panels.items()}
    cases = (
        (claim, [title for title, sign in signs.items() if sign == expected]),
        (opposite, [title for title, sign in signs.items() if sign == -expected]),
        (UNDECIDED, [title for title, sign in signs.items() if sign == 0]),
    )
    found = "; ".join(f"{words}: {joined(titles)}" for words, titles in cases if titles)
    came_out = len(cases[0][1])
    return f"The claim came out for {came_out} of {len(signs)} networks. {found[0].upper()}{found[1:]}."


def closest(panels: Panels, quantity: Quantity, ideal: float) -> str:
    """The run that ends nearest to what theory says of flattest minima."""
    ends = [(abs(quantity(t) - ideal), t.run.title, quantity(t)) for t in finished(panels)]
    defined = [end for end in ends if np.isfinite(end[0])]
    if not defined:
        return f"Measured, nearest to theory's {ideal:g} at the end: undefined in all runs."
    _, title, value = min(defined)
    return f"Measured, nearest to theory's {ideal:g} of all runs at the end: {number(value, 3)} ({title})."


def sharpness_words(panels: Panels) -> tuple[str, ...]:
    """Sharpness at the end against the step size."""
    return (
        "Asked: do larger steps end at flatter solutions?",
        "Theory: gradient descent cannot settle where the sharpness exceeds 2/η, so large steps have to end at flat "
        "solutions, while small ones may end at sharp ones, up to their own 2/η.",
        *_each(panels, lambda groups: f"sharpness at the end {_compared(groups, q.sharpness)}"),
        verdict(panels, q.sharpness, -1, "flatter at the largest step", "sharper at the largest step"),
    )


def gain_words(panels: Panels) -> tuple[str, ...]:
    """Equal gains along the Jacobian path."""
    return (
        "Asked: are gains along the path more equal at flat solutions?",
        "Theory: at a flattest minimum of a linear network on whitened data every layer multiplies the top direction "
        "by σ^(1/M), so gains over σ^(1/M) are 1 and the standard deviation of their logarithms over the layers is 0. "
        "Here the layers are the Jacobians at held-out images, and σ belongs to their product.",
        *_each(
            panels,
            lambda groups: (
                f"deviation of log gains, {_started(groups, q.imbalance)}; at the end {_compared(groups, q.imbalance)}"
            ),
        ),
        closest(panels, q.imbalance, 0.0),
        verdict(
            panels, q.imbalance, -1, "more equal at flat solutions", "less equal at flat solutions than at sharp ones"
        ),
    )


def residual_words(panels: Panels) -> tuple[str, ...]:
    """Coupling residuals along the Jacobian path."""
    return (
        "Asked: does the path go from singular vector to singular vector at flat solutions?",
        "Theory: at a flattest minimum of a linear network on whitened data every coupling residual "
        "‖J_jᵀz_j − g_j z_{j−1}‖/g_j is 0.",
        *_each(
            panels,
            lambda groups: f"mean residual, {_started(groups, q.residual)}; at the end {_compared(groups, q.residual)}",
        ),
        closest(panels, q.residual, 0.0),
        verdict(panels, q.residual, -1, "smaller residuals at flat solutions", "larger residuals at flat solutions"),
    )


def _started(groups: Sequence[Group], measure: Callable[[Trace, int], float]) -> str:
    """A quantity of the structure at the start, one value a seed (all step sizes start alike)."""
    starts = {t.run.seed: measure(t, 0) for g in groups for t in g.traces}
    return f"at the start {with_error(list(starts.values()))}" if starts else "undefined at the start"


def coupling_words(panels: Panels, pairs: str) -> tuple[str, ...]:
    """Largest overlaps of consecutive layers against chance; `pairs` says which these are."""

    def words(groups: list[Group]) -> str:
        chance = number(float(np.mean([q.chance(t) for g in groups for t in g.traces])), 3)
        return (
            f"largest overlap, mean over pairs (chance {chance}), {_started(groups, q.overlap)}; at the end "
            f"{_compared(groups, q.overlap)}, that is {_steps(groups, q.overlap_ratio, ' × chance')}"
        )

    return (
        "Asked: are consecutive layers coupled beyond chance, and more so at flat solutions?",
        "Theory: at a flattest minimum of a linear network on whitened data a left singular vector of each layer is a "
        "right singular vector of the next, overlap 1. Weights drawn at random overlap as chance has it.",
        f"Pairs, in this order: {pairs}.{_zero_at_start(panels)}",
        *_each(panels, words),
        beyond_chance(panels),
        closest(panels, q.overlap, 1.0),
        verdict(panels, q.overlap, 1, "more coupled at flat solutions", "less coupled at flat solutions"),
    )


def _zero_at_start(panels: Panels) -> str:
    """Which networks start with pairs that have no overlap."""
    zero = [
        title
        for title, groups in panels.items()
        if any(np.isnan(q.layers(t, "overlap", 0)).any() for g in groups for t in g.traces)
    ]
    return f" Pairs with a layer of zeros, as at the start of {joined(zero)}, have none." if zero else ""


def beyond_chance(panels: Panels) -> str:
    """How many pairs of layers overlap by more than chance would in 95 of 100 cases."""
    ends = [(q.layers(t, "overlap"), q.layers(t, "overlap_chance_95")) for t in finished(panels)]
    beyond = sum(int((value > level).sum()) for value, level in ends)
    total = sum(int(np.isfinite(value).sum()) for value, _ in ends)
    return (
        f"Measured at the end: {beyond} of {total} pairs lie above the 95 % level of chance, where chance alone would "
        f"put {number(0.05 * total, 3)}."
    )


def error_words(panels: Panels) -> tuple[str, ...]:
    """Test error of flat and sharp solutions."""
    return (
        "Asked: are flat solutions better on held-out images?",
        "Theory: none that covers these networks; it is often supposed that flatter solutions generalise better.",
        *_each(panels, lambda groups: f"test error in per cent {_compared(groups, q.test_error)}"),
        verdict(panels, q.test_error, -1, "fewer errors at flat solutions", "more errors at flat solutions"),
    )
