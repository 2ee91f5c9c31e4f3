"""Least action, its entropic rules, replicated SGD: epochs against plain NumPy, solving, stopping, resuming."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import wfm_online_reference as reference
from hypothesis import given
from hypothesis import strategies as st

import flatcore as fc
from flatcore import _core
from flatcore._threads import limit_threads
from flatcore.wfm import solving
from flatcore.wfm._arguments import stream
from flatcore.wfm._online import Examples
from flatcore.wfm.least_action import LeastAction, MarginLeastAction, PerturbedGradient
from flatcore.wfm.patterns import random_weights
from flatcore.wfm.predictions import outputs
from flatcore.wfm.replicated import ReplicatedSGD

wfm = fc.wfm

# Two epochs of sums of at most 70 terms of size 1: rounding stays far below 1e-10, and no field is that close to a
# threshold by chance.
FLOATS = {"rtol": 0.0, "atol": 1e-10}
SHAPES = st.tuples(
    st.sampled_from(["tree", "full"]), st.sampled_from([1, 3, 5]), st.integers(0, 34), st.integers(1, 40)
)


def problem(kind, units, half, count, weights, activation="majority"):
    n = 2 * half + 1
    model = wfm.Committee(n * units if kind == "tree" else n, units, kind, weights, activation)
    patterns = wfm.random_patterns(model, count, seed=half)
    rng = np.random.default_rng(count)
    order = np.concatenate([rng.permutation(count), rng.permutation(count)])
    seen = reference.seen_by_units(model, patterns.inputs)
    return model, Examples(model, patterns), seen, order, rng


@given(SHAPES, st.sampled_from(["majority", "parity"]))
def test_an_epoch_of_binary_least_action(shape, activation):
    model, e, seen, order, rng = problem(*shape, "binary", activation)
    H = (2 * rng.integers(-3, 3, model.shape) + 1).astype(np.int32)
    expected, moved = reference.least_action_binary(model, seen, e.labels, order, H)
    assert _core.wfm_least_action(e.rows, e.labels, e.parity, order, H) == moved
    np.testing.assert_array_equal(H, expected)


@given(SHAPES, st.sampled_from(["majority", "parity"]))
def test_an_epoch_of_continuous_least_action(shape, activation):
    model, e, seen, order, rng = problem(*shape, "continuous", activation)
    w = random_weights(model, rng)
    expected, moved = reference.least_action_continuous(model, seen, e.labels, order, w)
    assert _core.wfm_least_action(e.rows, e.labels, e.parity, order, w) == moved
    np.testing.assert_allclose(w, expected, **FLOATS)


@given(SHAPES, st.floats(0.01, 3.0))
def test_an_epoch_of_margin_least_action(shape, delta):
    model, e, seen, order, rng = problem(*shape, "continuous")
    w = random_weights(model, rng)
    # Units on the margin have σh = δ up to rounding; whether they count as robust is a matter of bits, and the step
    # that follows is one of bits too, though it is counted.
    expected, moved = reference.margin(model, seen, e.labels, order[: len(e.labels)], w, delta)
    counted = _core.wfm_margin(e.rows, e.labels, order[: len(e.labels)], delta, w)
    assert model.fan_in < 30 or counted == moved
    np.testing.assert_allclose(w, expected, **FLOATS)


@given(SHAPES, st.floats(0.03, 2.0))
def test_an_epoch_of_the_perturbed_gradient(shape, delta):
    model, e, seen, order, rng = problem(*shape, "continuous")
    w = random_weights(model, rng)
    order = order[:12]  # enumeration is slow
    expected = reference.perturbed(model, seen, e.labels, order, w, delta, 0.5 * delta)
    _core.wfm_perturbed(e.rows, e.labels, order, delta, 0.5 * delta, w)
    # The slopes are ratios of probabilities, good to 1e-11 of sizes up to |h|/δ = 200.
    np.testing.assert_allclose(w, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("a", [[-1e160, 3.0, -1e300], [1e200, -1e200, 0.0], [-1.7e308] * 5])
def test_slopes_are_numbers_for_all_numbers(a):
    a = np.array(a)
    model = wfm.Committee(len(a), len(a), weights="continuous")
    e = Examples(model, wfm.Patterns.from_arrays(model, np.ones((1, len(a))), [1]))
    w = a[:, None].copy()
    _core.wfm_perturbed(e.rows, e.labels, np.zeros(1, dtype=np.int64), 1.0, 1e-3, w)
    assert np.isfinite(w).all()


@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=7).filter(lambda a: len(a) % 2 == 1), st.floats(1e-3, 1e3))
def test_slopes_in_the_tails_are_those_of_the_logarithm(a, size):
    """One pattern whose units have the fields a: one step moves unit k by the slope at a_k, however extreme."""
    a = np.array(a)
    model = wfm.Committee(len(a), len(a), weights="continuous")
    e = Examples(model, wfm.Patterns.from_arrays(model, np.ones((1, len(a))), [1]))
    w = a[:, None] * size
    _core.wfm_perturbed(e.rows, e.labels, np.zeros(1, dtype=np.int64), size, size, w)
    expected = reference.majority_log_slopes(a)
    assert np.isfinite(w).all()
    # Differences of logarithms of size a²/2 carry a²·eps of relative error in the oracle, which adds them up.
    scale = 1e-9 + 1e-15 * np.square(a).max()
    np.testing.assert_allclose((w[:, 0] - a * size), expected, rtol=scale, atol=scale + 1e-15 * np.abs(w).max())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["tree", "full"])
def test_an_epoch_of_replicas(kind, threads):
    model, e, seen, _, rng = problem(kind, 3, 16, 45, "binary")
    orders = np.stack([rng.permutation(45) for _ in range(5)])
    H = np.repeat(random_weights(model, rng)[None], 5, axis=0)
    expected = H
    with limit_threads(threads):
        for gamma in (0.1, 0.4):
            expected = reference.replicated(model, seen, e.labels, orders, 10, 0.75, gamma, expected)
            _core.wfm_replicated(e.rows, e.labels, False, orders, 10, 0.75, gamma, H)
    np.testing.assert_allclose(H, expected, **FLOATS)


@given(SHAPES, st.sampled_from(["binary", "continuous"]), st.sampled_from(["majority", "parity"]))
def test_errors_of_many_machines(shape, weights, activation):
    model, e, _, _, rng = problem(*shape, weights, activation)
    W = np.stack([random_weights(model, rng) for _ in range(4)])
    expected = [np.count_nonzero(outputs(model, w, e.patterns) != e.labels) for w in W]
    np.testing.assert_array_equal(e.errors(W), expected)


def test_errors_count_a_field_of_zero_as_wrong():
    model = wfm.Committee(2, 1, weights="continuous")
    e = Examples(model, wfm.Patterns.from_arrays(model, [[1, 1], [1, -1]], [1, 1]))
    np.testing.assert_array_equal(e.errors(np.array([[[1.0, 1.0]], [[1.0, -2.0]]])), [1, 1])


SOLVERS = {
    "least action, binary perceptron": (wfm.least_action, (501, 1, "tree", "binary"), 0.25, {}),
    "least action, binary committee": (wfm.least_action, (505, 5, "tree", "binary"), 0.2, {}),
    "least action, continuous tree": (wfm.least_action, (459, 9, "tree", "continuous"), 1.0, {}),
    "least action, continuous full": (wfm.least_action, (101, 5, "full", "continuous"), 0.5, {}),
    "least action, parity": (wfm.least_action, (153, 3, "tree", "continuous", "parity"), 0.7, {}),
    "rule A": (wfm.entropic_least_action, (459, 9, "tree", "continuous"), 1.0, {}),
    "rule B": (wfm.entropic_least_action, (459, 9, "tree", "continuous"), 1.0, {"rule": "B"}),
    "replicas": (wfm.replicated_sgd, (303, 3, "tree", "binary"), 0.3, {"batch": 30}),
    "cross-entropy": (wfm.cross_entropy_sgd, (155, 5, "tree", "continuous"), 0.8, {}),
    "cross-entropy, slow reduction": (
        wfm.cross_entropy_sgd, (155, 5, "tree", "continuous"), 0.8, {"schedule": "slow_reduction"},
    ),
    "cross-entropy, fast reduction": (
        wfm.cross_entropy_sgd, (155, 5, "tree", "continuous"), 0.8, {"schedule": "fast_reduction"},
    ),
    "cross-entropy, β alone": (wfm.cross_entropy_sgd, (155, 5, "tree", "continuous"), 0.8, {"gamma": 2.0}),
}  # fmt: skip


@pytest.mark.parametrize("name", SOLVERS)
def test_eight_of_ten_fresh_seeds_are_solved(name):
    solver, shape, alpha, options = SOLVERS[name]
    model = wfm.Committee(*shape[:4], *shape[4:])
    solved = 0
    for seed in range(10):
        patterns = wfm.random_patterns(model, round(alpha * model.num_weights), seed=1000 + seed)
        result = solver(model, patterns, seed=seed, **options)
        assert result.errors == wfm.errors(model, result.weights, patterns)
        assert (result.errors == 0) == (result.status == "solved")
        assert len(result.history["errors"]) == result.sweeps
        if model.weights == "continuous":
            np.testing.assert_allclose(np.square(result.weights).sum(axis=1), model.fan_in, rtol=1e-12)
        else:
            assert result.weights.dtype == np.int8
        solved += result.errors == 0
    assert solved >= 8


SMALL = {
    "least_action": (wfm.least_action, "binary", {}),
    "entropic A": (wfm.entropic_least_action, "continuous", {}),
    "entropic B": (wfm.entropic_least_action, "continuous", {"rule": "B"}),
    "replicated": (wfm.replicated_sgd, "binary", {"replicas": 3, "batch": 20}),
    "cross-entropy": (wfm.cross_entropy_sgd, "continuous", {"batch": 20}),
}


def small(name, alpha=3.0):
    """A load that is never solved, so that runs have a known length."""
    solver, weights, options = SMALL[name]
    model = wfm.Committee(45, 3, weights=weights)
    return solver, model, wfm.random_patterns(model, round(alpha * 45)), {"max_epochs": 9, **options}


@pytest.mark.parametrize("last", [4, 9])  # of nine looks
@pytest.mark.parametrize("name", SMALL)
def test_an_interrupted_run_goes_on_to_the_same_bits(name, last, tmp_path):
    solver, model, patterns, options = small(name)
    whole = solver(model, patterns, seed=3, **options)
    assert whole.status == "not_solved"
    assert whole.sweeps == 9
    place = tmp_path / "run.npz"

    def interrupt(state):
        if state.step == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solver(model, patterns, seed=3, callback=interrupt, checkpoint=place, **options)
    assert place.exists()
    with pytest.raises(ValueError, match="the checkpoint of another run"):
        solver(model, patterns, seed=4, checkpoint=place, **options)
    again = solver(model, patterns, seed=np.int64(3), checkpoint=place, **options)
    assert not place.exists()
    np.testing.assert_array_equal(again.weights, whole.weights)
    for key, values in whole.history.items():
        np.testing.assert_array_equal(again.history[key], values)
    assert again.sweeps == whole.sweeps


def full_disk(*_):
    raise OSError(28, "No space left on device")


def test_a_full_disk_is_told_once_and_does_not_end_the_run(tmp_path, monkeypatch):
    solver, model, patterns, options = small("least_action")
    whole = solver(model, patterns, **options)
    monkeypatch.setattr(solving, "_SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    monkeypatch.setattr(solving, "write_npz_atomic", full_disk)
    with pytest.warns(UserWarning, match="could not be written: .*No space left") as told:
        result = solver(model, patterns, checkpoint=tmp_path / "run.npz", **options)
    assert len(told) == 1
    np.testing.assert_array_equal(result.weights, whole.weights)
    with pytest.warns(UserWarning, match="No space left"):
        stopped = solver(model, patterns, callback=lambda _: True, checkpoint=tmp_path / "run.npz", **options)
    assert stopped.status == "stopped"


def test_an_interruption_says_that_nothing_was_written(tmp_path, monkeypatch):
    solver, model, patterns, options = small("least_action")
    monkeypatch.setattr(solving, "write_npz_atomic", full_disk)

    def interrupt(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        solver(model, patterns, callback=interrupt, checkpoint=tmp_path / "run.npz", **options)
    assert "No space left" in str(caught.value.__cause__)


@pytest.mark.parametrize("share", [1e9, 0.0])  # of the time for copies: one before every epoch, or the first alone
@pytest.mark.parametrize("name", SMALL)
def test_an_interrupted_epoch_goes_on_to_the_same_bits(name, share, tmp_path, monkeypatch):
    """The sixth epoch is interrupted when its state has changed; the run goes on from a look before it."""
    solver, model, patterns, options = small(name)
    whole = solver(model, patterns, seed=3, **options)
    monkeypatch.setattr(solving, "_COPYING", share)
    place, calls, count = tmp_path / "run.npz", [], Examples.errors

    def interrupted(self, weights):
        calls.append(None)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return count(self, weights)

    monkeypatch.setattr(Examples, "errors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        solver(model, patterns, seed=3, checkpoint=place, **options)
    assert place.exists()
    again = solver(model, patterns, seed=3, checkpoint=place, **options)
    assert len(calls) == 6 + (4 if share else 8)
    np.testing.assert_array_equal(again.weights, whole.weights)
    for key, values in whole.history.items():
        np.testing.assert_array_equal(again.history[key], values)


def test_long_histories_cost_no_more_with_a_checkpoint(tmp_path, monkeypatch):
    """The history becomes text when a checkpoint is written, not at every look."""
    made = []
    dumps = solving.json.dumps
    monkeypatch.setattr(solving.json, "dumps", lambda value: made.append(value) or dumps(value))
    solver, model, patterns, options = small("least_action")
    solver(model, patterns, checkpoint=tmp_path / "run.npz", **{**options, "max_epochs": 40})
    histories = [value for value in made if isinstance(value, list)]
    assert histories == []  # done before the first checkpoint was due


@pytest.mark.parametrize(
    ("solver", "options"),
    [
        (wfm.cross_entropy_sgd, {"rate": 1e160}),
        (wfm.entropic_least_action, {"margin": 1e300}),
        (wfm.entropic_least_action, {"rule": "B", "step": 1e300}),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the norms of what diverged
def test_a_diverged_run_is_not_solved(solver, options):
    model = wfm.Committee(27, 3, weights="continuous")
    result = solver(model, wfm.random_patterns(model, 270), max_epochs=5, **options)
    assert result.status == "not_solved"
    assert result.errors > 0


@pytest.mark.parametrize(("rule", "margin", "decay"), [("A", 1.0, 0.98), ("B", 1.5, 0.96)])
def test_the_margin_shrinks_and_units_stay_normalised(rule, margin, decay, monkeypatch):
    solver, model, patterns, options = small(f"entropic {rule}")
    kind, squares = {"A": MarginLeastAction, "B": PerturbedGradient}[rule], []
    learn = kind.learn

    def watched(self, order, delta):
        squares.append(np.square(self.weights).sum(axis=1))
        return learn(self, order, delta)

    monkeypatch.setattr(kind, "learn", watched)
    history = solver(model, patterns, **options).history
    np.testing.assert_allclose(squares, np.full((9, 3), 15.0), rtol=1e-14)
    np.testing.assert_allclose(history["delta"], margin * decay ** np.arange(9), rtol=1e-14)
    history = solver(model, patterns, margin=0.7, decay=0.5, **options).history
    least = 0.1 if rule == "B" else 0.0  # where rule B's noise stays, or its steps grow without end
    np.testing.assert_allclose(history["delta"], np.maximum(0.7 * 0.5 ** np.arange(9), least), rtol=1e-14)


def test_every_epoch_has_an_order_of_its_own(monkeypatch):
    solver, model, patterns, options = small("least_action")
    orders, epoch = [], LeastAction.epoch
    monkeypatch.setattr(LeastAction, "epoch", lambda self, order: orders.append(order) or epoch(self, order))
    solver(model, patterns, **options)
    assert len({tuple(order) for order in orders}) == 9
    assert all((np.sort(order) == np.arange(len(patterns))).all() for order in orders)


def test_replicas_are_driven_together_until_one_or_the_centre_solves():
    model = wfm.Committee(153, 3)
    patterns, seen = wfm.random_patterns(model, 38, seed=1), []
    options = {"replicas": 5, "batch": 10, "gamma": 0.1, "gamma_step": 0.02}
    center = wfm.replicated_sgd(model, patterns, until="center", callback=seen.append, **options)
    history = center.history
    np.testing.assert_allclose(history["gamma"], 0.1 + 0.02 * np.arange(center.sweeps), rtol=1e-12)
    np.testing.assert_array_equal(history["errors"], history["center_errors"])
    assert (history["errors"][:-1] > 0).all()
    assert history["errors"][-1] == wfm.errors(model, center.weights, patterns) == 0
    any_ = wfm.replicated_sgd(model, patterns, until="any", **options)
    assert any_.errors == 0
    assert any_.sweeps <= center.sweeps
    assert (any_.history["errors"] <= any_.history["center_errors"]).all()
    for name in ("gamma", "center_errors", "replica_errors", "distance"):  # the same course, stopped earlier
        np.testing.assert_array_equal(any_.history[name], history[name][: any_.sweeps])


def test_the_centre_is_the_sign_of_the_mean_and_distances_are_from_it():
    model = wfm.Committee(15, 3)
    settings = {"replicas": 5, "batch": 4, "coupling": 0.75, "gamma": 0.1, "gamma_step": 0.0, "until": "any"}
    search = ReplicatedSGD(Examples(model, wfm.random_patterns(model, 4)), np.random.default_rng(0), settings)
    search.weights = np.random.default_rng(1).standard_normal((5, *model.shape))
    machines, distance = search._machines()
    signs = np.sign(search.weights)
    np.testing.assert_array_equal(machines[1:], signs)
    np.testing.assert_array_equal(machines[0], np.sign(signs.mean(axis=0)))
    assert distance == pytest.approx((1 - (signs * machines[0]).mean()) / 2, rel=1e-12)


@pytest.mark.parametrize("label", [1, -1])
def test_a_unit_whose_weights_become_zero_goes_on(label):
    """One weight ±1, moved by ∓1 where it is wrong, and again: the first epoch of one label ends at zero."""
    model = wfm.Committee(1, weights="continuous")
    result = wfm.least_action(model, (np.ones((1, 1)), [label]))
    assert result.status == "solved"
    np.testing.assert_array_equal(result.weights, [[label]])


@pytest.mark.parametrize("name", SMALL)
def test_a_callback_stops(name):
    solver, model, patterns, options = small(name)
    seen = []
    result = solver(model, patterns, callback=lambda state: seen.append(state) or state.step == 2, **options)
    assert result.status == "stopped"
    assert [state.step for state in seen] == [1, 2]
    assert result.errors == min(state.errors for state in seen)
    assert set(seen[0].extras) == set(result.history) - {"errors"}


def long_epoch(model):
    e = Examples(model, wfm.random_patterns(model, 2000))
    H = random_weights(model, np.random.default_rng(0)).astype(np.int32)
    order = np.tile(np.arange(2000), 20_000)
    return lambda rows=e.rows: _core.wfm_least_action(rows, e.labels, False, order, H)


def one_huge_batch(model):
    """Each replica's batch is the whole epoch."""
    e = Examples(model, wfm.random_patterns(model, 40_000))
    orders = np.tile(np.arange(40_000), (151, 1))
    H = np.repeat(random_weights(model, np.random.default_rng(0))[None], 151, axis=0)
    return lambda rows=e.rows: _core.wfm_replicated(rows, e.labels, False, orders, 40_000, 0.75, 0.1, H)


