"""`flatcore inspect`: what tensors are taken for, by the names that models give them, and the table of a file."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from checkpoint_files import BROKEN, broken_headers, save_safetensors, save_shards, with_header
from torch import nn
from typer.testing import CliRunner

import flatcore as fc
from flatcore import cli
from flatcore.io.roles import role_of

COMMAND = [sys.executable, "-P", "-c", "from flatcore.cli import main; main()", "inspect"]


def run(*arguments):
    result = CliRunner().invoke(cli.app, ["inspect", *map(str, arguments)])
    assert "Traceback" not in result.stderr
    return result


# Names of one block, and of what stands before and after the blocks, as the libraries write them.
D, N, V, T = 4, 12, 9, 6  # width, width of MLPs, vocabulary, positions
GPT2 = {
    "wte.weight": ((V, D), "embedding"),
    "wpe.weight": ((T, D), "embedding"),
    "h.0.ln_1.weight": ((D,), "norm"),
    "h.0.ln_1.bias": ((D,), "norm"),
    "h.0.attn.bias": ((1, 1, T, T), "buffer"),
    "h.0.attn.masked_bias": ((), "buffer"),
    "h.0.attn.c_attn.weight": ((D, 3 * D), "attention q, k and v"),
    "h.0.attn.c_attn.bias": ((3 * D,), "bias"),
    "h.0.attn.c_proj.weight": ((D, D), "attention output"),
    "h.0.attn.c_proj.bias": ((D,), "bias"),
    "h.0.ln_2.weight": ((D,), "norm"),
    "h.0.mlp.c_fc.weight": ((D, N), "MLP up"),
    "h.0.mlp.c_fc.bias": ((N,), "bias"),
    "h.0.mlp.c_proj.weight": ((N, D), "MLP down"),
    "ln_f.weight": ((D,), "norm"),
    "lm_head.weight": ((V, D), "linear weight"),
}
LLAMA = {
    "model.embed_tokens.weight": ((V, D), "embedding"),
    "model.layers.0.input_layernorm.weight": ((D,), "norm"),
    "model.layers.0.self_attn.q_proj.weight": ((D, D), "attention query"),
    "model.layers.0.self_attn.k_proj.weight": ((2, D), "attention key"),
    "model.layers.0.self_attn.v_proj.weight": ((2, D), "attention value"),
    "model.layers.0.self_attn.o_proj.weight": ((D, D), "attention output"),
    "model.layers.0.self_attn.rotary_emb.inv_freq": ((2,), "buffer"),
    "model.layers.0.post_attention_layernorm.weight": ((D,), "norm"),
    "model.layers.0.mlp.gate_proj.weight": ((N, D), "MLP gate"),
    "model.layers.0.mlp.up_proj.weight": ((N, D), "MLP up"),
    "model.layers.0.mlp.down_proj.weight": ((D, N), "MLP down"),
    "model.norm.weight": ((D,), "norm"),
    "lm_head.weight": ((V, D), "linear weight"),
}
PHI3 = {
    "model.layers.0.self_attn.qkv_proj.weight": ((8, D), "attention q, k and v"),
    "model.layers.0.mlp.gate_up_proj.weight": ((2 * N, D), "MLP gate and up"),
}
BERT = {
    "bert.embeddings.word_embeddings.weight": ((V, D), "embedding"),
    "bert.embeddings.position_embeddings.weight": ((T, D), "embedding"),
    "bert.embeddings.token_type_embeddings.weight": ((2, D), "embedding"),
    "bert.embeddings.position_ids": ((1, T), "buffer"),
    "bert.embeddings.LayerNorm.weight": ((D,), "norm"),
    "bert.embeddings.LayerNorm.gamma": ((D,), "norm"),
    "bert.encoder.layer.0.attention.self.query.weight": ((D, D), "attention query"),
    "bert.encoder.layer.0.attention.self.query.bias": ((D,), "bias"),
    "bert.encoder.layer.0.attention.self.key.weight": ((D, D), "attention key"),
    "bert.encoder.layer.0.attention.self.value.weight": ((D, D), "attention value"),
    "bert.encoder.layer.0.attention.output.dense.weight": ((D, D), "attention output"),
    "bert.encoder.layer.0.attention.output.LayerNorm.bias": ((D,), "norm"),
    "bert.encoder.layer.0.intermediate.dense.weight": ((N, D), "MLP up"),
    "bert.encoder.layer.0.output.dense.weight": ((D, N), "MLP down"),
    "bert.encoder.layer.0.output.LayerNorm.weight": ((D,), "norm"),
    "bert.pooler.dense.weight": ((D, D), "linear weight"),
    "cls.predictions.bias": ((V,), "bias"),
}
VIT = {
    "vit.embeddings.cls_token": ((1, 1, D), "embedding"),
    "vit.embeddings.position_embeddings": ((1, T, D), "embedding"),
    "vit.embeddings.patch_embeddings.projection.weight": ((D, 3, 2, 2), "convolution"),
    "vit.embeddings.patch_embeddings.projection.bias": ((D,), "bias"),
    "vit.encoder.layer.0.attention.attention.query.weight": ((D, D), "attention query"),
    "vit.encoder.layer.0.attention.output.dense.weight": ((D, D), "attention output"),
    "vit.encoder.layer.0.intermediate.dense.weight": ((N, D), "MLP up"),
    "vit.encoder.layer.0.output.dense.weight": ((D, N), "MLP down"),
    "vit.encoder.layer.0.layernorm_before.weight": ((D,), "norm"),
    "vit.layernorm.bias": ((D,), "norm"),
    "classifier.weight": ((V, D), "linear weight"),
}
TIMM = {
    "cls_token": ((1, 1, D), "embedding"),
    "pos_embed": ((1, T, D), "embedding"),
    "patch_embed.proj.weight": ((D, 3, 2, 2), "convolution"),
    "blocks.0.norm1.weight": ((D,), "norm"),
    "blocks.0.attn.qkv.weight": ((3 * D, D), "attention q, k and v"),
    "blocks.0.attn.proj.weight": ((D, D), "attention output"),
    "blocks.0.mlp.fc1.weight": ((N, D), "MLP up"),
    "blocks.0.mlp.fc2.weight": ((D, N), "MLP down"),
    "head.weight": ((V, D), "linear weight"),
}
TORCHVISION = {
    "class_token": ((1, 1, D), "embedding"),
    "encoder.pos_embedding": ((1, T, D), "embedding"),
    "conv_proj.weight": ((D, 3, 2, 2), "convolution"),
    "encoder.layers.encoder_layer_0.ln_1.weight": ((D,), "norm"),
    "encoder.layers.encoder_layer_0.self_attention.in_proj_weight": ((3 * D, D), "attention q, k and v"),
    "encoder.layers.encoder_layer_0.self_attention.in_proj_bias": ((3 * D,), "bias"),
    "encoder.layers.encoder_layer_0.self_attention.out_proj.weight": ((D, D), "attention output"),
    "encoder.layers.encoder_layer_0.mlp.0.weight": ((N, D), "MLP up"),
    "encoder.layers.encoder_layer_0.mlp.3.weight": ((D, N), "MLP down"),
    "encoder.layers.encoder_layer_0.mlp.linear_1.weight": ((N, D), "MLP up"),
    "encoder.ln.weight": ((D,), "norm"),
    "heads.head.weight": ((V, D), "linear weight"),
}
RESNET = {
    "conv1.weight": ((D, 3, 2, 2), "convolution"),
    "bn1.weight": ((D,), "norm"),
    "bn1.running_mean": ((D,), "buffer"),
    "bn1.num_batches_tracked": ((), "buffer"),
    "layer2.0.downsample.1.weight": ((D,), "norm"),
    "layer2.0.downsample.1.bias": ((D,), "norm"),
    "layer2.0.downsample.1.running_mean": ((D,), "buffer"),
    "fc.weight": ((V, D), "linear weight"),
}
LORA = {
    "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": ((2, D), "LoRA A"),
    "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight": ((D, 2), "LoRA B"),
    "model.layers.0.self_attn.q_proj.lora_A.default.weight": ((2, D), "LoRA A"),
    "lora_unet_down_blocks_0.lora_up.weight": ((D, 2), "LoRA B"),
    "lora_unet_down_blocks_0.alpha": ((), "LoRA alpha"),
    "other.alpha": ((), "unknown"),
    "model.layers.0.self_attn.q_proj.lora_magnitude_vector": ((D,), "DoRA magnitudes"),
    "model.layers.0.self_attn.k_proj.lora_magnitude_vector.default.weight": ((D,), "DoRA magnitudes"),
}
OTHERS = {
    "W1": ((3, 4), "linear weight"),
    "b1": ((3,), "bias"),
    "layers.0.mlp.experts.w": ((8, 3, 4), "unknown"),
    "model.layers.0.self_attn.q_proj.weight": ((3,), "unknown"),  # of the wrong extents
    "a" * 600 + ".weight": ((3, 4), "unknown"),
}
FAMILIES = {
    "gpt2": GPT2, "llama": LLAMA, "phi3": PHI3, "bert": BERT, "vit": VIT, "timm": TIMM, "torchvision": TORCHVISION,
    "resnet": RESNET, "lora": LORA, "others": OTHERS,
}  # fmt: skip


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("wrapped", ["", "module.", "transformer.", "net/"])
def test_tensors_are_known_by_the_names_that_models_give_them(family, wrapped):
    roles = {wrapped + name: role for name, (_, role) in FAMILIES[family].items()}
    shapes = {wrapped + name: shape for name, (shape, _) in FAMILIES[family].items()}
    assert {name: role_of(name, shape, shapes) for name, shape in shapes.items()} == roles


@pytest.mark.parametrize(
    ("make", "roles"),
    [
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), {"linear weight": 2, "bias": 2}),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2, bias=False)),
            {"convolution": 1, "bias": 1, "norm": 2, "buffer": 3, "linear weight": 1},
        ),
        (
            lambda: nn.TransformerEncoderLayer(4, 2, 8),
            {"attention q, k and v": 1, "attention output": 1, "linear weight": 2, "norm": 4, "bias": 4},
        ),
        (lambda: nn.Sequential(nn.Conv1d(3, 4, 3, bias=False), nn.PReLU(4)), {"convolution": 1, "unknown": 1}),
    ],
)
def test_modules_of_torch(tmp_path, make, roles):
    torch.save(make().state_dict(), tmp_path / "m.pt")
    found = json.loads(run(tmp_path / "m.pt", "--json").stdout)
    assert found["roles"] == roles


def zeros(names):
    return {name: np.zeros(shape, np.float16) for name, (shape, _) in names.items()}


def test_the_table_tells_all_of_a_model(tmp_path):
    shards = {"model-1.safetensors": zeros(LLAMA), "model-2.safetensors": {"extra.scale": np.zeros((2, 2), np.int8)}}
    folder = save_shards(tmp_path / "model", shards, gone="model-1.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"")
    result = run(folder)
    assert result.exit_code == 0
    assert result.stderr == ""
    entries = sum(int(np.prod(shape)) for shape, _ in LLAMA.values())
    lines = result.stdout.splitlines()
    assert lines[0] == (
        f"{folder}: safetensors, 2 shards, 2 files, 14 tensors, {entries - 2} parameters, {2 * entries + 4} B"
    )
    assert "  model.layers.0.self_attn.k_proj.weight          2 × 4   F16  16 B  attention key" in lines
    sections = result.stdout.split("\n\n")
    assert [section.splitlines()[0] for section in sections[1:]] == [
        "Tensors", "Taken for", "Not recognised by name", "Missing", "Notes",
    ]  # fmt: skip
    assert sections[3].splitlines()[1:] == ["  extra.scale  2 × 2"]
    assert sections[4].splitlines()[1:] == ["  gone  the index has it in 'model-1.safetensors', which does not hold it"]
    assert "that are not read: 'pytorch_model.bin'" in sections[5]
    for name in LLAMA:
        assert name in sections[1]


def test_json_tells_the_same(tmp_path):
    path = save_safetensors(tmp_path / "m.safetensors", zeros(GPT2) | {"odd": np.zeros(3)}, {"format": "pt"})
    result = run(path, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    entries = sum(int(np.prod(shape)) for shape, role in GPT2.values() if role != "buffer")
    buffers = sum(int(np.prod(shape)) for shape, role in GPT2.values() if role == "buffer")
    assert found["totals"] == {"tensors": 17, "bytes": 2 * (entries + buffers) + 24, "parameters": entries + 3}
    assert found["tensors"][0] == {
        "name": "wte.weight", "shape": [V, D], "dtype": "F16", "bytes": 2 * V * D, "file": "m.safetensors",
        "role": "embedding",
    }  # fmt: skip
    assert found["unknown"] == ["odd"]
    assert found["metadata"] == {"format": "pt"}
    assert found["files"] == [str(path)]
    assert (found["others"], found["tied"], found["notes"]) == ({}, {}, [])


def test_tied_tensors_count_once(tmp_path):
    weight = torch.zeros(5, 4)
    torch.save({"wte.weight": weight, "lm_head.weight": weight}, tmp_path / "m.pt")
    result = run(tmp_path / "m.pt")
    assert "2 tensors, 20 parameters, 80 B" in result.stdout
    assert "lm_head.weight  the same memory as wte.weight" in result.stdout


def test_a_file_without_tensors(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(with_header({}))
    assert run(tmp_path / "m.safetensors").stdout.strip().endswith("0 tensors, 0 parameters, 0 B")


def test_no_name_steers_the_terminal(tmp_path):
    name = "evil\x1b[2J\r\n\u202e.weight"
    path = save_safetensors(tmp_path / "m.safetensors", {name: np.zeros((2, 2))}, {name: name})
    for arguments in ([path], [path, "--json"]):
        assert not {"\x1b", "\r", "\u202e"} & set(run(*arguments).stdout)
    torch.save({name: 3}, tmp_path / "m.pt")
    result = run(tmp_path / "m.pt")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize("kind", list(BROKEN))
def test_broken_files_are_exit_2_and_one_line(tmp_path, kind):
    (tmp_path / "m.safetensors").write_bytes(BROKEN[kind][0])
    result = run(tmp_path / "m.safetensors")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"flatcore: {tmp_path / 'm.safetensors'}")
    assert result.stderr.count("\n") == 1


def test_random_damage_is_exit_2_or_a_table(tmp_path):
    path = tmp_path / "m.safetensors"
    for content in broken_headers(400, seed=1):
        path.write_bytes(content)
        result = run(path)
        assert result.exit_code in (0, 2)
        assert result.stderr.count("\n") == (result.exit_code == 2)
        result.stdout.encode("utf-8")  # lone surrogates are escaped


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "holds nothing; expected model.safetensors"),
        (lambda path: path.write_bytes(b""), "the header|has 0 bytes"),
        (lambda path: path.write_bytes(BROKEN["deep"][0]), "expected a JSON object|no JSON object"),
        (lambda path: path.write_bytes(b"\x80\x04K\x01."), "has 5 bytes; expected a safetensors file"),
        (lambda path: save_shards(path, {}, a="../x.safetensors"), "expected the plain name"),
    ],
)
def test_the_process_ends_with_2_and_no_traceback(tmp_path, make, message):
    make(tmp_path / "m.safetensors")
    done = subprocess.run([*COMMAND, str(tmp_path / "m.safetensors")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("flatcore: ")
    assert done.stderr.count("\n") == 1
    assert any(text in done.stderr for text in message.split("|"))


def test_the_process_reads_pytorch_files_itself(tmp_path):
    torch.save({"a.weight": torch.ones(2, 2)}, tmp_path / "m.bin")
    done = subprocess.run([*COMMAND, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "a.weight  2 × 2  F32  16 B  linear weight" in done.stdout


def test_inspecting_loads_nothing(tmp_path):
    path = save_safetensors(tmp_path / "m.safetensors", {"a.weight": ("F4", (2, 2), b"ab")})  # which cannot be loaded
    assert fc.io.inspect_checkpoint(fc.io.open_checkpoint(path)).roles == {"a.weight": "linear weight"}
