"""Sweeps of message passing against the equations as written, at ordinary and extreme fields, and on trees."""

import mpmath
import numpy as np
import pytest
import scipy.special
import wfm_reference as reference
from hypothesis import given
from hypothesis import strategies as st

import flatcore as fc
from flatcore import _core
from flatcore._threads import limit_threads
from flatcore.wfm.message_passing import task_of

wfm = fc.wfm
MODELS = [
    wfm.Committee(201),
    wfm.Committee(355, 5),
    wfm.Committee(71, 3, "full"),
    wfm.Committee(9, 3),
    wfm.Committee(21, 3, activation="parity"),
    wfm.Committee(66, 2, "tree", activation="parity"),
    wfm.Committee(67, 4, "full", activation="parity"),
]


def padded(messages):
    out = np.zeros((*messages.shape[:2], _core.wfm_padded_inputs(messages.shape[2])))
    out[..., : messages.shape[2]] = messages
    return out


def edges(model, patterns, a, b, damping):
    """Messages, sums and change of one sweep; what pads the rows stays zero."""
    messages = padded(a)
    sums, change = _core.wfm_edge_sweep(task_of(model, patterns), messages, b, damping)
    assert not messages[..., model.fan_in :].any()
    return messages[..., : model.fan_in], sums, change


@pytest.mark.parametrize("damping", [0.0, 0.3])
@pytest.mark.parametrize("size", [0.1, 1.0, 12.0])  # of fields: all, some or hardly any of the weights undecided
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_sweep_on_edges_is_the_equations(model, size, damping):
    patterns = wfm.random_patterns(model, 19, seed=1)
    rng = np.random.default_rng(2)
    a = np.clip(size * rng.standard_normal((19, *model.shape)), -30, 30)
    b = 1.5 * size * rng.standard_normal(model.shape)
    expected = reference.edge_sweep(model, patterns, a, b, damping)
    found = edges(model, patterns, a, b, damping)
    # Fields of up to 300 carry relative errors of a few eps, their differences 1e-13; the interpolant is cut at 1e-13.
    for one, other in zip(found, expected[:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-11)


@given(
    st.sampled_from(MODELS),
    st.sampled_from([0.0, 1e-300, 1e-9, 1.0, 29.0, 30.0]),
    st.sampled_from([0.0, 1e-6, 1.0, 60.0, 1e4, 1e300]),
    st.integers(0, 5),
)
def test_extreme_fields_give_numbers(model, a_size, b_size, seed):
    """|a| up to 30, V → 0 (all weights decided), B = ±30 and, for one unit, ∞."""
    patterns = wfm.random_patterns(model, 7, seed=seed)
    rng = np.random.default_rng(seed)
    a = a_size * rng.choice([-1.0, 1.0], (7, *model.shape))
    b = b_size * rng.choice([-1.0, 1.0], model.shape)
    messages, sums, change = edges(model, patterns, a, b, 0.0)
    assert np.abs(messages).max() <= 30.0 * (1 + 1e-15)
    assert np.isfinite(sums).all()
    assert 0.0 <= change <= 2.0
    with np.errstate(over="ignore"):
        expected = reference.edge_sweep(model, patterns, a, b, 0.0)[0]
    # V = 1e-6 where all is decided: ω/√V up to 2e5, squares 4e10 whose rounding is seen only beyond the clamp.
    np.testing.assert_allclose(messages, expected, rtol=1e-9, atol=1e-9)
    task = task_of(model, patterns)
    outputs = b_size**0.1 * rng.standard_normal((7, model.n_hidden))
    for variance in (0.0, 1e-12, 1.0):
        g = outputs.copy()
        gamma = np.zeros(model.n_hidden)
        found = _core.wfm_gaussian_amp_sweep(task, 1.0, np.sign(b), np.full(model.n_hidden, variance), g, gamma, 0.0)
        assert np.isfinite(gamma).all()
        assert np.isfinite(g).all()
        assert all(np.isfinite(part).all() for part in found)


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_sweep_of_amp_is_the_equations(model, dtype, scaled):
    patterns = wfm.random_patterns(model, 23, seed=3)
    rng = np.random.default_rng(4)
    m = np.tanh(rng.standard_normal(model.shape)).astype(dtype)
    g = (0.3 * rng.standard_normal((23, model.n_hidden))).astype(dtype)
    c = 1 / np.sqrt(model.fan_in) if scaled else 1.0
    V = c**2 * (1 - m.astype(float) ** 2).sum(axis=1)
    expected = reference.amp_sweep(model, patterns, c, m.astype(float), V, g.astype(float), 0.4)
    kept, S, fresh, *rest = expected
    gamma = rng.uniform(0, 5, model.n_hidden)
    expected = (kept, S + c**2 * 0.4 * (gamma - fresh)[:, None] * m, 0.6 * fresh + 0.4 * gamma, *rest)
    assert (expected[2] > 0).all()
    S, squares, log_z, change = _core.wfm_gaussian_amp_sweep(task_of(model, patterns), c, m, V, g, gamma, 0.4)
    assert S.dtype == g.dtype == dtype
    # The fields are sums of up to 201 terms in the state's precision.
    tolerance = 1e-10 if dtype == np.float64 else 2e-4
    for found, right in zip((g, S, gamma, squares, log_z, change), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("model", "count"), [*((m, 23) for m in MODELS), (wfm.Committee(1501), 611)], ids=str)
def test_a_binary_sweep_of_amp_makes_its_means_and_damps_its_sums(model, count, dtype, threads):
    """m = tanh(S + f) and V, then the equations, then S ← (1 − λ)S' + λS. The last machine is shared by threads."""
    patterns = wfm.random_patterns(model, count, seed=3)
    rng = np.random.default_rng(4)
    S, f = (rng.standard_normal(model.shape).astype(dtype) for _ in range(2))
    g = (0.3 * rng.standard_normal((count, model.n_hidden))).astype(dtype)
    m = np.tanh(S.astype(float) + f)
    V = (1 - m**2).sum(axis=1)
    kept, fresh, _, *rest = reference.amp_sweep(model, patterns, 1.0, m, V, g.astype(float), 0.4)
    expected = (kept, 0.6 * fresh + 0.4 * S.astype(float), V, *rest)
    with limit_threads(threads):
        variances, squares, log_z, change = _core.wfm_binary_amp_sweep(task_of(model, patterns), f, g, 0.4, S)
    tolerance = 1e-10 if dtype == np.float64 else 2e-4  # fields are sums of up to 1,501 terms of the state's precision
    for found, right in zip((g, S, variances, squares, log_z, change), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_curvature_of_one_unit_keeps_its_digits_far_outside(dtype):
    """ΓV = h(h + z) with h = φ/Φ, by mpmath at 60 digits; z from where it cancels slightly to where it is lost."""
    model = wfm.Committee(1)
    patterns = wfm.Patterns.from_arrays(model, np.ones((1, 1), dtype=np.int8), np.ones(1, dtype=np.int8))
    mpmath.mp.dps = 60
    for z in (-0.5, -3.0, -9.9, -10.1, -30.0, -69.9, -70.1, -1e3, -1e5, -1e7):
        exact = mpmath.npdf(z) / mpmath.ncdf(z)
        exact = float(exact * (exact + z))
        m, V, g = np.full((1, 1), z, dtype=dtype), np.ones(1), np.zeros((1, 1), dtype=dtype)
        gamma = np.zeros(1)
        _core.wfm_gaussian_amp_sweep(task_of(model, patterns), 1.0, m, V, g, gamma, 0.0)
        z = float(m[0, 0])
        np.testing.assert_allclose(gamma, exact, rtol=3e-5 if dtype == np.float32 else 3e-12)
        if dtype == np.float64:
            messages, kept = np.zeros((1, 1, _core.wfm_padded_inputs(1))), np.zeros((1, 1))
            _core.wfm_gaussian_sweep(task_of(model, patterns), messages, kept, m, V, 0.0)
            np.testing.assert_allclose(kept, exact, rtol=3e-12)


@given(
    st.sampled_from([0.0, 1e-300, 1e-9, 1.0, 30.0, 1e4, 1e300]),
    st.sampled_from([0.0, 1.0, 1e4, 1e8]),  # |g| < |ω|/V, V >= 1e-6
    st.sampled_from([np.float32, np.float64]),
    st.integers(0, 5),
)
def test_extreme_sums_of_a_binary_sweep_give_numbers(size, output, dtype, seed):
    """One unit: B = ∞; V from n down to 0, fields far on the wrong side."""
    model = wfm.Committee(65)
    patterns = wfm.random_patterns(model, 13, seed=seed)
    rng = np.random.default_rng(seed)
    S = (min(size, float(np.finfo(dtype).max) / 8) * rng.choice([-1.0, 1.0], model.shape)).astype(dtype)
    g = (output * rng.standard_normal((13, 1))).astype(dtype)
    found = _core.wfm_binary_amp_sweep(task_of(model, patterns), np.zeros_like(S), g, 0.5, S)
    assert all(np.isfinite(part).all() for part in (S, g, *found))


@pytest.mark.parametrize("size", [0.3, 5.0])
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_a_sweep_on_edges_of_continuous_weights_is_the_equations(model, size):
    patterns = wfm.random_patterns(model, 17, seed=5)
    rng = np.random.default_rng(6)
    g, gamma = size * rng.standard_normal((17, *model.shape)), rng.uniform(0, 1, (17, model.n_hidden))
    mean, s = size * rng.standard_normal(model.shape), rng.uniform(0.1, 1, model.n_hidden)
    expected = reference.gaussian_sweep(model, patterns, g, gamma, mean, s, 0.3)
    messages, kept = padded(g), gamma.copy()
    H, G, change = _core.wfm_gaussian_sweep(task_of(model, patterns), messages, kept, mean, s, 0.3)
    assert not messages[..., model.fan_in :].any()
    for found, right in zip((messages[..., : model.fan_in], kept, H, G, change), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-10, atol=1e-10)


@given(
    st.sampled_from([wfm.Committee(m.n_inputs, m.n_hidden, m.kind, "continuous", m.activation) for m in MODELS]),
    st.sampled_from([0.0, 1e-300, 1.0, 30.0]),
    st.sampled_from([0.0, 1e-9, 1.0, 30.0, 1e4]),
    st.sampled_from([0.0, 1e-300, 1e-12, 1.0]),
    st.integers(0, 5),
)
def test_extreme_fields_of_continuous_weights_give_numbers(model, g_size, mean_size, variance, seed):
    """Messages up to 30, V → 0, and of one unit, whose sign is certain (B = ∞), fields far in either tail."""
    patterns = wfm.random_patterns(model, 7, seed=seed)
    rng = np.random.default_rng(seed)
    g = g_size * rng.choice([-1.0, 1.0], (7, *model.shape))
    mean, s = mean_size * rng.choice([-1.0, 1.0], model.shape), np.full(model.n_hidden, variance)
    messages, gamma = padded(g), np.full((7, model.n_hidden), g_size)
    H, G, change = _core.wfm_gaussian_sweep(task_of(model, patterns), messages, gamma, mean, s, 0.3)
    for part in (messages, gamma, H, G):
        assert np.isfinite(part).all()
    assert 0.0 <= change < np.inf
    # The reference subtracts exponents of size z²/2; compared as far as it is right to three digits.
    z = np.sqrt(model.fan_in) * (mean_size + g_size) / np.sqrt(max(variance, reference.LEAST_VARIANCE))
    tolerance = 1e-9 + 4e-16 * z**2
    if tolerance < 1e-3:
        expected = reference.gaussian_sweep(model, patterns, g, np.full_like(gamma, g_size), mean, s, 0.3)[0]
        atol = tolerance * (1.0 + np.abs(expected).max())
        np.testing.assert_allclose(messages[..., : model.fan_in], expected, rtol=tolerance, atol=atol)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_sums_by_rounding_alone_and_repeat_their_bits(threads):
    model = wfm.Committee(999, 9)
    patterns = wfm.random_patterns(model, 200, seed=7)
    a = np.random.default_rng(8).uniform(-0.5, 0.5, (200, *model.shape))
    b = a.sum(axis=0)
    before, results = _core.max_threads(), {}
    try:
        for count in (1, threads, threads):
            _core.set_threads(count)
            results.setdefault(count, []).append(edges(model, patterns, a, b, 0.2))
    finally:
        _core.set_threads(before)
    first, second = results[threads]
    for one, other, single in zip(first, second, results[1][0], strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_allclose(one, single, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (wfm.Committee(13), 1),
        (wfm.Committee(15, 3), 1),
        (wfm.Committee(15, 3, activation="parity"), 1),
        (wfm.Committee(10, 2, activation="parity"), 1),
        (wfm.Committee(5, 3, "full"), 1),
    ],
    ids=str,
)
def test_marginals_and_the_number_of_solutions_are_exact_on_trees(model, count):
    """One pattern makes no loop: with exact laws of the fields belief propagation counts."""
    patterns = wfm.random_patterns(model, count, seed=9)
    found = reference.solutions(model, patterns)
    messages, b = padded(np.zeros((count, *model.shape))), np.zeros(model.shape)
    for _ in range(3):
        b, change = _core.wfm_edge_sweep(task_of(model, patterns), messages, b, 0.0, True)
    assert change < 1e-14
    np.testing.assert_allclose(np.tanh(b), found.mean(axis=0), rtol=1e-12, atol=1e-12)
    bethe = np.logaddexp(b, -b).sum() + _core.wfm_edge_bethe(task_of(model, patterns), messages, b, True)
    assert bethe == pytest.approx(np.log(len(found)), rel=1e-12)


def test_amp_and_edges_agree_at_their_fixed_point():
    """Messages of one pattern to a unit's weights differ at order 1/√n, marginals of the two forms at order 1/n."""
    model = wfm.Committee(1001)
    patterns = wfm.random_patterns(model, 300, seed=10)
    rng = np.random.default_rng(0)
    from flatcore.wfm.message_passing import BinaryAmp, BinaryEdges

    means = []
    for state in (BinaryEdges(model, patterns, rng, 0.0), BinaryAmp(model, patterns, rng, 0.5)):
        for _ in range(200):
            state.sweep(np.zeros(model.shape))
        assert state.change < 1e-6
        means.append(np.tanh(state.sums))
    # Measured 0.003 at this size; means themselves have a spread of 0.5.
    assert np.abs(means[0] - means[1]).max() < 0.02
    assert means[0].std() > 0.3


def log_probability_of_being_right(model, z):
    """log P(output = 1) of independent signs, P(τ_k = 1) = Φ(z_k), by convolution in logarithms: z (P, K)."""
    up, down = scipy.special.log_ndtr(z), scipy.special.log_ndtr(-z)
    if model.activation == "parity":
        even, odd = np.zeros(len(z)), np.full(len(z), -np.inf)
        for k in range(z.shape[1]):
            even, odd = np.logaddexp(even + up[:, k], odd + down[:, k]), np.logaddexp(odd + up[:, k], even + down[:, k])
        return even
    return scipy.special.logsumexp(law_of_the_count(z)[:, z.shape[1] // 2 + 1 :], axis=1)


def law_of_the_count(z):
    """log P(c of K signs are positive): (P, K + 1)."""
    up, down = scipy.special.log_ndtr(z), scipy.special.log_ndtr(-z)
    law = np.full((len(z), z.shape[1] + 1), -np.inf)
    law[:, 0] = 0.0
    for k in range(z.shape[1]):
        more = np.concatenate([np.full((len(z), 1), -np.inf), law[:, :-1] + up[:, k : k + 1]], axis=1)
        law = np.logaddexp(law + down[:, k : k + 1], more)
    return law


FIELDS = {
    "ordinary": lambda rng, K: rng.standard_normal(K),
    "hardly right": lambda rng, K: -rng.uniform(1, 4, K),
    "wrong": lambda rng, K: -rng.uniform(5, 30, K),
    "all -30": lambda rng, K: np.full(K, -30.0),
    "all 30": lambda rng, K: np.full(K, 30.0),
    "one short": lambda rng, K: np.where(np.arange(K) < K // 2, 30.0, -30.0),
    "a third right": lambda rng, K: np.where(np.arange(K) < K // 3, 30.0, -rng.uniform(0, 30, K)),
    "far outside": lambda rng, K: 1e6 * rng.standard_normal(K) - 1e5,
}


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("units", [3, 5, 7, 21, 45, 47, 101, 301])
def test_majorities_of_any_size_are_exact_in_both_tails(units, fields):
    """One input a unit, so that the fields z are given: log Z and its slopes against convolutions of logarithms."""
    z = FIELDS[fields](np.random.default_rng(units), units)
    model = wfm.Committee(units, units, weights="continuous")
    g = np.zeros((1, units))
    ones = wfm.Patterns.from_arrays(model, np.ones((1, units)), [1])
    log_z = _core.wfm_gaussian_amp_sweep(
        task_of(model, ones), 1.0, z[:, None].copy(), np.ones(units), g, np.zeros(units), 0.0
    )[2]
    # Where being right is certain, log Z is the rounding of 1; the reference rounds at K·eps of each logarithm.
    assert log_z == pytest.approx(log_probability_of_being_right(model, z[None])[0], rel=1e-12, abs=units * 1e-15)
    some = range(0, units, max(1, units // 4))
    odds = np.array([log_odds_of_others(np.delete(z, k)) for k in some])
    odds = np.clip(odds, -60, 60)
    slope, _ = reference.response(z[list(some)], 1.0, -np.logaddexp(0, -odds), -np.logaddexp(0, odds))
    # Odds carry the rounding of the logarithms, up to 450·eps where probabilities are as small as e^-450; the
    # difference p₊ − p₋ of probabilities that round to the same number is zero.
    np.testing.assert_allclose(g[0, list(some)], slope, rtol=1e-10, atol=1e-13)


def log_odds_of_others(z):
    """log P(at least half of an even number are positive)/P(more than half are)."""
    half, law = len(z) // 2, law_of_the_count(z[None])[0]
    return scipy.special.logsumexp(law[half:]) - scipy.special.logsumexp(law[half + 1 :])


def test_a_parity_of_many_units_keeps_the_probability_of_being_right():
    model = wfm.Committee(603, 201, activation="parity")
    patterns = wfm.random_patterns(model, 8, seed=3)
    m = np.tanh(np.random.default_rng(1).standard_normal(model.shape))
    V = (1.0 - m**2).sum(axis=1)
    g, gamma = np.zeros((8, model.n_hidden)), np.zeros(model.n_hidden)
    log_z = _core.wfm_gaussian_amp_sweep(task_of(model, patterns), 1.0, m, V, g, gamma, 0.0)[2]
    seen = (patterns.inputs * patterns.labels[:, None]).reshape(8, *model.shape)
    exact = log_probability_of_being_right(model, np.einsum("pki,ki->pk", seen, m) / np.sqrt(V)).sum()
    assert log_z == pytest.approx(exact, rel=1e-12, abs=1e-12)


def test_a_majority_of_many_units_is_learned():
    model = wfm.Committee(101 * 9, 101)
    patterns = wfm.random_patterns(model, 90, seed=1)
    assert wfm.focusing_bp(model, patterns).errors == 0
    assert wfm.focusing_bp(model, patterns, form="amp").errors == 0


def test_outputs_of_other_patterns_are_refused():
    model = wfm.Committee(9, 3)
    patterns = wfm.random_patterns(model, 20)
    with pytest.raises(ValueError, match="one row a pattern"):
        _core.wfm_sums(patterns.words, 20, 3, np.zeros((19, 3)))
