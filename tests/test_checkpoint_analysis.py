"""Analyses of checkpoints in real naming, against dense decompositions of explicitly formed products."""

import json
import re

import checkpoint_models as models
import ml_dtypes
import numpy as np
import pytest
import scipy.special
from checkpoint_files import save_safetensors
from hypothesis import given
from hypothesis import strategies as st

from flatcore.checkpoints import PairRule, Rules, analyze_checkpoint, compare_checkpoints, recognise
from flatcore.checkpoints.heads import composition_chance
from flatcore.checkpoints.ranks import effective_rank, noise_edge, survey
from flatcore.checkpoints.rules import texts_of
from flatcore.io import open_checkpoint
from flatcore.spectral._top_svd import search
from flatcore.weights.pairs import _estimated


def saved(folder, tensors, name="model.safetensors", **files):
    for file, content in files.items():
        (folder / f"{file}.json").write_text(json.dumps(content))
    return save_safetensors(folder / name, tensors)


def entropy_rank(values):
    p = values[values > 0] / values.sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def singular_values(matrix):
    return np.linalg.svd(np.asarray(matrix, float), compute_uv=False)


def by_name(parts):
    return {part.name: part for part in parts}


# -- every tensor -------------------------------------------------------------------------------------------------


def as_matrix(tensor, in_out):
    matrix = np.asarray(tensor, float).reshape(tensor.shape[0], -1)
    return matrix.T if in_out else matrix


def check_spectrum(found, matrix, k=8):
    """Top values to the tolerance of float32, everything else to the rounding of what it is made of."""
    values = singular_values(matrix)
    k = min(k, len(values))
    np.testing.assert_allclose(found.values, values[:k], rtol=0, atol=2e-4 * values[0])
    assert found.converged.all()
    assert found.status == "converged"
    assert found.frobenius == pytest.approx(np.linalg.norm(matrix), rel=1e-6)
    assert found.stable_rank == pytest.approx((values**2).sum() / values[0] ** 2, rel=1e-3)
    assert found.effective_rank == pytest.approx(entropy_rank(values), rel=1e-5)
    assert found.effective_rank_error == 0.0
    assert found.tail == pytest.approx((values[k:] ** 2).sum() / (values**2).sum(), abs=1e-3)


FAMILIES = {
    "GPT-2": lambda: models.gpt2(width=64, vocabulary=100, context=20),
    "Llama or Mistral": models.llama,
    "Phi-3": models.phi3,
    "BERT": models.bert,
    "ViT (transformers')": models.vit,
    "ViT (timm's)": models.timm_vit,
    "ViT (torchvision's)": models.torchvision_vit,
}
KV_HEADS = {"Llama or Mistral": 2}
HEADS = 4


def attention_matrices(family, tensors, layer):
    """Query, key, value and output (out, in) of a layer, taken apart by hand."""
    if family == "GPT-2":
        q, k, v = np.split(tensors[f"h.{layer}.attn.c_attn.weight"].T, 3)
        return q, k, v, tensors[f"h.{layer}.attn.c_proj.weight"].T
    if family == "Llama or Mistral":
        return [tensors[f"model.layers.{layer}.self_attn.{n}_proj.weight"] for n in "qkvo"]
    if family == "Phi-3":
        q, k, v = np.split(tensors[f"model.layers.{layer}.self_attn.qkv_proj.weight"], 3)
        return q, k, v, tensors[f"model.layers.{layer}.self_attn.o_proj.weight"]
    if family == "BERT":
        block = f"bert.encoder.layer.{layer}.attention"
        return [*(tensors[f"{block}.self.{n}.weight"] for n in ("query", "key", "value")),
                tensors[f"{block}.output.dense.weight"]]  # fmt: skip
    if family == "ViT (transformers')":
        block = f"vit.encoder.layer.{layer}.attention"
        return [*(tensors[f"{block}.attention.{n}.weight"] for n in ("query", "key", "value")),
                tensors[f"{block}.output.dense.weight"]]  # fmt: skip
    if family == "ViT (timm's)":
        q, k, v = np.split(tensors[f"blocks.{layer}.attn.qkv.weight"], 3)
        return q, k, v, tensors[f"blocks.{layer}.attn.proj.weight"]
    block = f"encoder.layers.encoder_layer_{layer}.self_attention"
    q, k, v = np.split(tensors[f"{block}.in_proj_weight"], 3)
    return q, k, v, tensors[f"{block}.out_proj.weight"]


