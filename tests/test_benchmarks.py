"""The benchmarks run, check answers, write JSON of one shape, and fail when an answer is wrong."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flatcore as fc

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 2


def python_m_benchmarks(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture
def benchmarks(monkeypatch):
    """Make the package importable here; the clone's root comes last, behind the installed flatcore."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(ROOT)])


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    file = tmp_path_factory.mktemp("benchmarks") / "nested" / "results.json"
    finished = python_m_benchmarks("--quick", "--json", file)
    assert finished.returncode == 0, finished.stderr
    return finished, json.loads(file.read_text("utf-8"), parse_constant=pytest.fail)


def entries(document):
    return [entry for w in document["workloads"] for case in w["cases"] for entry in case["entries"]]


def test_the_installed_flatcore_is_measured_and_no_path_is_printed(quick):
    finished, document = quick
    assert finished.stdout.startswith(f"flatcore {fc.__version__}, the installed package")
    assert document["machine"]["packages"]["flatcore"] == fc.__version__
    for folder in (str(ROOT), str(Path(fc.__file__).parent), str(Path.home())):
        assert folder not in finished.stdout + finished.stderr + json.dumps(document)


def test_quick_runs_everything_installed_and_names_what_is_missing(quick):
    finished, document = quick
    assert [w["workload"] for w in document["workloads"]] == ["narrow", "square"]
    assert [len(w["cases"]) for w in document["workloads"]] == [3, 2]
    for w in document["workloads"]:
        assert w["targets"] == []  # small sizes say nothing about them
        for case in w["cases"]:
            named = {entry["label"] for entry in case["entries"]}
            assert {"torch double backward", "torch forward over reverse"} <= named
            assert named.isdisjoint(case["missing"])
            for label, reason in case["missing"].items():
                assert f"{label}: missing: {reason}" in finished.stdout


def test_every_answer_agrees_with_both_references(quick):
    _, document = quick
    assert all(w["answers_agree"] for w in document["workloads"])
    for entry in entries(document):
        assert [a["reference"] for a in entry["agreements"]] == ["flatcore in float64", "torch in float64"]
        allowed = {"float32": 1e-4, "float64": 1e-10}[entry["problem"]["dtype"]]
        for agreement in entry["agreements"]:
            assert agreement["agrees"]
            assert agreement["tolerance"] == allowed
            assert 0 <= agreement["difference"] <= allowed


def test_json_holds_machine_yardsticks_and_raw_times(quick):
    _, document = quick
    assert (document["format"], document["version"]) == ("flatcore-benchmarks", 1)
    assert {"date", "cpu", "cores", "memory_gib", "python", "packages", "blas", "threads"} <= set(document["machine"])
    assert {"numpy", "scipy", "torch"} <= set(document["machine"]["packages"])
    for w in document["workloads"]:
        assert w["options"] == {"quick": True, "full": False, "rounds": ROUNDS}
        assert w["yardsticks"]["copy_bytes_per_second"] > 0
        assert w["yardsticks"]["matmul_2048_float32_flops_per_second"] > 0
    assert document["workloads"][1]["yardsticks"]["matmul_2048_float64_flops_per_second"] > 0


def test_summaries_follow_from_the_raw_times(quick):
    _, document = quick
    for w in document["workloads"]:
        for case in w["cases"]:
            base = case["entries"][0]
            for entry in case["entries"]:
                rounds = entry["rounds"]
                assert len(rounds) == ROUNDS
                assert not entry["timed_once"]
                assert (entry["median"], entry["minimum"]) == (np.median(rounds), min(rounds))
                assert entry["ratio_of_medians"] == entry["median"] / base["median"]
                assert entry["median_of_ratios"] == pytest.approx(np.median(np.divide(rounds, base["rounds"])))
                assert entry["fraction_of_roofline"] == entry["roofline"] / entry["median"]
                assert entry["setup"] >= sum(entry["setup_stages"].values()) > 0


def test_work_is_counted_as_the_targets_count_it(quick):
    _, document = quick
    for entry in entries(document):
        problem = entry["problem"]
        m = min(problem["widths"][0], problem["widths"][-1])
        flops = 12 * m * problem["parameters"] * problem["vectors"]
        assert entry["gflops_per_second"] * entry["median"] * 1e9 == pytest.approx(flops)
    square = document["workloads"][1]["cases"][0]["entries"][0]["problem"]
    d, depth = square["widths"][0], len(square["widths"]) - 1
    assert 12 * d * square["parameters"] == 12 * d**3 * depth


def test_full_sizes_are_those_of_the_workloads(benchmarks):
    from benchmarks.hessian_problem import gaussian_problem

    problem = gaussian_problem([784, *[2048] * 5, 10], 3, "float32")
    assert problem.num_parameters == 18_403_328
    assert problem.work.bytes == 18 * problem.num_parameters
    for W in problem.weights:
        assert W.std() * W.shape[1] ** 0.5 == pytest.approx(1.0, abs=0.02)
    np.testing.assert_array_equal(gaussian_problem([784, 10], 9, "float32").inputs[:3], problem.inputs)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch.func's own
