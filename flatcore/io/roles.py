"""What a tensor is in its model, told by its name and its number of extents: a table of patterns, and nothing else.

The names are those of GPT-2, Llama and Mistral, BERT, ViT (transformers', timm's and torchvision's), of PEFT's adapters
and of plain PyTorch modules. A name is matched from its end, so that wrappers before it do not matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from flatcore.io.checkpoints.checkpoint import StoredTensor

EMBEDDING, LINEAR, CONVOLUTION, BIAS, NORM, BUFFER = (
    "embedding",
    "linear weight",
    "convolution",
    "bias",
    "norm",
    "buffer",
)
QUERY, KEY, VALUE, OUTPUT, QKV = (f"attention {part}" for part in ("query", "key", "value", "output", "q, k and v"))
UP, GATE, DOWN, GATE_UP = (f"MLP {part}" for part in ("up", "gate", "down", "gate and up"))
LORA_A, LORA_B, LORA_ALPHA, DORA = "LoRA A", "LoRA B", "LoRA alpha", "DoRA magnitudes"
UNKNOWN = "unknown"
ROLES = (
    *(EMBEDDING, LINEAR, CONVOLUTION, BIAS, NORM, BUFFER),
    *(QUERY, KEY, VALUE, OUTPUT, QKV),
    *(UP, GATE, DOWN, GATE_UP),
    *(LORA_A, LORA_B, LORA_ALPHA, DORA, UNKNOWN),
)

_LONGEST = 500  # characters of a name that is looked at
_NORM = r"(?i:\w*(?:layer_?norm|batch_?norm|group_?norm|rms_?norm)\w*|norm\d*|\w+_norm|ln_?\w*|bn\d*)"
# What ends a name, for how many extents, and what it is; the first that matches.
_TABLE: tuple[tuple[str, tuple[int, ...], str], ...] = (
    # buffers: masks, positions, running statistics
    (r"attn\.(bias|masked_bias)", (0, 4), BUFFER),
    (r"position_ids|token_type_ids|inv_freq|num_batches_tracked|running_mean|running_var", (0, 1, 2), BUFFER),
    (r"relative_position_index|attn_mask", (2, 3), BUFFER),
    # adapters
    (r"lora_A(\.\w+)?\.weight|lora_down\.weight|lora_embedding_A(\.\w+)?", (2, 4), LORA_A),
    (r"lora_B(\.\w+)?\.weight|lora_up\.weight|lora_embedding_B(\.\w+)?", (2, 4), LORA_B),
    (r"lora_magnitude_vector(\.\w+)?(\.weight)?", (1,), DORA),
    # embeddings, class tokens among them
    (r"(wte|wpe|embed_tokens|embed_positions)\.weight", (2,), EMBEDDING),
    (r"((word|position|token_type)_embeddings|emb\w*|tok_embeddings)\.weight", (2,), EMBEDDING),
    (r"cls_token|class_token|dist_token|mask_token|pos_embed|pos_embedding|position_embeddings", (2, 3), EMBEDDING),
    # norms
    (rf"{_NORM}\.(weight|bias|gamma|beta)", (1,), NORM),
    # attention
    (r"(c_attn|qkv|qkv_proj|query_key_value)\.weight|in_proj_weight", (2,), QKV),
    (r"(q_proj|query|wq|q_lin|to_q)\.weight", (2,), QUERY),
    (r"(k_proj|key|wk|k_lin|to_k)\.weight", (2,), KEY),
    (r"(v_proj|value|wv|v_lin|to_v)\.weight", (2,), VALUE),
    (r"(attn\.c_proj|attn\.proj|o_proj|wo|out_lin|to_out\.0)\.weight", (2,), OUTPUT),
    (r"(attention\.output\.dense|\w*att\w*\.out_proj)\.weight", (2,), OUTPUT),
    # MLPs of transformers
    (r"gate_up_proj\.weight", (2,), GATE_UP),
    (r"(gate_proj|feed_forward\.w1)\.weight", (2,), GATE),
    (r"(up_proj|feed_forward\.w3|mlp\.c_fc|mlp\.fc1|mlp\.linear_1|intermediate\.dense)\.weight", (2,), UP),
    (r"layers\.encoder_layer_\d+\.mlp\.0\.weight", (2,), UP),
    (r"layers\.encoder_layer_\d+\.mlp\.3\.weight", (2,), DOWN),
    (r"(down_proj|feed_forward\.w2|mlp\.c_proj|mlp\.fc2|mlp\.linear_2)\.weight", (2,), DOWN),
    (r"layer\.\d+\.output\.dense\.weight", (2,), DOWN),
    # anything else
    (r"\w*bias|b\d+", (1,), BIAS),
    (r"weight|W_?\d+", (2,), LINEAR),
    (r"weight", (3, 4, 5), CONVOLUTION),
)
_PATTERNS = tuple((re.compile(rf"(?:.*[./])?(?:{end})", re.DOTALL), extents, role) for end, extents, role in _TABLE)


def role_of(name: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]] | None = None) -> str:
    """What a tensor is taken for.

    Parameters
    ----------
    name, shape
        As its file says.
    shapes
        Shapes of all tensors of the file: what stands beside running statistics belongs to a norm, and so do vectors
        ``n.weight`` and ``n.bias`` of one length; a number ``n.alpha`` beside ``n.lora_up.weight`` scales an adapter.

    Returns
    -------
    str
        One of the names above; ``"unknown"`` where no pattern matches.

    Examples
    --------
    >>> role_of("model.layers.0.self_attn.q_proj.weight", (64, 64)), role_of("h.0.attn.c_attn.weight", (64, 192))
    ('attention query', 'attention q, k and v')

    """
    if len(name) > _LONGEST:
        return UNKNOWN
    if len(shape) == 1 and _is_of_norm(name, shape, shapes or {}):
        return NORM
    if _is_alpha(name, shape, shapes or {}):
        return LORA_ALPHA
    for pattern, extents, role in _PATTERNS:
        if len(shape) in extents and pattern.fullmatch(name):
            return role
    return UNKNOWN


def roles_of(tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """What each tensor of a checkpoint is taken for, by name."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    return {name: role_of(name, shape, shapes) for name, shape in shapes.items()}


def _is_alpha(name: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a number is the α of the adapter beside it."""
    module, dot, last = name.rpartition(".")
    beside = (f"{module}.{B}" for B in ("lora_up.weight", "lora_B.weight", "lora_embedding_B"))
    return dot + last == ".alpha" and shape in ((), (1,)) and any(B in shapes for B in beside)


def _is_of_norm(name: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a vector belongs to a norm by what stands beside it."""
    module, dot, last = name.rpartition(".")
    other = {"weight": "bias", "bias": "weight"}.get(last)
    if other is None:
        return False
    return f"{module}{dot}running_mean" in shapes or shapes.get(f"{module}{dot}{other}") == shape
