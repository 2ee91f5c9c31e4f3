"""State dicts with the names and layouts of published models, of any width, filled at random."""

import numpy as np


class Maker:
    """Random tensors."""

    def __init__(self, seed=0, dtype="float32"):
        self.rng = np.random.default_rng(seed)
        if dtype == "bfloat16":
            from ml_dtypes import bfloat16 as dtype
        self.dtype = np.dtype(dtype)

    def __call__(self, *shape):
        return (self.rng.standard_normal(shape, dtype=np.float32) / np.sqrt(shape[-1])).astype(self.dtype)

    def linear(self, name, out, inputs, bias=True):
        return {f"{name}.weight": self(out, inputs)} | ({f"{name}.bias": self(out)} if bias else {})

    def norm(self, name, width, bias=True):
        return {f"{name}.weight": self(width) + 1} | ({f"{name}.bias": self(width)} if bias else {})


def gpt2(layers=2, width=768, vocabulary=50257, context=1024, seed=0):
    """openai-community/gpt2: Conv1D stores (in, out), c_attn holds q, k and v."""
    new = Maker(seed)
    tensors = {"wte.weight": new(vocabulary, width), "wpe.weight": new(context, width)}
    for i in range(layers):
        block = f"h.{i}"
        tensors |= new.norm(f"{block}.ln_1", width) | new.norm(f"{block}.ln_2", width)
        tensors[f"{block}.attn.bias"] = np.ones((1, 1, 8, 8), np.float32)
        for name, inputs, out in (
            ("attn.c_attn", width, 3 * width),
            ("attn.c_proj", width, width),
            ("mlp.c_fc", width, 4 * width),
            ("mlp.c_proj", 4 * width, width),
        ):
            tensors |= {f"{block}.{name}.weight": new(inputs, out), f"{block}.{name}.bias": new(out)}
    return tensors | new.norm("ln_f", width)


def llama(layers=2, width=64, heads=4, kv_heads=2, head_dim=16, hidden=96, vocabulary=100, seed=0, dtype="float32"):
    """meta-llama and mistralai: several query heads share a key and a value."""
    new = Maker(seed, dtype)
    tensors = {"model.embed_tokens.weight": new(vocabulary, width), "lm_head.weight": new(vocabulary, width)}
    for i in range(layers):
        block = f"model.layers.{i}"
        tensors |= new.norm(f"{block}.input_layernorm", width, False)
        tensors |= new.norm(f"{block}.post_attention_layernorm", width, False)
        for name, out, inputs in (
            ("self_attn.q_proj", heads * head_dim, width),
            ("self_attn.k_proj", kv_heads * head_dim, width),
            ("self_attn.v_proj", kv_heads * head_dim, width),
            ("self_attn.o_proj", width, heads * head_dim),
            ("mlp.gate_proj", hidden, width),
            ("mlp.up_proj", hidden, width),
            ("mlp.down_proj", width, hidden),
        ):
            tensors |= new.linear(f"{block}.{name}", out, inputs, False)
    return tensors | new.norm("model.norm", width, False)


def phi3(layers=2, width=64, heads=4, head_dim=16, hidden=96, vocabulary=100, seed=0, dtype="float32"):
    """microsoft/Phi-3: qkv_proj and gate_up_proj are fused."""
    new = Maker(seed, dtype)
    tensors = {"model.embed_tokens.weight": new(vocabulary, width)}
    for i in range(layers):
        block = f"model.layers.{i}"
        for name, out, inputs in (
            ("self_attn.qkv_proj", 3 * heads * head_dim, width),
            ("self_attn.o_proj", width, heads * head_dim),
            ("mlp.gate_up_proj", 2 * hidden, width),
            ("mlp.down_proj", width, hidden),
        ):
            tensors |= new.linear(f"{block}.{name}", out, inputs, False)
    return tensors


def bert(layers=2, width=64, hidden=128, vocabulary=100, seed=0):
    """google-bert/bert-base."""
    new = Maker(seed)
    tensors = {
        "bert.embeddings.word_embeddings.weight": new(vocabulary, width),
        "bert.embeddings.position_embeddings.weight": new(20, width),
        "bert.embeddings.position_ids": np.arange(20)[None],
    }
    for i in range(layers):
        block = f"bert.encoder.layer.{i}"
        for name in ("query", "key", "value"):
            tensors |= new.linear(f"{block}.attention.self.{name}", width, width)
        tensors |= new.linear(f"{block}.attention.output.dense", width, width)
        tensors |= new.linear(f"{block}.intermediate.dense", hidden, width)
        tensors |= new.linear(f"{block}.output.dense", width, hidden)
        tensors |= new.norm(f"{block}.attention.output.LayerNorm", width) | new.norm(f"{block}.output.LayerNorm", width)
    return tensors | new.linear("bert.pooler.dense", width, width)


