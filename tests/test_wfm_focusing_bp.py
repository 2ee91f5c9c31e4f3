"""Focusing belief propagation: it solves, in every form; what it solves is flat; its arguments and interruptions."""

import numpy as np
import pytest

import flatcore as fc
from flatcore.wfm import message_passing
from flatcore.wfm.focusing_bp import focused_law, next_field

wfm = fc.wfm


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("schedule", ["reinforcement", "pseudo", "scoping"])
def test_the_focusing_field_is_the_equation(schedule, rho):
    """f ← (1 − r) f* + r f with f* = atanh(tanh γ · tanh[(y − 1) atanh(tanh S · tanh γ)])."""
    sums, field = np.random.default_rng(0).standard_normal((2, 3, 7))
    if schedule == "reinforcement":  # γ = ∞
        target, keep = (1 / (1 - rho) - 1) * sums, rho
    else:
        y, keep = ((2 - rho) / (1 - rho), rho) if schedule == "pseudo" else (21.0, 20 / 21)
        coupling = np.sqrt(rho)  # tanh γ
        target = np.arctanh(coupling * np.tanh((y - 1) * np.arctanh(np.tanh(sums) * coupling)))
    expected = (1 - keep) * target + keep * field
    np.testing.assert_allclose(next_field(schedule, rho, sums, field), expected, rtol=1e-12, atol=1e-13)
    found = next_field(schedule, rho, sums.astype(np.float32), field.astype(np.float32))
    assert found.dtype == np.float32
    # log cosh of numbers up to 60, each rounded to single precision.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("gamma", [0.05, 3.0, 300.0])
def test_the_law_of_a_focused_weight_is_that_of_a_replica_in_a_star(gamma):
    """Ten Gaussian replicas of a weight, all coupled to a centre of its own: the joint law, inverted."""
    rng = np.random.default_rng(1)
    fields, precisions = rng.standard_normal((2, 5)), rng.uniform(0.0, 4.0, 2)
    means, variances = focused_law(fields, precisions, gamma)
    for k in range(2):
        joint = np.zeros((11, 11))  # the centre first
        joint[0, 0], joint[0, 1:], joint[1:, 0] = 10 * gamma, -gamma, -gamma
        joint[np.arange(1, 11), np.arange(1, 11)] = precisions[k] + 1.0 + gamma
        law = np.linalg.inv(joint)
        assert variances[k] == pytest.approx(law[1, 1], rel=1e-10)
        np.testing.assert_allclose(means[k], law[1, 1:].sum() * fields[k], rtol=1e-10)


def solved(model, load, seeds, **options):
    """How many fresh instances are solved, each with its errors counted anew."""
    count = 0
    for seed in seeds:
        patterns = wfm.random_patterns(model, int(load * model.num_weights), seed=1000 + seed)
        result = wfm.focusing_bp(model, patterns, seed=seed, **options)
        assert wfm.errors(model, result.weights, patterns) == result.errors
        assert result.history["errors"].min() == result.errors
        count += result.status == "solved"
    return count


@pytest.mark.parametrize("schedule", ["reinforcement", "pseudo", "scoping"])
@pytest.mark.parametrize("form", ["edge", "amp"])
@pytest.mark.parametrize(
    ("model", "load"),
    [(wfm.Committee(201), 0.5), (wfm.Committee(153, 3), 0.3), (wfm.Committee(101, 3, "full"), 0.3)],
    ids=str,
)
def test_binary_machines_are_solved(model, load, form, schedule):
    assert solved(model, load, range(10), form=form, schedule=schedule) >= 8


@pytest.mark.parametrize("stop", ["first", "end"])
@pytest.mark.parametrize("form", ["edge", "amp"])
@pytest.mark.parametrize(
    ("model", "load"),
    [
        (wfm.Committee(153, 3, "tree", "continuous"), 1.0),
        (wfm.Committee(101, 1, "tree", "continuous"), 1.0),
        (wfm.Committee(51, 3, "full", "continuous"), 0.8),
    ],
    ids=str,
)
def test_continuous_machines_are_solved(model, load, form, stop):
    assert solved(model, load, range(10), form=form, stop=stop) >= 8


