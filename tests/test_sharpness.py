"""sharpness of chains against LAPACK on dense Hessians whatever the route, multiplicities, eigenvectors by layers."""

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import cases, make_case, make_loss, random_data, relative_error

import flatcore as fc
from flatcore.linear import StaleWeightsError
from flatcore.linear.sharpness import extreme_eigenpairs


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
    result = fc.sharpness(chain, loss, 5, which=which, route="full")
    assert "Lanczos" in result.method
    assert result.status == "converged"
    values = np.linalg.eigvalsh(fc.Hessian(chain, loss).dense())
    want = values[::-1][:5] if which == "LA" else values[:5]
    assert np.abs(result.values - want).max() <= result.tol * np.abs(values).max()


def test_eigenvectors_that_cannot_fit_are_refused(monkeypatch):
    """Three of a million entries; by layers they go on being given."""
    rng = np.random.default_rng(0)
    chain = fc.LinearChain([rng.standard_normal(shape) / 27 for shape in ((720, 720), (720, 720), (2, 720))])
    loss = fc.QuadraticLoss(rng.standard_normal((30, 720)), rng.standard_normal((30, 2)))
    result = fc.sharpness(chain, loss, 3)
    R = fc.Hessian(chain, loss).reduced()
    monkeypatch.setattr("flatcore._memory.available_memory", lambda: 10**6)
    with pytest.raises(MemoryError, match=r"3 eigenvectors of 1038240 entries \(layers\(i\) .* needs 0\.0 GB"):
        _ = result.vectors
    assert [block.shape for block in result.layers(2)] == [(720, 720), (720, 720), (2, 720)]
    with pytest.raises(MemoryError, match="to lift 3 directions to 1038240 entries each needs"):
        R.lift(np.ones((R.shape[0], 3)))


@pytest.mark.parametrize("route", ["auto", "dual", "reduced", "full"])
def test_all_twelve_copies(identity_workload, route):
    """One-vector Lanczos misses copies of this 12-fold eigenvalue in most runs."""
    chain, loss, top = identity_workload
    for seed in range(40 if route == "full" else 10):
        result = fc.sharpness(chain, loss, 12, seed=seed, route=route)
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
            result = fc.sharpness(chain, loss, 12, seed=seed, v0=v0, route="full")
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
        result = fc.sharpness(chain, loss, 20, seed=seed, route="full")
        assert result.certificate.hits > 0
        assert np.abs(result.values - top).max() <= 1e-6 * top
        assert result.status == "converged"


def test_more_values_than_are_nonzero():
    """At interpolation the rank is at most d_out·rank(data); beyond it the answer holds zeros."""
    X = np.random.default_rng(0).standard_normal((2, 12))
    case = make_case((12, 15, 3), 0)
    loss = fc.QuadraticLoss(X, X @ case.chain().product().T)
    dense = np.linalg.eigvalsh(fc.Hessian(case.chain(), loss).dense())[::-1]
    for route in ("auto", "dual", "reduced", "full"):
        result = fc.sharpness(case.chain(), loss, 10, route=route)
        assert result.status == "converged"
        assert (result.values[:6] > 1e-3).all()
        assert np.abs(result.values[6:]).max() <= 1e-6 * result.values[0]
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


# -- routes --------------------------------------------------------------------------------------------------


def interpolating(case, n=9):
    """A quadratic loss that the chain solves exactly."""
    X, _ = random_data(case, n, 9)
    Phi = case.chain().product()
    constant = Phi[:, case.d_in :].T if case.has_biases else 0.0
    return fc.QuadraticLoss(X, X @ Phi[:, : case.d_in].T + constant)


def check_pairs(result, H, k, which, tol):
    """Values against LAPACK; orthonormal vectors whose residuals in the full matrix are what the result says."""
    values = np.linalg.eigvalsh(H.dense())
    top = max(float(np.abs(values).max()), 1e-300)
    order = {"LA": -values, "SA": values, "LM": -np.abs(values)}[which]
    want = values[np.argsort(order, kind="stable")][:k]
    got = np.abs(result.values) if which == "LM" else result.values
    assert np.abs(got - (np.abs(want) if which == "LM" else want)).max() <= tol * top
    V = result.vectors.astype(np.float64)
    assert V.shape == (H.shape[0], k)
    assert relative_error(V.T @ V, np.eye(k)) <= 10 * np.sqrt(tol)
    residuals = np.linalg.norm(H @ V - V * result.values, axis=0)
    assert residuals.max() <= 2 * tol * top
    assert np.abs(residuals - result.residuals).max() <= 0.1 * tol * top
    assert result.converged.all()
    assert result.status == "converged"
    for i in range(k):
        blocks = np.concatenate([b.ravel() for b in result.layers(i)])
        np.testing.assert_array_equal(blocks, result.vectors[:, i])


