"""Local entropies against counting: exact where belief propagation is, within its known accuracy elsewhere."""

import numpy as np
import pytest
import wfm_reference as reference

import flatcore as fc

wfm = fc.wfm


def enumerated(found, center, h):
    """φ and q of the given solutions with the field h on all weights."""
    overlap = np.einsum("wki,ki->w", found, center)
    top = (h * overlap).max()
    weight = np.exp(h * overlap - top)
    return (top + np.log(weight.sum())) / center.size, float(weight @ overlap / weight.sum() / center.size)


@pytest.mark.parametrize(
    "model",
    [
        wfm.Committee(13),
        wfm.Committee(15, 3),
        wfm.Committee(15, 3, activation="parity"),
        wfm.Committee(10, 2, activation="parity"),
    ],
    ids=str,
)
def test_one_pattern_is_counted_exactly(model):
    patterns = wfm.random_patterns(model, 1, seed=1)
    found = reference.solutions(model, patterns)
    center = found[3].astype(float)
    fields = [-0.5, 0.0, 0.7, 2.0]
    result = wfm.local_entropy(model, center, patterns, fields=fields, form="exact", tol=1e-13)
    assert result.converged.all()
    for i, h in enumerate(fields):
        phi, q = enumerated(found, center, h)
        assert result.free_entropy[i] == pytest.approx(phi, abs=1e-11)
        assert result.overlap[i] == pytest.approx(q, abs=1e-10)
        assert result.entropy[i] == pytest.approx(phi - h * q, abs=1e-10)


