"""Checkpoints: every format bit for bit, shards and folders, and files from strangers."""

import importlib
import io
import json
import os
import pickle
import random
import struct
import sys
import time
import zipfile
import zlib

import ml_dtypes
import numpy as np
import pytest
import torch
from checkpoint_files import (
    BROKEN,
    broken_headers,
    mutated_bytes,
    safetensors_bytes,
    save_safetensors,
    save_shards,
    with_header,
)

import flatcore as fc
import flatcore.torch  # registers the opener
from flatcore.io.checkpoints import precisions

opened = fc.io.open_checkpoint


def some_tensors(rng):
    return {
        "a.weight": rng.standard_normal((3, 4)).astype(np.float32),
        "a.bias": rng.standard_normal(3),
        "half": rng.standard_normal((2, 2, 2)).astype(np.float16),
        "steps": np.array(7),
        "flags": np.array([True, False, True]),
        "small": np.arange(-3, 3, dtype=np.int8),
        "none": np.empty((0, 4), np.float32),
        "pairs": np.array([1 + 2j, -1j], np.complex64),
    }


def assert_same(checkpoint, tensors):
    assert list(checkpoint) == list(tensors)
    for name, array in tensors.items():
        stored = checkpoint[name]
        assert (stored.name, stored.shape, stored.nbytes, stored.entries) == (
            name,
            array.shape,
            array.nbytes,
            array.size,
        )
        loaded = stored.load()
        assert loaded.dtype == array.dtype
        np.testing.assert_array_equal(loaded, array)


# Formats


def test_safetensors_are_read_bit_for_bit(tmp_path, rng):
    tensors = some_tensors(rng)
    path = save_safetensors(tmp_path / "m.safetensors", tensors, {"format": "pt"})
    with opened(path) as checkpoint:
        assert_same(checkpoint, tensors)
        assert (checkpoint.kind, checkpoint.files, checkpoint.metadata) == ("safetensors", (path,), {"format": "pt"})
        assert [t.dtype for t in checkpoint.values()] == ["F32", "F64", "F16", "I64", "BOOL", "I8", "F32", "C64"]
        loaded = checkpoint["a.weight"].load()
    np.testing.assert_array_equal(loaded, tensors["a.weight"])  # what was loaded stays
    assert not loaded.flags.writeable


def test_what_the_safetensors_package_writes_is_read(tmp_path, rng):
    package = pytest.importorskip("safetensors.numpy")
    tensors = some_tensors(rng)
    package.save_file(tensors, tmp_path / "m.safetensors", {"by": "the package"})
    with opened(tmp_path / "m.safetensors") as checkpoint:
        assert checkpoint.keys() == tensors.keys()
        for name, array in tensors.items():
            np.testing.assert_array_equal(checkpoint[name].load(), array)
        assert checkpoint.metadata == {"by": "the package"}


def test_what_is_written_here_the_safetensors_package_reads(tmp_path, rng):
    package = pytest.importorskip("safetensors.numpy")
    tensors = some_tensors(rng)
    for name, array in package.load(safetensors_bytes(tensors)).items():
        np.testing.assert_array_equal(array, tensors[name])


def test_npz_is_read_stored_and_deflated(tmp_path, rng):
    tensors = some_tensors(rng) | {"fortran": np.asfortranarray(rng.standard_normal((3, 5)))}
    for save, mapped in ((np.savez, True), (np.savez_compressed, False)):
        save(tmp_path / "m.npz", **tensors)
        with opened(tmp_path / "m.npz") as checkpoint:
            assert_same(checkpoint, tensors)
            assert isinstance(checkpoint["fortran"].load().base, np.memmap) == mapped


@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_is_one_tensor_called_as_the_file(tmp_path, rng, order):
    array = np.asarray(rng.standard_normal((3, 5)), order=order)
    np.save(tmp_path / "layer.npy", array)
    with opened(tmp_path / "layer.npy") as checkpoint:
        assert_same(checkpoint, {"layer": array})


