"""The benchmarks run, check answers, write JSON of one shape, and fail when an answer is wrong."""

import copy
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import flatcore as fc

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 2

# PyTorch's own, when its tracing machinery is loaded
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")


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
    named = [w["workload"] for w in document["workloads"]]
    judging = ["narrow", "top10", "square", "huge", "identity", "svd-bulk", "svd-spiked", "cnn", "mlp"]
    assert [name for name in named if name in judging] == judging  # in the order of the targets
    assert {"kernels", "weights"} <= set(named)
    assert "portable" not in named  # it compiles, for minutes
    for w in document["workloads"]:
        assert w["targets"] == []  # small sizes say nothing about them
        assert w["cases"]
        for case in w["cases"]:
            labels = {entry["label"] for entry in case["entries"]}
            assert len(labels) == len(case["entries"]) > 0
            assert labels.isdisjoint(case["missing"])
            for label, reason in case["missing"].items():
                assert reason.startswith(("missing: ", "no answer: "))
                assert f"{label}: {reason}" in finished.stdout


def test_every_answer_agrees_with_its_references(quick):
    _, document = quick
    assert all(w["answers_agree"] for w in document["workloads"])
    for entry in entries(document):
        assert entry["agreements"]
        for agreement in entry["agreements"]:
            assert agreement["agrees"]
            assert 0 <= agreement["difference"] <= agreement["tolerance"]


def test_hessian_products_have_two_references(quick):
    _, document = quick
    products = [w for w in document["workloads"] if w["workload"] in ("narrow", "square")]
    for entry in entries({"workloads": products}):
        assert [a["reference"] for a in entry["agreements"]] == ["flatcore in float64", "torch in float64"]
        allowed = {"float32": 1e-4, "float64": 1e-10}[entry["problem"]["dtype"]]
        assert all(a["tolerance"] == allowed for a in entry["agreements"])


def test_products_of_models_have_independent_references(quick):
    _, document = quick
    models = [w for w in document["workloads"] if w["workload"] in ("mlp", "cnn")]
    curvatures = {entry["problem"]["curvature"] for entry in entries({"workloads": models})}
    assert curvatures == {"hessian", "ggn", "fisher_empirical", "fisher_mc"}
    for w in models:
        for case in w["cases"]:
            references = ["torch in float64", *(["curvlinops"] if "curvlinops" not in case["missing"] else [])]
            assert case["entries"][0]["label"] == "flatcore"
            for entry in case["entries"]:
                drawn = entry["problem"]["curvature"] == "fisher_mc"
                assert [a["reference"] for a in entry["agreements"]] == (["expected vᵀCv"] if drawn else references)
                assert drawn or all(a["tolerance"] == 2e-5 for a in entry["agreements"])
                assert drawn or 0 < entry["quality"]["worst parameter"] < 1e-5


def workload_of(document, name):
    return next(w for w in document["workloads"] if w["workload"] == name)


def test_flatcore_finds_every_copy_and_one_vector_methods_do_not(quick):
    _, document = quick
    missed = {
        entry["label"]: entry["quality"]["runs that miss a copy"]
        for entry in entries({"workloads": [workload_of(document, "identity")]})
    }
    assert [count for label, count in missed.items() if label.startswith("flatcore")] == [0, 0, 0]
    assert missed["SciPy eigsh, tol 0.0001"] > 0


def test_memory_of_a_process_of_its_own(quick):
    """The parent's sampling of the child: `huge` maps its weights, which do not count as anonymous memory."""
    _, document = quick
    (entry,) = entries({"workloads": [workload_of(document, "huge")]})
    memory = entry["memory"]
    if not Path("/proc/self/status").exists():
        assert memory is None or memory["peak"] == 0
        return
    assert memory["complete"]
    assert 0 < memory["data"] < memory["peak"]


def test_json_holds_machine_yardsticks_and_raw_times(quick):
    _, document = quick
    assert (document["format"], document["version"]) == ("flatcore-benchmarks", 2)
    assert {"date", "cpu", "cores", "memory_gib", "python", "packages", "blas", "threads"} <= set(document["machine"])
    assert {"numpy", "scipy", "torch"} <= set(document["machine"]["packages"])
    for w in document["workloads"]:
        asked = {"quick": True, "full": False, "rounds": ROUNDS, "skip": [], "memory": False, "scratch": None}
        assert w["options"] == asked
        assert not w["interrupted"]
        assert w["yardsticks"]["copy_bytes_per_second"] > 0
        counted = [entry for case in w["cases"] for entry in case["entries"] if entry["work"] is not None]
        dtypes = {entry["problem"]["dtype"] for entry in counted}
        for dtype in dtypes:
            assert w["yardsticks"][f"matmul_2048_{dtype}_flops_per_second"] > 0


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
                assert entry["setup"] >= sum(entry["setup_stages"].values()) >= 0
                if entry["work"] is None:
                    assert entry["roofline"] is entry["fraction_of_roofline"] is entry["gflops_per_second"] is None
                else:
                    assert entry["fraction_of_roofline"] == entry["roofline"] / entry["median"]


