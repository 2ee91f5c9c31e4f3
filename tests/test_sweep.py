"""Sweeps: order, rows, and that nothing ends them for good: kills, torn journals, broken files, dead workers."""

import csv
import errno
import functools
import json
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from checkpoint_files import BROKEN, save_safetensors, save_shards
from sweep_workers import dies_always, dies_once, takes_a_minute
from typer.testing import CliRunner

from flatcore import cli
from flatcore.sweep import cluster_cost, columns, cost_table, planning, pools, sweep, sweeping, work
from flatcore.sweep.discovery import discover, segments
from flatcore.sweep.following import Vectors, extrapolated, foretold, starts
from flatcore.sweep.journal import Journal, folder_of
from flatcore.sweep.pools import LocalProcesses, dask_executor

OPTIONS = {"k": 3, "threads": 1}


@pytest.fixture
def runs(tmp_path):
    """Two trajectories of five steps: three layers that drift."""
    return make_runs(tmp_path / "runs", (60, 50), 5)


def make_runs(folder, shape, steps, drift=0.01):
    rng = np.random.default_rng(0)
    for run in (1, 2):
        (folder / f"run{run}").mkdir(parents=True)
        layers = {f"layers.{i}.weight": rng.standard_normal(shape) for i in range(3)}
        for step in range(steps):
            layers = {name: W + drift * rng.standard_normal(shape) for name, W in layers.items()}
            np.savez(folder / f"run{run}/step{step}.npz", **layers)
    return str(folder / "run*/step*.npz")


@pytest.fixture(autouse=True)
def quick_estimates(monkeypatch):
    """Rates are measured in a test of their own."""
    monkeypatch.setattr(planning, "_rates", lambda todo, k, threads: (1e9, 1e9))


def table(out):
    return pq.read_table(out).to_pylist()


def without_times(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def journaled(out):
    lines = (folder_of(out) / "journal.jsonl").read_bytes().splitlines()
    return [json.loads(line[9:])["path"] for line in lines[1:]]


def run_cli(*arguments):
    result = CliRunner().invoke(cli.app, ["sweep", *map(str, arguments)])
    assert "Traceback" not in result.output
    return result


# -- discovery -------------------------------------------------------------------------------------------------------


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def found(folder, pattern):
    return [os.path.relpath(item.path, folder) for item in discover(str(folder / pattern)).items]


def test_steps_come_in_natural_order_run_by_run(tmp_path):
    touch(tmp_path, "b/step10.npz", "b/step9.npz", "a/step100.npz", "a/step20.npz", "a/log.txt")
    assert found(tmp_path, "*/step*") == ["a/step20.npz", "a/step100.npz", "b/step9.npz", "b/step10.npz"]
    assert [item.step for item in discover(str(tmp_path / "*/*")).items] == [20, 100, 9, 10]
    assert found(tmp_path, ".") == found(tmp_path, "*/step*")  # a folder is searched


@pytest.mark.parametrize(
    ("names", "trajectories"),
    [
        (["r1/step1.pt", "r1/step2.pt", "r2/step1.pt"], ["r1/step#.pt", "r2/step#.pt"]),
        (["m-epoch=1-step=30.pt", "m-epoch=2-step=60.pt"], ["m-epoch=#-step=#.pt"]),
        (["seed1-step1.npz", "seed1-step2.npz", "seed2-step1.npz"], ["seed1-step#.npz", "seed2-step#.npz"]),
        (["run1/last.npz", "run2/last.npz"], ["run1/last.npz", "run2/last.npz"]),
        (["c-5/model.safetensors", "c-10/model.safetensors"], ["c-#"]),
        (["a/x.npz", "a/y.npz"], ["a/x.npz", "a/y.npz"]),
        (["lr0.001_step9.pt", "lr0.001_step10.pt", "lr0.01_step9.pt"], ["lr0.001_step#.pt", "lr0.01_step#.pt"]),
        (["lr1e-3_step1.pt", "lr1e-4_step1.pt", "lr=.5-3.pt"], ["lr1e-3_step#.pt", "lr1e-4_step#.pt", "lr=.5-#.pt"]),
        (["step100/gpt2.npz", "step200/gpt2.npz"], ["step#/gpt2.npz"]),
        (["step100/gpt2.npz", "step200/llama3.npz"], ["step#/gpt2.npz", "step#/llama3.npz"]),
        (["c-5/gpt2.npz", "c-10/gpt2.npz"], ["c-#/gpt2.npz"]),
        (["1/10.npz", "1/20.npz", "2/10.npz"], ["1/#.npz", "2/#.npz"]),
        (["run1.10.pt", "run1.20.pt", "width0.5-1.pt"], ["run1.#.pt", "width0.5-#.pt"]),
    ],
)
def test_files_that_differ_in_numbers_alone_are_a_trajectory(tmp_path, names, trajectories):
    touch(tmp_path, *names)
    seen = dict.fromkeys(os.path.relpath(item.trajectory, tmp_path) for item in discover(tmp_path).items)
    assert list(seen) == trajectories


def test_the_step_is_that_of_the_component_that_counts(tmp_path):
    touch(tmp_path, *(f"step{step}/gpt2.npz" for step in (100, 200, 1000)), "c-7/gpt2.npz", "r2/step30.npz")
    assert [item.step for item in discover(tmp_path).items] == [2, 30, 100, 200, 1000]  # c-7 has no sibling


def test_a_trajectory_is_in_the_order_of_its_steps(tmp_path):
    for number, name in enumerate(["loss2.3_step100.npz", "loss1.3_step200.npz", "loss1.9_step30.npz"], 1):
        np.savez(tmp_path / name, W1=number * np.eye(2))
    out = tmp_path / "all.parquet"
    plan = sweep(tmp_path, out, k=1).plan
    assert [Path(path).name[8:] for path in plan.paths] == ["step30.npz", "step100.npz", "step200.npz"]
    assert [row["step"] for row in table(out) if row["part"] == "file"] == [30, 100, 200]


def test_folders_and_shards_count_once(tmp_path):
    shards = {
        "model-00001-of-00002.safetensors": {"a": np.eye(2)},
        "model-00002-of-00002.safetensors": {"b": np.eye(2)},
    }
    for step in (5, 10):
        save_shards(tmp_path / f"checkpoint-{step}", shards)
    touch(tmp_path, "checkpoint-5/optimizer.pt")
    folders = ["checkpoint-5", "checkpoint-10"]
    for pattern in (".", "checkpoint-*", "*/*.safetensors", "*/model*"):
        assert found(tmp_path, pattern) == folders, pattern
    everything = [tmp_path / "checkpoint-5", tmp_path / "*/*.safetensors"]
    assert [os.path.relpath(item.path, tmp_path) for item in discover(everything).items] == folders


def test_a_sweep_does_not_find_its_own_journal(tmp_path):
    touch(tmp_path, "step1.npz", "step2.npz", "results.parquet.sweep/start-1.npz")
    assert found(tmp_path, ".") == ["step1.npz", "step2.npz"]


def test_the_given_order_is_one_trajectory(tmp_path):
    touch(tmp_path, "b.npz", "a.npz")
    items = discover([tmp_path / "b.npz", tmp_path / "a.npz"], "given").items
    assert [Path(item.path).name for item in items] == ["b.npz", "a.npz"]
    assert len({item.trajectory for item in items}) == 1


def test_patterns_that_match_nothing_are_refused(tmp_path):
    touch(tmp_path, "a.npz")
    with pytest.raises(ValueError, match=r"none\*' stands for no checkpoint; expected files or folders"):
        discover([tmp_path / "a.npz", tmp_path / "none*"])
    with pytest.raises(ValueError, match="no path is given"):
        discover([])
    result = run_cli(tmp_path / "none*", "--out", tmp_path / "x.csv")
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "a.npz"]