def test_arrays_that_are_no_numbers_are_told(tmp_path):
    np.savez(tmp_path / "m.npz", W=np.eye(2), note=np.array("hello"), half=np.ones(2, ml_dtypes.bfloat16))
    with zipfile.ZipFile(tmp_path / "m.npz", "a") as file:
        file.writestr("README", "hello")
    with opened(tmp_path / "m.npz") as checkpoint:
        assert list(checkpoint) == ["W"]
        assert checkpoint.others.keys() == {"note", "half", "README"}
        assert checkpoint.others["README"] == "no array"
        assert "<U5" in checkpoint.others["note"]
    np.save(tmp_path / "text.npy", np.array("hello"))
    assert "<U5" in opened(tmp_path / "text.npy").others["text"]


@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_keep_every_precision(tmp_path, zipped):
    state = {
        "weight": torch.randn(3, 4, dtype=torch.float64),
        "half": torch.randn(4, 3).to(torch.bfloat16).T,
        "quarter": torch.randn(3, 2).to(torch.float8_e4m3fn),
        "eighth": torch.randn(3, 2).to(torch.float8_e5m2),
        "steps": torch.tensor(3),
        "flags": torch.tensor([True, False]),
        "tied": torch.zeros(3, 4),
        "sparse": torch.eye(3).to_sparse(),
        "name": "hello",
    }
    state["tied again"] = state["tied"]
    if not zipped:  # the old format has none of these
        del state["quarter"], state["eighth"]
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    with opened(tmp_path / "m.pt") as checkpoint:
        names = {"weight": "F64", "half": "BF16", "steps": "I64", "flags": "BOOL", "tied": "F32", "tied again": "F32"}
        names |= {"quarter": "F8_E4M3", "eighth": "F8_E5M2"} if zipped else {}
        assert {name: tensor.dtype for name, tensor in checkpoint.items()} == names
        assert checkpoint.others.keys() == {"sparse", "name"}
        assert checkpoint.tied == {"tied again": "tied"}
        assert "under 'state_dict', beside epoch" in checkpoint.notes[0]
        for name in names:
            loaded, tensor = checkpoint[name].load(), state[name]
            assert not loaded.flags.writeable
            np.testing.assert_array_equal(loaded.astype(np.float64), tensor.double().numpy())
        assert checkpoint["half"].load().dtype == ml_dtypes.bfloat16


# Precisions


@pytest.mark.parametrize(
    ("name", "dtype", "other"),
    [
        ("F8_E4M3", torch.float8_e4m3fn, ml_dtypes.float8_e4m3fn),
        ("F8_E5M2", torch.float8_e5m2, ml_dtypes.float8_e5m2),
    ],
)
def test_all_256_values_of_float8_are_those_of_torch_and_of_ml_dtypes(tmp_path, name, dtype, other):
    stored = np.arange(256, dtype=np.uint8)
    path = save_safetensors(tmp_path / "m.safetensors", {"x": (name, (16, 16), stored.tobytes())})
    loaded = opened(path)["x"].load()
    assert loaded.dtype == np.float16
    expected = torch.from_numpy(stored).view(dtype).float().numpy().reshape(16, 16)
    np.testing.assert_array_equal(loaded, expected)
    np.testing.assert_array_equal(np.signbit(loaded), np.signbit(expected))
    np.testing.assert_array_equal(loaded, stored.view(other).astype(np.float32).reshape(16, 16))


@pytest.mark.parametrize("installed", [True, False])
def test_bfloat16_is_mapped_or_widened(tmp_path, rng, monkeypatch, installed):
    numbers = rng.standard_normal((4, 5)).astype(ml_dtypes.bfloat16)
    path = save_safetensors(tmp_path / "m.safetensors", {"x": ("BF16", (4, 5), numbers.tobytes())})
    if not installed:
        monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    loaded = opened(path)["x"].load()
    assert loaded.dtype == (ml_dtypes.bfloat16 if installed else np.float32)
    np.testing.assert_array_equal(loaded.astype(np.float32), numbers.astype(np.float32))
    assert fc.top_svd(loaded, k=1).s[0] == pytest.approx(np.linalg.norm(numbers.astype(float), 2), rel=1e-6)


