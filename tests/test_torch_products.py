"""products(model): each product against what the module itself computes, shared memory, and what is left out."""

import numpy as np
import pytest
import torch
from oracles import relative_error
from torch import nn

import flatcore as fc
from flatcore.linear import StaleWeightsError

products = fc.torch.products
TOL = 1e-12  # float64 sums of some ten terms on both sides


def close(got, want):
    got, want = (a.detach().numpy() if isinstance(a, torch.Tensor) else a for a in (got, want))
    return relative_error(got, want) <= TOL


def linear(a, b, bias=False):
    return nn.Linear(a, b, bias=bias, dtype=torch.float64)


def inputs(width, n=5):
    return torch.randn(n, width, dtype=torch.float64)


# -- attention ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separate", [False, True])
def test_multihead_attention(separate):
    """Scores softmax(x_qᵀ W_Qᵀ W_K x_k/√d_h) and Σ_h scores·(W_O W_V) x are what nn.MultiheadAttention returns."""
    widths = {"kdim": 5, "vdim": 7} if separate else {}
    attention = nn.MultiheadAttention(12, 3, bias=False, batch_first=True, dtype=torch.float64, **widths)
    x, keys, values = inputs(12), inputs(widths.get("kdim", 12), 6), inputs(widths.get("vdim", 12), 6)
    out, weights = attention(x[None], keys[None], values[None], average_attn_weights=False)
    found = products(attention)
    assert len(found) == 6
    assert found.unrecognised == ()
    total = torch.zeros(5, 12, dtype=torch.float64)
    for h in range(3):
        scores = x @ torch.tensor(found[f"model query-key head {h}"].product()) @ keys.T / 4**0.5
        assert close(torch.softmax(scores, -1), weights[0, h])
        total += weights[0, h].detach() @ values @ torch.tensor(found[f"model value-output head {h}"].product()).T
    assert close(total, out[0])


def test_heads_are_views_and_training_is_seen():
    attention = nn.MultiheadAttention(12, 3, dtype=torch.float64)
    found = products(nn.ModuleDict({"attn": attention}))
    memory = {
        "attn.in_proj_weight": attention.in_proj_weight.detach().numpy(),
        "attn.out_proj.weight": attention.out_proj.weight.detach().numpy(),
    }
    for entry in found:
        assert entry.dims == (12, 4, 12)
        for W, name in zip(entry.chain.weights, entry.parameters, strict=True):
            assert np.shares_memory(W, memory[name])
    H = fc.Hessian(found.entries[0].chain, fc.QuadraticLoss(np.eye(12), np.eye(12)))
    with torch.no_grad():
        attention.in_proj_weight.mul_(2.0)
    with pytest.raises(StaleWeightsError):
        H @ np.ones(H.shape[0])


class Attention(nn.Module):
    """Attention over one sequence with the names given; returns scores q·k of every head, and the outputs."""

    def __init__(self, names, heads, key_heads=None, width=12, head=4, bias=False):
        super().__init__()
        self.names, self.heads, self.key_heads, self.head = names, heads, key_heads or heads, head
        rows = (heads, self.key_heads, self.key_heads)
        for name, count in zip(names[:3], rows, strict=True):
            self.add_module(name, linear(width, count * head, bias))
        self.add_module(names[3], linear(heads * head, width, bias))

    def forward(self, x):
        q, k, v = (
            self.get_submodule(name)(x).unflatten(-1, (-1, self.head)).transpose(0, 1) for name in self.names[:3]
        )
        repeat = self.heads // self.key_heads
        k, v = k.repeat_interleave(repeat, 0), v.repeat_interleave(repeat, 0)
        scores = q @ k.mT
        out = (scores @ v).transpose(0, 1).flatten(1)  # no softmax: outputs stay a sum over heads
        return scores, self.get_submodule(self.names[3])(out)


def agrees(attention, found, name, x):
    scores, out = attention(x)
    total = torch.zeros_like(x)
    for h in range(attention.heads):
        assert close(x @ torch.tensor(found[f"{name} query-key head {h}"].product()) @ x.T, scores[h])
        total += scores[h].detach() @ x @ torch.tensor(found[f"{name} value-output head {h}"].product()).T
    assert close(total, out)


