"""top_svd against LAPACK on planted spectra: values, subspaces, residuals, ties, statuses, warm starts and refusals.

Small matrices go to LAPACK by the cost model; `krylov` switches the model off, so that small shapes reach the iterative
code with everything that can go wrong there (exhausted spaces, restarts, zero values).
"""

import itertools
import signal
import subprocess
import sys
import time
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flatcore as fc
from flatcore.spectral import _svd_full, _svd_operator, _svd_process, _svd_solver, _tolerance, _top_svd
from flatcore.spectral._certificate import certified_gap


def krylov(A, k, **options):
    """top_svd without LAPACK's full decomposition."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_svd_solver, "_full_is_cheaper", lambda operator, k: (False, ""))
        return fc.top_svd(A, k, **options)


def with_values(s, m, n, dtype=np.float64, seed=0):
    """A dense (m, n) matrix with the singular values s, made up with zeros."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.standard_normal((d, len(s))))[0] for d in (m, n))
    return ((U * s) @ V.T).astype(dtype)


def true_residuals(A, result):
    """The larger of ‖Av − σu‖ and ‖Aᵀu − σv‖ in float64, from the definition."""
    U, s, Vt = (np.asarray(x, np.float64) for x in result)
    A = np.asarray(A).astype(np.float64)
    left, right = np.linalg.norm(A @ Vt.T - U * s, axis=0), np.linalg.norm(A.T @ U - Vt.T * s, axis=0)
    return np.maximum(left, right)


def check(A, result, k, tol):
    """Everything the result claims, against LAPACK in float64 on the same entries.

    A value is within its residual of a singular value; with the whole space searched it is within that of *its* value.
    Vectors of a group at distance g from the rest span its subspace up to √(2k)·residual/g (Wedin), doubled here.
    """
    A = np.asarray(A).astype(np.float64)
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    size = s[0]
    rounding = 30 * np.finfo(result.U.dtype).eps
    assert result.status == "converged", result.explain()
    assert result.converged.all()
    assert result.U.shape == (A.shape[0], k)
    assert result.Vt.shape == (k, A.shape[1])
    assert (np.diff(result.s) <= 0).all()
    assert np.abs(result.s - s[:k]).max() <= (tol + rounding) * size
    true = true_residuals(A, result)
    assert (true <= result.residuals + 1e-13 * size).all()
    assert (result.residuals <= true + rounding * size).all()
    assert (result.residuals <= tol * size).all()
    for rows in (result.U.T, result.Vt):
        rows = rows.astype(np.float64)
        assert np.abs(rows @ rows.T - np.eye(k)).max() <= rounding
    edges = [0, *(np.flatnonzero(s[:-1] - s[1:] > 0.03 * size) + 1)]
    for first, last in itertools.pairwise(edges):
        if last > k or size == 0.0:
            break
        gap = min(s[first - 1] - s[first] if first else np.inf, s[last - 1] - s[last])
        for exact, found in ((U[:, first:last], result.U), (Vt[first:last].T, result.Vt.T)):
            outside = exact - found[:, first:last] @ (found[:, first:last].T @ exact)
            assert np.linalg.norm(outside, 2) <= 2 * np.sqrt(2 * k) * (tol + rounding) * size / gap


@st.composite
def planted(draw, low=20, high=140):
    """A matrix with a bulk and, above it, multiple values and clusters; sometimes of low rank; any shape."""
    m, n = draw(st.integers(low, high)), draw(st.integers(low, high))
    side = min(m, n)
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    s = rng.uniform(0.0, 1.0, side)
    level, at = 1.2, 0
    for _ in range(draw(st.integers(0, 4))):
        count = min(draw(st.integers(1, 14)), side - at)
        spread = draw(st.sampled_from([0.0, 0.0, 1e-12, 1e-7, 1e-3]))
        s[at : at + count] = level + spread * rng.standard_normal(count)
        at, level = at + count, level + draw(st.sampled_from([0.05, 0.3, 1.0, 50.0]))
    s[at + draw(st.sampled_from([side, side, 0, 1, 5])) :] = 0.0
    k = draw(st.integers(1, min(24, side)))
    return with_values(s, m, n, seed=draw(st.integers(0, 9))) * draw(st.sampled_from([1.0, 1e-12, 1e12])), k