def test_formats_that_are_not_read_are_listed_and_say_so(tmp_path):
    path = save_safetensors(tmp_path / "m.safetensors", {"x": ("F4", (3, 2), b"abc"), "y": ("F8_E8M0", (2,), b"ab")})
    checkpoint = opened(path)
    assert [(t.dtype, t.shape, t.nbytes) for t in checkpoint.values()] == [("F4", (3, 2), 3), ("F8_E8M0", (2,), 2)]
    with pytest.raises(
        ValueError, match=r"m\.safetensors: 'x': entries of format F4 are not read; expected one of BOOL"
    ):
        checkpoint["x"].load()


def test_copies_that_do_not_fit_are_refused_with_file_and_name(tmp_path, monkeypatch):
    path = save_safetensors(tmp_path / "m.safetensors", {"x": ("F8_E4M3", (2,), b"ab")})

    def full(what, needed):
        raise MemoryError(f"{what} needs {needed} bytes")

    monkeypatch.setattr(precisions, "check_memory", full)
    with pytest.raises(MemoryError, match=r"m\.safetensors: 'x': a copy of F8_E4M3 entries needs 4 bytes"):
        opened(path)["x"].load()


def test_tensors_are_mapped_not_read(tmp_path):
    """A sparse file of 34 GB opens at once, and one of its tensors costs its own pages alone."""
    count = 1 << 33
    header = {
        "big": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]},
        "last": {"dtype": "F32", "shape": [4], "data_offsets": [4 * count, 4 * count + 16]},
    }
    path = tmp_path / "m.safetensors"
    path.write_bytes(with_header(header))
    start = path.stat().st_size
    try:
        os.truncate(path, start + 4 * count)
        with open(path, "ab") as stream:
            stream.write(np.arange(4, dtype=np.float32).tobytes())
    except OSError:
        pytest.skip("no sparse files here")
    checkpoint = opened(path)
    assert checkpoint["last"].load().tolist() == [0, 1, 2, 3]
    assert checkpoint["big"].load()[[0, -1]].tolist() == [0, 0]


# Shards and folders


def two_shards(rng):
    a, b = (rng.standard_normal((2, 3)).astype(np.float32) for _ in range(2))
    return {"model-00001-of-00002.safetensors": {"a": a}, "model-00002-of-00002.safetensors": {"b": b}}


def test_shards_are_one_checkpoint_by_their_folder_and_by_their_index(tmp_path, rng):
    shards = two_shards(rng)
    folder = save_shards(tmp_path / "model", shards)
    for path in (folder, folder / "model.safetensors.index.json"):
        with opened(path) as checkpoint:
            assert_same(checkpoint, {name: array for tensors in shards.values() for name, array in tensors.items()})
            assert checkpoint.kind == "safetensors, 2 shards"
            assert [file.name for file in checkpoint.files] == list(shards)
            assert checkpoint["b"].file.name == "model-00002-of-00002.safetensors"
            assert checkpoint.path == path
            assert not checkpoint.notes
            assert not checkpoint.others


