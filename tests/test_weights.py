"""Balance, coupling and gains against plain NumPy formulas, chance levels against simulation, paths by brute force."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import cases, make_case, random_orthogonal

import flatcore as fc
from flatcore.weights import angle_chance, overlap_chance

# Spectral norms and products of a few layers in float64: 1e-11 relative is rounding with room.
TOL = 1e-11


def links(case):
    """The matrices the layers apply, skip links included."""
    return [W + np.eye(len(W)) if s else W for W, s in zip(case.weights, case.skip, strict=True)]


def bottom_product(W, j, d):
    out = np.eye(d)
    for layer in W[:j]:
        out = layer @ out
    return out


def top_product(W, j, d):
    out = np.eye(d)
    for layer in W[j:][::-1]:
        out = out @ layer
    return out


def norm(A):
    return float(np.linalg.norm(A, 2))


# -- balance -------------------------------------------------------------------------------------------------


@given(case=cases(5))
def test_balance(case):
    result = fc.balance(case.chain())
    W = links(case)
    M = len(W)
    for j in range(M - 1):
        A, B = W[j + 1].T @ W[j + 1], W[j] @ W[j].T
        if case.biases[j] is not None:
            B = B + np.outer(case.biases[j], case.biases[j])
        gap, size = np.linalg.norm(A - B), np.hypot(np.linalg.norm(A), np.linalg.norm(B))
        assert result.gap[j] == pytest.approx(gap, rel=TOL, abs=1e-13)
        assert result.relative_gap[j] == pytest.approx(gap / size if size > 0 else 0.0, rel=TOL, abs=1e-13)
        assert 0.0 <= result.relative_gap[j] <= 1.0 + 1e-12
    assert result.gap.shape == result.relative_gap.shape == (M - 1,)
    assert result.spectral.shape == (M,)
    sigma = norm(bottom_product(W, M, case.d_in))
    if not sigma:
        assert np.isnan(result.spectral).all()
        assert "zero" in result.status
    elif sigma > 1e-10:  # below, the exponents magnify the rounding of σ itself
        for j in range(M):
            A, B = top_product(W, j + 1, case.d_out), bottom_product(W, j, case.d_in)
            assert result.spectral[j] == pytest.approx(norm(A) * norm(B) / sigma ** (1 - 1 / M), rel=1e-9)
        assert result.status == "computed"
        assert (result.spectral >= sigma ** (1 / M) / max(norm(w) for w in W) * (1 - 1e-9)).all()


def test_relative_gap_is_one_for_orthogonal_ranges():
    chain = fc.LinearChain([np.diag([1.0, 0.0]), np.diag([0.0, 2.0])])
    assert fc.balance(chain).relative_gap[0] == pytest.approx(1.0, abs=1e-15)


def test_gap_is_conserved_by_gradient_flow():
    """d/dt(W_{j+1}ᵀW_{j+1} − W_jW_jᵀ − b_jb_jᵀ) = 0: along −∇L the gap's matrix has no first-order change."""
    case = make_case((4, 5, 3, 2), 0, True)
    chain = case.chain()
    rng = np.random.default_rng(0)
    loss = fc.QuadraticLoss(rng.standard_normal((9, 4)), rng.standard_normal((9, 2)))
    theta, gradient = chain.to_vector(), fc.Hessian(chain, loss).gradient()
    # the change of the gap itself is second order in the step: halving the step quarters it
    changes = [fc.balance(chain.with_vector(theta - t * gradient)).gap - fc.balance(chain).gap for t in (1e-4, 5e-5)]
    np.testing.assert_allclose(changes[0] / changes[1], 4.0, rtol=0.01)