@pytest.mark.parametrize("kind", ["batchmean", "labels-mean", "coupled", "interpolating"])
@given(
    case=cases(5),
    which=st.sampled_from(["LA", "SA", "LM"]),
    curvature=st.sampled_from(["hessian", "ggn"]),
    share=st.floats(0, 1),
)
def test_every_route_gives_the_same(kind, case, which, curvature, share):
    """All k from 1 to P, so that wanted values cross zero."""
    loss = interpolating(case) if kind == "interpolating" else make_loss(kind, case).loss
    H = fc.Hessian(case.chain(), loss)
    k = 1 + int(share * (H.shape[0] - 1))
    operator = H if curvature == "hessian" else H.gauss_newton
    routes = ["auto", "reduced", "full"]
    if which != "SA" and (kind == "interpolating" or (kind == "batchmean" and curvature == "ggn")):
        routes.append("dual")
    for route in routes:
        result = fc.sharpness(case.chain(), loss, k, which=which, curvature=curvature, route=route, tol=1e-8)
        check_pairs(result, operator, k, which, 1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize("dims", [(10, 20, 20, 4), (4, 20, 20, 10)])
@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_routes_by_lanczos(dims, biases, dtype, curvature):
    case = make_case(dims, 1, biases, [False, True, False])
    chain, loss = case.chain(dtype), make_loss("mean", case, 40).loss
    H = fc.Hessian(chain, loss)
    operator = H if curvature == "hessian" else H.gauss_newton
    for route in ("reduced", "full") + (("dual",) if curvature == "ggn" else ()):
        result = fc.sharpness(chain, loss, 3, curvature=curvature, route=route)
        assert result.tol == (1e-4 if dtype == np.float32 else 1e-6)
        assert result.vectors.dtype == dtype
        check_pairs(result, operator, 3, "LA", result.tol)


def test_values_below_the_tolerance_of_the_dual():
    """Eigenvalues that fall by a factor of 1e4 a time: the dual's small ones are kept where they can be certified."""
    X = np.diag([1.0, 1e-2, 1e-4, 1e-6]) * 2.0
    chain, loss = fc.LinearChain([np.eye(4), np.ones((1, 4))]), fc.QuadraticLoss(X, X @ np.ones((4, 1)))
    want = np.linalg.eigvalsh(fc.Hessian(chain, loss).gauss_newton.dense())[::-1]
    for tol in (1e-6, 1e-10):
        for route in ("dual", "reduced", "full"):
            result = fc.sharpness(chain, loss, 6, curvature="ggn", tol=tol, route=route)
            assert np.abs(result.values - want[:6]).max() <= tol * want[0], route
            last, delta = result.values[-1], result.certificate.delta + 1e-14 * want[0]  # the oracle's rounding
            assert (want > last + delta).sum() <= (result.values > last).sum(), route
            assert result.status == "converged"


def test_the_certificate_of_a_large_dual_counts_what_was_dropped():
    """By Lanczos on 700 unknowns: three eigenvalues, and hundreds of 1e-8 of the first that count as zeros."""
    scales = np.r_[1.0, 0.9, 0.8, np.full(697, 1e-4)]
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((700, 700)))[0]
    X = np.sqrt(700.0) * scales[:, None] * basis
    chain, loss = fc.LinearChain([rng.standard_normal((8, 700)) / 26.0, np.ones((1, 8))]), fc.QuadraticLoss(X, X[:, :1])
    result = fc.sharpness(chain, loss, 6, curvature="ggn", route="dual")
    assert "Block Lanczos" in result.method
    assert (result.values[:3] > 0.0).all()
    assert (result.values[3:] == 0.0).all()
    reduced = fc.sharpness(chain, loss, 6, curvature="ggn", route="reduced", tol=1e-10)
    assert reduced.values[5] > 0.0
    assert reduced.values[5] <= result.certificate.delta
    assert result.certificate.delta > result.tol * result.values[0]


def test_nothing_is_dropped_where_the_dual_is_small():
    case = make_case((10, 20, 1), 0)
    result = fc.sharpness(case.chain(), interpolating(case, 2), 4, curvature="ggn", route="dual")
    assert list(result.values > 0.0) == [True, True, False, False]
    assert result.certificate.method == "dense"
    assert result.certificate.delta == 0.0


def test_more_zeros_than_the_dual_can_give():
    """r = left everywhere leaves no direction outside the reduced space: the zeros must come from inside it."""
    case = make_case((3, 3, 3), 0)
    loss = interpolating(case, 2)
    P = case.chain().num_parameters
    result = fc.sharpness(case.chain(), loss, P, curvature="ggn", route="dual")
    check_pairs(result, fc.Hessian(case.chain(), loss).gauss_newton, P, "LA", 1e-6)
    assert "the reduced matrix was solved for the zeros" in result.explain()
    alone = fc.sharpness(case.chain(), loss, P, curvature="ggn", route="reduced")
    assert result.products > alone.products


