"""The γ-cross-entropy: value, gradient, Hessian, trace, spectrum and SGD against dense NumPy and finite differences."""

import numpy as np
import pytest
import wfm_online_reference as reference
from hypothesis import given
from hypothesis import strategies as st

import flatcore as fc
from flatcore import _core
from flatcore.wfm._online import Examples
from flatcore.wfm.patterns import random_weights

wfm = fc.wfm

CASES = st.tuples(
    st.sampled_from([("tree", 1), ("tree", 3), ("tree", 5), ("full", 3), ("full", 1), ("tree", 2), ("full", 4)]),
    st.sampled_from(["majority", "parity"]),
    st.integers(2, 12),
    st.integers(1, 12),
).filter(lambda case: case[1] == "parity" or case[0][1] % 2 == 1)


def problem(case):
    (kind, units), activation, n, count = case
    model = wfm.Committee(n * units if kind == "tree" else n, units, kind, "continuous", activation)
    patterns = wfm.random_patterns(model, count, seed=n)
    w = random_weights(model, np.random.default_rng(count))
    return model, patterns, reference.seen_by_units(model, patterns.inputs), w


@given(CASES, st.floats(0.2, 4.0), st.floats(0.2, 4.0))
def test_value_gradient_hessian_and_trace_are_the_dense_ones(case, beta, gamma):
    model, patterns, seen, w = problem(case)
    gradient, hessian = reference.dense_derivatives(model, seen, patterns.labels, w, beta, gamma)
    value, found = wfm.cross_entropy(model, w, patterns, beta=beta, gamma=gamma)
    assert value == pytest.approx(reference.loss(model, seen, patterns.labels, w, beta, gamma), rel=1e-12)
    np.testing.assert_allclose(found.ravel(), gradient, atol=1e-12)
    H = wfm.CrossEntropyHessian(model, w, patterns, beta, gamma)
    np.testing.assert_allclose(H.dense(), hessian, atol=1e-11)
    assert H.trace() == pytest.approx(np.trace(hessian), abs=1e-11)
    V = np.random.default_rng(0).standard_normal((model.num_weights, 3))
    np.testing.assert_allclose(H @ V, hessian @ V, atol=1e-10)
    np.testing.assert_allclose(H @ V[:, 0], hessian @ V[:, 0], atol=1e-10)


@given(CASES)
def test_finite_differences(case):
    """Central differences with ε = 1e-5: truncation ε²·f''' ≈ 1e-9 for β, γ ≤ 1, rounding 1e-16/ε = 1e-11."""
    model, patterns, _, w = problem(case)
    v = np.random.default_rng(1).standard_normal(model.shape)
    v /= np.linalg.norm(v)
    plus, minus = (wfm.cross_entropy(model, w + s * 1e-5 * v, patterns, beta=1.0, gamma=0.8) for s in (1, -1))
    _, gradient = wfm.cross_entropy(model, w, patterns, beta=1.0, gamma=0.8)
    assert (plus[0] - minus[0]) / 2e-5 == pytest.approx(np.sum(gradient * v), abs=1e-8)
    H = wfm.CrossEntropyHessian(model, w, patterns, 1.0, 0.8)
    np.testing.assert_allclose((plus[1] - minus[1]).ravel() / 2e-5, H @ v.ravel(), atol=1e-8)


@given(CASES)
def test_the_tangent_hessian_is_the_projected_one(case):
    model, patterns, seen, w = problem(case)
    gradient, hessian = reference.dense_derivatives(model, seen, patterns.labels, w, 2.0, 1.5)
    K, n = model.shape
    projection, pull = np.eye(K * n), np.zeros(K * n)
    for k in range(K):
        block = slice(k * n, (k + 1) * n)
        projection[block, block] -= np.outer(w[k], w[k]) / n
        pull[block] = gradient[block] @ w[k] / n
    expected = projection @ hessian @ projection - np.diag(pull) @ projection
    H = wfm.CrossEntropyHessian(model, 3.0 * w, patterns, 2.0, 1.5, tangent=True)
    np.testing.assert_allclose(H.dense(), expected, atol=1e-11)
    assert H.trace() == pytest.approx(np.trace(expected), abs=1e-11)