@pytest.mark.parametrize(
    ("workers", "lengths"), [(1, [6, 3]), (2, [6, 3]), (3, [3, 3, 3]), (9, [1] * 9), (50, [1] * 9)]
)
def test_trajectories_are_cut_for_idle_workers(tmp_path, workers, lengths):
    touch(tmp_path, *(f"a/{i}.npz" for i in range(6)), *(f"b/{i}.npz" for i in range(3)))
    items = discover(tmp_path).items
    parts = segments(items, workers, True)
    assert [len(part) for part in parts] == lengths
    assert [item for part in parts for item in part] == items
    assert [len(part) for part in segments(items, 1, False)] == [1] * 9


# -- where searches start ---------------------------------------------------------------------------------------------


def rotated(base, angle):
    """The first three rows of an orthogonal matrix, each turned towards another row."""
    return np.cos(angle) * base[:3] + np.sin(angle) * base[3:6]


def missed(vectors, start):
    Q = np.linalg.qr(start.T)[0]
    return np.linalg.norm(vectors - vectors @ Q @ Q.T)


def test_smooth_trajectories_are_foretold(rng):
    base = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    signs = np.diag([1.0, -1.0, 1.0])  # singular vectors have no sign
    angles = {0: 0.0, 10: 0.1, 30: 0.3}
    first, second, third = (Vectors("", step, {"W": rotated(base, angle)}) for step, angle in angles.items())
    second.right["W"][:] = signs @ second.right["W"]
    assert starts((), {}) == extrapolated((first,), 10) == {}
    ahead = extrapolated((first, second), 30)
    assert starts((first, second), ahead) == second.right  # nothing is known yet of how smooth it is
    assert foretold((first, second), ahead, third.right) == {"W"}
    smooth = Vectors("", 10, second.right, frozenset(["W"]))
    start = starts((first, smooth), ahead)["W"]
    # Twice the step: the chord 2·0.1 for the arc 0.2 from 0.1 to 0.3 misses by its curvature, about 0.02 + 0.02/2.
    assert missed(third.right["W"], start) < 0.15 * missed(third.right["W"], second.right["W"])
    # Nothing is foretold of what is random, or has another shape; without steps they count as even.
    other = {"W": np.linalg.qr(rng.standard_normal((8, 3)))[0].T}
    unlike = first, Vectors("", 10, other)
    assert foretold(unlike, extrapolated(unlike, 20), {"W": rotated(base, 0.1)}) == frozenset()
    assert foretold((first, second), ahead, {"W": np.eye(3, 9), "V": np.eye(2)}) == frozenset()
    without = Vectors("", None, first.right), Vectors("", None, second.right, smooth.foretold)
    even = starts(without, extrapolated(without, None))["W"]
    assert missed(rotated(base, 0.2), even) < missed(rotated(base, 0.2), second.right["W"]) / 5


def test_starts_change_the_work_and_not_the_answer(tmp_path):
    pattern = make_runs(tmp_path / "runs", (400, 350), 4, drift=1e-4)
    warm = table_of_one_run(pattern, tmp_path / "warm.parquet")
    cold = table_of_one_run(pattern, tmp_path / "cold.parquet", warm=False)
    assert not any(row["warm_from"] for row in cold)
    tensors = [[row for row in rows if row["part"] == "tensor"] for rows in (warm, cold)]
    for a, b in zip(*tensors, strict=True):
        assert a["certified"]
        # Two answers to the tolerance 1e-6.
        assert [a[f"sigma_{i}"] for i in (1, 2, 3)] == pytest.approx([b[f"sigma_{i}"] for i in (1, 2, 3)], rel=2e-6)
    reads = [sum(row["reads"] for row in rows if row["step"] > 0) for rows in tensors]
    assert reads[0] < 0.7 * reads[1]


# -- rows ------------------------------------------------------------------------------------------------------------


def test_rows_are_those_of_the_matrices(runs, tmp_path):
    out = tmp_path / "all.parquet"
    result = sweep(runs, out, **OPTIONS)
    rows = table(out)
    assert (result.files, result.computed, result.skipped, result.rows) == (10, 10, 0, 40)
    assert result.certified
    assert [column.name for column in columns(3)] == pq.read_schema(out).names
    files = [row for row in rows if row["part"] == "file"]
    assert [row["step"] for row in files] == [0, 1, 2, 3, 4] * 2
    paths = [row["path"] for row in files]
    assert [row["warm_from"] for row in files] == [None, *paths[:4], None, *paths[5:9]]
    for row in (row for row in rows if row["part"] == "tensor"):
        W = np.load(row["path"])[row["name"]]
        s = np.linalg.svd(W, compute_uv=False)
        # A residual bounds the error of a singular value (Weyl), and the tolerance is 1e-6.
        assert [row[f"sigma_{i}"] for i in (1, 2, 3)] == pytest.approx(s[:3], abs=1e-6 * s[0])
        assert row["stable_rank"] == pytest.approx((s**2).sum() / s[0] ** 2, rel=1e-5)
        assert row["shape"] == "60x50"
        assert row["certified"]


def test_products_and_pairs_are_rows(tmp_path, rng):
    A, B = rng.standard_normal((2, 16)), rng.standard_normal((12, 2))
    W1, W2 = rng.standard_normal((20, 8)), rng.standard_normal((5, 20))
    np.savez(tmp_path / "a1.npz", **{"q_proj.lora_A.weight": A, "q_proj.lora_B.weight": B})
    np.savez(tmp_path / "b1.npz", W1=W1, W2=W2, b1=np.ones(20))
    out = tmp_path / "all.parquet"
    result = sweep(tmp_path, out, **OPTIONS)
    assert result.certified
    rows = {row["part"]: row for row in table(out)}
    s = np.linalg.svd(B @ A, compute_uv=False)
    product = rows["product"]
    # The scaling is unknown and counts as 1. Decompositions of factors are exact up to rounding.
    assert [product["sigma_1"], product["sigma_2"]] == pytest.approx(s[:2], rel=1e-12)
    assert product["relative_gap"] == pytest.approx(
        np.linalg.norm(B.T @ B - A @ A.T) / np.hypot(np.linalg.norm(B.T @ B), np.linalg.norm(A @ A.T))
    )
    pair = rows["pair"]
    assert pair["name"] == "W1 → W2"
    largest = np.abs(np.linalg.svd(W1)[0][:, :3].T @ np.linalg.svd(W2)[2][:3].T).max()
    assert pair["largest"] == pytest.approx(largest, rel=1e-5)
    assert any("1 not analysed" in row["note"] for row in table(out) if row["part"] == "file" and row["note"])