def head_matrices(family, tensors, layer):
    """Dense W_QᵀW_K and W_OW_V and their factors, for every head."""
    q, k, v, o = (np.asarray(m, float) for m in attention_matrices(family, tensors, layer))
    kv_heads = KV_HEADS.get(family, HEADS)
    e = len(q) // HEADS
    for h in range(HEADS):
        own, shared = slice(h * e, (h + 1) * e), slice(h * kv_heads // HEADS * e, (h * kv_heads // HEADS + 1) * e)
        yield q[own], k[shared], v[shared], o[:, own]


@pytest.fixture(scope="module", params=list(FAMILIES))
def case(request, tmp_path_factory):
    """A family, its tensors, and their analysis."""
    tensors = FAMILIES[request.param]()
    config = {"num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS.get(request.param)}
    path = saved(tmp_path_factory.mktemp("model"), tensors, config=config)
    return request.param, tensors, analyze_checkpoint(path, k=4)


def test_the_family_is_told_by_its_names(case):
    family, tensors, found = case
    assert found.family == family
    assert found.certified
    assert found.unknown == ()
    told = {part.name for part in found.tensors} | {name for name, _ in found.not_analysed}
    assert told == set(tensors)  # nothing is dropped


def test_every_matrix_has_its_spectrum(case):
    _, tensors, found = case
    matrices = {name: t for name, t in tensors.items() if t.ndim > 1 and max(t.shape[:-1]) > 1 and t.dtype.kind == "f"}
    matrices = {name: t for name, t in matrices.items() if not name.endswith("attn.bias")}
    assert set(by_name(found.tensors)) == set(matrices)
    for part in found.tensors:
        in_out = "stored (in, out)" in part.matrix
        assert in_out == (found.family == "GPT-2" and part.name.startswith("h."))
        matrix = tensors[part.name]
        check_spectrum(part, as_matrix(matrix[0] if matrix.shape[0] == 1 else matrix, in_out), 4)
        assert found.right[part.name].shape == (len(part.values), part.shape[0] if in_out else as_matrix(
            matrix[0] if matrix.shape[0] == 1 else matrix, False).shape[1])  # fmt: skip


def test_products_of_heads_are_those_of_dense_matrices(case):
    family, tensors, found = case
    parts = iter(found.products)
    for layer in range(2):
        heads = list(head_matrices(family, tensors, layer))
        for kind, factors in (("QK", [(q.T, k) for q, k, _, _ in heads]), ("OV", [(o, v) for _, _, v, o in heads])):
            for h, (left, right) in enumerate(factors):
                part, values = next(parts), singular_values(left @ right)
                assert (part.kind, part.head, part.rank) == (kind, h, right.shape[0])
                assert part.shape == (left.shape[0], right.shape[1])
                np.testing.assert_allclose(part.values, values[:4], rtol=0, atol=1e-6 * values[0])
                assert part.frobenius == pytest.approx(np.linalg.norm(values), rel=1e-6)
                assert part.effective_rank == pytest.approx(entropy_rank(values[: part.rank]), rel=1e-5)
                gap = np.linalg.norm(left.T @ left - right @ right.T)
                assert part.gap == pytest.approx(gap, rel=1e-6)
                size = np.hypot(np.linalg.norm(left.T @ left), np.linalg.norm(right @ right.T))
                assert part.relative_gap == pytest.approx(gap / size, rel=1e-6)
    assert next(parts, None) is None


def test_compositions_are_those_of_dense_products(case):
    family, tensors, found = case
    below, above = (list(head_matrices(family, tensors, layer)) for layer in range(2))
    assert [part.kind for part in found.compositions] == ["Q", "K", "V"]
    readers = {
        "Q": [k.T @ q for q, k, _, _ in above],
        "K": [q.T @ k for q, k, _, _ in above],
        "V": [o @ v for _, _, v, o in above],
    }
    writers = [o @ v for _, _, v, o in below]
    for part in found.compositions:
        for a, M in enumerate(readers[part.kind]):
            for b, W in enumerate(writers):
                score = np.linalg.norm(M @ W) / (np.linalg.norm(M) * np.linalg.norm(W))
                assert part.scores[a, b] == pytest.approx(score, rel=1e-4)
        assert 0.0 < part.chance < part.chance_95 < 1.0


def test_pairs_of_a_block_and_of_neighbours(case):
    family, _, found = case
    pairs = {(pair.lower, pair.upper) for pair in found.pairs}
    names = {pair.lower for pair in found.pairs} | {pair.upper for pair in found.pairs}
    assert all(name.partition(" [")[0] in by_name(found.tensors) for name in names)
    balanced = [pair for pair in found.pairs if not np.isnan(pair.gap)]
    assert len(balanced) == 2  # up → down of each block
    expected = {"Llama or Mistral": 2 * 4 + 3, "Phi-3": 2 * 4 + 1, "BERT": 2 * 3 + 3, "ViT (transformers')": 2 * 3 + 3}
    assert len(pairs) == len(found.pairs) == expected.get(family, 2 * 3 + 1)


def test_coupling_of_up_and_down_is_that_of_dense_decompositions(case):
    family, tensors, found = case
    for pair in found.pairs:
        if np.isnan(pair.gap) or "[" in pair.lower:
            continue
        in_out = family == "GPT-2"
        low, up = (as_matrix(tensors[name], in_out) for name in (pair.lower, pair.upper))
        bias = tensors.get(pair.lower.replace("weight", "bias"))
        gram = low @ low.T + (0 if bias is None else np.outer(bias, bias).astype(float))
        assert pair.gap == pytest.approx(np.linalg.norm(up.T @ up - gram), rel=1e-4)
        U, Vt = np.linalg.svd(low)[0][:, :4], np.linalg.svd(up)[2][:4]
        angles = np.linalg.svd(Vt @ U, compute_uv=False)
        np.testing.assert_allclose(pair.angles, angles, atol=2e-2)  # of vectors to 1e-4 over the gaps


def test_fused_gate_and_up_are_taken_apart(tmp_path):
    tensors = models.phi3(layers=1)
    found = analyze_checkpoint(saved(tmp_path, tensors), k=3, rules=Rules(heads=4))
    gate, up = np.split(tensors["model.layers.0.mlp.gate_up_proj.weight"].astype(float), 2)
    down = tensors["model.layers.0.mlp.down_proj.weight"].astype(float)
    pairs = {pair.lower.partition(" ")[2]: pair for pair in found.pairs if pair.upper.endswith("down_proj.weight")}
    assert set(pairs) == {"[gate]", "[up]"}
    assert pairs["[up]"].gap == pytest.approx(np.linalg.norm(down.T @ down - up @ up.T), rel=1e-4)
    assert np.isnan(pairs["[gate]"].gap)
    Vt = np.linalg.svd(down)[2][:3]
    for label, matrix in (("[gate]", gate), ("[up]", up)):
        cosines = np.linalg.svd(Vt @ np.linalg.svd(matrix)[0][:, :3], compute_uv=False)
        np.testing.assert_allclose(pairs[label].angles, cosines, atol=2e-2)


# -- heads that are not said ----------------------------------------------------------------------------------------


def test_heads_of_published_widths_are_a_guess_that_is_said(tmp_path):
    tensors = models.gpt2(layers=1, width=768, vocabulary=50, context=20)
    with open_checkpoint(saved(tmp_path, tensors)) as checkpoint:
        found = recognise(checkpoint)
    (attention,) = found.attentions
    assert (attention.heads, attention.head_dim) == (12, 64)
    assert any("12 heads of 64 entries are a guess" in note for note in found.notes)


def test_heads_of_other_widths_are_not_guessed(tmp_path):
    path = saved(tmp_path, models.bert())
    found = analyze_checkpoint(path, k=2)
    assert found.products == ()
    assert any("the number of heads is not known" in note for note in found.notes)
    assert len(analyze_checkpoint(path, k=2, rules=Rules(heads=2)).products) == 2 * 2 * 2


@pytest.mark.parametrize(
    ("config", "note"),
    [
        ({"n_head": 5}, "64 rows of the query are no multiple of 5 heads (config.json)"),
        ({"n_head": 4, "num_key_value_heads": 4}, "2 heads of keys by their shape; expected 4"),
        ({"n_head": 4, "head_dim": 8}, "16 entries a head by their shape; expected 8"),
        ({"n_head": 1}, "32 rows of the key are not those of heads that 1 heads could share"),
        ({"n_head": -4}, "n_head is -4; expected a positive integer, not used"),
        ({"n_head": "4"}, "n_head is '4'; expected a positive integer, not used"),
    ],
)
def test_a_configuration_that_the_shapes_do_not_bear_out(tmp_path, config, note):
    found = analyze_checkpoint(saved(tmp_path, models.llama(layers=1), config=config), k=1)
    assert found.products == ()
    assert any(note in text for text in found.notes)


@pytest.mark.parametrize("content", ["[1, 2]", "{", '{"n_head": 1, "n_head": 2}', "[" * 100_000, "\ud800"])
def test_a_configuration_that_is_none(tmp_path, content):
    path = saved(tmp_path, models.bert(layers=1))
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    found = analyze_checkpoint(path, k=1, rules=Rules(heads=4))
    assert any(note.startswith("config.json is not used") for note in found.notes)
    assert len(found.products) == 8


def test_nn_linear_of_the_same_names_is_not_transposed(tmp_path):
    tensors = models.gpt2(layers=1, width=32, vocabulary=20, context=8)
    turned = {n: np.ascontiguousarray(t.T) if n.startswith("h.") and t.ndim == 2 else t for n, t in tensors.items()}
    stored = analyze_checkpoint(saved(tmp_path, tensors), k=2, rules=Rules(heads=4))
    plain = analyze_checkpoint(saved(tmp_path, turned), k=2, rules=Rules(heads=4))
    for a, b in zip(stored.products, plain.products, strict=True):
        np.testing.assert_allclose(a.values, b.values, rtol=1e-6)
    assert not any("stored (in, out)" in part.matrix for part in plain.tensors)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tails_that_are_rounding_are_zero(tmp_path, rng, dtype):
    """All values are among the k: nothing is beyond them."""
    tensors = {f"layers.{j}.weight": rng.standard_normal((4 + j, 4)).astype(dtype) for j in range(12)}
    a, b = (saved(tmp_path, {n: f * W for n, W in tensors.items()}, f"{f}.safetensors") for f in (1, 3))
    assert {t.tail for t in analyze_checkpoint(a, k=4).tensors} == {0.0}
    assert {s.tail for t in compare_checkpoints(a, b, k=4).tensors for s in (t.before, t.after, t.update)} == {0.0}


# -- adapters ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["", "default", "french"])
@pytest.mark.parametrize("rslora", [False, True])
def test_lora_products_ranks_and_scalings(tmp_path, adapter, rslora):
    tensors = models.lora(adapter=adapter)
    config = {"lora_alpha": 16, "r": 4, "use_rslora": rslora, "alpha_pattern": {"layers.1.self_attn.v_proj": 8}}
    found = analyze_checkpoint(saved(tmp_path, tensors, "adapter_model.safetensors", adapter_config=config), k=4)
    assert found.family == "LoRA adapters"
    assert len(found.products) == 4
    assert found.pairs == found.compositions == ()
    for part in found.products:
        B, A = (tensors[name].astype(float) for name in part.factors)
        alpha = 8 if part.name.startswith("base_model.model.model.layers.1.self_attn.v_proj") else 16
        s = alpha / (2.0 if rslora else 4.0)
        assert (part.kind, part.head, part.rank, part.scaling) == ("LoRA", -1, 4, s)
        values = singular_values(s * B @ A)
        np.testing.assert_allclose(part.values, values[:4], rtol=0, atol=1e-6 * values[0])
        assert part.frobenius == pytest.approx(np.linalg.norm(values), rel=1e-6)
        assert part.gap == pytest.approx(np.linalg.norm(B.T @ B - A @ A.T), rel=1e-6)
        assert ("(french)" in part.name) == (adapter == "french")


def test_an_adapter_of_zero_and_one_alone(tmp_path):
    tensors = models.lora(layers=1)
    B = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    tensors[B] = np.zeros_like(tensors[B])  # as training begins
    del tensors["base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight"]
    found = analyze_checkpoint(saved(tmp_path, tensors, "adapter_model.safetensors"), k=2)
    (part,) = found.products
    assert part.spectral == 0.0
    assert np.isnan(part.stable_rank)
    assert part.note == "no alpha beside it: the scaling is not known, 1 was taken"
    assert any("without a partner" in note and "v_proj.lora_B" in note for note in found.notes)
    assert found.certified


def test_what_scales_adapters_is_known_and_an_alpha_that_is_not_finite_is_told(tmp_path, rng):
    tensors = {
        f"{module}.{name}": value
        for module, alpha in (("lora_unet_a", 4.0), ("lora_unet_b", np.nan))
        for name, value in {
            "lora_up.weight": rng.standard_normal((6, 2)),
            "lora_down.weight": rng.standard_normal((2, 5)),
            "alpha": np.array(alpha),
            "lora_magnitude_vector": rng.standard_normal(6),
        }.items()
    }
    found = analyze_checkpoint(saved(tmp_path, tensors), k=2)
    assert found.unknown == ()
    assert set(dict(found.not_analysed).values()) == {"an adapter's α", "an adapter's magnitudes"}
    parts = by_name(found.products)
    assert parts["lora_unet_a"].scaling == 2.0  # α = 4 over rank 2
    assert parts["lora_unet_b"].scaling == 1.0
    why = "lora_unet_b.alpha is nan, not finite: the scaling is not known, 1 was taken"
    assert parts["lora_unet_b"].note == why
    assert f"1 adapter: {why}" in found.notes


def test_adapters_of_convolutions_and_embeddings_with_their_own_alpha(tmp_path, rng):
    tensors = {
        "lora_unet_conv.lora_down.weight": rng.standard_normal((3, 5, 3, 3)),
        "lora_unet_conv.lora_up.weight": rng.standard_normal((7, 3, 1, 1)),
        "lora_unet_conv.alpha": np.array(6.0),
        "model.embed.lora_embedding_A": rng.standard_normal((2, 11)),
        "model.embed.lora_embedding_B": rng.standard_normal((4, 2)),
    }
    config = {"rank_pattern": {"model.embed": 3, "(x+)+$": 2}}
    found = analyze_checkpoint(saved(tmp_path, tensors, "adapter_model.safetensors", adapter_config=config), k=3)
    parts = by_name(found.products)
    conv = parts["lora_unet_conv"]
    dense = 2.0 * tensors["lora_unet_conv.lora_up.weight"].reshape(7, 3) @ tensors[
        "lora_unet_conv.lora_down.weight"].reshape(3, -1)  # fmt: skip
    np.testing.assert_allclose(conv.values, singular_values(dense)[:3], rtol=1e-6)
    assert conv.scaling == 2.0
    embedded = tensors["model.embed.lora_embedding_B"] @ tensors["model.embed.lora_embedding_A"]
    np.testing.assert_allclose(parts["model.embed"].values, singular_values(embedded)[:2], rtol=1e-6)
    assert any("rank 2 by its shape; adapter_config.json says 3" in note for note in found.notes)
    assert any("(x+)+$" in note and "not used" in note for note in found.notes)


# -- what is wrong, unknown, or of other formats ----------------------------------------------------------------------


def test_nan_and_inf_fail_by_tensor_and_the_rest_goes_on(tmp_path):
    tensors = models.llama()
    bad = tensors["model.layers.0.mlp.up_proj.weight"]
    bad[1, 7], bad[3, 2], bad[5, 5] = np.nan, np.nan, np.inf
    tensors["model.layers.1.self_attn.q_proj.weight"][:] = np.nan
    found = analyze_checkpoint(saved(tmp_path, tensors), k=2, rules=Rules(heads=4))
    failed = by_name(found.failed)
    assert failed["model.layers.0.mlp.up_proj.weight"].reason == (
        "2 entries are NaN and 1 entry is infinite, the first at [1, 7]"
    )
    assert failed["model.layers.1.self_attn.q_proj.weight"].reason == "4096 entries are NaN, the first at [0, 0]"
    assert not found.certified
    assert len(found.tensors) == 14
    assert {part.name for part in found.products} == {"model.layers.0.self_attn"}
    assert not any("up_proj" in (pair.lower + pair.upper) for pair in found.pairs if "layers.0" in pair.lower)
    assert any("no pair, as model.layers.0.mlp.up_proj.weight failed" in note for note in found.notes)


def test_what_is_not_recognised_is_analysed_by_its_shape_and_listed(tmp_path, rng):
    tensors = {
        "strange": rng.standard_normal((5, 4)),
        "odd.kernel": rng.standard_normal((3, 2, 4)),
        "scale": rng.standard_normal(3),
        "step": np.array(7),
        "six": rng.standard_normal((1, 2, 1, 2, 1, 2)),
        "none": np.zeros((0, 3)),
    }
    found = analyze_checkpoint(saved(tmp_path, tensors), k=2)
    parts = by_name(found.tensors)
    assert set(parts) == {"strange", "odd.kernel"}
    check_spectrum(parts["strange"], tensors["strange"], 2)
    check_spectrum(parts["odd.kernel"], tensors["odd.kernel"].reshape(3, -1), 2)
    assert set(found.unknown) == set(tensors)
    assert dict(found.not_analysed) == {
        "scale": "a vector",
        "step": "I64: no floating-point numbers",
        "six": "6 extents: no matrix and no kernel of one to three offsets",
        "none": "no entries",
    }


@pytest.mark.parametrize("stored", ["F16", "BF16", "F8_E4M3", "F64"])
def test_other_precisions_are_read_as_stored(tmp_path, rng, stored):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    types = {"F16": np.float16, "BF16": ml_dtypes.bfloat16, "F8_E4M3": ml_dtypes.float8_e4m3fn, "F64": np.float64}
    matrices = {f"layers.{i}.weight": rng.standard_normal((30, 30)).astype(types[stored]) for i in range(2)}
    held = {name: (stored, m.shape, m.tobytes()) for name, m in matrices.items()}
    found = analyze_checkpoint(saved(tmp_path, held), k=3)
    for part in found.tensors:
        assert part.dtype == stored
        check_spectrum(part, matrices[part.name].astype(float), 3)
    (pair,) = found.pairs
    low, up = (m.astype(float) for m in matrices.values())
    assert pair.gap == pytest.approx(np.linalg.norm(up.T @ up - low @ low.T), rel=1e-4)


def test_a_matrix_of_zeros_and_one_of_one_row(tmp_path, rng):
    tensors = {"0.weight": np.zeros((4, 5)), "2.weight": rng.standard_normal((1, 4)), "4.weight": np.ones((3, 1))}
    found = analyze_checkpoint(saved(tmp_path, tensors), k=4)
    zero, row, column = found.tensors
    assert np.isnan([zero.stable_rank, zero.effective_rank, zero.tail]).all()
    assert zero.outliers == 0
    assert row.values == pytest.approx([np.linalg.norm(tensors["2.weight"])])
    assert row.effective_rank == column.effective_rank == pytest.approx(1.0)
    assert row.tail == pytest.approx(0.0, abs=1e-12)
    assert found.certified


def test_nothing_to_analyse(tmp_path):
    with pytest.raises(ValueError, match=r"holds no matrix that can be analysed .*scale: a vector"):
        analyze_checkpoint(saved(tmp_path, {"scale": np.ones(3)}))


def test_starts_save_reads_and_give_the_same(tmp_path):
    tensors = models.gpt2(layers=1, width=768, vocabulary=100, context=20)
    for name, tensor in tensors.items():
        if tensor.ndim == 2:  # values that stand out, as in trained networks
            u, v = np.linalg.qr(np.random.default_rng(1).standard_normal((tensor.shape[0], 4)))[0], models.Maker(2)
            tensors[name] = tensor + ((u * [9, 8, 7, 6]) @ v(4, tensor.shape[1])).astype(np.float32)
    path = saved(tmp_path, tensors)
    cold = analyze_checkpoint(path, k=4)
    warm = analyze_checkpoint(path, k=4, starts=cold.right)
    for a, b in zip(cold.tensors, warm.tensors, strict=True):
        np.testing.assert_allclose(a.values, b.values, rtol=1e-3)
    assert sum(t.reads for t in warm.tensors) < 0.8 * sum(t.reads for t in cold.tensors)
    misfit = analyze_checkpoint(path, k=4, starts={"wte.weight": np.ones((2, 3))})
    np.testing.assert_array_equal(misfit.tensors[0].values, cold.tensors[0].values)


def test_progress_counts_bytes_and_says_what_is_done(tmp_path):
    told = []
    analyze_checkpoint(saved(tmp_path, models.llama()), k=1, rules=Rules(heads=4), progress=lambda *t: told.append(t))
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert fractions[0] == 0.0
    assert told[-1] == ("done", 1.0)
    assert any(what == "heads of model.layers.1.self_attn" for what, _ in told)


def test_the_same_seed_gives_the_same_bits(tmp_path):
    path = saved(tmp_path, models.llama())
    first, second = (analyze_checkpoint(path, k=2, rules=Rules(heads=4), seed=3).to_dict() for _ in range(2))
    for content in (first, second):
        content["seconds"] = 0
        for tensor in content["tensors"]:
            tensor["seconds"] = 0
    assert first == second


# -- the parts ----------------------------------------------------------------------------------------------------


def ranked(matrix, k=8, **options):
    """The estimated effective rank after a search."""
    found, run = search("matrix", matrix, k=k, **options)
    return effective_rank(found, run, float(np.linalg.norm(matrix.astype(float))))


def of_values(rng, s):
    """A square matrix in float32 with these singular values."""
    U, V = (np.linalg.qr(rng.standard_normal((len(s), len(s))))[0] for _ in range(2))
    return ((U * s) @ V).astype(np.float32)


@pytest.mark.parametrize("kind", ["square", "tall", "wide", "decaying", "half"])
def test_estimated_effective_ranks_are_within_their_errors(rng, kind):
    n = 1100  # beyond what is computed in full
    if kind == "decaying":
        matrix = of_values(rng, np.arange(1, n + 1.0) ** -1.0)
    else:
        shape = {"tall": (1500, n), "wide": (n, 1500)}.get(kind, (n, n))
        matrix = rng.standard_normal(shape).astype(np.float16 if kind == "half" else np.float32)
    value, error, _ = ranked(matrix)
    exact = entropy_rank(singular_values(matrix.astype(np.float32)))
    assert abs(value - exact) < 3 * error
    assert error < (0.3 if kind == "decaying" else 0.02) * exact


def test_effective_ranks_after_searches_that_did_not_probe(rng):
    """One that was stopped, and one that has all values: fewer rows than a probe could tell apart."""
    noise = rng.standard_normal((1100, 1100)).astype(np.float32)
    found, run = search("matrix", noise, k=8, steps=5)
    assert (found.status, run.probe) == ("max_iterations", None)
    value, error, reads = effective_rank(found, run, float(np.linalg.norm(noise)))
    assert abs(value - entropy_rank(singular_values(noise))) < 3 * error
    assert reads > 0
    thin = noise[:40]
    assert ranked(thin) == (pytest.approx(entropy_rank(singular_values(thin)), rel=1e-6), 0.0, 0)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(1.0, 1101.0) ** -1.5,
        np.append(np.geomspace(100.0, 5.0, 10), np.full(1090, 0.01)),  # two strong directions beyond the eight known
    ],
    ids=["a power", "strong directions beyond k"],
)
def test_standard_errors_of_effective_ranks(rng, values):
    """Over seeds the estimates scatter as their errors say.

    Ratios of eight degrees of freedom have a mean square of 8/6, that of 30 a standard error of 0.46.
    """
    matrix = of_values(rng, values)
    exact = entropy_rank(singular_values(matrix))
    estimates = [ranked(matrix, seed=seed) for seed in range(30)]
    ratios = [(value - exact) / error for value, error, _ in estimates]
    assert 0.3 < np.mean(np.square(ratios)) < 2.8
    assert np.mean([error for _, error, _ in estimates]) < 0.1 * exact


