"""Weights in float16 and bfloat16 are read as stored: the answers of their float32 copies, and no copy is made."""

from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
import torch

import flatcore as fc

HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


def make(dims, dtype, seed=0):
    """Weights of a type, their exact float32 copies, biases, and a loss."""
    rng = np.random.default_rng(seed)
    weights = [(rng.standard_normal((b, a)) / a**0.5).astype(dtype) for a, b in pairwise(dims)]
    copies = [W.astype(np.float32) for W in weights]
    X, Y = rng.standard_normal((50, dims[0])), rng.standard_normal((50, dims[-1]))
    return weights, copies, fc.QuadraticLoss(X, Y)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("dims", [(40, 70, 70, 5), (5, 70, 70, 40), (30, 200, 200, 200)])
def test_same_answers_as_the_float32_copies(dtype, dims):
    # The widened entries are the same numbers, so only the order of sums may differ.
    weights, copies, loss = make(dims, dtype)
    half, single = fc.LinearChain(weights), fc.LinearChain(copies)
    rng = np.random.default_rng(1)
    for precision, tolerance in ((np.float32, 2e-5), (np.float64, 1e-13)):
        V = rng.standard_normal((half.num_parameters, 3)).astype(precision)
        expected = fc.Hessian(single, loss) @ V
        assert np.abs(fc.Hessian(half, loss) @ V - expected).max() <= tolerance * np.abs(expected).max()
    np.testing.assert_allclose(fc.sharpness(half, loss).values, fc.sharpness(single, loss).values, rtol=1e-5)
    np.testing.assert_array_equal(half.to_vector(), single.to_vector())


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_no_copy_is_made(dtype):
    weights, _, _ = make((8, 6, 4), dtype)
    chain = fc.LinearChain(weights)
    assert all(np.shares_memory(W, own) for W, own in zip(weights, chain.weights, strict=True))
    assert chain.dtype == np.float32


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_tensors_are_shared(kind):
    tensor = torch.randn(6, 8).to(kind)
    chain = fc.LinearChain([tensor])
    before = chain.product()
    tensor[0, 0] += 1.0
    assert chain.product()[0, 0] == float(tensor[0, 0]) != before[0, 0]


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_biases_and_skips_beside_half_weights(dtype):
    weights, copies, loss = make((7, 9, 9, 3), dtype)
    biases = [np.linspace(0, 1, 9).astype(dtype), None, np.ones(3)]
    skip = [False, True, False]
    half = fc.LinearChain(weights, [b if b is None else np.asarray(b, np.float32) for b in biases], skip)
    single = fc.LinearChain(copies, [b if b is None else np.asarray(b, np.float32) for b in biases], skip)
    v = np.random.default_rng(2).standard_normal(half.num_parameters)
    np.testing.assert_allclose(fc.Hessian(half, loss) @ v, fc.Hessian(single, loss) @ v, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_nan_is_named(dtype):
    W = np.ones((3, 4)).astype(dtype)
    W[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"weights\[0\] contains nan at index \(1, 2\)"):
        fc.LinearChain([W])


def test_a_float64_layer_makes_the_chain_float64():
    chain = fc.LinearChain([np.ones((3, 4), np.float16), np.ones((2, 3))])
    assert chain.dtype == np.float64
    assert all(W.dtype == np.float64 for W in chain.weights)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_products_with_tensors_of_half_precision_are_float32(kind):
    weights, _, loss = make((6, 5, 4), np.float32)
    H = fc.Hessian(fc.LinearChain(weights), loss)
    v = torch.ones(H.shape[0], dtype=kind)
    product = H @ v
    assert product.dtype == torch.float32
    torch.testing.assert_close(product, H @ v.float())
