"""The Gauss–Newton dual against dense Gauss–Newton matrices, and the criterion for a negligible loss gradient."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import cases, make_case, make_loss, relative_error

import flatcore as fc
from flatcore.linear import StaleWeightsError
from flatcore.linear.interpolation import negligible_gradient

QUADRATIC = ["batchmean", "mean", "sum", "batches", "moments"]

# Exact identities in float64: rounding of a few hundred operations against the largest eigenvalue.
TOL = 1e-11


def check(case, loss):
    ggn = fc.Hessian(case.chain(), loss).gauss_newton
    K, dense = ggn.dual(), ggn.dense()
    values = np.linalg.eigvalsh(dense)[::-1]
    top = max(float(values[0]), 1e-300)
    n = K.shape[0]
    matrix = K.dense()
    assert relative_error(matrix, matrix.T, top) <= TOL
    own = np.linalg.eigvalsh(matrix)[::-1]
    common = min(n, len(values))
    assert np.abs(own[:common] - values[:common]).max() <= TOL * top
    assert np.abs(own[common:]).max(initial=0.0) <= TOL * top
    assert np.abs(values[common:]).max(initial=0.0) <= TOL * top
    spectrum = K.spectrum()
    assert np.abs(spectrum - own[: len(spectrum)]).max(initial=0.0) <= TOL * top
    assert np.abs(own[len(spectrum) :]).max(initial=0.0) <= TOL * top
    assert abs(K.trace - np.trace(dense)) <= TOL * max(K.trace, 1e-300)
    assert K.upper_bound >= (1 - 1e-12) * values[0]
    X = np.random.default_rng(case.seed).standard_normal((n, 3))
    assert relative_error(K @ X, matrix @ X, 10 * top) <= TOL
    assert relative_error(K @ X[:, 0], matrix @ X[:, 0], 10 * top) <= TOL
    return ggn, K


@pytest.mark.parametrize("kind", QUADRATIC)
@settings(max_examples=15)
@given(case=cases(6), n=st.integers(1, 8), rank=st.integers(1, 5))
def test_against_the_dense_gauss_newton_matrix(kind, case, n, rank):
    check(case, make_loss(kind, case, n, rank).loss)


@pytest.mark.parametrize("dims", [(6, 7, 7, 2), (2, 7, 7, 6), (5, 7, 1, 4)])
@pytest.mark.parametrize("biases", [False, True, [True, False, False], [False, True, False], [False, False, True]])
def test_lifted_eigenvectors(dims, biases):
    case = make_case(dims, 3, biases, [False, True, False])
    ggn, K = check(case, make_loss("mean", case, n=12).loss)
    values, vectors = np.linalg.eigh(K.dense())
    kept = values > 1e-6 * values[-1]
    lifted = K.lift(vectors[:, kept])
    assert relative_error(lifted.T @ lifted, np.eye(kept.sum())) <= 1e-8  # errors are magnified by √(λ_1/θ) ≤ 1e3
    residuals = np.linalg.norm(ggn @ lifted - lifted * values[kept], axis=0)
    assert residuals.max() <= 1e-9 * values[-1]
    np.testing.assert_allclose(K.lift(vectors[:, -1]), lifted[:, -1], atol=1e-12)


def test_start_vectors_are_the_adjoint():
    """⟨J z, X⟩ = ⟨z, Jᵀ X⟩, up to the normalisation of the right side, from both ends."""
    for dims in ((6, 7, 7, 2), (2, 7, 7, 6)):
        case = make_case(dims, 3, True)
        ggn = fc.Hessian(case.chain(), make_loss("mean", case, n=12).loss).gauss_newton
        K, R = ggn.dual(), ggn.reduced()
        rng = np.random.default_rng(0)
        z, X = rng.standard_normal((3, R.shape[0])), rng.standard_normal((2, K.shape[0]))
        left = K.start_rows(R, z) @ X.T
        right = z @ K.reduced_rows(R, X).T
        ratio = left / right
        assert np.ptp(ratio, axis=0).max() <= 1e-10 * ratio.max()
        assert (ratio > 0).all()


def test_theory_of_the_trace_and_the_bound():
    """S = I and all layers c·I: K = 2·M·c^{2(M−1)} times the identity."""
    X = np.sqrt(4) * np.eye(4)
    K = fc.Hessian(fc.LinearChain([3 * np.eye(4)] * 3), fc.QuadraticLoss(X, X)).gauss_newton.dual()
    np.testing.assert_allclose(K.dense(), 2 * 3 * 3**4 * np.eye(16), atol=1e-10)
    np.testing.assert_allclose(K.spectrum(), 486.0)
    assert K.trace == pytest.approx(16 * 486.0)
    assert K.upper_bound == pytest.approx(486.0)


def test_what_the_dual_refuses():
    case = make_case((4, 5, 3), 0)
    with pytest.raises(ValueError, match="loss is a CrossEntropyLoss; the dual is known for quadratic losses only"):
        fc.Hessian(case.chain(), make_loss("labels-mean", case).loss).gauss_newton.dual()
    with pytest.raises(ValueError, match="the inputs are all zero"):
        fc.Hessian(case.chain(), fc.QuadraticLoss(np.zeros((3, 4)), np.ones((3, 3)))).gauss_newton.dual()
    chain = fc.LinearChain(case.weights)
    K = fc.Hessian(chain, make_loss("mean", case).loss).gauss_newton.dual()
    with pytest.raises(ValueError, match=r"x has shape \(3,\); expected \(12,\)"):
        K.lift(np.ones(3))
    case.weights[0][0, 0] += 1.0
    for use in (lambda: K @ np.ones(12), lambda: K.dense(), lambda: K.lift(np.ones(12))):
        with pytest.raises(StaleWeightsError):
            use()


def test_float32_weights_are_summed_in_float64():
    case = make_case((6, 9, 9, 2), 1, True)
    loss = make_loss("mean", case, 20).loss
    chain = case.chain(np.float32)
    K = fc.Hessian(chain, loss).gauss_newton.dual()
    exact = fc.LinearChain([W.astype(float) for W in chain.weights], [b.astype(float) for b in chain.biases])
    want = fc.Hessian(exact, loss).gauss_newton.dual().dense()
    assert relative_error(K.dense(), want) <= 1e-14
    assert (K @ np.ones(K.shape[0], np.float32)).dtype == np.float32


# -- where the loss gradient counts as zero ------------------------------------------------------------------


@settings(max_examples=60)
@given(case=cases(5), exponent=st.floats(-14, 0), tol=st.sampled_from([1e-4, 1e-8]))
def test_a_gradient_called_negligible_is(case, exponent, tol):
    """Against dense matrices: ‖H − GGN‖ ≤ 0.1·tol·λ_1 wherever the criterion says so."""
    rng = np.random.default_rng(case.seed)
    X = rng.standard_normal((9, case.d_in))
    Phi = case.chain().product()
    Y = X @ Phi[:, : case.d_in].T + (Phi[:, case.d_in :].T if case.has_biases else 0.0)
    loss = fc.QuadraticLoss(X, Y + 10**exponent * rng.standard_normal(Y.shape))
    H = fc.Hessian(case.chain(), loss)
    if negligible_gradient(H.products, tol):
        ggn = H.gauss_newton.dense()
        top = np.linalg.norm(ggn, 2)
        assert np.linalg.norm(H.dense() - ggn, 2) <= 0.1 * tol * top + 1e-14 * top


@pytest.mark.parametrize("dims", [(6, 8, 8, 3), (3, 8, 8, 6)])
@pytest.mark.parametrize("biases", [False, True])
def test_the_criterion_has_two_sides(dims, biases):
    case = make_case(dims, 0, biases, [False, True, False])
    rng = np.random.default_rng(1)
    X = rng.standard_normal((20, dims[0]))
    Phi = case.chain().product()
    Y = X @ Phi[:, : dims[0]].T + (Phi[:, dims[0] :].T if biases else 0.0)
    for size, expected in ((0.0, True), (1e-9, True), (1e-3, False), (1.0, False)):
        loss = fc.QuadraticLoss(X, Y + size * X[:, :1])
        assert negligible_gradient(fc.Hessian(case.chain(), loss).products, 1e-4) is expected
    assert not negligible_gradient(fc.Hessian(case.chain(), make_loss("labels-mean", case).loss).products, 1.0)
