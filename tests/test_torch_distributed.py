"""Shards of the data on two ranks of torchrun give the answers of one process with all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch_ranks import problem

import flatcore as fc

TOLERANCE = 1e-9  # sums in another order, in float64


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks") / "answers.npz"
    script = Path(__file__).with_name("torch_ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(out))


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
@pytest.mark.parametrize("wrapped", ["plain", "ddp"])
def test_two_ranks_give_the_answer_of_one(found, curvature, wrapped):
    model, x, y = problem()
    H = fc.torch.Hessian(model, nn.CrossEntropyLoss(), (x, y), curvature=curvature)
    v = np.random.default_rng(1).standard_normal((H.shape[0], 3))
    exact = {"value": H.value, "gradient": H.gradient().numpy(), "product": H @ v, "top": fc.eigsh(H, 2).values}
    for name, expected in exact.items():
        answer = found[f"{curvature}-{wrapped}-{name}"]
        tolerance = 1e-6 if name == "top" else TOLERANCE
        assert np.abs(answer - expected).max() <= tolerance * np.abs(expected).max(), name


def test_all_ranks_hold_the_same_bits(found):
    assert found["same"]


def test_a_rank_by_itself_sees_its_own_shard(found):
    model, x, y = problem()
    with torch.no_grad():
        assert found["alone"] == pytest.approx(float(nn.functional.cross_entropy(model(x[::2]), y[::2])), rel=1e-12)


def test_ranks_choose_the_same_however_uneven_their_shards(found):
    model, x, y = problem()
    exact = fc.eigsh(fc.torch.Hessian(model, nn.CrossEntropyLoss(), (x, y)), 2).values
    assert np.abs(found["uneven"] - exact).max() <= 1e-6 * exact[0]


def test_a_rank_may_have_no_data(found):
    model, x, y = problem()
    assert found["empty"] == pytest.approx(fc.torch.Hessian(model, nn.CrossEntropyLoss(), (x[1::2], y[1::2])).value)


def test_what_fails_on_one_rank_fails_on_all(found):
    assert "failed on another rank" in str(found["broken-refusal"])


def test_parameters_that_differ_between_ranks_are_refused(found):
    assert "the model's parameters differs between the ranks" in str(found["parameters-refusal"])


def test_targets_of_other_shapes_on_other_ranks_are_refused(found):
    text = str(found["shapes-refusal"])
    assert "targets have different shapes on the ranks, here (…, 4)" in text
    assert "different numbers of entries; pass forward=" in text


def test_vectors_that_differ_between_ranks_are_refused(found):
    assert "v differs between the ranks" in str(found["refusal"])


@pytest.mark.parametrize("kind", ["fsdp", "tensor"])
def test_sharded_parameters_are_refused_with_the_reason(found, kind):
    text = str(found[f"{kind}-refusal"])
    assert "is a DTensor" in text
    assert "sharded over ranks" in text
    assert "full state dict" in text
