"""Names that models give to layers which are not applied one after the other: attention and gated MLPs.

They are those that PyTorch, Hugging Face models and the published code of LLaMA and T5 use.
"""

from __future__ import annotations

from collections.abc import Mapping

Shape = tuple[int, ...]
IN_PROJ = tuple(f"in_proj_weight {part}" for part in ("queries", "keys", "values"))  # rows of one parameter
PROJ_WEIGHTS = ("q_proj_weight", "k_proj_weight", "v_proj_weight")  # parameters of nn.MultiheadAttention
SEPARATE = (  # names of queries, keys, values and, in the same module, the output
    ("q_proj", "k_proj", "v_proj", ("o_proj", "out_proj")),
    ("q_lin", "k_lin", "v_lin", ("out_lin",)),
    ("q", "k", "v", ("o",)),
    ("wq", "wk", "wv", ("wo",)),
)
_ATTENTION = (IN_PROJ, PROJ_WEIGHTS, ("query", "key", "value"), *((q, k, v) for q, k, v, _ in SEPARATE))
_GATED = (  # down(act(gate x) ∘ up x): gate, up, down, and whether the names alone say so
    ("gate_proj", "up_proj", "down_proj", True),
    ("wi_0", "wi_1", "wo", True),
    ("w1", "w3", "w2", False),
)


def gated(parent: str, shapes: Mapping[str, Shape]) -> tuple[str, str, str] | None:
    """Names of the gate, up and down layers of a gated MLP, where `parent` is one; None elsewhere.

    Three layers w1, w2, w3 may as well be a chain: they count where w1 and w3 have one shape, w2 the other way round.
    """
    for *parts, certain in _GATED:
        gate, up, down = (f"{parent}.{part}".lstrip(".") for part in parts)
        if not {gate, up, down} <= shapes.keys():
            continue
        fit = shapes[gate] == shapes[up] == shapes[down][::-1]
        if certain or (fit and shapes[up] != shapes[down]):
            return gate, up, down
    return None


def apart(lower: str, upper: str, shapes: Mapping[str, Shape]) -> str:
    """Why two layers registered one after the other are not applied so, as far as names say; else an empty text.

    Parameters
    ----------
    lower, upper
        Their names.
    shapes
        (out, in) of all layers by name.

    """
    (parent, _, own), (other, _, next_own) = lower.rpartition("."), upper.rpartition(".")
    for branches in _ATTENTION:
        if own in branches and all(f"{parent}.{part}".lstrip(".") in shapes for part in branches):
            if parent == other and next_own in branches:
                return "side by side in attention"
            return "queries and keys end in the scores" if own in branches[:2] else ""
    triple = gated(parent, shapes) if parent == other else None
    return "side by side in a gated MLP" if triple and lower in triple and upper in triple[:2] else ""