@settings(max_examples=60)
@given(case=planted(), tol=st.sampled_from([1e-10, 1e-6]), seed=st.integers(0, 3))
def test_planted_spectra(case, tol, seed):
    A, k = case
    check(A, krylov(A, k, tol=tol, seed=seed), k, tol)


@settings(max_examples=60)
@given(case=planted(), tol=st.sampled_from([1e-6, 1e-4]), seed=st.integers(0, 3))
def test_planted_spectra_in_float32(case, tol, seed):
    A, k = case
    A = A.astype(np.float32)
    check(A, krylov(A, k, tol=tol, seed=seed), k, tol)


@settings(max_examples=40)
@given(case=planted(low=1, high=30), dtype=st.sampled_from([np.float32, np.float64]), full=st.booleans())
def test_tiny_matrices_in_full(case, dtype, full):
    """In single precision from AᵀA, whose eigenvalues hide values below √((M + N)·eps)·‖A‖_F: there delta is larger."""
    A, k = case
    A, k = A.astype(dtype), min(A.shape) if full else k
    result = fc.top_svd(A, k)
    assert ("by LAPACK" if dtype == np.float64 else "from AᵀA in float64") in result.method
    assert result.certificate.method == "dense"
    assert result.certificate.delta <= (0.0 if dtype == np.float64 else 3e-7 * result.s[0])
    check(A, result, k, result.tol)


def test_a_gram_matrix_that_hides_the_tolerance_is_noticed(rng):
    A = rng.standard_normal((60, 30)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_svd_operator.StoredOperator, "gram", lambda self: np.diag(np.arange(1.0, 31.0)))
        result = fc.top_svd(A, 4)
    assert "by LAPACK" in result.method
    check(A, result, 4, result.tol)


@settings(max_examples=30)
@given(case=planted(low=2, high=12), dtype=st.sampled_from([np.float32, np.float64]))
def test_tiny_matrices_without_lapack(case, dtype):
    """The Krylov space is the whole space after a step or two."""
    A, k = case
    A = A.astype(dtype)
    check(A, krylov(A, k), k, 1e-4 if dtype == np.float32 else 1e-6)


def spiked(n, count=20, seed=0):
    rng = np.random.default_rng(seed)
    bulk = rng.standard_normal((n, n)) / n**0.5
    return (bulk + with_values(6 / np.sqrt(np.arange(1, count + 1)), n, n)).astype(np.float32)


def test_spiked_in_miniature():
    A = spiked(500)
    result = fc.top_svd(A, 8, tol=1e-6)
    assert "one read of the matrix a step" in result.method
    assert "Golub" not in result.method
    check(A, result, 8, 1e-6)
    # the main run, two certifying products, a short probe, the look for NaN
    assert result.reads <= 45


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bulk_in_miniature(dtype):
    A = np.random.default_rng(0).standard_normal((450, 500)).astype(dtype)
    result = fc.top_svd(A, 16)
    assert "Lanczos" in result.method
    check(A, result, 16, result.tol)


@pytest.mark.parametrize(("m", "n"), [(2000, 150), (150, 2000)])
def test_tall_and_wide(m, n):
    A = with_values(np.r_[3.0, 2.0, 2.0, np.linspace(1, 0, 100)], m, n, np.float32)
    check(A, krylov(A, 5, tol=1e-6), 5, 1e-6)


