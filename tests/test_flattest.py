"""The flattest sharpness λ* (docs/theory.md, section 4): both forms, never undercut, attained, and reached by training.

The values compared are sums of a few hundred terms, their eigenvalues found by LAPACK: 1e-10 relative is rounding with
room. Only the minimisation over ζ is coarser: it stops where bisection can no longer tell the slopes' signs.
"""

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

import flatcore as fc
from flatcore.linear.flattest import flattest_minimum


def top_ggn(weights, loss):
    H = fc.Hessian(fc.LinearChain(weights), loss)
    return float(np.linalg.eigvalsh(H.gauss_newton.dense())[-1])


def whitened(d):
    return np.sqrt(d) * np.eye(d)  # S = I


def min_form(Phi, S, depth):
    """2·min_ζ λ_max(ζ·LᵀL + (M−1)ζ^{−1/(M−1)}·LᵀΦᵀΦL) by a bounded scalar search over log ζ (convex)."""
    L = scipy.linalg.sqrtm(S).real
    P = L @ Phi.T @ Phi @ L

    def top(t):
        return 2 * float(np.linalg.eigvalsh(np.exp(t) * S + (depth - 1) * np.exp(-t / (depth - 1)) * P)[-1])

    found = scipy.optimize.minimize_scalar(top, bounds=(-30, 30), method="bounded", options={"xatol": 1e-13})
    return found.fun


def sampled_max_form(Phi, S, depth, rng):
    """2M·(‖ΦLv‖^{M−1}‖Lv‖)^{2/M} at the best of many random unit v: below the maximum, whatever v."""
    L = scipy.linalg.sqrtm(S).real
    V = rng.standard_normal((len(S), 500))
    V = L @ (V / np.linalg.norm(V, axis=0))
    gains = np.linalg.norm(Phi @ V, axis=0) ** (depth - 1) * np.linalg.norm(V, axis=0)
    return 2 * depth * float(gains.max()) ** (2 / depth)


@st.composite
def problems(draw):
    """Depth, rectangular Φ of any rank, hidden widths of at least that rank, and inputs of any covariance."""
    depth = draw(st.integers(1, 5))
    d_in, d_out = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    rank = draw(st.integers(1, min(d_in, d_out)))
    widths = [draw(st.integers(rank, 6)) for _ in range(depth - 1)]
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    Phi = rng.standard_normal((d_out, rank)) @ rng.standard_normal((rank, d_in))
    spread = draw(st.sampled_from([0.0, 1.0, 4.0]))
    X = rng.standard_normal((draw(st.integers(1, 12)), d_in)) * np.exp(rng.uniform(-spread, spread, d_in))
    return depth, Phi, rank, widths, X, rng


def factorise(Phi, rank, widths, rng):
    """A random factorisation of Φ through these widths, by random gauge transformations of a plain one."""
    U, s, Vt = np.linalg.svd(Phi)
    left = U[:, :rank] * s[:rank]
    bases = [rng.standard_normal((w, rank)) for w in widths]  # full column rank: R⁺R = I
    inverses = [np.linalg.pinv(B) for B in bases]
    first, last = Vt[:rank], left
    if not widths:
        return [last @ first]
    middle = [bases[j + 1] @ inverses[j] for j in range(len(widths) - 1)]
    return [bases[0] @ first, *middle, last @ inverses[-1]]


def flattest_factorisation(Phi, rank, widths, zeta, rng):
    """The construction of section 4.2: W_1 = UᵀΦ/√ζ, scaled (partial) identities, W_M = ζ^{1/(2(M−1))}U."""
    depth = len(widths) + 1
    if depth == 1:
        return [Phi]
    scale = zeta ** (0.5 / (depth - 1))
    U = np.linalg.svd(Phi)[0][:, :rank]
    embed = [np.linalg.qr(rng.standard_normal((w, rank)))[0] for w in widths]  # isometries R^rank → R^w
    middle = [scale * embed[j + 1] @ embed[j].T for j in range(len(widths) - 1)]
    return [embed[0] @ U.T @ Phi / np.sqrt(zeta), *middle, scale * U @ embed[-1].T]