@pytest.mark.parametrize(
    "names",
    [
        ("q_proj", "k_proj", "v_proj", "o_proj"),
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        ("q_lin", "k_lin", "v_lin", "out_lin"),
        ("q", "k", "v", "o"),
        ("wq", "wk", "wv", "wo"),
    ],
)
@pytest.mark.parametrize(("heads", "key_heads"), [(3, 3), (4, 2), (4, 1)])
@pytest.mark.parametrize("said_by", ["num_heads", "n_heads", "config", "head_dim"])
def test_separate_projections_and_grouped_queries(names, heads, key_heads, said_by):
    attention = Attention(names, heads, key_heads)
    if said_by == "config":
        attention.config = type("Config", (), {"num_attention_heads": heads, "num_key_value_heads": key_heads})()
    else:
        setattr(attention, said_by, 4 if said_by == "head_dim" else heads)
    del attention.heads
    found = products(nn.ModuleDict({"layer": attention}))
    attention.heads = heads
    assert len(found) == 2 * heads
    assert found.unrecognised == found.unread == ()
    agrees(attention, found, "layer", inputs(12))
    assert found["layer query-key head 0"].parameters == (f"layer.{names[1]}.weight", f"layer.{names[0]}.weight")


def test_biases_are_left_out():
    """With them the score gains x_qᵀW_Qᵀb_K + b_Qᵀ(W_Kx_k + b_K)."""
    attention = Attention(("q_proj", "k_proj", "v_proj", "o_proj"), 3, bias=True)
    attention.num_heads = 3
    found = products(attention)
    x = inputs(12)
    scores, _ = attention(x)
    q, k = attention.q_proj, attention.k_proj
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        bilinear = x @ torch.tensor(found[f"model query-key head {h}"].product()) @ x.T
        extra = (x @ q.weight[part].T @ k.bias[part])[:, None] + (x @ k.weight[part].T + k.bias[part]) @ q.bias[part]
        assert close(bilinear + extra.detach(), scores[h])
        assert not found[f"model query-key head {h}"].chain.has_biases


class Conv1D(nn.Module):
    """GPT-2's layer: x @ weight + bias, weight (inputs, outputs)."""

    def __init__(self, outputs, ins):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(ins, outputs, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(outputs, dtype=torch.float64))

    def forward(self, x):
        return x @ self.weight + self.bias


class Fused(nn.Module):
    def __init__(self, names, transposed, width=12, heads=3):
        super().__init__()
        self.names, self.heads = names, heads
        self.add_module(names[0], Conv1D(3 * width, width) if transposed else linear(width, 3 * width))
        self.add_module(names[1], Conv1D(width, width) if transposed else linear(width, width))
        self.n_head = heads

    def forward(self, x):
        parts = self.get_submodule(self.names[0])(x).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(0, 1) for part in parts)
        scores = q @ k.mT
        return scores, self.get_submodule(self.names[1])((scores @ v).transpose(0, 1).flatten(1))


@pytest.mark.parametrize("names", [("c_attn", "c_proj"), ("qkv", "proj")])
@pytest.mark.parametrize("transposed", [False, True])
def test_fused_projections(names, transposed):
    attention = Fused(names, transposed)
    found = products(nn.ModuleDict({"h": attention}))
    agrees(attention, found, "h", inputs(12))
    shared = attention.get_submodule(names[0]).weight.detach().numpy()
    assert all(np.shares_memory(W, shared) for W in found["h query-key head 1"].chain.weights)


@pytest.mark.parametrize("inner", ["self", "attention"])
def test_bert(inner):
    core = Attention(("query", "key", "value", "unused"), 3)
    core.num_attention_heads = 3
    output = nn.Module()
    output.dense = core.unused
    del core.unused
    model = nn.Module()
    model.add_module(inner, core)
    model.output = output
    found = products(nn.ModuleDict({"attention": model}))
    assert len(found) == 6
    assert found.unrecognised == ()
    core.add_module("unused", output.dense)
    agrees(core, found, "attention", inputs(12))


# -- LoRA --------------------------------------------------------------------------------------------------------


class PeftLinear(nn.Module):
    """As peft names its parts: a base layer, and an A and a B for every adapter."""

    def __init__(self, ins, outs, adapters):
        super().__init__()
        self.base_layer = linear(ins, outs)
        self.lora_A = nn.ModuleDict({name: linear(ins, r) for name, r in adapters.items()})
        self.lora_B = nn.ModuleDict({name: linear(r, outs) for name, r in adapters.items()})
        self.scaling = {name: 16 / r for name, r in adapters.items()}

    def forward(self, x, adapter):
        return self.base_layer(x) + self.lora_B[adapter](self.lora_A[adapter](x)) * self.scaling[adapter]