@pytest.mark.parametrize("function", [fc.balance, fc.gains, lambda chain: fc.coupling(chain, 2)])
def test_zero_layers_and_depth_one_give_no_warnings(function):
    """Warnings are errors in these tests: division by a zero norm would raise."""
    zero = fc.LinearChain([np.ones((3, 2)), np.zeros((2, 3)), np.ones((2, 2))])
    assert "zero" in function(zero).status
    assert function(fc.LinearChain([np.zeros((3, 2))])).status
    assert function(fc.LinearChain([np.ones((1, 1))])).status == "computed"
    orthogonal = fc.LinearChain([np.diag([1.0, 0.0]), np.diag([0.0, 1.0])])  # no layer is zero but the product is
    assert function(orthogonal).status


def test_depth_one():
    chain = fc.LinearChain([np.diag([3.0, 2.0])])
    b, c, g = fc.balance(chain), fc.coupling(chain), fc.gains(chain)
    assert b.gap.size == b.relative_gap.size == 0
    np.testing.assert_allclose(b.spectral, [1.0])
    assert c.overlaps == () == c.angles
    assert c.largest.size == c.chance.size == c.ratio.size == 0
    assert c.path == (0,)
    assert c.path_strength == pytest.approx(3.0)
    assert c.path_agreement == pytest.approx((1.0, 1.0))
    np.testing.assert_allclose(g.gains, [3.0])
    assert g.partial.size == g.partial_top.size == 0


# -- gains ---------------------------------------------------------------------------------------------------


@given(case=cases(5))
def test_gains(case):
    chain, W = case.chain(), links(case)
    M = len(W)
    Phi = bottom_product(W, M, case.d_in)
    sigma = norm(Phi)
    result = fc.gains(chain)
    assert result.sigma == pytest.approx(sigma, rel=TOL, abs=1e-13)
    assert result.band == pytest.approx((1.0, np.sqrt(max(M - 1, 1))))
    if not sigma:
        for array in (result.gains, result.residuals, result.partial, result.partial_top):
            assert np.isnan(array).all()
        return
    s = np.linalg.svd(Phi, compute_uv=False)
    if sigma < 1e-6 or (len(s) > 1 and s[1] > 0.99 * s[0]):
        return  # the top direction is not determined to rounding
    assert result.reference == pytest.approx(sigma ** (1 / M), rel=1e-9)
    z = np.linalg.svd(Phi)[2][0]
    for j in range(M):
        image = W[j] @ z
        g = np.linalg.norm(image)
        assert result.gains[j] == pytest.approx(g, rel=1e-7)
        residual = np.linalg.norm(W[j].T @ image / g - g * z) / g
        assert result.residuals[j] == pytest.approx(residual, rel=1e-6, abs=1e-7)
        z = image / g
    assert np.prod(result.gains) == pytest.approx(sigma, rel=1e-9)
    for j in range(1, M):
        want = norm(bottom_product(W, j, case.d_in)) / sigma ** (j / M)
        assert result.partial[j - 1] == pytest.approx(want, rel=1e-9)
        want = norm(top_product(W, j, case.d_out)) / sigma ** (1 - j / M)
        assert result.partial_top[j - 1] == pytest.approx(want, rel=1e-9)


def test_gains_at_balance():
    """A chain of equal rotations times a diagonal: every gain is σ^{1/M} and every residual zero."""
    Q = [random_orthogonal(4, seed) for seed in range(5)]
    D = np.diag([2.0, 1.0, 0.5, 0.1])
    result = fc.gains(fc.LinearChain([Q[j + 1] @ D @ Q[j].T for j in range(4)]))
    np.testing.assert_allclose(result.gains, 2.0, rtol=1e-12)
    np.testing.assert_allclose(result.residuals, 0.0, atol=1e-12)
    np.testing.assert_allclose(result.partial, 1.0, rtol=1e-12)
    np.testing.assert_allclose(result.partial_top, 1.0, rtol=1e-12)


