"""eigsh against LAPACK on planted spectra, its residuals, statuses, certificates and refusals.

`eigsh` solves small problems densely where that is cheaper; `lanczos` is the same call with the iteration forced.
"""

import gc
import math
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import random_orthogonal, with_spectrum

import flatcore as fc
from flatcore.spectral import _operator
from flatcore.spectral._certificate import beyond_seen, certified_gap
from flatcore.spectral._costs import OperatorCost, Probe
from flatcore.spectral._eigsh import _Found, _Run, solve
from flatcore.spectral._operator import Operator
from flatcore.spectral._tolerance import seeds


def lanczos(operator, k=6, *, route="block Lanczos", **options):
    """`fc.eigsh` on a given route."""
    defaults = {"which": "LA", "tol": None, "seed": 0, "v0": None, "maxiter": None, "callback": None, "threads": None}
    return solve(operator, k, route=route, **(defaults | options))


class Counted:
    """An operator that counts the vectors it is given."""

    def __init__(self, A):
        self.A, self.shape, self.dtype, self.products = A, A.shape, A.dtype, 0

    def __matmul__(self, V):
        self.products += 1 if V.ndim == 1 else V.shape[1]
        return self.A @ V


class Costly(Counted):
    """Its vectors are so expensive that blocks are narrow."""

    cost = OperatorCost(0.0, 0.0, 1e12)


def expected(values, which, k):
    order = {"LA": -values, "SA": values, "LM": -np.abs(values)}[which]
    return values[np.argsort(order, kind="stable")][:k]


def true_residuals(A, result):
    """‖Av − λv‖ for unit v in float64 from the definition."""
    V = result.vectors.astype(np.float64)
    V = V / np.linalg.norm(V, axis=0)
    return np.linalg.norm(np.asarray(A, np.float64) @ V - V * result.values, axis=0)


@st.composite
def spectra(draw):
    """150 to 400 eigenvalues: a bulk, and planted at both ends multiple values and clusters."""
    N = draw(st.integers(150, 400))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    values = rng.uniform(-1.0, 1.0, N)
    for sign in (1.0, -1.0):
        at, level = (0, sign * 2.0) if sign > 0 else (60, sign * 2.0)
        for _ in range(draw(st.integers(0, 3))):
            size = draw(st.integers(1, 6))
            spread = draw(st.sampled_from([0.0, 0.0, 1e-12, 1e-7, 1e-3]))
            values[at : at + size] = level + spread * rng.standard_normal(size)
            at, level = at + size, level + sign * draw(st.sampled_from([0.02, 0.3, 1.0]))
    return values * draw(st.sampled_from([1.0, 1e-8, 1e8]))


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@settings(max_examples=20)
@given(values=spectra(), k=st.integers(1, 14), seed=st.integers(0, 5))
def test_planted_spectra(which, values, k, seed):
    """Values agree with those planted to tol (a residual bounds the error of a value), copies included."""
    A = with_spectrum(values, seed)
    result = lanczos(A, k, which=which, seed=seed, tol=1e-9)
    assert "Lanczos" in result.method
    assert result.status == "converged"
    assert result.converged.all()
    size = np.abs(values).max()
    want = expected(values, which, k)
    got = np.sort(np.abs(result.values)) if which == "LM" else np.sort(result.values)
    want = np.sort(np.abs(want)) if which == "LM" else np.sort(want)
    assert np.abs(got - want).max() <= 2e-9 * size
    # both residuals carry rounding of 1e-14 of the matrix
    np.testing.assert_allclose(result.residuals, true_residuals(A, result), atol=1e-12 * size)
    assert (result.residuals <= 1e-9 * size).all()
    V = result.vectors
    assert np.abs(V.T @ V - np.eye(k)).max() <= 1e-9
    assert (np.diff({"LA": -result.values, "SA": result.values, "LM": -np.abs(result.values)}[which]) >= 0).all()


@settings(max_examples=15)
@given(values=spectra(), k=st.integers(1, 10))
def test_planted_spectra_in_float32(values, k):
    """float32 input is iterated in float32; residuals are measured in float64 on the same matrix."""
    A = with_spectrum(values).astype(np.float32)
    result = lanczos(A, k)
    size = np.abs(values).max()
    assert result.tol == 1e-4
    assert result.status == "converged"
    assert np.abs(result.values - np.linalg.eigvalsh(A.astype(float))[::-1][:k]).max() <= 1.1e-4 * size
    np.testing.assert_allclose(result.residuals, true_residuals(A, result), atol=1e-6 * size)
    assert result.vectors.dtype == np.float32


def laplacian(n=300):
    return scipy.sparse.diags_array([-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], offsets=[-1, 0, 1])