def test_peft():
    """Scale·B·A is the difference that merging makes: outputs with the adapter minus outputs without."""
    layer = PeftLinear(8, 6, {"default": 2, "other": 3})
    model = nn.ModuleDict({"proj": layer})
    found = products(model)
    x = inputs(8)
    for adapter, scale in (("default", 8.0), ("other", 16 / 3)):
        entry = found[f"proj lora {adapter}"]
        assert entry.scale == pytest.approx(scale)
        assert entry.parameters == (f"proj.lora_A.{adapter}.weight", f"proj.lora_B.{adapter}.weight")
        assert close(x @ torch.tensor(entry.product()).T, layer(x, adapter) - layer.base_layer(x))
        assert np.shares_memory(entry.chain.weights[0], layer.lora_A[adapter].weight.detach().numpy())
    assert found.unrecognised == ("proj.base_layer",)
    assert dict(model.named_parameters()).keys() >= {p for entry in found for p in entry.parameters}


def test_loralib_and_torchtune():
    library = nn.Linear(8, 6, bias=False, dtype=torch.float64)
    library.lora_A = nn.Parameter(torch.randn(2, 8, dtype=torch.float64))
    library.lora_B = nn.Parameter(torch.randn(6, 2, dtype=torch.float64))
    library.scaling = 0.5
    tune = nn.Module()
    tune.lora_a, tune.lora_b, tune.alpha, tune.rank = linear(8, 2), linear(2, 6), 8.0, 2
    found = products(nn.ModuleDict({"a": library, "b": tune}))
    assert close(found["a lora"].product(), 0.5 * library.lora_B @ library.lora_A)
    assert close(found["b lora"].product(), 4.0 * tune.lora_b.weight @ tune.lora_a.weight)
    assert found.unrecognised == ("a",)


class Bare(nn.Module):
    """x·A·B with parameters (inputs, r) and (r, outputs)."""

    def __init__(self, ins, rank, outs):
        super().__init__()
        self.lora_A = nn.Parameter(torch.randn(ins, rank, dtype=torch.float64))
        self.lora_B = nn.Parameter(torch.randn(rank, outs, dtype=torch.float64))
        self.scaling = 1.0

    def forward(self, x):
        return x @ self.lora_A @ self.lora_B


@pytest.mark.parametrize("hosted", [False, True])
@pytest.mark.parametrize("outs", [8, 6])
def test_parameters_stored_the_other_way_round(outs, hosted):
    layer = Bare(8, 2, outs)
    if hosted:
        layer.linear = linear(8, outs)
        packed = torch.ones(4 * outs, 1, dtype=torch.uint8)  # as 4-bit layers hold it
        layer.linear.weight = nn.Parameter(packed, requires_grad=False)
    entry = products(layer)["model lora"]
    x = inputs(8)
    assert entry.dims == (8, 2, outs)
    assert close(x @ torch.tensor(entry.product()).T, layer(x))
    assert np.shares_memory(entry.chain.weights[0], layer.lora_A.detach().numpy())


def test_the_host_decides_which_way_round():
    """A rank above the width: (16, 8) and (8, 16) are r × inputs and outputs × r beside an 8 × 8 weight."""
    layer = Bare(16, 8, 16)
    layer.base_layer = linear(8, 8)
    assert close(products(layer)["model lora"].product(), layer.lora_B @ layer.lora_A)
    layer.base_layer = linear(8, 6)
    found = products(layer)
    assert len(found) == 0
    assert "(8, 16) and (16, 8): no product either way round is a product of the layer's shape (6, 8)" in str(found)
    layer.lora_A = nn.Parameter(torch.ones(3, 16, 8))
    assert "have 2 and 3 axes; expected 2" in str(products(layer))


