"""Losses as functions of Φ: values and derivatives against torch, moments, and what is refused."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles import LOSS_KINDS, make_case, make_loss, relative_error

import flatcore as fc
from flatcore.linear.losses import Loss

# Formulas of a few dozen float64 operations; whitening divides by square roots of eigenvalues of random moments, whose
# spread here is below 1e4. 1e-11 covers both.
TOL = 1e-11


@pytest.mark.parametrize("kind", LOSS_KINDS)
@given(
    dims=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    biases=st.booleans(),
    n=st.integers(1, 9),
    rank=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_value_gradient_and_hessian_product(kind, dims, biases, n, rank, seed):
    """A chain of one layer is its own end-to-end matrix: the layer's derivatives are the loss's."""
    case = make_case(dims, seed, biases)
    problem = make_loss(kind, case, n, rank)
    theta = case.theta()
    Phi = case.end_to_end(theta).numpy()
    q = Phi.shape[1]

    def to_theta(X):  # W row-major, then b
        return np.concatenate([X[:, : dims[0]].ravel(), X[:, dims[0] :].ravel()])

    assert isinstance(problem.loss, Loss)
    assert problem.loss.value(Phi) == pytest.approx(float(problem.value(theta)), rel=TOL, abs=1e-13)
    hessian, gradient = problem.hessian(theta), problem.gradient(theta)
    scale = max(np.abs(hessian).max(), np.abs(gradient).max(), 1e-3)
    assert relative_error(to_theta(problem.loss.gradient(Phi)), gradient, scale) <= TOL
    D = np.random.default_rng(seed).standard_normal((2, 3, *Phi.shape))
    image = problem.loss.hessian_product(Phi, D)
    assert image.shape == (2, 3, dims[1], q)
    for d, got in zip(D.reshape(-1, *Phi.shape), image.reshape(-1, *Phi.shape), strict=True):
        assert relative_error(to_theta(got), hessian @ to_theta(d), 10 * scale) <= TOL


# -- quadratic -----------------------------------------------------------------------------------------------


def moments_of(loss):
    return loss.sxx, loss.syx, loss.syy


@pytest.mark.parametrize("sizes", [[50], [1, 49], [17, 3, 30], [10] * 5])
def test_batches_of_any_size_give_the_same_moments(sizes, rng):
    X, Y = rng.standard_normal((50, 4)), rng.standard_normal((50, 3))
    cuts = np.cumsum([0, *sizes])
    stream = ((X[a:b], Y[a:b]) for a, b in itertools.pairwise(cuts))
    loss = fc.QuadraticLoss.from_batches(stream, reduction="sum")
    assert loss.n == 50
    for got, want in zip(moments_of(loss), moments_of(fc.QuadraticLoss(X, Y)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)


def test_a_torch_data_loader_streams(rng):
    X, Y = (torch.tensor(rng.standard_normal((20, d))) for d in (4, 3))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=7)
    for got, want in zip(
        moments_of(fc.QuadraticLoss.from_batches(loader)), moments_of(fc.QuadraticLoss(X, Y)), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-13, atol=1e-14)


def test_moments_are_summed_in_float64(rng):
    """1 + 1e-4·noise in float32: a float32 sum over 10,000 samples would be wrong in the fifth digit."""
    X = (1.0 + 1e-4 * rng.standard_normal((10_000, 3))).astype(np.float32)
    loss = fc.QuadraticLoss(X, X[:, :1])
    np.testing.assert_allclose(loss.sxx, X.astype(float).T @ X.astype(float) / 10_000, rtol=1e-13)


def test_minimum_minimiser_and_excess(rng):
    X, Y = rng.standard_normal((30, 4)), rng.standard_normal((30, 3))
    loss = fc.QuadraticLoss(X, Y)
    want = np.linalg.lstsq(X, Y, rcond=None)[0].T
    np.testing.assert_allclose(loss.minimiser(), want, rtol=1e-11)
    assert loss.minimum == pytest.approx(((X @ want.T - Y) ** 2).sum() / 30, rel=1e-11)
    affine = np.linalg.lstsq(np.column_stack([X, np.ones(30)]), Y, rcond=None)[0].T
    np.testing.assert_allclose(loss.minimiser(homogeneous=True), affine, rtol=1e-10)
    near = want + 1e-9 * rng.standard_normal(want.shape)
    exact = np.sum(((near - want) @ X.T) ** 2) / 30  # ~1e-17, far below the rounding of the value itself
    assert loss.excess(near) == pytest.approx(exact, rel=1e-5)


def test_minimiser_of_rank_deficient_data_has_least_norm(rng):
    X, Y = rng.standard_normal((3, 6)), rng.standard_normal((3, 2))
    loss = fc.QuadraticLoss(X, Y)
    np.testing.assert_allclose(loss.minimiser(), np.linalg.lstsq(X, Y, rcond=None)[0].T, rtol=1e-9)
    assert loss.minimum <= 1e-12 * loss.syy
    assert "rank 3" in repr(loss)


def test_from_moments_equals_from_data(rng):
    X, Y = rng.standard_normal((30, 4)), rng.standard_normal((30, 3))
    want = fc.QuadraticLoss(X, Y, "mean")
    moments = X.T @ X / 30, Y.T @ X / 30, (Y**2).sum() / 30
    loss = fc.QuadraticLoss.from_moments(*moments, mean_x=X.mean(0), mean_y=Y.mean(0), n=30, reduction="mean")
    for Phi in (rng.standard_normal((3, 4)), rng.standard_normal((3, 5))):
        assert loss.value(Phi) == pytest.approx(want.value(Phi), rel=1e-12)
        np.testing.assert_allclose(loss.gradient(Phi), want.gradient(Phi), rtol=1e-11, atol=1e-13)
    low_precision = fc.QuadraticLoss.from_moments(*(np.float32(m) for m in moments))
    assert low_precision.minimum == pytest.approx(fc.QuadraticLoss(X, Y).minimum, rel=1e-5)


def test_inputs_are_not_kept(rng):
    X, Y = rng.standard_normal((30, 4)), rng.standard_normal((30, 3))
    loss = fc.QuadraticLoss(X, Y)
    Phi = rng.standard_normal((3, 4))
    before = loss.value(Phi)
    X[:], Y[:] = 0.0, 0.0
    assert loss.value(Phi) == before


ONES = np.ones((5, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((ONES, np.ones((4, 2))), "inputs has 5 rows and targets has 4; expected as many"),
        ((ONES, np.ones(5)), r"targets has shape \(5,\); expected 2 dimensions"),
        ((np.ones((0, 3)), np.ones((0, 2))), r"inputs has shape \(0, 3\); expected at least one entry"),
        ((ONES, np.ones((5, 0))), r"targets has shape \(5, 0\); expected at least one entry"),
        ((ONES * np.nan, ONES), r"inputs contains nan at index \(0, 0\)"),
        ((ONES, ONES * np.inf), r"targets contains inf at index \(0, 0\)"),
        ((ONES * 1j, ONES), r"inputs is complex \(complex128\); expected real numbers"),
        ((ONES, ONES, "average"), r"reduction is 'average'; expected one of 'batchmean', 'mean', 'sum'"),
    ],
)
def test_bad_data(arguments, message):
    with pytest.raises(ValueError, match=message):
        fc.QuadraticLoss(*arguments)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "the data are empty; expected at least one sample"),
        ([(ONES, ONES), ONES], r"batch 1 is a ndarray; expected a pair \(inputs, targets\)"),
        ([(ONES, ONES), (ONES[:, :2], ONES)], "of batch 1 have 2 and 3 columns; the first batch has 3 and 3"),
        ([(ONES, ONES), (ONES, ONES[:2])], "inputs of batch 1 has 5 rows and targets of batch 1 has 2"),
        ([(ONES, ONES), (ONES, ONES * np.nan)], r"targets of batch 1 contains nan at index \(0, 0\)"),
    ],
)
def test_bad_batches(batches, message):
    with pytest.raises(ValueError, match=message):
        fc.QuadraticLoss.from_batches(batches)


S2, C2 = np.diag([2.0, 1.0]), np.ones((1, 2))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones((2, 3)), C2, 3.0), {}, r"sxx has shape \(2, 3\); expected a square matrix"),
        ((S2, np.ones((1, 3)), 3.0), {}, r"syx has shape \(1, 3\); its columns must match sxx's 2 rows"),
        ((np.zeros((0, 0)), np.zeros((1, 0)), 3.0), {}, r"sxx has shape \(0, 0\); expected at least one entry"),
        ((S2 * np.nan, C2, 3.0), {}, r"sxx contains nan at index \(0, 0\)"),
        ((S2, C2 * np.inf, 3.0), {}, r"syx contains inf at index \(0, 0\)"),
        ((S2 + np.array([[0, 0.5], [0, 0]]), C2, 3.0), {}, r"sxx is not symmetric \(largest difference 0.5\); no data"),
        ((np.diag([1.0, -0.1]), C2, 3.0), {}, r"sxx has the negative eigenvalue -0.1; no data"),
        ((np.diag([1.0, 0.0]), C2, 3.0), {}, "along directions in which the inputs do not vary; no data .* unbounded"),
        ((S2, C2, 1.4), {}, "sxx, syx and syy give the negative minimum -0.1; no data have such moments"),
        ((S2, C2, -1.0), {}, r"syy is -1.0; expected a finite number that is not negative"),
        ((S2, C2, np.nan), {}, r"syy is nan; expected a finite number that is not negative"),
        ((S2, C2, 3.0), {"reduction": "sum"}, r'n is None; reduction="sum" needs the number of samples'),
        ((S2, C2, 3.0), {"n": 0}, "n is 0; expected at least 1"),
        ((S2, C2, 3.0), {"reduction": "none"}, "reduction is 'none'; expected one of"),
        ((S2, C2, 3.0), {"mean_x": [0.0, 0.0]}, "mean_x and mean_y belong together; one of them is None"),
        (
            (S2, C2, 3.0),
            {"mean_x": [0.0], "mean_y": [0.0]},
            r"mean_x and mean_y have 1 and 1 entries; syx has shape \(1, 2\)",
        ),
    ],
)
def test_moments_that_no_data_can_have(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        fc.QuadraticLoss.from_moments(*arguments, **options)


def test_boundary_moments_are_accepted():
    """syy exactly ‖T‖² (a perfect fit), and a singular sxx whose null space syx respects."""
    assert fc.QuadraticLoss.from_moments(S2, C2, 1.5).minimum == pytest.approx(0.0, abs=1e-15)
    assert fc.QuadraticLoss.from_moments(np.diag([1.0, 0.0]), [[1.0, 0.0]], 1.0).minimum == 0.0


def test_means_are_needed_with_biases():
    loss = fc.QuadraticLoss.from_moments(S2, C2, 3.0)
    with pytest.raises(ValueError, match="the chain has biases; from_moments needs mean_x and mean_y for them"):
        fc.Hessian(fc.LinearChain([C2], [[0.0]]), loss)


def test_means_that_no_data_can_have():
    with pytest.raises(ValueError, match=r"sxx with mean_x has the negative eigenvalue .* no data have such moments"):
        fc.QuadraticLoss.from_moments(S2, C2, 3.0, mean_x=[5.0, 0.0], mean_y=[0.0])  # mean² above the second moment


def test_a_rank_that_so_few_samples_cannot_have():
    with pytest.raises(ValueError, match="sxx has rank 2 but n is 1; no data have such moments"):
        fc.QuadraticLoss.from_moments(S2, C2, 3.0, n=1)
    assert fc.QuadraticLoss.from_moments(S2, C2, 3.0, n=2).n == 2


def test_what_is_no_iterable_of_batches_is_named():
    with pytest.raises(ValueError, match=r"iterable is a int; expected pairs \(inputs, targets\)"):
        fc.QuadraticLoss.from_batches(3)


@pytest.mark.parametrize("syy", ["a", None, float("nan"), -1.0])
def test_a_second_moment_that_is_no_number_is_named(syy):
    with pytest.raises(ValueError, match=r"syy is .*; expected a finite number that is not negative"):
        fc.QuadraticLoss.from_moments(S2, C2, syy)


# -- cross-entropy -------------------------------------------------------------------------------------------


def test_cross_entropy_in_chunks_of_samples(rng):
    """More samples than one chunk holds, compared with torch on all of them at once."""
    X, labels = rng.standard_normal((9000, 3)), rng.integers(0, 4, 9000)
    Phi, D = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    loss = fc.CrossEntropyLoss(X, labels)
    x, c = torch.tensor(X), torch.tensor(labels)

    def value(P):
        return torch.nn.functional.cross_entropy(x @ P.T, c)

    P = torch.tensor(Phi)
    assert loss.value(Phi) == pytest.approx(float(value(P)), rel=1e-12)
    gradient, product = torch.func.grad(value)(P), torch.autograd.functional.hvp(value, P, torch.tensor(D))[1]
    np.testing.assert_allclose(loss.gradient(Phi), gradient.numpy(), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(loss.hessian_product(Phi, D), product.numpy(), rtol=1e-10, atol=1e-13)


def test_cross_entropy_of_huge_logits_does_not_overflow():
    loss = fc.CrossEntropyLoss(np.eye(2) * 1e4, [0, 1])
    wrong = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert loss.value(np.eye(2)) == 0.0
    assert loss.value(wrong) == pytest.approx(1e4)
    assert np.isfinite(loss.gradient(wrong)).all()


def test_cross_entropy_ignores_the_all_ones_direction(rng):
    """Theory, section 1: G and 𝓗 annihilate the all-ones vector of the outputs."""
    loss = fc.CrossEntropyLoss(rng.standard_normal((20, 3)), rng.integers(0, 4, 20))
    Phi, D = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    assert np.abs(loss.gradient(Phi).sum(axis=0)).max() <= 1e-15
    assert np.abs(loss.hessian_product(Phi, D).sum(axis=0)).max() <= 1e-15
    assert np.abs(loss.hessian_product(Phi, np.tile(D[:1], (4, 1)))).max() <= 1e-15


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -2, 0, 1], r"labels\[2\] is -2; expected class numbers from 0"),
        (np.zeros(5), r"labels has dtype float64; expected integers, or probabilities of shape \(5, classes\)"),
        ([0, 1], r"labels has shape \(2,\); expected \(5,\) or \(5, classes\)"),
        (np.full((5, 2), 0.6), r"labels\[0\] is no probability vector \(sum 1.2, least 0.6\)"),
        ([[0.5, 0.5]] * 4 + [[1.5, -0.5]], r"labels\[4\] is no probability vector \(sum 1, least -0.5\)"),
        (np.full((4, 2), 0.5), r"labels has shape \(4, 2\); expected 5 rows"),
        ([[0.5, np.nan]] * 5, r"labels contains nan at index \(0, 1\)"),
        (np.zeros((5, 1, 1), int), r"labels has shape \(5, 1, 1\); expected \(5,\) or \(5, classes\)"),
        (np.zeros(5, complex), "labels has dtype complex128; expected integers"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        fc.CrossEntropyLoss(ONES, labels)


def test_labels_that_do_not_fit_the_chain():
    chain = fc.LinearChain([np.ones((2, 3))])
    with pytest.raises(ValueError, match=r"labels\[3\] is 2; a chain with 2 outputs has classes 0 to 1"):
        fc.Hessian(chain, fc.CrossEntropyLoss(ONES, [0, 1, 1, 2, 0]))
    with pytest.raises(ValueError, match=r"the chain has 2 outputs; labels has shape \(5, 3\)"):
        fc.Hessian(chain, fc.CrossEntropyLoss(ONES, np.full((5, 3), 1 / 3)))
    with pytest.raises(ValueError, match="the chain takes 3 inputs; the loss has data of 4 columns"):
        fc.Hessian(chain, fc.CrossEntropyLoss(np.ones((5, 4)), [0, 1, 1, 1, 0]))
    with pytest.raises(ValueError, match="reduction is 'batchmean'; expected one of 'mean', 'sum'"):
        fc.CrossEntropyLoss(ONES, [0, 1, 1, 1, 0], "batchmean")
    with pytest.raises(ValueError, match=r"inputs contains nan at index \(0, 0\)"):
        fc.CrossEntropyLoss(ONES * np.nan, [0, 1, 1, 1, 0])
    with pytest.raises(ValueError, match=r"inputs has shape \(0, 3\); expected at least one entry"):
        fc.CrossEntropyLoss(np.ones((0, 3)), np.zeros(0, int))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, torch.int64])
def test_integer_types_of_labels(dtype, rng):
    X, labels = rng.standard_normal((5, 3)), [0, 1, 1, 0, 1]
    given_labels = torch.tensor(labels, dtype=dtype) if isinstance(dtype, torch.dtype) else np.array(labels, dtype)
    Phi = rng.standard_normal((2, 3))
    assert fc.CrossEntropyLoss(X, given_labels).value(Phi) == fc.CrossEntropyLoss(X, labels).value(Phi)


# -- matrix completion ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "mask", "message"),
    [
        (np.ones((2, 3)), np.ones((3, 2), bool), r"mask has shape \(3, 2\); expected target's \(2, 3\)"),
        (np.ones((2, 3)), np.ones((2, 3)), "mask has dtype float64; expected booleans"),
        (np.ones((2, 3)), np.zeros((2, 3), bool), "mask has no true entry; expected at least one"),
        ([[1.0, np.nan]], [[True, True]], r"target contains nan at index \(0, 1\)"),
        ([1.0, 2.0], [True, True], r"target has shape \(2,\); expected 2 dimensions"),
        ([[1j]], [[True]], "target is complex"),
    ],
)
def test_bad_masks(target, mask, message):
    with pytest.raises(ValueError, match=message):
        fc.MaskedQuadraticLoss(target, mask)


def test_masked_target_of_another_shape():
    loss = fc.MaskedQuadraticLoss(np.ones((2, 3)), np.ones((2, 3), bool))
    with pytest.raises(ValueError, match=r"the end-to-end matrix has shape \(3, 3\); target has \(2, 3\)"):
        fc.Hessian(fc.LinearChain([np.eye(3)]), loss)


def test_reprs_name_what_matters(rng):
    X, Y = rng.standard_normal((30, 4)), rng.standard_normal((30, 3))
    assert repr(fc.QuadraticLoss(X, Y)) == "QuadraticLoss(4 → 3, n=30, rank 4, reduction='batchmean')"
    assert repr(fc.CrossEntropyLoss(X, np.zeros(30, int))) == "CrossEntropyLoss(4 inputs, n=30, reduction='mean')"
    assert repr(fc.MaskedQuadraticLoss(Y, Y > 0)).startswith("MaskedQuadraticLoss(3 → 30, ")