@settings(max_examples=60)
@given(problem=problems())
def test_both_forms_agree_with_each_other_and_with_independent_evaluations(problem):
    depth, Phi, rank, widths, X, rng = problem
    chain = fc.LinearChain(factorise(Phi, rank, widths, rng))
    S = X.T @ X / len(X)
    best = flattest_minimum(chain, fc.QuadraticLoss(X, X @ Phi.T), "current")
    assert best.lower == pytest.approx(best.value, rel=1e-9)
    assert np.linalg.norm(best.v) == pytest.approx(1.0)
    want = 2 * np.linalg.eigvalsh(S)[-1] if depth == 1 else min_form(Phi, S, depth)
    assert best.value == pytest.approx(want, rel=1e-8)  # the scalar search: first order in its 1e-9 at a kink
    assert best.value >= sampled_max_form(Phi, S, depth, rng) * (1 - 1e-9)
    assert fc.flattest_sharpness(chain, fc.QuadraticLoss(X, X @ Phi.T), at="current") == best.value


@settings(max_examples=60)
@given(problem=problems())
def test_never_undercut_and_attained(problem):
    _, Phi, rank, widths, X, rng = problem
    loss = fc.QuadraticLoss(X, X @ Phi.T)
    for _ in range(3):
        weights = factorise(Phi, rank, widths, rng)
        best = flattest_minimum(fc.LinearChain(weights), loss, "current")
        assert top_ggn(weights, loss) >= best.value * (1 - 1e-10)
    flat = flattest_factorisation(Phi, rank, widths, best.zeta, rng)
    np.testing.assert_allclose(fc.LinearChain(flat).product(), Phi, atol=1e-12 * np.abs(Phi).max())
    assert top_ggn(flat, loss) == pytest.approx(best.value, rel=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3)])
def test_attained_by_scaled_identities(depth, shape, rng):
    """Hidden widths of d_M: W_1 = Φ/√ζ and scaled identities."""
    d_out, d_in = shape
    Phi = rng.standard_normal(shape)
    X = rng.standard_normal((30, d_in)) * np.geomspace(0.3, 3, d_in)
    loss = fc.QuadraticLoss(X, X @ Phi.T)
    best = flattest_minimum(fc.LinearChain([Phi] + [np.eye(d_out)] * (depth - 1)), loss, "minimiser")
    weights = [Phi / np.sqrt(best.zeta)] + [best.zeta ** (0.5 / (depth - 1)) * np.eye(d_out)] * (depth - 1)
    assert top_ggn(weights, loss) == pytest.approx(best.value, rel=1e-9)
    # at this minimum the Hessian is the Gauss–Newton matrix
    assert fc.sharpness(fc.LinearChain(weights), loss, tol=1e-11).values[0] == pytest.approx(best.value, rel=1e-9)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6])
def test_whitened_data(depth, rng):
    """Section 4.1: 2M·σ^{2−2/M}."""
    Phi = rng.standard_normal((3, 4))
    sigma = np.linalg.norm(Phi, 2)
    chain = fc.LinearChain([rng.standard_normal(s) for s in [(3, 4)] + [(3, 3)] * (depth - 1)])
    loss = fc.QuadraticLoss(whitened(4), whitened(4) @ Phi.T)
    want = 2 * depth * sigma ** (2 - 2 / depth)
    assert fc.flattest_sharpness(chain, loss) == pytest.approx(want, rel=1e-10)
    current = np.linalg.norm(chain.product(), 2)
    want = 2 * depth * current ** (2 - 2 / depth)
    assert fc.flattest_sharpness(chain, loss, at="current") == pytest.approx(want, rel=1e-10)


def test_ties_in_the_top_eigenspace():
    """S = I and Φ = σI: every direction is optimal, and F(t) has one eigenvalue of full multiplicity."""
    chain = fc.LinearChain([2.0 * np.eye(4), np.eye(4), np.eye(4)])
    loss = fc.QuadraticLoss(whitened(4), whitened(4))
    best = flattest_minimum(chain, loss, "current")
    assert best.value == pytest.approx(6 * 2 ** (4 / 3), rel=1e-12)
    assert best.lower == pytest.approx(best.value, rel=1e-12)