# -- squares -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_that_squares_lose(dtype):
    """From 1 down to 1e-5, and 1e-10 in float64: squares of the last ones are below the rounding of the first."""
    last = 5 if dtype == np.float32 else 10
    s = np.r_[np.logspace(0, -last, 12), 0.3 * 10.0**-last * np.linspace(1, 0, 300)]
    A = with_values(s, 400, 350, dtype)
    tol = 1e-6 if dtype == np.float32 else 1e-13
    result = fc.top_svd(A, 12, tol=tol)
    assert "Golub–Kahan" in result.method
    assert "squaring would hide" in result.explain()
    check(A, result, 12, tol)
    # Golub–Kahan's absolute error is that of rounding A: far below what squares leave, √eps·σ_1
    exact = np.linalg.svd(A.astype(np.float64), compute_uv=False)[:12]
    assert np.abs(result.s - exact).max() <= 1e-2 * np.sqrt(np.finfo(dtype).eps) * 1e-2


@pytest.mark.parametrize("m", [400, 300])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_more_triplets_than_rank(m, dtype):
    A = with_values([5.0, 4.0, 4.0, 2.0], m, 350, dtype)
    result = fc.top_svd(A, 9)
    check(A, result, 9, result.tol)
    assert result.s[4] <= 1e-6


@pytest.mark.parametrize("shape", [(400, 300), (3, 2), (1, 1)])
def test_zero_matrix(shape):
    result = fc.top_svd(np.zeros(shape), 1)
    check(np.zeros(shape), result, 1, 0.0)
    assert result.certificate.delta == 0.0


@pytest.mark.parametrize(("dtype", "size"), [(np.float32, 1e30), (np.float32, 1e-30), (np.float64, 1e140)])
def test_squares_neither_overflow_nor_vanish(dtype, size):
    s = np.r_[5.0, 4.0, 3.0, np.linspace(1, 0, 300)]
    A = (with_values(s, 350, 400) * size).astype(dtype)
    result = fc.top_svd(A, 3)
    assert result.status == "converged"
    np.testing.assert_allclose(result.s / size, [5.0, 4.0, 3.0], rtol=1e-6)
    scaled = A.astype(np.float64) / size
    U, unit, Vt = result.U.astype(np.float64), result.s / size, result.Vt.astype(np.float64)
    assert np.abs(scaled @ Vt.T - U * unit).max() <= 5e-4
    assert (result.residuals / size <= 5 * result.tol).all()


# -- what could be missed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_copy_of_a_multiple_value(dtype):
    """Multiplicity 12, blocks of 4: the main run finds 4 copies and what comes next; probed, 20 seeds miss none."""
    s = np.r_[np.full(12, 2.0), 1.5, 1.4, 1.3, 1.2, np.linspace(0.3, 0.0, 200)]
    A = with_values(s, 260, 250, dtype)
    hits = []
    for seed in range(20):
        result = fc.top_svd(A, 6, seed=seed, tol=1e-4)
        assert np.abs(result.s - 2.0).max() <= 1e-4 * 2.0, seed
        hits.append(result.certificate.hits)
    assert sum(count > 0 for count in hits) >= 10, "most runs needed no probe: this test proves little"


def test_probes_are_long_where_copies_may_hide():
    bulk = np.linspace(1.0, 0.0, 300)
    tops = {
        _svd_solver.LONGEST_PROBE: np.full(6, 2.0),
        _svd_solver.LONG_PROBE: np.linspace(2.0, 1.96, 6),
        _svd_solver.SHORT_PROBE: np.linspace(2.0, 1.3, 6),
    }
    gaps = []
    for steps, top in tops.items():
        certificate = fc.top_svd(with_values(np.r_[top, bulk], 400, 350), 6).certificate
        assert (certificate.method, certificate.steps) == ("probe", steps)
        gaps.append(certificate.delta)
    assert gaps[0] < gaps[1] < gaps[2]


def test_the_probe_certifies_beyond_its_margin():
    result = fc.top_svd(spiked(400), 4)
    assert result.certificate.delta >= result.tol * result.s[0]
    assert result.certificate.probability == 1e-3
    # what is deflated is inexact on both sides; 1e-9 is far below what that adds
    beyond = result.s[-1] + result.tol * result.s[0]
    gap = certified_gap(result.Vt.shape[1] - 4, 4, result.certificate.steps, beyond**2, 1e-3)
    inexact = np.sqrt(2.0) * np.linalg.norm(result.residuals)
    assert inexact > 1e-7 * result.certificate.delta
    assert result.certificate.delta == pytest.approx(np.sqrt(beyond**2 + gap) - result.s[-1] + inexact, rel=1e-9)