@pytest.mark.parametrize("route", ["reduced", "dual", "full"])
def test_start_vectors_on_every_route(route):
    case = make_case((10, 20, 20, 4), 1, True)
    loss = make_loss("mean", case, 40).loss
    cold = fc.sharpness(case.chain(), loss, 3, curvature="ggn", route=route)
    warm = fc.sharpness(case.chain(), loss, 3, curvature="ggn", route=route, v0=cold.vectors)
    assert warm.products <= cold.products
    np.testing.assert_allclose(warm.values, cold.values, rtol=1e-6)
    single = fc.sharpness(case.chain(), loss, 1, curvature="ggn", route=route, v0=cold.vectors[:, 0])
    np.testing.assert_allclose(single.values, cold.values[:1], rtol=1e-6)
    P = case.chain().num_parameters
    for bad in (np.ones(3), np.ones((3, 2)), np.ones((P, 0))):
        with pytest.raises(ValueError, match=rf"v0 has shape \({bad.shape[0]},.*expected \({P},\) or \({P}, b\)"):
            fc.sharpness(case.chain(), loss, curvature="ggn", route=route, v0=bad)
    with pytest.raises(ValueError, match="v0 contains nan"):
        fc.sharpness(case.chain(), loss, curvature="ggn", route=route, v0=np.full(P, np.nan))


def test_what_explain_says():
    case = make_case((10, 20, 20, 4), 1)
    loss = make_loss("mean", case, 40).loss
    text = fc.sharpness(case.chain(), loss, route="full").explain()
    for part in ("reduced: ", "full: 680 unknowns", "products of", "s predicted", "Route full, as asked."):
        assert part in text
    assert "Route dual, as asked." in fc.sharpness(case.chain(), loss, curvature="ggn", route="dual").explain()
    labels = make_loss("labels-mean", case, 40).loss
    assert "dual: not for this problem, the loss is not quadratic." in fc.sharpness(case.chain(), labels).explain()
    smallest = fc.sharpness(case.chain(), loss, curvature="ggn", which="SA").explain()
    assert "dual: not for this problem, it knows the largest eigenvalues only." in smallest
    for bad, which, curvature, match in (
        (loss, "LA", "hessian", "the loss gradient is not negligible"),
        (labels, "LA", "ggn", "the loss is not quadratic"),
        (loss, "SA", "ggn", "it knows the largest eigenvalues only"),
    ):
        with pytest.raises(ValueError, match=f"route is 'dual'; {match}"):
            fc.sharpness(case.chain(), bad, which=which, curvature=curvature, route="dual")
    with pytest.raises(ValueError, match="route is 'best'; expected one of 'auto', 'dual', 'reduced', 'full'"):
        fc.sharpness(case.chain(), loss, route="best")


def test_the_route_predicted_to_be_fastest():
    """A wide chain with a narrow output goes reduced; at interpolation with few data it goes dual; a tiny one full."""
    rng = np.random.default_rng(0)
    W = [rng.standard_normal(s) / np.sqrt(s[1]) for s in ((400, 300), (400, 400), (3, 400))]
    X, Y = rng.standard_normal((20, 300)), rng.standard_normal((20, 3))
    chain = fc.LinearChain(W)
    noisy, solved = fc.QuadraticLoss(X, Y), fc.QuadraticLoss(X, X @ chain.product().T)
    for loss, curvature, route in ((noisy, "hessian", "reduced"), (solved, "hessian", "dual"), (noisy, "ggn", "dual")):
        result = fc.sharpness(chain, loss, curvature=curvature)
        assert f"Route {route}: the least time predicted." in result.explain()
        assert result.status == "converged"
    square = make_case((6, 6, 6), 0)
    assert "Route full" in fc.sharpness(square.chain(), make_loss("coupled", square).loss).explain()


def test_lifting_after_the_weights_changed():
    """The result is a snapshot; only further products are refused."""
    case = make_case((10, 20, 4), 1)
    chain = fc.LinearChain(case.weights)
    H = fc.Hessian(chain, make_loss("mean", case, 40).loss)
    result = extreme_eigenpairs(H, 2, route="reduced")
    want = extreme_eigenpairs(H, 2, route="reduced").vectors
    case.weights[0][0, 0] += 1.0
    np.testing.assert_array_equal(result.vectors, want)
    np.testing.assert_array_equal(copy.deepcopy(result).vectors, want)
    with pytest.raises(StaleWeightsError):
        extreme_eigenpairs(H, 2, route="reduced")


