"""``flatcore analyze`` on checkpoints: which route, what is printed and written, exit codes, Ctrl-C."""

import json
import signal
import subprocess
import sys
import time
from itertools import pairwise

import checkpoint_models as models
import numpy as np
import pytest
from checkpoint_files import save_safetensors, save_shards
from typer.testing import CliRunner

from flatcore import cli

COMMAND = [sys.executable, "-P", "-c", "from flatcore.cli import main; main()", "analyze"]


def run(*arguments):
    result = CliRunner().invoke(cli.app, ["analyze", *map(str, arguments)])
    assert "Traceback" not in result.stderr
    return result


def reject_constant(name):
    raise AssertionError(f"{name} in JSON")


def parsed(text):
    return json.loads(text, parse_constant=reject_constant)


@pytest.fixture
def llama(tmp_path):
    save_safetensors(tmp_path / "model.safetensors", models.llama())
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4, "num_key_value_heads": 2}))
    return tmp_path


def test_a_folder_is_analysed_and_all_of_it_is_in_the_json(llama):
    result = run(llama, "-k", 3, "--json", "-")
    assert result.exit_code == 0
    content = parsed(result.stdout)
    assert content["certified"] is True
    assert content["model"]["family"] == "Llama or Mistral"
    assert content["model"]["not_a_chain"].endswith("its names are those of Llama or Mistral")
    analysis = content["analysis"]
    assert len(analysis["tensors"]) == 16
    assert len(analysis["products"]) == 16
    assert len(analysis["compositions"]) == 3
    assert {len(tensor["values"]) for tensor in analysis["tensors"]} == {3}


def test_the_text_has_a_line_a_tensor_and_short_summaries(llama):
    result = run(llama)
    lines = result.stdout.splitlines()
    assert lines[0] == f"{llama}: safetensors, {len(models.llama())} tensors, taken for Llama or Mistral"
    titles = [after for before, after in pairwise(lines) if not before]
    assert titles == ["Tensors", "Heads", "Composition of heads", "Consecutive layers", "Not analysed"]
    for name in models.llama():
        if "norm" not in name:
            assert sum(line.strip().startswith(name + " ") for line in lines) >= 1
    assert max(map(len, lines)) < 200
    assert "\x1b" not in result.stdout


def test_shards_and_npz_and_torch_files_agree(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = models.llama()
    names = list(tensors)
    save_safetensors(tmp_path / "one.safetensors", tensors)
    shards = {f"{part}.safetensors": {n: tensors[n] for n in names[part::2]} for part in range(2)}
    save_shards(tmp_path / "sharded", shards)
    np.savez(tmp_path / "m.npz", **tensors)
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, tmp_path / "m.pt")
    found = []
    for path in ("one.safetensors", "sharded", "m.npz", "m.pt"):
        content = parsed(run(tmp_path / path, "-k", 2, "--heads", 4, "--kv-heads", 2, "--json", "-").stdout)["analysis"]
        found.append({tensor["name"]: tensor["values"] for tensor in content["tensors"]})
        assert len(content["products"]) == 16
    assert found[0] == found[1] == found[2] == found[3]


