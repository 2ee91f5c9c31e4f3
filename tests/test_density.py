"""spectral_density against the exact moments of its probes and against all eigenvalues by LAPACK."""

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
from flatcore.spectral._density import Recurrences
from flatcore.spectral._scaled import ScaledOperator


@st.composite
def spectra(draw):
    """65 to 250 eigenvalues in [-1, 1] with zeros and copies, of any size."""
    N = draw(st.integers(65, 250))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    values = rng.uniform(-1.0, 1.0, N)
    values[: draw(st.integers(0, N))] = draw(st.sampled_from([0.0, 0.5]))
    return values * draw(st.sampled_from([1.0, 1e-30, 1e30]))


@given(values=spectra(), steps=st.integers(1, 16), probes=st.integers(2, 4), seed=st.integers(0, 100))
def test_quadrature_is_exact_for_polynomials(values, steps, probes, seed):
    """Σ_k w_k θ_k^p = vᵀA^pv for p ≤ 2q − 1, for each probe; powers of eigenvalues in [-1, 1] stay below 1."""
    A = with_spectrum(values, seed)
    process = Recurrences(ScaledOperator(A), probes, steps, seed)
    starts = process._basis[:, 0].copy()
    while process.running:
        process.step()
    nodes, weights, _ = process.quadrature()
    size = np.abs(values).max() or 1.0
    nodes = nodes * (process._operator.scale / size)
    powers = starts.T
    for p in range(2 * steps):
        exact = np.sum(starts.T * powers, axis=0)
        np.testing.assert_allclose(np.sum(weights * nodes**p, axis=1), exact, atol=1e-12)
        powers = A @ powers / size


@settings(max_examples=40)
@given(values=spectra(), dtype=st.sampled_from([np.float32, np.float64]), seed=st.integers(0, 100))
def test_what_holds_for_every_density(values, dtype, seed):
    """It is nonnegative with integral 1, weights sum to 1, an eigenvalue lies within its residual of each node."""
    A = with_spectrum(values, seed).astype(dtype)
    density = fc.spectral_density(A, probes=4, steps=16, seed=seed)
    exact = np.linalg.eigvalsh(A.astype(float))
    size = np.abs(values).max() or 1.0
    rounding = (1e-5 if dtype == np.float32 else 1e-13) * size
    # the tails beyond 6 standard deviations hold 2e-9; trapezoids of an eighth of one are exact far below that
    assert np.trapezoid(density.density, density.grid) == pytest.approx(1.0, abs=1e-8)
    assert (density.density >= 0.0).all()
    assert (density.stderr >= 0.0).all()
    np.testing.assert_allclose(density.weights.sum(axis=1), 1.0, rtol=1e-12)
    distance = np.abs(density.nodes[..., None] - exact).min(axis=-1)
    assert (distance <= density.residuals + rounding).all()
    assert density.expectation(lambda x: 1.0)[0] == pytest.approx(1.0, abs=1e-12)
    value, error = density.count(-3.0 * size, 3.0 * size)
    assert (value, error) == pytest.approx((len(values), 0.0), abs=1e-9)


SPECTRA = {
    "uniform": np.linspace(-1.0, 1.0, 600),
    "mostly zero": np.r_[np.zeros(500), np.linspace(0.5, 3.0, 100)],
    "outliers": np.r_[np.random.default_rng(0).normal(0.0, 0.1, 590), np.linspace(2.0, 4.0, 10)],
}
FUNCTIONS = [lambda x: x, np.square, np.exp, lambda x: x**5, np.abs]