def test_the_tangent_hessian_is_the_second_derivative_on_the_spheres():
    """Along a great circle w(s) = cos s·w + sin s·√n u: d²L/ds² at 0 is (√n u)ᵀ H (√n u)."""
    model, patterns, _, w = problem((("tree", 3), "majority", 9, 20))
    rng = np.random.default_rng(2)
    v = rng.standard_normal(model.shape)
    v -= np.einsum("ki,ki->k", v, w)[:, None] * w / model.fan_in
    v *= np.sqrt(model.fan_in) / np.linalg.norm(v, axis=1, keepdims=True)
    step = 1e-3

    def along(s):
        return wfm.cross_entropy(model, np.cos(s) * w + np.sin(s) * v, patterns)[0]

    second = (along(step) - 2 * along(0.0) + along(-step)) / step**2
    H = wfm.CrossEntropyHessian(model, w, patterns, tangent=True)
    # Truncation step²/12·f'''' and rounding 4·eps/step², both about 1e-6 at most for f of order 1.
    assert second == pytest.approx(v.ravel() @ (H @ v.ravel()), rel=1e-4)


@given(st.floats(1e-3, 1e6), st.floats(1e-3, 1e6), st.floats(1e-6, 1e6), st.sampled_from(["majority", "parity"]))
def test_extreme_sharpness_gives_numbers(beta, gamma, size, activation):
    model = wfm.Committee(9, 3, weights="continuous", activation=activation)
    patterns = wfm.random_patterns(model, 12)
    w = size * np.random.default_rng(0).standard_normal(model.shape)
    value, gradient = wfm.cross_entropy(model, w, patterns, beta=beta, gamma=gamma)
    H = wfm.CrossEntropyHessian(model, w, patterns, beta, gamma)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert np.isfinite(H.dense()).all()
    assert value >= 0.0


@given(CASES, st.integers(1, 13), st.floats(0.1, 30.0))
def test_an_epoch_of_sgd(case, batch, rate):
    model, patterns, seen, w = problem(case)
    order = np.random.default_rng(5).permutation(patterns.num_patterns)
    expected = reference.descent(model, seen, patterns.labels, order, w, 0.7, 0.9, batch, rate)
    e = Examples(model, patterns)
    _core.wfm_descent(e.rows, e.labels, e.parity, 0.7, 0.9, order, batch, rate, w)
    # Large rates amplify rounding by a factor of about rate a batch, 13 batches of gradients of size 0.1.
    np.testing.assert_allclose(w, expected, rtol=1e-7, atol=1e-7)


def test_schedules_that_lead_away_from_their_end_are_refused_and_steep_ones_arrive():
    model = wfm.Committee(27, 3, weights="continuous")
    patterns = wfm.random_patterns(model, 270)
    for options in ({"start": 10.0, "factor": 0.995}, {"schedule": "slow_reduction", "start": 0.5}, {"start": 200.0}):
        with pytest.raises(ValueError, match=r"end is .*; factor .* leads away from it, start being"):
            wfm.cross_entropy_sgd(model, patterns, **options)
    for options in ({"start": 1e-300}, {"end": 1e101}):
        with pytest.raises(ValueError, match=r"(start|end) is .*; expected a number from 1e-100 to 1e100"):
            wfm.cross_entropy_sgd(model, patterns, **options)
    steep = wfm.cross_entropy_sgd(model, patterns, factor=2.0, max_epochs=1100)  # 2¹¹⁰⁰ overflows
    np.testing.assert_array_equal(steep.history["beta"][:8], 0.5 * 2.0 ** np.arange(8))
    assert (steep.history["beta"][8:] == 100.0).all()
    constant = wfm.cross_entropy_sgd(model, patterns, start=3.0, factor=1.0, end=3.0, max_epochs=2)
    np.testing.assert_array_equal(constant.history["beta"], 3.0)


def test_a_run_that_diverges_at_once_ends_with_weights_that_are_numbers():
    model = wfm.Committee(27, 3, weights="continuous")
    patterns = wfm.random_patterns(model, 100)
    found = wfm.cross_entropy_sgd(model, patterns, rate=1e300)
    assert found.status == "not_solved"
    assert np.isfinite(found.weights).all()
    assert found.errors == wfm.errors(model, found.weights, patterns) > 0


def test_products_with_nothing_and_with_complex_vectors():
    model = wfm.Committee(15, 3, weights="continuous")
    patterns, teacher = wfm.teacher_patterns(model, 10)
    H = wfm.CrossEntropyHessian(model, teacher, patterns)
    assert (H @ np.zeros((15, 0))).shape == (15, 0)
    with pytest.raises(ValueError, match="v is complex"):
        H @ np.ones(15, dtype=complex)


def test_schedules_go_both_ways_and_stay_where_they_end():
    model = wfm.Committee(45, 3, weights="continuous")
    patterns = wfm.random_patterns(model, 135)
    up = wfm.cross_entropy_sgd(model, patterns, start=1.0, factor=2.0, end=5.0, max_epochs=4)
    np.testing.assert_array_equal(up.history["beta"], [1.0, 2.0, 4.0, 5.0])
    down = wfm.cross_entropy_sgd(model, patterns, schedule="slow_reduction", factor=0.5, max_epochs=4)
    np.testing.assert_array_equal(down.history["beta"], [10.0, 5.0, 2.5, 2.0])


