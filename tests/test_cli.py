"""The command line: what it prints where, and its exit codes."""

import dataclasses
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
import types
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import flatcore as fc
from flatcore import cli
from flatcore.cli import _failures, _output

COMMAND = [sys.executable, "-P", "-c", "from flatcore.cli import main; main()"]


def run_python(script, folder):
    return subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, cwd=folder, timeout=60, check=False
    )


def run(*arguments):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    assert "Traceback" not in result.stderr
    return result


def start(*arguments, **options):
    """Start the command in a process of its own, in the directory of its files."""
    return subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True, **options)


def reject_constant(name):
    raise AssertionError(f"{name} in JSON")


def parsed(text):
    return json.loads(text, parse_constant=reject_constant)


@pytest.fixture
def files(tmp_path, rng):
    X, teacher = rng.standard_normal((40, 4)), rng.standard_normal((3, 4))
    np.savez(
        tmp_path / "model.npz", W10=rng.standard_normal((3, 6)), W2=rng.standard_normal((6, 5)), W1=np.ones((5, 4))
    )
    np.savez(tmp_path / "data.npz", inputs=X, targets=X @ teacher.T)
    return tmp_path / "model.npz", tmp_path / "data.npz"


@pytest.fixture
def fake_report(monkeypatch):
    """Stands in for the report, which has its own tests."""
    module = types.ModuleType("flatcore.report")
    module.write_report = lambda result, path: Path(path).write_text(f"<html>{result._title()}</html>")
    monkeypatch.setitem(sys.modules, "flatcore.report", module)
    return module


# analyze


def test_says_first_what_was_read_then_everything_of_the_analysis(files):
    model, data = files
    result = run("analyze", model, "--data", data)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[:5] == [
        f"{model}: 3 layers, applied in this order",
        "  1  W1   5 × 4 float64",
        "  2  W2   6 × 5 float64",
        "  3  W10  3 × 6 float64",
        f"{data}: QuadraticLoss(4 → 3, n=40, rank 4, reduction='batchmean')",
    ]
    titles = [after for before, after in pairwise(lines) if not before]
    assert titles[0].startswith("LinearChain(4 → 5 → 6 → 3")
    assert titles[1:] == ["Balance", "Coupling", "Gains", "Sharpness", "Gauss–Newton sharpness"]
    assert "\x1b" not in result.stdout
    assert result.stderr == ""


def test_json_holds_what_the_library_computes(files, tmp_path):
    model, data = files
    result = run("analyze", model, "--data", data, "-k", "2", "--seed", "3", "--json", tmp_path / "a.json")
    assert result.exit_code == 0
    content = parsed((tmp_path / "a.json").read_text())
    with np.load(model) as m, np.load(data) as d:
        chain = fc.LinearChain([m["W1"], m["W2"], m["W10"]])
        direct = fc.analyze(chain, fc.QuadraticLoss(d["inputs"], d["targets"]), 2, seed=3)
    assert content["analysis"] == parsed(json.dumps(direct.to_dict()))
    assert content["certified"] is True
    assert content["model"]["weights"] == ["W1", "W2", "W10"]
    assert content["data"] == str(data)
    assert content["flatcore"] == fc.__version__
    assert content["analysis"]["coupling"]["k"] == 2


def test_json_without_data_has_null_for_what_is_undefined(files):
    content = parsed(run("analyze", files[0], "--json", "-").stdout)
    assert content["data"] is None
    assert content["analysis"]["sharpness"] is None
    assert content["analysis"]["flattest"] is None


def test_json_on_standard_output_is_alone_there(files, tmp_path, fake_report):
    result = run("analyze", *files[:1], "--data", files[1], "--json", "-", "--out", tmp_path / "r.html")
    assert result.exit_code == 0
    assert parsed(result.stdout)["analysis"]["dims"] == [4, 5, 6, 3]
    assert "applied in this order" in result.stderr
    assert "Gauss–Newton sharpness" in result.stderr
    assert not (tmp_path / "-").exists()