def test_values_below_the_rounding_of_squares_count_as_an_error(rng):
    """σ of 1 and 999 times 5e-7: all of them are rounding of squares, and add 0.8 % to the effective rank."""
    U, V = (np.linalg.qr(rng.standard_normal((1000, 1000)))[0] for _ in range(2))
    s = np.append(1.0, np.full(999, 5e-7))
    value, error, _ = ranked((U * s) @ V, k=2)
    assert value == pytest.approx(1.0, abs=1e-6)
    assert 0.0 < entropy_rank(s) - value < error < 0.05


def test_the_sum_of_all_squares_corrects_what_a_block_sees(rng):
    """Of σ of two levels, squares tell everything: S and L are linear in them. The error keeps its share."""
    matrix = of_values(rng, np.where(np.arange(1100) % 2, 1.0, 9.0))
    exact = entropy_rank(singular_values(matrix))
    for seed in range(3):
        value, error, _ = ranked(matrix, seed=seed)
        assert value == pytest.approx(exact, rel=1e-4)
        assert 0.0 < error < 0.01 * exact


def test_estimated_gaps_take_the_signs_they_need(rng):
    """Of noise 8 signs are enough; one strong direction leaves χ² of one degree of freedom, whose error 32 halve.

    ‖X − Y‖_F is then known to √(2/32)/2 = 0.125 of itself, by 8 signs to 0.25.
    """
    n = 300
    u, v = (rng.standard_normal(n) / n**0.5 for _ in range(2))
    noise = [(rng.standard_normal((n, n)) / n**0.5).astype(np.float32) for _ in range(2)]
    strong = noise[0] + 30.0 * np.outer(u, v).astype(np.float32)
    shares = []
    for lower in (noise[0], strong):
        found = [_estimated(lower, None, noise[1], seed) for seed in range(40)]
        exact = np.linalg.norm(lower.astype(float) @ lower.T - noise[1].T.astype(float) @ noise[1])
        ratios = [(gap.gap - exact) / gap.error for gap in found]
        assert np.median(np.abs(ratios)) < 2.0
        shares.append(np.median([gap.error / gap.gap for gap in found]))
    assert shares[0] < 0.025
    assert 0.08 < shares[1] < 0.17