@pytest.mark.parametrize("work", [long_epoch, one_huge_batch])
def test_ctrl_c_reaches_a_kernel(work):
    """Some seconds of work, interrupted after a fifth: it ends within a second even on a busy machine."""
    learn = work(wfm.Committee(1001, 7, "full"))
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        learn()
    assert time.perf_counter() - start < 1.5


def test_replicas_and_local_energy_share_their_work_to_the_same_bits():
    """Large enough for a second thread to have a part of it."""
    model = wfm.Committee(3003, 3)
    patterns, teacher = wfm.teacher_patterns(model, 900)
    one, two = (wfm.replicated_sgd(model, patterns, batch=100, max_epochs=3, threads=threads) for threads in (1, 2))
    np.testing.assert_array_equal(one.weights, two.weights)
    for name, values in one.history.items():
        np.testing.assert_array_equal(values, two.history[name])
    smooth = wfm.Committee(3003, 3, weights="continuous")
    for machine in (model, smooth):
        first, second = (
            wfm.local_energy(machine, teacher, patterns, scale=[0.1, 0.2], samples=20, threads=threads)
            for threads in (1, 2)
        )
        np.testing.assert_array_equal(first.values, second.values)
        np.testing.assert_array_equal(first.stderr, second.stderr)


@pytest.mark.parametrize("name", SMALL)
def test_seeds_and_threads(name):
    solver, model, patterns, options = small(name)
    one, two, other = (solver(model, patterns, seed=s, threads=t, **options) for s, t in ((1, 1), (1, 2), (2, 1)))
    np.testing.assert_array_equal(one.weights, two.weights)
    assert (one.weights != other.weights).any()