class Minimal:
    """Only shape, dtype and @."""

    shape, dtype = (300, 300), np.dtype(np.float64)

    def __matmul__(self, V):
        return laplacian() @ V


@pytest.mark.parametrize(
    "operator",
    [
        laplacian().tocsr(),
        laplacian().tocsr().astype(np.float32),
        scipy.sparse.csc_matrix(laplacian()),
        laplacian().toarray(),
        np.asfortranarray(laplacian().toarray()),
        laplacian().toarray().astype(np.int64),
        scipy.sparse.linalg.aslinearoperator(laplacian()),
        scipy.sparse.linalg.LinearOperator((300, 300), matvec=lambda v: laplacian() @ v, dtype=np.float64),
        Minimal(),
    ],
    ids=["csr", "csr32", "csc_matrix", "dense", "fortran", "integers", "aslinearoperator", "matvec", "minimal"],
)
@pytest.mark.parametrize("which", ["LA", "SA"])
def test_kinds_of_operators(operator, which):
    """Eigenvalues of the path Laplacian are 2 − 2cos(πj/(n + 1)), known exactly."""
    exact = 2 - 2 * np.cos(np.pi * np.arange(1, 301) / 301)
    result = lanczos(operator, 4, which=which, tol=1e-5)
    assert result.status == "converged"
    assert np.abs(result.values - expected(exact, which, 4)).max() <= 4e-5


def test_residuals_bound_the_error_of_values():
    A = with_spectrum(np.random.default_rng(0).uniform(0, 1, 200))
    result = lanczos(A, 5, tol=1e-3)
    exact = np.linalg.eigvalsh(A)
    for value, residual in zip(result.values, result.residuals, strict=True):
        assert np.abs(exact - value).min() <= residual * (1 + 1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tensors_and_arrays_are_the_same_operator(dtype):
    A = laplacian().toarray().astype(dtype)
    one, two = fc.eigsh(A, 3), fc.eigsh(torch.tensor(A, requires_grad=True), 3)
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(one.vectors, two.vectors)
    assert one.vectors.dtype == dtype


def test_half_precision_matrices_are_worked_on_in_float32():
    A = laplacian().toarray().astype(np.float16)  # 2 and −1 are exact
    result = fc.eigsh(A, 2)
    assert result.vectors.dtype == np.float32
    assert result.values[0] == pytest.approx(2 - 2 * np.cos(np.pi * 300 / 301), abs=4e-4)


def test_float32_matrices_are_certified_in_float64_panel_by_panel(monkeypatch):
    monkeypatch.setattr(_operator, "_PANEL_ENTRIES", 1000)
    A = with_spectrum(HARD).astype(np.float32)
    result = lanczos(A, 2)
    np.testing.assert_allclose(result.residuals, true_residuals(A, result), rtol=1e-6)


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@settings(max_examples=25)
@given(
    N=st.one_of(st.integers(1, 60), st.integers(61, 600)),
    k=st.integers(1, 20),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["dense", "csr", "operator"]),
    dtype=st.sampled_from([np.float32, np.float64]),
    route=st.sampled_from([None, "dense", "block Lanczos"]),
)
def test_every_route_agrees_with_lapack(which, N, k, seed, kind, dtype, route):
    """Spectra with ties and clusters at both ends and in the middle, N down to 1, on every route and operator.

    A value is off by at most its residual; LAPACK itself is exact to rounding.
    """
    rng = np.random.default_rng(seed)
    values = rng.uniform(-1.0, 1.0, N)
    for _ in range(rng.integers(0, 4)):
        first, size = rng.integers(0, N), rng.integers(1, 9)
        values[first : first + size] = rng.choice([-1.5, -1.0, 0.0, 1.0, 1.5]) + rng.choice([0.0, 1e-9]) * rng.random()
    A = with_spectrum(values, seed).astype(dtype)
    operator = {"dense": lambda: A, "csr": lambda: scipy.sparse.csr_array(A), "operator": lambda: Counted(A)}[kind]()
    k, tol = min(k, N), 1e-4 if dtype == np.float32 else 1e-8
    result = lanczos(operator, k, which=which, tol=tol, seed=seed, route=route)
    assert result.status == "converged"
    exact = np.linalg.eigvalsh(A.astype(float))
    size, got, want = np.abs(exact).max(), result.values, expected(exact, which, k)
    if which == "LM":
        got, want = np.abs(got), np.abs(want)
    assert np.abs(got - want).max() <= 1.01 * tol * size
    np.testing.assert_allclose(result.residuals, true_residuals(A, result), atol=(1e-6 if tol > 1e-6 else 1e-12) * size)
    V = result.vectors.astype(float)
    assert np.abs(V.T @ V - np.eye(k)).max() <= (1e-5 if dtype == np.float32 else 1e-12)