@pytest.mark.parametrize("name", SPECTRA)
def test_error_bars_cover_the_exact_means(name):
    """Student's t with 7 degrees of freedom exceeds 5.4 with a chance of 1e-3.

    30 seeds, 5 functions: of 150 intervals of 3 standard errors 98 % are expected to hold, and 90 % are asked for,
    since those of one seed move together. |x| is the one that 24 nodes do not integrate exactly; its kink costs
    less than the sampling.
    """
    values = SPECTRA[name]
    A = with_spectrum(values, 1)
    misses = []
    for seed in range(30):
        density = fc.spectral_density(A, probes=8, steps=24, seed=seed)
        for f in FUNCTIONS:
            value, error = density.expectation(f)
            misses.append(abs(value - f(values).mean()) / error)
    assert np.mean(np.array(misses) <= 3.0) >= 0.9
    assert np.mean(np.array(misses) <= 1.0) <= 0.9  # and the errors are no excuses


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize(("a", "b"), [(-0.25, 0.25), (0.4, 5.0), (-9.0, 9.0), (8.0, 9.0)])
def test_counts(name, a, b):
    values = SPECTRA[name]
    exact = np.sum((a <= values) & (values <= b))
    inside = 0
    for seed in range(20):
        count, error = fc.spectral_density(with_spectrum(values, 1), seed=seed, probes=8, steps=40).count(a, b)
        inside += abs(count - exact) <= 3.0 * error + 1e-9
        assert error <= 60.0  # a tenth of all
    assert inside >= 18


@pytest.mark.parametrize("name", SPECTRA)
def test_density_covers_the_broadened_histogram(name):
    """Beside all eigenvalues, broadened alike: the mean square distance is that of the error bars.

    A quadrature with nodes π/2 broadenings apart shows a ripple of 2exp(−8) = 7e-4 of the density besides.
    """
    values = SPECTRA[name]
    ratios = []
    for seed in range(20):
        density = fc.spectral_density(with_spectrum(values, 1), probes=8, steps=40, seed=seed)
        z = (density.grid[:, None] - values) / density.broadening
        exact = np.exp(-0.5 * z**2).mean(axis=1) / (density.broadening * math.sqrt(2.0 * math.pi))
        ratios.append(np.sum((density.density - exact) ** 2) / np.sum(density.stderr**2))
    assert 0.3 <= np.sqrt(np.mean(ratios)) <= 1.5


def test_errors_remember_outliers_that_probes_missed():
    """One eigenvalue 100 among 300 zeros: trA²/N and its true standard deviation √(2/302/p)·100²/√300 (p probes).

    Two probes seldom meet it, and say little about how seldom; the error stays near the true one all the same.
    """
    A = with_spectrum(np.r_[100.0, np.zeros(299)], 1)
    true_error = math.sqrt(2.0 / 302 / 2) * 100.0**2 / math.sqrt(300)
    for seed in range(20):
        value, error = fc.spectral_density(A, probes=2, steps=5, seed=seed).expectation(np.square)
        assert error >= 0.9 * true_error
        assert abs(value - 100.0**2 / 300) <= 5.0 * error


def test_broadening_is_the_width_over_the_steps():
    density = fc.spectral_density(with_spectrum(SPECTRA["uniform"]), probes=2, steps=40)
    assert density.broadening == pytest.approx(np.ptp(density.nodes) / 40)
    x = np.linspace(-1.0, 1.0, 7)
    same, errors = density.at(x)
    wide, _ = density.at(x, broadening=0.5)
    np.testing.assert_allclose(same, np.interp(x, density.grid, density.density), rtol=1e-2)
    assert errors.shape == x.shape
    z = (x[:, None, None] - density.nodes) / 0.5
    expected = np.sum(density.weights * np.exp(-0.5 * z**2), axis=-1).mean(axis=-1) / (0.5 * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(wide, expected, rtol=1e-12)
    for bad in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="expected a positive number"):
            density.at(x, broadening=bad)