def test_a_parity_machine_of_even_order_is_solved():
    model = wfm.Committee(202, 2, activation="parity")
    assert solved(model, 0.2, range(5), form="edge") >= 3


def test_the_end_of_the_schedule_lies_beyond_the_first_solution():
    model = wfm.Committee(153, 3)
    patterns = wfm.random_patterns(model, 45, seed=3)
    first = wfm.focusing_bp(model, patterns, seed=1)
    looks = ([], [])
    end = wfm.focusing_bp(
        model, patterns, seed=1, stop="end", callback=lambda s: looks[0].append(s.weights) or looks[1].append(s.errors)
    )
    assert first.status == end.status == "solved"
    assert end.sweeps > first.sweeps
    np.testing.assert_array_equal(first.weights, looks[0][first.sweeps - 1])
    solving = [weights for weights, errors in zip(*looks, strict=True) if errors == 0]
    assert (solving[0] != solving[-1]).any()
    np.testing.assert_array_equal(end.weights, solving[-1])
    assert end.history["change"][-1] < 1e-3
    np.testing.assert_array_equal(end.history["errors"][: first.sweeps], first.history["errors"])


def test_single_precision_solves_too():
    model = wfm.Committee(1001)
    patterns = wfm.random_patterns(model, 500, seed=4)
    result = wfm.focusing_bp(model, patterns, form="amp", dtype=np.float32)
    assert result.status == "solved"
    assert result.weights.dtype == np.int8


def test_not_solving_is_a_status_with_the_best_weights():
    model = wfm.Committee(101)
    patterns = wfm.random_patterns(model, 150, seed=5)  # α = 1.5, no solutions
    result = wfm.focusing_bp(model, patterns, max_sweeps=30)
    assert result.status == "not_solved"
    assert result.sweeps == 30
    assert result.errors == result.history["errors"].min() == wfm.errors(model, result.weights, patterns)
    assert "smaller step" in result.message


def hopeless(alpha):
    model = wfm.Committee(101)
    return model, wfm.random_patterns(model, int(101 * alpha), seed=5)


@pytest.mark.parametrize("form", ["edge", "amp"])
def test_a_schedule_that_freezes_with_errors_begins_anew_more_slowly(form):
    """ρ grows by 0.01 to 0.99, then from the start by 0.003 and by 0.001; from each start on it only grows."""
    model, patterns = hopeless(1.5)
    history = wfm.focusing_bp(model, patterns, form=form).history
    steps, rho = history["step"], history["rho"]
    starts = np.flatnonzero(np.diff(steps, prepend=0.0))
    np.testing.assert_array_equal(steps[starts], [0.01, 0.003, 0.001])
    for first, last in zip(starts, [*starts[1:], len(steps)], strict=True):
        step = steps[first]
        np.testing.assert_allclose(rho[first:last], np.minimum(step * np.arange(1, last - first + 1), 0.99))
        assert np.ceil(0.99 / step - 1e-9) <= last - first <= np.ceil(0.99 / step - 1e-9) + 200
        assert (history["errors"][first:last] > 0).all()


def test_a_step_that_is_asked_for_is_the_only_one():
    model, patterns = hopeless(1.5)
    found = wfm.focusing_bp(model, patterns, step=0.01)
    assert found.status == "not_solved"
    assert (found.history["step"] == 0.01).all()
    assert 99 <= len(found.history["rho"]) <= 299


def test_slower_schedules_solve_what_the_first_does_not():
    """Perceptrons near their capacity: of these ten, a step of 0.01 leaves some that slower ones solve."""
    model = wfm.Committee(1001)
    tasks = [wfm.random_patterns(model, 700, seed=seed) for seed in range(10)]
    fast = [wfm.focusing_bp(model, patterns, form="amp", step=0.01).errors == 0 for patterns in tasks]
    default = [wfm.focusing_bp(model, patterns, form="amp").errors == 0 for patterns in tasks]
    assert sum(fast) < 8 <= sum(default)
    assert all(after or not before for before, after in zip(fast, default, strict=True))


