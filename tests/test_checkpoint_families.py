"""Every family at the widths and the number of layers of its smallest published member, where that is below 1 GB.

Beyond it, two layers at real widths; of the largest vocabularies a part, as embeddings are like any other matrix. Dense
decompositions of everything would take minutes: they are compared for a few tensors, and for one layer's heads; smaller
models of the same names are compared in full in test_checkpoint_analysis.py.
"""

import json

import checkpoint_models as models
import numpy as np
import pytest
from checkpoint_files import save_safetensors

from flatcore.checkpoints import analyze_checkpoint

# Name → maker, configuration, layers, heads a layer, tensors compared, and query and key (out, in) of layer 0's head 1.
PUBLISHED = {
    "openai-community/gpt2": (
        lambda: models.gpt2(layers=12),
        {"n_head": 12},
        (12, 12),
        ("h.11.attn.c_proj.weight",),
        lambda t: [t["h.0.attn.c_attn.weight"].T[first : first + 64] for first in (64, 768 + 64)],
    ),
    "google/bert_uncased_L-2_H-128_A-2": (
        lambda: models.bert(layers=2, width=128, hidden=512, vocabulary=30522),
        {"num_attention_heads": 2},
        (2, 2),
        ("bert.encoder.layer.1.intermediate.dense.weight",),
        lambda t: [t[f"bert.encoder.layer.0.attention.self.{n}.weight"][64:] for n in ("query", "key")],
    ),
    "WinKawaks/vit-tiny-patch16-224": (
        lambda: models.vit(layers=12, width=192, hidden=768),
        {"num_attention_heads": 3},
        (12, 3),
        ("vit.encoder.layer.11.output.dense.weight",),
        lambda t: [t[f"vit.encoder.layer.0.attention.attention.{n}.weight"][64:128] for n in ("query", "key")],
    ),
    "timm/vit_tiny_patch16_224": (
        lambda: models.timm_vit(layers=12, width=192, hidden=768),
        {"num_heads": 3},
        (12, 3),
        ("blocks.11.attn.qkv.weight",),
        lambda t: [t["blocks.0.attn.qkv.weight"][first : first + 64] for first in (64, 192 + 64)],
    ),
    "torchvision vit_b_16": (
        lambda: models.torchvision_vit(layers=12, width=768, hidden=3072),
        None,  # 12 heads by its published width
        (12, 12),
        ("encoder.layers.encoder_layer_3.self_attention.out_proj.weight",),
        lambda t: [
            t["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"][first : first + 64]
            for first in (64, 768 + 64)
        ],
    ),
    "TinyLlama/TinyLlama-1.1B": (
        lambda: models.llama(
            layers=2, width=2048, heads=32, kv_heads=4, head_dim=64, hidden=5632, vocabulary=2000, dtype="bfloat16"
        ),
        {"num_attention_heads": 32, "num_key_value_heads": 4},
        (2, 32),
        ("model.layers.1.self_attn.v_proj.weight",),
        lambda t: [t[f"model.layers.0.self_attn.{n}_proj.weight"][r : r + 64] for n, r in (("q", 64), ("k", 0))],
    ),
    "microsoft/Phi-3-mini": (
        lambda: models.phi3(
            layers=2, width=3072, heads=32, head_dim=96, hidden=8192, vocabulary=2000, dtype="bfloat16"
        ),
        {"num_attention_heads": 32, "num_key_value_heads": 32},
        (2, 32),
        (),
        lambda t: [t["model.layers.0.self_attn.qkv_proj.weight"][r : r + 96] for r in (96, 3072 + 96)],
    ),
}


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_at_the_widths_of_a_published_model(tmp_path, name):
    make, config, (layers, heads), compared, query_and_key = PUBLISHED[name]
    tensors = models.with_spikes(make())
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    save_safetensors(tmp_path / "model.safetensors", tensors)
    found = analyze_checkpoint(tmp_path, k=1)
    assert found.certified
    assert found.failed == found.unknown == ()
    assert {t.name for t in found.tensors} | {n for n, _ in found.not_analysed} == set(tensors)
    assert len(found.products) == 2 * layers * heads
    assert len(found.compositions) == 3 * (layers - 1)
    spectra = {t.name: t for t in found.tensors}
    assert all(t.outliers == 1 for t in found.tensors if min(t.shape) > 16 and len(t.shape) == 2)
    for tensor in compared:
        values = np.linalg.svd(tensors[tensor].astype(float), compute_uv=False)
        assert spectra[tensor].values == pytest.approx(values[:1], rel=1e-4)
        p = values / values.sum()
        rank, error = spectra[tensor].effective_rank, spectra[tensor].effective_rank_error
        assert abs(rank - np.exp(-(p * np.log(p)).sum())) <= 3 * error + 1e-5 * rank
    query, key = (matrix.astype(float) for matrix in query_and_key(tensors))
    values = np.linalg.svd(query.T @ key, compute_uv=False) if len(query.T) < 1000 else _thin_values(query, key)
    assert (found.products[1].kind, found.products[1].head) == ("QK", 1)
    assert found.products[1].values == pytest.approx(values[:1], rel=1e-6)
    assert found.products[1].frobenius == pytest.approx(np.linalg.norm(values), rel=1e-6)


def _thin_values(query, key):
    """Singular values of queryᵀ·key by QR decompositions, which the analysis does not use."""
    return np.linalg.svd(np.linalg.qr(query.T)[1] @ np.linalg.qr(key.T)[1].T, compute_uv=False)


def test_lora_on_all_layers_of_a_large_model(tmp_path):
    """q_proj and v_proj of meta-llama/Llama-2-7b at rank 8: 32 layers, 4096 wide."""
    tensors = models.lora(layers=32, width=4096, rank=8)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 16, "r": 8}))
    save_safetensors(tmp_path / "adapter_model.safetensors", tensors)
    found = analyze_checkpoint(tmp_path, k=2)
    assert found.certified
    assert len(found.products) == 64
    last = found.products[-1]
    B, A = (tensors[name].astype(float) for name in last.factors)
    assert last.scaling == 2.0
    assert last.values == pytest.approx(2.0 * _thin_values(B.T, A)[:2], rel=1e-6)
