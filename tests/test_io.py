"""Files: which arrays become layers and data, what every other file is told, and writing whole or not at all."""

import io
import os
import pickle
import random
import stat
import warnings
import zipfile
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flatcore as fc
from flatcore import io as fio


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def layers(rng, *dims):
    return [rng.standard_normal((rows, cols)) for cols, rows in pairwise(dims)]


# Models


@given(st.integers(1, 30), st.randoms(use_true_random=False))
def test_numbers_are_ordered_as_numbers(depth, shuffle):
    names = [f"W{j}" for j in range(1, depth + 1)]
    stored = names.copy()
    shuffle.shuffle(stored)
    weights, biases, ignored = fio.assign_names(dict.fromkeys(stored, (2, 2)))
    assert list(weights) == names
    assert biases == (None,) * depth
    assert ignored == ()


def test_ten_layers_come_back_in_order_and_bit_for_bit(tmp_path, rng):
    matrices = layers(rng, *range(3, 14))
    order = random.Random(1).sample(range(10), 10)
    path = save(tmp_path / "model.npz", **{f"W{j + 1}": matrices[j] for j in order})
    read = fio.read_model(path)
    assert read.weight_names == tuple(f"W{j}" for j in range(1, 11))
    for given_one, read_one in zip(matrices, read.weights, strict=True):
        np.testing.assert_array_equal(read_one, given_one)
    np.testing.assert_allclose(read.chain().product(), np.linalg.multi_dot(matrices[::-1]), rtol=1e-12)


@pytest.mark.parametrize(
    ("names", "weights", "biases", "ignored"),
    [
        ({"0.weight": 2, "0.bias": 1, "10.weight": 2, "2.weight": 2, "2.bias": 1, "step": 0},
         ("0.weight", "2.weight", "10.weight"), ("0.bias", "2.bias", None), ("step",)),
        ({"W1": 2, "b2": 1, "W2": 2, "b7": 1}, ("W1", "W2"), (None, "b2"), ("b7",)),
        ({"w_1": 2, "b_1": 1}, ("w_1",), ("b_1",), ()),
        ({"enc.W1": 2, "enc.b1": 1}, ("enc.W1",), ("enc.b1",), ()),
        ({"fc1.weight": 2, "fc2.weight": 2, "head.weight": 2, "head.bias": 1},
         ("fc1.weight", "fc2.weight", "head.weight"), (None, None, "head.bias"), ()),
        ({"fc1_weight": 2, "fc1_bias": 1}, ("fc1_weight",), ("fc1_bias",), ()),
        ({"weight": 2, "bias": 1}, ("weight",), ("bias",), ()),
        ({"Weight": 2, "Bias": 1}, ("Weight",), ("Bias",), ()),
        ({"arr_0": 2, "arr_1": 2, "arr_2": 1}, ("arr_0", "arr_1"), (None, None), ("arr_2",)),
        ({"W1": 2, "X": 2, "kernel": 4}, ("W1",), (None,), ("X", "kernel")),
        ({"1.weight": 1, "0.weight": 2}, ("0.weight",), (None,), ("1.weight",)),
    ],
)  # fmt: skip
def test_names(names, weights, biases, ignored):
    assert fio.assign_names({name: (3,) * ndim for name, ndim in names.items()}) == (weights, biases, ignored)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, "no matrix among no arrays of numbers"),
        ({"b1": (3,), "step": ()}, r"no matrix among b1 \(3,\), step \(\)"),
        ({f"v{j}": (j,) for j in range(20)}, "and 12 more; expected one a layer"),
        ({"W1": (2, 2), "W01": (2, 2)}, "ambiguous: both"),
        ({"actor.0.weight": (2, 2), "critic.0.weight": (2, 2)}, r"actor\.#\.weight and as critic\.#\.weight"),
        ({"W1": (2, 3), "b1": (2, 1)}, r"b1 has shape \(2, 1\); expected a vector, the bias of W1"),
    ],
)
def test_names_that_say_no_chain(shapes, message):
    with pytest.raises(ValueError, match=message):
        fio.assign_names(shapes)


