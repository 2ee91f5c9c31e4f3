"""The reduced Hessian against the dense one: spectrum, isometry, adjoint, annihilated directions, memory."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import LOSS_KINDS, cases, make_case, make_loss, relative_error

import flatcore as fc
from flatcore.linear import StaleWeightsError
from flatcore.linear.reduced import reduced_dimension

# Exact restrictions differ by rounding alone: a few hundred operations of 1e-16 each, against the largest entry of the
# matrix (H itself can cancel to nearly nothing, so the Gauss–Newton part's scale counts too).
TOL = 1e-11


def operators(case, problem):
    H = fc.Hessian(case.chain(), problem.loss)
    yield H
    yield H.gauss_newton


def check(operator, seed=0):
    """Everything that is promised of operator.reduced(), against operator.dense() by LAPACK."""
    R = operator.reduced()
    P, N = operator.shape[0], R.shape[0]
    dense, small = operator.dense(), R.dense()
    scale = max(float(np.abs(dense).max()), float(np.abs(operator.products.loss_gradient).max()), 1e-300)
    assert N <= P
    assert reduced_dimension(operator.products, operator.is_gauss_newton) == N
    lift = R.lift(np.eye(N))
    assert lift.shape == (P, N)
    assert relative_error(lift.T @ lift, np.eye(N)) <= TOL  # an isometry
    assert relative_error(R.project(np.eye(P)), lift.T, 1.0) <= TOL  # its adjoint
    assert relative_error(small, small.T, 10 * scale) <= TOL
    assert relative_error(lift @ small @ lift.T, dense, 10 * scale) <= TOL  # nothing is lost
    outside = np.array([np.concatenate([b.ravel() for b in R.annihilated_layers(i)]) for i in range(R.num_annihilated)])
    assert R.num_annihilated == P - N
    if P > N:
        basis = np.vstack([lift.T, outside])
        assert relative_error(basis @ basis.T, np.eye(P)) <= TOL
        assert np.abs(dense @ outside.T).max() <= 10 * TOL * scale
    V = np.random.default_rng(seed).standard_normal((N, 3))
    assert relative_error(R @ V, small @ V, 10 * scale) <= TOL
    assert relative_error(R @ V[:, 0], small @ V[:, 0], 10 * scale) <= TOL
    for i in range(2):
        blocks = list(R.lift_layers(V[:, i]))
        assert [b.shape for b in blocks] == [b.shape for b in operator.chain.blocks(np.zeros(P))]
        np.testing.assert_array_equal(np.concatenate([b.ravel() for b in blocks]), R.lift(V)[:, i])
    return R


@pytest.mark.parametrize("kind", LOSS_KINDS)
@settings(max_examples=15)
@given(case=cases(6), n=st.integers(1, 8), rank=st.integers(1, 5))
def test_against_the_dense_hessian(kind, case, n, rank):
    for operator in operators(case, make_loss(kind, case, n, rank)):
        check(operator)


@pytest.mark.parametrize("kind", ["batchmean", "labels-mean", "masked", "coupled"])
@pytest.mark.parametrize("biases", [False, True, [True, False, False], [False, True, False], [False, False, True]])
@pytest.mark.parametrize("dims", [(6, 7, 7, 2), (2, 7, 7, 6), (4, 7, 1, 4)])
def test_both_narrow_ends(kind, biases, dims):
    case = make_case(dims, 3, biases, [False, True, False])
    for operator in operators(case, make_loss(kind, case, n=12)):
        check(operator)


@pytest.mark.parametrize("zero", [(), (0,), (1,), (0, 1, 2)])
@pytest.mark.parametrize("biases", [False, True])
def test_layers_of_deficient_rank(zero, biases):
    case = make_case((5, 6, 6, 3), 2, biases, zero=zero)
    case.weights[2][1] = 2.0 * case.weights[2][0]
    for operator in operators(case, make_loss("batchmean", case, n=9)):
        check(operator)


def test_spectra_and_lifted_eigenvectors():
    """By another way than the matrices above: nonzero eigenvalues one by one, residuals in the full Hessian."""
    case = make_case((12, 15, 14, 3), 0, True)
    for operator in operators(case, make_loss("labels-mean", case, n=30)):
        R = operator.reduced()
        assert R.shape[0] < operator.shape[0]
        values, vectors = np.linalg.eigh(R.dense())
        full = np.linalg.eigvalsh(operator.dense())
        top = np.abs(full).max()
        np.testing.assert_allclose(
            values[np.abs(values) > 1e-10 * top], full[np.abs(full) > 1e-10 * top], rtol=0, atol=1e-12 * top
        )
        lifted = R.lift(vectors)
        assert np.linalg.norm(operator @ lifted - lifted * values, axis=0).max() <= 1e-12 * top


def test_dimension_of_the_theory():
    """Σ r·d_{j−1} + ρ(d_j − r), no E at the output; at interpolation only the first part."""
    rng = np.random.default_rng(0)
    W = [rng.standard_normal(s) for s in ((40, 30), (50, 40), (2, 50))]
    chain, X = fc.LinearChain(W), rng.standard_normal((60, 30))
    S, E = 2 * (30 + 40 + 50), 2 * (38 + 48)
    assert fc.Hessian(chain, fc.QuadraticLoss(X, np.ones((60, 2)))).reduced().shape == (S + E, S + E)
    assert fc.Hessian(chain, fc.QuadraticLoss(X, np.ones((60, 2)))).gauss_newton.reduced().shape == (S, S)
    zero = fc.LinearChain([0 * w for w in W])  # ΦS = C = 0 exactly
    assert fc.Hessian(zero, fc.QuadraticLoss(X, np.zeros((60, 2)))).reduced().shape == (S, S)


@pytest.mark.parametrize("dims", [(8, 20, 20, 3), (3, 20, 20, 8)])
@pytest.mark.parametrize("kind", ["batchmean", "labels-mean"])
def test_float32(dims, kind):
    """float32 products round at 6e-8 a step; float64 ones see the stored weights exactly, in the same coordinates."""
    case = make_case(dims, 1, True)
    chain, loss = case.chain(np.float32), make_loss(kind, case, 30).loss
    R = fc.Hessian(chain, loss).reduced()
    assert R.dtype == np.float32
    dense = R.dense()
    assert dense.dtype == np.float64
    z = np.random.default_rng(0).standard_normal((R.shape[0], 2))
    single = R @ z.astype(np.float32)
    assert single.dtype == np.float32
    size = np.abs(dense @ z).max()
    assert relative_error(single, dense @ z, size) <= 1e-4
    assert relative_error(R @ z, dense @ z, size) <= 1e-12
    lifted = R.lift(z)
    assert R.lift(z.astype(np.float32)).dtype == np.float32
    assert relative_error(R.lift(z.astype(np.float32)), lifted) <= 1e-5
    full = fc.Hessian(chain, loss).dense()
    assert relative_error(R.project(full @ lifted), dense @ z, size) <= 1e-11


def test_operator_rules():
    case = make_case((5, 9, 2), 0)
    R = fc.Hessian(case.chain(), make_loss("batchmean", case, 20).loss).reduced()
    N, P = R.shape[0], R.chain.num_parameters
    dense = R.dense()
    z = np.random.default_rng(0).standard_normal((N, 6))
    assert relative_error(R @ z[:, ::2], dense @ z[:, ::2]) <= 1e-12
    assert relative_error(R @ np.asfortranarray(z), dense @ z) <= 1e-12
    assert (R @ np.ones((N, 0))).shape == (N, 0)
    assert R.lift(np.ones((N, 0))).shape == (P, 0)
    tensor = torch.tensor(z)
    assert isinstance(R @ tensor, torch.Tensor)
    assert isinstance(R.lift(tensor), torch.Tensor)
    np.testing.assert_array_equal(R.project(R.lift(tensor)).numpy(), R.project(R.lift(z)))
    assert isinstance(R, scipy.sparse.linalg.LinearOperator)
    assert repr(R) == f"Reduced({N} of {P} parameters, float64, narrow end: output, 2 rows)"
    with pytest.raises(ValueError, match=rf"v has shape \({N + 1},\); expected \({N},\)"):
        R @ np.ones(N + 1)
    with pytest.raises(ValueError, match=rf"z has shape \({P},\); expected \({N},\)"):
        R.lift(np.ones(P))
    with pytest.raises(ValueError, match=rf"v has shape \({N},\); expected \({P},\)"):
        R.project(np.ones(N))
    with pytest.raises(ValueError, match=rf"z has shape \({P},\); expected \({N},\)"):
        R.lift_layers(np.ones(P))


def test_stale_weights():
    case = make_case((5, 9, 2), 0)
    chain = fc.LinearChain(case.weights)
    R = fc.Hessian(chain, make_loss("batchmean", case, 20).loss).reduced()
    z = np.ones(R.shape[0])
    before = R.lift(z)
    case.weights[1][0, 0] += 1.0
    with pytest.raises(StaleWeightsError):
        R @ z
    np.testing.assert_array_equal(R.lift(z), before)  # lifting needs no weights


def test_the_same_bits_every_time():
    case = make_case((30, 40, 40, 4), 0, True)
    loss = make_loss("labels-mean", case, 50).loss
    z = np.random.default_rng(0).standard_normal(fc.Hessian(case.chain(), loss).reduced().shape[0])
    first, second = (fc.Hessian(case.chain(), loss).reduced() @ z for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_share_the_layers(dtype):
    """Blocks below and above what layers side by side serve: the same bits again, one thread's products to rounding."""
    rng = np.random.default_rng(0)
    dims = (60, 700, 700, 700, 10)
    weights = [(rng.standard_normal((q, p)) / p**0.5).astype(dtype) for p, q in itertools.pairwise(dims)]
    loss = fc.QuadraticLoss(rng.standard_normal((80, 60)), rng.standard_normal((80, 10)))
    chain = fc.LinearChain(weights)
    alone, shared = (fc.Hessian(chain, loss, threads=threads).reduced() for threads in (1, 2))
    Z = rng.standard_normal((alone.shape[0], 17)).astype(dtype)
    for count in (1, 3, 16, 17):
        image = shared @ Z[:, :count]
        np.testing.assert_array_equal(image, shared @ Z[:, :count])
        assert relative_error(image, alone @ Z[:, :count]) <= 50 * np.finfo(dtype).eps