@pytest.mark.parametrize(
    ("solver", "weights", "options", "message"),
    [
        (wfm.least_action, "binary", {"max_epochs": 0}, "max_epochs is 0; expected at least 1"),
        (wfm.least_action, "binary", {"seed": -1}, "seed is -1; expected at least 0"),
        (wfm.least_action, "binary", {"callback": 3}, "callback is 3; expected a function"),
        (wfm.least_action, "binary", {"threads": 0}, "threads is 0; expected at least 1"),
        (wfm.entropic_least_action, "binary", {}, "model has binary weights; entropic_least_action expects continuous"),
        (wfm.entropic_least_action, "continuous", {"rule": "C"}, "rule is 'C'; expected one of 'A', 'B'"),
        (wfm.entropic_least_action, "continuous", {"margin": 0}, "margin is 0; expected a positive number"),
        (wfm.entropic_least_action, "continuous", {"decay": 1.5}, "decay is 1.5; expected at most 1"),
        (wfm.entropic_least_action, "continuous", {"step": 0.5}, "step is 0.5; rule 'A' has none"),
        (wfm.replicated_sgd, "continuous", {}, "model has continuous weights; replicated_sgd expects binary ones"),
        (wfm.replicated_sgd, "binary", {"replicas": 4}, "replicas is 4; expected an odd number"),
        (wfm.replicated_sgd, "binary", {"batch": 0}, "batch is 0; expected at least 1"),
        (wfm.replicated_sgd, "binary", {"coupling": -1}, "coupling is -1; expected a positive number"),
        (wfm.replicated_sgd, "binary", {"until": "never"}, "until is 'never'; expected one of"),
        (wfm.cross_entropy_sgd, "binary", {}, "model has binary weights; cross_entropy_sgd expects continuous"),
        (wfm.cross_entropy_sgd, "continuous", {"schedule": "no"}, "schedule is 'no'; expected one of 'slow', 'fast'"),
        (wfm.cross_entropy_sgd, "continuous", {"beta": 0.0}, "beta is 0.0; expected a positive number"),
        (wfm.cross_entropy_sgd, "continuous", {"end": 0.1}, "end is 0.1; factor 1.005 leads away from it, start being"),
        (
            wfm.cross_entropy_sgd,
            "continuous",
            {"beta": 1.0, "gamma": 2.0, "start": 1.0, "end": 2.0},
            "beta and gamma are given, and start and end; expected none for a constant run",
        ),
        (wfm.cross_entropy_sgd, "continuous", {"rate": np.nan}, "rate is nan; expected a positive number"),
        (wfm.cross_entropy_sgd, "continuous", {"factor": "2"}, "factor is '2'; expected a positive number"),
    ],
)
def test_wrong_arguments(solver, weights, options, message):
    model = wfm.Committee(45, 3, weights=weights)
    with pytest.raises(ValueError, match=message):
        solver(model, wfm.random_patterns(model, 10), **options)


