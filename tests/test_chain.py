"""LinearChain: views without copies, types, parameter order, and errors that name the layer."""

import numpy as np
import pytest
import torch
from hypothesis import given
from oracles import cases, make_case, make_loss, relative_error

import flatcore as fc


def products(chain, loss):
    H = fc.Hessian(chain, loss)
    return H @ np.random.default_rng(0).standard_normal((H.shape[0], 2))


def stored_variants(W, tmp_path):
    """The same matrix in every layout an array can have, and whether the chain may read it in place."""
    rows, cols = W.shape
    yield "C", W.copy(), True
    yield "Fortran", np.asfortranarray(W), True
    padded = np.zeros((rows + 3, cols + 5))
    padded[:rows, :cols] = W
    yield "rows of a wider array", padded[:rows, :cols], True
    wide = np.zeros((2 * rows, cols))
    wide[::2] = W
    yield "every second row", wide[::2], True
    tall = np.zeros((rows, 2 * cols))
    tall[:, ::2] = W
    yield "every second column", tall[:, ::2], False
    yield "rows backwards", W[::-1].copy()[::-1], False
    yield "columns backwards", W[:, ::-1].copy()[:, ::-1], False
    frozen = W.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen, True
    np.save(tmp_path / "W.npy", W)
    yield "memory-mapped", np.load(tmp_path / "W.npy", mmap_mode="r"), True
    yield "big-endian", W.astype(">f8"), False
    buffer = bytearray(1) + W.tobytes()
    yield "unaligned", np.frombuffer(buffer, np.float64, offset=1).reshape(W.shape), False
    yield "nested lists", W.tolist(), False


@pytest.mark.parametrize("shape", [(4, 5), (4, 1), (1, 4), (1, 1)])
def test_every_layout_is_the_same_matrix(shape, tmp_path):
    W = np.random.default_rng(0).standard_normal(shape)
    last = np.random.default_rng(1).standard_normal((3, shape[0]))
    loss = fc.QuadraticLoss(np.random.default_rng(2).standard_normal((9, shape[1])), np.ones((9, 3)))
    want = products(fc.LinearChain([W, last]), loss)
    for name, given_W, in_place in stored_variants(W, tmp_path):
        chain = fc.LinearChain([given_W, last])
        np.testing.assert_array_equal(chain.weights[0], W, err_msg=name)
        assert not chain.weights[0].flags.writeable
        if in_place:
            assert np.shares_memory(chain.weights[0], given_W), name
        # the sums may be taken in another order: rounding only
        assert relative_error(products(chain, loss), want) <= 1e-13, name


def test_zero_strides():
    chain = fc.LinearChain([np.broadcast_to(np.arange(4.0), (3, 4)), np.broadcast_to(2.0, (2, 3))])
    np.testing.assert_allclose(chain.product(), np.tile(6.0 * np.arange(4.0), (2, 1)))


