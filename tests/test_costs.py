"""The cost model: what it counts, what it chooses, and that it says so."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from oracles import with_spectrum

import flatcore as fc
from flatcore.spectral import _costs, _eigsh
from flatcore.spectral._certificate import log_miss_probability, steps_needed
from flatcore.spectral._costs import (
    OperatorCost,
    Problem,
    certifying_block,
    cheapest_probe,
    choose,
    dense_plan,
    guessed_cost,
    lanczos_plans,
)
from flatcore.spectral._operator import Operator

NARROW = OperatorCost(shared_bytes=147e6, bytes_per_vector=1.7e6, flops_per_vector=0.74e9)


def problem(N=210_000, k=10, itemsize=4, tol=1e-4, cost=NARROW, start=0):
    return Problem(N, k, itemsize, tol, cost, start)


def test_seconds_of_a_product():
    cost = OperatorCost(100e9, 5e9, 80e9)
    assert cost.seconds(1, 4) == pytest.approx(2.0 + 0.1)
    assert cost.seconds(10, 8) == pytest.approx(10.0)  # more arithmetic than memory
    streamed = OperatorCost(100e9, 5e9, 80e9, bandwidth=1e9)
    assert streamed.seconds(10, 8) == pytest.approx(100.0 + 1.0)


@pytest.mark.parametrize(
    ("k", "tol", "counted", "within"),
    [
        (10, 1e-4, {1: 84, 2: 56, 4: 38, 8: 26}, 0.08),  # by a prototype of its own, on other data
        (10, 1e-6, {1: 106, 2: 70, 4: 47, 8: 34}, 0.08),
        (1, 1e-4, {1: 36, 2: 26, 4: 21, 8: 19}, 0.22),
        (10, 1e-4, {1: 97, 2: 62, 4: 39, 8: 29}, 0.1),
        (10, 1e-6, {1: 112, 2: 71, 4: 49, 8: 40}, 0.18),
        (40, 1e-4, {1: 249, 2: 138, 4: 83, 8: 51}, 0.04),
    ],
)
def test_passes_are_those_counted(k, tol, counted, within):
    """docs/theory.md, "What blocks and bases cost"."""
    plans = {plan.block: plan for plan in lanczos_plans(problem(k=k, tol=tol))}
    for block, passes in counted.items():
        probe = plans[block].probe
        vectors = plans[block].vectors - probe.steps * probe.block - k
        assert vectors / block == pytest.approx(passes, rel=within)


def test_wide_blocks_for_streamed_weights_and_narrow_ones_for_costly_vectors():
    streamed = OperatorCost(6.5e9, 20e6, 65e9, bandwidth=1e9)
    best = choose(problem(cost=streamed), guessed=False, available=None).plan
    assert best.block >= 8
    costly = OperatorCost(0.0, 0.0, 1e12)
    assert choose(problem(cost=costly), guessed=False, available=None).plan.block == 1


@given(
    N=st.integers(1, 10**7),
    k=st.integers(1, 200),
    shared=st.floats(0, 1e12),
    flops=st.floats(0, 1e12),
    start=st.integers(0, 40),
    available=st.none() | st.integers(10**6, 10**12),
)
def test_the_choice_is_the_cheapest_that_fits(N, k, shared, flops, start, available):
    given = problem(N=N, k=min(k, N), cost=OperatorCost(shared, 0.0, flops), start=start)
    choice = choose(given, guessed=False, available=available)
    plan = choice.plan
    assert plan in choice.considered
    assert all(math.isfinite(p.seconds) and p.seconds > 0 for p in choice.considered)
    assert any(line.startswith("→") and plan.name in line for line in choice.lines())
    fits = [p for p in choice.considered if available is None or p.bytes(given) <= available / 2]
    if plan.route == "dense":
        assert plan.seconds <= min(p.seconds for p in fits) or choice.reason.startswith("A Krylov basis would span")
    else:
        assert plan.block >= min(start, given.k)
        assert plan.basis + plan.block < N
        assert plan.basis >= max(24, 2.5 * given.k - 0.5) + 4 * plan.block
        if fits and plan in fits:
            assert plan.seconds <= min(p.seconds for p in fits if p.route != "dense")
        else:
            assert plan.bytes(given) == min(p.bytes(given) for p in choice.considered if p.route != "dense")


@pytest.mark.parametrize(
    ("cost", "k", "start", "expected"),
    [
        (OperatorCost(147e6, 1.7e6, 770e6), 10, 0, 4),  # reading 2.9 ms, 9.6 ms of float64 arithmetic a vector
        (OperatorCost(147e6, 1.7e6, 250e6), 10, 0, 10),  # 3.1 ms: ten vectors
        (OperatorCost(147e6, 1.7e6, 250e6), 20, 0, 10),
        (OperatorCost(6.5e9, 20e6, 65e9, bandwidth=1e9), 20, 0, 16),
        (OperatorCost(0.0, 0.0, 770e6), 20, 0, 16),  # not known
        (OperatorCost(0.0, 0.0, 0.0), 20, 0, 16),
        (OperatorCost(147e6, 1.7e6, 770e6), 1, 0, 1),
        (OperatorCost(147e6, 1.7e6, 770e6), 1, 3, 3),
    ],
)
def test_vectors_that_share_a_product_in_float64(cost, k, start, expected):
    assert certifying_block(problem(cost=cost, k=k, start=start)) == expected
    assert certifying_block(problem(N=10**9, cost=cost, k=k, start=start)) == 1


def test_scarce_memory_takes_the_smallest_basis():
    given = problem(N=2_400_000, cost=OperatorCost(6.5e9, 0.0, 0.0, bandwidth=1e9))
    rich = choose(given, guessed=False, available=None)
    poor = choose(given, guessed=False, available=2 * 10**9)
    assert poor.plan.basis < rich.plan.basis
    assert "half the memory" in poor.reason
    assert "half the memory" not in rich.reason


def test_a_guess_trusts_numbers_of_products_alone():
    """An unknown operator may be slow: the dense route only where it needs fewer products."""
    N = 250
    guess = guessed_cost(N, 8)
    given = problem(N=N, k=2, itemsize=8, cost=guess)
    assert dense_plan(given).seconds < min(p.seconds for p in lanczos_plans(given))
    assert choose(given, guessed=True, available=None).plan.route == "block Lanczos"
    assert choose(problem(N=100, k=2, cost=guess), guessed=True, available=None).plan.route == "dense"


def test_costs_of_matrices_are_computed_and_those_of_operators_taken():
    A = np.zeros((50, 50), np.float32)
    assert Operator(A).cost == OperatorCost(10_000, 400, 5_000)
    S = scipy.sparse.eye_array(50, format="csr")
    assert Operator(S).cost == OperatorCost(600, 1200, 100)

    class Own:
        shape, dtype, cost = (50, 50), np.dtype(np.float64), NARROW

        def __matmul__(self, V):
            return V

    assert Operator(Own()).cost is NARROW
    Own.cost = "cheap"  # some other attribute of that name
    assert Operator(Own()).cost is None


def test_explain_tells_the_prediction_and_what_was_done():
    A = with_spectrum(np.linspace(-1.0, 2.0, 900))
    result = fc.eigsh(A, 2)
    text = result.explain()
    for part in ("dense: predicted", "→", "block Lanczos, block 4, basis 40: predicted", "products", "seed 0"):
        assert part in text
    assert result.method in text
    for line in result.explanation:
        assert line in text
    forced = _eigsh.solve(
        A, 2, which="LA", tol=None, seed=0, v0=None, maxiter=None, callback=None, threads=None, route="block Lanczos"
    )
    assert "route was asked for" in forced.explain()
    assert "block steps with" in forced.explain()
    probe = forced.certificate
    assert f"The last probe took {probe.steps} steps of {probe.block} vector" in forced.explain()
    assert "0 hits were merged" in forced.explain()
    np.testing.assert_allclose(result.values, forced.values, atol=4e-6)


def test_memory_of_a_plan_counts_its_parts():
    plan = next(p for p in lanczos_plans(problem()) if p.block == 2)
    N, basis = 210_000, 33
    rows = max(basis, 10 + plan.probe.block * (plan.probe.steps + 1))
    assert plan.rows(10) == rows
    assert plan.bytes(problem()) >= rows * N * 4 + 2 * 4 * N * 8  # four vectors and their products in float64
    assert plan.bytes(problem(start=100)) >= (rows * 4 + 2 * 100 * 8) * N  # start vectors and their products
    more = replace(NARROW, workspace_bytes=1e6)
    assert plan.bytes(problem(cost=more)) == plan.bytes(problem()) + max(2, plan.probe.block) * 10**6


def test_probes_reach_their_certificate_and_wide_ones_are_for_costly_reads():
    for N in (500, 210_000, 10**7):
        for b in _costs.PROBE_BLOCKS:
            steps = steps_needed(0.1, N, b, 1e-3)
            assert log_miss_probability(0.1, N, b, steps) <= math.log(1e-3)
            assert steps == 1 or log_miss_probability(0.1, N, b, steps - 1) > math.log(1e-3)
    streamed = OperatorCost(6.5e9, 20e6, 1e9, bandwidth=1e9)
    for asked, block in ((problem(), 1), (problem(cost=streamed), 4)):
        probe = cheapest_probe(asked)
        assert probe.block == block
        chances = [log_miss_probability(_costs.PROBE_GAP, asked.N, block, probe.steps - less) for less in (0, 1)]
        assert chances[0] <= math.log(5e-4) < chances[1]  # half of the 1e-3 that results state, for either end


def test_blocks_considered():
    assert [p.block for p in lanczos_plans(problem(k=3))] == [1, 2, 3, 4, 8]
    assert [p.block for p in lanczos_plans(problem(k=40))] == [1, 2, 4, 8]
    assert [p.block for p in lanczos_plans(problem(k=10, start=10))] == [10]
    assert [p.block for p in lanczos_plans(problem(k=10, start=300))] == [10]
    assert [p.block for p in lanczos_plans(problem(k=1, start=3))] == [3, 4, 8]
    assert [p.basis for p in lanczos_plans(problem(k=10))] == [29, 33, 41, 57, 65]
    assert [p.basis for p in lanczos_plans(problem(k=1))] == [28, 32, 40, 56]
