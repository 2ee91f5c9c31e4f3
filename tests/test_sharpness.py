"""sharpness of chains against LAPACK on dense Hessians, multiplicities, and eigenvectors layer by layer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import cases, make_case, make_loss, relative_error

import flatcore as fc


@pytest.mark.parametrize("kind", ["mean", "labels-mean", "masked", "coupled"])
@given(case=cases(5), which=st.sampled_from(["LA", "SA", "LM"]), curvature=st.sampled_from(["hessian", "ggn"]))
def test_against_dense_autograd(kind, case, which, curvature):
    problem = make_loss(kind, case)
    theta = case.theta()
    dense = problem.hessian(theta) if curvature == "hessian" else problem.gauss_newton(theta)
    values = np.linalg.eigvalsh(dense)
    k = min(3, len(values))
    result = fc.sharpness(case.chain(), problem.loss, k, which=which, curvature=curvature)
    order = {"LA": -values, "SA": values, "LM": -np.abs(values)}[which]
    want = values[np.argsort(order)][:k]
    got = result.values
    size = max(np.abs(values).max(), 1e-12)
    if which == "LM":
        got, want = np.abs(got), np.abs(want)
    assert np.abs(got - want).max() <= 1e-6 * size  # the default tolerance in float64


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("which", ["LA", "SA"])
def test_lanczos_path(dtype, which):
    """P = 1,000 parameters: too many for the dense path."""
    case = make_case((10, 20, 20, 16, 5), 1, True)
    loss = make_loss("labels-mean", case, 40).loss
    chain = case.chain(dtype)
    result = fc.sharpness(chain, loss, 5, which=which)
    assert "Lanczos" in result.method
    assert result.status == "converged"
    values = np.linalg.eigvalsh(fc.Hessian(chain, loss).dense())
    want = values[::-1][:5] if which == "LA" else values[:5]
    assert np.abs(result.values - want).max() <= result.tol * np.abs(values).max()


def test_all_twelve_copies_for_fifty_seeds(identity_workload):
    """One-vector Lanczos misses copies of this 12-fold eigenvalue in most runs."""
    chain, loss, top = identity_workload
    for seed in range(50):
        result = fc.sharpness(chain, loss, 12, seed=seed)
        assert "Lanczos" in result.method
        assert result.status == "converged"
        assert np.abs(result.values - top).max() <= 1e-6 * top, seed
        assert np.linalg.matrix_rank(result.vectors) == 12


def test_copies_missed_by_a_bad_start_are_found(identity_workload):
    """Twelve eigenvectors below the top converge at once and hide it; one vector hides nothing. Both must end there."""
    chain, loss, top = identity_workload
    vectors = np.linalg.eigh(fc.Hessian(chain, loss).dense())[1][:, ::-1]
    hits = 0
    for seed in range(5):
        for v0 in (vectors[:, 12:24], vectors[:, 30], np.ones(576)):
            result = fc.sharpness(chain, loss, 12, seed=seed, v0=v0)
            assert result.status == "converged"
            assert np.abs(result.values - top).max() <= 1e-6 * top
            hits += result.certificate.hits
    assert hits >= 5 * 12


def test_a_top_more_often_than_the_block_is_wide():
    """Widths 20: a 20-fold top against blocks of 16."""
    X = np.random.default_rng(1).standard_normal((60, 20))
    chain, loss = fc.LinearChain([np.eye(20)] * 3), fc.QuadraticLoss(X, X)
    top = 6.0 * float(np.linalg.eigvalsh(X.T @ X / 60)[-1])
    for seed in range(5):
        result = fc.sharpness(chain, loss, 20, seed=seed)
        assert result.certificate.hits > 0
        assert np.abs(result.values - top).max() <= 1e-6 * top
        assert result.status == "converged"


def test_more_values_than_are_nonzero():
    """At interpolation the rank is at most d_out·rank(data); beyond it the answer holds zeros."""
    X = np.random.default_rng(0).standard_normal((2, 12))
    case = make_case((12, 15, 3), 0)
    loss = fc.QuadraticLoss(X, X @ case.chain().product().T)
    result = fc.sharpness(case.chain(), loss, 10)
    assert result.status == "converged"
    assert (result.values[:6] > 1e-3).all()
    assert np.abs(result.values[6:]).max() <= 1e-6 * result.values[0]
    dense = np.linalg.eigvalsh(fc.Hessian(case.chain(), loss).dense())[::-1]
    assert np.abs(result.values - dense[:10]).max() <= 1e-6 * dense[0]


def test_all_values_of_a_small_chain():
    case = make_case((3, 2, 2), 0, True)
    problem = make_loss("batchmean", case)
    P = case.chain().num_parameters
    want = np.linalg.eigvalsh(problem.hessian(case.theta()))[::-1]
    np.testing.assert_allclose(fc.sharpness(case.chain(), problem.loss, P).values, want, atol=1e-12 * want[0])
    with pytest.raises(ValueError, match=f"k is {P + 1}; expected between 1 and {P}"):
        fc.sharpness(case.chain(), problem.loss, P + 1)


@pytest.mark.parametrize("dims", [(4, 3, 2), (12, 14, 10)])
def test_eigenvectors_layer_by_layer(dims):
    case = make_case(dims, 0, [True, False])
    chain = case.chain()
    H = fc.Hessian(chain, make_loss("batchmean", case, 30).loss)
    result = fc.sharpness(chain, make_loss("batchmean", case, 30).loss, 2)
    for i in range(2):
        blocks = list(result.layers(i))
        assert [b.shape for b in blocks] == [(dims[1], dims[0]), (dims[1],), (dims[2], dims[1])]
        v = np.concatenate([b.ravel() for b in blocks])
        np.testing.assert_array_equal(v, result.vectors[:, i])
        assert np.linalg.norm(H @ v - result.values[i] * v) <= 1.01 * result.residuals[i] + 1e-12 * result.values[0]


def test_curvature_argument():
    case = make_case((4, 3, 2), 0)
    loss = make_loss("batchmean", case).loss
    H = fc.Hessian(case.chain(), loss)
    for curvature, operator in (("hessian", H), ("ggn", H.gauss_newton)):
        want = np.linalg.eigvalsh(operator.dense())[-1]
        assert fc.sharpness(case.chain(), loss, curvature=curvature).values[0] == pytest.approx(want, rel=1e-6)
    with pytest.raises(ValueError, match="curvature is 'fisher'; expected one of 'hessian', 'ggn'"):
        fc.sharpness(case.chain(), loss, curvature="fisher")
    with pytest.raises(ValueError, match="chain is a list; expected a LinearChain"):
        fc.sharpness([np.eye(2)], loss)
    with pytest.raises(ValueError, match="which is 'BE'; expected one of"):
        fc.sharpness(case.chain(), loss, which="BE")


def test_off_a_minimum_the_hessian_can_lie_below_the_bound():
    """Theory, section 4.2: scalar M = 2, w = 1, t = 1.5."""
    chain, loss = fc.LinearChain([[[1.0]], [[1.0]]]), fc.QuadraticLoss([[1.0]], [[1.5]])
    bound = fc.flattest_sharpness(chain, loss, at="current")
    assert bound == pytest.approx(4.0)
    assert fc.sharpness(chain, loss).values[0] == pytest.approx(3.0)  # H = [[2, 1], [1, 2]]
    assert fc.sharpness(chain, loss, curvature="ggn").values[0] == pytest.approx(bound)


@settings(max_examples=10)
@given(seed=st.integers(0, 1000))
def test_two_whitened_layers(seed):
    """Theory, section 4.5: with M = 2 and S = I at a minimum λ_max = 2(‖W_1‖² + ‖W_2‖²)."""
    rng = np.random.default_rng(seed)
    W1, W2 = rng.standard_normal((6, 5)), rng.standard_normal((4, 6))
    X = np.sqrt(5) * np.eye(5)
    result = fc.sharpness(fc.LinearChain([W1, W2]), fc.QuadraticLoss(X, X @ (W2 @ W1).T), tol=1e-10)
    want = 2 * (np.linalg.norm(W1, 2) ** 2 + np.linalg.norm(W2, 2) ** 2)
    assert relative_error(result.values[0], want) <= 1e-9
