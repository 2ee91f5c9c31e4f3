"""Where a checkpoint's files are: a file, an index of shards, or a folder, which nothing that it names may leave."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from flatcore.io.checkpoints.checkpoint import Checkpoint, StoredTensor
from flatcore.io.checkpoints.openers import ENDINGS, open_file
from flatcore.io.strict import check_file, parse_object, read_short, shown

INDEX = ".index.json"
LONGEST_INDEX = 100_000_000  # bytes
# What transformers, diffusers and PEFT call the files of a model; the first that is there is read.
USUAL = tuple(
    name + ending + index
    for ending in (".safetensors", ".bin")
    for name in ("model", "pytorch_model", "adapter_model", "diffusion_pytorch_model")
    for index in (INDEX, "")
)
# What transformers, accelerate and DeepSpeed write beside a model to go on training it, and no model.
_TRAINING_STATE = re.compile(
    r"(optimizer|scheduler|scaler|sampler|dl_state_dict|rng_state)(_\d+)*\.(pt|pth|bin)|training_args\.bin|"
    r"\w*_optim_states\.pt"
)


def is_training_state(name: str) -> bool:
    """Whether a file of this name holds an optimizer's, a scheduler's or a generator's state, or arguments.

    Examples
    --------
    >>> [is_training_state(name) for name in ("optimizer.pt", "rng_state_0.pth", "pytorch_model.bin")]
    [True, True, False]

    """
    return _TRAINING_STATE.fullmatch(name) is not None


def find_file(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The file, or the index of files, that a path stands for, and which others of its folder are not read.

    Raises
    ------
    FileNotFoundError
        Nothing there.
    ValueError
        A folder without one model, a link that leaves it.

    """
    if not path.is_dir():
        check_file(path, f"a file ({', '.join(ENDINGS)}), an index of shards or a folder with one")
        return path, ()
    there = sorted(item.name for item in path.iterdir())
    models = [name for name in there if name.endswith((*ENDINGS, *(ending + INDEX for ending in ENDINGS)))]
    usual = [name for name in USUAL if name in models]
    likely = [name for name in models if not is_training_state(name)] or models
    if not usual and len(likely) != 1:
        raise ValueError(
            f"{path} holds {_listed(models or there)}; expected model.safetensors, its index, or one file "
            f"({', '.join(ENDINGS)})"
        )
    chosen = (usual or likely)[0]
    check_inside(path, chosen)
    return path / chosen, tuple(name for name in models if name != chosen)


def open_located(path: Path) -> Checkpoint:
    """The checkpoint that a path stands for.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`flatcore.io.open_checkpoint`.

    """
    file, beside = find_file(path)
    found = _open_shards(file) if file.name.endswith(INDEX) else open_file(file)
    unread = [name for name in beside if path / name not in found.files]
    notes = (f"files of the folder that are not read: {_listed(unread)}",) if unread else ()
    return dataclasses.replace(found, path=path, notes=(*found.notes, *notes))


def _open_shards(index: Path) -> Checkpoint:
    """The tensors of all shards."""
    shard_of = _weight_map(index)
    shards = list(dict.fromkeys(shard_of.values()))
    for shard in shards:
        check_inside(index.parent, shard)
    with ExitStack() as stack:
        parts = {shard: stack.enter_context(open_file(index.parent / shard)) for shard in shards}
        merged = _merged(index, shard_of, parts)
        return dataclasses.replace(merged, _close=stack.pop_all().close)


def _merged(index: Path, shard_of: Mapping[str, str], parts: Mapping[str, Checkpoint]) -> Checkpoint:
    """All shards as one; where they and the index disagree it is told."""
    tensors: dict[str, StoredTensor] = {}
    others = {name: reason for part in parts.values() for name, reason in part.others.items()}
    surplus = []
    for shard, part in parts.items():
        for name, tensor in part.items():
            if shard_of.get(name) == shard:
                tensors[name] = tensor
            else:
                surplus.append(f"{name} in {shard}")
                tensors.setdefault(name, tensor)
    missing = {
        name: f"the index has it in {shown(shard)}, which does not hold it"
        for name, shard in shard_of.items()
        if name not in tensors and name not in others
    }
    notes = dict.fromkeys(note for part in parts.values() for note in part.notes)
    if surplus:
        notes[f"tensors where the index does not have them: {_listed(surplus)}"] = None
    kinds = dict.fromkeys(part.kind for part in parts.values())
    return Checkpoint(
        index,
        f"{', '.join(kinds)}, {len(parts)} shard{'s' * (len(parts) != 1)}",
        tuple(part.path for part in parts.values()),
        tensors,
        others,
        tuple(notes),
        missing=missing,
        tied={name: other for part in parts.values() for name, other in part.tied.items()},
        metadata={key: text for part in parts.values() for key, text in part.metadata.items()},
    )


def _weight_map(index: Path) -> dict[str, str]:
    """Names of tensors → names of shards, each a plain name with the index's own ending."""
    found = parse_object(str(index), read_short(index, "an index of shards", LONGEST_INDEX)).get("weight_map")
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{index} has weight_map {shown(found)}; expected the shard of each tensor by name")
    ending = Path(index.name.removesuffix(INDEX)).suffix
    for name, shard in found.items():
        plain = isinstance(shard, str) and _is_plain(shard)
        if not plain or not shard.endswith(ending) or ending not in ENDINGS:
            raise ValueError(
                f"{index}: the shard of {shown(name)} is {shown(shard)}; expected the plain name of a {ending} file in "
                "the index's folder"
            )
    return found


def _is_plain(name: str) -> bool:
    """Whether a name has no folders, drives or control characters, on any system."""
    return name.isprintable() and name == Path(name).name and not set(name) & set("/\\:")


def check_inside(folder: Path, name: str) -> None:
    """Refuse a link that leaves the folder, but for those of Hugging Face's cache from snapshots/… to blobs/."""
    home = Path(os.path.realpath(folder))
    allowed = [home, *([home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [])]
    place = Path(os.path.realpath(home / name))
    if not any(place.is_relative_to(root) for root in allowed):
        raise ValueError(f"{folder / name} is a link to {shown(str(place))}; expected a file that lies in the folder")


def _listed(names: list[str], most: int = 8) -> str:
    texts = [shown(name) for name in names[:most]] + [f"{len(names) - most} more"] * (len(names) > most)
    return ", ".join(texts) or "nothing"