def test_work_is_counted_as_the_targets_count_it(quick):
    _, document = quick
    narrow, square = workload_of(document, "narrow"), workload_of(document, "square")
    *full, reduced = narrow["cases"]
    for cases, each, moved in ((full + square["cases"], 12, 18), ([reduced], 4, 8)):
        for entry in (entry for case in cases for entry in case["entries"]):
            problem, work = entry["problem"], entry["work"]
            P, m = problem["parameters"], min(problem["widths"][0], problem["widths"][-1])
            assert work["flops"] == each * m * P * problem["vectors"]
            assert entry["gflops_per_second"] * entry["median"] * 1e9 == pytest.approx(work["flops"])
            if problem["vectors"] == 1 and problem["dtype"] == "float32":
                assert work["bytes"] == moved * P
    problem = square["cases"][0]["entries"][0]["problem"]
    d, depth = problem["widths"][0], len(problem["widths"]) - 1
    assert 12 * d * problem["parameters"] == 12 * d**3 * depth


def test_full_sizes_are_those_of_the_workloads(benchmarks):
    from benchmarks.hessian_problem import gaussian_problem

    problem = gaussian_problem([784, *[2048] * 5, 10], 3, "float32")
    assert problem.num_parameters == 18_403_328
    assert problem.work.bytes == 18 * problem.num_parameters
    for W in problem.weights:
        assert W.std() * W.shape[1] ** 0.5 == pytest.approx(1.0, abs=0.02)
    np.testing.assert_array_equal(gaussian_problem([784, 10], 9, "float32").inputs[:3], problem.inputs)


@pytest.mark.parametrize("wrong", [1.001, math.nan])
def test_a_wrong_answer_fails_the_run(benchmarks, monkeypatch, capsys, tmp_path, wrong):
    """Here one layer of flatcore's float32 products, the smallest; the float64 reference stays right."""
    from benchmarks import cli, timing
    from benchmarks.contenders.flatcore_hessian import FlatcoreHessian

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


def test_a_wrong_answer_of_a_model_fails_the_run(benchmarks, monkeypatch, capsys, tmp_path):
    """Here the bias of the last layer, 10 of 1,354 parameters, in blocks alone."""
    from benchmarks import cli, timing
    from benchmarks.contenders.model_flatcore import FlatcoreModel

    prepare = FlatcoreModel.prepare

    def prepare_wrongly(self, problem, stage):
        product = prepare(self, problem, stage)

        def spoiled(v):
            result = product(v)
            if v.ndim == 2:
                result[-10:, -1] *= np.float32(1.01)
            return result

        return spoiled

    monkeypatch.setattr(FlatcoreModel, "prepare", prepare_wrongly)
    monkeypatch.setattr(timing, "COPY_ENTRIES", 1024)
    asked = ["mlp", "--quick", "--rounds", "1", "--skip", "torch", "--json", str(tmp_path / "results.json")]
    assert cli.main(asked) == 1
    assert [line for line in capsys.readouterr().err.splitlines() if "disagree" in line] == [
        "answers disagree: mlp, 8 vectors: flatcore"
    ]


