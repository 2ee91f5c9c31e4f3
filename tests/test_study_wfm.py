"""The study ``wfm`` at a size of seconds: its files, its numbers, its verdicts, and interruptions."""

import csv
import dataclasses
import functools
import json

import numpy as np
import pytest
import scipy.stats
from study_helpers import Finished, Page

import flatcore as fc
from flatcore.report.figures import figure
from flatcore.studies import (
    run_study,
    wfm_binary_words,
    wfm_figures,
    wfm_minimisers,
    wfm_quantities,
    wfm_report,
    wfm_verdicts,
    wfm_words,
)
from flatcore.studies import wfm as study
from flatcore.studies.digits_data import load
from flatcore.studies.statistics import Comparison
from flatcore.studies.wfm_solvers import (
    AMP_END,
    AMP_FIRST,
    BINARY,
    BOTH_MOVE,
    CONTINUOUS,
    CURVATURES,
    EDGES_END,
    EDGES_FIRST,
    FAST,
    FAST_DOWN,
    FLIPS,
    FOCUSING,
    GAMMAS,
    LAL,
    NOISE,
    OVERLAPS,
    PLANTED,
    RULE_A,
    RULE_B,
    SLOW,
    SLOW_DOWN,
    TRIED_BINARY,
)

TINY = study.Size(
    seeds=3,
    samples=10,
    tree=(3, 31, 0.5),
    binary=(3, 51, 0.3),
    entropy=(1, 101, 0.3),
    entropy_tree=(3, 31, 0.3),
    loads=((0.2, 0.9), (0.5, 4.0)),
    capacity=(51, 7),
    parity=(3, 21, 0.2),
    digits=(3, 160),
    epochs=30,
)
PICTURES = {"energy", "flips", "margins", "overlap", "entropy", "spectra", "hessian"}
PICTURES |= {"capacity", "parity", "gamma", "digits"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(study.SIZES, "small", TINY)
        heard = []
        path = tmp_path_factory.mktemp("wfm") / "out"
        result = run_study("wfm", path, progress=lambda what, fraction: heard.append((what, fraction)))
    return Finished(path, result, heard)


def test_the_study_leaves_its_files_and_no_others(finished):
    names = {str(p.relative_to(finished.path)) for p in finished.path.rglob("*") if p.is_file()}
    checkpoints = {f"checkpoints/{e.name}-{seed}.npz" for e in study.EXPERIMENTS for seed in range(3)}
    files = {"study.json", "report.html", "results.json", "history.csv"}
    assert names == files | checkpoints | {f"figures/{name}.svg" for name in PICTURES}
    page = Page(finished.text("report.html"))
    assert set(page.figures) == PICTURES
    assert not [r for r in page.references if not r.startswith("#")]
    for name in PICTURES:
        assert page.captions[name].split() == " ".join(finished.lines(name)).split()
    fractions = [fraction for _, fraction in finished.heard]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_what_was_measured_can_be_measured_again(finished):
    """A checkpoint's errors and local energies are those of the solver called by hand."""
    with np.load(finished.path / "checkpoints/binary-1.npz") as measured:
        model = fc.wfm.Committee(153, 3)
        patterns = fc.wfm.random_patterns(model, 46, seed=1)
        found = fc.wfm.focusing_bp(model, patterns, form="amp", stop="end", seed=1)
        energy = fc.wfm.local_energy(model, found.weights, patterns, scale=FLIPS, samples=10, seed=1)
        place = list(BINARY).index(AMP_END)
        assert measured["errors"][place] == found.errors == fc.wfm.errors(model, found.weights, patterns)
        np.testing.assert_array_equal(measured["energy"][place], energy.values)


def test_spectra_are_those_of_the_dense_hessian(finished):
    """The largest eigenvalue, and the shares above the grid but where rounding decides on which side one lies."""
    model = fc.wfm.Committee(93, 3, weights="continuous")
    patterns = fc.wfm.random_patterns(model, 46, seed=2)
    with np.load(finished.path / "checkpoints/committee-2.npz") as measured:
        i = list(CONTINUOUS).index(AMP_END)
        w = FOCUSING[AMP_END](model, patterns, seed=2).weights
        values = np.linalg.eigvalsh(fc.wfm.CrossEntropyHessian(model, w, patterns).dense())
        assert measured["top"][i] == pytest.approx(values[-1], rel=1e-6)
        assert measured["trace"][i] == pytest.approx(values.sum(), rel=1e-9)
        grid = CURVATURES / 31
        clear = np.abs(values[:, None] - grid).min(axis=0) > 1e-9
        expected = (values[:, None] > grid).mean(axis=0)
        # Shares of a quadrature with two probes: exact up to the rounding of its weights.
        np.testing.assert_allclose(measured["above"][i][clear], expected[clear], atol=1e-6)


def test_minimisers_are_minima():
    """Steps along the spheres from a minimiser raise the loss; the eigenvalue is that of the projected Hessian."""
    model = fc.wfm.Committee(93, 3, weights="continuous")
    patterns = fc.wfm.random_patterns(model, 46, seed=0)
    start = fc.wfm.cross_entropy_sgd(model, patterns).weights
    minimum = wfm_minimisers.minimise(model, patterns, start, 2.0, 4.0)
    w = minimum.weights
    value, g = fc.wfm.cross_entropy(model, w, patterns, beta=2.0, gamma=4.0)
    along = g - (g * w).sum(axis=1, keepdims=True) * w / 31
    assert np.linalg.norm(along) / np.linalg.norm(g) == pytest.approx(minimum.gradient, rel=1e-6, abs=1e-12)
    assert minimum.gradient < 1e-8
    normals = np.zeros((3, 93))
    for k in range(3):
        normals[k, 31 * k : 31 * (k + 1)] = w[k] / np.sqrt(31)
    tangent = np.linalg.svd(normals)[2][3:]
    dense = fc.wfm.CrossEntropyHessian(model, w, patterns, 2.0, 4.0, tangent=True).dense()
    values = np.linalg.eigvalsh(tangent @ dense @ tangent.T)
    assert minimum.curvature == pytest.approx(values[0] / values[-1], rel=1e-6)
    assert minimum.curvature > 0
    rng = np.random.default_rng(0)
    for _ in range(10):
        v = rng.standard_normal(w.shape)
        moved = w + 0.01 * v
        moved *= np.sqrt(31) / np.linalg.norm(moved, axis=1, keepdims=True)
        assert fc.wfm.cross_entropy(model, moved, patterns, beta=2.0, gamma=4.0)[0] > value


# -- verdicts, again from results.json ---------------------------------------------------------------------------------


def numbers(row, key):
    """An array of results.json, where NaN is null."""
    return np.array(row[key], dtype=float)


def sign_of(differences):
    """By SciPy's paired t-test at 95 %."""
    d = np.asarray(differences, dtype=float)
    d = d[np.isfinite(d)]
    if len(d) < 2 or np.ptp(d) == 0.0:
        return int(np.sign(d.mean())) if len(d) > 1 else 0
    test = scipy.stats.ttest_1samp(d, 0.0)
    return int(np.sign(d.mean())) if test.pvalue < 0.05 else 0


def paired(rows, solvers, one, other, key, at=None):
    """Sign of one solver minus another over the seeds that both solve."""
    i, j = list(solvers).index(one), list(solvers).index(other)
    both = [row for row in rows if row["errors"][i] == 0 and row["errors"][j] == 0]
    values = [numbers(row, key) if at is None else numbers(row, key)[:, at] for row in both]
    return sign_of([v[i] - v[j] for v in values])


ANSWERS = {1: "yes", 0: "undecided", -1: "no, the opposite"}


def test_verdicts_on_pairs_follow_from_the_numbers(finished):
    measured, verdicts = finished.results()["measured"], finished.results()["verdicts"]
    flip = int(np.argmin(np.abs(FLIPS - 0.1)))
    sign = paired(measured["binary"], BINARY, LAL, AMP_END, "energy", flip)
    assert verdicts["Binary tree: focusing BP by AMP, end, is flatter than LAL"] == ANSWERS[sign]
    gaps = []
    for row in measured["entropy"]:
        entropy, settled, errors = (numbers(row, key)[0] for key in ("entropy", "converged", "errors"))
        both = settled[2] * settled[3] == 1  # centres: LAL, replicas, focusing BP, planted
        if errors[2] == 0 and both.any():
            gaps.append((entropy[2] - entropy[3])[both].mean())
    claim = f"Binary perceptron: more solutions lie around those of {AMP_END}, than around {PLANTED} ones"
    assert verdicts[claim] == ANSWERS[sign_of(gaps)]
    delta = int(np.argmin(np.abs(NOISE - 0.3)))
    energy = np.array([numbers(row, "energy")[:, :, delta] for row in measured["gamma"]])
    moderate = GAMMAS.index(2.0)
    for i, last, units in ((0, len(GAMMAS) - 1, "β = 2"), (1, BOTH_MOVE - 1, "β = γ")):
        claim = f"Minimisers at γ = 2 are flatter at δ = 0.3 than at γ = {GAMMAS[last]:g} ({units})"
        assert verdicts[claim] == ANSWERS[sign_of(energy[:, i, last] - energy[:, i, moderate])]
    overlap = np.array([numbers(row, "overlap") for row in measured["gamma"]])
    for i, last, units in ((0, len(GAMMAS) - 1, "β = 2"), (1, BOTH_MOVE - 1, "β = γ")):
        claim = f"Minimisers at γ = 2 overlap more with {AMP_END}, than at γ = {GAMMAS[last]:g} ({units})"
        assert verdicts[claim] == ANSWERS[sign_of(overlap[:, i, moderate] - overlap[:, i, last])]
    assert dict(line.rsplit(": ", 1) for line in finished.result.lines) == verdicts


def test_verdicts_on_parity_and_digits_follow_from_the_numbers(finished):
    measured, verdicts = finished.results()["measured"], finished.results()["verdicts"]
    flip = int(np.argmin(np.abs(FLIPS - 0.1)))
    signs = {}
    for i, name in enumerate(TRIED_BINARY):
        both = [row for row in measured["parity"] if not numbers(row, "errors")[:, i].any()]
        if both:
            signs[name] = sign_of([np.subtract(*numbers(row, "energy")[::-1, i, flip]) for row in both])
    said, count = verdicts["Every solver that solves both ends sharper on the parity machine"].rsplit(" (", 1)
    assert count == f"{len(signs)} of {len(TRIED_BINARY)} solvers solve both)"
    check_all(signs, said)
    delta = int(np.argmin(np.abs(NOISE - 0.3)))
    ranks = []
    for row in measured["digits"]:
        kept = numbers(row, "errors") == 0
        energy, test = numbers(row, "energy")[kept, delta], numbers(row, "test")[kept]
        if kept.sum() >= 3:
            ranks.append(scipy.stats.spearmanr(energy, test).statistic)
    assert verdicts["Solutions flatter at δ = 0.3 make fewer errors on unseen digits"] == ANSWERS[sign_of(ranks)]


def test_verdicts_on_all_others_follow_from_the_numbers(finished):
    """Each other solver at both strengths; the answer names those that are not as claimed."""
    measured, verdicts = finished.results()["measured"], finished.results()["verdicts"]
    rows = measured["committee"]
    strengths = [int(np.argmin(np.abs(NOISE - s))) for s in (0.2, 0.3)]
    others = [name for name in CONTINUOUS if name != LAL]
    signs = {n: [paired(rows, CONTINUOUS, LAL, n, "energy", at) for at in strengths] for n in others}
    said = verdicts["Continuous tree: LAL is sharper than every other solver"]
    check_all({name: -1 if -1 in s else min(s) for name, s in signs.items()}, said)
    for key, name in (("top", "largest eigenvalue"), ("trace", "trace")):
        said = verdicts[f"Hessian: the {name} of LAL is above every other solver's"]
        check_all({n: paired(rows, CONTINUOUS, LAL, n, key) for n in others}, said)
        said = verdicts[f"Hessian: the {name} of {AMP_END}, is below all that do not focus"]
        check_all({n: paired(rows, CONTINUOUS, n, AMP_END, key) for n in CONTINUOUS if n not in FOCUSING}, said)


def check_all(signs, said):
    """The answer names the exceptions, in the solvers' order."""
    if len(set(signs.values())) == 1:
        assert said == ANSWERS[next(iter(signs.values()))]
        return
    parts = [f"yes for {sum(sign == 1 for sign in signs.values())} of {len(signs)}"]
    for sign, words in ((0, "undecided for "), (-1, "the opposite for ")):
        names = [name for name in signs if signs[name] == sign]
        if names:
            parts.append(words + " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names))
    assert said == "; ".join(parts)


def row(errors, energy):
    return {"errors": np.array(errors), "energy": np.array(energy, dtype=float)}


def test_solutions_with_errors_count_nowhere():
    rows = [row([0, 0], [[1.0], [0.25]]), row([3, 0], [[9.0], [0.5]]), row([0, 0], [[2.0], [0.5]])]
    gap = wfm_quantities.difference(rows, 0, 1, "energy", 0)
    np.testing.assert_array_equal(gap.differences, [0.75, 1.5])
    assert wfm_quantities.difference([rows[1]], 0, 1, "energy", 0).text() == "undefined"
    assert wfm_quantities.compared([rows[1]], 0, 1, "energy", 0) == "undefined"
    assert wfm_quantities.mean_of(np.array([np.nan])) == "undefined"
    assert Comparison(np.array([])).sign == 0


def flat_tree(seed, far):
    """All solve; at the strongest noise AMP's end is above the first solver by `far`."""
    energy = np.full((len(CONTINUOUS), len(NOISE)), 0.1) + 1e-4 * seed * np.arange(len(CONTINUOUS))[:, None]
    energy[list(CONTINUOUS).index(AMP_END), -1] = energy[0, -1] + far
    return {"errors": np.zeros(len(CONTINUOUS), dtype=int), "energy": energy}


def test_who_is_flatter_far_out_is_said():
    said = wfm_words._far_words([flat_tree(seed, 0.01 + 0.001 * seed) for seed in range(3)])
    assert f"There flatter than {AMP_END}, are: {LAL} -0.011 ± " in said
    said = wfm_words._far_words([flat_tree(seed, -0.05 - 0.001 * seed) for seed in range(3)])
    assert said.endswith("are: none; undecided: none.")


FLAT_TO_SHARP = (AMP_END, AMP_FIRST, EDGES_FIRST, EDGES_END, SLOW, FAST, RULE_A, SLOW_DOWN, RULE_B, FAST_DOWN, LAL)


def ladder(order):
    """Three seeds that agree on an order of the solvers, in everything."""
    level = np.array([1.0 + order.index(name) for name in CONTINUOUS])
    rows = [{"errors": np.zeros(len(order)), "top": (1 + 0.01 * s) * level} for s in range(3)]
    return [{**r, "trace": r["top"], "energy": np.repeat(r["top"][:, None], len(NOISE), axis=1)} for r in rows]


def test_claims_on_orders_come_out_in_that_order_only():
    for order, answer in ((FLAT_TO_SHARP, "yes"), (FLAT_TO_SHARP[::-1], "no, the opposite")):
        rows = ladder(order)
        claims = dict(wfm_verdicts._energies(rows) + wfm_verdicts._hessians(rows))
        assert len(claims) == 12
        assert set(claims.values()) == {answer}


@pytest.mark.parametrize("name", [AMP_FIRST, EDGES_FIRST, EDGES_END])
def test_claims_are_about_the_solver_that_they_name(name):
    """The sharpest of all fails its claim and those that compare with it, and no other."""
    claims = dict(wfm_verdicts._energies(ladder((*(n for n in FLAT_TO_SHARP if n != name), name))))
    missed = {claim: said for claim, said in claims.items() if said != "yes"}
    sharpest = "continuous tree: LAL is sharper than every other solver"
    assert missed.pop(sharpest) == f"yes for 9 of 10; the opposite for {name}"
    (claim,) = missed
    assert claim.startswith(f"{name} ")
    assert missed[claim] == "no, the opposite"


def centres(seed):
    """Focusing BP is surrounded by more solutions for the perceptron and fewer for the tree, but where BP failed."""
    entropy = np.zeros((2, 4, len(OVERLAPS)))
    entropy[0, 2], entropy[1, 2] = 0.2 + 0.01 * seed, -0.2 - 0.01 * seed
    converged = np.ones_like(entropy)
    entropy[0, 2, 0], entropy[1, 2, 0], converged[:, 2, 0] = -99.0, 99.0, 0.0
    return {"errors": np.zeros((2, 4)), "entropy": entropy, "converged": converged}


def test_entropies_are_compared_where_both_converged_for_each_machine():
    rows = [centres(seed) for seed in range(3)]
    claims = dict(wfm_verdicts._entropies(rows))
    assert len(claims) == 6
    for claim, said in claims.items():
        assert said == ("yes" if claim.startswith("binary perceptron") else "no, the opposite")


def test_entropies_that_did_not_converge_are_not_drawn(monkeypatch):
    drawn = {}
    monkeypatch.setattr(wfm_figures, "entropies", lambda name, distance, panels: drawn.update(panels) or "")
    wfm_report._entropies(TINY, {"entropy": [centres(seed) for seed in range(2)]})
    values = drawn["binary tree"][AMP_END]
    assert np.isnan(values[:, 0]).all()
    np.testing.assert_allclose(values[:, 1], [-0.2, -0.21])


def test_averages_and_overlaps_leave_out_what_is_not_solved():
    rows = [{"errors": np.array(e), "overlap": np.full((2, 2), v)} for e, v in (([0, 0], 0.5), ([0, 4], 0.9))]
    np.testing.assert_array_equal(wfm_quantities.by_solver(rows, "overlap", "ab")["b"], [[0.5] * 2, [np.nan] * 2])
    np.testing.assert_allclose(wfm_words.mean_overlaps(rows), [[0.7, 0.5], [0.5, 0.5]])


def test_the_largest_load_is_one_that_most_seeds_solve():
    clean, loads = np.array([[1, 1, 0], [1, 0, 0]]) == 1, np.array([0.5, 1.0, 1.5])
    assert wfm_binary_words._largest_load(clean, loads) == "0.5"
    assert wfm_binary_words._largest_load(clean[:1, :2], loads[:2]) == "1 (the largest tried)"
    assert wfm_binary_words._largest_load(~clean[:, :1], loads[:1]) == "none"


def test_overlaps_of_minimisers_are_with_focusing_bp(finished):
    model = fc.wfm.Committee(93, 3, weights="continuous")
    patterns = fc.wfm.random_patterns(model, 46, seed=1)
    start = fc.wfm.cross_entropy_sgd(model, patterns, seed=1).weights
    flat = fc.wfm.focusing_bp(model, patterns, form="amp", stop="end", seed=1)
    assert flat.errors == 0
    w = wfm_minimisers.minimise(model, patterns, start, 2.0, GAMMAS[0]).weights
    with np.load(finished.path / "checkpoints/gamma-1.npz") as measured:
        cosine = np.sum(w * flat.weights, axis=1) / 31  # of vectors of norm √31
        assert measured["overlap"][0, 0] == pytest.approx(cosine.mean(), abs=1e-9)


def test_unseen_digits_are_those_that_were_held_out(finished):
    images, numbers = load()
    rng = np.random.default_rng([1, 11])
    train, test = np.split(rng.permutation(len(images))[:160], 2)
    features = images.reshape(len(images), -1) @ rng.standard_normal((images[0].size, 201))
    x = np.where(features > np.median(features[train], axis=0), 1, -1).astype(np.int8)
    labels = np.where(numbers % 2 == 0, 1, -1).astype(np.int8)
    model = fc.wfm.Committee(201, 3, kind="full", weights="continuous")
    learnt = fc.wfm.least_action(model, fc.wfm.Patterns.from_arrays(model, x[train], labels[train]), seed=1)
    outputs = np.sign(x[test].astype(float) @ learnt.weights.T).sum(axis=1)
    with np.load(finished.path / "checkpoints/digits-1.npz") as measured:
        assert measured["test"][list(CONTINUOUS).index(LAL)] == np.mean(outputs * labels[test] <= 0)


def minimisers(gradient=1e-10, curvature=0.1, errors=0):
    shape = (2, len(GAMMAS))
    found = {"errors": errors, "margin": 0.1, "overlap": 0.5, "gradient": gradient, "curvature": curvature}
    arrays = {key: np.full(shape, float(value)) for key, value in found.items()}
    return {**arrays, "energy": np.full((*shape, len(NOISE)), 0.1)}


def test_words_on_minimisers_depend_on_what_they_are():
    good = " ".join(wfm_words.gamma_words([minimisers()] * 2))
    assert "All are stationary, " in good
    assert "and minima: " in good
    assert "are 2 of 2 with β = 2, 2 with β = γ" in good
    bad = [minimisers(), minimisers(gradient=0.1, curvature=-0.1)]
    bad[0]["errors"][0, -1] = bad[1]["errors"][1, GAMMAS.index(2.0)] = 1.0
    said = " ".join(wfm_words.gamma_words(bad))
    assert "Not all are stationary, " in said
    assert "and not all minima: " in said
    assert "are 1 of 2 with β = 2, 1 with β = γ" in said


def test_solvers_that_solve_nothing_and_those_left_out_rank_nowhere():
    ranked = {"errors": np.array([0, 0, 0, 0, 2]), "energy": np.array([[9.0], [1.0], [2.0], [3.0], [0.0]])}
    ranked["test"] = np.array([0.0, 0.1, 0.2, 0.3, 9.0])
    np.testing.assert_allclose(wfm_quantities.correlations([ranked], 0).differences, [-0.2])
    np.testing.assert_allclose(wfm_quantities.correlations([ranked], 0, (0,)).differences, [1.0])
    assert not len(wfm_quantities.correlations([ranked], 0, (0, 1)).differences)


@pytest.mark.parametrize(
    ("signs", "words"),
    [
        ((1, 1), "yes"),
        ((-1, -1), "no, the opposite"),
        ((1, 0), "yes for 1 of 2; undecided for b"),
        ((1, -1), "yes for 1 of 2; the opposite for b"),
        ((0, -1), "yes for 0 of 2; undecided for a; the opposite for b"),
        ((0, 0), "undecided"),
        ((), "undecided"),
    ],
)
def test_claims_about_all_others(signs, words):
    assert wfm_quantities.answer_for_all(dict(zip("ab", signs, strict=False))) == words


def test_loads_beyond_capacity_are_not_solved(finished):
    """Nine continuous units of seven inputs cannot learn four random patterns a weight; what is left is counted."""
    for seed in range(3):
        with np.load(finished.path / f"checkpoints/capacity-{seed}.npz") as measured:
            assert (measured["tree"][:, 1] > 0).all()
            assert (measured["perceptron"][:, 1] > 0).all()
    assert "largest load at which most seeds are solved" in " ".join(finished.lines("capacity"))


def test_the_history_has_a_line_for_every_number(finished):
    lines = list(csv.DictReader(finished.text("history.csv").splitlines()))
    assert {line["experiment"] for line in lines} == {e.name for e in study.EXPERIMENTS}
    assert {line["run"] for line in lines} == {f"{e.name}-{seed}" for e in study.EXPERIMENTS for seed in range(3)}
    for place, machine in enumerate(("binary perceptron", "binary tree")):
        mine = [line for line in lines if line["run"] == "entropy-1" and line["machine"] == machine]
        mine = [line for line in mine if line["solver"] == PLANTED]
        np.testing.assert_allclose([float(line["distance"]) for line in mine], (1 - OVERLAPS) / 2, rtol=1e-12)
        with np.load(finished.path / "checkpoints/entropy-1.npz") as measured:
            found = [float(line["local_entropy"]) for line in mine]
            np.testing.assert_array_equal(found, measured["entropy"][place, -1])
    slow = list(CONTINUOUS).index(SLOW)
    with np.load(finished.path / "checkpoints/committee-1.npz") as measured:
        mine = [line for line in lines if line["run"] == "committee-1" and line["solver"] == SLOW]
        energies = [float(line["local_energy"]) for line in mine if line["local_energy"]]
        np.testing.assert_array_equal(energies, measured["energy"][slow])
        assert {float(line["errors"]) for line in mine} == {measured["errors"][slow]}
        assert [float(line["trace"]) for line in mine if line["trace"]] == [measured["trace"][slow]]
    assert len({tuple(line.values()) for line in lines}) == len(lines)
    minima = [line for line in lines if line["experiment"] == "gamma" and line["overlap"]]
    place = [line["seed"] + line["followed"] + line["gamma"] for line in minima]
    assert len(set(place)) == len(place) == 3 * (len(GAMMAS) + BOTH_MOVE)
    counts = {name: sum(line["experiment"] == name for line in lines) for name in ("entropy", "parity", "gamma")}
    assert counts["entropy"] == 3 * 2 * 4 * len(OVERLAPS)
    assert counts["parity"] == 3 * 2 * len(TRIED_BINARY) * (1 + len(FLIPS))
    assert counts["gamma"] == 3 * (len(GAMMAS) + BOTH_MOVE) * (1 + len(NOISE))


def test_an_interrupted_study_ends_with_the_same_files(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(study.SIZES, "small", TINY)

    def stop(what, fraction):
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study("wfm", tmp_path / "out", progress=stop)
    assert not (tmp_path / "out/report.html").exists()
    kept = len(list((tmp_path / "out/checkpoints").iterdir()))
    assert 0 < kept < 3 * len(study.EXPERIMENTS)
    run_study("wfm", tmp_path / "out", resume=True)
    names = ["results.json", "history.csv", "report.html", *(f"figures/{name}.svg" for name in PICTURES)]
    for name in names:
        assert (tmp_path / "out" / name).read_text("utf-8") == finished.text(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("density"), r"committee-0.npz is no checkpoint \(no density\)"),
        (lambda arrays: arrays.pop("layout"), r"committee-0.npz is no checkpoint \(no layout\)"),
        (
            lambda arrays: arrays.update(layout=np.array("old")),
            "committee-0.npz has other sizes, solvers or grids",
        ),
    ],
)
def test_checkpoints_of_other_versions_are_refused(change, message, finished, tmp_path, monkeypatch):
    monkeypatch.setitem(study.SIZES, "small", TINY)
    out = tmp_path / "out"
    (out / "checkpoints").mkdir(parents=True)
    (out / "study.json").write_text(json.dumps({"study": "wfm", "seed": 0, "size": "small"}))
    with np.load(finished.path / "checkpoints/committee-0.npz") as archive:
        arrays = dict(archive)
    change(arrays)
    np.savez(out / "checkpoints/committee-0.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        run_study("wfm", out, resume=True)


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        ("wfm_experiments", "DAMPING", 0.8),
        ("wfm_minimisers", "_ITERATIONS", 10),
        ("wfm_solvers", "NOISE", np.array([0.0, 1.0])),
        ("wfm_solvers", "BINARY", {**BINARY, LAL: functools.partial(fc.wfm.least_action, max_epochs=1)}),
    ],
)
def test_layouts_know_solvers_options_and_constants(module, name, value, monkeypatch):
    before = study.layout_of(TINY)
    assert before == study.layout_of(TINY)
    monkeypatch.setattr(f"flatcore.studies.{module}.{name}", value)
    assert study.layout_of(TINY) != before