def test_optimum_at_a_crossing_of_two_eigenvalues():
    """Large inputs with small gain beside small inputs with large gain: only a mixture of the two attains λ*."""
    S, Phi = np.diag([4.0, 0.01]), np.diag([0.1, 20.0])
    loss = fc.QuadraticLoss.from_moments(S, Phi @ S, float(np.trace(Phi @ S @ Phi.T)))
    for depth in (2, 3, 5):
        chain = fc.LinearChain([Phi] + [np.eye(2)] * (depth - 1))
        best = flattest_minimum(chain, loss, "current")
        assert best.lower == pytest.approx(best.value, rel=1e-9)
        assert best.value == pytest.approx(min_form(Phi, S, depth), rel=1e-8)
        assert np.abs(best.v).min() > 0.05  # the mixture


@pytest.mark.parametrize("at", ["minimiser", "current"])
def test_reductions_scale(at, rng):
    X, Y = rng.standard_normal((9, 4)), rng.standard_normal((9, 3))
    chain = fc.LinearChain([rng.standard_normal((5, 4)), rng.standard_normal((3, 5))])
    batchmean, mean, total = (
        fc.flattest_sharpness(chain, fc.QuadraticLoss(X, Y, r), at=at) for r in ("batchmean", "mean", "sum")
    )
    assert mean * 3 == pytest.approx(batchmean, rel=1e-12)
    assert total / 9 == pytest.approx(batchmean, rel=1e-12)


def test_at_the_minimiser_only_depth_and_widths_of_the_chain_matter(rng):
    X, Y = rng.standard_normal((20, 4)), rng.standard_normal((20, 3))
    loss = fc.QuadraticLoss(X, Y)
    one, two = (fc.LinearChain([rng.standard_normal((5, 4)), rng.standard_normal((3, 5))]) for _ in range(2))
    value = fc.flattest_sharpness(one, loss)
    assert fc.flattest_sharpness(two, loss) == value
    Phi = np.linalg.lstsq(X, Y, rcond=None)[0].T
    at_minimum = fc.LinearChain([np.vstack([Phi, np.zeros((2, 4))]), np.eye(3, 5)])
    assert fc.flattest_sharpness(at_minimum, loss, at="current") == pytest.approx(value, rel=1e-10)


def test_zero_cases():
    loss = fc.QuadraticLoss(whitened(3), np.zeros((3, 2)))
    zero = [np.zeros((2, 3)), np.zeros((2, 2))]
    assert fc.flattest_sharpness(fc.LinearChain(zero), loss) == 0.0  # Φ* = 0
    assert fc.flattest_sharpness(fc.LinearChain(zero), loss, at="current") == 0.0
    nothing = fc.QuadraticLoss(np.zeros((4, 3)), np.ones((4, 2)))  # no data
    assert fc.flattest_sharpness(fc.LinearChain(zero), nothing) == 0.0
    assert fc.flattest_sharpness(fc.LinearChain([np.ones((2, 3))]), nothing) == 0.0
    # a single layer is as sharp as its data whatever its weights
    assert fc.flattest_sharpness(fc.LinearChain([np.zeros((2, 3))]), loss) == pytest.approx(2.0)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_extreme_scales(scale, rng):
    """λ* is homogeneous: S ↦ s²S and Φ ↦ fΦ give s²·f^{2−2/M}."""
    Phi, X = rng.standard_normal((3, 3)), rng.standard_normal((9, 3))
    chains = [fc.LinearChain([f * Phi, np.eye(3), np.eye(3)]) for f in (1.0, scale)]
    losses = [fc.QuadraticLoss(s * X, X) for s in (1.0, scale)]
    one = fc.flattest_sharpness(chains[0], losses[0], at="current")
    far = fc.flattest_sharpness(chains[1], losses[1], at="current")
    assert far == pytest.approx(one * scale**2 * scale ** (4 / 3), rel=1e-9)


