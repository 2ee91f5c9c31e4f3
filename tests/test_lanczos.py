"""The block Lanczos process itself: orthogonality, projection, work per step, memory, and its symmetry check."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import random_orthogonal, with_spectrum

import flatcore as fc
from flatcore.spectral import _lanczos
from flatcore.spectral._lanczos import BlockLanczos, order_of
from flatcore.spectral._vectors import HostVectors

LA = order_of("LA")


def seeds(first=0):
    return iter(range(first, 10**6))


class CountedVectors(HostVectors):
    """Counts calls and the rows they read."""

    def __init__(self, length, dtype):
        super().__init__(length, dtype)
        self.calls, self.rows = Counter(), Counter()

    def gram(self, V, W):
        self.calls["gram"] += 1
        self.rows["gram"] += len(V)
        return super().gram(V, W)

    def update(self, W, V, C):
        self.calls["update"] += 1
        self.rows["update"] += len(V)
        super().update(W, V, C)

    def combine(self, V, C):
        self.calls["combine"] += 1
        super().combine(V, C)


def process_for(A, *, block, capacity, **options):
    vectors = CountedVectors(len(A), A.dtype)
    return BlockLanczos(lambda rows: rows @ A.T, vectors, capacity=capacity, block=block, seeds=seeds(), **options)


SPECTRA = {
    "smooth": np.linspace(-1.0, 1.0, 300),
    "tied": np.r_[np.full(9, 2.0), np.full(5, 1.9), np.zeros(280), np.full(6, -1.0)],
    "graded": np.geomspace(1e-12, 1.0, 300),
    "spiked": np.r_[1e6, 1e3, np.linspace(0, 1, 298)],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block", [1, 3, 8])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_basis_stays_orthonormal_and_T_is_its_projection(name, block, dtype):
    """The first pass meets three blocks only; what the second one finds must be all there is left.

    A front is orthogonal to the basis to a few eps (rows are rounded themselves). Its own rows are orthonormal up to
    the rounding of their Gram matrix, an eps for each of 8 rows, over its least eigenvalue, 0.3. Each restart turns
    the basis by a matrix of LAPACK's that is orthogonal to some eps in float64, which adds up over restarts; T is the
    projection up to all of these and to the rounding of products.
    """
    A = with_spectrum(SPECTRA[name]).astype(dtype)
    process = process_for(A, block=block, capacity=40)
    eps, restarts, size = float(np.finfo(dtype).eps), 0, np.abs(SPECTRA[name]).max()
    for _ in range(60):
        process.step()
        V, F = process._basis[: process.rows].astype(np.float64), process._front.astype(np.float64)
        assert np.abs(V @ F.T).max(initial=0.0) <= 4 * eps
        tolerance = 30 * eps + 20 * restarts * float(np.finfo(np.float64).eps)
        assert np.abs(V @ V.T - np.eye(len(V))).max() <= tolerance
        projected = V @ A.astype(np.float64) @ V.T
        assert np.abs(projected - process._T[: len(V), : len(V)]).max() <= 2 * tolerance * size
        restarts += process.full
        process.restart_if_full(LA, 4)
    assert restarts >= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_recurrence_knows_the_residuals(dtype):
    A = with_spectrum(SPECTRA["smooth"]).astype(dtype)
    process = process_for(A, block=2, capacity=40)
    for _ in range(45):
        process.step()
        process.restart_if_full(LA, 3)
    process.step()
    best = LA(process.values)[:3]
    estimated, values = process.residuals(best), process.values[best]
    X = process.ritz_rows(best).astype(np.float64)
    true = np.linalg.norm(X @ A.astype(np.float64) - values[:, None] * X, axis=1)
    np.testing.assert_allclose(estimated, true, atol=60 * float(np.finfo(dtype).eps))


def test_work_of_a_step():
    """Two reads of the whole basis, two of three blocks, one combination; a restart is one combination."""
    A = np.diag(np.linspace(-1.0, 1.0, 500))
    process = process_for(A, block=2, capacity=30)
    counted = process._vectors
    for step in range(14):
        counted.calls.clear(), counted.rows.clear()
        process.step()
        known = 2 * (step + 1)
        near = min(known, 4)
        assert counted.calls == {"gram": 3, "update": 2, "combine": 1}
        assert counted.rows["gram"] == near + known + 2
        assert counted.rows["update"] == near + known
    process.step()
    assert process.full
    counted.calls.clear()
    process.restart_if_full(LA, 4)
    assert counted.calls == {"combine": 1}
    counted.rows.clear()
    kept = process.rows
    process.step()
    assert counted.rows["gram"] == 2 * (kept + 2) + 2  # all vectors kept are coupled to the front


def test_ritz_pairs_are_computed_when_asked_for(monkeypatch):
    sizes, original = [], _lanczos.eigh

    def watched(A):
        sizes.append(len(A))
        return original(A)

    process = process_for(np.diag(np.linspace(-1.0, 1.0, 500)), block=1, capacity=40)
    monkeypatch.setattr(_lanczos, "eigh", watched)
    for _ in range(20):
        process.step()
    assert not sizes
    assert len(process.values) == 20
    process.residuals(np.array([0])), process.low, process.high, process.scale
    assert sizes == [20]


@settings(max_examples=20)
@given(N=st.integers(1, 40), block=st.integers(1, 9), capacity=st.integers(1, 60), locked=st.integers(0, 5))
def test_exhausting_a_space(N, block, capacity, locked):
    """A basis that spans everything has the exact eigenvalues of the complement of what is locked."""
    locked = min(locked, N - 1)
    A = with_spectrum(np.linspace(-1.0, 2.0, N))
    Q = random_orthogonal(N, 1)[:locked]
    process = process_for(A, block=block, capacity=max(capacity, N), locked=Q if locked else None)
    while not process.exhausted:
        process.step()
    complement = random_orthogonal(N, 1)[locked:]
    np.testing.assert_allclose(process.values, np.linalg.eigvalsh(complement @ A @ complement.T), atol=1e-12)
    assert process.residuals(np.arange(len(process.values))).max() <= 1e-12


def test_working_in_given_memory():
    """Locked rows stay where they are, the Ritz rows come out behind them."""
    A = with_spectrum(SPECTRA["smooth"])
    storage = np.full((50, 300), np.nan)
    storage[:3] = random_orthogonal(300, 5)[:3]
    locked = storage[:3].copy()
    process = process_for(A, block=2, capacity=40, locked=storage[:3], storage=storage)
    for _ in range(30):
        process.step()
        process.restart_if_full(LA, 2)
    rows = process.ritz_rows(LA(process.values)[:2])
    np.testing.assert_array_equal(storage[:3], locked)
    assert rows.base is storage
    np.testing.assert_array_equal(rows, storage[3:5])
    np.testing.assert_allclose(locked @ rows.T, 0.0, atol=1e-14)
    assert np.isnan(storage[43:]).all()


@pytest.mark.parametrize("more", [0, 2])
def test_a_known_image_is_the_first_step(more):
    """Products of the start rows are not taken again; rows of chance beside them are multiplied."""
    A, seen = with_spectrum(SPECTRA["smooth"]), []
    start = random_orthogonal(300, 2)[:3]

    def apply(rows):
        seen.append(len(rows))
        return rows @ A

    vectors = HostVectors(300, np.float64)
    options = {"capacity": 40, "block": 3 + more, "start": start}
    with_image = BlockLanczos(apply, vectors, seeds=seeds(), image=start @ A, **options)
    with_image.step()
    assert seen == [more] * bool(more)
    without = BlockLanczos(apply, vectors, seeds=seeds(), **options)
    without.step()
    np.testing.assert_allclose(with_image.values, without.values, atol=1e-13)


@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("size", [3e-3, 1.0])
def test_an_asymmetric_operator_is_noticed_in_the_first_steps(block, size):
    """A single vector has no pair in the first block: there the recurrence's prediction is what it contradicts."""
    rng = np.random.default_rng(0)
    A = with_spectrum(np.linspace(-1.0, 1.0, 300))
    N = rng.standard_normal((300, 300)) / 300**0.5
    process = process_for(A + size * (N - N.T), block=block, capacity=60)

    def three_steps():
        for _ in range(3):
            process.step()

    with pytest.raises(ValueError, match=r"the operator is not symmetric: xᵀAy and yᵀAx differ by .* size of A is"):
        three_steps()