def test_description_tells_order_shapes_biases_and_what_was_ignored(tmp_path, rng):
    W1, W2 = layers(rng, 4, 3, 2)
    path = save(tmp_path / "m.npz", W2=W2, W1=W1.astype(np.float32), b2=np.zeros(2), note=np.array("hello"))
    read = fio.read_model(path)
    assert read.describe().splitlines() == [
        f"{path}: 2 layers, applied in this order",
        "  1  W1  3 × 4 float32",
        "  2  W2  2 × 3 float64, bias b2",
        "  ignored: note",
    ]
    assert read.to_dict() == {
        "path": str(path),
        "weights": ["W1", "W2"],
        "shapes": [[3, 4], [2, 3]],
        "dtypes": ["float32", "float64"],
        "biases": [None, "b2"],
        "ignored": ["note"],
        "notes": [],
        "skip": [],
    }


def test_biases_reach_the_chain(tmp_path, rng):
    (W1, W2), b1 = layers(rng, 4, 3, 2), rng.standard_normal(3)
    chain = fio.read_model(save(tmp_path / "m.npz", W1=W1, b1=b1, W2=W2)).chain()
    assert chain.has_biases
    np.testing.assert_allclose(chain.product(), np.column_stack([W2 @ W1, W2 @ b1]), rtol=1e-12)
    assert not fio.read_model(save(tmp_path / "n.npz", W1=W1)).chain().has_biases


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"W1": np.ones((3, 4)), "W2": np.ones((2, 5))}, r"W2 has shape \(2, 5\); its columns must match W1's 3 rows"),
        ({"W1": np.ones((3, 4)), "b1": np.ones(2)}, r"b1 has shape \(2,\); expected \(3,\)"),
        ({"W1": np.array([[1.0, np.nan]])}, r"W1 contains nan at index \(0, 1\)"),
        ({"W1": np.ones((2, 2), complex)}, "W1 is complex"),
    ],
)
def test_a_chain_that_does_not_fit_is_told_in_the_names_of_the_file(tmp_path, arrays, message):
    read = fio.read_model(save(tmp_path / "m.npz", **arrays))
    with pytest.raises(ValueError, match=rf"m\.npz: {message}"):
        read.chain()


def test_arrays_that_are_ignored_are_not_read(tmp_path, monkeypatch, rng):
    path = save(tmp_path / "m.npz", W1=rng.standard_normal((2, 2)), history=np.zeros((50, 50, 50)))
    monkeypatch.setattr("flatcore._memory._SMALL", 0)
    monkeypatch.setattr("flatcore._memory.available_memory", lambda: 1000)
    assert fio.read_model(path).ignored == ("history",)
    monkeypatch.setattr("flatcore._memory.available_memory", lambda: 10)
    with pytest.raises(MemoryError, match=r"reading .*m\.npz needs"):
        fio.read_model(path)


def test_compressed_and_column_major_files(tmp_path, rng):
    W = rng.standard_normal((4, 3))
    np.savez_compressed(tmp_path / "m.npz", W1=np.asfortranarray(W))
    np.testing.assert_array_equal(fio.read_model(str(tmp_path / "m.npz")).weights[0], W)


# Files that are something else


def empty_archive(path):
    zipfile.ZipFile(path, "w").close()


def zip_with(entry):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(entry, b"whatever")

    return write


def npy(path):
    with open(path, "wb") as file:
        np.save(file, np.eye(3))


def truncated(path):
    buffer = io.BytesIO()
    np.savez(buffer, W1=np.eye(30))
    path.write_bytes(buffer.getvalue()[:2000])


def corrupt(path):
    buffer = io.BytesIO()
    np.savez(buffer, W1=np.eye(30))
    content = bytearray(buffer.getvalue())
    content[3000] ^= 0xFF
    path.write_bytes(content)


def twice(path):
    array = io.BytesIO()
    np.save(array, np.eye(2))
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("W1.npy", array.getvalue())
        archive.writestr("W1.npy", array.getvalue())


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