def test_where_the_bound_is_unproved(rng):
    X, Y = rng.standard_normal((20, 4)), rng.standard_normal((20, 3))
    loss = fc.QuadraticLoss(X, Y)
    narrow = fc.LinearChain([np.ones((4, 4)), np.ones((2, 4)), np.ones((3, 2))])
    with pytest.raises(ValueError, match="hidden width 2 is 2, below the rank 3 of the minimiser"):
        fc.flattest_sharpness(narrow, loss)
    assert fc.flattest_sharpness(narrow, loss, at="current") > 0.0  # Φ itself fits through its own widths
    biased = fc.LinearChain([np.ones((3, 4))], [np.zeros(3)])
    with pytest.raises(ValueError, match="the chain has biases; the flattest sharpness is proved without them only"):
        fc.flattest_sharpness(biased, loss)
    with pytest.raises(ValueError, match=r"loss is a CrossEntropyLoss; .* known for QuadraticLoss only"):
        fc.flattest_sharpness(narrow, fc.CrossEntropyLoss(X, np.zeros(20, int)))
    with pytest.raises(ValueError, match="at is 'start'; expected one of 'minimiser', 'current'"):
        fc.flattest_sharpness(narrow, loss, at="start")
    with pytest.raises(ValueError, match="the chain maps 3 inputs to 3 outputs; the loss has data for 4 and 3"):
        fc.flattest_sharpness(fc.LinearChain([np.eye(3)]), loss)


def test_equal_norms_are_not_flatness():
    """Section 4.4: W_1 = diag(10, .001), W_2 = diag(.1, 10) gives 400 against 4."""
    W = [np.diag([10.0, 0.001]), np.diag([0.1, 10.0])]
    loss = fc.QuadraticLoss(whitened(2), whitened(2) @ (W[1] @ W[0]).T)
    assert top_ggn(W, loss) == pytest.approx(400.0, rel=1e-9)
    assert fc.flattest_sharpness(fc.LinearChain(W), loss) == pytest.approx(4.0, rel=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 4, 6])
@pytest.mark.parametrize("mirrored", [False, True])
def test_partial_gains_reach_the_end_of_their_band(depth, mirrored):
    """Section 4.4: flattest minima have partial gains in [1, √(M−1)], and the upper end is attained at j = 1.

    Diagonal chains with entries (s, a_j): the pair (1, 2) has curvature 2Σ_j A_j(1)²B_j(2)². With a_1 = √(M−1)·s and
    the other a_j = 0 that is 2s^{2(M−1)}(1 + (M−1)) at j = 1, 2 alone: exactly λ* = 2M·σ^{2−2/M}.
    """
    s = 1.7
    W = [np.diag([s, np.sqrt(depth - 1) * s])] + [np.diag([s, 0.0])] * (depth - 1)
    W = W[::-1] if mirrored else W
    chain = fc.LinearChain(W)
    loss = fc.QuadraticLoss(whitened(2), whitened(2) @ chain.product().T)
    assert top_ggn(W, loss) == pytest.approx(fc.flattest_sharpness(chain, loss), rel=1e-10)
    result = fc.gains(chain)
    assert result.band == pytest.approx((1.0, np.sqrt(depth - 1)))
    reached = result.partial_top[-1] if mirrored else result.partial[0]
    assert reached == pytest.approx(np.sqrt(depth - 1), rel=1e-12)
    for partial in (result.partial, result.partial_top):
        assert (partial >= 1 - 1e-12).all()
        assert (partial <= np.sqrt(depth - 1) * (1 + 1e-12)).all()


# -- linear ResNets from zero (section 4.6) ------------------------------------------------------------------


def train_from_zero(target, depth, step, tol=1e-9):
    """Full-batch gradient descent on W_j = I + V_j from V = 0 with the library's gradient, until it is below tol."""
    d = len(target)
    V = [np.zeros((d, d)) for _ in range(depth)]
    chain = fc.LinearChain(V, skip=True)  # views: the chain follows the training
    loss = fc.QuadraticLoss(whitened(d), whitened(d) @ target.T)
    for _ in range(60_000):
        gradient = fc.Hessian(chain, loss).gradient()
        if np.linalg.norm(gradient) < tol:
            return chain, loss
        for layer, block in zip(V, chain.blocks(gradient), strict=True):
            layer -= step * block
    raise AssertionError("gradient descent did not converge")


def spread_target(seed):
    """Symmetric positive definite with eigenvalues from 0.5 to 2.5, on both sides of the start Φ = I."""
    Q = np.linalg.qr(np.random.default_rng(seed).standard_normal((5, 5)))[0]
    return (Q * np.linspace(0.5, 2.5, 5)) @ Q.T


