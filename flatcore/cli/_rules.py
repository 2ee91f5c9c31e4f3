"""The options that say what names, shapes and configuration files leave open, the same for every command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from flatcore.checkpoints import Rules

RulesOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="A TOML file: roles, storage, pairs, heads of tensors.")
]
PairOption = Annotated[
    list[str] | None,
    typer.Option(metavar="LOWER=UPPER", help="Consecutive layers; * stands for the same text on both sides."),
]
HeadsOption = Annotated[int | None, typer.Option(help="Attention heads a layer, where no config.json says it.")]
KvHeadsOption = Annotated[int | None, typer.Option(help="Heads of keys and values, where they are fewer.")]


def rules_of(file: Path | None, pairs: Sequence[str] | None, heads: int | None, kv_heads: int | None) -> Rules:
    """The file's rules, and those of the command line beside them."""
    return (Rules() if file is None else Rules.read(file)).with_options(pairs or (), heads, kv_heads)