def test_noise_ends_at_the_edge_and_signals_stand_out(rng):
    outliers = []
    for _ in range(100):
        noise = rng.standard_normal((60, 40))
        outliers.append(noise_edge(singular_values(noise)[:8], float(np.linalg.norm(noise)), noise.shape).outliers)
    assert np.mean([count > 0 for count in outliers]) < 0.06  # once in a hundred
    u, v = rng.standard_normal((60, 3)), rng.standard_normal((3, 40))
    signal = noise + 100.0 * np.outer(u[:, 0], v[0]) + 1.0 * u[:, 1:] @ v[1:]
    assert noise_edge(singular_values(signal)[:8], float(np.linalg.norm(signal)), (60, 40)).outliers == 3


def test_rounding_of_low_rank_stands_out_of_nothing(tmp_path, rng):
    low = rng.standard_normal((500, 3)) @ rng.standard_normal((3, 400))
    path = save_safetensors(tmp_path / "m.safetensors", {"a.weight": low, "b.weight": np.ones((64, 90), np.float16)})
    assert [tensor.outliers for tensor in analyze_checkpoint(path, k=8).tensors] == [3, 1]


@pytest.mark.parametrize(("d", "e"), [(48, 8), (24, 16), (8, 16)])
def test_chance_levels_of_composition(rng, d, e):
    """Direct draws of Gaussian factors give the same mean, spread and quantile of the largest of 16."""
    scores = []
    for _ in range(2000):
        q, k, v, o = (rng.standard_normal((e, d)) for _ in range(4))
        M, W = k.T @ q, o.T @ v
        scores.append(np.linalg.norm(M @ W) / (np.linalg.norm(M) * np.linalg.norm(W)))
    centre, spread = composition_chance(d, e)
    assert centre == pytest.approx(np.mean(np.log(scores)), abs=4 * spread * (1 / 200 + 1 / 2000) ** 0.5)
    assert spread == pytest.approx(np.std(np.log(scores)), rel=0.25)  # four standard errors of 200 draws
    assert np.exp(centre) == pytest.approx(d**-0.5, rel=0.05 if e < d else 0.2)
    high = np.exp(centre + spread * scipy.special.ndtri(0.95 ** (1 / 16)))
    most = np.reshape(scores, (-1, 16)).max(axis=1)
    assert np.mean(most > high) == pytest.approx(0.05, abs=0.08)  # 125 groups, and the spread of 200 draws


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_surveys_count_and_place_what_is_not_finite(rng, order, dtype):
    array = np.asarray(rng.standard_normal((7, 5, 3)), dtype, order=order)
    assert survey(array).frobenius == pytest.approx(np.linalg.norm(array.astype(float)), rel=1e-12)
    array[4, 1, 2] = np.inf
    assert survey(array).fault == "1 entry is infinite, the first at [4, 1, 2]"
    array[6, 0, 0] = np.nan
    assert survey(array).fault == "1 entry is NaN and 1 entry is infinite, the first at [4, 1, 2]"


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1.0, 1e25])
def test_norms_of_large_arrays(rng, scale, dtype):
    """Sums in float32 of bfloat16's squares, whose few bits round to one side, would be low by 1.3e-7."""
    array = (rng.standard_normal((1100, 1000)) * scale).astype(dtype)
    found = survey(array)
    assert found.frobenius == pytest.approx(np.linalg.norm(array.astype(float)), rel=1e-12)
    assert found.largest == np.abs(array.astype(float)).max()
    array[1000, 7] = np.nan
    assert survey(array).fault == "1 entry is NaN, the first at [1000, 7]"