def test_the_identity_workload_for_twenty_seeds(identity_workload):
    """A 12-fold top, by blocks of every size considered: the probe finds what narrow blocks miss."""
    chain, loss, top = identity_workload
    dense, hits = fc.Hessian(chain, loss).dense(), {1: 0, 12: 0}
    for seed in range(20):
        for operator, block in ((dense, 12), (Costly(dense), 1)):
            result = lanczos(operator, 12, seed=seed)
            assert f"block {block}, " in result.method
            assert result.status == "converged"
            assert np.abs(result.values - top).max() <= 1e-6 * top
            hits[block] += result.certificate.hits
    assert hits[1] >= 20 * 8


# -- start, stop, reproducibility ----------------------------------------------------------------------------

HARD = np.r_[1.0 + 0.002 * np.arange(8), np.linspace(0.0, 0.99, 392)]  # small gaps: hundreds of products


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_seed_gives_the_same_bits(dtype):
    A = with_spectrum(HARD).astype(dtype)
    one, two, other = (lanczos(A, 4, seed=seed, threads=2) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(one.vectors, two.vectors)
    np.testing.assert_array_equal(one.residuals, two.residuals)
    assert one.products == two.products
    assert (one.vectors != other.vectors).any()
    assert one.seed == 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("k", "given"), [(1, 1), (4, 4), (4, 6), (8, 8)])
@pytest.mark.parametrize("which", ["LA", "SA"])
def test_started_at_the_answer_one_block_product_is_left(which, k, given, dtype):
    """Beside the probe; the vectors may come in any order, length and combination."""
    values = HARD - 0.5  # the modulus of the bottom tells the size of the operator as well
    A = Counted(with_spectrum(values).astype(dtype))
    exact = np.linalg.eigh(A.A.astype(float))[1]
    exact = exact[:, ::-1][:, :given] if which == "LA" else exact[:, :given]
    mixed = exact @ np.random.default_rng(0).standard_normal((given, given))
    for start in (exact, 1e30 * exact[:, ::-1], mixed):
        A.products = 0
        warm = lanczos(A, k, which=which, v0=start if given > 1 else start[:, 0])
        assert warm.status == "converged"
        probe = warm.certificate  # without hits: its steps and blocks are all it multiplied
        assert probe.hits == 0
        assert warm.products == A.products == given + probe.steps * probe.block
        assert "no iteration" in warm.explain()
        assert np.abs(warm.values - expected(values, which, k)).max() <= (1e-6 if dtype == np.float32 else 1e-13)
        np.testing.assert_allclose(warm.residuals, true_residuals(A.A, warm), atol=2e-6)


@pytest.mark.parametrize("given", [1, 3, 4, 9, 60, 500])
def test_a_start_near_the_answer_saves_products(given):
    """From fewer and from more vectors than are wanted, or than the space has dimensions."""
    A = Counted(with_spectrum(HARD))
    exact = np.linalg.eigh(A.A)[1][:, ::-1]
    rng = np.random.default_rng(0)
    columns = np.hstack([exact, rng.standard_normal((400, 100))])[:, :given]
    start = columns + 1e-5 * rng.standard_normal((400, given))
    cold = lanczos(A, 4)
    warm = lanczos(A, 4, v0=start)
    np.testing.assert_allclose(warm.values, cold.values, rtol=1e-6)
    assert warm.status == "converged"
    if 4 <= given <= 9:
        assert warm.products < 0.6 * cold.products


@pytest.mark.parametrize("N", [30, 400])
def test_starts_with_dependent_and_zero_columns(N):
    values = np.linspace(-1.0, 1.0, N)
    A = with_spectrum(values)
    top = np.linalg.eigh(A)[1][:, ::-1]
    for start in (
        np.zeros(N),
        np.zeros((N, 3)),
        np.ones((N, 5)),
        np.column_stack([top[:, 0], np.zeros(N), top[:, 0], 1e-200 * top[:, 1], 1e200 * top[:, 2]]),
    ):
        result = lanczos(A, 3, v0=start)
        np.testing.assert_allclose(result.values, values[::-1][:3], atol=4e-6)
        assert result.status == "converged"


def test_a_start_in_float32_or_as_integers():
    A = with_spectrum(HARD)
    for v0 in (np.ones(400, np.float32), np.ones(400, int), np.ones((400, 2))):  # the last is rank-deficient
        assert lanczos(A, 2, v0=v0).values[0] == pytest.approx(HARD.max(), rel=1e-6)


def test_callback_sees_the_run_and_stops_it():
    A, states = with_spectrum(HARD), []

    def three_steps(state):
        states.append(state)
        return len(states) == 3

    result = lanczos(A, 2, callback=three_steps)
    assert result.status == "stopped"
    assert "callback" in result.message
    assert [s.iteration for s in states] == [1, 2, 3]
    assert states[0].products < states[2].products
    assert len(states[2].values) == 2 == len(states[2].residuals)
    assert not result.converged.all()
    np.testing.assert_allclose(result.residuals, true_residuals(A, result), atol=1e-12)
    assert result.certificate is None


