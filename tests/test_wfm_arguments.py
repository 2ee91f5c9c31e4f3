"""What the functions of this room refuse, and the random streams that they draw from."""

import inspect
import itertools

import numpy as np
import pytest

import flatcore as fc
from flatcore.wfm._arguments import _STREAMS, stream

wfm = fc.wfm
BINARY, CONTINUOUS = wfm.Committee(9, 3), wfm.Committee(9, 3, weights="continuous")

# Every public function, and the machine that it is for: called with a model, weights where it takes some, patterns.
CALLS = {
    "focusing_bp": (wfm.focusing_bp, BINARY),
    "focusing_bp, continuous": (wfm.focusing_bp, CONTINUOUS),
    "least_action": (wfm.least_action, BINARY),
    "entropic_least_action": (wfm.entropic_least_action, CONTINUOUS),
    "replicated_sgd": (wfm.replicated_sgd, BINARY),
    "cross_entropy_sgd": (wfm.cross_entropy_sgd, CONTINUOUS),
    "local_energy": (wfm.local_energy, BINARY),
    "local_energy, continuous": (wfm.local_energy, CONTINUOUS),
    "local_entropy": (wfm.local_entropy, BINARY),
    "local_entropy, continuous": (wfm.local_entropy, CONTINUOUS),
    "cross_entropy": (wfm.cross_entropy, CONTINUOUS),
    "CrossEntropyHessian": (wfm.CrossEntropyHessian, CONTINUOUS),
    "hessian_spectrum": (wfm.hessian_spectrum, CONTINUOUS),
    "fields": (wfm.fields, BINARY),
    "errors": (wfm.errors, BINARY),
    "margins": (wfm.margins, BINARY),
}


def call(name, model=None, weights=None, patterns=None, **options):
    function, own = CALLS[name]
    model = own if model is None else model
    weights = np.ones(own.shape) if weights is None else weights
    patterns = wfm.random_patterns(own, 4) if patterns is None else patterns
    given = {"model": model, "weights": weights, "patterns": patterns}
    names = list(inspect.signature(function).parameters)
    return function(*(given[name] for name in names if name in given), **options)


HUGE, ENDLESS = 10**400, 10**20
COUNTS = (0, -1, 1.5, True, "3", object, ENDLESS, HUGE, np.nan)
NUMBERS = (-1, True, "a", HUGE, -HUGE, np.nan, np.inf, [0.5], 1j)
NAMES = ("other", 3, True, object, np.array(["A", "B"]))
BAD = {
    **dict.fromkeys(("max_epochs", "max_sweeps", "batch", "replicas", "samples", "k"), COUNTS),
    "seed": (-1, 1.5, True, "3", None, np.nan, -HUGE),
    "threads": (0, -1, 1.5, True, "2", 10**12, HUGE),
    **dict.fromkeys(("rate", "coupling", "gamma", "beta", "margin", "start", "end", "tol"), (0, *NUMBERS)),
    **dict.fromkeys(("factor", "decay"), (0, *NUMBERS)),
    "gamma_step": NUMBERS,
    "damping": (1, *NUMBERS),
    "step": (0, *NUMBERS),
    **dict.fromkeys(("form", "schedule", "stop", "rule", "until", "perturbation"), NAMES),
    "dtype": ("float16", int, "other", 3),
    "tangent": ("yes", 1, None),
    **dict.fromkeys(("callback", "progress"), (3, "f", True)),
    "checkpoint": (3, 1.5, "no/such/folder/run.npz", "/"),
    **dict.fromkeys(
        ("scale", "distances", "overlaps", "fields"),
        ([], "a", ["a"], np.nan, [np.inf], [[0.1, 0.2]], [[0.1], [0.1, 0.2]], [1j], [HUGE], [None], 1e9, -1e9),
    ),
}
CASES = [
    (name, option, i)
    for name, (function, _) in CALLS.items()
    for option in inspect.signature(function).parameters
    if option not in ("model", "weights", "patterns")
    for i in range(len(BAD[option]))
]


@pytest.mark.parametrize(("name", "option", "i"), CASES)
def test_every_option_refuses_what_it_is_not(name, option, i):
    value = BAD[option][i]
    if option == "scale" and "continuous" in name and isinstance(value, float) and value == 1e9:
        return  # noise may be strong
    extra = {"rule": "B"} if option == "step" and name == "entropic_least_action" else {}
    errors = (OSError, TypeError) if option == "checkpoint" else ValueError
    with pytest.raises(errors) as caught:
        call(name, **{option: value, **extra})
    assert type(caught.value) is not OverflowError
    if option != "checkpoint":
        assert option in str(caught.value).split(";")[0]
        assert "expected" in str(caught.value)


@pytest.mark.parametrize("name", ["focusing_bp", "focusing_bp, continuous"])
def test_schedules_of_more_steps_than_numbers_are_refused(name):
    with pytest.raises(ValueError, match="step is 5e-324; expected"):
        call(name, step=5e-324)
    assert call(name, step=1e-300, max_sweeps=3).sweeps <= 3


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "9", None, ENDLESS, HUGE])
def test_sizes_that_are_none(value):
    for make in (
        lambda: wfm.Committee(value),
        lambda: wfm.Committee(9, value),
        lambda: wfm.random_patterns(BINARY, value),
        lambda: wfm.teacher_patterns(BINARY, value),
    ):
        with pytest.raises(ValueError, match="expected"):
            make()
    for seed in (-1, 1.5, True, "3", None):
        with pytest.raises(ValueError, match=r"seed is .*; expected"):
            wfm.random_patterns(BINARY, 4, seed=seed)