def test_spectra_alone(tmp_path, rng):
    np.savez(tmp_path / "b1.npz", W1=rng.standard_normal((20, 8)), W2=rng.standard_normal((5, 20)))
    out = tmp_path / "all.parquet"
    sweep(tmp_path, out, **OPTIONS)
    whole = table(out)
    with pytest.raises(ValueError, match="begun with spectra_only False, and now spectra_only True is asked for"):
        sweep(tmp_path, out, **OPTIONS, spectra_only=True)
    sweep(tmp_path, out, **OPTIONS, spectra_only=True, restart=True)
    assert [row["part"] for row in table(out)] == ["file", "tensor", "tensor"]
    assert {row["part"] for row in whole} == {"file", "tensor", "pair"}
    for row, full in zip(table(out)[1:], whole[1:], strict=False):
        assert full["effective_rank"] > 1
        assert row["effective_rank"] is None
        assert (row["sigma_1"], row["tail"]) == (full["sigma_1"], full["tail"])


def test_rules_reach_the_analysis_and_belong_to_the_settings(tmp_path, rng):
    np.savez(tmp_path / "m1.npz", up=rng.standard_normal((20, 8)), down=rng.standard_normal((5, 20)))
    out = tmp_path / "all.parquet"
    arguments = (tmp_path / "m*.npz", "--out", out, "-k", 2)
    assert run_cli(*arguments, "--pair", "up=down").exit_code == 0
    assert [row["name"] for row in table(out) if row["part"] == "pair"] == ["up → down"]
    result = run_cli(*arguments)
    assert result.exit_code == 2
    assert "was begun with rules" in result.stderr