def test_the_dense_route_is_one_step_for_the_callback():
    states = []
    result = fc.eigsh(np.diag([1.0, 2.0, 3.0]), 2, callback=lambda state: states.append(state) or True)
    assert [s.iteration for s in states] == [1]
    np.testing.assert_array_equal(states[0].values, result.values)
    assert result.status == "converged"


def test_callback_that_returns_something_else_goes_on():
    assert lanczos(with_spectrum(HARD), 1, callback=lambda state: 1).status == "converged"


def test_stopping_before_there_are_k_vectors():
    result = lanczos(with_spectrum(HARD), 20, callback=lambda state: True)
    assert result.status == "stopped"
    assert len(result.values) == len(result.residuals) == result.vectors.shape[1] == len(result.converged)
    assert 1 <= len(result.values) <= 20


def test_stopping_during_the_probe():
    """The values are converged; only the certificate is missing."""
    steps_without_probe = []
    lanczos(with_spectrum(HARD), 1, callback=lambda s: steps_without_probe.append(s.iteration))
    last = steps_without_probe[-1]
    result = lanczos(with_spectrum(HARD), 1, callback=lambda s: s.iteration == last - 2)
    assert result.status == "stopped"
    assert result.converged.all()
    assert result.certificate.delta == np.inf
    assert result.to_dict()["certificate"]["delta"] is None


def test_numpy_s_true_stops_as_well():
    result = lanczos(with_spectrum(HARD), 2, callback=lambda state: state.residuals.max() < np.inf)
    assert result.status == "stopped"


def test_what_cannot_be_called_is_refused_before_any_product():
    A = Counted(with_spectrum(HARD))
    with pytest.raises(ValueError, match="callback is 3; expected a function of a SolverState"):
        fc.eigsh(A, 1, callback=3)
    assert A.products == 0


def test_nan_in_the_certifying_products_alone():
    """The iteration, in float32, sees none."""

    class FailsInDouble:
        shape, dtype = (400, 400), np.dtype(np.float32)

        def __matmul__(self, V):
            return np.full_like(V, np.nan) if V.dtype == np.float64 else with_spectrum(HARD).astype(np.float32) @ V

    with pytest.raises(ValueError, match="returned NaN or Inf"):
        lanczos(FailsInDouble(), 2)


def test_callback_that_raises():
    def failing(state):
        raise KeyError("from the callback")

    with pytest.raises(KeyError, match="from the callback"):
        lanczos(with_spectrum(HARD), 1, callback=failing)


def test_nothing_of_an_interrupted_run_stays():
    """An exception from the callback leaves no basis behind (at least 28 rows of 8 · 20,000 bytes)."""
    d = np.linspace(0.0, 1.0, 20_000)

    class Diagonal:
        shape, dtype = (20_000, 20_000), np.dtype(np.float64)

        def __matmul__(self, V):
            return (d * V.T).T

    def interrupted(state):
        if state.iteration == 60:
            raise KeyboardInterrupt

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with pytest.raises(KeyboardInterrupt):
            lanczos(Diagonal(), 2, callback=interrupted)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before <= 300_000
        assert tracemalloc.get_traced_memory()[1] - before >= 28 * 8 * 20_000
    finally:
        tracemalloc.stop()


def test_few_steps_are_a_status():
    A = with_spectrum(HARD)
    result = lanczos(A, 4, tol=1e-10, maxiter=5)
    assert result.status == "max_iterations"
    assert not result.converged.all()
    assert "raise maxiter" in result.message
    np.testing.assert_allclose(result.residuals, true_residuals(A, result), atol=1e-12)
    assert (result.converged == (result.residuals <= 1e-10 * np.abs(HARD).max())).all()


@pytest.mark.parametrize(("dtype", "floor"), [(np.float32, 1e-6), (np.float64, 1e-13)])
def test_tolerance_below_the_floor(dtype, floor):
    A = with_spectrum(np.r_[5.0, 4.0, 3.0, np.linspace(-1, 1, 197)]).astype(dtype)
    result = lanczos(A, 2, tol=0.0)
    assert result.tol == floor
    assert "below the floor" in result.message
    assert f"{floor:g}" in result.message
    # at the floor itself both outcomes are honest; the residuals are true either way and close to it
    assert result.status in ("converged", "precision_limited")
    assert (result.residuals <= 30 * floor * 5.0).all()
    np.testing.assert_allclose(result.residuals, true_residuals(A, result), atol=1e-7 if floor > 1e-7 else 1e-13)
    assert "below the floor" not in lanczos(A, 2, tol=1e-3).message