# -- starting, stopping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True])
def test_warm_start(flip):
    """At the exact vectors: NaN check, one product, two certifying ones and the probe (one more for the other side)."""
    A = with_values(np.r_[np.linspace(3, 2, 8), np.linspace(1, 0, 300)], 400, 350)
    A = A.T if flip else A
    cold = fc.top_svd(A, 8, tol=1e-8)
    warm = fc.top_svd(A, 8, tol=1e-6, v0=cold.Vt.T)
    assert warm.reads <= 1 + 1 + 2 + _svd_solver.SHORT_PROBE + flip
    assert cold.reads >= warm.reads + 8
    check(A, warm, 8, 1e-6)


def test_start_vectors_of_any_number():
    A = spiked(300)
    rng = np.random.default_rng(0)
    for v0 in (rng.standard_normal(300), rng.standard_normal((300, 40)), np.zeros((300, 3)), np.ones((300, 2))):
        check(A, krylov(A, 5, v0=v0), 5, 1e-4)


def test_callback_sees_and_stops():
    A = spiked(400)
    seen = []
    result = fc.top_svd(A, 5, callback=lambda state: seen.append(state) or len(seen) == 6)
    assert result.status == "stopped"
    assert "callback" in result.message
    assert [state.iteration for state in seen] == [1, 2, 3, 4, 5, 6]
    assert seen[-1].values.shape == (5,)
    assert (seen[-1].values <= np.linalg.norm(A, 2) * (1 + 1e-5)).all()
    np.testing.assert_allclose(result.residuals, true_residuals(A, result), rtol=1e-2)
    assert result.certificate is None


def test_stopped_before_k_vectors():
    result = fc.top_svd(spiked(400), 10, callback=lambda state: True)
    assert result.status == "stopped"
    assert result.s.shape == (4,)
    assert result.U.shape == (400, 4)


def test_numpy_s_true_stops_and_what_cannot_be_called_is_refused():
    assert fc.top_svd(spiked(400), 2, callback=lambda state: np.True_).status == "stopped"
    with pytest.raises(ValueError, match="callback is 'stop'; expected a function"):
        fc.top_svd(spiked(400), 2, callback="stop")


def test_callback_stops_the_probe():
    A = spiked(400)
    steps = []
    fc.top_svd(A, 3, callback=lambda state: steps.append(state.iteration))
    result = fc.top_svd(A, 3, callback=lambda state: state.iteration == steps[-1])
    assert result.status == "stopped"
    assert result.converged.all()


def test_lapack_is_one_step_for_the_callback():
    states = []
    result = fc.top_svd(np.diag([3.0, 2.0, 1.0]), 2, callback=lambda state: states.append(state) or True)
    assert "LAPACK" in result.method
    assert [state.iteration for state in states] == [1]
    np.testing.assert_array_equal(states[0].values, result.s)
    assert result.status == "converged"


@pytest.mark.parametrize(("shape", "k"), [((1500, 1500), 16), ((20_000, 500), 32)])
def test_a_search_takes_the_memory_that_was_foreseen(monkeypatch, shape, k):
    """Traced: the basis and products in float64 beside it; small arrays come on top."""
    foreseen = []
    monkeypatch.setattr(_svd_solver, "check_memory", lambda what, needed: foreseen.append(needed))
    A = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    A[:, :k] *= np.linspace(20.0, 10.0, k, dtype=np.float32)
    tracemalloc.start()
    try:
        krylov(A, k)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(foreseen) == 1
    assert 0.5 * foreseen[0] <= peak <= 1.2 * foreseen[0]


def test_exceptions_of_the_callback_come_out():
    def fail(state):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fc.top_svd(spiked(300), 2, callback=fail)