def test_names_from_strangers_neither_break_a_csv_nor_run_in_it(tmp_path):
    evil = ("=HYPERLINK(1)", "+1", "@SUM(1)", "-1.weight", "a\n\x1b[31m\r\0b", "\tq", "a=b")
    save_safetensors(tmp_path / "step1.safetensors", {name: np.diag([-1e-9, 2.0]) for name in evil})
    sweep(tmp_path / "step1.safetensors", tmp_path / "all.csv", **OPTIONS)
    text = (tmp_path / "all.csv").read_bytes().decode()
    assert all(c.isprintable() or c == "\n" for c in text)
    with open(tmp_path / "all.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == text.count("\n") - 1
    names = {row["name"] for row in rows if row["part"] == "tensor"}
    written = {"'=HYPERLINK(1)", "'+1", "'@SUM(1)", "'-1.weight", r"a\n\x1b[31m\r\x00b", r"\tq", "a=b"}
    assert names == written
    assert not any(cell.startswith(("=", "@", "+", "-")) for row in rows for cell in row.values() if not number(cell))


def number(cell):
    try:
        return float(cell) is not None
    except ValueError:
        return False


def test_csv_and_lines_say_the_same(runs, tmp_path):
    for name in ("all.parquet", "all.csv", "all.jsonl"):
        sweep(runs, tmp_path / name, **OPTIONS)
    expected = without_times(table(tmp_path / "all.parquet"))
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    present = [{name: value for name, value in row.items() if value is not None} for row in expected]
    assert without_times(lines) == present
    with open(tmp_path / "all.csv", newline="") as stream:
        cells = without_times(csv.DictReader(stream))
    assert cells == [{name: "" if v is None else str(v) for name, v in row.items()} for row in expected]


def test_other_endings_and_places_are_refused(runs, tmp_path):
    with pytest.raises(ValueError, match=r"ends in '.txt'; expected .parquet, .csv, .jsonl"):
        sweep(runs, tmp_path / "all.txt")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        sweep(runs, tmp_path / "none/all.csv")
    with pytest.raises(ValueError, match="workers is 0"):
        sweep(runs, tmp_path / "all.csv", workers=0)
    with pytest.raises(ValueError, match="order is 'any'"):
        sweep(runs, tmp_path / "all.csv", order="any")


def test_files_of_others_are_not_overwritten(runs, tmp_path):
    out = tmp_path / "all.csv"
    out.write_text("mine")
    with pytest.raises(ValueError, match="is there without the journal of a sweep"):
        sweep(runs, out, **OPTIONS)
    assert out.read_text() == "mine"
    assert sweep(runs, out, **OPTIONS, restart=True).computed == 10


# -- broken files ----------------------------------------------------------------------------------------------------


def test_broken_files_and_tensors_are_rows(runs, tmp_path):
    folder = tmp_path / "runs/run1"
    whole = (folder / "step2.npz").read_bytes()
    (folder / "step2.npz").write_bytes(whole[: len(whole) // 2])
    save_safetensors(folder / "step9.safetensors", {"a": np.array([[1.0, np.nan], [0.0, 1.0]]), "b": np.eye(3)})
    (folder / "step10.safetensors").write_bytes(BROKEN["twice"][0])
    os.symlink(folder / "gone.npz", folder / "step11.npz")
    out = tmp_path / "all.parquet"
    result = run_cli(tmp_path / "runs", "--out", out, "-k", 3, "--threads", 1)
    assert result.exit_code == 3
    assert "3 checkpoints could not be analysed, 1 is not certified" in result.stderr
    rows = table(out)
    errors = {Path(row["path"]).name: row["error"] for row in rows if row["error"]}
    assert sorted(errors) == ["step10.safetensors", "step11.npz", "step2.npz", "step9.safetensors"]
    assert "1 entry is NaN, the first at [0, 1]" in errors["step9.safetensors"]
    assert "'a' is there twice" in errors["step10.safetensors"]
    assert "does not exist" in errors["step11.npz"]
    done = [row for row in rows if row["part"] == "file" and row["status"] == "done"]
    assert len(done) == 10
    after = next(row for row in done if row["path"].endswith("run1/step3.npz"))
    assert after["warm_from"].endswith("run1/step1.npz")  # the last that could be read
    # Again: the same answer, and nothing is read; the file that is whole now is.
    assert run_cli(tmp_path / "runs", "--out", out, "-k", 3, "--threads", 1).exit_code == 3
    assert len(journaled(out)) == 13
    (folder / "step2.npz").write_bytes(whole)
    again = sweep(tmp_path / "runs", out, **OPTIONS)
    assert (again.computed, again.failed, again.uncertified) == (1, 2, 1)
    assert sweep(tmp_path / "runs", out, **OPTIONS, retry_failed=True).computed == 3


@pytest.fixture
def links(tmp_path):
    """Two runs, a folder behind a link, links that lead nowhere or back."""
    touch(tmp_path, "runs/a/step1.npz", "runs/b/step1.npz", "elsewhere/step7.npz")
    os.symlink(tmp_path / "elsewhere", tmp_path / "runs/c")
    os.symlink("loop.npz", tmp_path / "runs/b/loop.npz")
    os.symlink("nowhere", tmp_path / "runs/dead")
    os.symlink("..", tmp_path / "runs/a/back")
    return tmp_path / "runs"


def test_links_are_followed_once_and_told_where_they_lead_nowhere(links, tmp_path):
    everything = ["a/step1.npz", "b/loop.npz", "b/step1.npz", "c/step7.npz", "dead"]
    for pattern in (".", "*", "**", "**/*", "[a-d]*"):
        assert sorted(found(links, pattern)) == everything
    assert sorted(found(links, "*/*.npz")) == everything
    for step in ("a/step1.npz", "b/step1.npz", "c/step7.npz"):
        np.savez(links / step, W1=np.eye(3))
    out = tmp_path / "all.parquet"
    result = run_cli(links, "--out", out, "--threads", 1)
    assert result.exit_code == 3
    errors = {Path(row["path"]).name: row["error"] for row in table(out) if row["error"]}
    assert list(errors) == ["loop.npz", "dead"]
    assert "is a link to 'loop.npz', which leads back to it; expected" in errors["loop.npz"]
    assert "is a link to 'nowhere', which does not exist; expected" in errors["dead"]


def test_folders_that_cannot_be_read_are_rows(runs, tmp_path, monkeypatch):
    touch(tmp_path, "runs/run1/closed/step3.npz", "runs/run3/step1.npz")
    locked = [str(tmp_path / name) for name in ("runs/run1/closed", "runs/run3")]

    def refusing(call):
        def listed(path="."):
            if os.fspath(path) in locked:
                raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
            return call(path)

        return listed

    for name in ("scandir", "listdir"):  # root may read everything
        monkeypatch.setattr(os, name, refusing(getattr(os, name)))
    out = tmp_path / "all.parquet"
    for pattern, closed in (("runs", locked), ("runs/*/step*.npz", locked[1:])):
        result = run_cli(tmp_path / pattern, "--out", out, "-k", 3, "--threads", 1, "--restart")
        assert result.exit_code == 3
        rows = [row for row in table(out) if row["error"]]
        assert sorted(row["path"] for row in rows) == sorted(closed)
        assert all("Permission denied" in row["error"] for row in rows)
        assert len({row["path"] for row in table(out)}) == 10 + len(closed)


TRAINER = (
    "optimizer.pt", "scheduler.pt", "training_args.bin", "rng_state.pth", "rng_state_1.pth", "scaler.pt",
    "global_step5/zero_pp_rank_0_mp_rank_00_optim_states.pt",
)  # fmt: skip


@pytest.mark.parametrize("pattern", ["run", "run/*/*", "run/checkpoint-*", "run/**"])
def test_the_state_of_a_training_is_left_aside_and_named(tmp_path, rng, pattern):
    for step in (500, 1000):
        touch(tmp_path, *(f"run/checkpoint-{step}/{name}" for name in TRAINER))
        save_safetensors(tmp_path / f"run/checkpoint-{step}/model.safetensors", {"W1": rng.standard_normal((4, 4))})
    touch(tmp_path, "run/training_args.bin")
    assert [item.step for item in discover(str(tmp_path / pattern)).items] == [500, 1000]
    for arguments in (["--dry-run"], [], []):
        result = run_cli(tmp_path / pattern, "--out", tmp_path / "all.csv", *arguments)
        assert result.exit_code == 0
        if pattern != "run/checkpoint-*":  # folders that are models: what else is in them is told of each
            assert "with the state of a training and no model: " in result.stdout
            assert "training_args.bin" in result.stdout


def test_single_files_beside_the_state_of_a_training(tmp_path):
    touch(tmp_path, "run/1/step1.pt", "run/1/optimizer.pt", "run/2/rng_state.pth")
    assert found(tmp_path, "run/*/*.pt") == ["run/1/step1.pt"]
    assert discover(str(tmp_path / "run")).left_aside == (
        str(tmp_path / "run/1/optimizer.pt"),
        str(tmp_path / "run/2/rng_state.pth"),
    )
    named = tmp_path / "run/1/optimizer.pt"
    assert [item.path for item in discover(named).items] == [str(named)]  # asked for in full
    with pytest.raises(
        ValueError, match=r"stands for no checkpoint \(1 file with the state of a training and no model"
    ):
        discover(str(tmp_path / "run/2/*"))


def test_tensors_that_their_shard_lacks_are_rows(tmp_path, rng):
    shard = {f"layers.{i}.weight": rng.standard_normal((5, 5)) for i in (0, 2)}
    save_shards(tmp_path / "step1", {"1.safetensors": shard}, **{"layers.1.weight": "1.safetensors"})
    result = run_cli(tmp_path / "step*", "--out", tmp_path / "all.parquet")
    assert result.exit_code == 3
    assert "0 checkpoints could not be analysed, 1 is not certified" in result.stderr
    rows = table(tmp_path / "all.parquet")
    assert (rows[0]["status"], rows[0]["certified"]) == ("done", False)
    (lacking,) = [row for row in rows if row["error"]]
    assert (lacking["name"], lacking["status"], lacking["certified"]) == ("layers.1.weight", "failed", False)
    assert lacking["error"] == "the index has it in '1.safetensors', which does not hold it"


def test_a_file_that_changes_while_it_is_read_is_no_result(runs, tmp_path, monkeypatch):
    real = work._analysis

    def changing(task, start, progress):
        found = real(task, start, progress)
        if task.path.endswith("run1/step1.npz"):
            np.savez(task.path, W1=np.eye(3))
        return found

    monkeypatch.setattr(work, "_analysis", changing)
    out = tmp_path / "all.parquet"
    assert sweep(runs, out, **OPTIONS).failed == 1
    assert ["changed while it was read" in row["error"] for row in table(out) if row["error"]] == [True]
    monkeypatch.undo()
    monkeypatch.setattr(planning, "_rates", lambda todo, k, threads: (1e9, 1e9))
    again = sweep(runs, out, **OPTIONS)
    assert (again.computed, again.failed) == (1, 0)


def test_names_that_are_no_utf8(tmp_path):
    place = os.fsencode(tmp_path) + b"/step\xff1.npz"
    try:
        with open(place, "wb") as stream:
            np.savez(stream, W1=np.eye(3))
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    out = tmp_path / "all.parquet"
    assert sweep(tmp_path, out, k=1).computed == 1
    assert sweep(tmp_path, out, k=1).computed == 0
    assert table(out)[0]["path"].endswith(r"step\udcff1.npz")


# -- going on --------------------------------------------------------------------------------------------------------


def test_finished_sweeps_say_so_and_take_new_files(runs, tmp_path):
    out = tmp_path / "all.parquet"
    arguments = (runs, "--out", out, "-k", 3, "--threads", 1)
    assert run_cli(*arguments).exit_code == 0
    first = table(out)
    result = run_cli(*arguments)
    assert result.exit_code == 0
    assert "everything is done: 10 checkpoints, 40 rows" in result.stdout
    assert table(out) == first
    np.savez(tmp_path / "runs/run1/step5.npz", W1=np.eye(4))
    os.remove(tmp_path / "runs/run2/step0.npz")  # its rows stay
    again = sweep(runs, out, **OPTIONS)
    assert (again.files, again.computed, again.skipped, again.rows) == (10, 1, 9, 42)
    assert not list(folder_of(out).glob("start-*"))


def test_changed_files_are_done_again(runs, tmp_path):
    out = tmp_path / "all.parquet"
    sweep(runs, out, **OPTIONS)
    np.savez(tmp_path / "runs/run2/step3.npz", W1=7.0 * np.eye(4))
    assert sweep(runs, out, **OPTIONS).computed == 1
    changed = [row for row in table(out) if row["path"].endswith("run2/step3.npz")]
    assert [row["sigma_1"] for row in changed if row["part"] == "tensor"] == [7.0]


def test_what_belongs_to_a_checkpoint(tmp_path):
    shards = {f"model-0000{i}-of-00002.safetensors": {f"W{i}": np.eye(3) * i} for i in (1, 2)}
    folder, out = save_shards(tmp_path / "checkpoint-1", shards), tmp_path / "checkpoint-1/all.csv"
    (folder / "optimizer.pt").write_bytes(bytes(10_000))
    first = sweep(tmp_path, out, k=1)
    assert (first.computed, first.failed) == (1, 0)
    assert first.nbytes == sum(file.stat().st_size for file in folder.glob("model*"))
    assert sweep(tmp_path, out, k=1).computed == 0  # the table beside it does not count
    (folder / "optimizer.pt").unlink()
    assert sweep(tmp_path, out, k=1).computed == 0
    (folder / "config.json").write_text("{}")
    assert sweep(tmp_path, out, k=1).computed == 1
    save_safetensors(folder / next(iter(shards)), {"W1": np.eye(3) * 5})
    assert sweep(tmp_path, out, k=1).computed == 1
    with open(out, newline="") as stream:
        assert [row["sigma_1"] for row in csv.DictReader(stream) if row["part"] == "tensor"] == ["5.0", "2.0"]


def test_other_settings_are_refused(runs, tmp_path):
    out = tmp_path / "all.parquet"
    sweep(runs, out, **OPTIONS)
    with pytest.raises(ValueError, match=r"was begun with k 3, seed 0, and now k 2, seed 1 is asked for; expected the"):
        sweep(runs, out, k=2, seed=1)
    result = run_cli(runs, "--out", out, "-k", 2)
    assert result.exit_code == 2
    assert "--restart" in result.stderr
    assert run_cli(runs, "--out", out, "-k", 2, "--restart").exit_code == 0
    assert "sigma_3" not in table(out)[0]


def test_torn_and_damaged_journals(runs, tmp_path):
    out = tmp_path / "all.parquet"
    sweep(runs, out, **OPTIONS)
    whole, rows = (folder_of(out) / "journal.jsonl").read_bytes(), without_times(table(out))
    lines = whole.splitlines(keepends=True)
    flipped = whole.replace(b'"sigma_1":', b'"sigma_2":', 1)
    cases = {
        "torn": (whole[:-20], 1),
        "torn at a digit of the checksum": (b"".join(lines[:-2]) + lines[-2][:3], 2),
        "without the last newline": (whole[:-1], 1),
        "without settings": (lines[0][:30], 10),
        "empty": (b"", 10),
        "flipped": (flipped, 1),
        "a line of another": (whole.replace(lines[3], b"nonsense\n"), 1),
    }
    for name, (content, missing) in cases.items():
        (folder_of(out) / "journal.jsonl").write_bytes(content)
        again = sweep(runs, out, **OPTIONS)
        assert again.computed == missing, name
        for row, expected in zip(without_times(table(out)), rows, strict=True):
            for column, value in expected.items():
                if column not in ("warm_from", "reads", "residual"):  # a search that starts elsewhere ends elsewhere
                    near = pytest.approx(value, rel=1e-5) if isinstance(value, float) else value
                    assert row[column] == near, (name, column)
    (folder_of(out) / "journal.jsonl").write_bytes(b"0" * 40 + b"\n" + b"".join(lines[1:]))
    with pytest.raises(ValueError, match=r"holds no journal of a sweep; expected one, or --restart"):
        sweep(runs, out, **OPTIONS)


def test_two_sweeps_at_once_are_refused(runs, tmp_path):
    out = tmp_path / "all.parquet"
    settings = {"flatcore": "any"}
    with Journal(out, settings), pytest.raises(ValueError, match="another sweep is writing"):
        sweep(runs, out, **OPTIONS)


def run_limited(nbytes, *arguments):
    """The command line in a process none of whose files may become larger."""

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, nbytes))

    script = [sys.executable, "-P", "-c", "from flatcore.cli import main; main()", "sweep", *map(str, arguments)]
    return subprocess.run(script, capture_output=True, text=True, timeout=300, preexec_fn=limited, check=False)


def test_a_full_disk_ends_a_sweep_and_loses_nothing(runs, tmp_path):
    out = tmp_path / "all.parquet"
    expected = without_times(table_of_one_run(runs, tmp_path / "whole.parquet"))
    done = run_limited(6000, runs, "--out", out, "-k", "3", "--threads", "1")
    assert done.returncode == 2, done.stderr
    assert f"flatcore: {folder_of(out) / 'journal.jsonl'}: File too large; what is finished is kept" in done.stderr
    assert "Traceback" not in done.stderr
    before = len(journaled(out))
    assert 0 < before < 10
    assert sweep(runs, out, **OPTIONS).computed == 10 - before
    assert without_times(table(out)) == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_start_vectors_that_cannot_be_kept_are_told_once(tmp_path, workers):
    pattern, out = make_runs(tmp_path / "runs", (40, 2000), 3), tmp_path / "all.parquet"
    options = ("-k", "3", "--threads", "1", "--workers", str(workers), "--spectra-only")
    done = run_limited(40_000, pattern, "--out", out, *options)  # three matrices leave 3·3·2000·4 bytes or more
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("start vectors cannot be kept") == 1
    assert [row["warm_from"] for row in table(out) if row["part"] == "file"] == [None] * 6
    assert sorted(file.name for file in folder_of(out).iterdir()) == ["journal.jsonl"]


def test_a_table_that_cannot_be_written_is_named(runs, tmp_path):
    out = tmp_path / "all.csv"
    assert sweep(runs, out, **OPTIONS).certified
    done = run_limited(3000, runs, "--out", out, "-k", "3", "--threads", "1")
    assert done.returncode == 2, done.stderr
    assert f"flatcore: {out}: File too large; what is finished is kept in the journal" in done.stderr


def table_of_one_run(pattern, out, **options):
    sweep(pattern, out, **OPTIONS, **options)
    return table(out)


def test_damaged_vectors_cost_work_alone(tmp_path):
    vectors = Vectors("/a/step1.npz", 1, {"W": np.eye(3), "\ud800/b": np.ones((2, 4))}, frozenset(["W"]))
    with Journal(tmp_path / "x.csv", {"flatcore": "any"}) as journal:
        journal.keep_vectors(vectors)
        back = journal.vectors(vectors.path)
        assert (back.step, back.foretold, list(back.right)) == (1, {"W"}, ["W", "\ud800/b"])
        assert all((back.right[name] == rows).all() for name, rows in vectors.right.items())
        assert journal.vectors("/a/step2.npz") is None
        [file] = journal.folder.glob("start-*")
        whole = file.read_bytes()
        for content in (
            b"",
            whole[: len(whole) // 2],
            whole.replace(np.ones((2, 4)).tobytes(), bytes(64)),
            b"\0" * 900,
        ):
            file.write_bytes(content)
            assert journal.vectors(vectors.path) is None
        head = {"step": 1, "names": ["W"], "foretold": []}
        for said, rows in (
            ([], np.eye(3)),
            ("{", np.eye(3)),
            (3, np.eye(3)),
            ({**head, "names": ["W", "V"]}, np.eye(3)),
            ({**head, "names": [[]]}, np.eye(3)),
            ({**head, "step": "1"}, np.eye(3)),
            ({**head, "foretold": None}, np.eye(3)),
            (head, np.full((2, 2), np.nan)),
            (head, np.ones(3)),
            (head, np.ones((0, 3))),
            (head, np.array([["a"]])),
        ):
            with open(file, "wb") as stream:
                np.savez(stream, head=said if isinstance(said, str) else json.dumps(said), v0=rows)
            assert journal.vectors(vectors.path) is None, said


# -- kills -----------------------------------------------------------------------------------------------------------


def start_script(pattern, out, workers, **options):
    script = Path(__file__).with_name("sweep_workers.py")
    return subprocess.Popen([sys.executable, "-P", script, pattern, out, str(workers)], **options)


def wait_for(condition, process=None, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        if process is not None and process.poll() is not None:
            return
        time.sleep(0.002)


def size_of_journal(out):
    place = folder_of(out) / "journal.jsonl"
    return place.stat().st_size if place.exists() else 0


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_any_moment_it_repeats_nothing_and_loses_nothing(tmp_path, workers):
    pattern = make_runs(tmp_path / "runs", (400, 350), 6)
    expected = without_times(table_of_one_run(pattern, tmp_path / "whole.parquet"))
    out, random_ = tmp_path / "all.parquet", random.Random(workers)
    kills = 0
    while True:
        size = size_of_journal(out)
        process = start_script(pattern, out, workers)
        if kills < 4:
            wait_for(lambda: size_of_journal(out) > size, process)  # noqa: B023
            time.sleep(random_.uniform(0.0, 0.15))
            process.kill()
        code = process.wait(timeout=300)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    paths = journaled(out)
    assert sorted(set(paths)) == sorted(paths)  # each once
    assert len(paths) == 12
    assert without_times(table(out)) == expected  # to the last bit
    assert not list(folder_of(out).glob("start-*"))


def test_workers_end_with_their_parent(tmp_path):
    pattern = make_runs(tmp_path / "runs", (400, 350), 6)
    out = tmp_path / "all.parquet"
    process = start_script(pattern, out, 2)
    wait_for(lambda: size_of_journal(out) > 2000, process)
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    assert len(children) >= 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_keeps_what_is_finished(tmp_path, workers):
    pattern = make_runs(tmp_path / "runs", (500, 450), 8)
    out = tmp_path / "all.parquet"
    script = [sys.executable, "-P", "-c", "from flatcore.cli import main; main()"]
    arguments = ["sweep", pattern, "--out", out, "-k", "3", "--threads", "1", "--workers", str(workers)]
    process = subprocess.Popen([*script, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_for(lambda: size_of_journal(out) > 3000, process)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers hear it too
    _, errors = process.communicate(timeout=120)
    seconds = time.monotonic() - began
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "flatcore: interrupted"
    assert "Traceback" not in errors
    assert seconds < 10  # 1 s on an idle machine
    files = [row for row in table(out) if row["part"] == "file"]
    assert 0 < len(files) < 16
    assert len(files) == len(journaled(out))
    assert sweep(pattern, out, **OPTIONS).skipped == len(files)


# -- workers ---------------------------------------------------------------------------------------------------------


def test_processes_give_the_rows_of_one(runs, tmp_path):
    expected = table_of_one_run(runs, tmp_path / "one.parquet")
    rows = table_of_one_run(runs, tmp_path / "two.parquet", workers=2)
    assert without_times(rows) == without_times(expected)


def test_a_worker_that_dies_loses_nothing(runs, tmp_path, monkeypatch):
    expected = table_of_one_run(runs, tmp_path / "one.parquet")
    monkeypatch.setattr(sweeping, "LocalProcesses", functools.partial(LocalProcesses, function=dies_once))
    rows = table_of_one_run(runs, tmp_path / "two.parquet", workers=2)
    assert (tmp_path / "runs/died").exists()
    assert without_times(rows) == without_times(expected)
    assert len(journaled(tmp_path / "two.parquet")) == 10


def test_workers_that_die_without_a_task_are_replaced():
    pool = LocalProcesses(2, abs)
    try:
        for future in [pool.submit(-3), pool.submit(-4)]:
            future.result(timeout=120)
        dead = [process.started.result() for process in pool._processes]
        for process in pool._processes:
            os.kill(process.started.result(), signal.SIGKILL)
            wait_for(lambda: process.executor._broken)  # noqa: B023
        assert pool.submit(-5).result(timeout=120) == 5
        assert not {process.started.result() for process in pool._processes}.intersection(dead)
    finally:
        pool.kill()


def test_a_file_that_kills_its_workers_is_a_row(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(sweeping, "LocalProcesses", functools.partial(LocalProcesses, function=dies_always))
    result = sweep(runs, tmp_path / "two.parquet", **OPTIONS, workers=2)
    assert (result.computed, result.failed, result.uncertified) == (10, 1, 0)
    [row] = [row for row in table(tmp_path / "two.parquet") if row["error"]]
    assert row["path"].endswith("run1/step2.npz")
    assert "its worker process died 3 times" in row["error"]


def test_executors_of_the_caller(runs, tmp_path):
    expected = without_times(table_of_one_run(runs, tmp_path / "one.parquet"))
    with ThreadPoolExecutor(2) as executor:
        assert without_times(table_of_one_run(runs, tmp_path / "two.parquet", executor=executor)) == expected
        assert executor.submit(int, 3).result() == 3  # it is not shut down


def test_workers_that_cannot_work_end_the_sweep(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(work.Task, "__init__", functools.partialmethod(work.Task.__init__, version="0.0"))
    out = tmp_path / "all.parquet"
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ConnectionError, match=r"flatcore 0.0 asks a worker that has"),
    ):
        sweep(runs, out, **OPTIONS, executor=executor)
    assert journaled(out) == []


class Elsewhere(ThreadPoolExecutor):
    """One whose workers die of a task, as Dask tells it."""

    def submit(self, function, task):
        return super().submit(self.killed if task.path.endswith("run1/step2.npz") else function, task)

    @staticmethod
    def killed(task):
        raise type("KilledWorker", (Exception,), {})("4 of them")


def test_a_file_that_kills_workers_elsewhere_is_a_row(runs, tmp_path):
    with Elsewhere(1) as executor:
        result = sweep(runs, tmp_path / "all.parquet", **OPTIONS, executor=executor)
    assert (result.computed, result.failed) == (10, 1)
    assert [row["error"] for row in table(tmp_path / "all.parquet") if row["error"]] == ["its workers died (4 of them)"]


def test_an_executor_that_breaks_ends_the_sweep_and_loses_nothing(runs, tmp_path):
    out = tmp_path / "all.parquet"
    expected = without_times(table_of_one_run(runs, tmp_path / "one.parquet"))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        pid = executor.submit(os.getpid).result()

        def progress(what, fraction):
            if what.startswith("3 of"):
                os.kill(pid, signal.SIGKILL)

        with pytest.raises(ConnectionError, match=r"the executor takes no more tasks .* what is finished is kept"):
            sweep(runs, out, **OPTIONS, executor=executor, progress=progress)
    assert len(journaled(out)) >= 3
    assert sweep(runs, out, **OPTIONS).skipped >= 3
    assert without_times(table(out)) == expected


# -- a cluster -------------------------------------------------------------------------------------------------------


def dask(part, *arguments):
    command = [sys.executable, "-P", "-m", f"distributed.cli.dask_{part}", *map(str, arguments), "--no-dashboard"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def end(processes):
    for process in processes:
        process.kill()
    for process in processes:
        process.wait()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """The file of a scheduler that has a process of its own."""
    file = tmp_path_factory.mktemp("cluster") / "scheduler.json"
    process = dask("scheduler", "--port", 0, "--host", "127.0.0.1", "--scheduler-file", file)
    wait_for(file.exists)
    yield file
    end([process])


@pytest.fixture
def workers(scheduler, tmp_path):
    """Two worker processes of one thread each, without nannies that would start them again."""
    options = ("--scheduler-file", scheduler, "--nthreads", 1, "--no-nanny", "--local-directory", tmp_path)
    processes = [dask("worker", *options) for _ in range(2)]
    yield processes
    end(processes)


def test_a_cluster_one_of_whose_workers_is_killed(scheduler, workers, tmp_path):
    pattern = make_runs(tmp_path / "runs", (400, 350), 6)
    expected = without_times(table_of_one_run(pattern, tmp_path / "one.parquet"))
    out = tmp_path / "all.parquet"

    def progress(what, fraction):
        if what.startswith("3 of"):  # tasks are under way on both
            workers[0].kill()

    with dask_executor(str(scheduler)) as executor:
        wait_for(lambda: len(executor._client.nthreads()) == 2)
        result = sweep(pattern, out, **OPTIONS, executor=executor, workers=2, progress=progress)
        assert len(executor._client.nthreads()) == 1
    assert workers[0].wait() == -signal.SIGKILL
    assert (result.computed, result.failed) == (12, 0)
    assert sorted(set(journaled(out))) == sorted(journaled(out))
    assert without_times(table(out)) == expected


def test_the_command_line_on_a_cluster(scheduler, workers, runs, tmp_path, monkeypatch):
    expected = without_times(table_of_one_run(runs, tmp_path / "one.parquet"))
    monkeypatch.setattr(sweeping, "LocalProcesses", None)
    address = json.loads(scheduler.read_text())["address"]
    for number, where in enumerate((scheduler, address)):
        out = tmp_path / f"all{number}.parquet"
        result = run_cli(runs, "--out", out, "-k", 3, "--threads", 1, "--workers", 2, "--scheduler", where)
        assert result.exit_code == 0, result.stderr
        assert without_times(table(out)) == expected


def test_a_scheduler_that_goes_ends_the_sweep_and_loses_nothing(tmp_path, caplog):
    pattern = make_runs(tmp_path / "runs", (400, 350), 6)
    file, out = tmp_path / "scheduler.json", tmp_path / "all.parquet"
    processes = [dask("scheduler", "--port", 0, "--host", "127.0.0.1", "--scheduler-file", file)]
    wait_for(file.exists)
    options = ("--scheduler-file", file, "--nthreads", 1, "--no-nanny", "--local-directory", tmp_path)
    processes.append(dask("worker", *options))

    def progress(what, fraction):
        if what.startswith("3 of"):
            processes[0].kill()

    try:
        with dask_executor(str(file)) as executor, pytest.raises(ConnectionError, match="what is finished is kept"):
            sweep(pattern, out, **OPTIONS, executor=executor, workers=2, progress=progress)
    finally:
        end(processes)
    assert not [record for record in caplog.records if record.name == "distributed.client"]
    assert sweep(pattern, out, **OPTIONS).skipped >= 3


def test_dask_that_is_missing(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    result = run_cli(runs, "--out", tmp_path / "x.csv", "--scheduler", "tcp://127.0.0.1:9")
    assert result.exit_code == 2
    assert "pip install 'flatcore[scale]'" in result.stderr


def test_schedulers_that_are_not_there(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "ANSWER_WITHIN", 1.0)
    result = run_cli(runs, "--out", tmp_path / "x.csv", "--scheduler", "tcp://127.0.0.1:9")
    assert result.exit_code == 2
    assert "no scheduler answers at tcp://127.0.0.1:9" in result.stderr
    result = run_cli(runs, "--out", tmp_path / "x.csv", "--scheduler", tmp_path / "none.json")
    assert result.exit_code == 2
    assert "none.json" in result.stderr


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"address": 3}', '{"address": "nowhere"}', b"\xff"])
def test_files_that_no_scheduler_wrote(runs, tmp_path, content):
    file = tmp_path / "bad.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = run_cli(runs, "--out", tmp_path / "x.csv", "--scheduler", file)
    assert result.exit_code == 2
    assert "bad.json is not what dask scheduler --scheduler-file writes" in result.stderr


@pytest.mark.parametrize("address", ["nonsense", "tcp://host", "host:port", "tcp://host:99999", ":8786", ""])
def test_addresses_that_are_none(runs, tmp_path, address):
    result = run_cli(runs, "--out", tmp_path / "x.csv", "--scheduler", address)
    assert result.exit_code == 2
    assert f"{address!r} is no address of a scheduler; expected tcp://host:8786" in result.stderr


# -- estimates -------------------------------------------------------------------------------------------------------


def test_dry_runs_say_what_would_be_done_and_do_nothing(runs, tmp_path):
    out = tmp_path / "all.parquet"
    before = sorted(tmp_path.rglob("*"))
    result = run_cli(runs, "--out", out, "--dry-run", "--json", "-")
    assert result.exit_code == 0
    plan = json.loads(result.stdout)["plan"]
    assert sorted(tmp_path.rglob("*")) == before
    assert [Path(path).name for path in plan["paths"]] == [f"step{step}.npz" for step in range(5)] * 2
    assert [files for _, files, _ in plan["trajectories"]] == [5, 5]
    assert plan["nbytes"] == sum(Path(path).stat().st_size for path in plan["paths"])
    assert plan["entries"] == pytest.approx(10 * 3 * 60 * 50, rel=0.01)
    assert plan["largest"] == 8 * 60 * 50
    assert plan["memory"] == 2 * plan["largest"] + 300_000_000
    cold, warm = plan["reads"]
    assert (cold, warm) == (planning.COLD_READS + planning.REST_READS, planning.WARM_READS + planning.REST_READS)
    passes = (2 * cold + 8 * warm) / 10  # two of ten are cold; the rates are 10⁹ here
    assert plan["seconds"] == pytest.approx((plan["nbytes"] + passes * plan["entries"]) / 1e9 + 0.1)
    assert sweep(runs, out, **OPTIONS).frame()["computed"] == [10]
    foreseen = sweep(runs, out, **OPTIONS, dry_run=True)
    assert (foreseen.plan.done, foreseen.plan.paths) == (10, ())


@pytest.mark.parametrize("dry_run", [True, False])
def test_places_that_take_no_files_are_foreseen(runs, dry_run):
    with pytest.raises(OSError, match=r"^/proc/x.jsonl cannot be written: /proc takes no files"):
        sweep(runs, "/proc/x.jsonl", dry_run=dry_run)


def test_workers_that_do_not_fit_are_left_out(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "available_memory", lambda: 700_000_000)
    plan = sweep(runs, tmp_path / "all.csv", workers=4, dry_run=True).plan
    assert plan.workers == 2
    assert plan.note == "2 of 4 workers fit into the memory that is free"
    monkeypatch.setattr(planning, "available_memory", lambda: 200_000_000)
    with pytest.raises(MemoryError, match=r"one worker needs 300 MB; 200 MB are available"):
        sweep(runs, tmp_path / "all.csv", dry_run=True)
    with ThreadPoolExecutor(4) as elsewhere:  # other machines' memory is not known
        assert sweep(runs, tmp_path / "all.csv", executor=elsewhere, dry_run=True).plan.workers == 4


def test_rates_are_measured(runs, monkeypatch):
    monkeypatch.undo()
    items = discover(runs).items
    read_rate, product_rate = planning._rates(items, 3, 1)
    assert 1e5 < read_rate < 1e12
    assert 1e6 < product_rate < 1e12


def test_the_cost_model():
    cost = cluster_cost(10, 4e9, 2e9, 1e8, workers=2, read_rate=1e9, product_rate=4e9, passes=16)
    assert cost.seconds == 4 + 8
    assert cost.hours == pytest.approx(10 * 12 / 2 / 3600)
    assert (cost.nbytes, cost.products, cost.memory) == (4e10, 10 * 16 * 2e9, 5e8)
    assert cost.rate == pytest.approx(2 * 4e9 / 12)


DOCS = (Path(__file__).parents[1] / "docs/cluster.md").read_text(encoding="utf-8")


def test_the_documented_costs_are_those_of_the_formula():
    asked = {
        "checkpoints": 10_000,
        "nbytes": 70e9,
        "entries": 35e9,
        "largest": 2.1e9,
        "product_rate": 32e9,
        "passes": 15,
    }
    assert cost_table(**asked, workers=(16, 128), read_rates=(0.5e9, 1e9, 2e9)) in DOCS
    cost = cluster_cost(**asked, workers=128, read_rate=1e9)
    said = (
        f"reads {cost.nbytes / 1e12:g} TB and multiplies {cost.products:.3g} entries with four vectors; a worker needs"
    )
    assert f"{said} {cost.memory / 1e9:g} GB" in DOCS
    row = next(line for line in DOCS.splitlines() if line.startswith("| 128 | 1 |"))
    seconds, together, hours = (float(cell) for cell in row.split("|")[3:6])
    assert seconds == pytest.approx(70e9 / 1e9 + 15 * 35e9 / 32e9, rel=0.005)
    assert hours == pytest.approx(10_000 * seconds / 128 / 3600, rel=0.01)
    assert together == pytest.approx(128 * 70 / seconds, rel=0.01)


def test_the_documented_columns_are_those_of_the_table():
    documented = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+) \|$", DOCS, re.MULTILINE)
    assert documented == [tuple(column) for column in columns(1)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rules": "heads = 3"}, r"rules is 'heads = 3'; expected Rules"),
        ({"executor": 3}, "executor is 3; expected a concurrent.futures.Executor"),
        ({"executor": ThreadPoolExecutor}, "executor is <class"),
        ({"started": 3}, "started is 3; expected a function of the plan"),
        ({"progress": 3}, "progress is 3; expected a function"),
        ({"warm": "no"}, "warm is 'no'; expected True or False"),
        ({"dry_run": 1}, "dry_run is 1; expected True or False"),
        ({"paths": 3}, "a path is 3; expected paths and patterns"),
        ({"paths": None}, "a path is None; expected paths"),
        ({"paths": [3]}, "a path is 3; expected paths"),
        ({"paths": b"m.npz"}, "a path is b'm.npz'; expected paths"),
    ],
)
def test_arguments_of_another_kind_are_refused_by_name(tmp_path, arguments, message):
    np.savez(tmp_path / "m.npz", W1=np.eye(3))
    with pytest.raises(ValueError, match=re.escape(message)):
        sweep(**{"paths": tmp_path / "m.npz", "out": tmp_path / "all.csv", **arguments})
    assert os.listdir(tmp_path) == ["m.npz"]


def test_one_is_no_plural(tmp_path):
    np.savez(tmp_path / "m.npz", W1=np.eye(3))
    (tmp_path / "broken.npz").write_bytes(b"PK")
    first = run_cli(tmp_path / "broken.npz", "--out", tmp_path / "x.csv")
    assert "flatcore: 1 checkpoint could not be analysed, 0 are not certified" in first.stderr
    for _ in range(2):
        again = run_cli(tmp_path / "m.npz", "--out", tmp_path / "all.csv")
    assert "everything is done: 1 checkpoint, 2 rows" in again.stdout
    plan = run_cli(tmp_path / "m.npz", "--out", tmp_path / "all.csv", "--dry-run", "--restart").stdout
    assert not re.search(r"\b1 (checkpoints|segments|workers|rows)\b", first.stderr + again.stdout + plan)


def test_patterns_pass_over_a_sweep_s_own_files(tmp_path):
    make_runs(tmp_path / "runs", (30, 20), 2)
    vectors = tmp_path / "runs/t.csv.sweep/start-1.npz"
    vectors.parent.mkdir()
    np.savez(vectors, V=np.eye(3))
    for pattern in ("**/*.npz", "*"):
        assert not any("t.csv" in item.path for item in discover(f"{tmp_path}/runs/{pattern}").items)
    assert [item.path for item in discover(f"{vectors.parent}/*.npz").items] == [str(vectors)]


def test_numbers_beyond_64_bits_are_no_steps(tmp_path):
    np.savez(tmp_path / "ckpt_98437598347598347598347.npz", W=np.eye(3))
    np.savez(tmp_path / f"ckpt_{2**63 - 1}.npz", W=np.eye(3))
    assert sorted((item.step for item in discover(tmp_path).items), key=str) == [2**63 - 1, None]
    sweep(tmp_path, tmp_path / "t.parquet", k=1)
    assert (tmp_path / "t.parquet").exists()


def test_the_table_takes_trajectories_as_they_are_now(tmp_path):
    for epoch in (1, 2):
        folder = tmp_path / f"epoch{epoch}"
        folder.mkdir()
        np.savez(folder / "v2.npz", W=np.eye(3) * epoch)
        sweep(f"{tmp_path}/epoch*/v2.npz", tmp_path / "t.jsonl", k=1)
    rows = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert {(row["trajectory"], row["step"]) for row in rows} == {(f"{tmp_path}/epoch#/v2.npz", n) for n in (1, 2)}


def test_what_a_progress_raises_is_no_checkpoint_s_fault(tmp_path):
    def hears(*_):
        raise BrokenPipeError("gone")

    np.savez(tmp_path / "m.npz", W=np.eye(30))
    pool = pools.Here(lambda task: hears)
    with pytest.raises(BrokenPipeError, match="gone"):
        pool.submit(work.Task(str(tmp_path / "m.npz"), None, {"k": 1}))


def test_processes_are_killed_before_they_have_begun():
    pool = pools.LocalProcesses(1, function=takes_a_minute)
    pool.submit(None)
    began = time.monotonic()
    children = [child for process in pool._processes for child in process.executor._processes.values()]
    pool.kill()
    for child in children:
        child.join()
    assert time.monotonic() - began < 5.0