def test_rounds_rotate_and_slow_contenders_are_timed_once(benchmarks, monkeypatch):
    from benchmarks import timing

    monkeypatch.setattr(timing, "MOST_CALLS", 1)
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    order, times = [], {}
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    timing.interleaved_rounds(calls, {"a": 0.1, "b": 61.0, "c": 0.1}, 3, times)
    assert "".join(order) == "accaac"
    assert times["b"] == []
    assert len(times["a"]) == len(times["c"]) == 3
    assert timing.median_of_ratios(times["b"], times["a"]) is None
    assert timing.median_of_ratios([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == 2.0
    assert timing.ratio_of_medians([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == 4.0 / 3.0


def test_short_calls_are_repeated_within_a_round(benchmarks, monkeypatch):
    """By a clock of the test's own: calls take 1, 4, 2 and 3 s, then enough time has passed."""
    from benchmarks import timing

    clock, lengths = [0.0], iter([1.0, 4.0, 2.0, 3.0])

    def call():
        clock[0] += next(lengths)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(timing, "ROUND_SECONDS", 9.5)
    assert timing.round_seconds(call) == 2.5
    assert next(lengths, None) is None
    monkeypatch.setattr(timing, "MOST_CALLS", 3)
    lengths = iter([5.0, 1.0, 2.0])
    assert timing.round_seconds(call) == 2.0
    monkeypatch.setattr(timing, "LEAST_SECONDS", 8.5)  # more short calls than MOST_CALLS
    lengths = iter([2.0, 1.0, 2.0, 1.5, 3.0])
    assert timing.round_seconds(call) == 2.0
    assert next(lengths, None) is None


def test_a_round_leaves_what_was_there_before_to_no_collector(benchmarks):
    """Collections between the rounds look at new objects alone, and afterwards at all again."""
    import gc

    from benchmarks import timing

    frozen, times = [], {}
    timing.interleaved_rounds({"a": lambda: frozen.append(gc.get_freeze_count())}, {"a": 0.0}, 1, times, most_calls=1)
    assert frozen[0] > 1000
    assert gc.get_freeze_count() == 0


class Counter:
    """A contender that is interrupted at a given call."""

    def __init__(self, name, interrupted_at=None, wrong=None):
        self.name, self.calls, self.interrupted_at, self.wrong = name, 0, interrupted_at, wrong

    def available(self):
        return None

    def prepare(self, problem, stage):
        from benchmarks.contenders.base import CannotAnswerError

        def answer(argument):
            self.calls += 1
            if self.wrong is not None:
                raise CannotAnswerError(self.wrong)
            if self.calls == self.interrupted_at:
                raise KeyboardInterrupt
            return argument

        return answer


class Echo:
    """A question whose answer is its argument."""

    argument, dtype, work = 3, "float32", None

    def describe(self):
        return {"dtype": self.dtype}

    def agreements(self, answer):
        from benchmarks.runner import Agreement

        return [Agreement("itself", abs(answer - 3), 0.5)]


def measured(monkeypatch, contenders, rounds=4, **options):
    """The result of one case, another one following it."""
    from benchmarks import runner, timing

    monkeypatch.setattr(timing, "COPY_ENTRIES", 1024)
    monkeypatch.setattr(timing, "MOST_CALLS", 1)
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    case = runner.Case("case", runner.entries_for(contenders, Echo()), (16,))
    other = runner.Case("other", runner.entries_for([Counter("alone")], Echo()), (16,))

    def cases(options):
        yield case
        yield other

    judged = [runner.Target("target", 1.0, "≤ 1", True)]
    workload = runner.Workload("test", "a test", cases, lambda results, yardsticks: judged)
    return runner.run(workload, runner.Options(rounds=rounds, **options), timing.Yardsticks(1), lambda message: None)


def test_ctrl_c_keeps_the_complete_rounds(benchmarks, monkeypatch):
    """Interrupted in its fourth call: the first one and two of four rounds are complete."""
    result = measured(monkeypatch, [Counter("steady"), Counter("interrupted", 4)])
    assert result.interrupted
    assert result.targets == []
    assert [case.name for case in result.cases] == ["case"]
    assert [len(entry.rounds) for entry in result.cases[0].entries] == [2, 2]
    assert all(entry.median > 0 and not entry.timed_once for entry in result.cases[0].entries)
    assert result.to_dict()["interrupted"]


def test_ctrl_c_before_a_round_is_complete_leaves_the_first_calls(benchmarks, monkeypatch):
    result = measured(monkeypatch, [Counter("steady"), Counter("interrupted", 2)])
    for entry in result.cases[0].entries:
        assert entry.rounds == []
        assert entry.timed_once
        assert entry.median == entry.first > 0


def test_a_contender_without_an_answer_is_named(benchmarks, monkeypatch):
    result = measured(monkeypatch, [Counter("steady"), Counter("lost", wrong="it does not converge")])
    assert [entry.label for entry in result.cases[0].entries] == ["steady"]
    assert result.cases[0].missing == {"lost": "no answer: it does not converge"}
    assert result.agrees
    assert [target.name for target in result.targets] == ["target"]


def test_skipped_contenders_are_named_and_never_called(benchmarks, monkeypatch):
    slow = Counter("slow one")
    result = measured(monkeypatch, [Counter("steady"), slow], skip=("low",))
    assert [entry.label for entry in result.cases[0].entries] == ["steady"]
    assert result.cases[0].missing == {"slow one": "left out"}
    assert slow.calls == 0


def test_what_is_loaded_once_is_not_set_up(benchmarks, monkeypatch):
    class Loading(Counter):
        loaded = 0.0

        def load(self, problem):
            self.loaded += problem.argument

        def prepare(self, problem, stage):
            with stage(f"after {self.loaded}"):
                return super().prepare(problem, stage)

    (entry,) = measured(monkeypatch, [Loading("loading")]).cases[0].entries
    assert list(entry.setup_stages) == ["after 3.0"]


def test_set_up_and_products_are_one_call(benchmarks):
    from benchmarks.model_workload import FromScratch

    prepared = []

    class Preparing(Counter):
        def prepare(self, problem, stage):
            prepared.append(self)
            return super().prepare(problem, stage)

    counter = Preparing("counting")
    scratch = FromScratch(counter, 20)
    assert (scratch.name, scratch.available()) == ("counting", None)
    scratch.load(Echo())
    answer_to = scratch.prepare(Echo(), None)
    assert (len(prepared), counter.calls) == (0, 0)
    assert [answer_to(3), answer_to(4)] == [3, 4]
    assert (len(prepared), counter.calls) == (2, 40)


def test_roofline_is_the_slower_of_arithmetic_and_memory(benchmarks):
    from benchmarks.timing import Work, Yardsticks

    rates = {"copy_bytes_per_second": 10.0, "matmul_2048_float32_flops_per_second": 100.0}
    yardsticks = Yardsticks(measured=dict(rates))
    assert yardsticks.roofline(Work(flops=100.0, bytes=40.0), "float32") == 4.0
    assert yardsticks.roofline(Work(flops=900.0, bytes=40.0), "float32") == 9.0
    without_torch = Yardsticks(measured=rates | {"copy_bytes_per_second": None})
    assert without_torch.roofline(Work(1.0, 1.0), "float32") is None


def test_peers_of_many_run_the_steps_that_flatcore_runs(benchmarks):
    from benchmarks.many_problem import gaussian_chains
    from flatcore.linear.many import _certified_steps, _share

    problem = gaussian_chains(1)
    assert problem.steps == _certified_steps(problem.weights[:, 0].size, _share(1))


def test_missing_packages_are_named(benchmarks):
    from benchmarks.contenders.base import missing

    assert missing("json", "json") is None
    assert missing("no_such_module", "'flatcore[bench]'") == (
        "no_such_module is not installed: pip install 'flatcore[bench]'"
    )


def entry_of(label, **measured):
    from benchmarks.runner import EntryResult
    from benchmarks.timing import Work

    return EntryResult(label, {}, Work(1.0, 1.0), 0.0, {}, 0.0, [], **measured)


def judged_by(workload, cases, **yardsticks):
    """Values and verdicts of a workload's targets."""
    from benchmarks.runner import CaseResult
    from benchmarks.timing import Yardsticks

    results = [CaseResult(name, entries, {}) for name, entries in cases]
    targets = workload.targets(results, Yardsticks(measured=yardsticks))
    return [(target.value if target.value is None else pytest.approx(target.value), target.met) for target in targets]


def test_targets_of_the_products(benchmarks):
    from benchmarks.workloads import narrow, square

    flatcore = entry_of("flatcore", median=3.0, roofline=2.0)
    kept = entry_of(narrow.GRAPH_KEPT, median=150.0, median_of_ratios=50.0)
    one = [flatcore, entry_of("peer", median=210.0, median_of_ratios=70.0), kept]
    many = [entry_of("few"), entry_of("many", median_of_ratios=1.05)]
    reduced = [entry_of("flatcore", median=4.0, roofline=2.0)]
    judged = judged_by(narrow.WORKLOAD, [("one", one), ("block", one), ("many", many), ("reduced", reduced)])
    assert judged == [(1.5, True), (1.05, True), (70.0, True), (50.0, False), (2.0, False)]

    rates = {f"matmul_1024_{d}_flops_per_second": 1e11 for d in square.DTYPES}
    single = [entry_of("flatcore", gflops_per_second=90.0)]
    double = [entry_of("flatcore", gflops_per_second=80.0), entry_of("curvlinops", median_of_ratios=6.0)]
    judged = judged_by(square.WORKLOAD, [("float32", single), ("float64", double)], **rates)
    assert judged == [(0.9, True), (None, None), (0.8, False), (6.0, True)]


def test_targets_of_the_solvers(benchmarks):
    from benchmarks.process import Memory
    from benchmarks.workloads import huge, identity, svd_spiked, top10

    ten = [entry_of("flatcore", median=1.5), entry_of(top10.CURVLINOPS, median=240.0, ratio_of_medians=160.0)]
    assert judged_by(top10.WORKLOAD, [("one", ten), ("ten", ten)]) == [(1.5, False), (160.0, True)]

    counts = {"flatcore": 0.0, "flatcore, by vectors": 1.0, "SciPy": 9.0}
    copies = [entry_of(name, quality={"runs that miss a copy": missed}) for name, missed in counts.items()]
    assert judged_by(identity.WORKLOAD, [("seeds", copies)]) == [(1.0, False)]

    streamed = [entry_of("flatcore", median=170.0, memory=Memory(1, 3_100_000_000, True))]
    assert judged_by(huge.WORKLOAD, [("top", streamed)]) == [(3.1, False), (170.0, True)]
    assert judged_by(huge.WORKLOAD, [("top", [])]) == [(None, None), (None, None)]

    svd = [
        entry_of("flatcore", median=0.1, quality={"residual": 5e-7}),
        entry_of("sloppy", median=0.11, median_of_ratios=1.1, quality={"residual": 1e-2}),
        entry_of("accurate", median=0.25, median_of_ratios=2.5, quality={"residual": 1e-5}),
        entry_of("values only", median=0.05, median_of_ratios=0.5),
        entry_of(svd_spiked.FULL_SVD, median=3.0, median_of_ratios=30.0, quality={"residual": 1e-6}),
    ]
    assert judged_by(svd_spiked.WORKLOAD, [("A", svd)]) == [(5e-7, True), (0.4, True), (30.0, False)]


def test_targets_of_the_models(benchmarks):
    from benchmarks.runner import Agreement
    from benchmarks.workloads import mlp

    def flatcore(to_float64, to_curvlinops):
        found = [Agreement("torch in float64", to_float64, 2e-5), Agreement("curvlinops", to_curvlinops, 2e-5)]
        result = entry_of("flatcore")
        result.agreements = found
        return result

    def curvlinops(ratio):
        return entry_of("curvlinops", median_of_ratios=ratio)

    cases = [
        ("one", [flatcore(1e-6, 2e-6), curvlinops(1.8)]),
        ("block", [flatcore(3e-6, 1.1e-5), curvlinops(0.5)]),
        ("scratch", [flatcore(1e-6, 2e-6), curvlinops(0.8)]),
    ]
    assert judged_by(mlp.WORKLOAD, cases) == [(1.8, True), (1.25, False), (1.1e-5, False), (3e-6, True)]
    alone = [(name, found[:1]) for name, found in cases]
    assert judged_by(mlp.WORKLOAD, alone)[:2] == [(None, None)] * 2
    without = [(name, found[1:]) for name, found in cases]
    assert judged_by(mlp.WORKLOAD, without) == [(None, None)] * 4


def test_the_portable_build_is_judged_by_its_slowest_case(benchmarks):
    from benchmarks.workloads import portable

    def case(ratio):
        return [entry_of(portable.NATIVE), entry_of(portable.PORTABLE, median_of_ratios=ratio)]

    cases = [("narrow: a", case(1.0)), ("narrow: b", case(1.25)), ("square: a", case(1.05)), ("huge: a", [])]
    assert judged_by(portable.WORKLOAD, cases) == [(0.8, False), (1 / 1.05, True), (None, None)]


def test_a_child_finds_the_cases_of_every_workload(benchmarks):
    import importlib

    from benchmarks.process import Address
    from benchmarks.workloads import WORKLOADS

    for workload in WORKLOADS.values():
        address = Address.of(workload.cases, 0)
        assert getattr(importlib.import_module(address.module), address.function) is workload.cases


def test_portable_runs_flatcore_entries_alone(benchmarks, tmp_path):
    from benchmarks.runner import Options
    from benchmarks.workloads.portable import flatcore_entries

    found = list(flatcore_entries(Options(quick=True, scratch=tmp_path)))
    assert {name.partition(":")[0] for name, _, _ in found} >= {"narrow", "top10", "square", "huge", "identity"}
    assert not any(name.startswith(("mlp", "cnn")) for name, _, _ in found)  # PyTorch's products
    assert all(entry.contender.name == "flatcore" for _, _, entry in found)
    assert {address.function for _, address, _ in found} == {"cases", "inside"}


# -- problems notice wrong answers ---------------------------------------------------------------------------


def worst(agreements):
    return max(agreement.difference / agreement.tolerance for agreement in agreements)


def test_eigenpairs_are_checked(benchmarks):
    """Exact pairs of the dense Hessian pass; a missed second value or a wrong vector does not."""
    from benchmarks.eigen_problem import EigenAnswer, EigenProblem
    from benchmarks.hessian_problem import gaussian_problem

    hessian = gaussian_problem([5, 6, 3], 40, "float64")
    loss = fc.QuadraticLoss(hessian.inputs, hessian.targets, reduction="mean")
    values, vectors = np.linalg.eigh(fc.Hessian(fc.LinearChain(hessian.weights), loss).dense())
    values, vectors = values[::-1], vectors[:, ::-1]
    problem = EigenProblem(hessian, 2, 1e-4)
    right = EigenAnswer(values[:2], lambda: vectors[:, :2])
    assert worst(problem.agreements(right)) < 1e-6
    assert problem.quality(right)["residual"] < 1e-12
    missed = EigenAnswer(values[[0, 2]], lambda: vectors[:, [0, 2]])
    assert worst(problem.agreements(missed)) > 1
    turned = EigenAnswer(values[:2], lambda: vectors[:, [1, 0]])
    assert worst(problem.agreements(turned)) > 1
    early = EigenAnswer(values[:2] * 0.999, lambda: vectors[:, :2], promised=False)
    assert worst(problem.agreements(early)) <= 1
    wrong = EigenAnswer(values[:2] * 0.99, lambda: vectors[:, :2] * 3, promised=False)
    assert problem.quality(wrong)["values off by"] == pytest.approx(1e-2)
    other = EigenAnswer(values[1:3], lambda: vectors[:, 1:3], promised=False)
    assert worst(problem.agreements(other)) > 1
    assert problem.quality(early)["residual"] == pytest.approx(1e-3, rel=0.01)


def small_model():
    from benchmarks.model_problem import Cnn

    return Cnn((2, 2, 2), samples=4, pixels=4)


def dense_curvature(problem):
    """By derivatives of derivatives of the outputs as a function of θ in float64."""
    model, (inputs, labels) = copy.deepcopy(problem.model).double(), problem.data
    shapes = {name: p.shape for name, p in model.named_parameters()}
    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])

    def outputs(theta):
        parts = theta.split([shape.numel() for shape in shapes.values()])
        blocks = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        return torch.func.functional_call(model, blocks, (inputs.double(),))

    def loss(z):
        return torch.nn.functional.cross_entropy(z, labels)

    if problem.curvature == "hessian":
        return torch.autograd.functional.hessian(lambda theta: loss(outputs(theta)), theta).numpy()
    z, J = outputs(theta), torch.autograd.functional.jacobian(outputs, theta)
    if problem.curvature == "fisher_empirical":
        (s,) = torch.autograd.grad(loss(zs := z.detach().requires_grad_()), zs)
        s = len(z) * torch.einsum("nc,ncp->np", s, J)
        return (s.T @ s / len(z)).numpy()
    M = torch.autograd.functional.hessian(loss, z)
    return torch.einsum("ncp,ncmd,mdq->pq", J, M, J).numpy()


@pytest.mark.parametrize("curvature", ["hessian", "ggn", "fisher_empirical"])
def test_products_of_models_are_checked(benchmarks, curvature):
    """Against dense matrices, for a vector and a block; one wrong parameter tensor is noticed."""
    from benchmarks.model_problem import ModelProblem

    for vectors in (None, 3):
        problem = ModelProblem(small_model(), vectors, curvature)
        right = dense_curvature(problem) @ problem.argument.astype(np.float64)
        agreement = problem.agreements(right)[0]
        assert (agreement.reference, agreement.difference < 1e-13) == ("torch in float64", True)
        assert problem.quality(right)["worst parameter"] < 1e-12
        for factor in (1.001, np.nan):
            wrong = right.copy()
            wrong[-10:] *= factor
            assert worst(problem.agreements(wrong)) > 1
            assert problem.quality(wrong)["worst parameter"] >= 0.99e-3
        assert worst(problem.agreements(right[:-1])) == np.inf


def test_drawn_labels_are_checked_by_their_expectation(benchmarks):
    """Mean and deviation of vᵀCv over all 10⁴ ways to draw four labels; five deviations are allowed."""
    from benchmarks.model_problem import ModelProblem

    problem = ModelProblem(small_model(), None, "fisher_mc")
    v = problem.argument
    ggn = dense_curvature(problem)
    expectation, exact = problem._expectation, problem._exact
    assert expectation.mean == pytest.approx(v @ ggn @ v, rel=1e-12)
    Jv, p = exact.outputs_along(v), exact.probabilities
    values, chances = [], []
    for labels in itertools.product(range(10), repeat=4):
        rows = np.arange(4), np.array(labels)
        values.append(np.mean(((p * Jv).sum(1) - Jv[rows]) ** 2))
        chances.append(p[rows].prod())
    assert np.sum(chances) == pytest.approx(1.0)
    assert np.dot(chances, values) == pytest.approx(expectation.mean, rel=1e-12)
    variance = np.dot(chances, np.square(np.array(values) - expectation.mean))
    assert np.sqrt(variance) == pytest.approx(expectation.deviation, rel=1e-10)
    along = v / (v @ v)  # vᵀ(answer) = the factor
    for deviations, agrees in ((4.9, True), (-4.9, True), (5.1, False), (np.nan, False)):
        (agreement,) = problem.agreements(along * (expectation.mean + deviations * expectation.deviation))
        assert agreement.agrees is agrees


def test_singular_triplets_are_checked(benchmarks):
    from benchmarks.svd_problem import SvdProblem, Triplets

    A = np.random.default_rng(0).standard_normal((12, 9))
    U, s, Vt = np.linalg.svd(A, full_matrices=False)
    problem = SvdProblem(A, 3, 1e-6)
    right = Triplets(U[:, :3], s[:3], Vt[:3].T)
    assert worst(problem.agreements(right)) < 1e-6
    assert problem.quality(right)["residual"] < 1e-14
    missed = Triplets(U[:, [0, 1, 3]], s[[0, 1, 3]], Vt[[0, 1, 3]].T)
    assert problem.quality(missed)["residual"] < 1e-14
    assert worst(problem.agreements(missed)) > 1
    one_sided = Triplets(U[:, [0, 1, 3]], s[:3], Vt[:3].T)
    assert problem.quality(one_sided)["residual"] > 0.01
    assert problem.quality(Triplets(None, s[:3], None)) == {}
    assert worst(problem.agreements(Triplets(None, s[:3] * 1.001, None))) > 1


def test_copies_are_counted(benchmarks):
    from benchmarks.identity_problem import identity_problem

    problem = identity_problem(3, width=4, depth=2, samples=20)
    exact = np.stack([np.linalg.eigvalsh(problem.dense(X))[::-1] for X in problem.inputs])
    first, second = problem.spectra().T
    np.testing.assert_allclose(exact[:, :4], np.repeat(first[:, None], 4, axis=1), rtol=1e-12)
    np.testing.assert_allclose(exact[:, 4:8], np.repeat(second[:, None], 4, axis=1), rtol=1e-12)
    loss = fc.QuadraticLoss(problem.inputs[0], problem.inputs[0])
    dense = fc.Hessian(fc.LinearChain([np.eye(4)] * 2), loss).dense()
    np.testing.assert_allclose(problem.dense(problem.inputs[0]), dense, atol=1e-12)
    values = exact[:, :4].copy()
    assert problem.quality(values) == {"runs that miss a copy": 0}
    values[1, 3] = second[1]
    assert problem.quality(values) == {"runs that miss a copy": 1}


def test_the_rayleigh_quotient_of_mapped_weights(benchmarks, tmp_path):
    """One pass over the layers against the dense Hessian, in a direction of any length; the file is written once."""
    from benchmarks.huge_problem import HugeProblem, written

    widths = [6, 5, 4, 3]
    path = written(tmp_path, widths)
    before = path.stat().st_mtime_ns
    assert written(tmp_path, widths).stat().st_mtime_ns == before
    problem = HugeProblem(path, widths, 30, 1e-4)
    weights = [np.array(W, np.float64) for W in problem.weights]
    inputs, targets = problem.data()
    loss = fc.QuadraticLoss(inputs.astype(float), targets.astype(float), reduction="mean")
    H = fc.Hessian(fc.LinearChain(weights), loss).dense()
    v = np.random.default_rng(3).standard_normal(len(H))
    blocks = np.split(v, np.cumsum([W.size for W in weights])[:-1])
    quotient = problem.rayleigh_quotient(block.reshape(W.shape) for block, W in zip(blocks, weights, strict=True))
    assert quotient == pytest.approx(v @ H @ v / (v @ v), rel=1e-4)  # float32 weights and data


def test_the_reduced_hessian_of_the_contenders(benchmarks):
    """NumPy's and plain Python's coordinates: an isometry, and the Hessian's nonzero eigenvalues."""
    from benchmarks.hessian_problem import gaussian_problem
    from benchmarks.narrow_end import ListMatrices, NarrowEnd, NumpyMatrices, ReducedEnd

    problem = gaussian_problem([6, 7, 7, 2], 50, "float64")
    loss = fc.QuadraticLoss(problem.inputs, problem.targets, reduction="mean")
    H = fc.Hessian(fc.LinearChain(problem.weights), loss).dense()
    for matrices in (NumpyMatrices(), ListMatrices()):
        v = problem.argument
        np.testing.assert_allclose(NarrowEnd(problem, matrices)(v), H @ v, atol=1e-12)
        R = ReducedEnd(problem, matrices)
        z = R.project(v)
        np.testing.assert_allclose(R.project(R.lift(z)), z, atol=1e-13)
        np.testing.assert_allclose(R.lift(R(z)), H @ R.lift(z), atol=1e-12)
        assert np.linalg.norm(R.lift(z)) == pytest.approx(np.linalg.norm(z))


def test_a_process_of_its_own_answers_and_ends(benchmarks, tmp_path):
    """Set-up, call and check through the child; a child that is gone is no answer."""
    from benchmarks.contenders.base import CannotAnswerError
    from benchmarks.process import Address, EntryProcess
    from benchmarks.runner import Options
    from benchmarks.workloads import kernels

    process = EntryProcess(Address.of(kernels.cases, 4), Options(quick=True, scratch=tmp_path))
    try:
        assert process.ask("prepare") == {"done": "prepare"}
        process.ask("call")
        (agreement,) = process.ask("check")["agreements"]
        assert agreement["difference"] < agreement["tolerance"]
    finally:
        process.close()
    with pytest.raises((CannotAnswerError, ValueError)):
        process.ask("call")


def test_scaling_writes_numbers_and_a_picture(benchmarks, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    from benchmarks import scaling

    assert scaling.run(tmp_path, {"cpu": "any"}, quick=True, say=lambda message: None) == 0
    document = json.loads((tmp_path / "scaling-quick.json").read_text("utf-8"))
    assert [sweep["varied"] for sweep in document["sweeps"]] == list(scaling.QUICK)
    for sweep in document["sweeps"]:
        assert sweep["sizes"]["flatcore"] == list(scaling.QUICK[sweep["varied"]])
        assert all(t > 0 for seconds in sweep["seconds"].values() for t in seconds)
    assert "<svg" in (tmp_path / "scaling-quick.svg").read_text("utf-8")


def test_scaling_names_wrong_products(benchmarks, monkeypatch, tmp_path):
    from benchmarks import scaling
    from benchmarks.contenders.flatcore_hessian import FlatcoreHessian

    class Wrong:
        name = "wrong"

        def prepare(self, problem, stage):
            return lambda v: np.ones_like(v)

        def available(self):
            return None

    monkeypatch.setattr(scaling, "answering", lambda question: [FlatcoreHessian(), Wrong()])
    said = []
    assert scaling.run(tmp_path, {"cpu": "any"}, quick=True, say=said.append) == 1
    assert "answers disagree: depth: wrong" in said
    assert not any("disagree: depth: flatcore" in line for line in said)


def test_scaling_times_a_slow_call_once(benchmarks, monkeypatch):
    from benchmarks import scaling
    from benchmarks.contenders.flatcore_hessian import FlatcoreHessian

    monkeypatch.setattr(scaling, "LIMIT_SECONDS", 0.0)
    monkeypatch.setattr(
        scaling, "interleaved_rounds", lambda calls, first, rounds, times: calls and pytest.fail("again")
    )
    lines = {"flatcore": (FlatcoreHessian(), scaling.problem_at("depth", 2, True))}
    assert scaling.medians(lines, [])["flatcore"] > 0.0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nonesuch"], "'nonesuch' is no workload; expected one of narrow, top10, square"),
        (["--rounds", "0"], "1 or more"),
        (["--scratch", "no/such/folder"], "no folder"),
        (["scaling", "narrow"], "scaling runs by itself"),
        (["scaling", "--rounds", "3"], "scaling runs by itself"),
        (["fbp", "scaling-wfm"], "scaling-wfm runs by itself"),
    ],
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
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names[:3] == ["narrow", "top10", "square"]
    assert {"huge", "identity", "svd-spiked", "svd-bulk", "weights", "kernels", "portable"} <= set(names)