@pytest.mark.parametrize(("form", "bound"), [("exact", 0.02), ("edge", 0.03), ("amp", 0.05)])
def test_entropies_of_small_machines_are_those_counted(form, bound):
    """Loops and the law of the fields cost 0.005 to 0.02 in the root mean square at N = 15."""
    model, errors = wfm.Committee(17), []
    for seed in range(5):
        patterns = wfm.random_patterns(model, 5, seed=seed)
        found = reference.solutions(model, patterns)
        center = found[len(found) // 2].astype(float)
        for h in (0.0, 0.5, 1.0):
            result = wfm.local_entropy(model, center, patterns, fields=h, form=form)
            assert result.converged.all()
            phi, q = enumerated(found, center, h)
            errors.append(result.entropy[0] - (phi - h * q))
    assert np.sqrt(np.mean(np.square(errors))) < bound


@pytest.mark.parametrize(
    ("model", "form"),
    [
        (wfm.Committee(201), "edge"),
        (wfm.Committee(201), "amp"),
        (wfm.Committee(153, 3), "amp"),
        (wfm.Committee(21), "exact"),
        (wfm.Committee(201, weights="continuous"), "amp"),
        (wfm.Committee(153, 3, weights="continuous"), "amp"),
    ],
    ids=str,
)
def test_the_overlap_is_the_derivative_of_the_free_entropy(model, form):
    patterns = wfm.random_patterns(model, int(0.2 * model.num_weights), seed=2)
    center = wfm.focusing_bp(model, patterns).weights
    h, step = 0.6, 1e-3
    result = wfm.local_entropy(model, center, patterns, fields=[h - step, h, h + step], form=form, tol=1e-11)
    assert result.converged.all()
    slope = (result.free_entropy[2] - result.free_entropy[0]) / (2 * step)
    # Central differences err by step²/6 times a third derivative of order one. The normal law of the fields on edges is
    # not variational: its slope misses by the order of 1/n.
    assert slope == pytest.approx(result.overlap[1], abs=5e-3 if form == "edge" else 2e-6)


@pytest.mark.parametrize("weights", ["binary", "continuous"])
def test_fixed_overlap_and_fixed_field_are_one_curve(weights):
    model = wfm.Committee(301, weights=weights)
    patterns = wfm.random_patterns(model, 90, seed=3)
    center = wfm.focusing_bp(model, patterns, form="amp").weights
    at_distance = wfm.local_entropy(model, center, patterns, distances=[0.3, 0.1, 0.2], form="amp", tol=1e-10)
    assert at_distance.converged.all()
    np.testing.assert_allclose(at_distance.distance, [0.3, 0.1, 0.2], atol=1e-9)
    in_order = wfm.local_entropy(model, center, patterns, distances=[0.1, 0.2, 0.3], form="amp", tol=1e-10)
    np.testing.assert_array_equal(in_order.entropy, at_distance.entropy[[1, 2, 0]])
    at_field = wfm.local_entropy(model, center, patterns, fields=at_distance.field, form="amp", tol=1e-10)
    np.testing.assert_allclose(at_field.overlap, at_distance.overlap, atol=1e-6)
    np.testing.assert_allclose(at_field.entropy, at_distance.entropy, atol=1e-6)
    # S = min over h of φ(h) − hq: its slope in q is −h; and less room nearer to the center.
    assert at_distance.entropy[1] < at_distance.entropy[2] < at_distance.entropy[0]


def test_without_patterns_that_matter_the_entropy_is_that_of_counting():
    """One pattern on 1,001 weights takes log 2/N of the entropy of a sphere of binary weights."""
    model = wfm.Committee(1001)
    patterns = wfm.random_patterns(model, 1, seed=4)
    center = wfm.focusing_bp(model, patterns).weights
    result = wfm.local_entropy(model, center, patterns)
    d = result.distance
    assert np.abs(result.entropy - (-d * np.log(d) - (1 - d) * np.log(1 - d))).max() < np.log(2) / 1001 + 1e-6


def test_forms_agree_at_moderate_size():
    model = wfm.Committee(501)
    patterns = wfm.random_patterns(model, 150, seed=5)
    center = wfm.focusing_bp(model, patterns).weights
    edge, amp = (
        wfm.local_entropy(model, center, patterns, distances=[0.05, 0.2], form=form) for form in ("edge", "amp")
    )
    assert edge.converged.all()
    assert amp.converged.all()
    np.testing.assert_allclose(edge.entropy, amp.entropy, atol=3e-3)


def test_what_cannot_be_asked_is_refused():
    model, continuous = wfm.Committee(101), wfm.Committee(9, weights="continuous")
    patterns, ones = wfm.random_patterns(model, 5), np.ones(101)
    for options, message in [
        ({"distances": [0.1], "fields": [1.0]}, "distances and fields are given; expected one of them"),
        ({"distances": [0.0]}, r"distances reach the end of the range; expected values in \(0, 1\)"),
        ({"overlaps": [1.0]}, r"overlaps reach the end of the range; expected values in \(-1, 1\)"),
        ({"fields": []}, "fields is empty"),
        ({"fields": [np.nan]}, "fields contains nan"),
        ({"form": "exact"}, "form is 'exact' with 101 inputs a unit; expected at most 63"),
        ({"form": "bp"}, "form is 'bp'"),
        ({"damping": 1}, "damping is 1; expected a number"),
        ({"tol": 0}, "tol is 0; expected a positive number"),
        ({"max_sweeps": 0}, "max_sweeps is 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            wfm.local_entropy(model, ones, patterns, **options)
    with pytest.raises(ValueError, match="form is 'edge'; continuous weights have 'amp' alone"):
        wfm.local_entropy(continuous, np.ones(9), wfm.random_patterns(continuous, 2), form="edge")


def test_weights_are_left_as_they_are_and_their_scale_does_not_count():
    model = wfm.Committee(21, weights="continuous")
    patterns = wfm.random_patterns(model, 6)
    weights = np.random.default_rng(0).standard_normal((1, 21))
    found = wfm.local_entropy(model, weights, patterns, distances=[0.1])
    assert weights.flags.writeable
    for scale in (2.0**-600, 2.0**600):
        again = wfm.local_entropy(model, scale * weights, patterns, distances=[0.1])
        np.testing.assert_array_equal(again.entropy, found.entropy)


def test_the_volume_of_continuous_solutions_is_that_sampled():
    model = wfm.Committee(21, weights="continuous")
    patterns = wfm.random_patterns(model, 6)
    x = patterns.inputs * patterns.labels[:, None]
    share = ((np.random.default_rng(0).standard_normal((400_000, 21)) @ x.T) > 0).all(axis=1).mean()
    found = wfm.local_entropy(model, np.ones(21), patterns, fields=[0.0])
    # Sampling has an error of 1e-4 in ln(share)/N; the Bethe free entropy is off by 0.004 at most at this size.
    assert found.free_entropy[0] == pytest.approx(np.log(share) / 21, abs=5e-3)


@pytest.mark.parametrize(("weights", "form"), [("binary", "edge"), ("binary", "amp"), ("continuous", "amp")])
def test_points_where_nothing_solves_do_not_spoil_the_others(weights, form):
    """Around weights that do not solve; farther out there are solutions again."""
    model = wfm.Committee(101, weights=weights)
    patterns = wfm.random_patterns(model, 40 if weights == "binary" else 80, seed=3)
    center = np.random.default_rng(5).choice([-1.0, 1.0], model.shape)
    together = wfm.local_entropy(model, center, patterns, distances=[0.01, 0.05, 0.3, 0.45], form=form)
    assert not together.converged[:2].any()
    assert together.converged[2:].all()
    for i in (2, 3):
        alone = wfm.local_entropy(model, center, patterns, distances=together.distance[i], form=form)
        # Of one fixed point, to which the messages settled within 1e-7.
        assert together.entropy[i] == pytest.approx(alone.entropy[0], abs=1e-5)


@pytest.mark.parametrize("form", ["edge", "amp"])
def test_where_nothing_solves_the_entropy_does_not_pretend(form):
    """Far beyond the capacity, and with both labels of every pattern."""
    model = wfm.Committee(51)
    inputs = np.repeat(wfm.random_patterns(model, 10).inputs, 2, axis=0)
    for patterns in (wfm.random_patterns(model, 204), (inputs, np.tile([1, -1], 10))):
        found = wfm.local_entropy(model, np.ones(51), patterns, distances=[0.05, 0.2, 0.45], form=form)
        assert not found.converged.any()
        low = found.entropy < -np.log(2)
        assert np.isneginf(found.entropy[low]).all()
    if form == "edge":
        assert low.all()