OTHER_FILES = {
    "text": (lambda p: p.write_text("not a model"), "begins with b'not a mo'"),
    "nothing": (lambda p: p.write_bytes(b""), "is an empty file"),
    "png": (lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40)), "is a PNG image"),
    "npy": (npy, r"is a single array \(\.npy\)"),
    "pickle": (lambda p: p.write_bytes(pickle.dumps(Trap(p.parent / "trap"))), "is a pickle file"),
    "objects": (
        lambda p: np.savez(p, W1=np.eye(2), W2=np.array([Trap(p.parent / "trap")], dtype=object)),
        "W2 holds Python objects, which are never unpickled",
    ),
    "directory": (lambda p: p.mkdir(), "is a directory"),
    "fifo": (os.mkfifo, "is no regular file"),
    "empty archive": (empty_archive, "is an empty archive"),
    "other zip": (zip_with("readme.txt"), r"is a zip file without arrays \(it holds readme\.txt\)"),
    "torch": (zip_with("model/data.pkl"), "is a PyTorch file"),
    "no array": (zip_with("W1.npy"), "W1 cannot be read"),
    "truncated": (truncated, "is truncated or corrupt"),
    "corrupt": (corrupt, "W1 cannot be read"),
    "two of a name": (twice, "holds two arrays called W1"),
    "empty arrays": (
        lambda p: np.savez(p, W1=np.ones((0, 3)), inputs=np.ones((0, 3)), y=np.ones((0, 3))),
        r"has shape \(0, 3\); expected at least one entry",
    ),
}


@pytest.mark.parametrize("read", [fio.read_model, fio.read_data])
@pytest.mark.parametrize("kind", OTHER_FILES)
def test_other_files_are_refused_by_name_and_never_unpickled(tmp_path, kind, read):
    make, message = OTHER_FILES[kind]
    path = tmp_path / "model.npz"
    make(path)
    if read is fio.read_data and kind == "corrupt":  # its array is none of the data's: not even read
        message = "holds W1; expected"
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("read", [fio.read_model, fio.read_data])
def test_a_missing_file(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"none\.npz does not exist; expected an \.npz file"):
        read(tmp_path / "none.npz")


@pytest.mark.parametrize("save_as", [np.savez, np.savez_compressed])
def test_damage_anywhere_is_a_value_error_or_harmless(tmp_path, save_as):
    path, W = tmp_path / "m.npz", np.arange(6.0).reshape(2, 3)
    buffer = io.BytesIO()
    save_as(buffer, W1=W)
    whole = buffer.getvalue()
    refused = 0
    for at in range(len(whole)):
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]):
            path.write_bytes(content)
            outcome = read_or_message(path)
            if isinstance(outcome, str):
                assert outcome.startswith(str(path))
                refused += 1
            else:
                np.testing.assert_array_equal(outcome.weights[0], W)
    assert refused > len(whole)  # every truncation, and many changes