def test_shards_of_pytorch(tmp_path):
    torch.save({"a": torch.ones(2, 2)}, tmp_path / "pytorch_model-1.bin")
    torch.save({"b": torch.zeros(2, 2)}, tmp_path / "pytorch_model-2.bin")
    weight_map = {"a": "pytorch_model-1.bin", "b": "pytorch_model-2.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with opened(tmp_path) as checkpoint:
        assert_same(checkpoint, {"a": np.ones((2, 2), np.float32), "b": np.zeros((2, 2), np.float32)})


def test_what_index_and_shards_disagree_about_is_told(tmp_path, rng):
    shards = two_shards(rng)
    first, second = shards
    shards[second]["extra"] = np.zeros(1)
    folder = save_shards(tmp_path / "model", shards, missing=first, b=first)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    del index["weight_map"]["extra"]
    index["weight_map"]["a"] = first
    (folder / "model.safetensors.index.json").write_text(
        json.dumps(index | {"weight_map": index["weight_map"] | {"c": second}})
    )
    with opened(folder) as checkpoint:
        assert set(checkpoint) == {"a", "b", "extra"}
        assert checkpoint.others == {}
        assert checkpoint.missing == {
            "missing": f"the index has it in {first!r}, which does not hold it",
            "c": f"the index has it in {second!r}, which does not hold it",
        }
        assert checkpoint.notes == (
            f"tensors where the index does not have them: 'b in {second}', 'extra in {second}'",
        )


def test_a_tensor_in_two_shards_is_that_of_the_index(tmp_path):
    one, two = np.ones(2), np.zeros(2)
    shards = {"x.safetensors": {"a": one}, "y.safetensors": {"a": two, "b": two}}
    folder = save_shards(tmp_path / "model", shards, a="x.safetensors")
    with opened(folder) as checkpoint:
        assert checkpoint["a"].load().tolist() == [1, 1]
        assert checkpoint.notes == ("tensors where the index does not have them: 'a in y.safetensors'",)


@pytest.mark.parametrize(
    ("names", "read", "unread"),
    [
        (["model.safetensors", "pytorch_model.bin", "config.json"], "model.safetensors", "'pytorch_model.bin'"),
        (["adapter_model.safetensors", "training_args.bin"], "adapter_model.safetensors", "'training_args.bin'"),
        (["weights.npz", "optimizer.pt"], "weights.npz", "'optimizer.pt'"),
        (["weights.npz", "notes.txt"], "weights.npz", None),
    ],
)
def test_the_usual_files_of_folders_are_found(tmp_path, names, read, unread):
    for name in names:
        (tmp_path / name).write_text("{}")
    np.savez(tmp_path / "w.zip.npz", a=np.ones(2))
    (tmp_path / read).write_bytes(
        (tmp_path / "w.zip.npz").read_bytes() if read.endswith("npz") else safetensors_bytes({"a": np.ones(2)})
    )
    (tmp_path / "w.zip.npz").unlink()
    with opened(tmp_path) as checkpoint:
        assert_same(checkpoint, {"a": np.ones(2)})
        assert checkpoint.files == (tmp_path / read,)
        assert checkpoint.notes == ((f"files of the folder that are not read: {unread}",) if unread else ())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds nothing; expected model.safetensors"),
        (["config.json"], "holds 'config.json'; expected model.safetensors"),
        (["a.safetensors", "b.safetensors"], "holds 'a.safetensors', 'b.safetensors'; expected"),
    ],
)
def test_folders_without_one_model(tmp_path, names, message):
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)


def test_links_of_hugging_faces_cache_are_followed(tmp_path):
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0f", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_safetensors(blobs / "abc", {"a": np.ones(2)})
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    assert list(opened(snapshot)) == ["a"]


@pytest.mark.parametrize("sharded", [True, False])
def test_links_out_of_the_folder_are_refused(tmp_path, sharded):
    outside = save_safetensors(tmp_path / "secret.safetensors", {"a": np.ones(2)})
    folder = save_shards(tmp_path / "model", {"x.safetensors": {"a": np.ones(2)}}) if sharded else tmp_path / "model"
    folder.mkdir(exist_ok=True)
    link = folder / ("x.safetensors" if sharded else "model.safetensors")
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    with pytest.raises(ValueError, match=r"is a link to .*secret.*; expected a file that lies in the folder"):
        opened(folder)