def test_maxiter():
    A = np.random.default_rng(0).standard_normal((400, 400))
    result = fc.top_svd(A, 5, maxiter=4)
    assert result.status == "max_iterations"
    assert "raise maxiter" in result.message
    assert not result.converged.all()
    np.testing.assert_allclose(result.residuals, true_residuals(A, result), rtol=1e-6)


def test_precision_limited(monkeypatch):
    """A tolerance that float32 cannot reach, once the floor is taken away."""
    monkeypatch.setitem(_tolerance.FLOORS, np.dtype(np.float32), 0.0)
    A = spiked(300)
    result = fc.top_svd(A, 3, tol=1e-9)
    assert result.status == "precision_limited"
    assert "use float64" in result.message
    assert (true_residuals(A, result) <= 1e-6 * result.s[0]).all()


def test_tolerance_below_the_floor():
    result = fc.top_svd(spiked(300), 3, tol=0.0)
    assert result.tol == 1e-6
    assert "below the floor" in result.message
    assert result.status == "converged"


CTRL_C = """
import numpy as np, flatcore as fc
rng = np.random.default_rng(0)
A = {matrix}
print("started", flush=True)
while True:
    fc.top_svd(A, 20, tol=0.0, threads=2)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("matrix", ["rng.standard_normal((2500, 2500))", "rng.standard_normal((40, 300, 300))"])
def test_ctrl_c(matrix):
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", CTRL_C.format(matrix=matrix)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "started\n"
        time.sleep(0.7)
        sent = time.perf_counter()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        taken = time.perf_counter() - sent
    finally:
        process.kill()
        process.communicate()
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert taken <= 1.0, f"stopped after {taken:.2f} s"


# -- input ---------------------------------------------------------------------------------------------------


def layouts(A, tmp_path):
    yield "fortran", np.asfortranarray(A)
    yield "strided rows", np.repeat(A, 2, axis=0)[::2]
    yield "strided both", np.repeat(np.repeat(A, 2, axis=0), 3, axis=1)[::2, ::3]
    yield "reversed", A[::-1, ::-1].copy()[::-1, ::-1]
    yield "padded", np.pad(A, ((1, 2), (3, 4)))[1:-2, 3:-4]
    frozen = A.copy()
    frozen.flags.writeable = False
    yield "read-only", frozen
    np.save(tmp_path / "a.npy", A)
    yield "memory-mapped", np.load(tmp_path / "a.npy", mmap_mode="r")
    yield "tensor", torch.from_numpy(A)
    yield "transposed tensor", torch.from_numpy(A.T.copy()).T
    yield "big-endian", A.astype(A.dtype.newbyteorder())


@pytest.mark.parametrize("shape", [(330, 300), (300, 330), (300, 300)])
def test_every_layout(shape, tmp_path):
    A = with_values(np.r_[3.0, 2.5, 2.0, np.linspace(1, 0, 200)], *shape)
    for name, same in layouts(A, tmp_path):
        result = fc.top_svd(same, 3)
        assert "Lanczos" in result.method, name
        check(A, result, 3, 1e-6)


def test_read_in_place():
    """No copy of the matrix in NumPy's memory, where the basis is a third of it."""
    A = np.random.default_rng(0).standard_normal((1000, 1200), dtype=np.float32)
    for same in (A, A.T, A[::2], np.asfortranarray(A)[:, 100:]):
        tracemalloc.start()
        fc.top_svd(same, 2, maxiter=20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 0.6 * same.nbytes


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("order", ["C", "F"])
def test_half_precision(dtype, order, monkeypatch):
    monkeypatch.setattr("flatcore.spectral._svd_operator._PANEL_ENTRIES", 30_000)  # several panels
    A = np.asarray(spiked(350)[:, :320].astype(dtype), order=order)
    result = fc.top_svd(A, 4, tol=1e-6)
    assert result.U.dtype == np.float32
    check(A.astype(np.float64), result, 4, 1e-6)
    check(A.T.astype(np.float64), fc.top_svd(A.T, 4, tol=1e-6), 4, 1e-6)


def test_half_precision_tensors_and_integers():
    A = torch.from_numpy(spiked(300)).to(torch.bfloat16)
    check(A.float().numpy(), fc.top_svd(A, 2), 2, 1e-4)
    whole = np.random.default_rng(0).integers(-3, 4, (260, 300))
    check(whole, fc.top_svd(whole, 2), 2, 1e-6)
    check([[2, 0], [0, 1], [0, 0]], fc.top_svd([[2, 0], [0, 1], [0, 0]], 2), 2, 1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits(threads):
    A = spiked(600)  # a block product is worth two threads
    first, again, other = (fc.top_svd(A, 5, seed=seed, threads=threads) for seed in (0, 0, 1))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.U != other.U).any()


# -- many ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_lists(threads):
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal(shape).astype(np.float32) for shape in ((260, 250), (30, 40), (250, 260), (5, 9))]
    results = fc.top_svd(matrices, 4, threads=threads, tol=1e-5)
    assert isinstance(results, list)
    for A, result in zip(matrices, results, strict=True):
        check(A, result, 4, 1e-5)
        alone = fc.top_svd(A, 4, threads=1, tol=1e-5)
        np.testing.assert_array_equal(result.U, alone.U)
        np.testing.assert_array_equal(result.s, alone.s)


