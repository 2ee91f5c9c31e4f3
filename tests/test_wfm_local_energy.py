"""Local energy against direct simulation, and against enumeration of all flips."""

from importlib import import_module
from itertools import product

import numpy as np
import pytest

import flatcore as fc
from flatcore.wfm.patterns import random_weights

wfm = fc.wfm


@pytest.mark.parametrize("activation", ["majority", "parity"])
@pytest.mark.parametrize("kind", ["tree", "full"])
def test_flips_against_enumeration(kind, activation):
    """All 2⁹ patterns of flips with their probabilities; the estimate lies within 4.5 of its standard errors."""
    model = wfm.Committee(9 if kind == "tree" else 3, 3, kind, "binary", activation)
    patterns = wfm.random_patterns(model, 15, seed=1)
    w = random_weights(model, np.random.default_rng(0))
    scale = np.array([0.0, 0.1, 0.3, 1.0])
    base = wfm.errors(model, w, patterns)
    expected = np.zeros(4)
    for flips in product([0, 1], repeat=9):
        f = np.array(flips)
        share = (wfm.errors(model, (w.ravel() * (1 - 2 * f)).reshape(w.shape), patterns) - base) / 15
        expected += share * np.array([np.prod(np.where(f, p, 1 - p)) for p in scale])
    e = wfm.local_energy(model, w, patterns, scale=scale, samples=4000, seed=2)
    assert e.perturbation == "flips"
    assert e.errors == base
    assert e.values[0] == e.stderr[0] == e.stderr[3] == 0.0  # no flip, all flips
    assert e.values[3] == pytest.approx(expected[3], rel=1e-12)
    assert (np.abs(e.values - expected) <= 4.5 * e.stderr + 1e-15).all()
    assert (e.stderr[1:3] > 0).all()
    assert (e.stderr[1:3] < 0.2 / np.sqrt(4000)).all()


@pytest.mark.parametrize("perturbation", ["gaussian", "multiplicative"])
@pytest.mark.parametrize("kind", ["tree", "full"])
def test_noise_against_direct_simulation(kind, perturbation):
    model = wfm.Committee(45, 3, kind, "continuous")
    patterns, teacher = wfm.teacher_patterns(model, 60, seed=3)
    delta, samples = 0.4, 3000
    e = wfm.local_energy(model, 5.0 * teacher, patterns, scale=[0.0, delta], samples=samples, perturbation=perturbation)
    rng = np.random.default_rng(9)
    shares = []
    for _ in range(samples):
        z = rng.standard_normal(model.shape)
        disturbed = teacher + delta * z * (teacher if perturbation == "multiplicative" else 1.0)
        disturbed *= np.sqrt(model.fan_in) / np.linalg.norm(disturbed, axis=1, keepdims=True)
        shares.append(wfm.errors(model, disturbed, patterns) / 60)
    assert e.perturbation == perturbation
    assert e.values[0] == e.stderr[0] == e.errors == 0
    # Two independent means of 3,000 samples: five standard errors of their difference.
    assert abs(e.values[1] - np.mean(shares)) < 5 * np.sqrt(2) * e.stderr[1]
    assert e.stderr[1] == pytest.approx(np.std(shares) / np.sqrt(samples), rel=0.1)


def test_errors_are_those_of_the_weights_as_given():
    """A field of exactly zero is an error; scaled weights would round it to either side."""
    model = wfm.Committee(3, weights="continuous")
    patterns = wfm.Patterns.from_arrays(model, [[1, -1, -1]], [1])
    assert wfm.local_energy(model, [[7.0, 5.0, 2.0]], patterns, scale=[0.0]).errors == 1
    assert wfm.errors(model, [[7.0, 5.0, 2.0]], patterns) == 1


def test_defaults_seeds_threads_and_progress():
    model = wfm.Committee(45, 3)
    patterns, teacher = wfm.teacher_patterns(model, 30)
    done = []
    e = wfm.local_energy(model, teacher, patterns, progress=done.append)
    assert len(e.scale) == 30
    assert (e.scale[0], e.scale[-1]) == (0.0, 0.3)
    assert done[-1] == 1.0
    again = wfm.local_energy(model, teacher, patterns, threads=2)
    np.testing.assert_array_equal(e.values, again.values)
    assert (wfm.local_energy(model, teacher, patterns, seed=1).values != e.values).any()
    assert e.values[-1] > 0.05
    assert "δE(0.3)" in e.summary()
    assert e.samples == 100
    smooth = wfm.Committee(45, 3, weights="continuous")
    assert wfm.local_energy(smooth, teacher, patterns, samples=2).perturbation == "gaussian"


def test_many_samples_of_large_machines_come_in_batches(monkeypatch):
    model = wfm.Committee(45, 3, weights="continuous")
    patterns, teacher = wfm.teacher_patterns(model, 30)
    together = wfm.local_energy(model, teacher, patterns, scale=[0.1, 0.2], samples=7)
    calls = []
    monkeypatch.setattr(import_module("flatcore.wfm.local_energy"), "_DRAWN_TOGETHER", 45 * 3)
    apart = wfm.local_energy(model, teacher, patterns, scale=[0.1, 0.2], samples=7, progress=calls.append)
    assert calls == pytest.approx([3 / 14, 6 / 14, 7 / 14, 10 / 14, 13 / 14, 1.0])
    np.testing.assert_array_equal(apart.values, together.values)


def test_ctrl_c_stops():
    model = wfm.Committee(45, 3)
    patterns, teacher = wfm.teacher_patterns(model, 30)

    def interrupt(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wfm.local_energy(model, teacher, patterns, progress=interrupt)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": []}, "scale is empty; expected at least one strength"),
        ({"scale": [0.1, 1.5]}, r"scale contains 1.5; expected probabilities in \[0, 1\]"),
        ({"scale": [np.nan]}, "scale contains nan"),
        ({"samples": 1}, "samples is 1; expected at least 2"),
        ({"perturbation": "gaussian"}, "perturbation is 'gaussian'; the model is binary, expected 'flips'"),
        ({"perturbation": "shake"}, "perturbation is 'shake'; expected one of 'auto'"),
        ({"progress": 1}, "progress is 1; expected a function of a float"),
        ({"seed": -2}, "seed is -2; expected at least 0"),
    ],
)
def test_wrong_arguments(options, message):
    model = wfm.Committee(45, 3)
    patterns, teacher = wfm.teacher_patterns(model, 30)
    with pytest.raises(ValueError, match=message):
        wfm.local_energy(model, teacher, patterns, **options)


def test_flips_want_binary_weights():
    model = wfm.Committee(45, 3, weights="continuous")
    patterns, teacher = wfm.teacher_patterns(model, 30)
    with pytest.raises(ValueError, match="the model is continuous, expected 'gaussian' or 'multiplicative'"):
        wfm.local_energy(model, teacher, patterns, perturbation="flips")
    with pytest.raises(ValueError, match=r"scale contains -0\.1; expected strengths that are not negative"):
        wfm.local_energy(model, teacher, patterns, scale=[5.0, -0.1])