def test_weighted_gains():
    """z_0 = Lv*/‖Lv*‖ with the v* that attains λ*; the reference is (‖ΦLv*‖/‖Lv*‖)^{1/M}, and λ* follows from both."""
    case = make_case((4, 5, 3), 2)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((30, 4)) * [3.0, 1.0, 0.5, 0.1]
    result = fc.gains(case.chain(), fc.QuadraticLoss(X, rng.standard_normal((30, 3))))
    Phi = case.weights[1] @ case.weights[0]
    L = np.linalg.cholesky(X.T @ X / 30)
    grid = rng.standard_normal((4, 200_000))
    grid = L @ (grid / np.linalg.norm(grid, axis=0))
    value = np.linalg.norm(Phi @ grid, axis=0) * np.linalg.norm(grid, axis=0)
    z = grid[:, value.argmax()] / np.linalg.norm(grid[:, value.argmax()])
    # the best of 2·10⁵ random directions in R⁴ is within about 2° of the maximiser: values within 5 %
    first = np.linalg.norm(case.weights[0] @ z)
    assert result.weighted_gains[0] == pytest.approx(first, rel=0.05)
    assert result.weighted_gains[1] == pytest.approx(np.linalg.norm(Phi @ z) / first, rel=0.05)
    assert result.weighted_reference == pytest.approx(np.prod(result.weighted_gains) ** 0.5, rel=1e-10)
    assert np.isnan(result.weighted_residuals[0])
    assert np.isfinite(result.weighted_residuals[1])


def test_whitened_weighted_gains_are_the_plain_ones():
    case = make_case((4, 5, 3), 2)
    X = 2.0 * np.eye(4)
    result = fc.gains(case.chain(), fc.QuadraticLoss(X, np.ones((4, 3))))
    np.testing.assert_allclose(result.weighted_gains, result.gains, rtol=1e-6)
    assert result.weighted_reference == pytest.approx(result.reference, rel=1e-9)


@pytest.mark.parametrize("biases", [False, True])
def test_no_weighted_gains_for_other_losses(biases):
    case = make_case((4, 5, 3), 2, biases)
    result = fc.gains(case.chain(), fc.CrossEntropyLoss(np.ones((2, 4)), [0, 1]))
    assert result.weighted_gains.size == 0
    assert np.isnan(result.weighted_reference)
    np.testing.assert_allclose(result.gains, fc.gains(make_case((4, 5, 3), 2).chain()).gains, rtol=1e-9)


# -- coupling ------------------------------------------------------------------------------------------------


def svds(W, k):
    return [(U[:, :k], s[:k], Vt[:k]) for U, s, Vt in (np.linalg.svd(w, full_matrices=False) for w in W)]


@given(case=cases(5), k=st.integers(1, 6))
def test_coupling(case, k):
    result = fc.coupling(case.chain(), k)
    W = links(case)
    parts = svds(W, k)
    for j, (U, s, _) in enumerate(parts):
        np.testing.assert_allclose(result.singular_values[j], s, atol=1e-12 * (1 + s[0]))
        if j == len(parts) - 1:
            break
        V = parts[j + 1][2]
        overlaps, d, m = result.overlaps[j], U.shape[0], min(U.shape[1], len(V))
        assert overlaps.shape == (U.shape[1], len(V))
        assert result.largest[j] == overlaps.max()
        assert result.chance[j] == overlap_chance(d, overlaps.size)
        assert result.chance_95[j] == overlap_chance(d, overlaps.size, 0.95)
        assert result.ratio[j] == pytest.approx(result.largest[j] / result.chance[j])
        assert result.angle_chance[j] == angle_chance(d, m)
        assert result.angles[j].shape == (m,)
        assert (np.diff(result.angles[j]) <= 0).all()
        separated = all(len(x) < 2 or np.diff(x).max() < -1e-3 * x[0] for x in (s, parts[j + 1][1]))
        complete = all(len(x) < k or x[-1] > 1e-3 * x[0] for x in (s, parts[j + 1][1]))
        if separated and complete and W[j].any() and W[j + 1].any() and k >= max(map(min, (w.shape for w in W))):
            np.testing.assert_allclose(overlaps, np.abs(U.T @ V.T), atol=1e-8)
            np.testing.assert_allclose(result.angles[j], np.linalg.svd(V @ U, compute_uv=False), atol=1e-8)