def test_an_operator_that_rounds_more_than_its_type_is_precision_limited():
    """Products rounded to 1e-5: residuals cannot reach 1e-10, and the answer says so instead of iterating forever."""

    class Rounded:
        shape, dtype = (200, 200), np.dtype(np.float64)
        A = with_spectrum(np.r_[5.0, 4.0, np.linspace(-1, 1, 198)])

        def __matmul__(self, V):
            return np.round(self.A @ V, 5)

    result = lanczos(Rounded(), 2, tol=1e-10, maxiter=300)
    assert result.status in ("precision_limited", "max_iterations")
    assert not result.converged.any()
    assert "pairs" in result.message
    assert np.abs(result.values - [5.0, 4.0]).max() <= 1e-3


# -- degenerate operators ------------------------------------------------------------------------------------


@pytest.mark.parametrize("N", [5, 200])
@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_the_zero_operator(N, which):
    result = lanczos(np.zeros((N, N)), 3, which=which)
    np.testing.assert_array_equal(result.values, 0.0)
    np.testing.assert_allclose(result.vectors.T @ result.vectors, np.eye(3), atol=1e-12)
    assert result.status == "converged"


@pytest.mark.parametrize("scale", [1.0, -3.0, 1e-100, 1e100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_multiple_of_the_identity(scale, dtype):
    """All residuals are rounding: nothing of it may be taken for a direction, or a probe would hit noise."""
    scale = np.sign(scale) * abs(scale) ** 0.2 if dtype == np.float32 else scale
    result = lanczos((scale * np.eye(200)).astype(dtype), 5)
    np.testing.assert_allclose(result.values, scale, rtol=1e-12 if dtype == np.float64 else 1e-6)
    assert result.status == "converged"
    assert result.certificate.hits == 0
    assert result.products <= 100


@pytest.mark.parametrize(
    ("which", "want"), [("LA", [3, 2, 0, 0, 0]), ("SA", [-1, 0, 0, 0, 0]), ("LM", [3, 2, -1, 0, 0])]
)
def test_low_rank(which, want):
    """In the complement of what was found the operator is rounding alone, which is not symmetric."""
    U = random_orthogonal(300, 0)[:, :3]
    A = (U * [3.0, 2.0, -1.0]) @ U.T
    for seed in range(3):
        result = lanczos(A, 5, which=which, seed=seed)
        np.testing.assert_allclose(result.values, want, atol=1e-6 * 3)
        assert result.status == "converged"


@pytest.mark.parametrize("N", [1, 2, 3, 40])
def test_small_operators_are_solved_densely(N):
    A = with_spectrum(np.linspace(-1.0, 2.0, N) if N > 1 else np.array([-2.0]))
    result = fc.eigsh(A, N)
    np.testing.assert_allclose(result.values, np.linalg.eigvalsh(A)[::-1], atol=1e-13)
    assert "Dense" in result.method
    assert result.certificate.method == "dense"
    assert result.certificate.delta == 0.0
    assert result.certificate.probability == 0.0
    assert "dense" in result.certificate.summary()
    np.testing.assert_allclose(result.residuals, true_residuals(A, result), atol=1e-13)


def test_all_eigenvalues_of_a_larger_operator():
    values = np.random.default_rng(0).uniform(-1, 1, 160)
    result = fc.eigsh(with_spectrum(values), 160)
    np.testing.assert_allclose(result.values, np.sort(values)[::-1], atol=1e-12)


# -- multiplicity and the probe ------------------------------------------------------------------------------


@pytest.mark.parametrize("multiplicity", [3, 8, 16, 20, 30])
@pytest.mark.parametrize("which", ["LA", "SA"])
def test_exact_multiplicities(multiplicity, which):
    """Copies in number below and above the block (16 at most): a block of b vectors sees only b of them."""
    sign = 1.0 if which == "LA" else -1.0
    values = sign * np.r_[np.full(multiplicity, 2.0), np.random.default_rng(1).uniform(-1, 1.5, 400 - multiplicity)]
    A = with_spectrum(values)
    for seed in range(3):
        result = lanczos(A, multiplicity, which=which, seed=seed)
        assert "Lanczos" in result.method
        np.testing.assert_allclose(result.values, 2.0 * sign, atol=4e-6)
        assert result.status == "converged"
        if multiplicity == 20:
            assert result.certificate.hits == 4  # found by the probe alone
            assert result.certificate.probability >= 2e-3  # that probe and the one after it


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_probe_finds_what_a_bad_start_hides(dtype):
    """Started in an invariant subspace below the top, Lanczos converges there at once: only the probe can know."""
    values = np.r_[np.full(5, 3.0), 2.5, 2.0, np.linspace(-1, 1, 293)]
    A = with_spectrum(values).astype(dtype)
    below = np.linalg.eigh(A.astype(float))[1][:, ::-1][:, 7:11]
    result = lanczos(A, 4, v0=below)
    assert result.certificate.hits >= 4
    np.testing.assert_allclose(result.values, 3.0, atol=4e-4 if dtype == np.float32 else 4e-6)
    assert result.status == "converged"
    assert f"{result.certificate.hits} hits merged" in result.certificate.summary()


@pytest.mark.parametrize("which", ["SA", "LM"])
def test_the_probe_looks_on_the_side_asked_for(which):
    values = np.r_[np.full(3, -3.0), -2.5, np.linspace(-1, 1, 296)]
    A = with_spectrum(values)
    inside = np.linalg.eigh(A)[1][:, 10:14]
    result = lanczos(A, 4, which=which, v0=inside)
    assert result.certificate.hits >= 4
    np.testing.assert_allclose(result.values, [-3, -3, -3, -2.5], atol=4e-6)


def brute_gap(N, b, q, w, p):
    """Smallest δ on a fine grid where χ²_b ≤ N/sinh²((2q−1)·arsinh √(δ/w)) has chance p, from theory."""
    for delta in w * np.geomspace(1e-6, 1e4, 200_001):
        S = math.sinh(min((2 * q - 1) * math.asinh(math.sqrt(delta / w)), 700.0))
        if scipy.special.gammainc(b / 2, N / (2 * S * S)) <= p:
            return delta
    raise AssertionError


@pytest.mark.parametrize(
    "arguments", [(576, 4, 17, 8.0, 1e-3), (2e5, 1, 25, 1.0, 1e-3), (2e5, 4, 17, 1.0, 1e-3), (1e6, 2, 40, 1e-3, 1e-6)]
)
def test_certified_gap(arguments):
    """The bound is a little above the chance itself: it leaves e^{−y/2} out, y ≤ 0.1 where it is 1e-3."""
    N, b, q, w, p = arguments
    exact = brute_gap(N, b, q, w, p)
    assert exact * (1 - 2e-4) <= certified_gap(N, b, q, w, p) <= exact * 1.01  # the grid's ratio is 1e-4


@pytest.mark.parametrize(("steps", "relative_gap"), [(14, 0.1), (24, 0.03), (41, 0.01)])
def test_certified_gap_against_the_table(steps, relative_gap):
    """docs/theory.md, section 7: N = 2·10⁵, 1e-3, b = 4: so many steps reach this δ/w, and one step fewer does not."""
    assert certified_gap(200_000, 4, steps, 1.0, 1e-3) <= relative_gap
    assert certified_gap(200_000, 4, steps - 1, 1.0, 1e-3) > relative_gap


@pytest.mark.parametrize(("b", "q"), [(1, 3), (1, 6), (2, 5), (4, 4)])
def test_the_bound_is_valid_and_attained(b, q):
    """Probes of the spectrum that is hardest to see beyond miss as often as the bound says, and no more.

    Best polynomials of a weighted sup norm have a dual: multiplicities on their extreme points, here in proportion to
    Lagrange's |ℓ_j(δ)|/√(−λ_j), for which no polynomial does better in the mean square.
    """
    N, p, trials = 20_000, 0.05, 20_000
    delta = certified_gap(N, b, q, 1.0, p)
    nodes = -(np.sin((2 * np.arange(q) + 1) * math.pi / (4 * q - 2)) ** 2)  # of −λ·p(λ)², on [−1, 0]
    lagrange = [np.prod((delta - np.delete(nodes, j)) / (nodes[j] - np.delete(nodes, j))) for j in range(q)]
    weights = np.abs(lagrange) / np.sqrt(-nodes)
    copies = np.round(N * weights / weights.sum())
    rng = np.random.default_rng(b * 100 + q)
    # m × b normal entries turn into the R of their QR, all that a Krylov space of m copies of an eigenvalue sees
    X = np.zeros((trials, q * b + 1, b))
    for j, m in enumerate(copies):
        R = np.triu(rng.standard_normal((trials, b, b)), 1)
        R[:, range(b), range(b)] = np.sqrt(rng.chisquare(m - np.arange(b), (trials, b)))
        X[:, j * b : (j + 1) * b] = R
    X[:, -1] = rng.standard_normal((trials, b))
    values = np.r_[np.repeat(nodes, b), delta]
    krylov = np.concatenate([X * (values**power)[:, None] for power in range(q)], axis=2)
    Q = np.linalg.qr(krylov)[0]
    top = np.linalg.eigvalsh(Q.swapaxes(1, 2) @ (values[:, None] * Q))[:, -1]
    missed = float((top <= 0.0).mean())
    error = math.sqrt(p * (1 - p) / trials)
    half_y = (p * math.gamma(b / 2 + 1)) ** (2 / b)
    chance = scipy.special.gammainc(b / 2, half_y)  # of χ²_b ≤ y itself: the bound drops e^{−y/2}
    assert abs(missed - chance) <= 4 * error + 0.02 * p
    assert missed <= p + 3 * error


def test_certified_gap_at_its_ends():
    assert certified_gap(60, 4, 15, 1.0, 1e-3) == 0.0  # a probe that spans everything
    assert certified_gap(600, 4, 15, 0.0, 1e-3) == 0.0
    assert certified_gap(10**5, 1, 2, 1.0, 1e-9) == math.inf  # and one that says nothing
    assert beyond_seen(1.5) == math.inf
    assert beyond_seen(0.2) == pytest.approx(0.25)


@pytest.mark.parametrize(("which", "width", "chance"), [("LA", 5.0, 5e-4), ("SA", 3.0, 5e-4), ("LM", 4.0, 1e-3)])
def test_certificates_pay_for_width_margin_and_residuals(which, width, chance):
    """All that is added to the bound: hits begin at the margin, deflated vectors are inexact, an end is unseen."""
    N, steps, tol, scale = 400, 9, 1e-2, 7.0
    run = _Run(Operator(np.eye(N)), 2, which, tol, 10, None, seeds(0), probe=Probe(4, steps))
    run.scale, run.low, run.high = scale, -3.0, 5.0
    found = _Found(np.zeros((2, N)), np.array([4.0, 2.0]), np.array([0.03, 0.04]))
    margin = tol * scale
    seen = width + margin * (2 if which == "LM" else 1)
    relative = certified_gap(N - 2, 4, steps, 1.0, chance)
    assert run.delta(found, steps) == pytest.approx(relative / (1 - relative) * seen + margin + 0.05, rel=1e-12)


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_certificate_of_a_run(which):
    values = np.r_[3.0, 2.9, np.linspace(-1, 1, 298), -2.0]
    result = lanczos(with_spectrum(values), 2, which=which)
    c = result.certificate
    assert (c.method, c.block, c.probability, c.hits) == ("probe", 4, 1e-3, 0)
    # the width is the one seen by the solver, within the true one and close to it; of moduli it is known
    width = 2 * 2.9 if which == "LM" else np.ptp(values) - abs(result.values[0] - result.values[1])
    relative = brute_gap(301 - 2, c.block, c.steps, 1.0, 1e-3 if which == "LM" else 5e-4)
    assert c.delta / (width + c.delta) == pytest.approx(relative, rel=0.02)  # δ of the width and what may lie beyond
    assert "nothing missed beyond" in result.explain()


# -- refusals ------------------------------------------------------------------------------------------------

A3 = np.diag([1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    ("operator", "k", "options", "message"),
    [
        (A3, 0, {}, "k is 0; expected between 1 and 3"),
        (A3, 4, {}, "k is 4; expected between 1 and 3"),
        (A3, 1.0, {}, "k is 1.0; expected an integer"),
        (A3, True, {}, "k is True; expected an integer"),
        (A3, 1, {"which": "SM"}, "which is 'SM'; expected one of 'LA', 'SA', 'LM'"),
        (A3, 1, {"tol": -1e-3}, "tol is -0.001; expected a number that is not negative, or None"),
        (A3, 1, {"tol": np.nan}, "tol is nan; expected a number"),
        (A3, 1, {"tol": "small"}, "tol is 'small'; expected a number"),
        (A3, 1, {"seed": -1}, "seed is -1; expected at least 0"),
        (A3, 1, {"seed": 0.5}, "seed is 0.5; expected an integer"),
        (A3, 1, {"seed": None}, "seed is None; expected an integer"),
        (A3, 1, {"v0": np.ones(4)}, r"v0 has shape \(4,\); expected \(3,\) or \(3, b\)"),
        (A3, 1, {"v0": np.ones((1, 3))}, r"v0 has shape \(1, 3\); expected \(3,\) or \(3, b\)"),
        (A3, 1, {"v0": np.ones((3, 0))}, r"v0 has shape \(3, 0\)"),
        (A3, 1, {"v0": [1.0, np.nan, 0.0]}, r"v0 contains nan at index \(1\)"),
        (A3, 1, {"v0": np.ones(3) * 1j}, "v0 is complex"),
        (A3, 1, {"maxiter": 0}, "maxiter is 0; expected at least 1"),
        (A3, 1, {"threads": 0}, "threads is 0; expected at least 1"),
        (np.ones((3, 4)), 1, {}, r"operator has shape \(3, 4\); expected a square one"),
        (np.ones(3), 1, {}, r"operator has shape \(3,\); expected a square one"),
        (np.ones((0, 0)), 1, {}, r"operator has shape \(0, 0\); expected at least one row"),
        (A3.tolist(), 1, {}, "operator is a list; expected something with shape, dtype and @"),
        (A3 * 1j, 1, {}, r"operator is complex \(complex128\); expected a real symmetric one"),
    ],
)
def test_bad_arguments(operator, k, options, message):
    with pytest.raises(ValueError, match=message):
        fc.eigsh(operator, k, **options)


class Spoiled:
    """Gives back something wrong."""

    dtype = np.dtype(np.float64)

    def __init__(self, N, spoil):
        self.shape, self.spoil = (N, N), spoil

    def __matmul__(self, V):
        return self.spoil(np.linspace(1, 2, self.shape[0])[:, None] * V)


@pytest.mark.parametrize("N", [20, 300])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda W: W * np.nan, "the operator returned NaN or Inf"),
        (lambda W: W + np.inf, "the operator returned NaN or Inf"),
        (lambda W: W[:-1], r"operator @ V has shape .*; expected \("),
        (lambda W: W * 1j, "operator @ V is complex; expected a real symmetric operator"),
        (lambda W: W + np.roll(W, 1, axis=0), "the operator is not symmetric"),
    ],
    ids=["nan", "inf", "shape", "complex", "asymmetric"],
)
def test_operators_that_misbehave(N, spoil, message):
    with pytest.raises(ValueError, match=message):
        fc.eigsh(Spoiled(N, spoil), 2)