COURSES = {  # start, factor, and the range that it stays in
    "slow": (0.5, 1.005, 0.5, 100.0),
    "fast": (1.0, 1.05, 1.0, 5.0),
    "slow_reduction": (10.0, 0.995, 2.0, 10.0),
    "fast_reduction": (10.0, 0.95, 2.0, 10.0),
}


def hard_cross_entropy(**options):
    """Forty epochs on a load that is never solved."""
    _, model, patterns, _ = small("cross-entropy")
    return wfm.cross_entropy_sgd(model, patterns, max_epochs=40, **options)


@pytest.mark.parametrize("fixed", [{}, {"beta": 1.5}, {"gamma": 0.7}])
@pytest.mark.parametrize("schedule", COURSES)
def test_schedules_move_what_is_not_fixed(schedule, fixed):
    start, factor, least, most = COURSES[schedule]
    course = np.clip(start * factor ** np.arange(40), least, most)
    history = hard_cross_entropy(schedule=schedule, **fixed).history
    for name in ("beta", "gamma"):
        np.testing.assert_allclose(history[name], np.full(40, fixed[name]) if name in fixed else course, rtol=1e-12)


def test_a_constant_run_is_that_of_a_schedule_which_stands():
    constant = hard_cross_entropy(beta=2.0, gamma=2.0)
    standing = hard_cross_entropy(start=2.0, factor=1.0, end=2.0)
    np.testing.assert_array_equal(constant.weights, standing.weights)
    assert set(constant.history["beta"]) == set(constant.history["gamma"]) == {2.0}