def test_stacks_and_large_layers_in_turn(monkeypatch):
    stack = np.random.default_rng(0).standard_normal((3, 20, 30))
    monkeypatch.setattr(_top_svd, "_ALONE", 100)
    monkeypatch.setattr(_top_svd, "ThreadPoolExecutor", None)  # not used
    for A, result in zip(stack, fc.top_svd(torch.from_numpy(stack), 2, threads=2), strict=True):
        check(A, result, 2, 1e-6)
    assert fc.top_svd(np.zeros((0, 3, 3)), 1) == []


# -- refusals ------------------------------------------------------------------------------------------------


def spoiled(value, dtype=np.float64):
    A = np.ones((40, 30), dtype)
    A[17, 5] = value
    return A


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (spoiled(np.nan), r"matrix contains nan at index \(17, 5\)"),
        (spoiled(-np.inf, np.float32), r"matrix contains -inf at index \(17, 5\)"),
        (spoiled(np.nan, np.float16).T, r"matrix contains nan at index \(5, 17\)"),
        (spoiled(np.inf)[::2, ::-1][::-1], None),
        ([np.eye(3), spoiled(np.inf)], r"matrix\[1\] contains inf at index \(17, 5\)"),
        (np.ones(3), r"matrix has shape \(3,\); expected 2 dimensions"),
        (np.ones((2, 2, 2, 2)), r"matrix has shape \(2, 2, 2, 2\); expected 2"),
        ([np.eye(3), np.ones(2).reshape(1, 1, 2)], r"matrix\[1\] has shape \(1, 1, 2\)"),
        ([], r"matrix has shape \(0,\)"),
        (np.ones((0, 3)), r"matrix has shape \(0, 3\); expected at least one entry"),
        (np.eye(3, dtype=complex), "matrix is complex"),
        (np.array([["a"]]), "matrix has dtype"),
        (np.ma.masked_equal(np.eye(3), 0), "masked"),
    ],
)
def test_bad_matrices(matrix, message):
    if message is None:  # every second row: the spoiled one is left out
        assert fc.top_svd(matrix, 1).status == "converged"
        return
    with pytest.raises(ValueError, match=message):
        fc.top_svd(matrix, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 4}, "k is 4; expected between 1 and 3"),
        ({"k": 0}, "k is 0; expected between 1 and 3"),
        ({"k": 1.5}, "k is 1.5; expected an integer"),
        ({"tol": -1.0}, "tol is -1.0"),
        ({"tol": np.nan}, "tol is nan"),
        ({"tol": "small"}, "tol is 'small'"),
        ({"seed": -1}, "seed is -1"),
        ({"maxiter": 0}, "maxiter is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"v0": np.ones(3)}, r"v0 has shape \(3,\); expected \(5,\) or \(5, b\)"),
        ({"v0": np.full(5, np.nan)}, "v0 contains nan"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        fc.top_svd(np.ones((3, 5)), **{"k": 1, **options})


def test_bad_options_of_lists():
    matrices = [np.ones((3, 5)), np.ones((2, 2))]
    with pytest.raises(ValueError, match=r"k is 3; expected at most 2, the smaller side of matrix\[1\]"):
        fc.top_svd(matrices, 3)
    with pytest.raises(ValueError, match="v0 is given with 2 matrices"):
        fc.top_svd(matrices, 1, v0=np.ones(5))
    with pytest.raises(ValueError, match="callback is given with 2 matrices"):
        fc.top_svd(matrices, 1, callback=print)


def test_memory_is_foreseen(monkeypatch):
    monkeypatch.setattr("flatcore._memory._SMALL", 0)
    monkeypatch.setattr("flatcore._memory.available_memory", lambda: 1000)
    with pytest.raises(MemoryError, match="a search for 2 singular triplets needs"):
        krylov(np.ones((300, 300)), 2)
    with pytest.raises(MemoryError, match="full decomposition of a 30 × 20 matrix needs"):
        fc.top_svd(np.ones((30, 20)), 2)


# -- the record ----------------------------------------------------------------------------------------------


def test_the_result():
    A = spiked(300)
    result = fc.top_svd(A, 3)
    U, s, Vt = result
    assert U is result.U
    assert not any(part.flags.writeable for part in result)
    assert np.abs(U * s @ Vt - A).max() < 1.0
    for text in (result.summary(), repr(result), result._repr_html_()):
        assert "converged" in text
    assert f"{result.reads} reads of the matrix" in result.explain()
    plain = result.to_dict()
    assert plain["s"] == s.tolist()
    assert "U" not in plain
    assert plain["certificate"]["method"] == "probe"


def test_reads_are_counted():
    """Fused steps read once for both products of a vector; certifying products are one-sided."""
    A = with_values(np.r_[3.0, 2.0, np.linspace(1, 0, 300)], 400, 350)
    result = fc.top_svd(A, 2, maxiter=3)
    assert result.status == "max_iterations"
    assert result.reads == 1 + 3 + 2
    assert result.products == 3 * 2 * 4 + 2 * 2


@pytest.mark.parametrize("kind", [_svd_process.FusedLanczos, _svd_process.GolubKahan])
@pytest.mark.parametrize("locked", [0, 5])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_projected_matrix_of_a_process(rng, kind, locked, steps):
    """AᵀAV = VT + QCᵀ in the complement of locked vectors, from the definition; rounding grows with the steps."""
    A = rng.standard_normal((90, 70))
    U, _, Vt = np.linalg.svd(A, full_matrices=False)
    pair = (Vt[:locked], U.T[:locked]) if locked else None
    operator = _svd_operator.StoredOperator("A", A)
    process = kind(operator, 40, 4, _tolerance.seeds(0), locked=pair)
    for _ in range(steps):
        process.step()
    T, C = process.projected
    V, Q = process._V[locked : locked + process.rows], process.front
    G = operator.scale**2 * A.T @ A
    assert np.abs(V @ G @ V.T - T).max() <= 1e-12 * np.linalg.norm(G, 2)
    assert np.abs(V @ G - T @ V - C @ Q).max() <= 1e-12 * np.linalg.norm(G, 2)


def test_a_search_leaves_its_probe_and_all_values_where_it_has_them(rng):
    A = rng.standard_normal((600, 500)).astype(np.float32)
    _, run = _top_svd.search("A", A, k=3, largest=float(np.abs(A).max()))
    assert run.operator.reads == run.steps + 2  # fused steps, two final products, none for the scale
    assert np.abs(run.probe.front @ run.probe._V[:3].T).max() < 1e-6
    _, full = _top_svd.search("A", A[:50], k=3)
    exact = np.linalg.svd(A[:50].astype(float), compute_uv=False)
    assert np.abs(full.all_values / full.operator.scale - exact).max() < 1e-6 * exact[0]


def test_values_below_the_rounding_of_the_gram_matrix(rng):
    """Values that are rounding of the squares count as zero, and delta says what may hide there."""
    left, right = (np.linalg.qr(rng.standard_normal((n, 20)))[0] for n in (64, 40))
    A = ((left * np.append(np.linspace(1.0, 0.5, 10), np.zeros(10))) @ right.T).astype(np.float32)
    result, run = _top_svd.search("A", A, k=15)
    exact = np.linalg.svd(A.astype(float), compute_uv=False)
    assert (run.all_values[:10] > 0.0).all()
    assert (run.all_values[10:] == 0.0).all()
    assert 0.0 < exact[10] - result.s[-1] < result.certificate.delta
    rounding = (64 + 40) * np.finfo(float).eps * np.linalg.norm(A) ** 2
    assert result.certificate.delta == pytest.approx(np.sqrt(result.s[-1] ** 2 + rounding) - result.s[-1], rel=0.01)


@pytest.mark.parametrize("power", [1e305, 1e300, 1e-300, 1e-310])
@pytest.mark.parametrize("wide", [False, True])
def test_graded_values_of_far_entries(rng, power, wide):
    """σ_30 = 1e-6: Golub–Kahan, whose products pass through images that are not scaled yet."""
    A = with_values(np.append(np.logspace(0.0, -6.0, 30), np.full(270, 1e-9)), 420, 300)
    A = np.ascontiguousarray(A.T if wide else A) / np.abs(A).max()
    near, far = krylov(A, 30, tol=1e-10), krylov(A * power, 30, tol=1e-10)
    assert near.status == far.status == "converged"
    assert "Golub–Kahan" in far.method
    rounding = 1e-14 if power > 1e-305 else 1e-12  # of subnormal entries
    assert np.abs(far.s / power - near.s).max() < (near.tol + rounding) * near.s[0]


@pytest.mark.parametrize("size", [1e37, 1e-40])
@pytest.mark.parametrize("wide", [False, True])
def test_graded_values_of_far_entries_in_float32(rng, size, wide):
    A = with_values(np.logspace(0.0, -4.0, 300), 420, 300)
    A = np.ascontiguousarray((A.T if wide else A) / np.abs(A).max() * size, dtype=np.float32)
    result = krylov(A, 30)
    assert result.status == "converged"
    exact = np.linalg.svd(A.astype(float), compute_uv=False)
    assert np.abs(result.s - exact[:30]).max() < result.tol * exact[0]


def test_values_beyond_float64_are_refused():
    for A in (np.full((40, 30), 1.7e308), np.full((300, 300), 1.7e308)):
        with pytest.raises(ValueError, match="singular values beyond float64"):
            fc.top_svd(A, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [1e300, 1e-300, [1e-30, 1.0, 1e30]])
def test_only_the_directions_of_start_vectors_count(rng, dtype, sizes):
    A = rng.standard_normal((400, 300)).astype(dtype)
    start = np.linalg.svd(A.astype(float))[2][:3].T * sizes
    warm, cold = krylov(A, 3, v0=start), krylov(A, 3)
    assert warm.reads < cold.reads
    assert np.abs(warm.s - cold.s).max() < cold.tol * cold.s[0]


def test_full_decompositions_ask_for_what_measuring_takes():
    """Of 2,000,000 × 500 with all triplets that is 48 GB, though the Gram matrix is small."""
    operator = object.__new__(_svd_operator.StoredOperator)
    operator.rows, operator.cols, operator.dtype = 2_000_000, 500, np.dtype(np.float32)
    assert _svd_full.full_cost(operator, 500).bytes > 4e10
    assert not _svd_full.full_cost(operator, 500).affordable
    assert _svd_full.full_cost(operator, 4).affordable
