"""trace and diagonal against LAPACK, against leaving test vectors out one by one, and what their errors promise."""

import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import make_case, make_loss, with_spectrum

import flatcore as fc
from flatcore import _core
from flatcore.spectral._scaled import ScaledOperator
from flatcore.spectral._sketch import Sketch, orthonormal_rows
from flatcore.spectral._vectors import HostVectors

BOTH = pytest.mark.parametrize("estimate", [fc.trace, fc.diagonal])
EPS = {np.dtype(np.float32): 1.2e-7, np.dtype(np.float64): 2.3e-16}


def projections(A, Omega):
    """Q_(i), an orthonormal basis of the images of all test vectors but the i-th, from an SVD for every i."""
    for i in range(len(Omega)):
        U, sizes, _ = np.linalg.svd(A @ np.delete(Omega, i, 0).T, full_matrices=False)
        yield U[:, sizes > 1e-9 * max(sizes.max(initial=0.0), 1e-300)]


def xtrace(A, Omega):
    """Mean and standard error from the definition."""
    each = []
    for Q, omega in zip(projections(A, Omega), Omega, strict=True):
        rest = omega - Q @ (Q.T @ omega)
        factor = (len(A) - Q.shape[1]) / (rest @ rest)
        each.append(np.trace(Q.T @ A @ Q) + factor * (rest @ A @ rest))
    return np.mean(each), np.std(each, ddof=1) / math.sqrt(len(each))


def xdiag(A, Omega):
    """Mean and standard errors of the two-sided estimates from the definition."""
    each = []
    for Q, omega in zip(projections(A, Omega), Omega, strict=True):
        Pi = Q @ Q.T
        P = np.eye(len(A)) - Pi
        each.append(np.diag(Pi @ A + A @ Pi - Pi @ A @ Pi) + omega * (P @ A @ P @ omega))
    return np.mean(each, axis=0), np.std(each, axis=0, ddof=1) / math.sqrt(len(each))