def test_rows_are_what_experiments_return(finished):
    for e in study.EXPERIMENTS:
        with np.load(finished.path / f"checkpoints/{e.name}-0.npz") as archive:
            assert set(archive.files) == {*e.required, "layout"}


def test_images_that_are_missing_are_missed_at_the_start(tmp_path, monkeypatch):
    def missing():
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")

    monkeypatch.setattr(f"{load.__module__}.load", missing)
    heard = []
    with pytest.raises(ModuleNotFoundError):
        run_study("wfm", tmp_path / "out", progress=lambda what, fraction: heard.append(what))
    assert heard == []


def test_eigenvalues_that_are_not_certified_are_left_out(monkeypatch):
    from flatcore.studies import wfm_experiments

    genuine = wfm_experiments.wfm.hessian_spectrum

    def uncertain(*args, **kwargs):
        return dataclasses.replace(genuine(*args, **kwargs), status="max_iterations")

    monkeypatch.setattr(wfm_experiments.wfm, "hessian_spectrum", uncertain)
    measured = wfm_experiments.committee(TINY, 0, lambda fraction: None)
    assert np.isnan(measured["top"]).all()
    assert np.isfinite(measured["trace"]).all()


def test_studies_with_different_seeds_share_none():
    for size in study.SIZES.values():
        first, second = study.seeds_of(0, size), study.seeds_of(1, size)
        assert len(first) == len(second) == size.seeds
        assert not set(first) & set(second)


