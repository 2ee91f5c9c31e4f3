"""analyze_many against dense Hessians, sharpness and analyze of each chain, and its status, messages and bits."""

import itertools
import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

import flatcore as fc

FLOAT_TOL = {np.float32: 1e-4, np.float64: 1e-6}


def make_stack(dims, batch=3, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((batch, b, a)) / np.sqrt(a)).astype(dtype) for a, b in itertools.pairwise(dims)]


def make_loss(dims, n=9, rank=None, seed=1, reduction="batchmean"):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, dims[0]))
    if rank is not None:
        X = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, dims[0]))
    return fc.QuadraticLoss(X, rng.standard_normal((n, dims[-1])), reduction)


def chains_of(stack):
    return [fc.LinearChain([layer[i] for layer in stack]) for i in range(len(stack[0]))]


def check_against_dense(stack, loss, k, curvature="hessian", **arguments):
    """Values within tol of LAPACK's, vectors and residuals true, everything converged."""
    result = fc.analyze_many(stack, loss, k, curvature=curvature, vectors=True, **arguments)
    assert (result.status == "converged").all()
    assert result.converged.all()
    for i, chain in enumerate(chains_of(stack)):
        H = fc.Hessian(chain, loss)
        D = (H if curvature == "hessian" else H.gauss_newton).dense()
        exact = scipy.linalg.eigvalsh(D)
        size = np.abs(exact).max()
        # An eigenvalue lies within the residual, tol·size, of each value; the order statistics follow (Weyl, copies
        # included) up to that for each of the k vectors found.
        assert np.abs(result.values[i] - exact[::-1][:k]).max() <= 2.0 * result.tol * size
        V = result.vectors[i].astype(np.float64)
        eps = np.finfo(stack[0].dtype).eps
        assert np.abs(V.T @ V - np.eye(k)).max() <= 40 * eps
        residuals = np.linalg.norm(D @ V - V * result.values[i], axis=0)
        # The vectors are stored rounded, which adds eps·size.
        assert np.abs(residuals - result.residuals[i]).max() <= (8 * eps + 1e-12) * max(size, 1e-300)
    return result


@given(
    dims=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    batch=st.integers(1, 3),
    n=st.integers(1, 8),
    k=st.integers(1, 5),
    seed=st.integers(0, 10_000),
    dtype=st.sampled_from([np.float32, np.float64]),
    curvature=st.sampled_from(["hessian", "ggn"]),
    reduction=st.sampled_from(["batchmean", "mean", "sum"]),
)
def test_eigenpairs_match_lapack(dims, batch, n, k, seed, dtype, curvature, reduction):
    stack = make_stack(dims, batch, dtype, seed)
    k = min(k, sum(layer[0].size for layer in stack))
    check_against_dense(stack, make_loss(dims, n, seed=seed + 1, reduction=reduction), k, curvature)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("dims", [(20, 33, 17, 8), (5, 20, 19, 18), (16, 16, 16), (30, 1, 30), (7, 50)])
def test_wider_chains_match_lapack(dims, dtype):
    check_against_dense(make_stack(dims, 2, dtype), make_loss(dims, 60), 3)


def test_rank_deficient_data_and_zero_layers():
    dims = (9, 7, 8)
    stack = make_stack(dims, 4)
    stack[0][1] = 0.0  # a chain whose Φ vanishes
    stack[1][2] = 0.0
    stack[0][3] = stack[1][3][:] = 0.0  # H = 0 off the loss's curvature at Φ = 0
    result = check_against_dense(stack, make_loss(dims, 20, rank=3), 4)
    assert (result.spectral_norm[1:] == 0.0).all()


def test_inputs_that_vanish():
    loss = fc.QuadraticLoss(np.zeros((4, 3)), np.zeros((4, 2)))
    result = fc.analyze_many(make_stack((3, 5, 2)), loss, k=2)
    assert (result.values == 0.0).all()
    assert (result.status == "converged").all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scalars_match_analyze(dtype):
    dims = (6, 9, 4, 7)
    stack, loss = make_stack(dims, 4, dtype), make_loss(dims, 30, reduction="mean")
    result = fc.analyze_many(stack, loss)
    # analyze computes these in float64 from the same weights (its gradient is rounded to the chain's precision).
    for i, chain in enumerate(chains_of(stack)):
        one = fc.analyze(chain, loss)
        np.testing.assert_allclose(result.loss[i], one.value, rtol=1e-12)
        np.testing.assert_allclose(result.gradient_norm[i], one.gradient_norm, rtol=4 * np.finfo(dtype).eps)
        np.testing.assert_allclose(result.spectral_norm[i], one.gains.sigma, rtol=1e-9 if dtype == np.float64 else 1e-6)
        np.testing.assert_allclose(result.gap[i], one.balance.gap, rtol=1e-12)
        np.testing.assert_allclose(result.relative_gap[i], one.balance.relative_gap, rtol=1e-12)
        size = abs(one.sharpness.values[0])
        assert abs(result.values[i, 0] - one.sharpness.values[0]) <= 2 * result.tol * size


