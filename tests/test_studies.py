"""Studies: training and its measurements, going on after interruptions, and a report that says what was measured."""

import dataclasses
import html
import math
import os
import re
import shutil
import subprocess
import warnings
import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import torch
from oracles import make_case, make_loss
from study_helpers import COMMAND, Finished, Page, StopAfter, interrupted, quiet
from typer.testing import CliRunner

import flatcore as fc
from flatcore import cli
from flatcore import io as fio
from flatcore.studies import (
    StudyFolder,
    descent,
    digits,
    digits_data,
    digits_figures,
    digits_report,
    run_study,
    study_names,
)
from flatcore.studies import digits_words as words
from flatcore.studies.descent import Run, Trace, train


def problem(dims=(3, 4, 2), kind="batchmean", skip=False, seed=0):
    """A chain and a loss of the oracles."""
    case = make_case(dims, seed, skip=skip)
    return case, make_loss(kind, case, n=12)


def run_of(case, loss, name="small", **changes):
    settings = {"step_size": 0.02, "max_steps": 30, "measure_at": (0, 3, 10), "skip": all(case.skip), "tol": 1e-10}
    return Run(
        name, f"the {name} run", name, lambda: [W.copy() for W in case.weights], loss.loss, **(settings | changes)
    )


def folder_in(path, *, resume=False, seed=0):
    return StudyFolder(path / "study", "digits", seed, resume=resume)


def descent_by_autograd(case, loss, eta, steps):
    """Parameters of every step."""
    theta = case.theta()
    path = [theta]
    for _ in range(steps):
        theta = theta - eta * torch.tensor(loss.gradient(theta))
        path.append(theta)
    return path


def layers_of(case, theta):
    """The matrices that are applied, skip links included."""
    sizes = [W.size for W in case.weights]
    parts = np.split(theta.numpy(), np.cumsum(sizes)[:-1])
    return [
        part.reshape(W.shape) + (np.eye(len(W)) if skip else 0.0)
        for part, W, skip in zip(parts, case.weights, case.skip, strict=True)
    ]


# -- descent ---------------------------------------------------------------------------------------------------------

CHAINS = [
    pytest.param((3, 4, 2), "batchmean", False, id="plain"),
    pytest.param((3, 3, 3, 3), "batchmean", True, id="skip links"),
    pytest.param((3, 5, 4, 2), "labels-mean", False, id="cross-entropy"),
]


@pytest.mark.parametrize(("dims", "kind", "skip"), CHAINS)
def test_descent_takes_the_steps_of_autograd(tmp_path, dims, kind, skip):
    case, loss = problem(dims, kind, skip)
    trace = train(run_of(case, loss), folder_in(tmp_path), quiet)
    want = descent_by_autograd(case, loss, 0.02, 30)[-1].numpy()
    np.testing.assert_allclose(np.concatenate([W.ravel() for W in trace.chain.weights]), want, rtol=0, atol=1e-12)
    assert (trace.steps, trace.status, trace.chain.skip) == (30, "max_steps", (skip,) * (len(dims) - 1))
    assert [row["step"] for row in trace.rows] == [0, 3, 10, 30]


@pytest.mark.parametrize(("dims", "kind", "skip"), CHAINS)
def test_measured_losses_curvature_and_slopes_are_those_of_autograd(tmp_path, dims, kind, skip):
    case, loss = problem(dims, kind, skip)
    trace = train(run_of(case, loss), folder_in(tmp_path), quiet)
    path = descent_by_autograd(case, loss, 0.02, 30)
    for row in trace.rows:
        theta = path[int(row["step"])]
        assert row["loss"] == pytest.approx(float(loss.value(theta)), rel=1e-11)
        assert row["gradient_norm"] == pytest.approx(np.linalg.norm(loss.gradient(theta)), rel=1e-9)
        assert row["sharpness"] == pytest.approx(np.linalg.eigvalsh(loss.hessian(theta))[-1], rel=1e-8)
        assert row["two_over_step"] == 100.0
        assert row["certified"] == 1.0
        assert 0.0 <= row["sharpness_residual"] <= 1e-8 * row["sharpness"]


def flattest(Phi, S, depth):
    """2·min over ζ of λ_max(ζ·Q + (M−1)·ζ^{−1/(M−1)}·P), Q and P from a Cholesky factor of S."""
    L = np.linalg.cholesky(S)
    Q, P = L.T @ L, L.T @ Phi.T @ Phi @ L

    def top(t):
        return 2 * np.linalg.eigvalsh(np.exp(t) * Q + (depth - 1) * np.exp(-t / (depth - 1)) * P)[-1]

    grid = np.linspace(-15, 15, 301)
    best = grid[np.argmin([top(t) for t in grid])]
    return scipy.optimize.minimize_scalar(
        top, bounds=(best - 0.1, best + 0.1), method="bounded", options={"xatol": 1e-12}
    ).fun


@pytest.mark.parametrize(("dims", "kind", "skip"), CHAINS[:2])
def test_measured_flatness_is_that_of_dense_matrices(tmp_path, dims, kind, skip):
    case, loss = problem(dims, kind, skip)
    trace = train(run_of(case, loss), folder_in(tmp_path), quiet)
    path = descent_by_autograd(case, loss, 0.02, 30)
    syy = loss.loss.syy
    minimum = syy - np.sum(loss.loss.syx * np.linalg.solve(loss.loss.sxx, loss.loss.syx.T).T)
    for row in trace.rows:
        theta = path[int(row["step"])]
        best = flattest(case.end_to_end(theta).numpy(), loss.loss.sxx, len(dims) - 1)
        gauss_newton = np.linalg.eigvalsh(loss.gauss_newton(theta))[-1]
        assert row["excess"] == pytest.approx(float(loss.value(theta)) - minimum, abs=1e-12 * syy)
        assert row["flattest"] == pytest.approx(best, rel=1e-9)
        assert row["gauss_newton_sharpness"] == pytest.approx(gauss_newton, rel=1e-8)
        assert row["flatness_ratio"] == pytest.approx(gauss_newton / best, rel=1e-8)
        assert row["flatness_ratio"] >= 1 - 1e-9