def test_a_norm_beyond_float64_is_a_fault():
    assert survey(np.full((300, 4000), 1e307)).fault == "its norm is beyond float64"
    assert survey(np.full((30, 40), 1e306)).frobenius == pytest.approx(1200**0.5 * 1e306)


@pytest.mark.parametrize("dtype", [">f2", ">f4", ">f8"])
def test_surveys_read_any_byte_order(rng, dtype):
    array = rng.standard_normal((50, 30)).astype(dtype)
    assert survey(array).frobenius == pytest.approx(np.linalg.norm(array.astype(float)), rel=1e-12)


def test_a_tolerance_below_the_floor_is_told(tmp_path, rng):
    path = save_safetensors(tmp_path / "m.safetensors", {"w.weight": rng.standard_normal((40, 30)).astype(np.float32)})
    notes = analyze_checkpoint(path, k=2, tol=1e-30).notes
    assert "tol 1e-30 is below what float32 attains; 1e-06 was used" in notes
    assert not any("attains" in note for note in analyze_checkpoint(path, k=2, tol=1e-5).notes)


@pytest.mark.parametrize("scale", [0.0, 5e-324, 1e-170, 1e200])
def test_norms_of_any_size(rng, scale):
    """Squares vanish or overflow; entries of the smallest size are one unit each or nothing."""
    whole = np.round(rng.standard_normal((300, 200)), 1)
    expected = float(np.linalg.norm(np.round(whole) if scale == 5e-324 else whole))
    assert survey(whole * scale).frobenius / max(scale, 5e-324) == pytest.approx(expected * (scale > 0), rel=1e-2)
    assert survey((whole * scale)[:0]).frobenius == 0.0


