"""Patterns at one bit an entry, their two products, and what machines say of them, against plain NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flatcore as fc
from flatcore import _core
from flatcore.wfm.message_passing import task_of
from flatcore.wfm.patterns import rows_of, sign_words
from flatcore.wfm.predictions import binary_errors

wfm = fc.wfm


def unit_inputs(model, inputs):
    """(K, P, n): what each unit sees."""
    n = model.fan_in
    return np.stack([inputs[:, k * n : (k + 1) * n] if model.kind == "tree" else inputs for k in range(model.n_hidden)])


@given(
    st.sampled_from(["tree", "full"]),
    st.integers(1, 6),
    st.integers(1, 70),
    st.integers(1, 40),
    st.sampled_from([np.float32, np.float64]),
)
def test_products_are_those_of_the_unpacked_patterns(kind, units, inputs, count, dtype):
    n_inputs = inputs * units if kind == "tree" else inputs
    model = wfm.Committee(n_inputs, units, kind, "continuous", "parity")
    patterns = wfm.random_patterns(model, count, seed=3)
    seen = unit_inputs(model, patterns.inputs).astype(np.float64)
    rng = np.random.default_rng(4)
    m, g = rng.standard_normal(model.shape).astype(dtype), rng.standard_normal((count, units)).astype(dtype)
    # Sums of at most 70 (40) terms of size 1, each rounded: 70·eps·Σ|m| at worst.
    tolerance = 70 * np.finfo(dtype).eps * 70
    omega = _core.wfm_fields(patterns.words, count, model.fan_in, m)
    sums = _core.wfm_sums(patterns.words, count, model.fan_in, g)
    assert omega.dtype == sums.dtype == dtype
    np.testing.assert_allclose(omega, np.einsum("kpi,ki->pk", seen, m), atol=tolerance)
    np.testing.assert_allclose(sums, np.einsum("kpi,pk->ki", seen, g), atol=tolerance)


@pytest.mark.parametrize("kind", ["tree", "full"])
def test_float32_products_are_as_accurate_as_their_size_allows(kind):
    """More than a chunk of inputs and of patterns, where float32 sums become float64 ones."""
    model = wfm.Committee(3 * 1451, 3, kind, "continuous")
    n, count = model.fan_in, 1237
    patterns = wfm.random_patterns(model, count, seed=5)
    seen = unit_inputs(model, patterns.inputs).astype(np.float64)
    rng = np.random.default_rng(6)
    m, g = rng.standard_normal(model.shape), rng.standard_normal((count, 3))
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-14)):
        m, g = m.astype(np.float32).astype(dtype), g.astype(np.float32).astype(dtype)
        omega = _core.wfm_fields(patterns.words, count, n, m)
        sums = _core.wfm_sums(patterns.words, count, n, g)
        # A chunk of 1,024 (256) terms is L = 256 (64) additions that round by eps/√12 of a partial sum each, together
        # eps·√(L/24) = 4e-7 (7e-16) of its sum; chunks add up as independent errors do, in the same ratio to √n.
        error = omega - np.einsum("kpi,ki->pk", seen, m.astype(np.float64))
        assert np.sqrt(np.mean(error**2)) < tolerance * np.sqrt(n)
        assert np.abs(error).max() < 6 * tolerance * np.sqrt(n)
        error = sums - np.einsum("kpi,pk->ki", seen, g.astype(np.float64))
        assert np.sqrt(np.mean(error**2)) < tolerance * np.sqrt(count)
        assert np.abs(error).max() < 6 * tolerance * np.sqrt(count)


def test_products_made_in_several_pieces():
    """A full committee of 6.5e8 edges: kernels look for an interruption after each 5e8, outputs of AMP too."""
    model = wfm.Committee(2001, 65, "full", "continuous")
    patterns = wfm.random_patterns(model, 5000, seed=3)
    inputs = patterns.inputs.astype(np.float64)
    rng = np.random.default_rng(4)
    m, g = rng.standard_normal(model.shape), rng.standard_normal((5000, 65))
    omega = _core.wfm_fields(patterns.words, 5000, 2001, m)
    sums = _core.wfm_sums(patterns.words, 5000, 2001, g)
    # Rounding of sums of thousands of terms of size one in float64.
    np.testing.assert_allclose(omega, inputs @ m.T, rtol=1e-11, atol=1e-10)
    np.testing.assert_allclose(sums, g.T @ inputs, rtol=1e-11, atol=1e-10)
    halves = [(inputs[part], patterns.labels[part]) for part in (slice(0, 2000), slice(2000, 5000))]
    outputs = []
    for task in (patterns, *(wfm.Patterns.from_arrays(model, *half) for half in halves)):
        out, V = np.zeros((len(task), 65)), np.ones(65)
        _core.wfm_gaussian_amp_sweep(task_of(model, task), 0.02, m, V, out, np.zeros(65), 0.0)
        outputs.append(out)
    np.testing.assert_array_equal(outputs[0], np.concatenate(outputs[1:]))


def test_products_do_not_depend_on_threads():
    model = wfm.Committee(1001, 1)
    patterns = wfm.random_patterns(model, 2000)
    rng = np.random.default_rng(1)
    m, g = rng.standard_normal((1, 1001)), rng.standard_normal((2000, 1))
    before, results = _core.max_threads(), []
    try:
        for threads in (1, 3):
            _core.set_threads(threads)
            omega = _core.wfm_fields(patterns.words, 2000, 1001, m)
            results.append((omega, _core.wfm_sums(patterns.words, 2000, 1001, g)))
    finally:
        _core.set_threads(before)
    for one, three in zip(*results, strict=True):
        np.testing.assert_array_equal(one, three)


@given(
    st.sampled_from(["tree", "full"]), st.sampled_from(["majority", "parity"]), st.integers(0, 2), st.integers(0, 40),
    st.integers(1, 40), st.integers(1, 70),
)  # fmt: skip
def test_binary_machines_are_counted_bit_by_bit(kind, activation, half_units, half_inputs, count, machines):
    units, n = 2 * half_units + 1, 2 * half_inputs + 1
    model = wfm.Committee(units * n if kind == "tree" else n, units, kind, "binary", activation)
    patterns = wfm.random_patterns(model, count, seed=1)
    weights = np.random.default_rng(2).choice(np.array([-1, 1], dtype=np.int8), (machines, units, n))
    words = sign_words(weights)
    h = np.einsum("kpi,bki->bpk", unit_inputs(model, patterns.inputs).astype(np.int64), weights)
    np.testing.assert_array_equal(_core.wfm_binary_fields(patterns.words, count, n, words[0]), h[0])
    said = np.prod(np.sign(h), axis=2) if activation == "parity" else np.sign(np.sign(h).sum(axis=2))
    expected = np.count_nonzero(said != patterns.labels, axis=1)
    np.testing.assert_array_equal(binary_errors(model, words, patterns), expected)
    assert wfm.errors(model, weights[-1], patterns) == expected[-1]


def test_long_binary_fields_are_exact():
    """Counters of bits that are bytes, and chunks of 4,096 inputs, do not run over: also where all bits differ."""
    model = wfm.Committee(9001)
    patterns = wfm.random_patterns(model, 40, seed=3)
    inputs = patterns.inputs
    weights = np.stack([inputs[0], -inputs[1], np.random.default_rng(0).permutation(inputs[2])])
    words = sign_words(weights)
    for row, word in zip(weights, words, strict=True):
        h = _core.wfm_binary_fields(patterns.words, 40, 9001, word[None])
        np.testing.assert_array_equal(h[:, 0], inputs.astype(np.int64) @ row)
    wrong = np.sign(weights.astype(np.int64) @ inputs.T) != patterns.labels
    np.testing.assert_array_equal(binary_errors(model, words[:, None], patterns), wrong.sum(axis=1))


@given(st.integers(1, 4), st.integers(1, 70), st.integers(1, 40))
def test_rows_hold_the_bits_of_each_pattern(units, inputs, count):
    model = wfm.Committee(units * inputs, units, "tree", "continuous", "parity")
    patterns = wfm.random_patterns(model, count, seed=2)
    rows = rows_of(patterns)
    assert rows.shape == (count, units, -(-inputs // 32))
    np.testing.assert_array_equal(rows, sign_words(patterns.inputs.reshape(count, units, inputs)))
    bits = np.unpackbits(rows.astype("<u4").view(np.uint8).reshape(count, units, -1), axis=2, bitorder="little")
    np.testing.assert_array_equal(bits[:, :, :inputs].reshape(count, -1), patterns.inputs > 0)
    assert not bits[:, :, inputs:].any()


@given(st.integers(1, 5), st.integers(1, 45), st.integers(1, 35))
def test_patterns_survive_packing_and_another_machine(units, inputs, count):
    tree = wfm.Committee(units * inputs, units, "tree", "continuous", "parity")
    full = wfm.Committee(units * inputs, units, "full", "continuous", "parity")
    patterns = wfm.random_patterns(tree, count, seed=1)
    again = wfm.Patterns.from_arrays(full, patterns.inputs, patterns.labels)
    np.testing.assert_array_equal(again.inputs, patterns.inputs)
    np.testing.assert_array_equal(patterns.for_model(full).words, again.words)
    np.testing.assert_array_equal(wfm.random_patterns(full, count, seed=1).inputs, patterns.inputs)


def test_random_patterns_are_fair_and_differ_by_seed():
    model = wfm.Committee(1001, 1)
    patterns = wfm.random_patterns(model, 1000, seed=0)
    # The mean of 10⁶ fair signs has standard deviation 10⁻³, that of 1,000 labels 0.032: five of them.
    assert abs(patterns.inputs.mean(dtype=float)) < 5e-3
    assert abs(patterns.labels.mean(dtype=float)) < 0.16
    assert (wfm.random_patterns(model, 1000, seed=1).inputs != patterns.inputs).mean() == pytest.approx(0.5, abs=5e-3)
    # Labels and inputs are independent: 1,001 means of 1,000 fair signs, the largest of which is beyond 0.16 once in
    # two thousand times.
    assert np.abs(patterns.labels @ patterns.inputs.astype(float)).max() / 1000 < 0.16


@pytest.mark.parametrize("activation", ["majority", "parity"])
@pytest.mark.parametrize("kind", ["tree", "full"])
@pytest.mark.parametrize("weights", ["binary", "continuous"])
def test_a_teacher_makes_no_errors_and_errors_are_counted(kind, weights, activation):
    model = wfm.Committee(45, 5, kind, weights, activation)
    patterns, teacher = wfm.teacher_patterns(model, 200, seed=2)
    assert wfm.errors(model, teacher, patterns) == 0
    assert (wfm.margins(model, teacher, patterns) > 0).all()
    student = np.random.default_rng(0).choice([-1.0, 1.0], model.shape)
    h = np.einsum("kpi,ki->pk", unit_inputs(model, patterns.inputs).astype(float), student) / np.sqrt(model.fan_in)
    signs = np.sign(h)
    said = signs.prod(axis=1) if activation == "parity" else np.sign(signs.sum(axis=1))
    assert wfm.errors(model, student, patterns) == np.count_nonzero(said != patterns.labels)
    np.testing.assert_allclose(wfm.fields(model, student, patterns), h, rtol=1e-14, atol=1e-14)
    assert ((wfm.margins(model, student, patterns) > 0) == (said == patterns.labels)).all()


@pytest.mark.parametrize(
    ("activation", "h", "label", "margin"),
    [
        ("majority", [5.0, 0.5, -3.0], 1, 0.5),  # two are right, the smaller of them decides
        ("majority", [5.0, 0.5, -3.0], -1, -0.5),
        ("majority", [-1.0, -2.0, 9.0, 4.0, 3.0], 1, 3.0),
        ("majority", [2.0, 0.0, -1.0], 1, 0.0),
        ("parity", [5.0, -0.5, 3.0], -1, 0.5),
        ("parity", [5.0, -0.5, 3.0], 1, -0.5),
        ("parity", [5.0, 0.0, 3.0], 1, 0.0),
    ],
)
def test_margins_of_given_fields(activation, h, label, margin):
    """Two inputs a unit, both 1, and weights h + 1 and −1: fields h/√2."""
    units = len(h)
    model = wfm.Committee(2 * units, units, "tree", "continuous", activation)
    weights = np.stack([np.array(h) + 1.0, -np.ones(units)], axis=1)
    found = wfm.margins(model, weights, (np.ones((1, 2 * units)), [label]))
    np.testing.assert_allclose(found, [margin / np.sqrt(2)], rtol=1e-15)


def test_a_field_of_zero_is_an_error():
    model = wfm.Committee(6, 3, weights="continuous")
    inputs, weights = np.ones((1, 6)), np.array([[1.0, 1.0], [1.0, 1.0], [1.0, -1.0]])
    assert wfm.errors(model, weights, (inputs, [1])) == 0  # two of three decide
    weights[1] = [1.0, -1.0]
    assert wfm.errors(model, weights, (inputs, [1])) == wfm.errors(model, weights, (inputs, [-1])) == 1
    perceptron = wfm.Committee(2, 1, weights="continuous")
    assert wfm.errors(perceptron, [[1.0, -1.0]], (np.ones((1, 2)), [1])) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 2), "n_hidden is 2; expected an odd number"),
        ((10, 3), "n_inputs is 10; expected a multiple of n_hidden = 3"),
        ((12, 3), "n_inputs is 12, 4 for each unit; binary weights need an odd number"),
        ((0, 1), "n_inputs is 0; expected at least 1"),
        ((9, 3, "bush"), "kind is 'bush'; expected one of 'tree', 'full'"),
        ((9, 3, "tree", "ternary"), "weights is 'ternary'; expected one of"),
        ((9, 3, "tree", "binary", "relu"), "activation is 'relu'; expected one of"),
    ],
)
def test_machines_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        wfm.Committee(*arguments)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (np.ones((2, 8)), [1, 1], r"inputs has shape \(2, 8\); expected \(P, N\) with N = 9"),
        (np.ones((0, 9)), [], "expected at least one pattern"),
        (np.ones((2, 9)), [1], r"labels has shape \(1,\); expected \(2,\)"),
        (np.ones((2, 9)), [1, 0], r"labels contains 0 at index \(1\); expected ±1"),
        (np.full((2, 9), np.nan), [1, 1], r"inputs contains nan at index \(0, 0\); expected ±1"),
        (np.ones((2, 9), dtype=complex), [1, 1], "inputs has dtype complex128"),
    ],
)
def test_patterns_that_are_no_signs_are_refused(inputs, labels, message):
    with pytest.raises(ValueError, match=message):
        wfm.Patterns.from_arrays(wfm.Committee(9, 1), inputs, labels)


def test_what_does_not_fit_a_machine_is_refused():
    model = wfm.Committee(9, 3)
    patterns = wfm.random_patterns(model, 5)
    with pytest.raises(ValueError, match="n_patterns is 0; expected at least 1"):
        wfm.random_patterns(model, 0)
    with pytest.raises(ValueError, match="patterns have 9 inputs; the model expects 15"):
        wfm.errors(wfm.Committee(15, 3), np.ones((3, 5)), patterns)
    with pytest.raises(ValueError, match=r"weights has shape \(9, 3\); expected \(K, n\) = \(3, 3\)"):
        wfm.errors(model, np.ones((9, 3)), patterns)
    with pytest.raises(ValueError, match=r"weights\[0, 1\] is 0.5; the model is binary, expected ±1"):
        wfm.errors(model, [[1, 0.5, 1]] * 3, patterns)
    with pytest.raises(ValueError, match="patterns is a str; expected Patterns or a pair"):
        wfm.errors(model, np.ones((3, 3)), "patterns")
    with pytest.raises(ValueError, match="model is a int; expected a Committee"):
        wfm.random_patterns(9, 5)