def test_on_whitened_data_the_flattest_sharpness_is_that_of_the_formula(tmp_path, rng):
    T = rng.standard_normal((3, 3))
    loss = fc.QuadraticLoss.from_moments(np.eye(3), T, float(np.sum(T**2)))
    run = Run("white", "white", "white", lambda: [W.copy() for W in [T, 2 * np.eye(3), T.T]], loss, 1e-3, 1, (0,))
    row = train(run, folder_in(tmp_path), quiet).rows[0]
    sigma = np.linalg.norm(T.T @ (2 * T), 2)
    assert row["flattest"] == pytest.approx(2 * 3 * sigma ** (2 - 2 / 3), rel=1e-10)


def test_there_is_no_flatness_without_squared_error(tmp_path):
    trace = train(run_of(*problem((3, 5, 4, 2), "labels-mean")), folder_in(tmp_path), quiet)
    for name in ("excess", "flattest", "gauss_newton_sharpness", "flatness_ratio"):
        assert np.isnan(trace.column(name)).all()


@pytest.mark.parametrize(("dims", "kind", "skip"), CHAINS)
def test_measured_structure_is_that_of_dense_matrices(tmp_path, dims, kind, skip):
    case, loss = problem(dims, kind, skip)
    trace = train(run_of(case, loss), folder_in(tmp_path), quiet)
    path, depth = descent_by_autograd(case, loss, 0.02, 30), len(dims) - 1
    for i, row in enumerate(trace.rows):
        W = layers_of(case, path[int(row["step"])])
        Phi = np.linalg.multi_dot(W[::-1])
        _, s, Vt = np.linalg.svd(Phi)
        outer = [(B.T @ B, A @ A.T) for A, B in pairwise(W)]
        gaps = [np.linalg.norm(P - Q) for P, Q in outer]
        sizes = [np.sqrt(np.linalg.norm(P) ** 2 + np.linalg.norm(Q) ** 2) for P, Q in outer]
        partials = [np.linalg.norm(np.linalg.multi_dot([np.eye(len(W[j])), *W[j::-1]]), 2) for j in range(depth - 1)]
        np.testing.assert_allclose(trace.columns("gap")[i], gaps, rtol=1e-9)
        np.testing.assert_allclose(trace.columns("relative_gap")[i], np.divide(gaps, sizes), rtol=1e-9)
        np.testing.assert_allclose(
            trace.columns("partial_gain")[i], partials / s[0] ** (np.arange(1, depth) / depth), rtol=1e-9
        )
        largest, chance = coupling_and_chance(W)
        np.testing.assert_allclose(trace.columns("overlap")[i], largest, rtol=1e-8)
        np.testing.assert_allclose(trace.columns("overlap_chance")[i], chance, rtol=1e-8)
        np.testing.assert_allclose(trace.columns("overlap_ratio")[i], np.divide(largest, chance), rtol=1e-8)
        gains, residuals = profile(W, Vt[0])
        np.testing.assert_allclose(trace.columns("gain")[i], gains, rtol=1e-8)
        np.testing.assert_allclose(trace.columns("coupling_residual")[i], residuals, rtol=1e-6, atol=1e-9)
        assert row["sigma"] == pytest.approx(s[0], rel=1e-10)
        assert row["sigma_min"] == pytest.approx(s[-1], rel=1e-8)
        determinant = np.prod(s) * np.linalg.slogdet(Phi)[0] if len(set(Phi.shape)) == 1 else float("nan")
        assert row["determinant"] == pytest.approx(determinant, rel=1e-8, nan_ok=True)


def coupling_and_chance(layers, k=8):
    """Largest overlap of each pair, and the median of the largest of as many independent random ones."""
    largest, chance = [], []
    for A, B in pairwise(layers):
        U, V = np.linalg.svd(A, full_matrices=False)[0][:, :k], np.linalg.svd(B, full_matrices=False)[2][:k]
        largest.append(np.abs(V @ U).max())
        share = 0.5 ** (1 / (U.shape[1] * len(V)))
        chance.append(np.sqrt(scipy.special.betaincinv(0.5, (len(A) - 1) / 2, share)))
    return largest, chance


def profile(layers, z):
    gains, residuals = [], []
    for W in layers:
        g = np.linalg.norm(W @ z)
        following = W @ z / g
        residuals.append(np.linalg.norm(W.T @ following - g * z) / g)
        gains.append(g)
        z = following
    return gains, residuals


def scalar_run(name="scalar", step_size=0.1, **changes):
    """w → 2 from 0: the error is multiplied by 1 − 2η a step."""
    loss = fc.QuadraticLoss.from_moments(np.eye(1), 2 * np.eye(1), 4.0)
    settings = {"max_steps": 1000, "measure_at": (0, 5, 7)} | changes
    return Run(name, name, name, lambda: [np.zeros((1, 1))], loss, step_size, **settings)


def test_a_run_stops_at_the_first_step_whose_excess_is_small_enough(tmp_path):
    heard = []
    trace = train(scalar_run(stop_excess=1e-6), folder_in(tmp_path), heard.append)
    steps = math.ceil(math.log(1e-6 / 4) / (2 * math.log(0.8)))  # 4·0.8^(2t) ≤ 1e-6
    assert (trace.status, trace.steps) == ("converged", steps)
    assert [row["step"] for row in trace.rows] == [0, 5, 7, steps]
    assert trace.last["excess"] == pytest.approx(4 * 0.64**steps, rel=1e-9)
    assert heard == [0.0, 0.005, 0.007, steps / 1000]


def test_a_start_at_the_goal_takes_no_steps(tmp_path):
    trace = train(scalar_run(stop_excess=4.0), folder_in(tmp_path), quiet)
    assert (trace.status, trace.steps, len(trace.rows)) == ("converged", 0, 1)