@pytest.mark.parametrize(
    ("attributes", "scale"),
    [
        ({"scaling": torch.tensor(0.5)}, 0.5),
        ({"scaling": np.float32(0.5), "alpha": 3}, 0.5),
        ({"lora_alpha": 16, "r": 4}, 4.0),
        ({"alpha": torch.tensor(16.0), "lora_rank": torch.tensor(4)}, 4.0),
        ({"alpha": 16.0, "rank": 4}, 4.0),
        ({"lora_alpha": 16}, 8.0),  # by A's own rank, 2
        ({"scaling": {None: 3.0}}, 3.0),
        ({}, None),
        ({"scaling": True, "r": 2}, None),
    ],
)
def test_scale(attributes, scale):
    layer = Bare(8, 2, 6)
    del layer.scaling
    for name, value in attributes.items():
        setattr(layer, name, value)
    entry = products(layer)["model lora"]
    assert entry.scale_known == (scale is not None)
    assert entry.scale == (1.0 if scale is None else scale)
    assert ("not known, taken as 1" in str(entry)) == (scale is None)
    assert close(entry.product(), entry.scale * (layer.lora_A @ layer.lora_B).T)


def test_head_counts_in_tensors():
    attention = Attention(("q_proj", "k_proj", "v_proj", "o_proj"), 3)
    attention.num_heads = torch.tensor(3)
    assert len(products(attention)) == 6
    attention.num_heads = True
    assert "how many heads" in str(products(attention))


def test_adapters_inside_attention():
    """A projection that peft has wrapped is its base layer."""
    attention = Attention(("q_proj", "k_proj", "v_proj", "o_proj"), 3)
    attention.num_heads = 3
    attention.q_proj = PeftLinear(12, 12, {"default": 2})
    found = products(attention)
    assert len(found.of_kind("query-key")) == 3
    assert len(found.of_kind("lora")) == 1
    assert found["model query-key head 0"].parameters == ("k_proj.weight", "q_proj.base_layer.weight")
    assert found.unrecognised == ()


# -- layers taken as linear ---------------------------------------------------------------------------------------


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = linear(4, 9), linear(4, 9), linear(9, 4)


@pytest.mark.parametrize("ask", ["0", r"\d", "names"])
def test_layers_of_a_block(ask):
    block = nn.Sequential(linear(4, 9, True), nn.GELU(), linear(9, 4))
    model = nn.ModuleList([block])
    found = products(model, linear=block if ask == "names" else ask)
    entry = found["0 linear 0–2"]
    assert entry.kind == "linear"
    assert close(entry.product(), block[2].weight @ block[0].weight)
    assert found.unrecognised == ()
    assert products(model).unrecognised == ("0.0", "0.2")


def test_layers_named_themselves_and_gated_ones():
    model = nn.ModuleDict({"mlp": Gated(), "head": linear(4, 2)})
    found = products(model, linear="mlp")
    assert [entry.name for entry in found] == ["mlp linear up_proj–down_proj"]
    assert found.unrecognised == ("mlp.gate_proj", "head")
    found = products(model, linear=r"mlp\.(up|down)_proj")
    assert [entry.name for entry in found] == ["mlp linear up_proj–down_proj"]
    found = products(model, linear=["mlp"])
    assert close(found.entries[0].product(), model["mlp"].down_proj.weight @ model["mlp"].up_proj.weight)


@pytest.mark.parametrize(
    ("names", "hidden"), [("gate_proj up_proj down_proj", 4), ("w1 w3 w2", 6), ("wi_0 wi_1 wo", 4)]
)
@pytest.mark.parametrize("ask", ["", ".*w2|.*w3|wi_1|wo|(up|down)_proj"])
def test_gated_mlps_are_up_and_down_whatever_widths_and_registration_say(names, hidden, ask):
    gate, up, down = names.split()
    layers = {gate: linear(4, hidden, False), up: linear(4, hidden, False), down: linear(hidden, 4, False)}
    model = nn.ModuleDict({name: layers[name] for name in sorted(layers)} | {"head": linear(4, 9)})
    found = products(model, linear=ask)
    entry = next(entry for entry in found if entry.parameters[0] == f"{up}.weight")
    assert entry.parameters[:2] == (f"{up}.weight", f"{down}.weight")
    assert all(f"{gate}.weight" not in other.parameters for other in found)
    assert gate in found.unrecognised


def test_three_layers_of_one_width_are_a_chain():
    model = nn.ModuleDict({name: linear(4, 4) for name in ("w1", "w2", "w3")})
    assert products(model, linear="").entries[0].parameters == ("w1.weight", "w2.weight", "w3.weight")


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weights_that_hooks_compute_are_no_parameters(norm):
    layer = Attention(("q_proj", "k_proj", "v_proj", "o_proj"), 2)
    norm(layer.k_proj)
    found = products(layer)
    assert len(found) == 0
    assert found.unread == (("", "k_proj is parametrized, so its weight is no parameter"),)


