"""The study `nonlinear`: training and what is measured of it, interruptions, and sentences whose numbers are right."""

import dataclasses
import html
import math
import os
import re
import warnings
from itertools import pairwise

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from study_helpers import Finished, Page, StopAfter, interrupted, quiet
from torch import nn
from torch.func import functional_call

from flatcore.studies import StudyFolder, digits_data, nonlinear, nonlinear_training, run_study
from flatcore.studies import nonlinear_quantities as q
from flatcore.studies import nonlinear_words as words
from flatcore.studies.nonlinear import Architecture, Settings, runs_of, split, spread
from flatcore.studies.nonlinear_groups import Group, flat_minus_sharp, grouped
from flatcore.studies.nonlinear_networks import build
from flatcore.studies.nonlinear_training import Run, Trace, squared_error, train
from flatcore.studies.statistics import Comparison, with_error

KINDS = ("relu", "tanh", "residual", "convolution")
SMALL = Settings(
    architectures=(
        Architecture("relu", "ReLU network", 5, (0.05, 0.2), 1.0, 4),
        Architecture("residual", "residual network", 4, (0.05, 0.1), 0.5, 4),
    ),
    seeds=2,
    paths=3,
    held_out=1700,
    tol=1e-6,
)


def folder_in(path, *, resume=False):
    return StudyFolder(path / "study", "nonlinear", 0, resume=resume)


@pytest.fixture(scope="module")
def digits():
    """97 training images and 1700 held out."""
    return split(*digits_data.load(), seed=0, held_out=1700)


def run_of(kind="relu", **changes):
    settings = {
        "seed": 0, "build": lambda: build(kind, 4, [1]), "step_size": 0.1, "max_steps": 12, "measure_at": (0, 2, 5),
        "paths": 3, "tol": 1e-6,
    }  # fmt: skip
    return Run(kind, changes.pop("title", f"the {kind} run"), kind, **(settings | changes))


def weights_in(path, run):
    """The network that a checkpoint describes."""
    network = run.build()
    with np.load(path / "study" / "checkpoints" / f"{run.name}.npz") as archive:
        network.load_state_dict({name: torch.from_numpy(archive[name]) for name in network.state_dict()})
    return network


# -- networks and data -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_networks_have_four_layers_and_start_as_said(kind):
    network = build(kind, 400, [3])
    assert len(network) == 4
    assert network(torch.zeros(2, 64)).shape == (2, 10)
    matrices = [p for p in network.parameters() if p.ndim > 1]
    for p in network.parameters():
        if p.ndim == 1:
            assert not p.any()
    drawn = [p for p in matrices if p.any()]
    assert len(matrices) - len(drawn) == (2 if kind == "residual" else 0)
    for p in drawn:
        variance = float(p.detach().var()) * p[0].numel()
        # Of n draws the variance is known to √(2/n); five times that.
        assert variance == pytest.approx(0.1 if p is matrices[-1] else 1.0, rel=5 * math.sqrt(2 / p.numel()))
    for p, same, other in zip(
        network.parameters(), build(kind, 400, [3]).parameters(), build(kind, 400, [4]).parameters(), strict=True
    ):
        assert torch.equal(p, same)
        assert not p.any() or not torch.equal(p, other)