def test_overlaps_and_angles_of_generic_layers(rng):
    W = [rng.standard_normal(s) for s in [(7, 6), (8, 7), (5, 8)]]
    for k in (1, 3, 5):
        result, parts = fc.coupling(fc.LinearChain(W), k), svds(W, k)
        for j in range(2):
            cross = parts[j + 1][2] @ parts[j][0]
            np.testing.assert_allclose(result.overlaps[j], np.abs(cross.T), atol=1e-10)
            np.testing.assert_allclose(result.angles[j], np.linalg.svd(cross, compute_uv=False), atol=1e-10)


@given(seed=st.integers(0, 10_000), depth=st.integers(1, 4), k=st.integers(1, 4))
def test_path_by_brute_force(seed, depth, k):
    rng = np.random.default_rng(seed)
    dims = rng.integers(1, 5, depth + 1)
    W = [rng.standard_normal((b, a)) for a, b in itertools.pairwise(dims)]
    result = fc.coupling(fc.LinearChain(W), k)
    parts = svds(W, k)
    best = {}
    for path in itertools.product(*(range(len(s)) for _, s, _ in parts)):
        weight = np.prod([parts[j][1][i] for j, i in enumerate(path)])
        for j in range(depth - 1):
            weight *= abs(parts[j][0][:, path[j]] @ parts[j + 1][2][path[j + 1]])
        best[path] = weight
    assert result.path_strength == pytest.approx(max(best.values()), rel=1e-9)
    assert best[result.path] == pytest.approx(max(best.values()), rel=1e-9)
    Phi = bottom_product(W, depth, dims[0])
    U, _, Vt = np.linalg.svd(Phi)
    want = abs(parts[-1][0][:, result.path[-1]] @ U[:, 0]), abs(parts[0][2][result.path[0]] @ Vt[0])
    assert result.path_agreement == pytest.approx(want, abs=1e-6)


def test_sum_over_paths_is_the_end_to_end_matrix(rng):
    """With all singular values the strongest path cannot exceed the sum of all: σ ≤ Σ weights ≤ number·strongest."""
    W = [rng.standard_normal((4, 4)) for _ in range(3)]
    result = fc.coupling(fc.LinearChain(W), 4)
    assert result.path_strength * 4**3 >= norm(W[2] @ W[1] @ W[0])


def test_ties_are_left_out_of_the_path():
    """Single vectors of tied singular values mean nothing: a rotation of them would change the path."""
    A, B = np.diag([3.0, 3.0, 1.0]), np.diag([2.0, 1.5, 1.0])
    result = fc.coupling(fc.LinearChain([A, B]), 3)
    assert result.path == (2, 2)
    assert result.path_strength == pytest.approx(1.0)
    assert "tied" in result.status
    assert "layers 1 " in result.status
    np.testing.assert_allclose(result.angles[0], 1.0)
    nothing = fc.coupling(fc.LinearChain([np.eye(3), np.eye(3)]), 3)
    assert nothing.path == ()
    assert nothing.path_strength == 0.0
    assert "no path is left" in nothing.status
    assert np.isnan(nothing.path_agreement).all()


def test_a_tie_across_the_cut_at_k():
    """The k-th and (k+1)-th values tie: which vector is kept is arbitrary, so it cannot be on a path."""
    Q = random_orthogonal(3, 0)
    for tied in ([np.diag([1.0, 3.0, 3.0]), Q], [Q * [3.0, 2.0, 1.0], np.diag([1.0, 3.0, 3.0])]):
        result = fc.coupling(fc.LinearChain(tied), 1)
        assert result.path == ()
        assert "tied" in result.status


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_coupled_layers_stand_out(dtype):
    Q = [random_orthogonal(50, seed) for seed in range(4)]
    D = np.diag(np.geomspace(10, 0.1, 50))
    aligned = fc.LinearChain([(Q[j + 1] @ D @ Q[j].T).astype(dtype) for j in range(3)])
    result = fc.coupling(aligned, 4)
    np.testing.assert_allclose(result.largest, 1.0, atol=1e-4)
    assert (result.ratio > 2).all()
    assert result.path == (0, 0, 0)
    assert result.path_agreement == pytest.approx((1.0, 1.0), abs=1e-4)
    random = fc.coupling(fc.LinearChain([Q[0] @ D, Q[1] @ D, Q[2] @ D]), 4)
    assert (random.largest < random.chance_95 * 1.3).all()