# -- memory --------------------------------------------------------------------------------------------------

_STREAMED = """
import sys, threading, time
import numpy as np
import flatcore as fc

widths, path = [60, 1500, 1500, 1500, 1500, 1500, 2], sys.argv[1]
shapes = list(zip(widths[1:], widths[:-1]))
rng, sizes = np.random.default_rng(0), [a * b for a, b in shapes]
with open(path, "wb") as file:
    for a, b in shapes:
        (rng.standard_normal((a, b), dtype=np.float32) / np.float32(b**0.5)).tofile(file)
flat, at, weights = np.memmap(path, np.float32, "r"), 0, []
for shape, size in zip(shapes, sizes):
    weights.append(flat[at : at + size].reshape(shape))
    at += size
X = rng.standard_normal((100, 60))
fc.sharpness(fc.LinearChain([np.eye(3, 60), np.eye(2, 3)]), fc.QuadraticLoss(X, X[:, :2]))  # BLAS takes its buffers

def anonymous():
    with open("/proc/self/smaps_rollup") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) * 1024

start, peak, done = anonymous(), 0, False
def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.01)
watcher = threading.Thread(target=watch)
watcher.start()
result = fc.sharpness(fc.LinearChain(weights), fc.QuadraticLoss(X, X[:, :2]), seed=1, route=sys.argv[2])
done = True
watcher.join()
print(result.status, float(result.values[0]), 4 * sum(sizes), peak - start)
"""


def test_mapped_weights_are_streamed(tmp_path):
    """36 MB of weights in a file: sharpness takes far less memory than one copy of them.

    The vectors of the reduced route are N = 30,100 long and a basis holds up to 80 of them: 10 MB. A P-sized vector
    would be 36 MB, in float64 or as the partial sums of one layer 18 MB and more.
    """
    values = []
    for route in ("auto", "reduced"):
        done = subprocess.run(
            [sys.executable, "-P", "-c", _STREAMED, str(tmp_path / "weights"), route],
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        status, value, size, grown = done.stdout.split()
        assert status == "converged"
        assert int(size) > 36e6
        assert int(grown) < 0.5 * int(size), done.stdout
        values.append(float(value))
    assert values[0] == pytest.approx(values[1], rel=1e-3)