@pytest.mark.parametrize("N", [1, 2, 7, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_small_operators_are_exact(N, dtype):
    A = with_spectrum(np.linspace(-1.0, 2.0, N)).astype(dtype)
    density = fc.spectral_density(A, probes=4, steps=16)
    assert (density.status, density.products) == ("exact", N)
    np.testing.assert_allclose(density.nodes[0], np.linalg.eigvalsh(A.astype(float)), atol=1e-13)
    assert not density.stderr.any()
    assert density.count(-0.45, 3.0) == (pytest.approx(np.sum(np.linspace(-1.0, 2.0, N) > -0.45)), 0.0)
    assert np.trapezoid(density.density, density.grid) == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("scale", [0.0, 1.0, -1e20, 1e-20])
def test_one_eigenvalue(scale):
    """Every probe finds an invariant subspace at once."""
    density = fc.spectral_density(scale * np.eye(300), probes=3, steps=20)
    assert density.products == 3
    np.testing.assert_allclose(density.nodes, scale, rtol=1e-14)
    assert np.trapezoid(density.density, density.grid) == pytest.approx(1.0, abs=1e-8)
    assert density.count(scale - abs(scale), scale + abs(scale)) == (pytest.approx(300.0), pytest.approx(0.0))


def test_probes_end_when_their_space_is_exhausted():
    """Three eigenvalues, three steps; the broadening is still that of the steps asked for."""
    density = fc.spectral_density(with_spectrum(np.repeat([0.0, 1.0, 3.0], 100)), probes=4, steps=30)
    assert density.nodes.shape == (4, 3)
    assert density.products == 12
    np.testing.assert_allclose(density.nodes, np.tile([0.0, 1.0, 3.0], (4, 1)), atol=1e-13)
    assert density.broadening == pytest.approx(0.1)


def test_unequal_lengths():
    """A probe that ends early keeps its nodes; padding has no weight."""
    process = Recurrences(ScaledOperator(np.diag(np.arange(40.0))), 2, 10, 0)
    process._basis[0, 0] = np.eye(40)[7]
    while process.running:
        process.step()
    nodes, weights, residuals = process.quadrature()
    scaled = 7.0 / process._operator.scale
    np.testing.assert_allclose(nodes[0], scaled)
    assert list(weights[0]) == [1.0] + [0.0] * 9
    assert not residuals[0].any()
    assert weights[1].all()


def test_reduced_spectra_get_their_zeros_back():
    """Adding zeros to the density of what is not zero gives that of everything, with exact knowledge of the zeros."""
    kept = np.linspace(0.5, 3.0, 200)
    part = fc.spectral_density(with_spectrum(kept), probes=4, steps=30)
    whole = part.with_zeros(600)
    assert whole.size == 800
    for f in (np.cos, np.square):
        value, error = part.expectation(f)
        expected = (200 * value + 600 * f(0.0)) / 800
        assert whole.expectation(f) == (pytest.approx(expected), pytest.approx(error / 4))
    assert whole.nodes is part.nodes
    assert whole.zeros == 600
    assert whole.count(-0.1, 0.1) == (pytest.approx(600.0), pytest.approx(0.0, abs=1e-9))
    assert np.trapezoid(whole.density, whole.grid) == pytest.approx(1.0, abs=1e-8)
    assert whole.broadening == part.broadening
    assert (part.with_zeros(0).density == part.density).all()
    assert part.with_zeros(200).with_zeros(400).size == 800
    with pytest.raises(ValueError, match="count is -1; expected at least 0"):
        part.with_zeros(-1)
    narrow = fc.spectral_density(1e9 * np.eye(300)).with_zeros(1)
    assert len(narrow.grid) < 10_000
    assert np.trapezoid(narrow.density, narrow.grid) == pytest.approx(1.0, abs=1e-8)


def test_hessian_of_a_chain():
    """An operator of the library, exact zeros and all: moments, and how many eigenvalues are not zero."""
    case = make_case((4, 12, 12, 3), 1)
    H = fc.Hessian(case.chain(), make_loss("batchmean", case, n=3, rank=3).loss)
    exact = np.linalg.eigvalsh(H.dense())
    density = fc.spectral_density(H, probes=4, steps=40)
    assert density.status == "estimated"
    for f in (lambda x: x, np.square):
        value, error = density.expectation(f)
        assert abs(value - f(exact).mean()) <= 5.0 * error
    zeros = np.sum(np.abs(exact) < 1e-10)
    assert zeros > 20
    count, error = density.count(-1e-6, 1e-6)
    assert abs(count - zeros) <= 5.0 * error
    assert fc.spectral_density(H).count(-1e-10, 1e-10)[0] == pytest.approx(zeros)


@pytest.mark.parametrize(
    "operator",
    [
        np.asfortranarray(np.diag(np.linspace(1.0, 2.0, 300))),
        scipy.sparse.diags_array(np.linspace(1.0, 2.0, 300)).tocsr(),
        scipy.sparse.linalg.aslinearoperator(np.diag(np.linspace(1.0, 2.0, 300))),
    ],
    ids=["fortran", "sparse", "linear operator"],
)
def test_kinds_of_operators_agree(operator):
    reference = fc.spectral_density(np.diag(np.linspace(1.0, 2.0, 300)), probes=2, steps=10)
    np.testing.assert_allclose(fc.spectral_density(operator, probes=2, steps=10).nodes, reference.nodes, rtol=1e-12)


def test_same_seed_same_bits():
    A = with_spectrum(SPECTRA["outliers"])
    runs = [fc.spectral_density(A, probes=3, steps=20, seed=seed) for seed in (5, 5, 6)]
    assert (runs[0].density == runs[1].density).all()
    assert (runs[0].nodes == runs[1].nodes).all()
    assert (runs[0].nodes != runs[2].nodes).any()


def test_numpy_s_true_stops_and_what_cannot_be_called_is_refused():
    A = with_spectrum(SPECTRA["uniform"])
    assert fc.spectral_density(A, probes=3, steps=30, callback=lambda state: np.True_).status == "stopped"
    with pytest.raises(ValueError, match="callback is 'stop'; expected a function"):
        fc.spectral_density(A, callback="stop")


def test_callback_stops():
    A = with_spectrum(SPECTRA["uniform"])
    states = []

    def fifth(state):
        states.append(state)
        return state.iteration == 5

    density = fc.spectral_density(A, probes=3, steps=30, callback=fifth)
    assert (density.status, density.products, density.nodes.shape) == ("stopped", 15, (3, 5))
    assert "callback" in density.message
    assert [state.iteration for state in states] == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(states[-1].values, [density.nodes.min(), density.nodes.max()], rtol=1e-14)
    np.testing.assert_allclose(density.nodes, fc.spectral_density(A, probes=3, steps=5).nodes, rtol=1e-13)
    assert density.broadening == pytest.approx(np.ptp(density.nodes) / 5)


def test_interrupts_come_out_and_leave_nothing():
    before = _core.max_threads(), _core.get_blas_threads()

    def interrupt(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fc.spectral_density(with_spectrum(SPECTRA["uniform"]), callback=interrupt, threads=1)
    assert (_core.max_threads(), _core.get_blas_threads()) == before


class Broken:
    """Returns what `change` makes of an honest product."""

    shape, dtype = (200, 200), np.dtype(np.float64)

    def __init__(self, change):
        self.change = change

    def __matmul__(self, V):
        return self.change(np.arange(1.0, 201.0)[:, None] * V)


@pytest.mark.parametrize("steps", [10, 300])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda W: W * np.nan, "returned NaN or Inf"),
        (lambda W: W[:-1], "has shape"),
        (lambda W: W * 1e160, "expected it between"),
        (lambda W: np.cumsum(W, axis=0), "not symmetric: xᵀAy and yᵀAx differ by"),
        (lambda W: np.roll(W, 1, axis=0), "not symmetric: xᵀAy and yᵀAx differ by"),
    ],
)
def test_bad_operators(steps, change, message):
    with pytest.raises(ValueError, match=message):
        fc.spectral_density(Broken(change), probes=2, steps=steps)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probes": 1}, "probes is 1; expected at least 2"),
        ({"steps": 0}, "steps is 0; expected at least 1"),
        ({"steps": 2.5}, "steps is 2.5; expected an integer"),
        ({"seed": -1}, "seed is -1"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        fc.spectral_density(np.eye(9), **arguments)
    with pytest.raises(ValueError, match="expected a ≤ b"):
        fc.spectral_density(np.eye(9)).count(1.0, -1.0)


def test_memory_is_foreseen():
    class Huge:
        shape, dtype = (10**13, 10**13), np.dtype(np.float32)

        def __matmul__(self, V):
            raise AssertionError("multiplied before memory was checked")

    with pytest.raises(MemoryError, match="8 probes times 64 steps"):
        fc.spectral_density(Huge())


def test_record():
    density = fc.spectral_density(np.diag([0.0, 0.0, 2.0]))
    assert repr(density) == "SpectralDensity(3 eigenvalues, status='exact', products=3)"
    assert "2 ± 0" in density.summary()
    assert density.to_dict()["size"] == 3
    for array in (density.grid, density.density, density.stderr, density.nodes, density.weights, density.residuals):
        assert not array.flags.writeable