def test_rounding_is_not_taken_for_asymmetry():
    """Products rounded to 20 bits, and a projection that holds nothing but rounding."""
    A = with_spectrum(np.r_[5.0, 4.0, np.zeros(298)]).astype(np.float32)
    process = process_for(A, block=2, capacity=60)
    for _ in range(29):
        process.step()
    assert np.sort(process.values)[::-1][:3] == pytest.approx([5.0, 4.0, 0.0], abs=1e-5)


def test_squares_that_overflow():
    A = (with_spectrum(np.linspace(-1.0, 1.0, 300)) * 1e25).astype(np.float32)
    with pytest.raises(ValueError, match="overflow; scale it"):
        process_for(A, block=2, capacity=60).step()


def traced_peak(call):
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        result = call()
        return result, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("k", [1, 10])
def test_memory_of_a_run(k):
    """One basis of max(p, k + the probe's) rows, four blocks, the certifying float64 block: nothing else, no copy."""
    N = 60_000
    d = np.r_[np.linspace(2.0, 1.5, 10), np.linspace(0.0, 1.0, N - 10)].astype(np.float32)

    class Diagonal:
        shape, dtype = (N, N), np.dtype(np.float32)

        def __matmul__(self, V):
            return (d * V.T).T

    result, peak = traced_peak(lambda: fc.eigsh(Diagonal(), k))
    assert result.status == "converged"
    block, basis = (int(word.strip(",")) for word in result.method.split()[3:6:2])
    rows = max(basis, k + result.certificate.block * (result.certificate.steps + 1))
    certificate = 2 * 8 * min(k, 16) * N
    assert peak <= (rows + 4 * max(block, 4)) * N * 4 + certificate
    assert peak >= rows * N * 4