def read_or_message(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return fio.read_model(path)
        except ValueError as error:
            return str(error)


# Data


@pytest.mark.parametrize("x", ["inputs", "X", "x"])
@pytest.mark.parametrize("y", ["targets", "Y", "y", "labels"])
def test_samples_are_squared_error_or_cross_entropy(tmp_path, rng, x, y):
    X, Y, labels, Phi = (
        rng.standard_normal((20, 4)),
        rng.standard_normal((20, 3)),
        rng.integers(0, 3, 20),
        np.ones((3, 4)),
    )
    squared = fio.read_data(save(tmp_path / "a.npz", **{x: X, y: Y}, other=np.eye(2)))
    assert isinstance(squared, fc.QuadraticLoss)
    assert squared.value(Phi) == pytest.approx(np.mean(np.sum((X @ Phi.T - Y) ** 2, axis=1)), rel=1e-12)
    entropy = fio.read_data(save(tmp_path / "b.npz", **{x: X, y: labels.astype(np.uint8)}))
    assert isinstance(entropy, fc.CrossEntropyLoss)
    assert entropy.value(Phi) == pytest.approx(np.log(3), rel=1e-12)  # equal logits


def test_moments_give_the_loss_of_their_samples(tmp_path, rng):
    X, Y = rng.standard_normal((20, 4)), rng.standard_normal((20, 3))
    moments = {"sxx": X.T @ X / 20, "syx": Y.T @ X / 20, "syy": np.sum(Y**2) / 20}
    means = {"mean_x": X.mean(0), "mean_y": Y.mean(0), "n": 20}
    Phi, wide, direct = rng.standard_normal((3, 4)), rng.standard_normal((3, 5)), fc.QuadraticLoss(X, Y)
    bare = fio.read_data(save(tmp_path / "a.npz", **moments))
    assert bare.value(Phi) == pytest.approx(direct.value(Phi), rel=1e-12)
    full = fio.read_data(save(tmp_path / "b.npz", **moments, **means))
    assert full.value(wide) == pytest.approx(direct.value(wide), rel=1e-12)
    assert full.n == 20


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"inputs": np.ones((5, 2))}, "holds inputs; expected one of inputs, X, x with one of targets, Y, y, labels"),
        ({"x": np.ones((5, 2)), "X": np.ones((5, 2)), "y": np.ones((5, 2))}, "holds x, X, y; expected one of"),
        ({"x": np.ones((5, 2)), "y": np.ones((5, 2)), "labels": np.zeros(5, int)}, "holds x, y, labels; expected"),
        ({"sxx": np.eye(2), "syx": np.eye(2)}, "or the moments sxx, syx, syy"),
        ({"sxx": np.eye(2), "syx": np.eye(2), "syy": 2.0, "X": np.eye(2), "Y": np.eye(2)}, "holds sxx, syx, syy, X, Y"),
        ({"x": np.ones((5, 2)), "y": np.ones(5)}, r": y has shape \(5,\) and dtype float64; expected \(n, d_out\)"),
        ({"x": np.ones((5, 2)), "y": np.ones((5, 2, 2))}, r": y has shape \(5, 2, 2\)"),
        ({"x": np.ones((5, 2)), "y": np.ones((4, 2))}, ": inputs has 5 rows and targets has 4"),
        ({"x": np.ones((5, 2)), "labels": np.zeros(4, int)}, r": labels has shape \(4,\); expected \(5,\)"),
        ({"x": np.full((5, 2), np.inf), "y": np.ones((5, 2))}, ": inputs contains inf"),
        ({"sxx": np.eye(2), "syx": np.eye(2), "syy": np.ones(2)}, r": syy has shape \(2,\)"),
        ({"sxx": np.eye(2), "syx": np.eye(2), "syy": 2.0, "n": 2.5}, ": n is 2.5; expected an integer"),
        ({"sxx": np.eye(2), "syx": np.eye(2), "syy": 2.0, "n": np.inf}, ": n is inf; expected an integer"),
    ],
)
def test_data_of_other_names_or_shapes(tmp_path, arrays, message):
    path = save(tmp_path / "data.npz", **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        fio.read_data(path)
    assert str(caught.value).startswith(str(path))


# Writing


def test_arrays_come_back_and_the_same_arrays_give_the_same_bytes(tmp_path, rng):
    arrays = {"W2": rng.standard_normal((3, 4)).astype(np.float32), "file": np.asfortranarray(np.eye(3)), "n": 3}
    fio.write_npz_atomic(tmp_path / "a.npz", arrays)
    fio.write_npz_atomic(tmp_path / "b.npz", arrays)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as read:
        assert list(read) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(read[name], array)
            assert read[name].dtype == np.asarray(array).dtype
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "b.npz"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, SystemExit, OSError])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "out.txt"
    fio.write_text_atomic(path, "old")
    with pytest.raises(failure), fio.atomic_file(path) as file:  # noqa: PT012
        file.write(b"half of the n")
        raise failure
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_a_failure_at_the_last_step_leaves_nothing(tmp_path, monkeypatch):
    def no_replace(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", no_replace)
    with pytest.raises(KeyboardInterrupt):
        fio.write_text_atomic(tmp_path / "out.txt", "new")
    assert os.listdir(tmp_path) == []


def test_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"b cannot be written to .*out\.npz"):
        fio.write_npz_atomic(tmp_path / "out.npz", {"a": np.eye(2), "b": np.array([{}], dtype=object)})
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no/out\.txt cannot be written: the directory .* does not exist"):
        fio.write_text_atomic(tmp_path / "no" / "out.txt", "text")
    with pytest.raises(IsADirectoryError, match="is a directory; expected the name of a file"):
        fio.write_text_atomic(tmp_path, "text")