def test_sizes_beyond_memory_are_told():
    large = 2**62 + 1
    for make in (
        lambda: wfm.random_patterns(BINARY, large),
        lambda: wfm.random_patterns(wfm.Committee(large), 4),
        lambda: call("local_energy", samples=large),
        lambda: call("replicated_sgd", replicas=large),
    ):
        with pytest.raises(MemoryError, match=r"needs .* GB; .* GB are available"):
            make()


def test_large_numbers_that_mean_something_are_taken():
    many = 2**62
    assert call("replicated_sgd", batch=many, max_epochs=2).sweeps <= 2
    assert call("cross_entropy_sgd", batch=many, max_epochs=2).sweeps <= 2
    assert call("least_action", max_epochs=many, seed=10**30).seed == 10**30
    assert call("focusing_bp", max_sweeps=many).errors == 0


MACHINES = [
    ((8, 2), "n_hidden is 2; expected an odd number"),
    ((10, 3), "n_inputs is 10; expected a multiple of n_hidden"),
    ((12, 3), "binary weights need an odd number"),
]


@pytest.mark.parametrize(("arguments", "message"), MACHINES)
def test_machines_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        wfm.Committee(*arguments)


@pytest.mark.parametrize("name", CALLS)
def test_every_function_refuses_what_does_not_fit(name):
    takes_weights = "weights" in inspect.signature(CALLS[name][0]).parameters
    n = CALLS[name][1].n_inputs
    ones, labels = np.ones((4, n)), np.ones(4)
    refused = [
        ({"model": (9, 3)}, "model is a tuple; expected a Committee"),
        ({"patterns": 3}, "patterns is a int; expected Patterns or a pair"),
        ({"patterns": wfm.random_patterns(wfm.Committee(15, 3), 4)}, "patterns have 15 inputs; the model expects 9"),
        ({"patterns": (np.ones((0, n)), [])}, "expected at least one pattern"),
        ({"patterns": (np.ones((4, 8)), labels)}, "inputs has shape"),
        ({"patterns": (ones, np.ones(3))}, r"labels has shape \(3,\); expected \(4,\)"),
        ({"patterns": (ones, [1, 1, 0, 1])}, r"labels contains 0 at index \(2\); expected ±1"),
        ({"patterns": (2 * ones, labels)}, r"inputs contains 2.0 at index \(0, 0\); expected ±1"),
        ({"patterns": (ones.astype(str), labels)}, "inputs has dtype"),
    ]
    if takes_weights:
        refused += [
            ({"weights": np.ones((3, 4))}, r"weights has shape \(3, 4\); expected"),
            ({"weights": [[1, 2], [3]]}, "weights is no array of one shape"),
            ({"weights": np.full((3, 3), np.nan)}, "weights contains nan"),
            ({"weights": np.full((3, 3), "a")}, "weights has dtype"),
            ({"weights": np.full((3, 3), 1j)}, "weights is complex"),
        ]
        binary = CALLS[name][1].weights == "binary"
        refused.append(
            ({"weights": np.full((3, 3), 0.5)}, "the model is binary, expected ±1")
            if binary
            else ({"weights": np.zeros((3, 3))}, "expected a unit with a direction")
        )
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            call(name, **options)


def test_what_is_no_vector_or_model_is_told():
    H = call("CrossEntropyHessian")
    for bad in ([HUGE] * 9, ["a"] * 9, np.ones(9) * 1j, np.ones(8), 3):
        with pytest.raises(ValueError, match=r"^v (has|is) .*; expected"):
            H @ bad
    with pytest.raises(ValueError, match="model is a int; expected a Committee"):
        wfm.Patterns.from_arrays(9, [1, 1], [1])


def test_patterns_are_copies_and_cannot_be_written():
    inputs, labels = np.ones((4, 9), dtype=np.int8), np.ones(4, dtype=np.int8)
    patterns = wfm.Patterns.from_arrays(BINARY, inputs, labels)
    inputs[:], labels[:] = -1, -1
    assert (patterns.inputs == 1).all()
    assert (patterns.labels == 1).all()
    for array in (patterns.labels, patterns.words):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = -1
    patterns.inputs[:] = -1
    assert (patterns.inputs == 1).all()
    assert labels.flags.writeable


def test_streams_of_one_seed_are_apart():
    states = [np.random.default_rng(5), *(stream(purpose, 5) for purpose in _STREAMS)]
    for one, other in itertools.combinations(states, 2):
        assert one.bit_generator.state != other.bit_generator.state
    # A pair of numbers as a seed is one number to NumPy; a stream is none of them.
    for tag in _STREAMS.values():
        assert stream("learning", 5).bit_generator.state != np.random.default_rng([5, tag]).bit_generator.state


# hessian_spectrum's vectors are the eigensolver's, of bits made from the seed.
SEEDED = [name for name, (f, _) in CALLS.items() if "seed" in inspect.signature(f).parameters]
SEEDED.remove("hessian_spectrum")


@pytest.mark.parametrize("name", SEEDED)
def test_only_patterns_are_drawn_from_the_seed_itself(name, monkeypatch):
    patterns, seeds = wfm.random_patterns(CALLS[name][1], 4, seed=3), []
    made = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed=None: seeds.append(seed) or made(seed))
    call(name, patterns=patterns, seed=3)
    assert seeds
    assert all(isinstance(seed, np.random.SeedSequence) for seed in seeds)


def test_a_teacher_is_independent_of_the_patterns():
    model = wfm.Committee(1001)
    patterns, teacher = wfm.teacher_patterns(model, 1000, seed=2)
    h = wfm.fields(model, teacher, patterns)
    # Fields of independent ±1 are normal to 1/n: mean 0 ± 0.032, mean square 1 ± 0.045; five standard deviations.
    assert abs(h.mean()) < 0.16
    assert abs(np.square(h).mean() - 1.0) < 0.23