def test_out_writes_the_report(files, tmp_path, fake_report):
    result = run("analyze", files[0], "--out", tmp_path / "r.html")
    assert result.exit_code == 0
    assert (tmp_path / "r.html").read_text().startswith("<html>LinearChain")
    assert result.stdout.endswith(f"report: {tmp_path / 'r.html'}\n")


def test_options_reach_the_analysis(files, monkeypatch):
    seen = {}

    def analyze(chain, loss, k, **options):
        seen.update(options, k=k, loss=loss)
        return real(chain, loss, k, **options)

    real = fc.analyze
    monkeypatch.setattr(fc, "analyze", analyze)
    result = run("analyze", files[0], "--data", files[1], "-k", 3, "--tol", 1e-3, "--seed", 5, "--threads", 1)
    assert result.exit_code == 0
    assert (seen["k"], seen["tol"], seen["seed"], seen["threads"]) == (3, 1e-3, 5, 1)
    assert isinstance(seen["loss"], fc.QuadraticLoss)


def test_a_pair_that_is_not_certified_is_exit_3_with_all_results(files, tmp_path, monkeypatch):
    def analyze(*arguments, **options):
        done = real(*arguments, **options)
        return dataclasses.replace(done, sharpness=dataclasses.replace(done.sharpness, converged=np.array([False])))

    real = fc.analyze
    monkeypatch.setattr(fc, "analyze", analyze)
    result = run("analyze", files[0], "--data", files[1], "--json", tmp_path / "a.json")
    assert result.exit_code == 3
    assert result.stderr.startswith("flatcore: not certified")
    assert parsed((tmp_path / "a.json").read_text())["certified"] is False
    assert "Gauss–Newton sharpness" in result.stdout


# PyTorch files and modules, models that are no chain