def rotation(seed, angle):
    """A rotation whose largest angle is this many radians."""
    K = np.random.default_rng(seed).standard_normal((5, 5))
    K -= K.T
    return scipy.linalg.expm(K * angle / np.linalg.norm(K, 2))


def test_residual_networks_from_zero_reach_the_flattest_minimum():
    """d = 5, M = 4: λ/λ* − 1 ∝ η² and balance gap ∝ η, of the size the theory's table gives.

    Gradient flow from zero stays balanced, hence ends at λ*; a step of gradient descent breaks the balance at second
    order in η, and about 1/η steps add up to a gap ∝ η. The excess is second order in the gap. The table's target is
    not recorded. It cannot have been symmetric: then all layers stay equal, and the gap zero, at any η (next test). A
    positive definite matrix with eigenvalues from 0.5 to 2.5, turned by one radian, is of the table's kind; its numbers
    agree within a factor of two.
    """
    target = rotation(1, 1.0) @ spread_target(1)
    steps = np.array([1e-2, 3e-3, 1e-3])
    excess, gap = [], []
    for step in steps:
        chain, loss = train_from_zero(target, 4, step)
        H = fc.Hessian(chain, loss)
        excess.append(float(np.linalg.eigvalsh(H.dense())[-1]) / fc.flattest_sharpness(chain, loss) - 1)
        gap.append(float(fc.balance(chain).gap.max()))
        assert fc.coupling(chain, k=1).largest.min() >= 0.9999
    assert np.polyfit(np.log(steps), np.log(excess), 1)[0] == pytest.approx(2.0, abs=0.3)
    assert np.polyfit(np.log(steps), np.log(gap), 1)[0] == pytest.approx(1.0, abs=0.3)
    for got, table in ((excess, [6.2e-5, 5.2e-6, 5.6e-7]), (gap, [9.4e-3, 2.7e-3, 8.9e-4])):
        assert (np.abs(np.log(np.array(got) / table)) <= np.log(2)).all(), (got, table)


def test_symmetric_targets_keep_the_layers_equal():
    """The gradients of equal layers that commute with a symmetric target are equal: balance is exact at any step."""
    chain, loss = train_from_zero(spread_target(0), 4, 1e-2)
    H = fc.Hessian(chain, loss)
    assert fc.balance(chain).gap.max() <= 1e-12
    top = float(np.linalg.eigvalsh(H.dense())[-1])
    assert top == pytest.approx(fc.flattest_sharpness(chain, loss), rel=1e-9)  # the gradient left is below 1e-9


def test_random_starts_end_sharper():
    """Section 4.6: from a random initialisation the ratio is above 1 (1.36 to 3.15 seen by the theory)."""
    rng = np.random.default_rng(3)
    target = rotation(1, 1.0) @ spread_target(1)
    W = [rng.standard_normal((5, 5)) / np.sqrt(5) for _ in range(4)]
    chain = fc.LinearChain(W)
    loss = fc.QuadraticLoss(whitened(5), whitened(5) @ target.T)
    for _ in range(20_000):
        gradient = fc.Hessian(chain, loss).gradient()
        for layer, block in zip(W, chain.blocks(gradient), strict=True):
            layer -= 3e-3 * block
        if np.linalg.norm(gradient) < 1e-7:
            break
    assert np.linalg.norm(gradient) < 1e-6
    ratio = float(np.linalg.eigvalsh(fc.Hessian(chain, loss).dense())[-1]) / fc.flattest_sharpness(chain, loss)
    assert 1.1 <= ratio <= 5.0


def test_an_imbalanced_chain_can_be_flattest():
    """Section 4.6: W_1 = Φ/σ^{2/3}, W_2 = W_3 = σ^{1/3}·I is flattest with relative imbalance about 0.5."""
    Phi = np.diag([2.0, 1.0, 0.5, 0.25])
    W = [Phi / 2 ** (2 / 3), 2 ** (1 / 3) * np.eye(4), 2 ** (1 / 3) * np.eye(4)]
    loss = fc.QuadraticLoss(whitened(4), whitened(4) @ Phi)
    chain = fc.LinearChain(W)
    assert top_ggn(W, loss) == pytest.approx(fc.flattest_sharpness(chain, loss), rel=1e-10)
    assert fc.balance(chain).relative_gap[0] > 0.4