def test_rounding_errors_are_no_asymmetry_and_small_asymmetries_are():
    A = with_spectrum(np.linspace(1.0, 2.0, 200))
    E = np.random.default_rng(0).standard_normal((200, 200)) / 200**0.5
    for route in ("dense", "block Lanczos"):
        assert lanczos(A + 1e-7 * E, 1, tol=1e-4, route=route).status == "converged"
        with pytest.raises(ValueError, match=r"not symmetric: xᵀAy and yᵀAx differ by 0\.00"):
            lanczos(A + 5e-3 * E, 1, tol=1e-2, route=route)


def test_operators_for_vectors_alone_are_told_so():
    class Vectors:
        shape, dtype = (300, 300), np.dtype(np.float64)

        def __matmul__(self, v):
            if np.ndim(v) != 1:
                raise ValueError("one at a time")
            return 2 * v

    message = r"works for one vector \(300,\) but fails for a block \(300, \d+\): one at a time; expected both"
    with pytest.raises(ValueError, match=message):
        fc.eigsh(Vectors(), 1)


def test_errors_of_the_operator_come_out_as_they_are():
    class Broken(Minimal):
        def __matmul__(self, V):
            raise TypeError("broken inside")

    with pytest.raises(TypeError, match=r"^broken inside$"):
        fc.eigsh(Broken(), 1)