def test_bias_is_left_out_of_coupling_and_gains():
    with_bias, without = make_case((4, 4, 4), 1, True).chain(), make_case((4, 4, 4), 1).chain()
    np.testing.assert_array_equal(fc.coupling(with_bias).overlaps[0], fc.coupling(without).overlaps[0])
    assert fc.coupling(with_bias).path_agreement == pytest.approx(fc.coupling(without).path_agreement)
    np.testing.assert_allclose(fc.gains(with_bias).gains, fc.gains(without).gains, rtol=1e-12)


def test_torch_layers():
    model = torch.nn.Sequential(torch.nn.Linear(6, 5, bias=False), torch.nn.Linear(5, 3, bias=False)).double()
    chain = fc.LinearChain([layer.weight for layer in model])
    U = torch.linalg.svd(model[0].weight.detach()).U[:, 0].numpy()
    V = torch.linalg.svd(model[1].weight.detach()).Vh[0].numpy()
    assert fc.coupling(chain, 1).largest[0] == pytest.approx(abs(U @ V), abs=1e-10)


@pytest.mark.parametrize(("k", "message"), [(0, "k is 0; expected at least 1"), (2.0, "k is 2.0; expected an integer")])
def test_bad_k(k, message):
    with pytest.raises(ValueError, match=message):
        fc.coupling(fc.LinearChain([np.eye(2)]), k)


# -- chance --------------------------------------------------------------------------------------------------


def frames(d, k, count, rng):
    """Random orthonormal k-frames of R^d, (count, d, k)."""
    return np.linalg.qr(rng.standard_normal((count, d, k)))[0]


@pytest.mark.parametrize(("d", "k"), [(2, 1), (3, 1), (50, 1), (50, 4), (200, 8)])
@pytest.mark.parametrize("quantile", [0.5, 0.95])
def test_overlap_chance_by_simulation(d, k, quantile, rng):
    """3,000 draws: a quantile's standard error is below 1.5 % here, and entries of frames are nearly independent."""
    U, V = frames(d, k, 3000, rng), frames(d, k, 3000, rng)
    largest = np.abs(np.einsum("nda,ndb->nab", U, V)).max(axis=(1, 2))
    assert overlap_chance(d, k * k, quantile) == pytest.approx(np.quantile(largest, quantile), rel=0.05)


@pytest.mark.parametrize(("d", "k"), [(800, 80), (800, 240), (400, 199)])
def test_angle_chance_by_simulation(d, k, rng):
    """The formula is the limit of large dimensions, approached from below as d^(−2/3): 2.5 % at c = 0.1, d = 800."""
    cosines = [norm(frames(d, k, 1, rng)[0].T @ frames(d, k, 1, rng)[0]) for _ in range(3)]
    assert angle_chance(d, k) == pytest.approx(np.median(cosines), rel=0.035)


def test_chance_in_small_dimensions():
    assert overlap_chance(1, 1) == 1.0
    assert angle_chance(4, 2) == 1.0  # two planes in R⁴ are half the space
    assert angle_chance(3, 2) == 1.0  # they must meet
    assert overlap_chance(3, 1) == pytest.approx(0.5)  # |cos| is uniform on the sphere in R³


def test_gaps_beyond_float64_are_not_called_computed(rng):
    layers = [1e150 * rng.standard_normal((4, 4)) for _ in range(2)]
    assert fc.analyze(fc.LinearChain(layers)).balance.status == "gaps are beyond float64"