@pytest.mark.parametrize("exponent", [-600, 500])
def test_the_tangent_hessian_does_not_depend_on_the_weights_scale(exponent):
    """A power of two scales without rounding; the squares leave the range of numbers."""
    model, patterns, _, w = problem((("tree", 3), "majority", 9, 20))
    spectrum = wfm.hessian_spectrum(model, w, patterns, tangent=True)
    scaled = wfm.hessian_spectrum(model, np.ldexp(w, exponent), patterns, tangent=True)
    assert spectrum.trace == scaled.trace
    np.testing.assert_array_equal(spectrum.values, scaled.values)


def test_the_spectrum_at_weights_drawn_by_the_user():
    """A tangent Hessian takes the weights to zero: whatever they are, it stays a symmetric operator."""
    model = wfm.Committee(45, 5, weights="continuous")
    patterns = wfm.random_patterns(model, 20)
    weights = np.random.default_rng(0).standard_normal(model.shape)
    H = wfm.CrossEntropyHessian(model, weights, patterns, tangent=True)
    spectrum = wfm.hessian_spectrum(model, weights, patterns, tangent=True)
    assert spectrum.lambda_max == pytest.approx(np.linalg.eigvalsh(H.dense())[-1], rel=1e-5)


@pytest.mark.parametrize("tangent", [False, True])
def test_the_spectrum_is_that_of_the_dense_matrix(tangent):
    model = wfm.Committee(93, 3, weights="continuous")
    patterns = wfm.random_patterns(model, 60)
    result = wfm.least_action(model, patterns)
    H = wfm.CrossEntropyHessian(model, result.weights, patterns, tangent=tangent)
    eigenvalues = np.linalg.eigvalsh(H.dense())
    spectrum = wfm.hessian_spectrum(model, result.weights, patterns, tangent=tangent, k=2)
    assert spectrum.kind == ("tangent" if tangent else "full")
    assert spectrum.status == "converged"
    np.testing.assert_allclose(spectrum.values, eigenvalues[:-3:-1], rtol=1e-5)  # residuals of 1e-6 of the largest
    assert spectrum.lambda_max == spectrum.values[0]
    assert spectrum.trace == pytest.approx(eigenvalues.sum(), abs=1e-12)
    assert spectrum.near_zero == pytest.approx(np.mean(np.abs(eigenvalues) < 1e-3), abs=1e-12)
    assert spectrum.near_zero_stderr == 0.0
    assert "largest eigenvalue" in spectrum.summary()


def test_the_share_near_zero_of_a_large_machine_comes_with_an_error():
    model = wfm.Committee(1803, 3, weights="continuous")
    patterns, teacher = wfm.teacher_patterns(model, 300)
    spectrum = wfm.hessian_spectrum(model, teacher, patterns)
    # At most 300·3 of 1,803 directions are seen by the patterns; of these some are nearly flat too.
    assert 0.5 - 4 * spectrum.near_zero_stderr < spectrum.near_zero <= 1.0
    assert 0.0 < spectrum.near_zero_stderr < 0.05
    H = wfm.CrossEntropyHessian(model, teacher, patterns)
    exact = np.mean(np.abs(np.linalg.eigvalsh(H.dense())) < 1e-3)
    assert abs(spectrum.near_zero - exact) < 4 * spectrum.near_zero_stderr
    estimate = fc.trace(H, seed=1)
    assert abs(estimate.value - H.trace()) < 5 * estimate.stderr


def test_wrong_arguments():
    model = wfm.Committee(9, 3, weights="continuous")
    patterns = wfm.random_patterns(model, 4)
    w = np.ones((3, 3))
    with pytest.raises(ValueError, match="beta is 0; expected a positive number"):
        wfm.cross_entropy(model, w, patterns, beta=0)
    with pytest.raises(ValueError, match=r"weights\[0\] is zero; expected a unit with a direction"):
        wfm.cross_entropy(model, np.zeros((3, 3)), patterns)
    with pytest.raises(ValueError, match=r"v has shape \(8,\); expected \(9,\) or \(9, b\)"):
        wfm.CrossEntropyHessian(model, w, patterns) @ np.ones(8)
    with pytest.raises(ValueError, match="k is 10; expected between 1 and 9"):
        wfm.hessian_spectrum(model, w, patterns, k=10)
    with pytest.raises(ValueError, match="tangent is True; a binary machine has no spheres"):
        wfm.CrossEntropyHessian(wfm.Committee(9, 3), w, patterns, tangent=True)