def test_strided_biases():
    b = np.arange(6.0)
    chain = fc.LinearChain([np.ones((3, 2)), np.eye(3)], [b[::2], b[::-2]])
    np.testing.assert_allclose(chain.product()[:, -1], b[::2] + b[::-2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_memory_is_shared(dtype):
    weights = [torch.nn.Parameter(torch.randn(3, 4, dtype=dtype)), torch.randn(2, 3, dtype=dtype)]
    bias = torch.nn.Parameter(torch.zeros(3, dtype=dtype))
    chain = fc.LinearChain(weights, [bias, None])
    for stored, tensor in zip(chain.weights, weights, strict=True):
        assert np.shares_memory(stored, tensor.detach().numpy())
    assert np.shares_memory(chain.biases[0], bias.detach().numpy())
    transposed = torch.randn(3, 2, dtype=dtype)
    assert np.shares_memory(fc.LinearChain([transposed.T]).weights[0], transposed.numpy())


def test_inference_tensors():
    with torch.inference_mode():
        W = torch.ones(2, 3)
    np.testing.assert_array_equal(fc.LinearChain([W]).product(), np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    ("weights", "dtype"),
    [
        ([np.ones((2, 2), np.float32)] * 2, np.float32),
        ([np.ones((2, 2), np.float64)] * 2, np.float64),
        ([np.ones((2, 2), np.float32), np.ones((2, 2))], np.float64),
        ([np.ones((2, 2), np.int64)], np.float64),
        ([np.ones((2, 2), bool)], np.float64),
        ([np.ones((2, 2), np.float16)], np.float32),
        ([np.ones((2, 2), np.longdouble)], np.float64),
        ([torch.ones(2, 2, dtype=torch.float16)], np.float32),
        ([torch.ones(2, 2, dtype=torch.bfloat16)], np.float32),
        ([torch.ones(2, 2, dtype=torch.int32)], np.float64),
        ([[[1, 1], [1, 1]]], np.float64),
    ],
)
def test_data_types(weights, dtype):
    chain = fc.LinearChain(weights)
    assert chain.dtype == dtype
    assert chain.product().dtype == chain.to_vector().dtype == dtype
    np.testing.assert_array_equal(chain.weights[0], np.ones((2, 2)))


def test_ml_dtypes_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    chain = fc.LinearChain([np.array([[1.5, -2.0]], dtype=ml_dtypes.bfloat16)])
    assert chain.dtype == np.float32
    np.testing.assert_array_equal(chain.weights[0], [[1.5, -2.0]])


@given(case=cases(5))
def test_product_is_the_forward_pass(case):
    chain = case.chain()
    assert relative_error(chain.product(), case.end_to_end(case.theta()).numpy(), 1.0) <= 1e-11
    assert chain.product().flags.c_contiguous
    assert chain.depth == len(case.weights)
    assert chain.dims == (case.d_in, *(W.shape[0] for W in case.weights))
    assert chain.num_inputs == case.d_in + case.has_biases
    assert chain.has_biases == case.has_biases


@given(case=cases(5))
def test_parameter_vectors(case):
    chain, theta = case.chain(), case.theta().numpy()
    np.testing.assert_array_equal(chain.to_vector(), theta)
    assert chain.num_parameters == len(theta)
    other = chain.with_vector(theta + 1.0)
    np.testing.assert_array_equal(other.to_vector(), theta + 1.0)
    assert other.skip == chain.skip
    assert [b is None for b in other.biases] == [b is None for b in chain.biases]
    shapes = [block.shape for block in chain.blocks(theta)]
    want = [a.shape for pair in zip(case.weights, case.biases, strict=True) for a in pair if a is not None]
    assert shapes == want


def test_order_is_that_of_torch_parameters():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 5), torch.nn.Linear(5, 2))
    chain = fc.LinearChain([layer.weight for layer in model], [layer.bias for layer in model])
    vector = torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
    np.testing.assert_array_equal(chain.to_vector(), vector)


def test_float32_product_is_summed_in_float64():
    """Entries cancel: float32 partial products would leave an error of about 1e-7 of 1e4."""
    rng = np.random.default_rng(0)
    A, B = (100 * rng.standard_normal((50, 50)).astype(np.float32) for _ in range(2))
    chain = fc.LinearChain([A, B])
    assert chain.product().dtype == np.float32
    np.testing.assert_allclose(chain.product(), B.astype(float) @ A.astype(float), rtol=1e-6)


def test_repr():
    assert repr(make_case((3, 2), 0).chain()) == "LinearChain(3 → 2, float64, 6 parameters)"
    chain = make_case((3, 3, 2), 0, True, [True, False]).chain(np.float32)
    assert repr(chain) == "LinearChain(3 → 3 → 2, float32, biases, skip links, 20 parameters)"


def test_weights_are_read_only():
    W = np.eye(2)
    chain = fc.LinearChain([W], [np.zeros(2)])
    with pytest.raises(ValueError, match="read-only"):
        chain.weights[0][0, 0] = 2.0
    with pytest.raises(ValueError, match="read-only"):
        chain.biases[0][0] = 2.0
    W[0, 0] = 2.0  # the caller's array is untouched by that
    assert chain.product()[0, 0] == 2.0


E32 = np.eye(3, 2)
E33 = np.eye(3)


