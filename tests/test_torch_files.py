"""State dicts as files: what is read, and what every other file is told; nothing in them is run."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from flatcore import io as fio
from flatcore.torch._files import read_state_dict

CALLED = []


def call(what):
    CALLED.append(what)


class Evil:
    def __reduce__(self):
        return call, ("run",)


def linear_net(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 6, bias=False), nn.Linear(6, 3)).to(dtype)


def saved(path, value, **options):
    torch.save(value, path, **options)
    return path


@pytest.mark.parametrize("name", ["m.pt", "m.pth", "M.PT"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_is_read_bit_for_bit(tmp_path, name, zipped):
    net = linear_net()
    path = saved(tmp_path / name, net.state_dict(), _use_new_zipfile_serialization=zipped)
    read = fio.read_model(path)
    assert read.weight_names == ("0.weight", "1.weight", "2.weight")
    assert read.bias_names == ("0.bias", None, "2.bias")
    for layer, W in zip(net, read.weights, strict=True):
        np.testing.assert_array_equal(W, layer.weight.detach().numpy())
    x = torch.randn(7, 5)
    phi = read.chain().product()
    np.testing.assert_allclose(x.numpy() @ phi[:, :5].T + phi[:, 5], net(x).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert "neither activations" in read.describe()


def test_layers_are_in_natural_order(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(*[nn.Linear(3, 3, bias=False) for _ in range(11)])
    state = dict(sorted(net.state_dict().items()))  # 10 before 2
    read = fio.read_model(saved(tmp_path / "m.pt", state))
    assert read.weight_names == tuple(f"{j}.weight" for j in range(11))


@pytest.mark.parametrize(
    ("wrap", "note"),
    [
        (lambda s: {"state_dict": s, "epoch": 3}, "the state dict is that under 'state_dict', beside epoch"),
        (lambda s: {"model": s, "optimizer": {"state": {}}}, "that under 'model', beside optimizer"),
        (lambda s: {"model": {"state_dict": s}}, "that under 'state_dict'"),
        (
            lambda s: {"epoch": torch.tensor(3), "loss": torch.tensor(0.3), "model_state_dict": s},
            "that under 'model_state_dict', beside epoch, loss",
        ),
        (lambda s: {f"module.{name}": value for name, value in s.items()}, "without the prefix module."),
        (lambda s: {f"_orig_mod.{name}": value for name, value in s.items()}, "without the prefix _orig_mod."),
        (lambda s: {f"_orig_mod.module.{name}": value for name, value in s.items()}, "without the prefix module."),
    ],
)
def test_containers_and_prefixes_are_taken_off_and_it_is_said(tmp_path, wrap, note):
    read = fio.read_model(saved(tmp_path / "m.pt", wrap(linear_net().state_dict())))
    assert read.weight_names == ("0.weight", "1.weight", "2.weight")
    assert any(note in text for text in read.notes)
    assert note in read.describe()
    assert read.to_dict()["notes"] == list(read.notes)


def test_a_matrix_beside_a_container_is_a_layer(tmp_path):
    path = saved(tmp_path / "m.pt", {"weight": torch.ones(2, 2), "model": {"a": torch.ones(3, 3)}})
    assert list(read_state_dict(path).arrays) == ["weight"]


def pruned(layer):
    return nn.utils.prune.l1_unstructured(layer, "weight", 0.5)


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("parametrize", "parts"),
    [
        (nn.utils.parametrizations.weight_norm, 2),
        (nn.utils.parametrizations.spectral_norm, 3),
        (nn.utils.parametrizations.orthogonal, 2),
        (nn.utils.weight_norm, 2),
        (nn.utils.spectral_norm, 3),
        (pruned, 2),
    ],
)
def test_parametrized_weights_are_told_and_no_arrays(tmp_path, parametrize, parts):
    net = nn.Sequential(nn.Linear(4, 4), parametrize(nn.Linear(4, 4)), nn.Linear(4, 4))
    path = saved(tmp_path / "m.pt", net.state_dict())
    read = read_state_dict(path)
    assert list(read.arrays) == ["0.bias", "0.weight", "1.bias", "2.bias", "2.weight"]
    assert list(read.parametrized) == ["1.weight"]
    assert len(read.parametrized["1.weight"]) == parts
    assert read.ignored == ()
    assert "1.weight: parametrized, computed by its module from 1." in read.describe()
    assert list(read.to_dict()["parametrized"]) == ["1.weight"]
    with pytest.raises(fio.NotAChainError, match=r"1\.weight: parametrized, .* as package\.module:name"):
        fio.read_model(path)


def test_names_that_only_look_parametrized_are_arrays(tmp_path):
    state = {"a_g": torch.ones(3, 2), "a_v": torch.ones(2, 2), "b_orig": torch.ones(2, 2)}
    assert list(read_state_dict(saved(tmp_path / "m.pt", state)).arrays) == list(state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_precisions_are_kept(tmp_path, dtype):
    pytest.importorskip("ml_dtypes")
    read = read_state_dict(saved(tmp_path / "m.pt", linear_net(dtype).state_dict()))
    assert {array.dtype.name for array in read.arrays.values()} == {str(dtype).removeprefix("torch.")}


def test_what_is_no_dense_array_is_named(tmp_path):
    state = {
        "0.weight": torch.ones(2, 2),
        "steps": torch.tensor(3),
        "sparse": torch.eye(2).to_sparse(),
        "extra": {"a": 1},
    }
    assert read_state_dict(saved(tmp_path / "m.pt", state)).ignored == ("steps", "sparse", "extra")


def test_tied_tensors_are_told(tmp_path):
    shared = torch.ones(3, 3)
    path = saved(tmp_path / "m.pt", {"0.weight": shared, "1.weight": shared, "2.weight": shared.clone()})
    assert read_state_dict(path).tied == {"1.weight": "0.weight"}
    assert "1.weight is the same tensor as 0.weight: the chain counts them as two" in fio.read_model(path).describe()


def test_convolutions_are_no_chain(tmp_path):
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 4), nn.Linear(4, 2))
    path = saved(tmp_path / "m.pt", net.state_dict())
    with pytest.raises(fio.NotAChainError, match=r"0\.weight has shape \(3, 2, 3, 3\); expected matrices"):
        fio.read_model(path)


def bad_files():
    net = linear_net()

    def truncated(path):
        whole = saved(path, net.state_dict()).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])

    def old_truncated(path):
        whole = saved(path, net.state_dict(), _use_new_zipfile_serialization=False).read_bytes()
        path.write_bytes(whole[:60])

    def renamed_npz(path):
        with open(path, "wb") as stream:
            np.savez(stream, a=np.ones(3))

    def pickled(path):
        path.write_bytes(pickle.dumps(Evil()))

    return {
        "module": (
            lambda p: saved(p, net),
            r"Python objects \(torch.nn.modules.container.Sequential\), which are never",
        ),
        "code": (lambda p: saved(p, {"0.weight": torch.ones(2, 2), "x": Evil()}), "Python objects.*never unpickled"),
        "old code": (lambda p: saved(p, Evil(), _use_new_zipfile_serialization=False), "never unpickled"),
        "pickle": (pickled, "is a pickle file, which is never opened"),
        "truncated": (truncated, "is truncated, corrupt or no PyTorch file"),
        "old truncated": (old_truncated, "is truncated, corrupt or no PyTorch file|never unpickled"),
        "empty": (lambda p: p.write_bytes(b""), "is an empty file"),
        "text": (lambda p: p.write_text("hello"), "is a file that begins with b'hello'"),
        "npz": (renamed_npz, "is truncated, corrupt or no PyTorch file"),
        "directory": (lambda p: p.mkdir(), "is a directory"),
        "list": (lambda p: saved(p, [torch.ones(2, 2)]), "holds a list"),
        "tensor": (lambda p: saved(p, torch.ones(2, 2)), "holds a Tensor"),
        "numbers": (lambda p: saved(p, {"lr": 0.1, "epoch": 3}), "holds no state dict among lr, epoch"),
        "nothing": (lambda p: saved(p, {}), "holds no state dict among nothing"),
        "several": (
            lambda p: saved(p, {"model": net.state_dict(), "net": net.state_dict()}),
            r"several state dicts \(model, net\)",
        ),
        "integers": (lambda p: saved(p, {"a": torch.ones(2, 2, dtype=torch.int64)}), "holds no dense tensors"),
    }


@pytest.mark.parametrize("kind", list(bad_files()))
def test_every_other_file_is_refused_with_the_safe_way(tmp_path, kind):
    make, message = bad_files()[kind]
    make(tmp_path / "m.pt")
    CALLED.clear()
    with pytest.raises(ValueError, match=message) as caught:
        read_state_dict(tmp_path / "m.pt")
    assert str(tmp_path / "m.pt") in str(caught.value)
    assert "torch.save(model.state_dict(), path)" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not CALLED


def test_torchscript_is_refused(tmp_path):
    with open(tmp_path / "m.pt", "wb") as stream:  # what torch.jit.save writes is a zip file with constants.pkl
        torch.save(linear_net().state_dict(), stream)
    with zipfile.ZipFile(tmp_path / "m.pt", "a") as archive:
        archive.writestr("m/constants.pkl", b"")
    with pytest.raises(ValueError, match=r"TorchScript|no PyTorch file"):
        read_state_dict(tmp_path / "m.pt")


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"m\.pt does not exist; expected a PyTorch file"):
        read_state_dict(tmp_path / "m.pt")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "m.pt")
    with pytest.raises(ValueError, match="is no regular file"):
        read_state_dict(tmp_path / "m.pt")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_arrays_are_mapped_not_read(tmp_path):
    """A file of 64 MB: its tensors are mapped, so that resident memory does not grow by them until they are used."""
    path = saved(tmp_path / "m.pt", {"0.weight": torch.ones(4096, 4096)})
    before = resident()
    arrays = read_state_dict(path).arrays
    assert resident() - before < 32 * 2**20
    assert arrays["0.weight"].shape == (4096, 4096)
    assert float(arrays["0.weight"][-1, -1]) == 1.0


def resident():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