@pytest.mark.parametrize(
    "shard",
    ["../x.safetensors", "/etc/passwd", "/x.safetensors", "a/b.safetensors", "..", ".", "", "..\\x.safetensors",
     "C:x.safetensors", "x\0.safetensors", "\ud800.safetensors", "x.bin", "x", 7, None, ["x.safetensors"]],
)  # fmt: skip
def test_paths_of_an_index_stay_in_its_folder(tmp_path, shard):
    save_safetensors(tmp_path / "x.safetensors", {"a": np.ones(2)})
    folder = save_shards(tmp_path / "model", {"y.safetensors": {"b": np.ones(2)}}, a=shard)
    with pytest.raises(ValueError, match=r"index\.json: the shard of 'a' is .*; expected the plain name") as caught:
        opened(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no JSON object"),
        ("[]", r"is \[\]; expected a JSON object"),
        ("{}", "has weight_map None; expected the shard of each tensor"),
        ('{"weight_map": {}}', "has weight_map {}; expected"),
        ('{"weight_map": 3}', "has weight_map 3; expected"),
        ('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "'a' is there twice"),
    ],
)
def test_indices_that_are_none(tmp_path, text, message):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        opened(tmp_path)


def test_a_shard_that_is_missing(tmp_path):
    folder = save_shards(tmp_path / "model", {"x.safetensors": {"a": np.ones(2)}}, b="y.safetensors")
    with pytest.raises(FileNotFoundError, match=r"y\.safetensors does not exist"):
        opened(folder)


# Files from strangers


@pytest.mark.parametrize("kind", list(BROKEN))
def test_headers_that_their_files_do_not_bear_out(tmp_path, kind):
    content, message = BROKEN[kind]
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        opened(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


def test_names_that_would_steer_a_terminal_are_shown_escaped(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(with_header({"a\x1b[2J\n": 3}))
    with pytest.raises(ValueError, match=r"'a\\x1b\[2J\\n' is 3"):
        opened(path)


def test_a_file_that_has_shrunk_since_it_was_opened(tmp_path):
    path = save_safetensors(tmp_path / "m.safetensors", {"a": np.ones(4000)})
    checkpoint = opened(path)
    os.truncate(path, 500)
    with pytest.raises(ValueError, match=r"m\.safetensors has no \(4000,\) float64 at byte"):
        checkpoint["a"].load()


@pytest.mark.parametrize("name", ["m.safetensors", "m.npz", "m.npy", "m.pt", "m.onnx", "model.safetensors.index.json"])
def test_what_is_not_there_or_no_file(tmp_path, name):
    with pytest.raises(FileNotFoundError, match="does not exist; expected"):
        opened(tmp_path / name)
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match="is no regular file; expected"):
        opened(tmp_path / name)


class Evil:
    def __reduce__(self):
        return (importlib.import_module, ("this",))


@pytest.mark.parametrize("name", ["m.pkl", "m.pt", "m.bin", "m.npy", "m.npz", "m.safetensors"])
def test_pickles_are_refused_with_the_safe_way(tmp_path, name):
    sys.modules.pop("this", None)
    (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"pickle.*(expected|safe)|no safetensors file"):
        opened(tmp_path / name)
    assert "this" not in sys.modules


def test_objects_in_arrays_and_state_dicts_are_never_unpickled(tmp_path):
    sys.modules.pop("this", None)
    np.save(tmp_path / "m.npy", np.array([Evil()]), allow_pickle=True)
    np.savez(tmp_path / "m.npz", a=np.array([Evil()]))
    torch.save({"a": torch.ones(2, 2), "b": Evil()}, tmp_path / "m.pt")
    for name in ("m.npy", "m.npz", "m.pt"):
        with pytest.raises(ValueError, match=r"Python objects.*never unpickled"):
            opened(tmp_path / name)
    assert "this" not in sys.modules


def npy_header(shape, text=None):
    text = text or f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"


def zip_bomb(blocks):
    """An archive whose one array is `blocks` times 16 MB of zeros: one deflated block, again and again."""
    head, packer = npy_header((blocks << 21,)), zlib.compressobj(wbits=-15)
    packed = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    packed += (packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)) * blocks + packer.flush()
    stream, size = io.BytesIO(), len(head) + (blocks << 24)
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a.npy", packed)
    content = bytearray(stream.getvalue())
    for start, method in ((content.index(b"PK\1\2"), 10), (0, 8)):  # the directory's entry and the member's own
        struct.pack_into("<H", content, start + method, zipfile.ZIP_DEFLATED)
        struct.pack_into("<I", content, start + method + 14, size)
    return bytes(content), size