class InterruptedRunError(Exception):
    pass


@pytest.mark.parametrize("form", ["edge", "amp"])
@pytest.mark.parametrize("weights", ["binary", "continuous"])
@pytest.mark.parametrize("last", [False, True])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, form, weights, last):
    model = wfm.Committee(99, 3, "tree", weights)
    patterns = wfm.random_patterns(model, 40, seed=6)
    options = {"form": form, "stop": "end", "seed": 2, "threads": 1}
    whole = wfm.focusing_bp(model, patterns, **options)

    def interrupt(state):
        if state.step == (len(whole.history["errors"]) if last else 20):
            raise InterruptedRunError

    path = tmp_path / "run.npz"
    with pytest.raises(InterruptedRunError):
        wfm.focusing_bp(model, patterns, **options, callback=interrupt, checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint of another run"):
        wfm.focusing_bp(model, patterns, **{**options, "seed": 3}, checkpoint=path)
    resumed = wfm.focusing_bp(model, patterns, **options, checkpoint=path)
    np.testing.assert_array_equal(resumed.weights, whole.weights)
    for name, values in whole.history.items():
        np.testing.assert_array_equal(resumed.history[name], values)
    assert not path.exists()


@pytest.mark.parametrize("form", ["edge", "amp"])
def test_a_run_interrupted_in_its_second_schedule_goes_on_to_the_same_bits(tmp_path, form):
    model, patterns = hopeless(1.2)
    options = {"form": form, "seed": 2, "threads": 1}
    whole = wfm.focusing_bp(model, patterns, **options)
    at = int(np.flatnonzero(whole.history["step"] == 0.003)[0])
    for step in (at, at + 1, at + 50):  # before, at and after the first sweep of the second schedule

        def interrupt(state, step=step):
            if state.step == step:
                raise InterruptedRunError

        with pytest.raises(InterruptedRunError):
            wfm.focusing_bp(model, patterns, **options, callback=interrupt, checkpoint=tmp_path / "run.npz")
        resumed = wfm.focusing_bp(model, patterns, **options, checkpoint=tmp_path / "run.npz")
        for name, values in whole.history.items():
            np.testing.assert_array_equal(resumed.history[name], values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "bp"}, "form is 'bp'; expected one of 'auto', 'edge', 'amp'"),
        ({"schedule": "slow"}, "schedule is 'slow'; expected one of"),
        ({"damping": 1.0}, r"damping is 1.0; expected a number in \[0, 1\)"),
        ({"step": 0}, r"step is 0; expected a number in \(0, 1\)"),
        ({"max_sweeps": 0}, "max_sweeps is 0; expected at least 1"),
        ({"stop": "last"}, "stop is 'last'; expected one of 'first', 'end'"),
        ({"dtype": np.float16}, "expected float64, or float32 for form='amp'"),
        ({"dtype": np.float32, "form": "edge"}, "expected float64, or float32 for form='amp'"),
        ({"seed": -1}, "seed is -1; expected at least 0"),
        ({"callback": 3}, "callback is 3; expected a function of a WfmState"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(options, message):
    model = wfm.Committee(9)
    with pytest.raises(ValueError, match=message):
        wfm.focusing_bp(model, wfm.random_patterns(model, 3), **options)


def test_messages_that_do_not_fit_are_told_before(monkeypatch):
    monkeypatch.setattr("flatcore._memory.available_memory", lambda root="/": 10**8)
    model = wfm.Committee(3001)
    with pytest.raises(MemoryError, match=r"messages of all edges \(form='amp' needs far less\) needs 0.1 GB"):
        wfm.focusing_bp(model, wfm.random_patterns(model, 6000), form="edge")


def test_a_checkpoint_needs_room_for_a_copy(monkeypatch, tmp_path):
    monkeypatch.setattr("flatcore._memory.available_memory", lambda root="/": 10**8)
    model = wfm.Committee(3001)
    patterns = wfm.random_patterns(model, 3000)  # 0.07 GB of messages
    wfm.focusing_bp(model, patterns, form="edge", max_sweeps=1)
    with pytest.raises(MemoryError, match="messages of all edges"):
        wfm.focusing_bp(model, patterns, form="edge", max_sweeps=1, checkpoint=tmp_path / "run.npz")


@pytest.mark.parametrize("form", ["edge", "amp"])
@pytest.mark.parametrize("weights", ["binary", "continuous"])
def test_an_interrupted_sweep_goes_on_to_the_same_bits(tmp_path, monkeypatch, form, weights):
    """Ctrl-C within a sweep, which has changed the messages in place."""
    model = wfm.Committee(99, 3, "tree", weights)
    patterns = wfm.random_patterns(model, 40, seed=6)
    options = {"form": form, "stop": "end", "threads": 1, "max_sweeps": 30}
    whole = wfm.focusing_bp(model, patterns, **options)
    kind = {
        "binary": {"edge": message_passing.BinaryEdges, "amp": message_passing.BinaryAmp},
        "continuous": {"edge": message_passing.GaussianEdges, "amp": message_passing.GaussianAmp},
    }[weights][form]
    sweep, calls = kind.sweep, []

    def interrupted(self, *given):
        sweep(self, *given)
        calls.append(None)
        if len(calls) == 12:
            raise KeyboardInterrupt

    path = tmp_path / "run.npz"
    monkeypatch.setattr(kind, "sweep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wfm.focusing_bp(model, patterns, **options, checkpoint=path)
    resumed = wfm.focusing_bp(model, patterns, **options, checkpoint=path)
    np.testing.assert_array_equal(resumed.weights, whole.weights)
    for name, values in whole.history.items():
        np.testing.assert_array_equal(resumed.history[name], values)


@pytest.mark.parametrize("schedule", ["pseudo", "scoping"])
def test_other_schedules_solve_in_single_precision(schedule):
    model = wfm.Committee(1001)
    options = {"form": "amp", "dtype": "float32", "schedule": schedule}
    assert solved(model, 0.4, range(3), **options) >= 2


@pytest.mark.parametrize(("model", "load"), [(wfm.Committee(501), 0.5), (wfm.Committee(303, 3), 0.3)], ids=str)
def test_solutions_of_edges_and_of_amp_are_equally_flat(model, load):
    means, squares = [], []
    for form in ("edge", "amp"):
        energies = []
        for seed in range(12):
            patterns = wfm.random_patterns(model, int(load * model.num_weights), seed=seed)
            result = wfm.focusing_bp(model, patterns, form=form, seed=seed)
            if result.errors == 0:
                e = wfm.local_energy(model, result.weights, patterns, scale=[0.05, 0.1, 0.2], samples=50)
                energies.append(e.values)
        assert len(energies) >= 10
        means.append(np.mean(energies, axis=0))
        squares.append(np.var(energies, axis=0, ddof=1) / len(energies))
    assert (np.abs(means[0] - means[1]) < 3 * np.sqrt(squares[0] + squares[1])).all()


def test_contradicting_patterns_are_a_status():
    """Every pattern with both labels: means of exactly zero are no weights, and half of the patterns are wrong."""
    model = wfm.Committee(5, weights="continuous")
    inputs = np.repeat(wfm.random_patterns(model, 20).inputs, 2, axis=0)
    found = wfm.focusing_bp(model, (inputs, np.tile([1, -1], 20)), form="edge")
    assert found.status == "not_solved"
    assert found.errors >= 20
    assert np.isfinite(found.weights).all()


def test_a_finished_run_needs_no_room_for_its_checkpoint(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flatcore.wfm.solving.write_npz_atomic", full)
    model = wfm.Committee(101)
    assert wfm.focusing_bp(model, wfm.random_patterns(model, 30), checkpoint=tmp_path / "run.npz").errors == 0