def test_residual_blocks_start_as_the_identity_and_add_their_branch():
    network, x = build("residual", 7, [0]), torch.randn(5, 7)
    assert torch.equal(network[1](x), x)
    first, _, second = network[1].module
    with torch.no_grad():
        second.weight.normal_()
    want = x + (torch.relu(x @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    torch.testing.assert_close(network[1](x), want)


def test_a_seed_draws_the_split_and_training_pixels_are_scaled():
    images, labels = digits_data.load()
    data = split(images, labels, 3, 360)
    assert (data.inputs.shape, data.test_inputs.shape, data.targets.shape) == ((1437, 64), (360, 64), (1437, 10))
    np.testing.assert_allclose(data.inputs.mean(axis=0), 0.0, atol=1e-12)
    assert data.inputs.std() == pytest.approx(1.0)
    np.testing.assert_array_equal(data.targets.argmax(axis=1), data.labels)
    np.testing.assert_array_equal(data.targets.sum(axis=1), 1.0)
    # One affine map takes all images to all rows, each once.
    rows = np.concatenate([data.inputs, data.test_inputs])
    classes = np.concatenate([data.labels, data.test_labels])
    order = np.random.default_rng([3, 11]).permutation(1797)
    scale = np.ptp(rows[:, 20]) / np.ptp(images.reshape(-1, 64)[:, 20])
    pixels = images.reshape(-1, 64)[np.r_[order[360:], order[:360]]]
    np.testing.assert_allclose(rows - rows[0], (pixels - pixels[0]) * scale, atol=1e-12)
    np.testing.assert_array_equal(classes, labels[np.r_[order[360:], order[:360]]])
    assert not np.array_equal(split(images, labels, 4, 360).labels, data.labels)


@pytest.mark.parametrize(("steps", "count"), [(100, 5), (3, 10), (1, 2)])
def test_measurements_grow_as_squares(steps, count):
    points = spread(steps, count)
    assert points == tuple(sorted({round(steps * (i / (count - 1)) ** 2) for i in range(count)}))
    assert (points[0], points[-1]) == (0, steps)


def test_the_study_has_four_architectures_three_steps_and_several_seeds():
    assert [a.name for a in nonlinear.SETTINGS.architectures] == list(KINDS)
    for a in nonlinear.SETTINGS.architectures:
        runs = runs_of(a, nonlinear.SETTINGS, 5)
        assert {r.seed for r in runs} == {5, 6, 7, 8, 9}
        assert len({r.step_size for r in runs}) == 3
        assert len(runs) == len({r.name for r in runs}) == 3 * len({r.seed for r in runs})
        for r in runs:
            assert r.step_size * r.max_steps == pytest.approx(a.time, rel=0.01)
            assert r.measure_at[-1] == r.max_steps


# -- training and measurements ---------------------------------------------------------------------------------------


def descent_by_torch(run, data):
    """States of every step by torch's own optimiser."""
    network = run.build()
    inputs, targets, _ = data.tensors()
    optimiser = torch.optim.SGD(network.parameters(), lr=run.step_size)
    states, losses = [], []
    for _ in range(run.max_steps + 1):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(network(inputs), targets, reduction="sum") / len(inputs)
        states.append({name: p.detach().double().clone() for name, p in network.named_parameters()})
        losses.append(loss.item())
        loss.backward()
        optimiser.step()
    return states, losses


@pytest.fixture(scope="module", params=KINDS)
def trained(request, digits, tmp_path_factory):
    """A finished run of each kind, its folder, and torch's own descent."""
    run, path = run_of(request.param), tmp_path_factory.mktemp(request.param)
    return run, train(run, digits, folder_in(path), quiet), path, descent_by_torch(run, digits)


def test_descent_takes_the_steps_of_torch(trained):
    run, trace, path, (states, losses) = trained
    for name, p in weights_in(path, run).named_parameters():
        # A dozen steps in float32: rounding of 1e-7 a step, amplified a little.
        torch.testing.assert_close(p.detach().double(), states[-1][name], rtol=0, atol=1e-5)
    assert (trace.steps, trace.status) == (12, "finished")
    np.testing.assert_array_equal(trace.column("step"), [0, 2, 5, 12])
    np.testing.assert_allclose(trace.column("loss"), [losses[t] for t in (0, 2, 5, 12)], rtol=1e-5)


def test_sharpness_and_accuracies_are_those_of_dense_matrices(trained, digits):
    run, trace, _, (states, _) = trained
    x, y, test_x = (a.double() for a in digits.tensors())
    for row in (trace.rows[0], trace.rows[-1]):
        state = states[int(row["step"])]
        names, shapes = list(state), [p.shape for p in state.values()]
        theta = torch.cat([p.reshape(-1) for p in state.values()])

        def output(vector, at, names=names, shapes=shapes):
            parts = torch.split(vector, [s.numel() for s in shapes])
            blocks = {n: part.reshape(s) for n, part, s in zip(names, parts, shapes, strict=True)}
            return functional_call(run.build().double(), blocks, (at,))

        H = torch.autograd.functional.hessian(lambda v, o=output: ((o(v, x) - y) ** 2).sum() / len(x), theta)
        # The weights agree to 1e-5, a float32 Hessian to 1e-6 of its norm.
        assert row["sharpness"] == pytest.approx(float(torch.linalg.eigvalsh(H)[-1]), rel=1e-3)
        assert row["certified"] == 1.0
        assert row["two_over_step"] == pytest.approx(20.0)
        for name, at, labels in (
            ("train_accuracy", x, digits.labels), ("test_accuracy", test_x, digits.test_labels),
        ):  # fmt: skip
            right = output(theta, at).argmax(dim=1).numpy() == labels
            # Ties apart: an image may fall on either side by rounding.
            assert row[name] == pytest.approx(right.mean(), abs=2 / len(labels))


def layer_jacobians(network, x):
    """Dense Jacobians of the four layers at one input, in float64."""
    found = []
    for layer in network:
        J = torch.autograd.functional.jacobian(lambda h, layer=layer: layer(h), x)
        x = layer(x).detach()
        found.append(J.reshape(x.numel(), -1).numpy())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_structure_is_that_of_dense_matrices(digits, kind):
    network = build(kind, 8, [2])
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    inputs = digits.tensors()[2][:3]
    got = nonlinear_training.structure(network, inputs)
    logs, residuals = [], []
    for x in inputs.double():
        J = layer_jacobians(network.double(), x[None])
        _, s, Vt = np.linalg.svd(np.linalg.multi_dot(J[::-1]))
        z, g, r = Vt[0], [], []
        for A in J:
            g.append(np.linalg.norm(A @ z))
            after = A @ z / g[-1]
            r.append(np.linalg.norm(A.T @ after - g[-1] * z) / g[-1])
            z = after
        logs.append(np.log(np.array(g) / s[0] ** 0.25))
        residuals.append(r)
    # eigsh solves JJᵀ in float32 to 1e-4; vectors are known to that over the gap.
    np.testing.assert_allclose([got[f"gain_{j}"] for j in (1, 2, 3, 4)], np.exp(np.mean(logs, axis=0)), rtol=5e-3)
    np.testing.assert_allclose(
        [got[f"residual_{j}"] for j in (1, 2, 3, 4)], np.mean(residuals, axis=0), rtol=1e-2, atol=1e-3
    )
    assert got["imbalance"] == pytest.approx(np.std(logs, axis=1).mean(), rel=5e-3)
    assert (got["paths"], got["paths_certified"]) == (3.0, 3.0)


@pytest.mark.parametrize("kind", ["relu", "residual"])
def test_coupling_is_that_of_dense_matrices(digits, kind):
    network = build(kind, 12, [2])
    if kind == "residual":
        with torch.no_grad():
            network[1].module[2].weight.normal_(generator=torch.Generator().manual_seed(0))
    got = nonlinear_training.structure(network, digits.tensors()[2][:1])
    W = [m.weight.detach().double().numpy() for m in network.modules() if isinstance(m, nn.Linear)]
    for j, (A, B) in enumerate(pairwise(W), start=1):
        U, V = np.linalg.svd(A)[0][:, :8], np.linalg.svd(B)[2][:8]
        pairs = U.shape[1] * min(8, *B.shape)
        chance = np.sqrt(scipy.special.betaincinv(0.5, (len(A) - 1) / 2, 0.5 ** (1 / pairs)))
        zero = not A.any() or not B.any()
        want = float("nan") if zero else np.abs(V[: min(8, *B.shape)] @ U).max()
        assert got[f"overlap_{j}"] == pytest.approx(want, rel=1e-3, nan_ok=True)
        assert got[f"overlap_chance_{j}"] == pytest.approx(chance, rel=1e-9)
        assert got[f"overlap_ratio_{j}"] == pytest.approx(want / chance, rel=1e-3, nan_ok=True)
    assert f"overlap_{len(W)}" not in got
    assert np.isnan(q.layers(Trace(run_of(), structure=[got]), "overlap")).sum() == (2 if kind == "residual" else 0)


def test_an_input_without_a_path_is_left_out(digits):
    """relu(0) has slope 0: without biases the Jacobian at x = 0 is zero."""
    network, inputs = build("relu", 6, [0]), digits.tensors()[2][:2].clone()
    want = nonlinear_training.structure(network, inputs[:1])
    inputs[1] = 0.0
    assert nonlinear_training.structure(network, inputs) == want | {"paths_certified": 2.0}
    nothing = nonlinear_training.structure(network, inputs[1:])
    assert nothing["paths"] == 0.0
    assert np.isnan([nothing[name] for name in ("sigma", "imbalance", "gain_1", "residual_4")]).all()


def test_steps_that_raise_the_loss_are_counted(tmp_path, digits):
    run = run_of("tanh", step_size=0.8, max_steps=30, measure_at=(0, 10), build=lambda: build("tanh", 8, [1]))
    trace = train(run, digits, folder_in(tmp_path), quiet)
    _, losses = descent_by_torch(run, digits)
    rose = np.diff(losses) > 0
    assert trace.status == "finished"
    np.testing.assert_array_equal(trace.column("rises"), [0, rose[:10].sum(), rose[10:].sum()])
    assert rose.sum() > 0
    assert q.rising(trace) == pytest.approx(100 * rose.mean())


@pytest.mark.parametrize("eta", [20.0, 1e20])
def test_divergence_is_a_status(tmp_path, digits, eta):
    run = run_of(step_size=eta, max_steps=60, measure_at=(0, 1))
    trace = train(run, digits, folder_in(tmp_path), quiet)
    assert trace.status == "diverged"
    assert trace.steps < 60
    assert trace.last["step"] < trace.steps
    assert len(trace.structure) == 1
    again = train(run, digits, folder_in(tmp_path, resume=True), quiet)
    assert (again.status, again.steps, again.rows) == ("diverged", trace.steps, trace.rows)


# -- interruption ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(digits, tmp_path_factory):
    """Runs that were not interrupted, with the bytes of their last checkpoints, by kind."""
    found = {}
    for kind in ("residual", "convolution"):
        run, path = run_of(kind, max_steps=30, measure_at=(0, 1, 7)), tmp_path_factory.mktemp(kind)
        train(run, digits, folder_in(path), quiet)
        found[kind] = run, (path / "study" / "checkpoints" / f"{kind}.npz").read_bytes()
    return found


@pytest.mark.parametrize(
    ("kind", "calls"), [("residual", 1), ("residual", 2), ("residual", 3), ("residual", 4), ("convolution", 4)]
)
def test_an_interrupted_run_ends_bit_for_bit_where_it_would_have(tmp_path, digits, whole, monkeypatch, kind, calls):
    """The fourth tick comes between two measurements, at step 20."""
    run, expected = whole[kind]
    measured, measure = [], nonlinear_training.measure

    def counted(*arguments):
        measured.append(1)
        return measure(*arguments)

    monkeypatch.setattr(nonlinear_training, "measure", counted)
    with pytest.raises(KeyboardInterrupt):
        train(run, digits, folder_in(tmp_path), StopAfter(calls))
    resumed = train(run, digits, folder_in(tmp_path, resume=True), quiet)
    assert [row["step"] for row in resumed.rows] == [0, 1, 7, 30]
    assert len(measured) == 4  # nothing twice
    assert (tmp_path / "study" / "checkpoints" / f"{kind}.npz").read_bytes() == expected


def test_a_finished_run_is_not_run_again(tmp_path, digits):
    first = train(run_of(), digits, folder_in(tmp_path), quiet)
    again = train(run_of(), digits, folder_in(tmp_path, resume=True), StopAfter(1))
    assert (again.rows, again.structure, again.steps, again.status) == (first.rows, first.structure, 12, "finished")


def test_a_checkpoint_without_its_weights_is_named(tmp_path, digits):
    train(run_of(), digits, folder_in(tmp_path), quiet)
    place = tmp_path / "study" / "checkpoints" / "relu.npz"
    with np.load(place) as archive:
        arrays = {name: archive[name] for name in archive.files if name != "1.0.weight"}
    np.savez(place, **arrays)
    with pytest.raises(ValueError, match=r"relu\.npz is no checkpoint \(no 1\.0\.weight\)"):
        train(run_of(), digits, folder_in(tmp_path, resume=True), quiet)


# -- the study -------------------------------------------------------------------------------------------------------

FIGURES = {"edge", "loss", "flatness", "gains", "residuals", "coupling", "test_error"}


class Repeated(Finished):
    """A small study, several seeds of each run."""

    def runs(self, architecture, eta):
        """Results of one architecture and step size, a seed each."""
        return [
            r for r in self.results()["runs"].values() if (r["architecture"], r["step_size"]) == (architecture, eta)
        ]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path, heard = tmp_path_factory.mktemp("studies") / "nonlinear", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nonlinear, "SETTINGS", SMALL)
        result = run_study("nonlinear", path, seed=0, progress=lambda what, fraction: heard.append((what, fraction)))
    return Repeated(path, result, heard)


def names_of(settings, seed=0):
    return [r.name for a in settings.architectures for r in runs_of(a, settings, seed)]


def test_the_study_leaves_its_files_and_no_others(study):
    runs = names_of(SMALL)
    files = {str(place.relative_to(study.path)) for place in study.path.rglob("*") if place.is_file()}
    assert files == {
        "report.html", "results.json", "history.csv", "study.json",
        *(f"checkpoints/{run}.npz" for run in runs), *(f"figures/{figure}.svg" for figure in FIGURES),
    }  # fmt: skip
    assert list(study.history()) == list(study.results()["runs"]) == runs
    assert study.result.to_dict() == study.results()
    assert len(study.result.summary().splitlines()) == len(runs) == 8
    assert study.results()["versions"]["torch"] == torch.__version__


def test_progress_goes_from_zero_to_one(study):
    fractions = [fraction for _, fraction in study.heard]
    assert fractions == sorted(fractions)
    assert (fractions[0], study.heard[-1]) == (0.0, ("done", 1.0))


def test_a_finished_study_that_is_resumed_writes_the_same_report(study, monkeypatch):
    names = ("report.html", "results.json", "history.csv", *(f"figures/{figure}.svg" for figure in FIGURES))
    before = [study.text(name) for name in names]
    monkeypatch.setattr(nonlinear, "SETTINGS", SMALL)
    monkeypatch.setattr(nonlinear_training, "measure", None)  # nothing is trained or measured again
    run_study("nonlinear", study.path, resume=True)
    for name, text in zip(names, before, strict=True):
        assert study.text(name) == text, name


def test_an_interrupted_study_ends_with_the_same_files(study, tmp_path, monkeypatch):
    monkeypatch.setattr(nonlinear, "SETTINGS", SMALL)

    class Stop:
        def __init__(self):
            self.titles = []

        def __call__(self, what, fraction):
            self.titles.append(what)
            if len(set(self.titles)) == 4:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study("nonlinear", tmp_path / "out", progress=Stop())
    assert not (tmp_path / "out" / "report.html").exists()
    run_study("nonlinear", tmp_path / "out", resume=True)
    for place in study.path.rglob("*"):
        if place.is_file():
            assert (tmp_path / "out" / place.relative_to(study.path)).read_bytes() == place.read_bytes(), place.name


def test_the_history_and_the_results_are_those_of_the_checkpoints(study):
    history, results = study.history(), study.results()["runs"]
    for run in names_of(SMALL):
        with np.load(study.path / "checkpoints" / f"{run}.npz") as archive:
            tables = {name: dict(zip(archive[f"{name}_names"], archive[name].T, strict=True))
                      for name in ("history", "structure")}  # fmt: skip
            steps, status = int(archive["step"]), str(archive["status"])
        for name, values in tables["history"].items():
            np.testing.assert_array_equal([row[name] for row in history[run]], values)
            assert results[run]["last"][name] == values[-1]
        for name, (first, last) in tables["structure"].items():
            for when, value in (("first", first), ("last", last)):
                assert results[run]["structure"][when][name] == (value if np.isfinite(value) else None)
        assert (results[run]["status"], results[run]["steps"]) == (status, steps) == ("finished", steps)
        ratios = tables["history"]["sharpness"] * results[run]["step_size"] / 2
        late = ratios[tables["history"]["step"] >= steps / 2]
        assert results[run]["settled"] == pytest.approx(late.mean(), rel=1e-12)


def test_the_report_needs_nothing_but_itself_and_asks_tells_and_measures(study):
    page = Page(study.text("report.html"))
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(page.tags)
    assert page.references
    assert {reference.strip("'\"") for reference in page.references} <= {f"#{name}" for name in page.ids}
    assert len(page.ids) == len(set(page.ids))
    assert set(page.figures) == set(study.results()["findings"]) == FIGURES
    for name, caption in page.captions.items():
        for word in ("Asked:", "Theory:", "Measured"):
            assert word in caption, name
        for line in study.lines(name):
            assert line in caption


# The numbers in the captions, computed again from results.json and history.csv


def mean_text(values, digits=3):
    values = np.array(values)
    return f"{values.mean():.{digits}g} ± {np.sqrt(values.var(ddof=1) / len(values)):.2g}"


def difference_text(study, a, value):
    large, small = ([value(r) for r in study.runs(a.name, eta)] for eta in (a.steps[-1], a.steps[0]))
    d = np.subtract(large, small)
    span = scipy.stats.ttest_rel(large, small).confidence_interval(0.95)
    return f"{d.mean():.3g} ± {(span.high - span.low) / 2:.2g} (95 %)"


def overlap_of(name):
    def value(r):
        row = r["structure"]["last"]
        found = [x for key, x in row.items() if re.fullmatch(rf"{name}_\d+", key) and x is not None]
        return np.mean(found)

    return value


def residual_of(r):
    return np.mean([r["structure"]["last"][f"residual_{j}"] for j in (1, 2, 3, 4)])


ENDS = {
    "loss": lambda r: r["last"]["loss"],
    "flatness": lambda r: r["last"]["sharpness"],
    "gains": lambda r: r["structure"]["last"]["imbalance"],
    "residuals": residual_of,
    "coupling": overlap_of("overlap"),
    "test_error": lambda r: 100 * (1 - r["last"]["test_accuracy"]),
}


@pytest.mark.parametrize("figure", sorted(ENDS))
def test_captions_quote_ends_and_paired_differences(study, figure):
    value = ENDS[figure]
    for a in SMALL.architectures:
        (line,) = (text for text in study.lines(figure) if text.startswith(f"Measured, {a.title}: "))
        for eta in a.steps:
            assert f"{mean_text([value(r) for r in study.runs(a.name, eta)])} at η = {eta:g}" in line
        assert f"largest step − smallest {difference_text(study, a, value)}" in line


def test_captions_quote_where_sharpness_settles(study):
    runs = study.results()["runs"].values()
    lines = study.lines("edge")
    for a in SMALL.architectures:
        found = ", ".join(
            f"{mean_text([r['settled'] for r in study.runs(a.name, eta)])} at η = {eta:g}" for eta in a.steps
        )
        assert f"Measured, {a.title}: {found} of 2/η." in lines
    where = [sum(test(r["settled"]) for r in runs) for test in (
        lambda x: 0.9 <= x <= 1.1, lambda x: x < 0.9, lambda x: x > 1.1
    )]  # fmt: skip
    assert f"of 8 runs {where[0]} at the edge, {where[1]} below, {where[2]} above" in lines[2]
    edges = [[row["sharpness"] / row["two_over_step"] for row in rows] for rows in study.history().values()]
    stable = [e for e in edges if e[0] < 1]
    assert f"{len(stable)} start below 2/η, and {sum(e[-1] > e[0] for e in stable)} of these end sharper" in lines[2]


def test_captions_quote_starts_and_chance(study):
    for a in SMALL.architectures:
        starts = [r["structure"]["first"] for r in study.runs(a.name, a.steps[0])]
        gains, residuals, coupling = (
            next(text for text in study.lines(figure) if text.startswith(f"Measured, {a.title}: "))
            for figure in ("gains", "residuals", "coupling")
        )
        assert f"at the start {mean_text([s['imbalance'] for s in starts])};" in gains
        mean = [np.mean([s[f"residual_{j}"] for j in (1, 2, 3, 4)]) for s in starts]
        assert f"at the start {mean_text(mean)};" in residuals
        pairs = [key for key in starts[0] if re.fullmatch(r"overlap_chance_\d+", key)]
        assert f"(chance {np.mean([starts[0][key] for key in pairs]):.3g})" in coupling
        ratios = [mean_text([overlap_of("overlap_ratio")(r) for r in study.runs(a.name, eta)]) for eta in a.steps]
        assert ", ".join(f"{x} × chance at η = {eta:g}" for x, eta in zip(ratios, a.steps, strict=True)) in coupling
    beyond = total = 0
    for r in study.results()["runs"].values():
        row = r["structure"]["last"]
        for j in range(1, 6):
            if row.get(f"overlap_{j}") is not None:
                total += 1
                beyond += row[f"overlap_{j}"] > row[f"overlap_chance_95_{j}"]
    told = " ".join(study.lines("coupling"))
    assert f"Measured at the end: {beyond} of {total} pairs lie above the 95 % level of chance" in told
    assert f"chance alone would put {0.05 * total:.3g}." in told
    assert "ReLU network 0.0 → 1.0, 1.0 → 2.0, 2.0 → 3" in told
    assert "residual network 0 → 1.module.0, 1.module.0 → 1.module.2, 1.module.2 → 2.module.0" in told
    assert "Pairs with a layer of zeros, as at the start of residual network, have none." in told


def test_captions_quote_the_runs_that_come_nearest_to_theory(study):
    runs = study.results()["runs"].values()
    for figure, ideal in (("gains", 0), ("residuals", 0), ("coupling", 1)):
        best = min(runs, key=lambda r: abs(ENDS[figure](r) - ideal))
        line = f"nearest to theory's {ideal} of all runs at the end: {ENDS[figure](best):.3g} ({best['title']})."
        assert f"Measured, {line}" in study.lines(figure)


def settling(values):
    """Where a mean lies by t-tests against both thresholds, one at a time."""
    if any(scipy.stats.ttest_1samp(values, threshold).pvalue >= 0.05 for threshold in (0.9, 1.1)):
        return "undecided"
    mean = np.mean(values)
    return "below" if mean < 0.9 else "above" if mean > 1.1 else "at the edge"


def test_verdicts_are_those_of_paired_t_tests(study):
    answers = {row["claim"]: row for row in study.results()["tables"]["What came out"]}
    claims = {
        "flatness": ("larger steps end flatter", -1),
        "gains": ("gains more equal at flat solutions", -1),
        "residuals": ("residuals smaller at flat solutions", -1),
        "coupling": ("layers more coupled at flat solutions", 1),
        "test_error": ("fewer test errors at flat solutions", -1),
    }
    assert set(answers) == {claim for claim, _ in claims.values()} | {"sharpness settles at 2/η"}
    for figure, (claim, expected) in claims.items():
        found = 0
        for a in SMALL.architectures:
            large, small = ([ENDS[figure](r) for r in study.runs(a.name, eta)] for eta in (a.steps[-1], a.steps[0]))
            certain = scipy.stats.ttest_rel(large, small).pvalue < 0.05
            sign = int(np.sign(np.mean(large) - np.mean(small))) * expected if certain else 0
            assert answers[claim][a.title] == {1: "yes", -1: "no, the opposite", 0: "undecided"}[sign]
            found += sign == 1
        assert any(f"came out for {found} of 2 networks." in line for line in study.lines(figure))
    for a in SMALL.architectures:
        edge = [settling([r["settled"] for r in study.runs(a.name, eta)]) for eta in a.steps]
        undecided = edge.count("undecided")
        want = f"{edge.count('at the edge')} of 2" + f" ({undecided} undecided)" * (undecided > 0)
        assert answers["sharpness settles at 2/η"][a.title] == want


def test_the_table_lists_every_architecture_and_step(study):
    text = html.unescape(study.text("report.html"))
    rows = study.results()["tables"]["All runs"]
    assert [(row["network"], row["η"]) for row in rows] == [
        (a.title, f"{eta:g}") for a in SMALL.architectures for eta in a.steps
    ]
    for a in SMALL.architectures:
        for eta in a.steps:
            row = next(r for r in rows if (r["network"], r["η"]) == (a.title, f"{eta:g}"))
            runs = study.runs(a.name, eta)
            for column, value in (
                ("loss", ENDS["loss"]), ("test error %", ENDS["test_error"]), ("sharpness", ENDS["flatness"]),
                ("imbalance", ENDS["gains"]), ("residual", residual_of),
                ("overlap/chance", overlap_of("overlap_ratio")),
            ):  # fmt: skip
                assert row[column] == mean_text([value(r) for r in runs])
            assert (row["runs"], row["diverged"], row["steps"]) == ("2", "0", str(runs[0]["steps"]))
    total = sum(len(rows) for rows in study.history().values())
    certified = sum(row["certified"] == 1.0 for rows in study.history().values() for row in rows)
    assert f"{certified} of {total} sharpness values are certified" in text


# -- averages and words for what may happen --------------------------------------------------------------------------


def synthetic(eta=0.1, seed=0, ratios=(0.5, 1.0, 1.0), status="finished", overlaps=(0.5, 0.6), **last):
    """A trace with these sharpness values over 2/η at steps 0, 5 and 10."""
    rows = [
        {
            "step": step, "loss": 1.0 / (1 + step), "rises": 1.0, "sharpness": ratio * 2 / eta,
            "two_over_step": 2 / eta, "certified": 1.0, "test_accuracy": 0.9, **last,
        }
        for step, ratio in zip((0.0, 5.0, 10.0), ratios, strict=True)
    ]  # fmt: skip
    structure = {
        "paths": 3.0, "imbalance": 0.5,
        **{f"{name}_{j}": 1.0 for name in ("gain", "residual") for j in (1, 2, 3)},
        **{f"overlap_{j}": value for j, value in enumerate(overlaps, 1)},
        **{f"overlap_ratio_{j}": value / 0.3 for j, value in enumerate(overlaps, 1)},
        **{f"overlap_{name}_{j}": 0.3 for name in ("chance", "chance_95") for j in (1, 2)},
    }  # fmt: skip
    run = run_of("relu", seed=seed, step_size=eta, max_steps=10, title=f"run {eta:g}-{seed}")
    return Trace(run, 10, status, rows, [structure, structure])


def panels_of(*traces):
    return {"the network": grouped(traces, "relu")}


@pytest.mark.parametrize("n", [2, 3, 6])
def test_comparisons_are_paired_t_tests(rng, n):
    for shift in (0.0, 1.0, -3.0):
        large, small = rng.standard_normal(n) + shift, rng.standard_normal(n)
        groups = [
            Group("relu", eta, tuple(synthetic(eta, seed, loss=x) for seed, x in enumerate(values)), ())
            for eta, values in ((0.1, small), (0.2, large))
        ]
        got, want = flat_minus_sharp(groups, q.loss), scipy.stats.ttest_rel(large, small)
        span = want.confidence_interval(0.95)
        assert got.mean == pytest.approx((large - small).mean())
        assert got.half_width == pytest.approx((span.high - span.low) / 2)
        assert got.sign == (np.sign(got.mean) if want.pvalue < 0.05 else 0)


def test_seeds_that_lack_a_partner_are_not_compared():
    traces = [synthetic(0.1, 0, loss=1.0), synthetic(0.1, 1, loss=2.0), synthetic(0.2, 1, loss=5.0)]
    traces.append(synthetic(0.2, 0, status="diverged", loss=100.0))
    np.testing.assert_array_equal(flat_minus_sharp(grouped(traces, "relu"), q.loss).differences, [3.0])


def test_one_seed_has_no_error_bar_and_no_verdict():
    assert with_error([2.5]) == "2.5"
    assert with_error([2.0, 3.0]) == "2.5 ± 0.5"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = Comparison(np.array([-1.0]))
        assert (one.sign, one.text()) == (0, "-1")
        none = Comparison(np.array([]))
        assert (none.sign, none.text()) == (0, "undefined")
    panels = panels_of(synthetic(0.1), synthetic(0.2))
    assert "One seed was run, so there are no error bars." in words.lead(panels, 90, 10)[1]


@pytest.mark.parametrize(
    ("ratios", "kind"), [((0.5, 0.89, 0.89), "below"), ((2.0, 0.91, 1.09), "at the edge"), ((0.1, 1.2, 1.2), "above")]
)
def test_places_are_told(ratios, kind):
    line = words.edge_words(panels_of(synthetic(ratios=ratios), synthetic(seed=1, ratios=ratios)))
    if kind == "at the edge":
        assert line[-1] == "The claim came out in all 1 cases: every network settles at the edge with every step size."
        assert "of 2 runs 2 at the edge, 0 below, 0 above). 0 start below" in line[2].replace("above.", "above).")
    else:
        told = "below, and sharpest at the last step in 2 of 2 runs" if kind == "below" else kind
        assert line[-1] == f"The claim came out in 0 of 1 cases; it did not for the network at η = 0.1 ({told})."
        assert "2 start below 2/η, and 2 of these end sharper" in line[2]


@pytest.mark.parametrize(
    "settled", [(0.85, 0.87), (0.85, 0.99), (0.95, 0.97), (1.08, 1.11), (1.2, 1.21, 1.19), (0.7, 1.0, 1.3), (1.0,)]
)
def test_where_sharpness_settles_is_told_as_far_as_the_seeds_can(settled):
    panels = panels_of(*(synthetic(seed=seed, ratios=(0.5, x, x)) for seed, x in enumerate(settled)))
    ((_, kind),) = words.edge_cases(panels["the network"])
    assert kind == (settling(settled) if len(settled) > 1 else "undecided")
    if kind == "undecided":
        told = "The claim came out in 0 of 1 cases; the seeds cannot tell for the network at η = 0.1."
        assert words.edge_verdict(panels) == told


def test_claims_that_come_out_do_not_or_are_undecided():
    def pair(seed, change):
        return synthetic(0.1, seed, loss=1.0), synthetic(0.2, seed, loss=1.0 + change)

    down = [t for seed in range(3) for t in pair(seed, -1.0 - 0.01 * seed)]
    up = [t for seed in range(3) for t in pair(seed, 1.0 + 0.01 * seed)]
    open_ = [t for seed in range(3) for t in pair(seed, seed - 1.0)]
    panels = {name: grouped(traces, "relu") for name, traces in (("a", down), ("b", up), ("c", open_), ("d", up))}
    text = words.verdict(panels, q.loss, -1, "less loss", "more loss")
    assert text == (
        "The claim came out for 1 of 4 networks. Less loss: a; more loss: b and d; "
        "no difference that the seeds can tell: c."
    )
    assert words.verdict(panels, q.loss, 1, "more", "less").startswith("The claim came out for 2 of 4 networks.")


def test_diverged_runs_are_named_and_left_out_everywhere(tmp_path):
    good = [synthetic(0.1, seed) for seed in (0, 1)]
    bad = [synthetic(0.2, seed, status="diverged") for seed in (0, 1)]
    panels = panels_of(*good, *bad)
    assert words.lead(panels, 90, 10)[-1] == "Diverged, and left out of all averages: run 0.2-0 and run 0.2-1."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tell in (
            words.edge_words, words.loss_words, words.sharpness_words, words.gain_words, words.residual_words,
            lambda panels: words.coupling_words(panels, "one → two"), words.error_words,
        ):  # fmt: skip
            text = " ".join(tell(panels))
            assert "nan" not in text
            assert "undefined at η = 0.2" in text
    assert "the network at η = 0.2 (diverged)" in words.edge_words(panels)[-1]
    assert words.ending(bad[0]) == "diverged after 10 steps"


def test_a_study_whose_large_steps_diverge_is_reported(tmp_path, monkeypatch):
    fails = Architecture("tanh", "tanh network", 4, (0.05, 1e4), 1e5, 3)
    monkeypatch.setattr(nonlinear, "SETTINGS", dataclasses.replace(SMALL, architectures=(fails,)))
    monkeypatch.setattr(nonlinear, "runs_of", lambda *given: [
        dataclasses.replace(run, max_steps=5, measure_at=(0, 2)) for run in runs_of(*given)
    ])  # fmt: skip
    result = run_study("nonlinear", tmp_path / "out")
    assert [run["status"] for run in result.data["runs"].values()] == ["finished", "diverged"] * 2
    assert "diverged" in result.summary()
    assert "Diverged, and left out of all averages" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_pairs_with_a_layer_that_is_zero_are_left_out_of_overlaps():
    trace = synthetic(overlaps=(float("nan"), 0.6))
    assert q.overlap(trace) == 0.6
    assert q.overlap_ratio(trace) == pytest.approx(2.0)
    assert np.isnan(q.overlap(synthetic(overlaps=(float("nan"), float("nan")))))
    assert words.beyond_chance(panels_of(trace)).startswith("Measured at the end: 1 of 1 pairs lie above the 95 %")


def test_squared_error_is_the_mean_of_squared_distances():
    outputs, targets = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0]])
    assert float(squared_error(outputs, targets)) == (1 + 4 + 9) / 2


# -- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_ctrl_c_keeps_the_checkpoints(tmp_path):
    """Going on from them by the command line is the same for all studies, and tested with the digits."""
    out = tmp_path / "out"
    place = out / "checkpoints" / f"{names_of(nonlinear.SETTINGS)[0]}.npz"
    seen = interrupted("nonlinear", out, place, lambda step: step >= 1)
    assert os.listdir(place.parent) == [place.name]
    with np.load(place) as archive:
        assert archive["step"] >= seen[-1]
        assert len(archive["history"]) >= len(seen)
    assert not (out / "report.html").exists()