def test_attention_is_not_taken_twice():
    layer = nn.TransformerEncoderLayer(8, 2, 32, dtype=torch.float64)
    found = products(layer, linear="")
    assert [entry.kind for entry in found] == ["query-key"] * 2 + ["value-output"] * 2 + ["linear"]
    assert close(found["model linear linear1–linear2"].product(), layer.linear2.weight @ layer.linear1.weight)


# -- what is not recognised, and how it reads -----------------------------------------------------------------------


def test_what_cannot_be_read_is_said():
    attention = Attention(("q_proj", "k_proj", "v_proj", "o_proj"), 3)
    del attention.heads, attention.names
    attention.head = None
    merged = nn.Linear(8, 6, bias=False)
    merged.lora_A, merged.lora_B = nn.Parameter(torch.ones(4, 8)), nn.Parameter(torch.ones(6, 2))
    quantised = Fused(("qkv", "proj"), False)
    quantised.qkv.weight = nn.Parameter(torch.ones(36, 12, dtype=torch.uint8), requires_grad=False)
    uneven = Fused(("c_attn", "c_proj"), False)
    uneven.c_attn = linear(12, 20)
    five = Fused(("qkv", "proj"), False, heads=5)
    shared = nn.utils.parametrizations.weight_norm(linear(8, 2))
    wrapped = PeftLinear(8, 6, {"default": 2})
    wrapped.lora_A["default"] = shared
    parts = {"a": attention, "b": merged, "c": quantised, "d": uneven, "e": five, "f": wrapped}
    found = products(nn.ModuleDict(parts))
    assert len(found) == 0
    reasons = dict(found.unread)
    assert "neither it nor its config says how many heads" in reasons["a"]
    assert (
        "have shapes (6, 2) and (4, 8): no product either way round is a product of the layer's shape (6, 8)"
        in reasons["b"]
    )
    assert "c.qkv.weight is torch.uint8" in reasons["c"]
    assert "d.c_attn.weight has 20 rows; expected three times the output's 12" in reasons["d"]
    assert "12 queries do not divide into 5 heads" in reasons["e"]
    assert "f.lora_A.default is parametrized" in reasons["f"]
    assert "a.q_proj" in found.unrecognised
    assert "not read: 12 queries do not divide" in found.summary()


def test_records():
    layer = nn.TransformerEncoderLayer(8, 2, 32, dtype=torch.float64)
    model = nn.ModuleDict({"layer": layer, "head": linear(8, 3)})
    found = products(model, linear="layer")
    assert repr(found) == "Products(2 query-key, 2 value-output, 1 linear; 1 layers in none)"
    text = str(found)
    assert "layer.self_attn  query-key: 2 heads, 8 → 4 → 8" in text
    assert "in no product    head" in text
    assert "<table>" in found._repr_html_()
    entry = found["layer.self_attn query-key head 1"]
    assert repr(entry) == "Product('layer.self_attn query-key head 1', 8 → 4 → 8)"
    assert found.to_dict()["entries"][1] == {
        "name": entry.name,
        "kind": "query-key",
        "module": "layer.self_attn",
        "head": 1,
        "parameters": ["layer.self_attn.in_proj_weight"] * 2,
        "scale": 1.0,
        "scale_known": True,
    }
    assert [e.name for e in found] == [e.name for e in found.entries]
    assert entry in found.of_kind("query-key")
    with pytest.raises(KeyError, match=r"no product is named 'x'; there are 5: 'layer\.self_attn query-key head 0'"):
        found["x"]
    with pytest.raises(ValueError, match="kind is 'mlp'; expected one of lora, query-key"):
        found.of_kind("mlp")


@pytest.mark.parametrize(
    ("linear_option", "message"),
    [
        ("nothing", "linear names 'nothing', which is no module of the model and matches none"),
        ("head", "linear names 'head', which has no two free Linear layers"),
        ([3], "linear holds a int; expected names, regular expressions or modules"),
        ("(", "linear names '\\(', which is no regular expression"),
    ],
)
def test_bad_requests(linear_option, message):
    model = nn.ModuleDict({"head": linear(8, 3)})
    with pytest.raises(ValueError, match=message):
        products(model, linear=linear_option)
    with pytest.raises(ValueError, match="model is a int; expected"):
        products(3)


def test_nothing_to_find():
    found = products(nn.ReLU())
    assert repr(found) == "Products(none; 0 layers in none)"
    assert found.unrecognised == ()
