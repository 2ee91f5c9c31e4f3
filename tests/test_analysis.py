"""analyze: everything together, and the same numbers as the parts give."""

import numpy as np
import pytest
from oracles import make_case

import flatcore as fc


@pytest.fixture(scope="module")
def problem():
    case = make_case((5, 6, 6, 3), 3)
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((40, 5)), rng.standard_normal((40, 3))
    return case.chain(), fc.QuadraticLoss(X, Y)


def test_parts_agree(problem):
    chain, loss = problem
    a = fc.analyze(chain, loss, k=3)
    H = fc.Hessian(chain, loss)
    np.testing.assert_array_equal(a.balance.gap, fc.balance(chain).gap)
    np.testing.assert_array_equal(a.coupling.overlaps[0], fc.coupling(chain, 3).overlaps[0])
    np.testing.assert_array_equal(a.gains.weighted_gains, fc.gains(chain, loss).weighted_gains)
    top = np.linalg.eigvalsh(H.dense())[-1]
    top_ggn = np.linalg.eigvalsh(H.gauss_newton.dense())[-1]
    assert a.sharpness.values[0] == pytest.approx(top, rel=1e-6)
    assert a.gauss_newton_sharpness.values[0] == pytest.approx(top_ggn, rel=1e-6)
    assert a.value == H.value
    assert a.gradient_norm == pytest.approx(np.linalg.norm(H.gradient()))
    assert a.flattest == fc.flattest_sharpness(chain, loss, at="current")
    assert a.flatness_ratio == pytest.approx(top_ggn / a.flattest, rel=1e-6)
    assert a.flatness_ratio >= 1 - 1e-9
    assert a.flattest_status == ""
    assert a.certified
    assert a.dims == (5, 6, 6, 3)
    assert a.num_parameters == chain.num_parameters


def test_without_a_loss(problem):
    a = fc.analyze(problem[0])
    assert a.sharpness is None is a.loss
    assert np.isnan(a.flatness_ratio)
    assert a.certified
    assert "Balance" in a.summary()
    assert "flattest" not in a.summary()


@pytest.mark.parametrize(
    ("biases", "cross_entropy", "reason"),
    [(True, False, "the chain has biases"), (False, True, "loss is a CrossEntropyLoss")],
)
def test_where_the_flattest_sharpness_is_unknown(biases, cross_entropy, reason):
    case = make_case((5, 6, 3), 3, biases)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 5))
    loss = fc.CrossEntropyLoss(X, np.arange(40) % 3) if cross_entropy else fc.QuadraticLoss(X, X[:, :3])
    a = fc.analyze(case.chain(), loss)
    assert np.isnan(a.flattest)
    assert np.isnan(a.flatness_ratio)
    assert a.flattest_status.startswith(reason)
    assert reason in a.summary()
    assert a.sharpness.status == "converged"


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_zero_chain(depth):
    chain = fc.LinearChain([np.zeros((3, 3))] * depth)
    a = fc.analyze(chain, fc.QuadraticLoss(np.eye(3), np.eye(3)))
    assert "undefined" in a.summary()
    if depth > 1:
        assert a.flattest == 0.0
        assert np.isnan(a.flatness_ratio)


def test_progress_goes_from_zero_to_one(problem):
    heard = []
    fc.analyze(*problem, progress=lambda what, fraction: heard.append((what, fraction)))
    fractions = [fraction for _, fraction in heard]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert heard[-1] == ("done", 1.0)
    assert {"balance", "sharpness"} <= {what for what, _ in heard}


def test_bad_arguments(problem):
    with pytest.raises(ValueError, match="k is 0; expected at least 1"):
        fc.analyze(*problem, k=0)
    with pytest.raises(ValueError, match="tol is -1; expected a number that is not negative"):
        fc.analyze(*problem, tol=-1)
    with pytest.raises(ValueError, match="the chain maps 2 inputs to 2 outputs; the loss has data for 5 and 3"):
        fc.analyze(fc.LinearChain([np.eye(2)]), problem[1])


def test_same_seed_same_bits(problem):
    one, two = (fc.analyze(*problem, seed=4) for _ in range(2))
    assert one.to_dict() == two.to_dict()
