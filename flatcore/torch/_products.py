r"""Named products of matrices inside a larger model, as linear chains.

- LoRA:  ΔW = scale·B·A, chain [A, B];
- attention scores, head h:  q·k = x_qᵀ (W_{Q,h}ᵀ W_{K,h}) x_k, chain [W_{K,h}, W_{Q,h}ᵀ], d → d_h → d;
- attention values, head h:  what a value passes on is W_{O,h} W_{V,h} x, chain [W_{V,h}, W_O[:, h]];
- where asked for, consecutive Linear layers of a block as if nothing lay between them, chain [W_1, W_2, …].

The products are of weights: biases and the 1/√d_h of the scores are left out. Queries that share keys and values
(grouped heads) meet the rows of their group. Nothing is copied: heads are slices of the model's own tensors.

Modules are recognised by class or by the names of their parts (`_product_search.py`); a module that uses such names for
something else would be misread, so every entry lists its parameters. Rotary embeddings and norms between weights are no
part of a product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from flatcore.results import Record
from flatcore.torch._product_search import Product, Search

KINDS = ("lora", "query-key", "value-output", "linear")


@dataclass(frozen=True, repr=False)
class Products(Record):
    """The products found in a model, by name: ``found["…"]``, ``found.of_kind("lora")``, iteration over entries.

    ``unrecognised``: layers with a weight matrix that are part of no product; ``unread``: modules that look like one of
    the known forms and why they could not be read.
    """

    entries: tuple[Product, ...]
    unrecognised: tuple[str, ...]
    unread: tuple[tuple[str, str], ...]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Product]:
        return iter(self.entries)

    def __getitem__(self, name: str) -> Product:
        for entry in self.entries:
            if entry.name == name:
                return entry
        close = ", ".join(repr(entry.name) for entry in self.entries[:3])
        raise KeyError(
            f"no product is named {name!r}; there are {len(self)}: {close or 'none'}{' …' * (len(self) > 3)}"
        )

    def of_kind(self, kind: str) -> tuple[Product, ...]:
        """Entries of one kind."""
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
        return tuple(entry for entry in self.entries if entry.kind == kind)

    def _lines(self) -> Iterator[tuple[str, str]]:
        groups: dict[tuple[str, str], list[Product]] = {}
        for entry in self.entries:
            groups.setdefault((entry.kind, entry.module), []).append(entry)
        for (kind, module), entries in groups.items():
            widths = " → ".join(str(d) for d in entries[0].dims)
            count = f"{len(entries)} heads, " if entries[0].head is not None else ""
            yield module or "model", f"{kind}: {count}{widths}"
        yield "in no product", ", ".join(self.unrecognised) or "nothing"
        for name, reason in self.unread:
            yield name or "model", f"not read: {reason}"

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.of_kind(kind))} {kind}" for kind in KINDS if self.of_kind(kind))
        return f"Products({counts or 'none'}; {len(self.unrecognised)} layers in none)"


def products(model: nn.Module, *, linear: str | nn.Module | Sequence[str | nn.Module] = ()) -> Products:
    """Products of matrices inside a model: LoRA B·A, attention Q·K and V·O per head, and MLPs taken as linear.

    Parameters
    ----------
    model
        Any module. Read are ``nn.MultiheadAttention``; modules with Linear children q_proj, k_proj, v_proj and o_proj
        or out_proj (also q_lin …, q, k, v, o, wq …); c_attn with c_proj, and qkv with proj; BERT's self.query, key,
        value with output.dense; lora_A with lora_B (peft's per adapter, loralib's parameters).
    linear
        Names of modules, regular expressions that match whole names, or modules: their consecutive Linear layers, in
        order of registration and as far as widths match, count as a product although a nonlinearity lies between. Of
        gated MLPs (gate_proj, up_proj, down_proj; wi_0, wi_1, wo; w1, w3, w2) up and down do, without the gate.

    Returns
    -------
    Products
        Entries with a name, a chain and parameter names; and what was not recognised.

    Raises
    ------
    ValueError
        An entry of `linear` that names nothing, or modules without two layers that follow each other.

    Examples
    --------
    >>> import torch, flatcore as fc
    >>> layer = torch.nn.TransformerEncoderLayer(8, 2, dim_feedforward=32)
    >>> found = fc.torch.products(layer, linear="")
    >>> found
    Products(2 query-key, 2 value-output, 1 linear; 0 layers in none)
    >>> found["self_attn query-key head 1"].chain
    LinearChain(8 → 4 → 8, float32, 64 parameters)

    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a {type(model).__name__}; expected a torch.nn.Module")
    search = Search(model)
    for name, module in model.named_modules():
        search.read(name, module)
    for entry in [linear] if isinstance(linear, (str, nn.Module)) else linear:
        search.take_as_linear(entry)
    unrecognised = tuple(name for name, _ in search.layers() if name not in search.used)
    return Products(tuple(search.entries), unrecognised, tuple(search.unread))