@pytest.mark.parametrize("fixed", [{"beta": 1.5}, {"gamma": 0.7}, {"beta": 1.5, "gamma": 0.7}])
def test_runs_with_fixed_sharpness_are_the_plain_ones(fixed):
    """Three epochs with the starts and orders that the seed draws; rounding as in FLOATS."""
    _, model, patterns, _ = small("cross-entropy")
    seen, seed = [], 5
    wfm.cross_entropy_sgd(
        model, patterns, batch=20, rate=5.0, max_epochs=3, seed=seed, callback=lambda s: seen.append(s.weights), **fixed
    )
    rng = stream("learning", seed)
    w = random_weights(model, rng)
    w = w * np.sqrt(model.fan_in) / np.linalg.norm(w, axis=1, keepdims=True)
    for epoch in range(3):
        moving = 0.5 * 1.005**epoch
        beta, gamma = (fixed.get(name, moving) for name in ("beta", "gamma"))
        order = rng.permutation(patterns.num_patterns)
        inputs = reference.seen_by_units(model, patterns.inputs)
        w = reference.descent(model, inputs, patterns.labels, order, w, beta, gamma, 20, 5.0)
        np.testing.assert_allclose(seen[epoch], w, **FLOATS)


def test_checkpoints_know_which_sharpness_is_fixed(tmp_path):
    _, model, patterns, _ = small("cross-entropy")
    place = tmp_path / "run.npz"

    def interrupt(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wfm.cross_entropy_sgd(model, patterns, gamma=0.5, callback=interrupt, checkpoint=place)
    for other in ({}, {"beta": 0.5}, {"gamma": 0.6}):
        with pytest.raises(ValueError, match="the checkpoint of another run"):
            wfm.cross_entropy_sgd(model, patterns, checkpoint=place, **other)


def test_entropic_rules_want_a_majority():
    model = wfm.Committee(45, 3, weights="continuous", activation="parity")
    with pytest.raises(ValueError, match="model's activation is 'parity'; entropic_least_action expects a majority"):
        wfm.entropic_least_action(model, wfm.random_patterns(model, 10))