def test_parquet_has_a_row_a_tensor_failed_ones_among_them(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    tensors = models.llama(layers=1)
    tensors["lm_head.weight"][2, 3] = np.nan
    path = save_safetensors(tmp_path / "m.safetensors", tensors)
    result = run(path, "--parquet", tmp_path / "t.parquet")
    assert result.exit_code == 3
    assert "flatcore: not certified: lm_head.weight: 1 entry is NaN, the first at [2, 3]\n" in result.stderr
    table = parquet.read_table(tmp_path / "t.parquet").to_pylist()
    assert len(table) == 9
    rows = {row["name"]: row for row in table}
    assert rows["lm_head.weight"]["reason"] == "1 entry is NaN, the first at [2, 3]"
    assert rows["lm_head.weight"]["values"] is None
    assert len(rows["model.embed_tokens.weight"]["values"]) == 8
    assert rows["model.embed_tokens.weight"]["shape"] == [100, 64]
    assert not list(tmp_path.glob(".flatcore-*"))


def test_a_chain_of_any_format_keeps_its_analysis(tmp_path, rng):
    tensors = {f"{i}.weight": rng.standard_normal((4, 4)) for i in range(3)}
    save_safetensors(tmp_path / "m.safetensors", tensors)
    np.savez(tmp_path / "m.npz", **tensors)
    np.savez(tmp_path / "d.npz", inputs=rng.standard_normal((9, 4)), targets=rng.standard_normal((9, 4)))
    contents = [
        parsed(run(tmp_path / name, "--data", tmp_path / "d.npz", "--json", "-").stdout)["analysis"]
        for name in ("m.safetensors", "m.npz")
    ]
    assert contents[0]["dims"] == [4, 4, 4, 4]
    assert contents[0] == contents[1]


def test_a_chain_that_is_not_finite_is_analysed_tensor_by_tensor(tmp_path, rng):
    tensors = {f"W{i}": rng.standard_normal((4, 4)) for i in range(3)}
    tensors["W1"][1, 2] = np.inf
    np.savez(tmp_path / "m.npz", **tensors)
    np.savez(tmp_path / "d.npz", inputs=rng.standard_normal((9, 4)), targets=rng.standard_normal((9, 4)))
    for data in ([], ["--data", tmp_path / "d.npz"]):
        result = run(tmp_path / "m.npz", *data, "--json", "-")
        assert result.exit_code == 3
        assert "not as one chain" in result.stderr
        assert "W1: 1 entry is infinite, the first at [1, 2]" in result.stderr
        analysis = parsed(result.stdout)["analysis"]
        assert [tensor["name"] for tensor in analysis["tensors"]] == ["W0", "W2"]


def test_data_are_for_chains(llama, tmp_path, rng):
    np.savez(tmp_path / "d.npz", inputs=rng.standard_normal((9, 4)), targets=rng.standard_normal((9, 4)))
    result = run(llama, "--data", tmp_path / "d.npz")
    assert result.exit_code == 2
    assert "its names are those of Llama or Mistral; with data expected the layers of one chain" in result.stderr


def test_pairs_and_rules_on_the_command_line(tmp_path, rng):
    np.savez(tmp_path / "m.npz", **{"a.0": rng.standard_normal((4, 3)), "b.0": rng.standard_normal((5, 4))})
    result = run(tmp_path / "m.npz", "--pair", "a.*=b.*", "--json", "-")
    assert "not as one chain: rules are given" in result.stderr
    assert [(p["lower"], p["upper"]) for p in parsed(result.stdout)["analysis"]["pairs"]] == [("a.0", "b.0")]
    (tmp_path / "r.toml").write_text('[storage]\n"a.0" = "in_out"\n')
    turned = parsed(run(tmp_path / "m.npz", "--rules", tmp_path / "r.toml", "--json", "-").stdout)["analysis"]
    assert turned["tensors"][0]["matrix"] == "weight stored (in, out), taken as (out, in)"
    for arguments, message in (
        (["--pair", "a.*"], "expected 'lower=upper'"),
        (["--pair", "x.*=y.*"], "no tensor fits 'x.*'"),
        (["--heads", "0"], "heads is 0; expected at least 1"),
        (["--kv-heads", "2"], "kv_heads is 2, and heads is not given; expected both"),
        (["--rules", tmp_path / "none.toml"], "expected a TOML file of rules"),
    ):
        refused = run(tmp_path / "m.npz", *arguments)
        assert refused.exit_code == 2
        assert message in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_names_cannot_steer_the_terminal(tmp_path, rng):
    evil = "\x1b[31mred\nline\u202e.weight"
    tensors = {evil: rng.standard_normal((4, 3)), "<script>.kernel": rng.standard_normal((2, 2, 2))}
    tensors["\x1b]0;title\x07"] = np.full((2, 2), np.nan)
    result = run(save_safetensors(tmp_path / "m.safetensors", tensors), "--parquet", tmp_path / "t.parquet")
    assert result.exit_code == 3
    for text in (result.stdout, result.stderr):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\u202e" not in text
    assert "\\x1b[31mred\\nline\\u202e.weight" in result.stdout


def test_a_damaged_tensor_fails_and_the_rest_goes_on(tmp_path, rng):
    path = save_safetensors(
        tmp_path / "m.safetensors", {"a": ("F4", (4, 4), bytes(8)), "b": rng.standard_normal((4, 4))}
    )
    content = run(path, "--json", "-")
    assert content.exit_code == 3
    (failed,) = parsed(content.stdout)["analysis"]["failed"]
    assert failed["name"] == "a"
    assert "entries of format F4 are not read" in failed["reason"]


@pytest.mark.parametrize("what", ["svd", "heads"])
def test_ctrl_c_ends_it_at_once(tmp_path, what):
    """Interrupted while it decomposes a large matrix, or multiplies heads of wide layers."""
    rng = np.random.default_rng(0)
    if what == "svd":
        tensors = {"layers.0.weight": rng.standard_normal((4096, 4096), dtype=np.float32)}
    else:
        tensors = models.llama(layers=2, width=2048, heads=32, kv_heads=32, head_dim=64, hidden=8, vocabulary=8)
    path = save_safetensors(tmp_path / "m.safetensors", tensors)
    mark = "heads of" if what == "heads" else "layers.0.weight"
    script = (
        "import sys, flatcore.checkpoints as c\n"
        "tell = lambda text, fraction: print('at', text, flush=True)\n"
        f"c.analyze_checkpoint({str(path)!r}, 8, rules=c.Rules(heads=32), progress=tell)\n"
    )
    process = subprocess.Popen([sys.executable, "-P", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    for line in process.stdout:
        if mark in line.decode():
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    began = time.perf_counter()
    _, errors = process.communicate(timeout=60)
    took = time.perf_counter() - began
    assert b"KeyboardInterrupt" in errors
    assert took < 2.0  # 0.2 s in kernels, and the end of the process on a busy machine


@pytest.fixture
def lacking(tmp_path, rng):
    """Shards of a chain, whose index has a layer more."""
    shard = {f"layers.{i}.weight": rng.standard_normal((5, 5)) for i in (0, 2)}
    return save_shards(tmp_path / "m", {"1.safetensors": shard}, **{"layers.1.weight": "1.safetensors"})


def test_a_tensor_that_its_shard_lacks_has_failed(lacking, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    files = {ending: tmp_path / f"all.{ending}" for ending in ("json", "parquet", "html")}
    for arguments in ([], ["--json", files["json"], "--parquet", files["parquet"], "--out", files["html"]]):
        result = run(lacking, *arguments)
        assert result.exit_code == 3
        assert "\nFailed\n  layers.1.weight  the index has it in '1.safetensors'" in result.stdout
        assert "layers.1.weight: the index has it in '1.safetensors', which does not hold it" in result.stderr
    analysis = parsed(files["json"].read_text())["analysis"]
    assert [(part["name"], part["role"], part["shape"]) for part in analysis["failed"]] == [
        ("layers.1.weight", "missing", [])
    ]
    assert analysis["pairs"] == []  # nothing is known of what lies between
    assert parquet.read_table(files["parquet"]).to_pylist()[-1]["reason"].endswith("which does not hold it")
    assert files["html"].read_text().index("1 tensor could not be analysed") < files["html"].read_text().index("Numb")


def test_a_bias_that_its_shard_lacks_leaves_no_balance(tmp_path, rng):
    shard = {f"layers.{i}.weight": rng.standard_normal((5, 5)) for i in range(2)}
    save_shards(tmp_path / "m", {"1.safetensors": shard}, **{"layers.0.bias": "1.safetensors"})
    result = run(tmp_path / "m", "--json", "-")
    assert result.exit_code == 3
    analysis = parsed(result.stdout)["analysis"]
    assert analysis["pairs"] == []
    assert "no pair, as layers.0.bias failed" in " ".join(analysis["notes"])


@pytest.mark.parametrize(("dtype", "power"), [(float, 500), (float, -500), (np.float32, 60), (np.float32, -60)])
def test_a_chain_of_far_entries_goes_tensor_by_tensor(tmp_path, rng, dtype, power):
    layers = {f"layers.{i}.weight": np.ldexp(rng.standard_normal((6, 6)), power).astype(dtype) for i in range(2)}
    result = run(save_safetensors(tmp_path / "m.safetensors", layers), "--json", "-")
    assert result.exit_code == 0
    assert "not as one chain" in result.stderr
    assert "expected their squares, and the product of all layers, between 2^−" in result.stderr
    (pair,) = parsed(result.stdout)["analysis"]["pairs"]
    assert pair["status"] == "computed"
    assert pair["gap"] > 0.0


def test_a_single_layer_and_large_ones_go_tensor_by_tensor(tmp_path, rng):
    """Full decompositions of what a search takes a tenth of the time for: three of 1024 took 3 s more on one core."""
    one = {"weight": rng.standard_normal((8, 8))}
    large = {f"layers.{i}.weight": rng.standard_normal((1024, 1024), dtype=np.float32) for i in range(2)}
    for tensors, why in ((one, "a single layer"), (large, "too large for full decompositions (2.15 G entries")):
        result = run(save_safetensors(tmp_path / "m.safetensors", tensors), "-k", 2)
        assert result.exit_code == 0
        assert "not as one chain" in result.stdout
        assert why in result.stdout


def test_long_names_are_abridged_and_zeros_have_no_percentages(tmp_path, rng):
    long, bad = "l" * 500 + ".a.weight", "b" * 500 + ".weight"
    tensors = {"zero.weight": np.zeros((4, 4)), long: rng.standard_normal((3, 3)), bad: np.full((2, 2), np.nan)}
    tensors |= {"v" * 500: np.zeros(3), "u" * 500: rng.standard_normal((2, 2))}
    path = save_safetensors(tmp_path / "m.safetensors", tensors)
    result = run(path, "--json", tmp_path / "a.json")
    assert result.exit_code == 3
    lines = [*result.stdout.splitlines(), *result.stderr.splitlines()]
    assert max(map(len, lines[2:])) < 600  # two names in a note, each abridged
    assert f"  {'l' * 50}…{'l' * 40}.a.weight" in result.stdout
    assert "nan" not in result.stdout.lower().replace("entries are nan", "")
    assert "undefined %" not in result.stdout
    (zero,) = [line for line in lines if line.startswith("  zero.weight")]
    assert "undefined" in zero
    assert long in (tmp_path / "a.json").read_text()
    compared = CliRunner().invoke(cli.app, ["compare", str(path), str(path)])
    assert "nan %" not in compared.stdout
    assert max(map(len, compared.stdout.splitlines()[2:])) < 400