def test_curves_keep_the_points_that_some_seeds_have():
    rows = np.array([[1.0, np.nan, 3.0], [2.0, np.nan, np.nan]])
    with figure("test", 1, 1, (3.0, 2.0)) as (_, axes):
        wfm_figures._band(axes[0, 0], np.arange(3.0), rows, LAL)
        (line,) = axes[0, 0].lines
        np.testing.assert_array_equal(line.get_xydata(), [[0.0, 1.5], [2.0, 3.0]])


def test_solvers_that_solve_nothing_leave_empty_curves():
    rows = np.full((2, 3), np.nan)
    with figure("test", 1, 1, (3.0, 2.0)) as (_, axes):
        wfm_figures._curve(axes[0, 0], np.arange(3.0), rows, LAL)
        wfm_figures._band(axes[0, 0], np.arange(3.0), rows, LAL)


def test_sizes(tmp_path):
    with pytest.raises(ValueError, match="size is 'huge'; expected one of 'small', 'full'"):
        run_study("wfm", tmp_path / "a", size="huge")
    with pytest.raises(ValueError, match="size is 'full'; the study digits comes in one size"):
        run_study("digits", tmp_path / "b", size="full")
    with pytest.raises(ValueError, match="seed is -1; expected at least 0"):
        run_study("wfm", tmp_path / "c", seed=-1)
    assert not list(tmp_path.iterdir())
