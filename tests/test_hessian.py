"""Gradients, Hessian and Gauss–Newton products against dense autograd derivatives."""

import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import LOSS_KINDS, CoupledLoss, cases, make_case, make_loss, relative_error

import flatcore as fc
from flatcore import _core
from flatcore.linear import StaleWeightsError

# Both sides are exact formulas evaluated in float64: they differ by rounding, some hundred operations of 1e-16 each,
# magnified where terms cancel. 1e-10 of the largest entry of either curvature matrix leaves ample room for that and
# none for a wrong term. Errors are measured against that entry because H itself can cancel to nearly nothing.
TOL = 1e-10


def check_all(case, problem, dtype=np.float64):
    theta = case.theta()
    H = fc.Hessian(case.chain(dtype), problem.loss)
    want, want_ggn = problem.hessian(theta), problem.gauss_newton(theta)
    scale = max(float(np.abs(want).max()), float(np.abs(want_ggn).max()))
    assert relative_error(H.dense(), want, scale) <= TOL
    assert relative_error(H.gauss_newton.dense(), want_ggn, scale) <= TOL
    gradient = problem.gradient(theta)
    assert relative_error(H.gradient(), gradient, max(float(np.abs(gradient).max()), scale)) <= TOL
    assert H.value == pytest.approx(float(problem.value(theta)), rel=1e-10, abs=1e-12)
    P = len(theta)
    V = np.random.default_rng(case.seed).standard_normal((P, 3))
    block = H @ V
    assert relative_error(block, want @ V, 10 * scale) <= TOL
    assert relative_error(H @ np.asfortranarray(V), want @ V, 10 * scale) <= TOL
    assert relative_error(H @ V[:, 1], want @ V[:, 1], 10 * scale) <= TOL
    assert relative_error(H.gauss_newton @ V, want_ggn @ V, 10 * scale) <= TOL
    assert relative_error(H.gauss_newton @ V[:, 1], want_ggn @ V[:, 1], 10 * scale) <= TOL
    return H


@pytest.mark.parametrize("kind", LOSS_KINDS)
@settings(max_examples=40)
@given(case=cases(), n=st.integers(1, 8), rank=st.integers(1, 5))
def test_against_autograd(kind, case, n, rank):
    check_all(case, make_loss(kind, case, n, rank))


@pytest.mark.parametrize("kind", LOSS_KINDS)
@pytest.mark.parametrize("biases", [False, True, [True, False, False], [False, False, True]])
@pytest.mark.parametrize("dims", [(5, 3, 4, 2), (2, 4, 3, 5)])
def test_both_narrow_ends(kind, biases, dims):
    case = make_case(dims, 3, biases)
    H = check_all(case, make_loss(kind, case, n=12))
    assert ("narrow end: output" in repr(H)) == (dims[0] > dims[-1])


@pytest.mark.parametrize("kind", ["batchmean", "labels-mean", "coupled"])
@pytest.mark.parametrize("skip", [True, [True, False, True], [False, True, False]])
@pytest.mark.parametrize("biases", [False, True])
def test_skip_links(kind, skip, biases):
    case = make_case((3, 3, 3, 3), 5, biases, skip)
    check_all(case, make_loss(kind, case))


@pytest.mark.parametrize("kind", ["batchmean", "labels-mean", "masked"])
@pytest.mark.parametrize(
    ("dims", "zero"),
    [((1, 1), ()), ((1, 1, 1, 1), ()), ((4, 1, 4), ()), ((3, 3, 3), (0, 1)), ((1, 4, 3), (1,)), ((4, 3, 1), (0,))],
)
def test_degenerate_chains(kind, dims, zero):
    case = make_case(dims, 8, True, zero=zero)
    check_all(case, make_loss(kind, case))


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (2, 6), (9, 2)])
@pytest.mark.parametrize("biases", [False, True])
def test_fewer_directions_in_the_data_than_inputs(n, rank, biases):
    case = make_case((6, 4, 5), 2, biases)
    H = check_all(case, make_loss("batchmean", case, n, rank))
    assert "narrow end: input" in repr(H)


def test_inputs_that_are_all_zero():
    case = make_case((3, 2, 2), 0)
    H = fc.Hessian(case.chain(), fc.QuadraticLoss(np.zeros((4, 3)), np.ones((4, 2))))
    assert H.value == 2.0
    assert not H.dense().any()
    assert not H.gradient().any()