def test_convergence_is_measured_on_data_that_are_not_whitened(tmp_path, rng):
    X = rng.standard_normal((20, 3)) * [1.0, 0.3, 2.0]
    loss = fc.QuadraticLoss(X, X @ rng.standard_normal((3, 3)) + 0.1 * rng.standard_normal((20, 3)))
    start = [rng.standard_normal(shape) / 2 for shape in ((5, 3), (3, 5))]
    run = Run("raw", "raw", "raw", lambda: [W.copy() for W in start], loss, 0.02, 20_000, (0,), False, 1e-3)
    trace = train(run, folder_in(tmp_path), quiet)
    earlier = train(dataclasses.replace(run, name="less", max_steps=trace.steps - 1), folder_in(tmp_path / "b"), quiet)
    assert (trace.status, earlier.status) == ("converged", "max_steps")
    for end, reached in ((trace, True), (earlier, False)):
        assert (loss.value(end.chain.product()) - loss.minimum <= 1e-3) is reached


@pytest.mark.parametrize(
    ("eta", "dtype"),
    [
        (3.0, np.float64),
        (1e3, np.float64),
        (1e40, np.float64),
        (1e200, np.float64),
        (3.0, np.float32),
        (1e4, np.float32),
    ],
)
def test_divergence_is_a_status(tmp_path, eta, dtype):
    case, loss = problem((3, 4, 4, 4, 2))
    case.weights = [W.astype(dtype) for W in case.weights]
    trace = train(run_of(case, loss, step_size=eta, max_steps=60, measure_at=(0, 1)), folder_in(tmp_path), quiet)
    assert trace.status == "diverged"
    assert trace.steps < 60
    assert trace.rows[0]["step"] == 0
    assert trace.last["step"] < trace.steps  # where it diverged nothing can be measured
    assert np.isfinite([trace.last["loss"], trace.last["sharpness"]]).all()
    again = train(run_of(case, loss, step_size=eta), folder_in(tmp_path, resume=True), quiet)
    assert (again.status, again.steps) == ("diverged", trace.steps)


# -- interruption ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("calls", [1, 2, 4])
@pytest.mark.parametrize(("dims", "kind", "skip"), CHAINS)
def test_an_interrupted_run_ends_bit_for_bit_where_it_would_have(tmp_path, dims, kind, skip, calls):
    case, loss = problem(dims, kind, skip)
    run = run_of(case, loss, max_steps=250, measure_at=(0, 1, 7, 120))
    whole = train(run, folder_in(tmp_path / "whole"), quiet)
    with pytest.raises(KeyboardInterrupt):
        train(run, folder_in(tmp_path), StopAfter(calls))
    resumed = train(run, folder_in(tmp_path, resume=True), quiet)
    for W, expected in zip(resumed.chain.weights, whole.chain.weights, strict=True):
        np.testing.assert_array_equal(W, expected)
    assert [row["step"] for row in resumed.rows] == [0, 1, 7, 120, 250]
    assert (resumed.status, resumed.steps, resumed.chain.skip) == (whole.status, whole.steps, whole.chain.skip)
    for name in whole.rows[0]:
        np.testing.assert_allclose(resumed.column(name), whole.column(name), rtol=1e-6, atol=1e-9, err_msg=name)
    assert os.listdir(tmp_path / "study" / "checkpoints") == ["small.npz"]


def test_a_chain_of_more_than_nine_layers_keeps_their_order(tmp_path):
    case, loss = problem((2,) * 12)
    run = run_of(case, loss, max_steps=20, measure_at=(0, 5))
    whole = train(run, folder_in(tmp_path / "whole"), quiet)
    with pytest.raises(KeyboardInterrupt):
        train(run, folder_in(tmp_path), StopAfter(2))
    resumed = train(run, folder_in(tmp_path, resume=True), quiet)
    np.testing.assert_array_equal(np.stack(resumed.chain.weights), np.stack(whole.chain.weights))


def test_an_interruption_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    run = scalar_run()
    with pytest.raises(KeyboardInterrupt):
        train(run, folder_in(tmp_path), StopAfter(2))
    place = tmp_path / "study" / "checkpoints" / "scalar.npz"
    before = place.read_bytes()
    folder = folder_in(tmp_path, resume=True)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(run, folder, quiet)
    assert place.read_bytes() == before
    assert os.listdir(place.parent) == ["scalar.npz"]


def test_a_finished_run_is_not_run_again(tmp_path):
    case, loss = problem()
    first = train(run_of(case, loss), folder_in(tmp_path), quiet)
    again = train(run_of(case, loss), folder_in(tmp_path, resume=True), StopAfter(1))
    np.testing.assert_equal(again.rows, first.rows)  # NaN where NaN was
    assert (again.status, again.steps) == (first.status, first.steps)
    np.testing.assert_array_equal(again.chain.product(), first.chain.product())


@pytest.mark.parametrize(("dims", "kind", "skip"), CHAINS)
def test_a_checkpoint_is_a_model_file(tmp_path, dims, kind, skip):
    case, loss = problem(dims, kind, skip)
    trace = train(run_of(case, loss), folder_in(tmp_path), quiet)
    read = fio.read_model(tmp_path / "study" / "checkpoints" / "small.npz")
    chain = read.chain()
    assert (chain.dims, chain.skip) == (dims, (skip,) * (len(dims) - 1))
    assert set(read.ignored) == {"step", "status", "history_names", "history"}
    assert ("skip link" in read.describe()) is skip
    theta = descent_by_autograd(case, loss, 0.02, 30)[-1]
    np.testing.assert_allclose(chain.product(), case.end_to_end(theta).numpy(), atol=1e-12)
    np.testing.assert_array_equal(chain.product(), trace.chain.product())


def damage(kind, place):
    if kind == "truncated":
        place.write_bytes(place.read_bytes()[:200])
    elif kind == "text":
        place.write_text("not an archive")
    elif kind == "empty":
        place.write_bytes(b"")
    elif kind == "flipped":
        data = bytearray(place.read_bytes())
        data[150] ^= 0xFF  # inside the first matrix
        place.write_bytes(bytes(data))
    elif kind == "one array":
        np.save(place.with_suffix(".npy"), np.eye(2))
        os.replace(place.with_suffix(".npy"), place)
    elif kind == "objects":
        np.savez(place, W1=np.array([{}], dtype=object))
    elif kind == "no step":
        with np.load(place) as archive:
            arrays = {name: archive[name] for name in archive.files if name != "step"}
        np.savez(place, **arrays)
    else:
        np.savez(place, W1=np.eye(2))