@given(st.integers(1, 6), st.integers(0, 1000))
def test_spectral_norm_matches_svd_with_ties(multiplicity, seed):
    rng = np.random.default_rng(seed)
    s = np.ones(6)
    s[multiplicity:] = rng.uniform(0.0, 1.0, 6 - multiplicity)
    Q = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    stack = [(Q * s)[None] * 3.0, Q.T[None]]
    loss = make_loss((6, 6), 12)
    np.testing.assert_allclose(fc.analyze_many(stack, loss).spectral_norm, 3.0, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_identity_chains_find_all_twelve_copies(identity_workload, dtype):
    """200 chains are 200 seeds: none misses a copy of the 12-fold top, and the 13th value is the next one."""
    _, loss, top = identity_workload
    stack = np.broadcast_to(np.eye(12, dtype=dtype), (200, 4, 12, 12))
    result = fc.analyze_many(stack, loss, k=13)
    assert (result.status == "converged").all()
    assert np.abs(result.values[:, :12] - top).max() <= 2 * FLOAT_TOL[dtype] * top
    second = 8.0 * np.linalg.eigvalsh(loss.sxx)[-2]
    assert np.abs(result.values[:, 12] - second).max() <= 2 * FLOAT_TOL[dtype] * top


def test_agrees_with_sharpness():
    dims = (32, 32, 32, 32, 32)
    stack, loss = make_stack(dims, 4, np.float32), make_loss(dims, 64)
    result = fc.analyze_many(stack, loss, k=2)
    for i, chain in enumerate(chains_of(stack)):
        one = fc.sharpness(chain, loss, 2)
        assert np.abs(result.values[i] - one.values).max() <= 2 * result.tol * one.values[0]
        # the certificate: a gap of at most a tenth of the whole width, what may lie beyond either end included
        low = fc.sharpness(chain, loss, 1, which="SA").values[0]
        assert result.delta[i] <= 0.1001 / 0.9 * (one.values[0] - low) + np.linalg.norm(result.residuals[i])
        assert result.delta[i] >= result.residuals[i].max()


def test_certificate_is_sharp_where_the_krylov_space_is_spanned():
    result = fc.analyze_many(make_stack((2, 1)), make_loss((2, 1)), tol=1e-12)
    np.testing.assert_array_equal(result.delta, result.residuals[:, 0])


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_layouts_are_read_in_place(curvature):
    rng = np.random.default_rng(3)
    whole = rng.standard_normal((4, 3, 5, 5))
    loss = make_loss((5,) * 4)
    expected = fc.analyze_many(whole.copy(), loss, k=2, curvature=curvature)
    frozen = whole.copy()
    frozen.flags.writeable = False
    strided = np.zeros((4, 3, 10, 15))[:, :, ::2, ::3]
    strided[...] = whole
    turned = np.ascontiguousarray(whole.transpose(3, 2, 0, 1)).transpose(2, 3, 1, 0)
    backwards = whole[::-1, ::-1].copy()[::-1, ::-1]
    packed = np.zeros((4, 3, 5, 5), dtype=[("pad", "i1"), ("w", "f8")])  # strides of no whole number of entries
    packed["w"] = whole
    for layout in (frozen, strided, turned, backwards, packed["w"], list(whole.swapaxes(0, 1)), torch.tensor(whole)):
        result = fc.analyze_many(layout, loss, k=2, curvature=curvature)
        assert result.to_dict() == expected.to_dict()


def test_mixed_precisions_become_float64():
    stack = make_stack((3, 4, 2))
    stack[0] = stack[0].astype(np.float32)
    assert fc.analyze_many(stack, make_loss((3, 2))).tol == 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits_for_any_threads_and_any_batch(dtype):
    dims = (8, 9, 7)
    stack, loss = make_stack(dims, 12, dtype), make_loss(dims)
    one = fc.analyze_many(stack, loss, k=3, seed=5, threads=1, vectors=True)
    two = fc.analyze_many(stack, loss, k=3, seed=5, threads=2, vectors=True)
    assert one.to_dict() == two.to_dict()
    assert (one.vectors == two.vectors).all()
    first = fc.analyze_many([layer[:5] for layer in stack], loss, k=3, seed=5, vectors=True)
    assert (first.vectors == one.vectors[:5]).all()
    other = fc.analyze_many(stack, loss, k=3, seed=6, vectors=True)
    assert (other.vectors != one.vectors).any()


def test_measures_only_on_request():
    stack, loss = make_stack((4, 3, 2)), make_loss((4, 2))
    full, bare = fc.analyze_many(stack, loss), fc.analyze_many(stack, loss, measures=False)
    np.testing.assert_array_equal(full.values, bare.values)
    np.testing.assert_array_equal(full.loss, bare.loss)
    for name in ("gradient_norm", "spectral_norm", "gap", "relative_gap"):
        assert np.isfinite(getattr(full, name)).all()
        assert np.isnan(getattr(bare, name)).all()
    assert re.search(r"gradient norm +undefined", bare.summary())


def test_vectors_only_on_request():
    assert fc.analyze_many(make_stack((3, 2)), make_loss((3, 2))).vectors is None


def test_too_few_products_are_a_status_with_true_residuals():
    dims = (12, 12, 12)
    stack, loss = make_stack(dims, 3), make_loss(dims, 30)
    result = fc.analyze_many(stack, loss, k=2, maxiter=3, vectors=True)
    assert (result.status == "max_iterations").all()
    assert "3 chains reached maxiter: raise it, or tol" in result.message
    assert not result.converged.all(axis=1).any()
    assert (result.products <= 3 + 2 + 2).all()  # three, one start for the second pair, two certifying products
    assert np.isposinf(result.delta).all()
    assert re.search(r"nothing missed beyond +undefined .*; nothing is known of 3 chains", result.summary())
    assert result.to_dict()["delta"] == [None] * 3
    assert np.isposinf(fc.analyze_many(stack, loss, maxiter=1).delta).all()
    for i, chain in enumerate(chains_of(stack)):
        H, V = fc.Hessian(chain, loss), result.vectors[i]
        residuals = np.linalg.norm(H @ V - V * result.values[i], axis=0)
        np.testing.assert_allclose(residuals, result.residuals[i], rtol=1e-9)


def test_tolerance_below_the_floor_is_raised_and_said():
    result = fc.analyze_many(make_stack((4, 4), dtype=np.float32), make_loss((4, 4)), tol=0.0)
    assert result.tol == 1e-6
    assert "tol was below the floor of this precision, 1e-06 was used" in result.message
    tight = fc.analyze_many(make_stack((4, 5, 4)), make_loss((4, 4)), tol=0)
    assert tight.tol == 1e-13


def test_tight_tolerance_in_float32_restarts_from_what_was_found():
    dims = (16, 16, 16, 16)
    stack, loss = make_stack(dims, 4, np.float32), make_loss(dims, 50)
    check_against_dense(stack, loss, 2, tol=3e-6)


@pytest.mark.parametrize("power", [2, 3])
def test_a_long_run_restarts_its_basis(power):
    """At an interpolating minimum λ_ij = 2·s_j·(1 + w_i²): 400 values that crowd towards the top, 4.

    A basis of 160 vectors does not reach 1e-9; the value found is exact to the square of the residual over the gap.
    """
    crowding = (np.arange(20) / 19) ** power
    s, w2 = 1.0 - 0.03 * crowding, 1.0 - 0.021 * crowding
    X, W = np.sqrt(20) * np.diag(np.sqrt(s)), np.diag(np.sqrt(w2))
    stack = [np.eye(20)[None], W[None]]
    result = fc.analyze_many(stack, fc.QuadraticLoss(X, X @ W), tol=1e-9)
    assert result.products[0] > 160
    assert result.status[0] == "converged"
    assert abs(result.values[0, 0] - 4.0) <= 1e-12


def test_overflow_is_a_status():
    stack = make_stack((3, 3, 3), 3)
    stack[0][1] = stack[1][1] = 1e200
    result = fc.analyze_many(stack, make_loss((3, 3)))
    assert list(result.status) == ["converged", "overflow", "converged"]
    assert np.isnan(result.values[1]).all()
    assert "1 chains overflow: their loss is not finite" in result.message
    assert "undefined" not in result.summary()
    wide = [layer.astype(np.float32) for layer in make_stack((3, 3, 3), 1)]
    for layer in wide:
        layer *= np.float32(1e30)  # finite in float64, not in float32
    assert list(fc.analyze_many(wide, make_loss((3, 3))).status) == ["overflow"]


def test_record():
    dims = (4, 3, 2)
    result = fc.analyze_many(make_stack(dims, 5), make_loss(dims))
    assert len(result) == 5
    assert result.dims == dims
    assert result.num_parameters == 18
    text = result.summary()
    for part in ("5 chains 4 → 3 → 2", "largest hessian eigenvalue", "relative gap", "5 chains reached residuals of"):
        assert part in text
    assert repr(result) == "ManyAnalyses(5 chains 4 → 3 → 2, k=1, 5 converged)"
    data = json.loads(json.dumps(result.to_dict()))
    assert len(data["values"]) == 5
    assert data["status"] == ["converged"] * 5
    assert "vectors" not in data
    with pytest.raises(ValueError, match="read-only"):
        result.values[0] = 1.0
    assert "relative gap" not in fc.analyze_many(make_stack((4, 2)), make_loss((4, 2))).summary()


def bad_stacks():
    good = make_stack((3, 4, 2))
    yield [], "weights_stack is empty; expected at least one layer"
    yield np.zeros((2, 0, 3, 3)), r"weights_stack has shape \(2, 0, 3, 3\); expected at least one layer"
    yield np.zeros((2, 3, 3)), r"weights_stack has shape \(2, 3, 3\); expected \(batch, M, d, d\), or a list"
    yield np.zeros((2, 2, 3, 4)), r"weights_stack has shape \(2, 2, 3, 4\); expected \(batch, M, d, d\)"
    yield [good[0][0]], r"weights_stack\[0\] has shape \(4, 3\); expected 3 dimensions"
    yield (
        [good[1], good[0]],
        r"weights_stack\[1\] has shape \(3, 4, 3\); its columns must match weights_stack\[0\]'s 2 rows",
    )
    yield (
        [good[0], good[1][:2]],
        r"weights_stack\[1\] has shape \(2, 2, 4\); expected 3 chains, as in weights_stack\[0\]",
    )
    yield [good[0], good[1] * 1j], r"weights_stack\[1\] is complex"
    yield [layer[:0] for layer in good], r"weights_stack\[0\] has shape \(0, 4, 3\); expected at least one entry"
    for value in (np.nan, np.inf, -np.inf):
        broken = [layer.copy() for layer in good]
        broken[1][2, 0, 3] = value
        yield broken, rf"weights_stack\[1\] of chain 2 contains {value} at index \(0, 3\); expected finite numbers"


@pytest.mark.parametrize(("stack", "message"), list(bad_stacks()))
def test_bad_stacks(stack, message):
    with pytest.raises(ValueError, match=message):
        fc.analyze_many(stack, make_loss((3, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k is 0; expected between 1 and 20"),
        ({"k": 21}, "k is 21; expected between 1 and 20"),
        ({"curvature": "fisher"}, "curvature is 'fisher'; expected one of 'hessian', 'ggn'"),
        ({"tol": -1.0}, "tol is -1.0; expected a number that is not negative"),
        ({"seed": -1}, "seed is -1; expected between 0"),
        ({"maxiter": 0}, "maxiter is 0; expected at least 1"),
        ({"threads": 0}, "threads is 0; expected at least 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        fc.analyze_many(make_stack((3, 4, 2)), make_loss((3, 2)), **arguments)


def test_bad_losses():
    stack = make_stack((3, 4, 2))
    with pytest.raises(ValueError, match="the chain maps 3 inputs to 2 outputs; the loss has data for 3 and 3"):
        fc.analyze_many(stack, make_loss((3, 3)))
    loss = fc.CrossEntropyLoss(np.eye(3), [0, 1, 1])
    with pytest.raises(
        ValueError, match=r"loss is a CrossEntropyLoss; analyze_many takes a QuadraticLoss \(call analyze"
    ):
        fc.analyze_many(stack, loss)


def test_eigenvectors_that_cannot_fit_are_refused(monkeypatch):
    monkeypatch.setattr("flatcore._memory.available_memory", lambda: 10**9)
    stack = np.broadcast_to(np.eye(10), (1000, 4, 10, 10))
    with pytest.raises(MemoryError, match="all eigenvectors needs 1\\.3 GB; 1\\.0 GB are available"):
        fc.analyze_many(stack, make_loss((10, 10)), k=400, vectors=True)


def test_a_basis_for_each_thread_that_cannot_fit_is_refused(monkeypatch):
    monkeypatch.setattr("flatcore._memory.available_memory", lambda: 10**9)
    stack = np.broadcast_to(np.eye(600), (3, 2, 600, 600))
    with pytest.raises(
        MemoryError, match=r"a basis and 1 eigenvectors of 720000 entries for each of 2 threads needs 1"
    ):
        fc.analyze_many(stack, make_loss((600, 600)), threads=2)


def test_keyboard_interrupt_takes_effect_at_once():
    """Ctrl-C during a run of a minute: out within a fifth of a second (two allow for loaded machines)."""
    code = textwrap.dedent("""
        import os, signal, threading, time
        import numpy as np, flatcore as fc
        X = np.random.default_rng(0).standard_normal((64, 32))
        stack = np.broadcast_to(np.random.default_rng(1).standard_normal((32, 32)) / 6, (200_000, 4, 32, 32))
        sent = []
        def interrupt():
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)
        threading.Timer(3.0, interrupt).start()
        try:
            fc.analyze_many(stack, fc.QuadraticLoss(X, X))
            print("finished")
        except KeyboardInterrupt:
            print(time.perf_counter() - sent[0])
    """)
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 2.0