# -- rules ----------------------------------------------------------------------------------------------------


texts = st.text(alphabet="ab.1", max_size=4)


@given(st.lists(texts, min_size=1, max_size=4), st.data())
def test_what_a_glob_matches_fills_it(pieces, data):
    fillings = tuple(data.draw(st.tuples(*[texts] * (len(pieces) - 1))))
    glob = "*".join(pieces)
    name = pieces[0] + "".join(f + p for f, p in zip(fillings, pieces[1:], strict=True))
    found = texts_of(glob, name)
    assert found is not None
    assert pieces[0] + "".join(f + p for f, p in zip(found, pieces[1:], strict=True)) == name


@given(texts, texts)
def test_a_glob_without_stars_is_a_name(glob, name):
    assert (texts_of(glob, name) is not None) == (glob == name)


def test_pairs_by_rules(tmp_path, rng):
    tensors = {f"a.{i}.w": rng.standard_normal((4, 3)) for i in range(2)}
    tensors |= {f"b.{i}.w": rng.standard_normal((5, 4)) for i in range(2)}
    path = saved(tmp_path, tensors)
    found = analyze_checkpoint(path, k=2, rules=Rules().with_options(pairs=["a.*.w=b.*.w"]))
    pairs = {(pair.lower, pair.upper): pair for pair in found.pairs}
    assert {("a.0.w", "b.0.w"), ("a.1.w", "b.1.w")} <= set(pairs)
    low, up = tensors["a.1.w"], tensors["b.1.w"]
    assert pairs["a.1.w", "b.1.w"].gap == pytest.approx(np.linalg.norm(up.T @ up - low @ low.T), rel=1e-9)
    with pytest.raises(ValueError, match=r"a\.0\.w has 4 outputs and a\.1\.w 3 inputs"):
        analyze_checkpoint(path, rules=Rules(pairs=(PairRule.parse("a.0.w=a.1.w"),)))