@pytest.fixture
def torch_files(tmp_path, rng):
    """State dicts of a chain and of a small convolutional network, and a Python module with models."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    chain = torch.nn.Sequential(torch.nn.Linear(4, 5, bias=False), torch.nn.Linear(5, 3, bias=False)).double()
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(12, 4), torch.nn.Linear(7, 2)
    )
    torch.save({"state_dict": chain.state_dict()}, tmp_path / "chain.pt")
    torch.save(net.state_dict(), tmp_path / "net.pth")
    np.savez(tmp_path / "data.npz", inputs=rng.standard_normal((20, 4)), targets=rng.standard_normal((20, 3)))
    (tmp_path / "my_models.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "torch.manual_seed(0)\n"
        "linear = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 3, bias=False)).double()\n"
        "def relu():\n"
        "    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))\n"
        "def broken():\n"
        "    raise RuntimeError('no data here')\n"
        "def leaves():\n"
        "    raise SystemExit(0)\n"
        "def lazy():\n"
        "    return nn.Sequential(nn.LazyLinear(3))\n"
        "def talks():\n"
        "    print('hello')\n"
        "    return linear\n"
        "width = 4\n"
    )
    return tmp_path


def test_a_state_dict_that_is_a_chain_is_analysed_as_one(torch_files):
    import torch

    result = run("analyze", torch_files / "chain.pt", "--data", torch_files / "data.npz", "--json", "-")
    assert result.exit_code == 0
    content = parsed(result.stdout)
    weights = list(torch.load(torch_files / "chain.pt", weights_only=True)["state_dict"].values())
    with np.load(torch_files / "data.npz") as d:
        direct = fc.analyze(fc.LinearChain(weights), fc.QuadraticLoss(d["inputs"], d["targets"]))
    assert content["analysis"] == parsed(json.dumps(direct.to_dict()))
    assert "the state dict is that under 'state_dict'" in result.stderr
    assert content["model"]["weights"] == ["0.weight", "1.weight"]


def test_a_model_that_is_no_chain_is_analysed_tensor_by_tensor_and_it_is_said(torch_files, fake_report):
    net, out = torch_files / "net.pth", torch_files / "r.html"
    result = run("analyze", net, "-k", 2, "--json", torch_files / "a.json", "--out", out)
    assert result.exit_code == 0
    assert f"not as one chain: {net}: 0.weight has shape (3, 2, 3, 3); expected matrices" in result.stdout
    assert "analysed tensor by tensor" in result.stdout
    content = parsed((torch_files / "a.json").read_text())
    assert content["certified"] is True
    assert [tensor["name"] for tensor in content["analysis"]["tensors"]] == ["0.weight", "3.weight", "4.weight"]
    assert [(p["lower"], p["upper"]) for p in content["analysis"]["pairs"]] == [("0.weight", "3.weight")]
    assert "not consecutive: 3.weight → 4.weight: 4 go out, 7 come in" in content["analysis"]["notes"]
    assert out.read_text() == f"<html>{net}</html>"


def test_matrices_whose_widths_do_not_match_as_well(tmp_path, rng):
    path = tmp_path / "m.npz"
    np.savez(path, W1=rng.standard_normal((5, 4)), b1=rng.standard_normal(5), W2=rng.standard_normal((3, 6)))
    result = run("analyze", path, "--json", "-")
    assert result.exit_code == 0
    assert "W2 has shape (3, 6); its columns must match W1's 5 rows" in result.stderr
    content = parsed(result.stdout)["analysis"]
    assert "not consecutive: W1 → W2: 5 go out, 6 come in" in content["notes"]
    refused = run("analyze", path, "--data", path)
    assert refused.exit_code == 2
    assert "with data expected the layers of one chain" in refused.stderr


def test_layers_agree_with_those_of_the_module(torch_files):
    import torch

    from flatcore.torch._weights import analyze

    torch.manual_seed(0)
    content = parsed(run("analyze", torch_files / "net.pth", "--json", "-").stdout)["analysis"]
    net = torch.nn.Sequential(
        torch.nn.Conv2d(2, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(12, 4), torch.nn.Linear(7, 2)
    )
    net.load_state_dict(torch.load(torch_files / "net.pth", weights_only=True))
    direct = parsed(json.dumps(analyze(net).to_dict()))
    for read, known in zip(content["tensors"], direct["layers"], strict=True):
        assert read["values"] == known["values"]
        assert read["matrix"] == known["matrix"]
    for read, known in zip(content["pairs"], direct["pairs"], strict=True):
        assert read["gap"] == known["gap"]
        assert read["overlaps"] == known["overlaps"]


def test_tied_weights_are_counted_once(tmp_path):
    torch = pytest.importorskip("torch")
    shared = torch.eye(3)
    torch.save({"a.weight": torch.ones(3, 2, 2), "b.weight": shared, "c.weight": shared}, tmp_path / "m.pt")
    content = parsed(run("analyze", tmp_path / "m.pt", "--json", "-").stdout)["analysis"]
    assert [tensor["name"] for tensor in content["tensors"]] == ["a.weight", "b.weight"]
    assert content["not_analysed"] == [["c.weight", "the same memory as b.weight"]]


def test_parametrized_weights_of_a_state_dict_are_neither_layers_nor_between_pairs(tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(*[torch.nn.Linear(4, 4) for _ in range(4)])
    torch.nn.utils.parametrizations.weight_norm(net[1])
    torch.save(net.state_dict(), tmp_path / "m.pt")
    result = run("analyze", tmp_path / "m.pt", "--json", "-")
    assert result.exit_code == 0
    content = parsed(result.stdout)["analysis"]
    assert [tensor["name"] for tensor in content["tensors"]] == ["0.weight", "2.weight", "3.weight"]
    assert [(p["lower"], p["upper"]) for p in content["pairs"]] == [("2.weight", "3.weight")]
    assert "not consecutive: 0.weight → 2.weight: 1.weight between, not analysed" in content["notes"]
    left_out = dict(content["not_analysed"])["1.parametrizations.weight.original1"]
    assert left_out.startswith("of 1.weight: parametrized, ")
    for layer in net:
        if not hasattr(layer, "parametrizations"):
            torch.nn.utils.parametrizations.weight_norm(layer)
    torch.save(net.state_dict(), tmp_path / "all.pt")
    refused = run("analyze", tmp_path / "all.pt")
    assert refused.exit_code == 2
    assert "of 0.weight: parametrized" in refused.stderr


def test_a_module_by_name(torch_files, monkeypatch):
    monkeypatch.chdir(torch_files)
    monkeypatch.delitem(sys.modules, "my_models", raising=False)
    linear = run("analyze", "my_models:linear", "--data", "data.npz", "--json", "-")
    assert linear.exit_code == 0
    content = parsed(linear.stdout)
    assert content["analysis"]["dims"] == [4, 5, 3]
    assert content["model"] == {
        "target": "my_models:linear",
        "class": "torch.nn.modules.container.Sequential",
        "parameters": 35,
    }
    relu = run("analyze", "my_models:relu")
    assert relu.exit_code == 0
    assert "my_models:relu: torch.nn.modules.container.Sequential, 43 parameters" in relu.stdout
    assert "0 → 2" in relu.stdout
    assert str(torch_files) not in sys.path
    sys.modules.pop("my_models", None)


def test_what_a_module_prints_is_not_among_the_json(torch_files, monkeypatch):
    monkeypatch.chdir(torch_files)
    result = run("analyze", "my_models:talks", "--json", "-")
    sys.modules.pop("my_models", None)
    assert result.exit_code == 0
    assert parsed(result.stdout)["analysis"]["dims"] == [4, 5, 3]
    assert "hello" in result.stderr


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("my_models:linears", "my_models has no linears; it has torch, nn, linear, relu, broken, leaves, lazy, talks"),
        ("my_models:width", "gives a int; expected a torch.nn.Module"),
        ("my_models:broken", "calling broken() failed (RuntimeError: no data here)"),
        ("my_models:leaves", "calling leaves() failed (SystemExit: 0)"),
        ("my_models:lazy", "my_models:lazy: 0.weight has no shape yet; run the model once"),
        ("no_models:net", "importing no_models failed (ModuleNotFoundError: No module named 'no_models')"),
        ("my_models:relu --data", "flatcore.torch.Hessian"),
    ],
)
def test_targets_that_are_no_model(torch_files, monkeypatch, target, message):
    monkeypatch.chdir(torch_files)
    name, *data = target.split()
    result = run("analyze", name, *(["--data", "data.npz"] if data else []))
    sys.modules.pop("my_models", None)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_pickled_module_is_exit_2_with_the_safe_way(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "m.pt")
    result = run("analyze", tmp_path / "m.pt")
    assert result.exit_code == 2
    assert "torch.save(model.state_dict(), path)" in result.stderr


def test_a_state_dict_without_torch_says_how_to_get_it(tmp_path):
    (tmp_path / "m.pt").write_bytes(b"PK")
    script = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['flatcore', 'analyze', 'm.pt']; "
        "from flatcore.cli import main; main()"
    )
    done = run_python(script, tmp_path)
    assert (done.returncode, done.stderr) == (2, "flatcore: this needs torch: pip install 'flatcore[torch]'\n")


def test_a_triplet_that_is_not_certified_is_exit_3(torch_files, monkeypatch):
    from flatcore.checkpoints import analyze_checkpoint

    def uncertified(*arguments, **options):
        done = analyze_checkpoint(*arguments, **options)
        first = dataclasses.replace(done.tensors[0], converged=np.array([False]))
        return dataclasses.replace(done, tensors=(first, *done.tensors[1:]))

    monkeypatch.setattr("flatcore.cli.analyze.analyze_checkpoint", uncertified)
    result = run("analyze", torch_files / "net.pth")
    assert result.exit_code == 3
    assert "a singular triplet misses the tolerance" in result.stderr


# Bad input: exit 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["analyze"], "Missing argument 'MODEL'"),
        (["analyze", "MODEL", "--frobnicate"], "No such option: --frobnicate"),
        (["analyze", "MODEL", "-k", "many"], "Invalid value for '-k'"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["study", "grokking"], "Missing option '--out'"),
        (["analyze", "none.npz"], "none.npz does not exist"),
        (["analyze", "none.pt"], "none.pt does not exist; expected a file"),
        (["analyze", "MODEL", "-k", "0"], "k is 0; expected at least 1"),
        (["analyze", "MODEL", "--data", "MODEL"], "expected one of inputs, X, x"),
        (["analyze", "MODEL", "--data", "DATA", "--tol", "-1"], "tol is -1"),
        (["analyze", "MODEL", "--data", "DATA", "--threads", "0"], "threads is 0"),
        (["analyze", "MODEL", "--json", "no/where.json"], "no/where.json cannot be written: the directory"),
        (["analyze", "MODEL", "--out", "."], ". is a directory"),
        (["analyze", "MODEL", "--json", "MODEL"], "is given twice"),
        (["analyze", "MODEL", "--json", "x", "--out", "x"], "x is given twice"),
        (["analyze", "MODEL", "--out", "model.safetensors"], "is named as part of a checkpoint"),
        (["analyze", "MODEL", "--json", "config.json"], "is named as part of a checkpoint"),
        (
            ["analyze", "MODEL", "--parquet", "t.csv"],
            "--parquet t.csv: the ending is another format's; expected a name",
        ),
        (["compare", "MODEL", "MODEL", "--parquet", "t.HTML"], "--parquet t.HTML: the ending is another format's"),
    ],
)
def test_bad_input_is_exit_2_with_a_short_message_and_no_files(files, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    result = run(*({"MODEL": files[0], "DATA": files[1]}.get(a, a) for a in arguments))
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("flatcore: ")
    assert result.stderr.count("\n") <= 2
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_unknown_global_option(tmp_path):
    result = run("--frobnicate")
    assert result.exit_code == 2
    assert "No such option: --frobnicate" in result.stderr


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("width is 3; expected 4"), 2, "flatcore: width is 3; expected 4\n"),
        (MemoryError("needs 80 GB"), 2, "flatcore: out of memory: needs 80 GB\n"),
        (MemoryError(), 2, "flatcore: out of memory\n"),
        (PermissionError(13, "Permission denied", "secret.npz"), 2, "flatcore: secret.npz: Permission denied\n"),
        (OSError(28, "No space left on device"), 2, "flatcore: No space left on device\n"),
        (ModuleNotFoundError("no", name="sklearn"), 2, "flatcore: this needs scikit-learn: "
         "pip install 'flatcore[cli]'\n"),
        (KeyboardInterrupt(), 130, "flatcore: interrupted\n"),
        (RuntimeError("broken"), 1, "flatcore: internal error: RuntimeError: broken "
         "(flatcore --debug … shows where)\n"),
        (np.linalg.LinAlgError("singular"), 1, "flatcore: internal error: LinAlgError: singular "
         "(flatcore --debug … shows where)\n"),
        (ModuleNotFoundError("no", name="flatcore.none"), 1, "flatcore: internal error: ModuleNotFoundError: no "
         "(flatcore --debug … shows where)\n"),
    ],
)  # fmt: skip
def test_every_failure_has_its_code_and_one_line(files, monkeypatch, error, code, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(fc, "analyze", fail)
    result = run("analyze", files[0])
    assert (result.exit_code, result.stderr) == (code, message)


def test_debug_shows_where_an_internal_error_happened(files, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("broken")

    monkeypatch.setattr(fc, "analyze", fail)
    result = CliRunner().invoke(cli.app, ["--debug", "analyze", str(files[0])])
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "in fail" in result.stderr


# study


@dataclasses.dataclass
class StudyResult:
    report: Path

    def summary(self):
        return "all well"

    def to_dict(self):
        return {"gap": float("nan"), "report": str(self.report)}


@pytest.fixture
def fake_studies(monkeypatch):
    """Stands in for the studies, which have their own tests; keeps the arguments it was called with."""
    module = types.ModuleType("flatcore.studies")
    module.calls = []

    def run_study(name, out, *, resume, seed, size, progress):
        if out.exists() and any(out.iterdir()) and not resume:
            raise ValueError(f"{out} is not empty; use --resume or another directory")
        progress("training", 0.5)
        module.calls.append((name, out, resume, seed, size))
        return StudyResult(out / "report.html")

    module.run_study, module.study_names = run_study, lambda: ["digits", "transition"]
    monkeypatch.setitem(sys.modules, "flatcore.studies", module)
    return module


def test_study_runs_and_prints_its_summary(tmp_path, fake_studies):
    out = tmp_path / "run"
    result = run("study", "digits", "--out", out, "--seed", 7, "--json", tmp_path / "s.json")
    assert result.exit_code == 0
    assert result.stdout == f"all well\nreport: {out / 'report.html'}\n"
    assert fake_studies.calls == [("digits", out, False, 7, None)]
    assert parsed((tmp_path / "s.json").read_text()) == {"gap": None, "report": str(out / "report.html")}
    alone = run("study", "digits", "--out", out, "--json", "-")
    assert parsed(alone.stdout)["gap"] is None
    assert alone.stderr.startswith("all well")


def test_study_refuses_a_full_directory_unless_it_resumes(tmp_path, fake_studies):
    (tmp_path / "part").write_text("half")
    result = run("study", "digits", "--out", tmp_path)
    assert (result.exit_code, fake_studies.calls) == (2, [])
    assert "is not empty" in result.stderr
    assert run("study", "digits", "--out", tmp_path, "--resume").exit_code == 0
    assert run("study", "digits", "--out", tmp_path, "--resume", "--size", "full").exit_code == 0
    assert fake_studies.calls == [("digits", tmp_path, True, 0, None), ("digits", tmp_path, True, 0, "full")]


def test_an_unknown_study_lists_those_there_are(tmp_path, fake_studies):
    result = run("study", "grokking", "--out", tmp_path)
    assert (result.exit_code, fake_studies.calls) == (2, [])
    assert result.stderr == "flatcore: there is no study 'grokking'; expected one of digits, transition\n"


# doctor


def test_doctor_reports_versions_build_and_a_passing_self_check():
    result = run("doctor", "--json")
    assert result.exit_code == 0
    facts = parsed(result.stdout)
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["versions"]["flatcore"] == fc.__version__
    assert set(facts["build"]) == {"compiler", "openmp", "blas", "simd", "eigen"}
    assert facts["self_check"] == {"float32 sharpness": "ok", "float64 sharpness": "ok"}
    text = run("doctor")
    assert text.exit_code == 0
    for fact in [*facts["build"].values(), *facts["extras"].values(), "Self-check"]:
        assert fact in text.stdout


def test_doctor_says_what_is_missing_and_which_threads_without_threadpoolctl(monkeypatch):
    def version(name):
        if name == "pyarrow":
            raise importlib.metadata.PackageNotFoundError
        return real(name)

    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    facts = parsed(run("doctor", "--json").stdout)
    assert facts["extras"]["pyarrow"] == "missing: pip install 'flatcore[files]'"
    assert re.fullmatch(r"(\d+|unknown number of) threads", facts["build"]["blas"])


@pytest.mark.parametrize(
    ("sharpness", "message"),
    [
        (lambda *_: types.SimpleNamespace(values=[5.0]), "failed: sharpness (5.0, "),
        (lambda *_: [][0], "failed: IndexError: list index out of range"),
    ],
)
def test_doctor_fails_where_the_self_check_does(monkeypatch, sharpness, message):
    monkeypatch.setattr(fc, "sharpness", sharpness)
    result = run("doctor")
    assert result.exit_code == 1
    assert message in result.stdout


def test_the_extras_are_those_of_the_package():
    declared = {extra: set() for extra in _failures.EXTRAS}
    for requirement in importlib.metadata.requires("flatcore"):
        match = re.match(r"([\w-]+)[^;]*; extra == ['\"](\w+)['\"]", requirement)
        if match and match[2] in declared and match[1] != "flatcore":
            declared[match[2]].add(match[1].replace("-", "_"))
    assert declared == {extra: {p.replace("-", "_") for p in packages} for extra, packages in _failures.EXTRAS.items()}


# The process


def test_version_and_help():
    assert run("--version").stdout == f"flatcore {fc.__version__}\n"
    assert "Exit codes" in run("--help").stdout
    assert "--data" in run("analyze", "--help").stdout


def test_a_terminal_gets_tables_that_fit_and_no_markup_is_interpreted(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    _output.show(sys.stdout, "[bold]title", [("band", "[1, 2] [red]" + " word" * 40)])
    shown = capsys.readouterr().out
    assert "\x1b[" in shown
    assert "[bold]title" in shown
    assert "[1, 2] [red]" in shown
    assert all(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) <= 60 for line in shown.splitlines())


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["analyze", "none.npz"], 2), (["study"], 2)])
def test_exit_codes_of_the_process(tmp_path, arguments, code):
    process = start(*arguments, stdout=subprocess.PIPE, cwd=tmp_path)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert errors.count("\n") <= 2


def test_ctrl_c_during_a_long_analysis_is_130_and_leaves_no_file(tmp_path, rng):
    n = 1200
    np.savez(tmp_path / "big.npz", **{f"W{j}": rng.standard_normal((n, n)) / n**0.5 for j in range(1, 9)})
    np.savez(tmp_path / "data.npz", inputs=rng.standard_normal((8, n)), targets=rng.standard_normal((8, n)))
    arguments = ("big.npz", "--data", "data.npz", "--json", "a.json", "--out", "r.html")  # of any size, for the data
    process = start("analyze", *arguments, stdout=subprocess.PIPE, cwd=tmp_path)
    assert "applied in this order" in process.stdout.readline()
    time.sleep(0.5)
    assert process.poll() is None  # it is at work
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "flatcore: interrupted\n")
    assert sorted(os.listdir(tmp_path)) == ["big.npz", "data.npz"]


def test_a_reader_that_leaves_does_not_stop_the_work(files, tmp_path):
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = start("analyze", *files[:1], "--json", tmp_path / "a.json", stdout=write_end, cwd=tmp_path)
    os.close(write_end)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert parsed((tmp_path / "a.json").read_text())["analysis"]["dims"] == [4, 5, 6, 3]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_standard_output_is_exit_2(tmp_path):
    with open("/dev/full", "w") as full:
        process = start("doctor", stdout=full, cwd=tmp_path)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (2, "flatcore: standard output: No space left on device\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("option", ["--json", "--parquet"])
def test_a_full_disk_behind_a_file_is_told_with_its_name(files, option):
    result = run("analyze", files[0], option, "/dev/full")
    assert (result.exit_code, result.stderr) == (2, "flatcore: /dev/full: No space left on device\n")


@pytest.mark.parametrize("json_file", ["a.json", "-"])
def test_closed_standard_streams_do_not_matter(files, tmp_path, json_file):
    arguments = [*COMMAND, "analyze", str(files[0]), "--json", json_file]
    script = f"import os; os.close(1); os.close(2); os.execv({sys.executable!r}, {arguments!r})"
    assert subprocess.run([sys.executable, "-P", "-c", script], cwd=tmp_path, timeout=60).returncode == 0
    assert (tmp_path / "a.json").exists() == (json_file == "a.json")


def test_output_that_cannot_show_mathematics_is_escaped(files, tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = start("analyze", files[0], stdout=subprocess.PIPE, cwd=tmp_path, env=environment)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert "5 \\xd7 4 float64" in output


def test_without_the_extra_the_command_says_how_to_get_it(tmp_path):
    script = "import sys; sys.modules['typer'] = None; from flatcore.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr == "flatcore: the command line needs typer: pip install 'flatcore[cli]'\n"


def test_the_library_does_not_load_the_command_line(tmp_path):
    script = "import flatcore, sys; print(sorted({'typer', 'rich', 'flatcore.cli'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_progress_appears_on_a_terminal_and_goes_away(files, tmp_path):
    pty = pytest.importorskip("pty")
    terminal, errors = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    arguments = [*COMMAND, "analyze", str(files[0]), "--json", "-"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=errors, cwd=tmp_path, env=environment) as process:
        os.close(errors)
        shown = b""
        try:
            while part := os.read(terminal, 1 << 16):
                shown += part
        except OSError:  # how Linux says that the other side was closed
            pass
        os.close(terminal)
        assert parsed(process.stdout.read())["analysis"]["dims"] == [4, 5, 6, 3]
    assert process.returncode == 0
    bar = shown.index("━".encode())
    assert shown.index(b"\x1b[2K", bar) < shown.index(b"Balance", bar)  # erased before the results


@pytest.mark.parametrize(
    "arguments",
    [
        ("analyze", "m.npz", "--out", "ro/x.html"),
        ("analyze", "m.npz", "--json", "ro/x.json"),
        ("analyze", "m.npz", "--parquet", "ro/x.parquet"),
        ("compare", "m.npz", "n.npz", "--out", "ro/x.html"),
        ("sweep", "m.npz", "--out", "ro/x.csv"),
        ("sweep", "m.npz", "--out", "ro/x.csv", "--dry-run"),
        ("sweep", "m.npz", "--out", "x.csv", "--json", "ro/x.json"),
        ("study", "digits", "--out", "study", "--json", "ro/x.json"),
    ],
)
def test_a_folder_that_nothing_may_be_written_to_is_noticed_first(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    for name in ("m.npz", "n.npz"):
        np.savez(name, W1=np.eye(3))
    os.mkdir("ro")
    access = os.access  # root may write everywhere
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place).name != "ro" and access(place, mode))
    for refused in ("analyze_checkpoint", "compare_checkpoints", "chain_of"):
        for module in ("analyze", "compare"):
            monkeypatch.setattr(f"flatcore.cli.{module}.{refused}", None, raising=False)
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert "ro/x." in result.stderr
    assert "cannot be written: nothing may be written to the directory" in result.stderr
    assert result.stdout == ""
    assert sorted(os.listdir()) == ["m.npz", "n.npz", "ro"]


def test_outputs_inside_a_file_are_noticed_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("m.npz", W1=np.eye(3))
    for name in ("file", "x.csv.sweep"):
        (tmp_path / name).touch()
    for arguments, message in (
        (("analyze", "m.npz", "--out", "file/x.html"), "file is no directory"),
        (("sweep", "m.npz", "--out", "file/x.csv", "--dry-run"), "file is no directory"),
        (("sweep", "m.npz", "--out", "x.csv", "--dry-run"), "x.csv.sweep is a file; expected the folder of a sweep"),
        (("sweep", "m.npz", "--out", "x.csv"), "x.csv.sweep is a file; expected the folder of a sweep"),
    ):
        result = CliRunner().invoke(cli.app, arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