def test_zip_bombs_are_refused_by_their_declared_size(tmp_path):
    """2 GB of zeros in 2 MB, refused before any of it is inflated; what is small may be as dense."""
    content, size = zip_bomb(128)
    for name in ("m.npz", "m.pt"):
        (tmp_path / name).write_bytes(content)
        began = time.process_time()
        with pytest.raises(ValueError, match=f"has {len(content)} bytes and would inflate to {size}; expected at most"):
            opened(tmp_path / name)
        assert time.process_time() - began < 1  # inflating takes several seconds
    (tmp_path / "m.npz").write_bytes(zip_bomb(1)[0])
    assert opened(tmp_path / "m.npz")["a"].shape == (1 << 21,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is an empty file"),
        (b"hello", "begins with b'hello'"),
        (b"\x93NUMPY", "truncated or corrupt"),
        (b"\x93NUMPY\x09\x00\x00\x00", "array format .* is not supported"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "the header's length is 4294967295; expected at most 10000"),
        (npy_header((2,)) + bytes(15), r"bytes; expected \d+ for shape \(2,\)"),
        (npy_header((2,)) + bytes(17), r"bytes; expected \d+ for shape \(2,\)"),
        (npy_header((-2,)), r"the shape is \(-2,\)"),
        (npy_header((10**30,)), "bytes; expected 8"),
        (npy_header((1,) * 33), "at most 32 extents"),
        (npy_header((), "(" * 9000), "truncated or corrupt"),
        (npy_header((), "__import__('this')"), "truncated or corrupt"),
    ],
)
def test_npy_headers_that_are_none(tmp_path, content, message):
    path = tmp_path / "m.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        opened(path)
    assert str(path) in str(caught.value)
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as file:
        file.writestr("a.npy", content)
    with pytest.raises(ValueError, match=r"m\.npz"):
        opened(tmp_path / "m.npz")


def test_a_pytorch_file_without_its_opener_says_what_to_do(tmp_path, monkeypatch):
    from flatcore.io.checkpoints import openers

    torch.save({"a": torch.ones(2, 2)}, tmp_path / "m.pt")
    monkeypatch.delitem(openers._openers, ".pt")
    with pytest.raises(ValueError, match=r"expected import flatcore\.torch before it"):
        opened(tmp_path / "m.pt")


# Ten thousand broken headers


def refusal(path, content):
    """What a file with this content is refused with; empty where it is not, and then holds what its header says."""
    path.write_bytes(content)
    try:
        with opened(path) as checkpoint:
            for tensor in checkpoint.values():
                assert tensor.dtype == "F4" or tensor.load().shape == tensor.shape
            assert path.suffix == ".npz" or sum(tensor.nbytes for tensor in checkpoint.values()) <= len(content)
    except ValueError as error:
        return str(error)
    return ""


def test_ten_thousand_broken_headers_are_refused_or_harmless(tmp_path):
    path, began = tmp_path / "m.safetensors", time.process_time()
    messages = [message for content in broken_headers(10_000) if (message := refusal(path, content))]
    assert len(messages) > 7000
    for message in messages:
        assert str(path) in message
        assert "\n" not in message
        assert len(message) < 1000
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("m.npy", lambda stream: np.save(stream, np.arange(6.0).reshape(2, 3))),
        ("m.npz", lambda stream: np.savez(stream, np.arange(6.0).reshape(2, 3))),
        ("m.pt", lambda stream: torch.save({"a": torch.ones(2, 3, dtype=torch.bfloat16)}, stream)),
    ],
)
def test_a_thousand_damaged_arrays_are_refused_or_harmless(tmp_path, name, save):
    random_, stream = random.Random(5), io.BytesIO()
    save(stream)
    for _ in range(1000):
        message = refusal(tmp_path / name, mutated_bytes(random_, stream.getvalue()))
        assert not message or str(tmp_path / name) in message