@pytest.mark.parametrize("wrong", [1.001, math.nan])
def test_a_wrong_answer_fails_the_run(benchmarks, monkeypatch, capsys, tmp_path, wrong):
    """Here one layer of flatcore's float32 products, the smallest; the float64 reference stays right."""
    from benchmarks import cli, timing
    from benchmarks.contenders import FlatcoreHessian

    prepare = FlatcoreHessian.prepare

    def prepare_wrongly(self, problem, stage):
        product = prepare(self, problem, stage)

        def spoiled(v):
            result = product(v)
            if v.dtype == np.float32:
                result[-problem.weights[-1].size :] *= np.float32(wrong)
            return result

        return spoiled

    monkeypatch.setattr(FlatcoreHessian, "prepare", prepare_wrongly)
    monkeypatch.setattr(timing, "COPY_ENTRIES", 1024)
    file = tmp_path / "results.json"
    assert cli.main(["square", "--quick", "--rounds", "1", "--json", str(file)]) == 1
    assert "answers disagree: square, one vector, n = 256, float32: flatcore\n" in capsys.readouterr().err
    document = json.loads(file.read_text("utf-8"), parse_constant=pytest.fail)
    assert [entry["label"] for entry in entries(document) if not all(a["agrees"] for a in entry["agreements"])] == [
        "flatcore"
    ]


def test_rounds_rotate_and_slow_contenders_are_timed_once(benchmarks):
    from benchmarks import timing

    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = timing.interleaved_rounds(calls, {"a": 0.1, "b": 61.0, "c": 0.1}, 3)
    assert "".join(order) == "accaac"
    assert times["b"] == [61.0]
    assert len(times["a"]) == len(times["c"]) == 3
    assert timing.median_of_ratios(times["b"], times["a"]) is None
    assert timing.median_of_ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == 2.0
    assert timing.ratio_of_medians([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == 4.0 / 3.0


def test_roofline_is_the_slower_of_arithmetic_and_memory(benchmarks):
    from benchmarks.timing import Work, Yardsticks

    rates = {"copy_bytes_per_second": 10.0, "matmul_2048_float32_flops_per_second": 100.0}
    yardsticks = Yardsticks(measured=dict(rates))
    assert yardsticks.roofline(Work(flops=100.0, bytes=40.0), "float32") == 4.0
    assert yardsticks.roofline(Work(flops=900.0, bytes=40.0), "float32") == 9.0
    without_torch = Yardsticks(measured=rates | {"copy_bytes_per_second": None})
    assert without_torch.roofline(Work(1.0, 1.0), "float32") is None


def test_missing_packages_are_named(benchmarks):
    from benchmarks.contenders.base import missing

    assert missing("json", "json") is None
    assert missing("no_such_module", "'flatcore[bench]'") == (
        "no_such_module is not installed: pip install 'flatcore[bench]'"
    )


def test_targets_are_judged_on_full_runs(benchmarks):
    from benchmarks.runner import CaseResult, EntryResult
    from benchmarks.timing import Work, Yardsticks
    from benchmarks.workloads import narrow, square

    def entry(label, **measured):
        return EntryResult(label, {}, Work(1.0, 1.0), 0.0, {}, 0.0, [], **measured)

    one = [entry("flatcore", median=3.0, roofline=2.0), entry("peer", median=150.0, median_of_ratios=50.0)]
    many = [entry("few"), entry("many", median_of_ratios=1.05)]
    results = [CaseResult(name, rows, {}) for name, rows in (("one", one), ("block", one), ("many", many))]
    judged = narrow.WORKLOAD.targets(results, Yardsticks())
    assert [(target.value, target.met) for target in judged] == [(1.5, True), (1.05, True), (50.0, False)]

    yardsticks = Yardsticks(measured={f"matmul_1024_{d}_flops_per_second": 1e11 for d in square.DTYPES})
    results = [
        CaseResult("float32", [entry("flatcore", gflops_per_second=90.0)], {"curvlinops": "missing"}),
        CaseResult("float64", [entry("flatcore", gflops_per_second=80.0), entry("curvlinops", median_of_ratios=6)], {}),
    ]
    judged = square.WORKLOAD.targets(results, yardsticks)
    assert [target.met for target in judged] == [True, None, False, True]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [(["nonesuch"], "'nonesuch' is no workload; expected one of narrow, square"), (["--rounds", "0"], "1 or more")],
)
def test_bad_arguments(benchmarks, capsys, arguments, complaint):
    from benchmarks.cli import main

    with pytest.raises(SystemExit) as exit_of:
        main(arguments)
    assert exit_of.value.code == 2
    assert complaint in capsys.readouterr().err


def test_list_names_the_workloads(benchmarks, capsys):
    from benchmarks.cli import main

    assert main(["--list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["narrow", "square"]