@pytest.mark.parametrize("kind", [object, "U3", np.complex64])
def test_types_that_are_no_real_numbers(kind):
    class Odd(Minimal):
        dtype = np.dtype(kind)

    with pytest.raises(ValueError, match=r"expected (real numbers|a real symmetric)"):
        fc.eigsh(Odd(), 1)


def test_images_that_are_no_numbers():
    class Text(Minimal):
        def __matmul__(self, V):
            return np.full(V.shape, "x")

    with pytest.raises(ValueError, match="operator @ V has dtype <U1; expected real numbers"):
        fc.eigsh(Text(), 1)


def test_a_type_numpy_does_not_know():
    class Odd(Minimal):
        dtype = "torch.float32"

    with pytest.raises(ValueError, match=r"operator has dtype torch\.float32; expected a NumPy type"):
        fc.eigsh(Odd(), 1)


def test_nan_in_a_matrix_is_named():
    A = laplacian().toarray()
    A[7, 9] = np.nan
    with pytest.raises(ValueError, match=r"operator contains nan at index \(7, 9\)"):
        fc.eigsh(A, 1)


def test_nan_that_comes_late():
    class Late(Counted):
        def __matmul__(self, V):
            return super().__matmul__(V) * (np.nan if self.products > 20 else 1.0)

    with pytest.raises(ValueError, match="the operator returned NaN or Inf"):
        lanczos(Late(with_spectrum(HARD)), 2)


def test_a_basis_that_cannot_fit_is_foreseen():
    class Huge(Minimal):
        shape = (10**12, 10**12)

    with pytest.raises(MemoryError, match=r"block Lanczos with 38 vectors of 1000000000000, .* needs 336000\.0 GB"):
        fc.eigsh(Huge(), 1)


def test_vectors_that_belong_to_no_chain():
    with pytest.raises(ValueError, match="these eigenvectors belong to no chain or model; use vectors"):
        fc.eigsh(A3, 1).layers(0)