def test_roles_and_storage_by_rules(tmp_path, rng):
    tensors = {}
    for i in range(2):
        for name in ("wq", "wk", "wv", "wo"):
            tensors[f"tower.{i}.{name}.w"] = rng.standard_normal((8, 8))
    (tmp_path / "rules.toml").write_text(
        "heads = 2\n"
        'storage = "in_out"\n'
        "[roles]\n"
        '"tower.*.wq.w" = "attention query"\n'
        '"tower.*.wk.w" = "attention key"\n'
        '"tower.*.wv.w" = "attention value"\n'
        '"tower.*.wo.w" = "attention output"\n'
    )
    found = analyze_checkpoint(saved(tmp_path, tensors), k=2, rules=Rules.read(tmp_path / "rules.toml"))
    assert [part.role for part in found.tensors][:4] == [f"attention {r}" for r in ("key", "output", "query", "value")]
    first = found.products[1]
    q, k = (tensors[f"tower.0.{name}.w"].T[4:] for name in ("wq", "wk"))
    assert (first.name, first.kind, first.head) == ("tower.0", "QK", 1)
    np.testing.assert_allclose(first.values, singular_values(q.T @ k)[:2], rtol=1e-6)
    assert len(found.compositions) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("heads = ", "Invalid value"),
        ("headz = 3", "unknown key 'headz'; expected heads, kv_heads"),
        ("heads = 0", "heads is 0; expected at least 1"),
        ('heads = "4"', "heads is '4'; expected an integer"),
        ("kv_heads = 4", "kv_heads is 4, and heads is not given; expected both"),
        ("heads = 6\nkv_heads = 4", "expected a multiple of kv_heads"),
        ('storage = "sideways"', "'sideways'; expected one of in_out, out_in"),
        ('[roles]\n"a" = "engine"', "'a' is 'engine'; expected one of embedding"),
        ("roles = 3", "roles is 3; expected a table of globs"),
        ("pairs = 3", "pairs is 3; expected a list"),
        ('pairs = ["a.*=b"]', "expected as many \\* on both sides"),
        ('pairs = ["a"]', "expected 'lower=upper'"),
        ('[roles]\n"nothing.*" = "norm"', "roles: no tensor fits 'nothing.\\*'"),
        ('pairs = ["x.*=y.*"]', "no tensor fits 'x.\\*'"),
        ('pairs = ["lm_*=y.*"]', "1 tensors fit lm_\\*, none of them has a partner 'y.\\*'"),
        ("heads = 7", "7 heads: model.layers.0.self_attn: 64 rows of the query are no multiple of 7 heads"),
    ],
)
def test_rules_that_are_wrong_or_fit_nothing(tmp_path, content, message):
    path = saved(tmp_path, models.llama(layers=1))
    (tmp_path / "rules.toml").write_text(content)
    with pytest.raises(ValueError, match=message):
        analyze_checkpoint(path, rules=Rules.read(tmp_path / "rules.toml"))


def test_rules_that_are_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a TOML file of rules"):
        Rules.read(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"heads = 3 # \xe9")
    with pytest.raises(ValueError, match="no UTF-8"):
        Rules.read(tmp_path / "latin.toml")


@pytest.mark.parametrize("size", [1e-200, 1e155])
def test_entries_whose_squares_overflow_or_vanish(tmp_path, rng, size):
    """Everything of a spectrum but its scale stays, and the other tensors are analysed."""
    W, V = rng.standard_normal((60, 40)), rng.standard_normal((40, 30))
    file = save_safetensors(tmp_path / "m.safetensors", {"w": W * size, "v": V})
    reference = save_safetensors(tmp_path / "r.safetensors", {"w": W, "v": V})
    found, expected = (analyze_checkpoint(path, k=3) for path in (file, reference))
    assert not found.failed
    for a, b in zip(found.tensors, expected.tensors, strict=True):
        scale = size if a.name == "w" else 1.0
        np.testing.assert_allclose(a.values / scale, b.values, rtol=1e-10)
        for field in ("stable_rank", "effective_rank", "tail", "outliers"):
            assert getattr(a, field) == pytest.approx(getattr(b, field), rel=1e-9)
        assert a.edge / scale == pytest.approx(b.edge, rel=1e-9)


@pytest.mark.parametrize("tol", [-1.0, float("nan"), "1e-3"])
def test_a_bad_tolerance_is_refused_before_anything_is_read(tmp_path, tol):
    with pytest.raises(ValueError, match="tol is"):
        analyze_checkpoint(save_safetensors(tmp_path / "m.safetensors", {"w": np.eye(3)}), tol=tol)


def scaled(tensors, power):
    """Every matrix times a power of two, exactly, in float64."""
    return {
        name: np.ldexp(W.astype(float), power) if W.ndim > 1 and W.dtype.kind == "f" else W
        for name, W in tensors.items()
    }


@pytest.mark.parametrize("power", [-100, 240, 480, -480, -600, 600])
def test_pairs_scale_exactly_and_say_where_they_leave_float64(tmp_path, rng, power):
    layers = {f"layers.{i}.weight": rng.standard_normal((6, 5 + i)) for i in range(2)}
    layers["layers.1.weight"] = rng.standard_normal((4, 6))
    (near,) = analyze_checkpoint(save_safetensors(tmp_path / "a.safetensors", layers), 3).pairs
    (far,) = analyze_checkpoint(save_safetensors(tmp_path / "b.safetensors", scaled(layers, power)), 3).pairs
    assert near.status == "computed"
    np.testing.assert_allclose(far.relative_gap, near.relative_gap, rtol=1e-13)
    np.testing.assert_allclose(far.overlaps, near.overlaps, atol=1e-9)
    if abs(power) < 500:
        assert far.status == "computed"
        np.testing.assert_allclose(far.gap, np.ldexp(near.gap, 2 * power), rtol=1e-13)
    else:
        assert np.isnan(far.gap)
        assert far.status == "the gap is beyond float64; its ratio to the norms is not"


@pytest.mark.parametrize("power", [-480, 480, -600, 600])
def test_estimated_gaps_and_kernels_scale_as_well(tmp_path, rng, power, monkeypatch):
    monkeypatch.setattr("flatcore.checkpoints.analysis._BALANCE_FLOPS", 0.0)
    layers = {"a.0.weight": rng.standard_normal((6, 5)), "a.1.weight": rng.standard_normal((4, 6))}
    layers |= {"b.0.weight": rng.standard_normal((6, 5, 3)), "b.1.weight": rng.standard_normal((4, 6, 3))}
    found = [
        analyze_checkpoint(save_safetensors(tmp_path / f"{p}.safetensors", scaled(layers, p)), 3).pairs
        for p in (0, power)
    ]
    assert len(found[0]) == 2
    for near, far in zip(*found, strict=True):
        np.testing.assert_allclose(far.relative_gap, near.relative_gap, rtol=1e-12)
        assert (far.status == near.status) == (abs(power) < 500)


@pytest.mark.parametrize("power", [-500, -300, 300, 480, 505, 600])
def test_products_of_heads_scale_exactly_or_fail(tmp_path, power):
    tensors = models.llama(layers=2)
    rules = Rules(heads=4, kv_heads=2)
    near = analyze_checkpoint(save_safetensors(tmp_path / "a.safetensors", scaled(tensors, 0)), 2, rules=rules)
    far = analyze_checkpoint(save_safetensors(tmp_path / "b.safetensors", scaled(tensors, power)), 2, rules=rules)
    if power == 600:
        assert [(f.name, f.role) for f in far.failed] == [(f"model.layers.{i}.self_attn", "heads") for i in range(2)]
        assert all("are beyond float64" in f.reason for f in far.failed)
        assert not far.products
        assert not far.certified
    else:
        for a, b in zip(near.products, far.products, strict=True):
            np.testing.assert_allclose(b.values, np.ldexp(a.values, 2 * power), rtol=1e-12)
            np.testing.assert_allclose(b.frobenius, np.ldexp(a.frobenius, 2 * power), rtol=1e-12)
            np.testing.assert_allclose((b.stable_rank, b.relative_gap), (a.stable_rank, a.relative_gap), rtol=1e-12)
    for a, b in zip(near.compositions, far.compositions, strict=True):
        np.testing.assert_allclose(b.scores, a.scores, rtol=1e-9)


