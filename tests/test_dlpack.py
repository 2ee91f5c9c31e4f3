"""Arrays of other libraries: read in place through DLPack, refused by name where the host cannot read them.

The producers below wrap NumPy arrays and offer nothing but the protocol; JAX, where it is installed, is tested itself.
"""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import pytest

import flatcore as fc
from flatcore._checks import as_float_array, as_numpy


class Producer:
    """The protocol alone, in its present version."""

    def __init__(self, array, device=(1, 0)):
        self._array, self._device = np.asarray(array), device

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._device


class OldProducer(Producer):
    """The protocol before it had versions."""

    def __dlpack__(self, stream=None):
        return self._array.__dlpack__()


class Convertible(Producer):
    """What NumPy cannot import comes by the array's own conversion, as JAX's bfloat16 does."""

    def __array__(self, dtype=None, copy=None):
        return self._array


KINDS = [Producer, OldProducer, Convertible]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i4", "u1", "?"])
@pytest.mark.parametrize("layout", ["rows", "columns", "strided", "empty"])
def test_arrays_are_read_in_place(kind, dtype, layout):
    whole = np.arange(24).reshape(4, 6).astype(dtype)
    array = {"rows": whole, "columns": whole.T, "strided": whole[::2, 1::2], "empty": whole[:0]}[layout]
    seen = as_numpy("x", kind(array))
    assert seen.dtype == array.dtype
    np.testing.assert_array_equal(seen, array)
    assert seen.ctypes.data == array.ctypes.data
    assert seen.strides == array.strides or not array.size


@pytest.mark.parametrize("kind", [Producer, Convertible])
def test_read_only_arrays(kind):
    array = np.arange(6.0).reshape(2, 3)
    array.flags.writeable = False
    seen = as_float_array("x", kind(array), 2)
    assert np.shares_memory(seen, array)
    assert not seen.flags.writeable


def test_bfloat16_by_the_arrays_own_conversion():
    array = np.arange(6.0).reshape(2, 3).astype(ml_dtypes.bfloat16)
    seen = as_float_array("x", Convertible(array), 2, keep_half=True)
    assert seen.dtype == ml_dtypes.bfloat16
    assert np.shares_memory(seen, array)
    assert as_float_array("x", Convertible(array), 2).dtype == np.float32
    with pytest.raises(ValueError, match=r"x is a Producer; expected an array that NumPy reads through DLPack \("):
        as_numpy("x", Producer(array))