@pytest.mark.parametrize("route", ["dual", "reduced", "full"])
def test_stopping_and_too_few_steps(route):
    case = make_case((60, 30, 30, 40), 1)
    loss = make_loss("mean", case, 100, 60).loss  # 2,400 unknowns in the dual: too many for a dense eigendecomposition
    options = {"curvature": "ggn", "route": route, "tol": 1e-12}
    stopped = fc.sharpness(case.chain(), loss, 2, callback=lambda state: True, **options)
    assert stopped.status == "stopped"
    few = fc.sharpness(case.chain(), loss, 2, maxiter=2, **options)
    assert few.status == "max_iterations"
    H = fc.Hessian(case.chain(), loss).gauss_newton
    for result in (stopped, few):
        V = result.vectors
        residuals = np.linalg.norm(H @ V - V * result.values, axis=0)
        assert np.abs(residuals - result.residuals).max() <= 1e-9 * result.values[0]


@pytest.mark.parametrize("route", ["dual", "reduced"])
@pytest.mark.parametrize("unfinished", [{"maxiter": 1}, {"callback": lambda state: np.True_}])
def test_what_was_not_searched_for_is_not_called_zero(route, unfinished):
    """One step holds fewer Ritz vectors than are asked for: no converged zeros make up for them."""
    case = make_case((60, 100, 100, 40), 1)  # wide enough for the matrix to annihilate half of all directions
    loss = make_loss("mean", case, 100, 60).loss
    result = fc.sharpness(case.chain(), loss, 20, curvature="ggn", route=route, tol=0.0, **unfinished)
    assert result.status == ("max_iterations" if "maxiter" in unfinished else "stopped")
    assert 1 <= len(result.values) < 20
    assert not result.converged.any()
    assert (result.residuals > 0.0).all()
    assert result.message.count("below the floor of this precision") == 1
    assert result.vectors.shape == (case.chain().num_parameters, len(result.values))


@pytest.mark.parametrize("route", ["dual", "reduced", "full"])
def test_exceptions_of_the_callback_come_out(route):
    def failing(state):
        raise KeyError("from the callback")

    case = make_case((60, 30, 30, 40), 1)
    loss = make_loss("mean", case, 100, 60).loss
    with pytest.raises(KeyError, match="from the callback"):
        fc.sharpness(case.chain(), loss, 2, curvature="ggn", route=route, callback=failing)


@pytest.mark.parametrize("route", ["reduced", "full"])
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda dPhi: np.full_like(dPhi, np.nan), "NaN or Inf"),
        (lambda dPhi: dPhi * np.arange(1.0, 1.0 + dPhi.shape[-1]) @ np.triu(np.ones((6, 6))), "not symmetric"),
        (lambda dPhi: 1j * dPhi, "loss.hessian_product returned complex128; expected real numbers"),
    ],
)
def test_losses_with_broken_second_derivatives(route, broken, message):
    class Broken(fc.QuadraticLoss):
        def linearize(self, Phi):
            return broken

    case = make_case((6, 20, 4))
    rng = np.random.default_rng(0)
    loss = Broken(rng.standard_normal((50, 6)), rng.standard_normal((50, 4)))
    with pytest.raises(ValueError, match=message):
        fc.sharpness(case.chain(), loss, 2, route=route)


@pytest.mark.parametrize(
    ("route", "what"), [("full", "sweeps of 4 rows"), ("reduced", "factors of 4 rows"), ("dual", "Gram matrices")]
)
def test_memory_for_setting_up_is_foreseen(monkeypatch, route, what):
    case = make_case((10, 20, 20, 4), 1)
    loss = make_loss("mean", case, 40).loss
    H = fc.Hessian(case.chain(), loss).gauss_newton
    monkeypatch.setattr("flatcore._memory._SMALL", 0)
    monkeypatch.setattr("flatcore._memory.available_memory", lambda: 1000)
    with pytest.raises(MemoryError, match=what):
        fc.Hessian(case.chain(), loss) if route == "full" else H.reduced() if route == "reduced" else H.dual()


def test_floors_are_those_of_the_weights_whatever_the_route():
    case = make_case((10, 20, 20, 4), 1)
    loss = make_loss("mean", case, 40).loss
    for route in ("dual", "reduced", "full"):
        result = fc.sharpness(case.chain(np.float32), loss, curvature="ggn", tol=0.0, route=route)
        assert result.tol == 1e-6
        assert result.message.count("below the floor of this precision; 1e-06 was used") == 1


def test_bits_repeat_on_every_route():
    case = make_case((10, 20, 20, 4), 1)
    loss = make_loss("mean", case, 40).loss
    for route in ("dual", "reduced", "full"):
        first, second = (fc.sharpness(case.chain(), loss, 2, curvature="ggn", route=route, seed=7) for _ in range(2))
        np.testing.assert_array_equal(first.vectors, second.vectors)
        np.testing.assert_array_equal(first.values, second.values)