@pytest.mark.parametrize(
    "kind", ["truncated", "text", "empty", "flipped", "one array", "objects", "no step", "another model"]
)
def test_a_damaged_checkpoint_is_named(tmp_path, kind):
    with pytest.raises(KeyboardInterrupt):
        train(scalar_run(), folder_in(tmp_path), StopAfter(2))
    damage(kind, tmp_path / "study" / "checkpoints" / "scalar.npz")
    with pytest.raises(ValueError, match=r"checkpoints/scalar\.npz"):
        train(scalar_run(), folder_in(tmp_path, resume=True), quiet)


def test_folders_that_hold_something_else_are_refused(tmp_path):
    folder_in(tmp_path, seed=3)
    with pytest.raises(ValueError, match=r"study is not empty; expected a new folder, or --resume"):
        folder_in(tmp_path, seed=3)
    with pytest.raises(ValueError, match=r"settings .*'seed': 3.*expected .*'seed': 4"):
        folder_in(tmp_path, seed=4, resume=True)
    assert folder_in(tmp_path, seed=3, resume=True).load("scalar") is None
    (tmp_path / "study" / "study.json").write_text("{")
    with pytest.raises(ValueError, match=r"study\.json is no study's settings"):
        folder_in(tmp_path, seed=3, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file; expected a folder"):
        StudyFolder(tmp_path / "file", "digits", 0, resume=True)


def test_a_study_that_does_not_exist_is_refused(tmp_path):
    assert study_names() == ("digits", "nonlinear", "wfm")
    with pytest.raises(ValueError, match="study is 'nope'; expected one of digits, nonlinear, wfm"):
        run_study("nope", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -- the data --------------------------------------------------------------------------------------------------------


def test_halves_are_whitened_and_the_rotated_target_is_positive_definite():
    data = digits_data.halves(digits_data.load()[0])
    for part in (data.left, data.right):
        assert part.shape == (1797, 30)
        np.testing.assert_allclose(part.T @ part / 1797, np.eye(30), atol=1e-12)
        np.testing.assert_allclose(part.mean(axis=0), 0.0, atol=1e-12)
    rotated = data.loss(rotated=True).minimiser()
    np.testing.assert_allclose(rotated, rotated.T, atol=1e-12)
    assert np.linalg.eigvalsh(rotated)[0] > 0
    correlations = np.linalg.svd(data.correlation, compute_uv=False)
    np.testing.assert_allclose(np.linalg.svd(rotated, compute_uv=False), correlations, atol=1e-12)
    assert correlations[0] < 1


def test_data_of_too_small_a_rank_are_refused(rng):
    rows = rng.standard_normal((20, 2)) @ rng.standard_normal((2, 5))
    with pytest.raises(ValueError, match="the data have rank 2; expected at least 3"):
        digits_data.whitened_components(rows, 3)


@pytest.mark.parametrize("seed", [0, 5])
def test_starts_are_what_they_are_called(seed):
    balanced, plain, tilted = (
        digits.balanced_layers(seed), digits.random_layers(seed, 1.0), digits.random_layers(seed, 3.0)
    )  # fmt: skip
    for A, B in pairwise(balanced):
        np.testing.assert_allclose(B.T @ B, A @ A.T, atol=1e-12)
    np.testing.assert_allclose(np.linalg.multi_dot(tilted[::-1]), np.linalg.multi_dot(plain[::-1]), atol=1e-12)
    np.testing.assert_array_equal(tilted[0], 3 * plain[0])
    target = digits.negative_target()
    assert np.linalg.det(target) < 0
    np.testing.assert_allclose(np.linalg.svd(target, compute_uv=False), [1.5, 1.2, 1.0, 0.8, 0.5], atol=1e-12)


# -- the study -------------------------------------------------------------------------------------------------------

FIGURES = {
    "sharpness", "orders", "partial_gains", "balance", "residuals", "coupling", "classifier_loss",
    "classifier_sharpness", "classifier_gains", "structure", "classifier_coupling", "negative",
}  # fmt: skip
HALVES = [
    "halves-resnet-0.02", "halves-resnet-0.04", "halves-rotated-0.02", "halves-rotated-0.04", "halves-balanced",
    "halves-random", "halves-unbalanced",
]  # fmt: skip
RUNS = [*HALVES, "negative-0.01", "negative-0.1", "classifier-quadratic", "classifier-entropy"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study on the real data: fewer measurements, and small classifiers for a few steps."""
    path, heard = tmp_path_factory.mktemp("studies") / "digits", []
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        result = run_study("digits", path, seed=0, progress=lambda what, fraction: heard.append((what, fraction)))
    return Finished(path, result, heard)


def captions(study, figure):
    return " ".join(study.lines(figure))


def shrink(patch):
    spread, classifiers = digits.spread, digits.classifier_runs

    def shorter(*arguments):
        return [dataclasses.replace(r, max_steps=40, measure_at=(0, 10)) for r in classifiers(*arguments)]

    patch.setattr(digits, "spread", lambda steps, count: spread(steps, min(count, 8)))
    patch.setattr(digits, "CLASSIFIER_DIMS", (64, 16, 16, 16, 10))
    patch.setattr(digits, "classifier_runs", shorter)
    patch.setattr(digits, "NEGATIVE_STEPS", {0.01: 2500, 0.1: 4000})  # the larger step crosses sooner


def test_the_study_leaves_its_files_and_no_others(study):
    files = {str(place.relative_to(study.path)) for place in study.path.rglob("*") if place.is_file()}
    assert files == {
        "report.html", "results.json", "history.csv", "study.json",
        *(f"checkpoints/{run}.npz" for run in RUNS), *(f"figures/{figure}.svg" for figure in FIGURES),
    }  # fmt: skip
    assert study.result.report == study.path / "report.html"
    assert list(study.history()) == list(study.results()["runs"]) == RUNS
    assert study.result.to_dict() == study.results()
    assert len(study.result.summary().splitlines()) == len(RUNS)


def test_progress_goes_from_zero_to_one(study):
    fractions = [fraction for _, fraction in study.heard]
    assert fractions == sorted(fractions)
    assert (fractions[0], study.heard[-1]) == (0.0, ("done", 1.0))


def test_a_finished_study_that_is_resumed_writes_the_same_report(study, tmp_path, monkeypatch):
    """Of its pictures one is drawn; that all are the same is tested with the nonlinear networks."""
    shutil.copytree(study.path, tmp_path / "digits")
    shrink(monkeypatch)
    monkeypatch.setattr(descent, "measure", None)  # nothing is trained or measured again
    for name in ("sharpness", "partial_gains", "over_training", "heat_maps", "losses", "structure", "negative"):
        monkeypatch.setattr(digits_figures, name, lambda *_: "<svg></svg>")
    run_study("digits", tmp_path / "digits", resume=True)
    for name in ("results.json", "history.csv", "figures/orders.svg"):
        assert (tmp_path / "digits" / name).read_bytes() == (study.path / name).read_bytes(), name
    written = (tmp_path / "digits" / "report.html").read_text(encoding="utf-8")
    assert without_pictures(written) == without_pictures(study.text("report.html"))


def without_pictures(page):
    return re.sub(r"<svg.*?</svg>\s*", "", page, flags=re.DOTALL)


def test_the_history_and_the_results_are_the_traces(study):
    history, results = study.history(), study.results()
    for run in RUNS:
        with np.load(study.path / "checkpoints" / f"{run}.npz") as archive:
            names, rows = [str(name) for name in archive["history_names"]], archive["history"]
            steps, status = int(archive["step"]), str(archive["status"])
        assert len(history[run]) == len(rows)
        for written, row in zip(history[run], rows, strict=True):
            np.testing.assert_array_equal([written[name] for name in names], row)
        about = results["runs"][run]
        assert (about["status"], about["steps"], about["last"]["step"]) == (status, steps, steps)
        for name, value in zip(names, rows[-1], strict=True):
            assert about["last"][name] == (value if np.isfinite(value) else None)


def test_the_report_needs_nothing_but_itself(study):
    text = study.text("report.html")
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert page.references
    assert all(reference.startswith(("#", "'#", '"#')) for reference in page.references)
    assert "@import" not in text
    assert {reference.strip("'\"")[1:] for reference in page.references} <= set(page.ids)


def test_no_reference_of_a_figure_is_taken_for_another_figures(study):
    """Browsers follow a reference to the first of its name on the page."""
    definitions = {}
    for name in sorted(FIGURES):
        root = ET.fromstring(study.text(f"figures/{name}.svg").partition("?>")[2])
        used = set(re.findall(r'(?:href="|url\()#([^")]+)', study.text(f"figures/{name}.svg")))
        found = {e.get("id"): ET.tostring(e).strip() for e in root.iter() if e.get("id") in used}
        assert set(found) == used
        for key, element in found.items():
            assert definitions.setdefault(key, element) == element, (name, key)


def test_every_id_on_the_page_is_there_once(study):
    ids = Page(study.text("report.html")).ids
    twice = sorted({name for name in ids if ids.count(name) > 1})
    assert not twice, f"{len(twice)} ids stand more than once: {twice[:8]}"


def test_every_figure_is_on_the_page_and_a_file_with_theory_and_measurement_under_it(study):
    page = Page(study.text("report.html"))
    assert set(page.figures) == set(study.results()["findings"]) == FIGURES
    assert page.tags.count("svg") == len(FIGURES)
    for name, caption in page.captions.items():
        assert "Theory" in caption, name
        assert "Measured" in caption, name
        for line in study.results()["findings"][name]:
            assert line in caption
        file = study.text(f"figures/{name}.svg")
        root = ET.fromstring(file.partition("?>")[2])
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert root.get("width")


# What holds on the real data


@pytest.mark.parametrize("run", ["halves-rotated-0.02", "halves-rotated-0.04"])
def test_towards_a_positive_definite_target_resnets_end_flattest(study, run):
    end = study.results()["runs"][run]
    assert end["status"] == "converged"
    assert end["last"]["flatness_ratio"] == pytest.approx(1.0, abs=1e-6)


def test_excess_over_flattest_is_of_second_and_the_gap_of_first_order_in_the_step(study):
    ends = [study.results()["runs"][f"halves-resnet-{eta}"]["last"] for eta in ("0.02", "0.04")]
    assert math.log2((ends[1]["flatness_ratio"] - 1) / (ends[0]["flatness_ratio"] - 1)) == pytest.approx(2, abs=0.4)
    gaps = [max(end[f"gap_{j}"] for j in (1, 2, 3)) for end in ends]
    assert math.log2(gaps[1] / gaps[0]) == pytest.approx(1, abs=0.3)


@pytest.mark.parametrize("run", ["halves-random", "halves-unbalanced"])
def test_other_starts_end_sharper_than_need_be_but_stable(study, run):
    end = study.results()["runs"][run]
    assert end["status"] == "converged"
    assert end["last"]["flatness_ratio"] > 1.5
    assert end["last"]["sharpness"] <= 2 / end["step_size"] * (1 + 1e-3)


def test_a_negative_determinant_is_not_reached_in_small_steps(study):
    rows = study.history()["negative-0.01"]
    assert all(row["determinant"] > 0 for row in rows)
    assert min(row["excess"] for row in rows) >= 0.25 * (1 - 1e-3)
    assert rows[-1]["excess"] == pytest.approx(0.25, rel=0.01)


def test_no_ratio_is_below_one_and_all_is_certified(study):
    for rows in study.history().values():
        for row in rows:
            assert row["certified"] == 1.0
            assert np.isnan(row["flatness_ratio"]) or row["flatness_ratio"] >= 1 - 1e-6


# The numbers in the captions


def test_captions_quote_the_sharpness_of_each_run(study):
    caption, runs = captions(study, "sharpness"), study.results()["runs"]
    for run in HALVES:
        last = runs[run]["last"]
        edge = last["sharpness"] * runs[run]["step_size"] / 2
        assert f"{runs[run]['title']}: {last['sharpness']:.4g} = {edge:.3g} of 2/η" in caption
    assert "no run lies above 2/η" in caption


def test_captions_quote_the_orders(study):
    ends = [study.results()["runs"][f"halves-resnet-{eta}"]["last"] for eta in ("0.02", "0.04")]
    excess = [end["flatness_ratio"] - 1 for end in ends]
    gaps = [max(end[f"gap_{j}"] for j in (1, 2, 3)) for end in ends]
    plain, rotated = study.results()["findings"]["orders"][1:]
    assert f"{excess[0]:.3g} at η = 0.02 and {excess[1]:.3g} at η = 0.04" in plain
    assert f"of order {math.log2(excess[1] / excess[0]):.3g} in η" in plain
    assert f"gap is of order {math.log2(gaps[1] / gaps[0]):.3g}" in plain
    assert "all converged" in plain
    assert "zero to rounding" in rotated


def test_captions_quote_bands_balance_and_residuals(study):
    runs, history = study.results()["runs"], study.history()
    shown = ["halves-resnet-0.02", "halves-balanced", "halves-random", "halves-unbalanced"]
    for run in shown:
        values = np.array([runs[run]["last"][f"partial_gain_{j}"] for j in (1, 2, 3)])
        inside = np.sum((values >= 0.99) & (values <= 1.01 * 3**0.5))
        line = f"{runs[run]['title']}: {inside} of 3 inside ({values.min():.4g} to {values.max():.4g})"
        assert line in captions(study, "partial_gains")
    for run in HALVES:
        first, last = ([row[f"relative_gap_{j}"] for j in (1, 2, 3)] for row in (history[run][0], history[run][-1]))
        assert f"{runs[run]['title']}: {max(first):.3g} → {max(last):.3g}" in captions(study, "balance")
        residual = max(history[run][-1][f"coupling_residual_{j}"] for j in (1, 2, 3, 4))
        assert f"{runs[run]['title']}: {residual:.3g}" in captions(study, "residuals")


def test_captions_quote_the_coupling_of_the_checkpoints(study):
    for figure, label, run in (
        ("coupling", "random start", "halves-random"), ("classifier_coupling", "end", "classifier-entropy"),
    ):  # fmt: skip
        chain = fio.read_model(study.path / "checkpoints" / f"{run}.npz").chain()
        largest, chance = coupling_and_chance([W.astype(float) for W in chain.weights])
        quoted = ", ".join(f"{a:.3g} ({a / c:.3g} × chance)" for a, c in zip(largest, chance, strict=True))
        assert f"{label}: {quoted}" in captions(study, figure)


def test_captions_quote_the_classifiers(study):
    history, runs = study.history(), study.results()["runs"]
    for run in RUNS[-2:]:
        rows, title = history[run], runs[run]["title"]
        assert f"{title}: {rows[0]['loss']:.4g} → {rows[-1]['loss']:.4g}" in captions(study, "classifier_loss")
        edge = [row["sharpness"] / row["two_over_step"] for row in (rows[0], rows[-1])]
        side = "above" if edge[0] > 1 else "below"
        line = f"{title}: starts {side} 2/η at {edge[0]:.3g} of it and ends at {edge[1]:.3g} of it"
        assert line in captions(study, "classifier_sharpness")


def test_captions_tell_where_the_determinant_crosses(study):
    rows, caption = study.history()["negative-0.1"], captions(study, "negative")
    at = next(row for row in rows if row["determinant"] < 0)
    assert f"sits at {at['excess']:.5g} when the determinant is first measured negative, at step {at['step']:.0f}" in (
        caption
    )
    last = study.history()["negative-0.01"][-1]
    assert f"after 2500 steps the excess is {last['excess']:.5g}" in caption
    assert f"smallest singular value {last['sigma_min']:.2g}" in caption


def test_the_table_lists_every_run_at_its_last_step(study):
    text, runs = html.unescape(study.text("report.html")), study.results()["runs"]
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    cells = {row[0]: row for row in (re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows) if row}
    assert len(cells) == len(RUNS)
    for about in runs.values():
        row = cells[about["title"].replace("ResNet from zero, ", "ResNet, ")]
        assert row[1:4] == [about["status"], str(about["steps"]), f"{about['last']['loss']:.5g}"]
        assert row[5] == f"{about['last']['sharpness']:.5g}"
    total = sum(len(rows) for rows in study.history().values())
    assert f"{total} of {total} sharpness values are certified" in text


# -- words for what theory does not say ------------------------------------------------------------------------------


def synthetic(title="one", eta=0.1, status="converged", rows=({},), loss=None, steps=100):
    """A trace with these rows; what a row does not say is as theory has it."""
    row = {
        "step": float(steps), "loss": 1.0, "sharpness": 5.0, "two_over_step": 2 / eta, "flattest": 5.0,
        "flatness_ratio": 1.0, "excess": 0.0, "determinant": 1.0, "sigma_min": 0.1, "certified": 1.0,
        **{f"{name}_{j}": 0.0 for name in ("gap", "relative_gap", "coupling_residual") for j in (1, 2, 3)},
        **{f"partial_gain_{j}": 1.2 for j in (1, 2, 3)}, **{f"overlap_ratio_{j}": 1.0 for j in (1, 2, 3)},
    }  # fmt: skip
    run = Run(title, title, title, list, loss, eta, steps, (0,))
    return Trace(run, None, steps, status, [row | changes for changes in rows])


def family(*ends, gaps=(0.1, 0.2), status="converged"):
    """Two traces at step sizes 0.1 and 0.2."""
    rows = [{"flatness_ratio": ratio, "gap_2": gap} for ratio, gap in zip(ends, gaps, strict=True)]
    return [synthetic(f"η = {eta}", eta, status, (row,)) for eta, row in zip((0.1, 0.2), rows, strict=True)]


@pytest.mark.parametrize("order", [-1.0, 0.5, 1.0, 2.0, 3.0])
def test_orders_are_those_of_powers(order):
    traces = [synthetic(eta=eta) for eta in (0.01, 0.02, 0.05)]
    assert words.order_in_step(traces, [7 * eta**order for eta in (0.01, 0.02, 0.05)]) == pytest.approx(order)


@pytest.mark.parametrize("values", [(0.0, 1.0), (1.0, 0.0), (-1e-7, 1e-3), (1e-3, -1e-7), (float("nan"), 1.0)])
def test_values_that_are_not_positive_have_no_order(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not np.isfinite(words.order_in_step(family(1.0, 1.0), values))


def test_rounding_is_told_from_flatness():
    assert words.at_rounding(family(1.0, 1.0 - 1e-12))
    assert not words.at_rounding(family(1.0, 1.0 + 1e-6))
    assert not words.at_rounding(family(1.0 - 1e-6, 1.0))


@pytest.mark.parametrize("ends", [(float("nan"), 1.0), (1.0, float("nan")), (float("nan"), float("nan"))])
def test_a_ratio_that_is_not_known_is_not_one_to_rounding(ends):
    assert not words.at_rounding(family(*ends))


def test_sharpness_above_the_edge_is_named():
    traces = [
        synthetic("good"),
        synthetic("first bad", rows=({"sharpness": 20.1},)),
        synthetic("second bad", rows=({"sharpness": 40.0},)),
    ]
    (text,) = words.sharpness_words(traces)
    assert "no run lies above" not in text
    assert "not below 2/η: first bad and second bad." in text
    assert "second bad: 40 = 2 of 2/η and 8.0000 λ*" in text
    (alone,) = words.sharpness_words(traces[:2])
    assert "not below 2/η: first bad." in alone
    (calm,) = words.sharpness_words([synthetic("at the edge", rows=({"sharpness": 20.01},))])
    assert "no run lies above" in calm


def test_a_sharpness_that_is_not_known_is_not_below_the_edge():
    (text,) = words.sharpness_words([synthetic("good"), synthetic("lost", rows=({"sharpness": float("nan")},))])
    assert "no run lies above" not in text


def test_a_flattest_sharpness_of_zero_has_no_multiple():
    (text,) = words.sharpness_words([synthetic("zero", rows=({"flattest": 0.0, "flatness_ratio": float("nan")},))])
    assert "zero: 5 = " in text


def test_orders_other_than_those_of_theory_are_quoted():
    lines = words.order_words({"cubic": family(1.001, 1.008, gaps=(0.1, 0.1)), "late": family(1.5, 1.5, status="max")})
    assert "of order 3 in η; the largest gap is of order 0" in lines[1]
    assert "not all converged" in lines[2]
    assert "of order 0 in η; the largest gap is of order 1" in lines[2]


def test_flat_but_not_balanced_is_not_called_balanced():
    text = words.order_words({"both": family(1.0, 1.0, gaps=(0.5, 0.7))})[1]
    assert "0.7" in text
    assert "the balance is exact" not in text


def test_a_picture_of_orders_where_all_is_flat_to_rounding():
    svg = digits_report._orders_picture({"a": family(1.0, 1.0), "b": family(1.0, 1.0)})
    assert ET.fromstring(svg).tag.endswith("svg")


def test_a_picture_of_orders_where_one_ratio_is_below_one():
    svg = digits_report._orders_picture({"a": family(1.0 - 1e-7, 1.0 + 1e-3)})
    assert ET.fromstring(svg).tag.endswith("svg")


def test_runs_outside_the_band_are_counted():
    band = [
        synthetic("in", rows=({"partial_gain_1": 0.995, "partial_gain_3": 1.74},)),
        synthetic("out", rows=({"partial_gain_1": 0.98, "partial_gain_2": 1.8, "partial_gain_3": 1.0},)),
        synthetic("lost", rows=(dict.fromkeys(("partial_gain_1", "partial_gain_2", "partial_gain_3"), np.nan),)),
    ]
    (text,) = words.band_words(band)
    assert "in: 3 of 3 inside (0.995 to 1.74)" in text
    assert "out: 1 of 3 inside (0.98 to 1.8)" in text
    assert "lost: 0 of 3 inside" in text
    assert "√(M−1) = 1.732" in text


def test_lost_balance_and_broken_coupling_are_quoted():
    trace = synthetic("broken", rows=({}, {"relative_gap_2": 0.7, "coupling_residual_3": 0.9, "overlap_ratio_1": 2.5}))
    assert "broken: 0 → 0.7" in words.balance_words([trace])[0]
    assert "broken: 0.9" in words.residual_words([trace])[0]
    text = words.structure_words([trace])[1]
    assert "from 1 to 2.5 times chance (largest pair), residuals from 0 to 0.9" in text
    assert "relative gaps by at most 0.7" in text


@pytest.mark.parametrize(
    ("losses", "falls"),
    [((3.0, 2.0, 1.0), True), ((1.0, 2.0, 1.5, 9.0), False), ((1.0, 1.0), False), ((1.0, float("nan")), False)],
)
def test_only_a_loss_that_falls_is_said_to_fall(losses, falls):
    (text,) = words.loss_words([synthetic("L", rows=[{"loss": loss} for loss in losses])])
    assert ("falling throughout" in text) is falls
    assert f"L: {losses[0]:g} → " in text
    if losses[-1] == 9.0:
        assert "falling in 1 of 3 intervals" in text


def test_classifiers_that_end_above_the_edge_are_quoted():
    rows = ({"sharpness": 30.0}, {"sharpness": 25.0, "flatness_ratio": float("nan")})
    lines = words.classifier_sharpness_words([synthetic("C", rows=rows), synthetic("D")])
    assert "C: starts above 2/η at 1.5 of it and ends at 1.25 of it." in lines[1]
    assert "D: starts below 2/η at 0.25 of it and ends at 0.25 of it; flatness ratio 1" in lines[2]


@pytest.mark.parametrize(
    ("status", "phrase"),
    [
        ("converged", "converged after 7 steps"),
        ("diverged", "diverged after 7 steps"),
        ("max_steps", "stopped at step 7"),
    ],
)
def test_endings(status, phrase):
    text = words.ending(synthetic(status=status, steps=7, rows=({"flatness_ratio": float("nan")},)))
    assert text.startswith(phrase)
    assert "flatness" not in text
    assert "flatness ratio 1" in words.ending(synthetic(status=status))


def towards(singular_values, negative):
    """Squared error on whitened data towards a diagonal target."""
    T = np.diag(np.asarray(singular_values) * ([-1.0] + [1.0] * (len(singular_values) - 1) if negative else 1.0))
    return fc.QuadraticLoss.from_moments(np.eye(len(T)), T, float(np.sum(T**2)))


def halves_traces(*, negative=True, smallest=1e-3, **changes):
    """Traces of task one by name; `changes` replace the settings of single runs."""
    loss = towards((smallest, 0.9), negative)
    names = [name.replace("0.02", "0.1").replace("0.04", "0.2") for name in HALVES]
    traces = {}
    for name in names:
        settings = {"title": name, "loss": loss, "rows": ({"determinant": -1e-4 if negative else 1e-4},)}
        traces[name] = synthetic(**(settings | changes.get(name.replace("-", "_").replace(".", ""), {})))
    return traces


def test_runs_that_did_not_converge_are_named():
    first, second = words.convergence_words(
        halves_traces(halves_random={"status": "max_steps"}, halves_rotated_01={"status": "diverged"})
    )
    assert first.startswith("Not converged: halves-rotated-0.1 and halves-random; the others did")
    assert "is a theorem: diverged." in second
    assert words.convergence_words(halves_traces())[0].startswith("Every run of task one converged")


def test_a_target_of_positive_determinant_is_not_said_to_be_beyond_reach():
    assert "negative determinant" in words.convergence_words(halves_traces())[1]
    assert "negative determinant" not in words.convergence_words(halves_traces(negative=False))[1]


def test_a_determinant_that_did_cross_is_not_explained_by_a_small_singular_value():
    """Converged towards σ_min = 0.5 although that costs 0.25, far above the threshold: the run crossed."""
    text = words.convergence_words(halves_traces(smallest=0.5))[1]
    assert "counts as converged because" not in text


def test_a_determinant_that_crosses_is_told():
    rows = (
        {"step": 0.0, "determinant": 1.0, "excess": 3.0}, {"step": 40.0, "determinant": -1e-9, "excess": 0.249},
        {"step": 100.0, "determinant": -0.7, "excess": 1e-6},
    )  # fmt: skip
    text = words.negative_words([synthetic("N", rows=rows)], 0.5)[1]
    assert "0.249 when the determinant is first measured negative, at step 40" in text
    assert "after 100 steps it is 1e-06 (converged)" in text
    assert "fails" not in text


def test_a_determinant_that_stays_positive_is_told_with_the_plateau():
    text = words.negative_words([synthetic("N", status="max_steps", rows=({"excess": 0.2500123},))], 0.5)[1]
    assert "after 100 steps the excess is 0.25001 and the smallest singular value 0.1" in text
    assert "it fails, as the theory says" in text


@pytest.mark.parametrize(("status", "excess"), [("converged", 1e-6), ("max_steps", 0.1)])
def test_a_run_below_the_plateau_is_not_said_to_fail_as_theory_says(status, excess):
    text = words.negative_words([synthetic("N", status=status, rows=({"excess": excess},))], 0.5)[1]
    assert f"{excess:g}" in text
    assert "as the theory says" not in text


def test_uncertified_values_are_counted():
    traces = {"a": synthetic("a", rows=({}, {"certified": 0.0})), "b": synthetic("b", rows=({"certified": 0.0},))}
    assert digits_report._table(traces).text == (
        "1 of 3 sharpness values are certified to their tolerance by true residuals.",
    )


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_ctrl_c_keeps_the_checkpoints_and_resume_goes_on_from_them(tmp_path):
    out = tmp_path / "out"
    place = out / "checkpoints" / "halves-resnet-0.02.npz"
    first = interrupted("digits", out, place, lambda step: step >= 3)
    assert os.listdir(place.parent) == [place.name]
    with np.load(place) as archive:
        kept = dict(archive)
    second = interrupted("digits", out, place, lambda step: step > first[-1], "--resume")
    assert second[0] >= int(kept["step"])  # a new start would have written step 0 first
    with np.load(place) as archive:
        np.testing.assert_array_equal(archive["history"][: len(kept["history"]) - 1], kept["history"][:-1])
    assert not (out / "report.html").exists()

    refused = subprocess.run([*COMMAND, "study", "digits", "--out", str(out)], capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith(f"flatcore: {out} is not empty; expected a new folder, or --resume")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope",), "there is no study 'nope'; expected one of digits, nonlinear, wfm"),
        (("digits", "--resume", "--seed", "1"), "holds a study with settings"),
        (("digits",), "is not empty; expected a new folder, or --resume"),
    ],
)
def test_bad_studies_are_exit_2_and_change_nothing(tmp_path, arguments, message):
    folder_in(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(cli.app, ["study", *arguments, "--out", str(tmp_path / "study")])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_other_peoples_folder_is_left_as_it_was(tmp_path):
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "study.json").write_text('{"study": "another"}\n')
    with pytest.raises(ValueError, match="holds a study with settings"):
        folder_in(tmp_path, resume=True)
    assert os.listdir(tmp_path / "study") == ["study.json"]


def test_there_must_be_something_to_resume(tmp_path):
    with pytest.raises(ValueError, match=r"holds no study to go on with"):
        folder_in(tmp_path, resume=True)
    assert not (tmp_path / "study").exists()