@pytest.mark.parametrize(
    ("device", "place"), [((2, 1), "cuda:1"), ((10, 0), "rocm:0"), ((8, 0), "metal:0"), ((99, 3), "device type 99:3")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_what_the_host_cannot_read_is_refused_by_name(kind, device, place):
    good, bad = np.eye(3), kind(np.eye(3), device)
    said = rf"lives on {place}; expected host memory \(use jax.device_get, or CuPy's .get\(\)\)"
    calls = {
        r"weights\[2\]": lambda: fc.LinearChain([good, good, bad]),
        r"biases\[0\]": lambda: fc.LinearChain([good], [bad]),
        "matrix": lambda: fc.top_svd(bad, 1),
        "operator": lambda: fc.eigsh(bad, 1),
        "targets": lambda: fc.QuadraticLoss(good, bad),
        "v0": lambda: fc.eigsh(good, 1, v0=bad),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=f"^{name} {said}"):
            call()


@pytest.mark.parametrize("device", [(3, 0), (11, 0), (13, 0)])
def test_pinned_and_managed_memory_is_the_hosts(device):
    array = np.eye(3)
    assert np.shares_memory(as_numpy("x", Producer(array, device)), array)


def test_other_types_are_refused_as_numpys_are():
    with pytest.raises(ValueError, match=re.escape("weights[0] is complex (complex128); expected real numbers")):
        fc.LinearChain([Producer(np.eye(2) * 1j)])
    with pytest.raises(ValueError, match=re.escape("weights[0] has shape (2,); expected 2 dimensions")):
        fc.LinearChain([Producer(np.ones(2))])
    with pytest.raises(ValueError, match=re.escape("weights[0] contains nan at index (0, 1)")):
        fc.LinearChain([Producer([[1.0, np.nan]])])


@pytest.fixture(params=["producer", "jax"])
def of_numpy(request):
    """float32 arrays of another library."""
    if request.param == "producer":
        return Producer
    return pytest.importorskip("jax.numpy").asarray


def test_every_family_takes_them(rng, of_numpy):
    f32 = np.float32
    weights = [rng.standard_normal((5, 4)).astype(f32), rng.standard_normal((3, 5)).astype(f32)]
    X, Y = rng.standard_normal((20, 4)).astype(f32), rng.standard_normal((20, 3)).astype(f32)
    labels = rng.integers(0, 3, 20).astype(np.int32)
    ours, theirs = fc.LinearChain(weights), fc.LinearChain([of_numpy(W) for W in weights])
    np.testing.assert_array_equal(theirs.to_vector(), ours.to_vector())
    for loss, other in [
        (fc.QuadraticLoss(X, Y), fc.QuadraticLoss(of_numpy(X), of_numpy(Y))),
        (fc.QuadraticLoss(X, Y), fc.QuadraticLoss.from_batches([(of_numpy(X[:7]), of_numpy(Y[:7])), (X[7:], Y[7:])])),
        (fc.CrossEntropyLoss(X, labels), fc.CrossEntropyLoss(of_numpy(X), of_numpy(labels))),
    ]:
        expected = fc.sharpness(ours, loss, 2).values
        np.testing.assert_allclose(fc.sharpness(theirs, other, 2).values, expected, rtol=1e-5)
    H = fc.Hessian(ours, fc.QuadraticLoss(X, Y))
    v = rng.standard_normal(ours.num_parameters).astype(f32)
    np.testing.assert_array_equal(H @ of_numpy(v), H @ v)
    S = X.T @ X
    np.testing.assert_array_equal(fc.eigsh(of_numpy(S), 2).values, fc.eigsh(S, 2).values)
    np.testing.assert_array_equal(fc.top_svd(of_numpy(X), 2).s, fc.top_svd(X, 2).s)
    stacks = [np.stack([W, 2 * W]) for W in weights]
    many = fc.analyze_many([of_numpy(W) for W in stacks], fc.QuadraticLoss(X, Y))
    np.testing.assert_array_equal(many.values, fc.analyze_many(stacks, fc.QuadraticLoss(X, Y)).values)


def test_committees_take_them(rng, of_numpy):
    model = fc.wfm.Committee(15, 3)
    inputs, labels = rng.choice([-1, 1], (10, 15)).astype(np.int8), rng.choice([-1, 1], 10).astype(np.int8)
    patterns = fc.wfm.Patterns.from_arrays(model, of_numpy(inputs), of_numpy(labels))
    np.testing.assert_array_equal(patterns.words, fc.wfm.Patterns.from_arrays(model, inputs, labels).words)
    weights = rng.choice([-1, 1], model.shape).astype(np.int8)
    assert fc.wfm.errors(model, of_numpy(weights), patterns) == fc.wfm.errors(model, weights, patterns)


def test_jax_arrays_are_read_in_place():
    jnp = pytest.importorskip("jax.numpy")
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        W = jnp.ones((3, 4), dtype)
        assert fc._checks.as_float_array("W", W, 2, keep_half=True).ctypes.data == W.unsafe_buffer_pointer()
    weights = jnp.stack([jnp.eye(3), 2 * jnp.eye(3)])  # one array, its leading axis the layers
    assert fc.LinearChain(weights).depth == 2
    with pytest.raises(ValueError, match="complex"):
        fc.LinearChain([jnp.eye(2) * 1j])