def test_links_are_followed_and_permissions_kept(tmp_path):
    place, link = tmp_path / "place.txt", tmp_path / "link.txt"
    place.write_text("old")
    place.chmod(0o640)
    link.symlink_to(place)
    fio.write_text_atomic(link, "ψ")
    assert link.is_symlink()
    assert place.read_text(encoding="utf-8") == "ψ"
    assert stat.S_IMODE(place.stat().st_mode) == 0o640


def test_new_files_have_ordinary_permissions(tmp_path):
    (tmp_path / "plain").write_text("")
    fio.write_text_atomic(tmp_path / "out", "")
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_pipes_are_written_to_and_stay_pipes(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fio.write_text_atomic(path, "through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


# Skip links


@pytest.mark.parametrize(
    ("skip", "flags"),
    [
        (True, (True, True, True)),
        (False, (False, False, False)),
        ([True, False, True], (True, False, True)),
        ([False, False, False], (False, False, False)),
    ],
)
def test_booleans_called_skip_mark_skip_links(tmp_path, rng, skip, flags):
    matrices = layers(rng, 3, 3, 3, 3)
    arrays = {f"W{j}": W for j, W in enumerate(matrices, 1)}
    read = fio.read_model(save(tmp_path / "m.npz", skip=np.array(skip), step=np.array(7), **arrays))
    assert (read.skip, read.ignored) == (flags, ("step",))
    assert read.to_dict()["skip"] == list(flags)
    applied = [W + np.eye(3) * flag for W, flag in zip(matrices, flags, strict=True)]
    chain = read.chain()
    assert chain.skip == flags
    np.testing.assert_allclose(chain.product(), np.linalg.multi_dot(applied[::-1]), rtol=1e-12)


def test_skip_links_are_described_layer_by_layer(tmp_path, rng):
    W1, W2, W3 = layers(rng, 4, 3, 3, 3)
    path = save(tmp_path / "m.npz", W1=W1, W2=W2, b2=np.zeros(3), W3=W3, skip=np.array([False, True, True]))
    assert fio.read_model(path).describe().splitlines() == [
        f"{path}: 3 layers, applied in this order",
        "  1  W1  3 × 4 float64",
        "  2  W2  3 × 3 float64, bias b2, skip link",
        "  3  W3  3 × 3 float64, skip link",
    ]


@pytest.mark.parametrize("shape", [(1,), (3,), (2, 1), (0,)])
def test_as_many_skip_flags_as_layers(tmp_path, rng, shape):
    W1, W2 = layers(rng, 3, 3, 3)
    path = save(tmp_path / "m.npz", W1=W1, W2=W2, skip=np.ones(shape, dtype=bool))
    message = rf"m\.npz: skip has shape \({shape[0]},.*\); expected one flag, or one for each layer"
    with pytest.raises(ValueError, match=message):
        fio.read_model(path)


@pytest.mark.parametrize("skip", [np.array(1), np.ones(2), np.array(["yes", "no"]), np.array([1, 0], dtype=np.uint8)])
def test_skip_of_another_type_is_ignored(tmp_path, rng, skip):
    W1, W2 = layers(rng, 3, 3, 3)
    read = fio.read_model(save(tmp_path / "m.npz", W1=W1, W2=W2, skip=skip))
    assert (read.skip, read.ignored) == (None, ("skip",))
    assert read.describe().splitlines()[-1] == "  ignored: skip"
    np.testing.assert_allclose(read.chain().product(), W2 @ W1, rtol=1e-12)


def test_a_skip_link_needs_a_square_layer_and_names_it(tmp_path, rng):
    W1, W2 = layers(rng, 4, 3, 3)
    path = save(tmp_path / "m.npz", W1=W1, W2=W2, skip=np.array(True))
    with pytest.raises(ValueError, match=r"m\.npz: .*W1 has shape \(3, 4\); a skip link needs a square one"):
        fio.read_model(path).chain()
