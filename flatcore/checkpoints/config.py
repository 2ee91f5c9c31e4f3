"""``config.json`` and ``adapter_config.json`` beside a checkpoint: a few numbers, checked, and never trusted further.

Whatever such a file says is compared with the shapes of the tensors before it is used. A file that cannot be read is
no error: the analysis goes on without it, and says so.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flatcore.io.checkpoints.folders import check_inside
from flatcore.io.strict import parse_object, read_short, shown

MODEL_CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"

LONGEST_FILE = 10_000_000  # bytes
_MOST = 1 << 20  # heads or ranks
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
TEXT = "text"
_PARTS = {TEXT: ("text_config", "llm_config"), "vision": ("vision_config",), "audio": ("audio_config",)}
_PART = re.compile(r"(?:^|[./])(vision|visual|image|audio|speech)(?=[./_])")
_KV_HEADS = ("num_key_value_heads", "n_kv_heads")


@dataclass(frozen=True)
class ModelConfig:
    """Attention heads, those of keys and values, and entries a head, where the model's own file says them.

    Models of texts and something else have a configuration for each: ``parts`` by "text", "vision" and "audio".
    """

    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    parts: Mapping[str, ModelConfig] = field(default_factory=dict)

    def of(self, name: str) -> ModelConfig:
        """That of the part which a tensor or layer belongs to; of texts what stands outside all parts as well."""
        part = part_of(name)
        if part != TEXT and (part in self.parts or TEXT in self.parts):
            return self.parts.get(part, ModelConfig())
        own = self.parts.get(TEXT)
        return self if own is None or own.heads is None else own


def part_of(name: str) -> str:
    """What a tensor of a model of several parts is for, told by its name: ``"vision"``, ``"audio"``, or ``"text"``.

    Examples
    --------
    >>> part_of("vision_tower.encoder.layers.0.mlp.fc1.weight"), part_of("model.language_model.layers.0.mlp.up.weight")
    ('vision', 'text')

    """
    found = _PART.search(name)
    return TEXT if found is None else "audio" if found[1] in ("audio", "speech") else "vision"


@dataclass(frozen=True)
class AdapterConfig:
    """What scales adapters: alpha and r, by name where a pattern names modules, and whether by α/√r."""

    alpha: float | None = None
    rank: int | None = None
    rank_stabilised: bool = False
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)


def read_model_config(folder: Path) -> tuple[ModelConfig, tuple[str, ...]]:
    """What ``config.json`` says of heads, and notes about what was not used."""
    content, notes = _content(folder, MODEL_CONFIG)
    config, more = _model_config(content, "")
    parts = {}
    for part, keys in _PARTS.items():
        key = next((key for key in keys if content.get(key) is not None), None)
        if key is not None and isinstance(content[key], dict):
            parts[part], again = _model_config(content[key], f"{key}.")
            more += again
        elif key is not None:
            more.append(f"config.json: {key} is {shown(content[key])}; expected an object, not used")
    return dataclasses.replace(config, parts=parts), (*notes, *more)


def _model_config(content: Mapping[str, Any], where: str) -> tuple[ModelConfig, list[str]]:
    """What an object says of heads; `where` it stands begins the names in notes."""
    values, more = {}, []
    for name, keys in (("heads", _HEADS), ("kv_heads", _KV_HEADS), ("head_dim", ("head_dim",))):
        key = next((key for key in keys if content.get(key) is not None), None)
        if key is None:
            continue
        if _is_count(content[key]):
            values[name] = content[key]
        else:
            more.append(f"config.json: {where}{key} is {shown(content[key])}; expected a positive integer, not used")
    return ModelConfig(**values), more


def read_adapter_config(folder: Path) -> tuple[AdapterConfig, tuple[str, ...]]:
    """What ``adapter_config.json`` says of ranks and scalings, and notes about what was not used."""
    content, notes = _content(folder, ADAPTER_CONFIG)
    more: list[str] = []

    def wanted(key: str, right: bool) -> Any:
        if content.get(key) is not None and not right:
            more.append(f"adapter_config.json: {key} is {shown(content[key])}, not used")
        return content.get(key) if right else None

    alpha = wanted("lora_alpha", _is_number(content.get("lora_alpha")))
    rank = wanted("r", _is_count(content.get("r")))
    rslora = wanted("use_rslora", isinstance(content.get("use_rslora"), bool))
    alphas = _pattern(content, "alpha_pattern", _is_number, more)
    ranks = _pattern(content, "rank_pattern", _is_count, more)
    if content.get("use_dora") is True:
        more.append("adapter_config.json: use_dora; the products are those before the columns are normalised")
    return AdapterConfig(alpha, rank, bool(rslora), alphas, ranks), (*notes, *more)


def _pattern(content: Mapping[str, Any], key: str, is_right: Any, notes: list[str]) -> dict[str, Any]:
    """Plain names and their values; regular expressions of strangers are not run."""
    found: dict[str, Any] = {}
    value = content.get(key) or {}
    if not isinstance(value, dict):
        notes.append(f"adapter_config.json: {key} is {shown(value)}, not used")
        return found
    for name, entry in value.items():
        plain = name.removeprefix("^").replace("\\.", ".")
        if not is_right(entry) or not all(c.isalnum() or c in "._-" for c in plain):
            notes.append(f"adapter_config.json: {key} {shown(name)} = {shown(entry)} is not used; expected plain names")
        else:
            found[plain] = entry
    return found


def _content(folder: Path, name: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    path = folder / name
    if not path.exists():
        return {}, ()
    try:
        check_inside(folder, name)
        return parse_object(name, read_short(path, "a JSON object", LONGEST_FILE)), ()
    except (OSError, ValueError) as error:
        return {}, (f"{name} is not used: {error}",)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 < value <= 1e9