@pytest.mark.parametrize("kind", ["batchmean", "labels-mean", "coupled"])
def test_blocks_of_every_size(kind):
    case = make_case((6, 5, 5, 3), 1, True, [False, True, False])
    H = fc.Hessian(case.chain(), make_loss(kind, case).loss)
    dense = H.dense()
    V = np.random.default_rng(0).standard_normal((H.shape[0], 40))
    for k in (1, 2, 5, 17, 40):
        assert relative_error(H @ V[:, :k], dense @ V[:, :k]) <= 1e-12
    assert relative_error(H @ V[:, ::-3], dense @ V[:, ::-3]) <= 1e-12


def test_a_single_parameter():
    """Arrays of one column have strides that mean nothing."""
    H = fc.Hessian(fc.LinearChain([[[2.0]]]), fc.QuadraticLoss([[3.0]], [[1.0]]))
    np.testing.assert_allclose(H @ np.ones((1, 3)), [[18.0, 18.0, 18.0]])
    np.testing.assert_allclose(H @ np.ones((4, 4))[:1, ::2], [[18.0, 18.0]])
    np.testing.assert_allclose(H @ np.ones((1, 3), order="F"), [[18.0, 18.0, 18.0]])


def test_a_block_of_no_vectors():
    case = make_case((4, 3, 2), 0)
    H = fc.Hessian(case.chain(), make_loss("batchmean", case).loss)
    assert (H @ np.ones((18, 0))).shape == (18, 0)


@pytest.mark.parametrize("width", [63, 64, 65, 130])
def test_ends_around_the_width_of_skinny_kernels(width):
    """Both ends wide: compared with central differences of the gradient, which cost no dense oracle.

    The gradient of a two-layer quadratic loss is cubic in the step t; the central difference leaves t²/6 of the third
    derivative plus rounding 1e-16/t: at t = 1e-4 about 1e-8 of the product.
    """
    rng = np.random.default_rng(width)
    W = [rng.standard_normal((width, width)) / np.sqrt(width) for _ in range(2)]
    loss = fc.QuadraticLoss(rng.standard_normal((2 * width, width)), rng.standard_normal((2 * width, width)))
    chain = fc.LinearChain(W)
    theta, v = chain.to_vector(), rng.standard_normal(chain.num_parameters) / width
    t = 1e-4
    ahead, behind = (fc.Hessian(chain.with_vector(theta + s * v), loss).gradient() for s in (t, -t))
    assert relative_error(fc.Hessian(chain, loss) @ v, (ahead - behind) / (2 * t)) <= 1e-6


# -- precision and types -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOSS_KINDS)
@pytest.mark.parametrize("dims", [(6, 5, 4, 3), (3, 4, 5, 6)])
def test_float32_chain(kind, dims):
    """float32 products round at 6e-8 a step: 1e-4 is generous. float64 products see the stored weights exactly."""
    case = make_case(dims, 4, True)
    case.weights = [W.astype(np.float32).astype(np.float64) for W in case.weights]
    case.biases = [b.astype(np.float32).astype(np.float64) for b in case.biases]
    problem = make_loss(kind, case, n=12)
    H = check_all_float64_products(case, problem)
    dense = problem.hessian(case.theta())
    V = np.random.default_rng(0).standard_normal((H.shape[0], 4)).astype(np.float32)
    for operator, matrix in ((H, dense), (H.gauss_newton, problem.gauss_newton(case.theta()))):
        for given_v in (V, V[:, 0], np.asfortranarray(V)):
            out = operator @ given_v
            assert out.dtype == np.float32
            assert relative_error(out, matrix @ given_v.astype(np.float64)) <= 1e-4


def check_all_float64_products(case, problem):
    H = fc.Hessian(case.chain(np.float32), problem.loss)
    assert H.dtype == np.float32
    dense = problem.hessian(case.theta())
    V = np.random.default_rng(1).standard_normal((H.shape[0], 3))
    out = H @ V
    assert out.dtype == np.float64
    assert relative_error(out, dense @ V) <= TOL
    assert relative_error(H.dense(), dense) <= TOL
    return H


def test_output_type_follows_the_input():
    case = make_case((4, 3, 2), 0)
    loss = make_loss("batchmean", case).loss
    for chain_type in (np.float32, np.float64):
        H = fc.Hessian(case.chain(chain_type), loss)
        for vector_type in (np.float32, np.float64):
            assert (H @ np.ones(H.shape[0], vector_type)).dtype == vector_type
            assert (H @ np.ones((H.shape[0], 2), vector_type)).dtype == vector_type
        assert (H @ np.ones(H.shape[0], np.int64)).dtype == np.float64
        assert H.gradient().dtype == chain_type
        assert H.dense().dtype == np.float64