def vit(layers=2, width=64, hidden=128, seed=0):
    """google/vit-base-patch16-224 in transformers."""
    new = Maker(seed)
    tensors = {
        "vit.embeddings.cls_token": new(1, 1, width),
        "vit.embeddings.position_embeddings": new(1, 17, width),
        "vit.embeddings.patch_embeddings.projection.weight": new(width, 3, 4, 4),
    }
    for i in range(layers):
        block = f"vit.encoder.layer.{i}"
        for name in ("query", "key", "value"):
            tensors |= new.linear(f"{block}.attention.attention.{name}", width, width)
        tensors |= new.linear(f"{block}.attention.output.dense", width, width)
        tensors |= new.linear(f"{block}.intermediate.dense", hidden, width)
        tensors |= new.linear(f"{block}.output.dense", width, hidden)
        tensors |= new.norm(f"{block}.layernorm_before", width)
    return tensors | new.linear("classifier", 10, width)


def timm_vit(layers=2, width=64, hidden=128, seed=0):
    """timm/vit_base_patch16_224: attn.qkv is fused."""
    new = Maker(seed)
    tensors = {
        "cls_token": new(1, 1, width),
        "pos_embed": new(1, 17, width),
        "patch_embed.proj.weight": new(width, 3, 4, 4),
    }
    for i in range(layers):
        block = f"blocks.{i}"
        tensors |= new.linear(f"{block}.attn.qkv", 3 * width, width) | new.linear(f"{block}.attn.proj", width, width)
        tensors |= new.linear(f"{block}.mlp.fc1", hidden, width) | new.linear(f"{block}.mlp.fc2", width, hidden)
        tensors |= new.norm(f"{block}.norm1", width)
    return tensors | new.linear("head", 10, width)


def torchvision_vit(layers=2, width=64, hidden=128, seed=0):
    """torchvision.models.vit_b_16: nn.MultiheadAttention's in_proj_weight."""
    new = Maker(seed)
    tensors = {
        "class_token": new(1, 1, width),
        "encoder.pos_embedding": new(1, 17, width),
        "conv_proj.weight": new(width, 3, 4, 4),
    }
    for i in range(layers):
        block = f"encoder.layers.encoder_layer_{i}"
        tensors |= {
            f"{block}.self_attention.in_proj_weight": new(3 * width, width),
            f"{block}.self_attention.in_proj_bias": new(3 * width),
        }
        tensors |= new.linear(f"{block}.self_attention.out_proj", width, width)
        tensors |= new.linear(f"{block}.mlp.0", hidden, width) | new.linear(f"{block}.mlp.3", width, hidden)
        tensors |= new.norm(f"{block}.ln_1", width)
    return tensors | new.linear("heads.head", 10, width)


def lora(layers=2, width=64, rank=4, targets=("q_proj", "v_proj"), seed=0, adapter=""):
    """PEFT's adapter_model.safetensors."""
    new = Maker(seed)
    middle = f".{adapter}" if adapter else ""
    tensors = {}
    for i in range(layers):
        for target in targets:
            module = f"base_model.model.model.layers.{i}.self_attn.{target}"
            tensors[f"{module}.lora_A{middle}.weight"] = new(rank, width)
            tensors[f"{module}.lora_B{middle}.weight"] = new(width, rank)
    return tensors


def with_spikes(tensors):
    """Every matrix with one singular value clear of all others, as trained ones have: few steps find it."""
    new = np.random.default_rng(5)
    out = {}
    for name, tensor in tensors.items():
        out[name] = tensor
        if tensor.ndim == 2 and tensor.dtype.kind != "i":
            m, n = tensor.shape
            u, v = new.standard_normal(m, dtype=np.float32), new.standard_normal(n, dtype=np.float32)
            top = 3.0 * (1.0 + (m / n) ** 0.5)  # of entries with variance 1/n
            spike = np.outer(u * (top / np.linalg.norm(u)), v / np.linalg.norm(v))
            out[name] = (tensor + spike).astype(tensor.dtype)
    return out