def test_adapters_of_far_factors_scale_exactly_or_fail(tmp_path, rng):
    B, A = rng.standard_normal((7, 3)), rng.standard_normal((3, 9))

    def product(b, a):
        tensors = {"m.lora_B.weight": np.ldexp(B, b), "m.lora_A.weight": np.ldexp(A, a)}
        return analyze_checkpoint(save_safetensors(tmp_path / "a.safetensors", tensors), 3)

    s = np.linalg.svd(B @ A, compute_uv=False)[:3]
    for powers in ((0, 0), (600, -600), (-700, 300), (480, 480)):
        (found,) = product(*powers).products
        np.testing.assert_allclose(found.values, np.ldexp(s, sum(powers)), rtol=1e-9)
        assert ("gap is beyond float64" in found.note) == (max(powers) > 505)
    for powers in ((600, 600), (-600, -600)):
        failed = product(*powers)
        assert [(f.name, f.role) for f in failed.failed] == [("m", "LoRA s·B·A")]
        assert not failed.certified


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rules": "heads = 3"}, "rules is 'heads = 3'; expected Rules(…), Rules.read(file) or None"),
        ({"rules": {"heads": 3}}, "rules is {'heads': 3}; expected Rules"),
        ({"starts": [1]}, "starts is a list; expected a mapping of names to vectors (b, n)"),
        ({"starts": {"W1": "x"}}, "starts['W1'] has shape (); expected 2 dimensions"),
        ({"starts": {"W1": np.ones(4)}}, "starts['W1'] has shape (4,); expected 2 dimensions"),
        ({"starts": {"W1": np.full((1, 4), np.nan)}}, "starts['W1'] contains nan at index (0, 0)"),
        ({"progress": 3}, "progress is 3; expected a function of a text and a fraction"),
        ({"spectra_only": "no"}, "spectra_only is 'no'; expected True or False"),
    ],
)
def test_arguments_of_another_kind_are_refused_by_name(tmp_path, arguments, message):
    np.savez(tmp_path / "m.npz", W1=np.eye(5, 4))
    with pytest.raises(ValueError, match=re.escape(message)):
        analyze_checkpoint(tmp_path / "m.npz", **arguments)


def test_starts_that_do_not_fit_are_told(tmp_path):
    np.savez(tmp_path / "m.npz", W1=np.eye(5, 4))
    found = analyze_checkpoint(tmp_path / "m.npz", 2, starts={"W1": np.ones((1, 9))})
    assert "W1: start vectors of shape (1, 9) are left out; expected (b, 4)" in found.notes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"roles": "x"}, "roles is 'x'; expected a tuple of pairs of a glob and a role"),
        ({"storage": (("a", 1),)}, "storage is (('a', 1),); expected a tuple of pairs"),
        ({"pairs": ("a=b",)}, "pairs is ('a=b',); expected a tuple of PairRule"),
    ],
)
def test_rules_of_other_kinds_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Rules(**arguments)


def llava(prefix, seed=3):
    """A language model behind a prefix, and a vision tower of another number of heads."""
    new = models.Maker(seed)
    tensors = {name.replace("model.", prefix, 1): W for name, W in models.llama().items()}
    for i in range(2):
        block = f"vision_tower.vision_model.encoder.layers.{i}"
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors |= new.linear(f"{block}.self_attn.{projection}", 48, 48)
        tensors |= new.linear(f"{block}.mlp.fc1", 96, 48) | new.linear(f"{block}.mlp.fc2", 48, 96)
    return tensors | new.linear("multi_modal_projector.linear_1", 64, 48)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_models_of_texts_and_images_have_heads_each(tmp_path, prefix):
    path = save_safetensors(tmp_path / "model.safetensors", llava(prefix))
    text = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    (tmp_path / "config.json").write_text(
        json.dumps({"text_config": text, "vision_config": {"num_attention_heads": 3}})
    )
    with open_checkpoint(tmp_path) as checkpoint:
        found = recognise(checkpoint)
    assert found.family == "Llama or Mistral"
    assert {(a.name, a.heads, a.kv_heads) for a in found.attentions} == {
        *((f"{prefix}layers.{i}.self_attn", 4, 2) for i in range(2)),
        *((f"vision_tower.vision_model.encoder.layers.{i}.self_attn", 3, 3) for i in range(2)),
    }
    names = {(pair.lower.tensor, pair.upper.tensor) for pair in found.consecutive}
    assert (f"{prefix}layers.0.mlp.up_proj.weight", f"{prefix}layers.0.mlp.down_proj.weight") in names
    assert not any(lower.startswith("vision") != upper.startswith("vision") for lower, upper in names)
    assert len(analyze_checkpoint(path, 2).compositions) == 6


@pytest.mark.parametrize(
    ("config", "heads", "note"),
    [
        ({"num_attention_heads": 4, "vision_config": {"num_heads": 3}}, {4, 3}, ""),  # texts outside the parts
        ({"text_config": {"num_attention_heads": 4}}, {4}, "the number of heads of vision is not known"),
        ({"vision_config": {"num_attention_heads": 3}}, {3}, "the number of heads is not known"),
        ({"text_config": 5, "vision_config": {"num_attention_heads": 3}}, {3}, "text_config is 5; expected an object"),
        (
            {"text_config": {"num_attention_heads": -4}, "vision_config": {"num_attention_heads": 3}},
            {3},
            "text_config.num_attention_heads is -4; expected a positive integer",
        ),
        (
            {"text_config": {"num_attention_heads": 4, "head_dim": 9}},
            set(),
            "16 entries a head by their shape; expected 9",
        ),
    ],
)
def test_parts_of_configurations_are_used_where_shapes_agree(tmp_path, config, heads, note):
    save_safetensors(tmp_path / "model.safetensors", llava("language_model.model."))
    (tmp_path / "config.json").write_text(json.dumps(config))
    with open_checkpoint(tmp_path) as checkpoint:
        found = recognise(checkpoint)
    assert {a.heads for a in found.attentions} == heads
    assert note in "; ".join(found.notes)