def test_float32_vectors_on_a_float64_chain_are_multiplied_in_float64():
    case = make_case((4, 3, 2), 0)
    H = fc.Hessian(case.chain(), make_loss("batchmean", case).loss)
    v = np.random.default_rng(0).standard_normal(H.shape[0]).astype(np.float32)
    np.testing.assert_array_equal(H @ v, (H @ v.astype(np.float64)).astype(np.float32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_in_torch_out(dtype):
    case = make_case((4, 3, 2), 0)
    H = fc.Hessian(case.chain(), make_loss("batchmean", case).loss)
    V = torch.randn(H.shape[0], 3, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for given_v in (V, V[:, 0], V.T.contiguous().T, V.clone().requires_grad_()):
        out = H @ given_v
        assert isinstance(out, torch.Tensor)
        assert out.dtype == dtype
        assert out.shape == given_v.shape
        np.testing.assert_array_equal(out.numpy(), H @ given_v.detach().numpy())


def test_strided_and_read_only_vectors():
    case = make_case((5, 4, 3), 0, True)
    H = fc.Hessian(case.chain(), make_loss("batchmean", case).loss)
    P = H.shape[0]
    big = np.random.default_rng(0).standard_normal((3 * P, 6))
    dense = H.dense()
    frozen = big[:P].copy()
    frozen.flags.writeable = False
    for V in (big[::3], big[::-3], big[:P, ::2], big[:P, ::-1], big[:P, 1], big[::3, 2], frozen, frozen[:, 0]):
        before = V.copy()
        assert relative_error(H @ V, dense @ V) <= 1e-12
        np.testing.assert_array_equal(V, before)


@pytest.mark.parametrize(
    ("v", "message"),
    [
        (np.ones(5), r"v has shape \(5,\); expected \(18,\) or \(18, k\)"),
        (np.ones((2, 18)), r"v has shape \(2, 18\); expected \(18,\) or \(18, k\)"),
        (np.ones((18, 1, 1)), r"v has shape \(18, 1, 1\); expected \(18,\) or \(18, k\)"),
        (np.ones(18, complex), r"v is complex \(complex128\); expected real numbers"),
        (3.0, r"v has shape \(\); expected \(18,\)"),
    ],
)
def test_bad_vectors(v, message):
    case = make_case((4, 3, 2), 0)
    H = fc.Hessian(case.chain(), make_loss("batchmean", case).loss)
    with pytest.raises(ValueError, match=message):
        H @ v


# -- identities ----------------------------------------------------------------------------------------------


@given(case=cases(6), kind=st.sampled_from(LOSS_KINDS))
def test_symmetry_linearity_and_dense(case, kind):
    """Identities hold to the rounding of a few hundred float64 operations: 1e-11 of the size of the terms."""
    H = fc.Hessian(case.chain(), make_loss(kind, case).loss)
    P = H.shape[0]
    rng = np.random.default_rng(case.seed)
    u, v = rng.standard_normal((2, P))
    for operator in (H, H.gauss_newton):
        Hu, Hv = operator @ u, operator @ v
        size = 1e-300 + np.linalg.norm(operator.dense()) * P
        assert abs(u @ Hv - v @ Hu) <= 1e-11 * size
        assert np.abs(operator @ (2.5 * u - 3.0 * v) - (2.5 * Hu - 3.0 * Hv)).max() <= 1e-11 * size
        assert np.abs(operator.dense() - operator @ np.eye(P)).max() <= 1e-12 * size
        assert np.abs(operator.dense() - operator.dense().T).max() <= 1e-12 * size


@given(case=cases(5), kind=st.sampled_from(["batchmean", "labels-mean", "masked"]))
def test_gauss_newton_is_positive_semidefinite_and_the_hessian_at_interpolation(case, kind):
    problem = make_loss(kind, case)
    H = fc.Hessian(case.chain(), problem.loss)
    values = np.linalg.eigvalsh(H.gauss_newton.dense())
    assert values[0] >= -1e-12 * max(values[-1], 1.0)
    X = np.random.default_rng(0).standard_normal((9, case.d_in))
    Y = case.forward(case.theta(), torch.tensor(X)).numpy()
    at_minimum = fc.Hessian(case.chain(), fc.QuadraticLoss(X, Y))
    ggn = at_minimum.gauss_newton.dense()
    assert relative_error(at_minimum.dense(), ggn) <= TOL
    # ∇f in whitened coordinates is 2(ΦL − T): zero up to the rounding of moments of this size
    assert at_minimum.loss_gradient_norm <= 1e-9 * (1.0 + np.linalg.norm(Y))


def test_trace_of_the_gauss_newton_matrix():
    """Theory, section 3.1: tr = 2 Σ_j ‖B_jL‖²‖A_j‖² in Frobenius norms."""
    case = make_case((5, 4, 6, 3), 9)
    X, Y = np.random.default_rng(1).standard_normal((20, 5)), np.ones((20, 3))
    H = fc.Hessian(case.chain(), fc.QuadraticLoss(X, Y))
    want = 0.0
    for j in range(3):
        above, below = np.eye(3), X.T / np.sqrt(20)
        for W in case.weights[j + 1 :][::-1]:
            above = above @ W
        for W in case.weights[:j]:
            below = W @ below
        want += 2 * np.linalg.norm(below) ** 2 * np.linalg.norm(above) ** 2
    assert np.trace(H.gauss_newton.dense()) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("biases", [False, True])
def test_reductions_scale_the_hessian(biases):
    case = make_case((4, 3, 2), 3, biases)
    X, Y = np.random.default_rng(0).standard_normal((9, 4)), np.random.default_rng(1).standard_normal((9, 2))
    batchmean, mean, total = (
        fc.Hessian(case.chain(), fc.QuadraticLoss(X, Y, r)).dense() for r in ("batchmean", "mean", "sum")
    )
    assert relative_error(mean * 2, batchmean) <= 1e-12
    assert relative_error(total / 9, batchmean) <= 1e-12


# -- SciPy ---------------------------------------------------------------------------------------------------


def test_scipy_interoperation():
    case = make_case((5, 6, 4), 2, True)
    H = fc.Hessian(case.chain(), make_loss("batchmean", case).loss)
    dense = H.dense()
    P = H.shape[0]
    v, V = np.random.default_rng(0).standard_normal(P), np.random.default_rng(1).standard_normal((P, 3))
    assert isinstance(H, scipy.sparse.linalg.LinearOperator)
    assert scipy.sparse.linalg.aslinearoperator(H) is H
    assert H.shape == (P, P)
    assert H.dtype == np.float64
    for operator in (H, H.T, H.H, 2.0 * H + H - 2 * H):
        assert relative_error(operator @ v, dense @ v) <= 1e-12
        assert relative_error(operator @ V, dense @ V) <= 1e-12
    assert relative_error(H.matvec(v), dense @ v) <= 1e-12
    assert relative_error(H.rmatvec(v), dense @ v) <= 1e-12
    assert relative_error(H.rmatmat(V), dense @ V) <= 1e-12
    assert relative_error(H.dot(v), dense @ v) <= 1e-12
    want = np.linalg.eigvalsh(dense)[-3:]
    got = scipy.sparse.linalg.eigsh(H, 3, which="LA", return_eigenvectors=False, v0=np.ones(P))
    np.testing.assert_allclose(np.sort(got), want, rtol=1e-9)


def test_too_large_to_be_dense():
    chain = fc.LinearChain([np.zeros((1000, 1000), np.float32)] * 2)
    H = fc.Hessian(chain, fc.QuadraticLoss(np.eye(1000)[:2], np.ones((2, 1000))))
    with pytest.raises(MemoryError, match=r"a dense 2000000 × 2000000 matrix needs 32000\.0 GB; .* GB are available"):
        H.dense()


def test_operators_compose():
    case = make_case((3, 2, 2), 2)
    H = fc.Hessian(case.chain(), make_loss("batchmean", case).loss)
    v = np.random.default_rng(0).standard_normal(H.shape[0])
    shifted = H - 0.5 * scipy.sparse.linalg.aslinearoperator(np.eye(H.shape[0]))
    assert relative_error(shifted @ v, H @ v - 0.5 * v) <= 1e-12
    assert relative_error((H @ H) @ v, H @ (H @ v)) <= 1e-12


# -- changed weights -----------------------------------------------------------------------------------------


def test_numpy_weights_changed_in_place():
    W = [np.eye(3), np.eye(3)]
    b = np.zeros(3)
    chain = fc.LinearChain(W, [None, b])
    loss = fc.QuadraticLoss(np.eye(3), np.eye(3))
    H = fc.Hessian(chain, loss)
    v = np.ones(H.shape[0])
    H @ v
    W[1][2, 0] = 1e-3
    for stale in (lambda: H @ v, lambda: H.gauss_newton @ v, lambda: H.dense(), lambda: H.gradient()):
        with pytest.raises(StaleWeightsError, match="weights changed after this Hessian was built; build a new one"):
            stale()
    H = fc.Hessian(chain, loss)  # the chain sees the new weights
    assert relative_error(H.dense(), fc.Hessian(fc.LinearChain([w.copy() for w in W], [None, b]), loss).dense()) == 0
    b[0] = 1.0
    with pytest.raises(StaleWeightsError):
        H @ v


def test_torch_weights_changed_in_place():
    model = torch.nn.Sequential(torch.nn.Linear(600, 600), torch.nn.Linear(600, 2))
    chain = fc.LinearChain([layer.weight for layer in model], [layer.bias for layer in model])
    H = fc.Hessian(chain, fc.QuadraticLoss(np.eye(600)[:5], np.ones((5, 2))))
    v = np.ones(H.shape[0], np.float32)
    H @ v
    with torch.no_grad():
        model[0].weight[317, 211] += 1.0  # one entry among 360,000: only torch's version counter sees it
    with pytest.raises(StaleWeightsError):
        H @ v


def test_an_optimiser_step_makes_the_hessian_stale():
    W = [torch.nn.Parameter(torch.eye(3, dtype=torch.float64)) for _ in range(2)]
    H = fc.Hessian(fc.LinearChain(W), fc.QuadraticLoss(np.eye(3), 2 * np.eye(3)))
    (W[1] @ W[0]).sum().backward()
    torch.optim.SGD(W, lr=0.1).step()
    with pytest.raises(StaleWeightsError):
        H @ np.ones(18)


# -- bad losses ----------------------------------------------------------------------------------------------


class WrongGradientShape(CoupledLoss):
    def gradient(self, Phi):
        return np.zeros(3)


class InfiniteGradient(CoupledLoss):
    def gradient(self, Phi):
        return np.full(Phi.shape, np.inf)


class WrongProductShape(CoupledLoss):
    def hessian_product(self, Phi, dPhi):
        return dPhi[..., :1]


def test_losses_that_do_not_fit():
    case = make_case((4, 3, 2), 0)
    chain = case.chain()
    with pytest.raises(ValueError, match="chain is a list; expected a LinearChain"):
        fc.Hessian(case.weights, CoupledLoss())
    with pytest.raises(ValueError, match="loss is a float; expected an object with value, gradient and hessian_prod"):
        fc.Hessian(chain, 3.0)
    with pytest.raises(ValueError, match=r"loss.gradient returned shape \(3,\); expected \("):
        fc.Hessian(chain, WrongGradientShape())
    with pytest.raises(ValueError, match=r"loss.gradient returned NaN or Inf"):
        fc.Hessian(chain, InfiniteGradient())
    H = fc.Hessian(chain, WrongProductShape())
    with pytest.raises(ValueError, match=r"loss.hessian_product returned shape"):
        H @ np.ones(18)
    with pytest.raises(ValueError, match="the chain maps 4 inputs to 2 outputs; the loss has data for 3 and 2"):
        fc.Hessian(chain, fc.QuadraticLoss(np.ones((5, 3)), np.ones((5, 2))))


def test_an_exception_in_the_loss_travels_unchanged():
    class Failing(CoupledLoss):
        def hessian_product(self, Phi, dPhi):
            raise KeyError("my own")

    case = make_case((4, 3, 2), 0)
    H = fc.Hessian(case.chain(), Failing())
    with pytest.raises(KeyError, match="my own"):
        H @ np.ones(18)


PRODUCT = """
import numpy as np, flatcore as fc
from flatcore import _core
rng = np.random.default_rng(0)
W = [rng.standard_normal(s).astype(np.float32) for s in ((50, 20), (37, 50), (3, 37))]
H = fc.Hessian(fc.LinearChain(W), fc.QuadraticLoss(rng.standard_normal((40, 20)), rng.standard_normal((40, 3))))
image = H @ rng.standard_normal(H.shape[0]).astype(np.float32)
print(_core.build_info()["simd"], *image.tolist())
"""


def test_the_environment_chooses_the_instruction_set(tmp_path):
    """A set that the processor lacks is refused by name; products of those it has agree to rounding."""
    images = {}
    best = _core.build_info()["simd"]
    for name in ("avx512", "avx2", "baseline", "sse"):
        environment = os.environ | {"FLATCORE_SIMD": name}
        command = [sys.executable, "-c", PRODUCT]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        if done.returncode == 0:
            used, *entries = done.stdout.split()
            assert used == name
            images[name] = np.array(entries, float)
        else:
            assert f"FLATCORE_SIMD is {name}; expected baseline, or avx2 or avx512" in done.stderr
    assert list(images) == ["avx512", "avx2", "baseline"][-len(images) :]
    assert next(iter(images)) == best or "FLATCORE_SIMD" in os.environ
    for image in images.values():
        assert np.linalg.norm(image - images["baseline"]) <= 1e-5 * np.linalg.norm(image)
