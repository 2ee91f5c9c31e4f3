"""The benchmarks of flatcore.wfm: quick runs agree, wrong answers are noticed, targets and rooflines are judged."""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
ONLINE = ("least-action", "committee-learning")
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    """Make the package importable here, behind the installed flatcore; rounds and yardsticks that take no time."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])
    from benchmarks import timing

    monkeypatch.setattr(timing, "COPY_ENTRIES", 1024)
    monkeypatch.setattr(timing, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(timing, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(timing, "matmul_rate", lambda size, dtype, repeats: 1e9)


@functools.cache
def quick(name):
    from benchmarks.runner import Options, run
    from benchmarks.timing import Yardsticks
    from benchmarks.workloads import WORKLOADS

    threads = torch.get_num_threads()
    result = run(WORKLOADS[name], Options(quick=True, rounds=1), Yardsticks(1), lambda message: None)
    assert torch.get_num_threads() == threads
    return result


@pytest.mark.parametrize("name", ["fbp", *ONLINE, "committee-kernels"])
def test_quick_runs_agree_and_count_edges(name):
    result = quick(name)
    assert result.agrees
    assert result.targets == []
    assert json.dumps(result.to_dict())
    for case in result.cases:
        assert not case.missing
        for entry in case.entries:
            assert entry.edges_per_second * entry.median == pytest.approx(entry.work.edges)
            assert entry.fraction_of_roofline > 0
    cases = [case.name for case in result.cases]
    expected = {"fbp": 12, "least-action": 2, "committee-learning": 4, "committee-kernels": 17}
    assert len(set(cases)) == len(cases) == expected[name]


def test_every_kernel_has_its_threads_and_a_large_size_without_messages():
    from benchmarks.runner import Options
    from benchmarks.table import case_table
    from benchmarks.workloads import committee_kernels

    tables = {case.name: case for case in committee_kernels.cases(Options(quick=True))}
    for name, case in tables.items():
        threads = {entry.contender.threads for entry in case.entries}
        serial = name.startswith("epoch") and "replicas" not in name
        assert threads == ({1} if serial else {None, 1})
        assert any("N = 1,001" in entry.label for entry in case.entries) == ("edges" not in name)
    case = quick("committee-kernels").cases[0]
    assert "× base" not in case_table(case)
    assert "G edges/s" in case_table(case)


@pytest.mark.parametrize("name", ONLINE)
def test_rules_that_learn_on_one_thread_are_compared_on_one(name):
    """Both programs, so that the rates that bound them are those of one thread."""
    for case in quick(name).cases:
        assert {entry.threads for entry in case.entries} == ({None} if case.name.startswith("replicas") else {1})


def test_one_thread_is_held_against_rates_of_one_thread():
    from benchmarks.timing import Work, Yardsticks

    rates = {"copy_bytes_per_second": 40.0, "copy_1_thread_bytes_per_second": 10.0}
    rates |= {"matmul_2048_float32_flops_per_second": 200.0, "matmul_2048_float32_1_thread_flops_per_second": 100.0}
    yardsticks = Yardsticks(measured=rates)
    assert yardsticks.roofline(Work(100.0, 40.0), "float32") == 1.0
    assert yardsticks.roofline(Work(100.0, 40.0), "float32", 1) == 4.0
    assert yardsticks.roofline(Work(900.0, 40.0), "float32", 1) == 9.0


def judged(workload, cases):
    from benchmarks.runner import CaseResult, EntryResult
    from benchmarks.timing import Work, Yardsticks

    results = []
    for name, peer, ratio in cases:
        entry = EntryResult(peer, {}, Work(1.0, 1.0), 0.0, {}, 0.0, [], median_of_ratios=ratio)
        results.append(CaseResult(name, [entry], {}))
    return [(target.value, target.met) for target in workload.targets(results, Yardsticks())]


def test_targets_are_those_of_sweeps_and_of_least_action():
    from benchmarks.contenders.online_numpy import NumpyOnline
    from benchmarks.workloads import committee_kernels, committee_learning, fbp, least_action

    edges, amp = (fbp.PEERS[form, "binary"].name for form in ("edge", "amp"))
    cases = [("edge, binary, a", edges, 12.0), ("edge, binary, b", edges, 11.0), ("edge, continuous, a", edges, 9.0)]
    verdicts = judged(fbp.WORKLOAD, [*cases, ("amp, binary, a", amp, 4.0)])
    assert verdicts == [(11.0, True), (4.0, False), (9.0, False), (None, None)]
    assert judged(fbp.WORKLOAD, []) == [(None, None)] * 4
    ours = [("a", NumpyOnline.name, 31.0), ("b", NumpyOnline.name, 29.0)]
    assert judged(least_action.WORKLOAD, ours) == [(31.0, True), (29.0, False)]
    for module in (committee_kernels, committee_learning):
        assert judged(module.WORKLOAD, ours) == []


def disagreement(problem, answer):
    return max(a.difference / a.tolerance for a in problem.agreements(answer))


@pytest.mark.parametrize("form", ["edge", "amp"])
@pytest.mark.parametrize("weights", ["binary", "continuous"])
def test_wrong_sweeps_are_noticed(form, weights):
    from benchmarks.contenders.fbp_flatcore import FlatcoreSweeps
    from benchmarks.fbp_problem import SweepProblem, sweep_problem
    from benchmarks.timing import Stages

    problem = sweep_problem(45, 3, form, weights, sweeps=3)
    answer = FlatcoreSweeps().prepare(problem, Stages())(problem.argument)
    assert disagreement(problem, answer) <= 1
    fewer = SweepProblem(problem.model, problem.patterns, form, 2, problem.damping)
    assert disagreement(problem, FlatcoreSweeps().prepare(fewer, Stages())(fewer.argument)) > 1
    assert disagreement(problem, answer[:, :-1]) == np.inf


def test_unpacked_patterns_are_the_same_in_pieces(monkeypatch):
    from benchmarks import committee_patterns
    from flatcore.wfm import Committee, random_patterns

    for model in (Committee(45, 3), Committee(15, 3, "full")):
        patterns = random_patterns(model, 50)
        monkeypatch.setattr(committee_patterns, "_EDGES", 1000)
        pieces = list(committee_patterns.signed_pieces(model, patterns))
        assert len(pieces) > 1
        whole = committee_patterns.signed_inputs(model, patterns, np.float64)
        np.testing.assert_array_equal(np.concatenate(pieces), whole)
        seen = patterns.inputs.reshape(50, -1, model.fan_in)
        np.testing.assert_array_equal(whole, np.broadcast_to(seen, whole.shape) * patterns.labels[:, None, None])


def test_wrong_epochs_are_noticed():
    from benchmarks.contenders.online_flatcore import FlatcoreOnline
    from benchmarks.contenders.online_numpy import NumpyOnline
    from benchmarks.online_problem import RULES, tree
    from benchmarks.timing import Stages

    for rule in RULES:
        weights = "binary" if rule in ("least action", "replicas") else "continuous"
        problem = tree(rule, 45, 3, weights, 1.0, 2)
        for contender in (FlatcoreOnline(), NumpyOnline()):
            answer = contender.prepare(problem, Stages())(problem.argument)
            assert disagreement(problem, answer) <= 1, rule
            assert disagreement(problem, -answer) > 1, rule
        assert disagreement(problem, problem.start) > 1, rule


def test_slopes_of_the_majority_hold_in_both_tails():
    from benchmarks.contenders.online_numpy import MajoritySlopes
    from benchmarks.online_problem import _log_slopes

    rng = np.random.default_rng(0)
    for units in (1, 3, 9):
        for scale in (1.0, 6.0, 30.0):
            a = scale * rng.standard_normal(units)
            for fields in (a, -np.abs(a), np.abs(a)):
                expected = _log_slopes(fields)
                np.testing.assert_allclose(MajoritySlopes(units)(fields), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("kernel", "weights"),
    [
        ("errors", "binary"),
        ("flips", "binary"),
        ("gaussian", "continuous"),
        ("Hessian product", "continuous"),
        ("Bethe free entropy", "binary"),
    ],
)
def test_wrong_measures_are_noticed(kernel, weights):
    from benchmarks.committee_measures import FlatcoreMeasure, measure
    from benchmarks.timing import Stages

    problem = measure(kernel, 45, 3, 2.0, weights, 30)
    answer = FlatcoreMeasure().prepare(problem, Stages())(problem.argument)
    assert disagreement(problem, answer) <= 1
    if kernel in ("flips", "gaussian"):
        wrong = dataclasses.replace(answer, values=answer.values + 30 * answer.stderr)
    else:
        wrong = np.asarray(answer) + (np.ones_like(answer) if kernel == "errors" else 1e-6 * np.abs(answer))
    assert disagreement(problem, wrong) > 1


def test_scaling_of_committees(tmp_path):
    pytest.importorskip("matplotlib")
    from benchmarks import scaling
    from benchmarks.scaling_wfm import COMMITTEES

    assert scaling.run(tmp_path, {"cpu": "any"}, quick=True, say=lambda message: None, study=COMMITTEES) == 0
    document = json.loads((tmp_path / "scaling-wfm-quick.json").read_text("utf-8"))
    assert [sweep["varied"] for sweep in document["sweeps"]] == ["N", "K", "α", "threads"]
    programs = {f"{k}, {p}" for k in ("edge sweep", "AMP sweep", "LAL epoch") for p in ("flatcore", "NumPy")}
    for sweep in document["sweeps"]:
        assert set(sweep["sizes"]) == programs
        assert all(sizes == list(COMMITTEES.quick[sweep["varied"]]) for sizes in sweep["sizes"].values())
        assert all(t > 0 for seconds in sweep["seconds"].values() for t in seconds)
    assert "<svg" in (tmp_path / "scaling-wfm-quick.svg").read_text("utf-8")


def test_scaling_counts_a_sweep_and_leaves_out_what_is_too_large(monkeypatch):
    from benchmarks import fbp_problem, scaling, scaling_wfm

    lines = scaling_wfm.lines_at("α", 0.3, True)
    assert {problem.repeats for _, problem in lines.values()} == {10}
    one = {"sweep": lines["AMP sweep, flatcore"]}
    monkeypatch.setattr(scaling, "interleaved_rounds", lambda calls, first, rounds, times: times.update(sweep=[5.0]))
    assert scaling.medians(one, []) == {"sweep": 0.5}
    monkeypatch.setattr(scaling_wfm, "MOST_EDGES", 50)
    assert list(scaling_wfm.lines_at("N", 101, True)) == ["AMP sweep, flatcore", "AMP sweep, NumPy"]
    monkeypatch.setattr(fbp_problem.SweepProblem, "edges", 2_000_000_000)
    assert list(scaling.medians({"NumPy": lines["AMP sweep, NumPy"]}, [])) == []