def vectors_of(A, products, seed, signs):
    sketch = Sketch(ScaledOperator(A), products // 2, seed, signs=signs)
    return np.concatenate([sketch.tests(first) for first in range(0, products // 2, 8)])


@st.composite
def matrices(draw):
    """Symmetric with eigenvalues ±[0.5, 2] and zeros: any rank from 0 to N, and that of the images is not in doubt."""
    N = draw(st.integers(5, 60))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    values = rng.uniform(0.5, 2.0, N) * rng.choice([-1.0, 1.0], N)
    values[draw(st.integers(0, N)) :] = 0.0
    return with_spectrum(values, draw(st.integers(0, 100)))


@settings(max_examples=60)
@given(A=matrices(), products=st.integers(4, 59), seed=st.integers(0, 100), size=st.sampled_from([1.0, 1e-30, 1e100]))
def test_small_formulas_are_the_definition(A, products, seed, size):
    """Values and errors are those of m separate projections.

    Every estimate is a sum of N terms of size ‖A‖ ≤ 2 times N/‖P_iω_i‖² ≤ N (the projection of a normal vector on
    N/2 or more dimensions); bases of random images have condition numbers up to some thousands.
    """
    N = len(A)
    products = min(products, N - 1)
    estimate = fc.trace(size * A, products=products, seed=seed)
    value, stderr = xtrace(A, vectors_of(A, products, seed, signs=False))
    tolerance = 1e-9 * N
    assert estimate.value / size == pytest.approx(value, abs=tolerance)
    assert estimate.stderr / size == pytest.approx(stderr, abs=tolerance)
    assert estimate.samples == products // 2
    assert estimate.products <= products
    diagonal = fc.diagonal(size * A, products=products, seed=seed)
    values, errors = xdiag(A, vectors_of(A, products, seed, signs=True))
    assert np.abs(diagonal.values / size - values).max() <= tolerance
    assert np.abs(diagonal.stderr / size - errors).max() <= tolerance


@given(
    N=st.integers(1, 40),
    extra=st.integers(0, 30),
    dtype=st.sampled_from([np.float32, np.float64, np.int64]),
    seed=st.integers(0, 1000),
)
def test_enough_products_make_it_exact(N, extra, dtype, seed):
    A = np.random.default_rng(seed).integers(-9, 10, (N, N))
    A = (A + A.T).astype(dtype)
    products = max(4, N + extra)
    estimate = fc.trace(A, products=products)
    assert (estimate.value, estimate.stderr, estimate.status) == (np.trace(A), 0.0, "exact")
    assert (estimate.products, estimate.samples) == (N, 0)
    diagonal = fc.diagonal(A, products=products)
    assert (diagonal.values == np.diag(A)).all()
    assert not diagonal.stderr.any()
    assert (diagonal.status, diagonal.products) == ("exact", N)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rank", [0, 1, 5, 9])
def test_low_rank_is_exact_once_the_range_is_found(dtype, rank):
    """10 test vectors, rank 9 or less: every Q_(i) spans the range; what is left is rounding, and is said to be.

    The trace rounds like a sum of the nine Rayleigh quotients, at worst 3, times a few.
    """
    A = with_spectrum(np.r_[np.linspace(3.0, 1.0, rank), np.zeros(200 - rank)], 3).astype(dtype)
    exact = np.diag(A).astype(float)
    estimate, diagonal = fc.trace(A, products=20), fc.diagonal(A, products=20)
    bound = 100.0 * EPS[A.dtype]
    assert abs(estimate.value - exact.sum()) <= bound
    assert estimate.stderr <= bound
    assert np.abs(diagonal.values - exact).max() <= bound
    assert diagonal.stderr.max() <= bound


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("support", [1, 2, 3])
def test_a_few_rows_alone(dtype, support):
    """Images that live on a few coordinates leave no room for noise: rows that cannot be made orthonormal drop out."""
    A = np.zeros((120, 120), dtype)
    A[:support, :support] = with_spectrum(np.arange(1.0, support + 1), 1)
    estimate, diagonal = fc.trace(A, products=40), fc.diagonal(A, products=40)
    bound = 100.0 * EPS[A.dtype]
    assert abs(estimate.value - np.trace(A)) <= bound
    assert estimate.stderr <= bound
    assert np.abs(diagonal.values - np.diag(A)).max() <= bound
    assert diagonal.stderr.max() <= bound
    assert estimate.products < 40  # nothing was spent on the rows that dropped out


def test_zero_operator():
    A = scipy.sparse.csr_array((300, 300))
    estimate, diagonal = fc.trace(A), fc.diagonal(A)
    assert tuple(estimate) == (0.0, 0.0)
    assert not diagonal.values.any()
    assert not diagonal.stderr.any()


def test_multiples_of_the_identity():
    """Normalised rests make every estimate of a multiple of the identity's trace exact."""
    estimate = fc.trace(-7.0 * np.eye(300), products=10)
    assert estimate.value == pytest.approx(-2100.0, rel=1e-13)
    assert estimate.stderr <= 1e-12 * 2100.0


DECAYS = {
    "exponential": 0.7 ** np.arange(300),
    "polynomial": 1.0 / np.arange(1.0, 301.0) ** 2,
    "step": np.r_[np.ones(20), np.full(280, 1e-3)],
    "indefinite": np.linspace(-1.0, 1.0, 300),
    "spread": np.linspace(1.0, 3.0, 300),
}
SEEDS = 80


@pytest.mark.parametrize("name", DECAYS)
@pytest.mark.parametrize("products", [16, 48])
def test_unbiased_and_calibrated(name, products):
    """Means over seeds lie within 4 of their own standard errors (a chance of 6e-5 each were they normal).

    Student's t with 7 degrees of freedom (16 products) puts 98 % within 3 standard errors; the single estimates are
    skew and share the other test vectors, which costs more: 80 % is asked for, and that the errors stated are neither
    half nor twice the true ones (each root mean square over 80 seeds is good to about a tenth).
    """
    A = with_spectrum(DECAYS[name], 2)
    exact = np.diag(A)
    traces = np.array([tuple(fc.trace(A, products=products, seed=seed)) for seed in range(SEEDS)])
    errors = traces[:, 0] - exact.sum()
    assert abs(errors.mean()) <= 4.0 * errors.std() / math.sqrt(SEEDS)
    assert np.mean(np.abs(errors) <= 3.0 * traces[:, 1]) >= 0.8
    assert 0.5 <= np.sqrt(np.mean(traces[:, 1] ** 2) / np.mean(errors**2)) <= 2.0
    runs = [tuple(fc.diagonal(A, products=products, seed=seed)) for seed in range(SEEDS)]
    errors, stated = np.array([values for values, _ in runs]) - exact, np.array([stderr for _, stderr in runs])
    # 300 entries: 4.5 standard errors are exceeded somewhere with a chance of 2e-3
    assert np.max(np.abs(errors.mean(axis=0)) / errors.std(axis=0)) <= 4.5 / math.sqrt(SEEDS)
    assert np.mean(np.abs(errors) <= 3.0 * stated) >= 0.9
    assert 0.5 <= np.sqrt(np.mean(stated**2) / np.mean(errors**2)) <= 2.0


def hutchinson(A, products, seed):
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (len(A), products))
    return np.mean(signs * (A @ signs), axis=1)


@pytest.mark.parametrize(("name", "factor"), [("exponential", 1000.0), ("polynomial", 20.0)])
def test_decaying_spectra_beat_plain_sampling(name, factor):
    """Against Hutchinson's estimator with as many products; the trace's error falls with the tail behind the range.

    At 48 products 23 of the 24 directions are known: 0.7²³ = 3e-4 and 1/23² of the spectrum remain, in squares less.
    """
    A = with_spectrum(DECAYS[name], 2)
    exact = np.diag(A)
    plain = np.array([hutchinson(A, 48, seed) - exact for seed in range(20)])
    ours = np.array([fc.trace(A, products=48, seed=seed).value - exact.sum() for seed in range(20)])
    assert np.sqrt(np.mean(ours**2)) * factor <= np.sqrt(np.mean(plain.sum(axis=1) ** 2))
    entries = np.array([fc.diagonal(A, products=48, seed=seed).values - exact for seed in range(20)])
    assert np.sqrt(np.mean(entries**2)) * factor <= np.sqrt(np.mean(plain**2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("known", [0, 5])
@pytest.mark.parametrize("decay", [1.0, 0.3, 0.01])
def test_orthonormal_rows_of_any_size(dtype, known, decay):
    """Rows that decay far below rounding still come out orthonormal, and reproduce what they came from."""
    vectors = HostVectors(500, dtype)
    rng = np.random.default_rng(0)
    basis = np.ascontiguousarray(np.linalg.qr(rng.standard_normal((500, 5)))[0].T[:known], dtype)
    Y = (rng.standard_normal((8, 8)) * decay ** np.arange(8) @ rng.standard_normal((8, 500))).astype(dtype)
    along, C, Q = orthonormal_rows(vectors, Y.copy(), basis)
    eps = EPS[np.dtype(dtype)]
    everything = np.concatenate([basis, Q]).astype(float)
    assert len(Q) == 8
    assert np.abs(everything @ everything.T - np.eye(known + 8)).max() <= 20.0 * eps
    assert np.abs(along @ basis + C @ Q - Y).max() <= 50.0 * eps * np.abs(Y).max()


class Minimal:
    """Only shape, dtype and @, on blocks."""

    shape, dtype = (300, 300), np.dtype(np.float64)

    def __matmul__(self, V):
        return np.linspace(1.0, 2.0, 300)[:, None] * V


@BOTH
def test_kinds_of_operators_agree(estimate):
    A = np.diag(np.linspace(1.0, 2.0, 300))
    reference = estimate(A, products=12)
    for operator in (
        np.asfortranarray(A),
        scipy.sparse.csr_array(A),
        scipy.sparse.linalg.aslinearoperator(A),
        scipy.sparse.linalg.LinearOperator((300, 300), matvec=lambda v: A @ v, dtype=np.float64),
        Minimal(),
    ):
        for got, expected in zip(estimate(operator, products=12), reference, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_hessian_of_a_chain():
    """The Hessian of 111 parameters against its own dense form; and in as many products as it has rows, exactly."""
    case = make_case((4, 9, 8, 3), 1)
    H = fc.Hessian(case.chain(), make_loss("batchmean", case).loss)
    exact = np.diag(H.dense())
    estimate, diagonal = fc.trace(H, products=80), fc.diagonal(H, products=80)
    assert estimate.status == "estimated"
    assert abs(estimate.value - exact.sum()) <= 4.0 * estimate.stderr
    assert np.linalg.norm(diagonal.values - exact) <= 2.0 * np.linalg.norm(diagonal.stderr)
    assert fc.trace(H, products=200).value == pytest.approx(exact.sum(), rel=1e-12)
    np.testing.assert_allclose(fc.diagonal(H, products=200).values, exact, atol=1e-12 * np.abs(exact).max())


@BOTH
def test_same_seed_same_bits(estimate):
    A = with_spectrum(DECAYS["polynomial"], 1)
    first = [np.array(part) for part in estimate(A, products=40, seed=3)]
    watched = estimate(A, products=40, seed=3, callback=lambda state: False)
    assert all((a == b).all() for a, b in zip(first, map(np.array, watched), strict=True))
    other, _ = estimate(A, products=40, seed=4)
    assert np.all(first[0] != other)


@BOTH
def test_rtol(estimate):
    """Growing stops at the first block whose standard error is small enough, or says that it never was."""
    A = with_spectrum(DECAYS["polynomial"], 1)
    sizes = []
    result = estimate(A, products=200, rtol=1e-3, callback=lambda state: sizes.append(state))
    value, stderr = result
    assert result.status == "converged"
    assert np.linalg.norm(stderr) <= 1e-3 * np.linalg.norm(value)
    assert len(sizes) == -(-result.samples // 8)
    assert result.products == 2 * result.samples < 200
    earlier = sizes[-2]
    assert np.linalg.norm(earlier.residuals) > 1e-3 * np.linalg.norm(earlier.values) or earlier.iteration < 16
    short = estimate(A, products=40, rtol=1e-9)
    assert short.status == "max_products"
    assert "raise products" in short.message


@BOTH
def test_rtol_below_rounding(estimate):
    A = with_spectrum(0.01 ** np.arange(300), 1).astype(np.float32)
    result = estimate(A, products=200, rtol=1e-12)
    assert result.status == "precision_limited"
    assert "float64" in result.message
    assert result.samples < 100


@BOTH
def test_numpy_s_true_stops_and_what_cannot_be_called_is_refused(estimate):
    A = with_spectrum(DECAYS["spread"])
    assert estimate(A, products=100, callback=lambda state: state.products > 0 and np.True_).status == "stopped"
    with pytest.raises(ValueError, match="callback is 'stop'; expected a function"):
        estimate(A, products=100, callback="stop")


@BOTH
def test_callback_stops(estimate):
    A = with_spectrum(DECAYS["spread"], 1)
    states = []

    def second(state):
        states.append(state)
        return state.iteration == 16

    result = estimate(A, products=100, callback=second)
    assert (result.status, result.samples, result.products) == ("stopped", 16, 32)
    assert [state.products for state in states] == [16, 32]
    for got, expected in zip(result, (states[-1].values, states[-1].residuals), strict=True):
        assert (np.atleast_1d(got) == expected).all()
    # the estimate of 16 test vectors is that of 32 products
    assert (np.array(tuple(result)) == np.array(tuple(estimate(A, products=32)))).all()


@BOTH
def test_interrupts_come_out_and_leave_nothing(estimate):
    before = _core.max_threads(), _core.get_blas_threads()

    def interrupt(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate(with_spectrum(DECAYS["spread"]), products=40, callback=interrupt, threads=1)
    assert (_core.max_threads(), _core.get_blas_threads()) == before


class Broken:
    """Returns what `change` makes of an honest product."""

    shape, dtype = (200, 200), np.dtype(np.float64)

    def __init__(self, change):
        self.change = change

    def __matmul__(self, V):
        return self.change(np.arange(1.0, 201.0)[:, None] * V)


@BOTH
@pytest.mark.parametrize("products", [20, 300])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda W: W * np.nan, "returned NaN or Inf"),
        (lambda W: W - np.inf, "returned NaN or Inf"),
        (lambda W: W[:-1], "has shape"),
        (lambda W: W * 1j, "complex"),
        (lambda W: W * 1e160, "expected it between 1e-150 and 1e\\+150"),
        (lambda W: W * 1e-160, "expected it between 1e-150 and 1e\\+150"),
        (lambda W: np.roll(W, 1, axis=0), "not symmetric: xᵀAy and yᵀAx differ by"),
        (np.cumsum, "has shape"),
        (lambda W: np.cumsum(W, axis=0), "not symmetric: xᵀAy and yᵀAx differ by"),
    ],
)
def test_bad_operators(estimate, products, change, message):
    with pytest.raises(ValueError, match=message):
        estimate(Broken(change), products=products)


@BOTH
@pytest.mark.parametrize(
    ("operator", "arguments", "message"),
    [
        (3.0, {}, "operator is a float"),
        (np.ones((3, 4)), {}, "expected a square one"),
        (np.eye(9), {"products": 3}, "products is 3; expected at least 4"),
        (np.eye(9), {"products": 8.0}, "products is 8.0; expected an integer"),
        (np.eye(9), {"rtol": 0.0}, "rtol is 0.0; expected a positive number"),
        (np.eye(9), {"rtol": "1e-3"}, "rtol is '1e-3'"),
        (np.eye(9), {"rtol": math.nan}, "rtol is nan"),
        (np.eye(9), {"seed": -1}, "seed is -1; expected at least 0"),
        (np.eye(9), {"threads": 0}, "threads is 0"),
    ],
)
def test_bad_arguments(estimate, operator, arguments, message):
    with pytest.raises(ValueError, match=message):
        estimate(operator, **arguments)


@BOTH
def test_memory_is_foreseen(estimate):
    class Huge:
        shape, dtype = (10**13, 10**13), np.dtype(np.float32)

        def __matmul__(self, V):
            raise AssertionError("multiplied before memory was checked")

    with pytest.raises(MemoryError, match="GB are available"):
        estimate(Huge())


def test_records_read_like_numbers():
    estimate = fc.trace(np.diag([1.0, 2.0, 4.0]))
    assert float(estimate) == 7.0
    assert repr(estimate) == "TraceEstimate(7 ± 0, status='exact')"
    assert "7 ± 0" in estimate.summary()
    diagonal = fc.diagonal(np.diag([1.0, 2.0, 4.0]))
    assert repr(diagonal) == "DiagonalEstimate(3 values, status='exact', products=3)"
    assert diagonal.to_dict()["values"] == [1.0, 2.0, 4.0]
    assert not diagonal.values.flags.writeable
    assert not diagonal.stderr.flags.writeable