def spoiled(value, shape=(3, 3), at=(1, 2), dtype=np.float64):
    out = np.ones(shape, dtype)
    out[at] = value
    return out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "weights is empty; expected at least one matrix"),
        ((3.0,), "weights is a float; expected a sequence of matrices"),
        (([E33, np.ones((10, 5))],), r"weights\[1\] has shape \(10, 5\); its columns must match weights\[0\]'s 3 rows"),
        (([E33, E33, E32],), r"weights\[2\] has shape \(3, 2\); its columns must match weights\[1\]'s 3 rows"),
        (([E33, np.ones(3)],), r"weights\[1\] has shape \(3,\); expected 2 dimensions"),
        (([np.ones((3, 3, 3))],), r"weights\[0\] has shape \(3, 3, 3\); expected 2 dimensions"),
        (([E33, spoiled(np.nan)],), r"weights\[1\] contains nan at index \(1, 2\); expected finite numbers"),
        (([spoiled(-np.inf)],), r"weights\[0\] contains -inf at index \(1, 2\); expected finite numbers"),
        (([spoiled(np.nan, dtype=np.float16)],), r"weights\[0\] contains nan at index \(1, 2\)"),
        (([spoiled(np.inf, (2000, 3000), (1999, 7))],), r"weights\[0\] contains inf at index \(1999, 7\)"),
        (([np.ones((3, 0))],), r"weights\[0\] has shape \(3, 0\); expected at least one entry"),
        (([np.ones((0, 3))],), r"weights\[0\] has shape \(0, 3\); expected at least one entry"),
        (([E33, E33 * 1j],), r"weights\[1\] is complex \(complex128\); expected real numbers"),
        (([torch.ones(2, 2, dtype=torch.complex64)],), r"weights\[0\] is complex \(complex64\)"),
        (([np.array([["a"]])],), r"weights\[0\] has dtype <U1; expected real numbers"),
        (([[[1.0, 2.0], [3.0]]],), r"weights\[0\] is no array"),
        (([torch.ones(2, 2, device="meta")],), r"weights\[0\] lives on meta; expected a CPU tensor"),
        (([E33, E33], [None]), "biases has 1 entries; expected one for each of 2 layers"),
        (([E33, E33], [None, np.ones(4)]), r"biases\[1\] has shape \(4,\); expected \(3,\)"),
        (([E33, E33], [np.ones((3, 1)), None]), r"biases\[0\] has shape \(3, 1\); expected 1 dimension$"),
        (([E33], [spoiled(np.nan, 3, 2)]), r"biases\[0\] contains nan at index \(2\)"),
        (([E33], [np.ones(3) * 1j]), r"biases\[0\] is complex"),
        (([E33, E32.T], None, True), r"skip\[1\] is True but weights\[1\] has shape \(2, 3\); a skip link needs a squ"),
        (([E33, E33], None, [True]), "skip has 1 entries; expected one for each of 2 layers"),
        (([E33, E33], None, [True, 1]), r"skip\[1\] is 1; expected True or False"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        fc.LinearChain(*arguments)


def test_bad_vectors():
    chain = make_case((3, 2), 0).chain()
    with pytest.raises(ValueError, match=r"v has shape \(7,\); expected \(6,\)"):
        chain.with_vector(np.ones(7))
    with pytest.raises(ValueError, match=r"weights\[0\] contains nan at index \(1, 0\)"):
        chain.with_vector([0, 0, 0, np.nan, 0, 0])


def test_hessian_of_a_chain_of_views_of_one_array():
    """All layers may be views of one flat parameter vector."""
    case = make_case((3, 4, 2), 3)
    flat = case.theta().numpy().copy()
    chain = fc.LinearChain([flat[:12].reshape(4, 3), flat[12:].reshape(2, 4)])
    problem = make_loss("batchmean", case)
    assert relative_error(fc.Hessian(chain, problem.loss).dense(), problem.hessian(case.theta())) <= 1e-10


def test_sparse_tensors_and_masked_arrays_are_refused():
    with pytest.raises(ValueError, match=r"weights\[0\] has layout torch.sparse_coo; expected a dense tensor"):
        fc.LinearChain([torch.eye(3).to_sparse()])
    with pytest.raises(ValueError, match=r"weights\[0\] is a masked array"):
        fc.LinearChain([np.ma.masked_array(np.eye(2), mask=np.eye(2) > 0)])
