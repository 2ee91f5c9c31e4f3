"""analyze of a torch module: spectra, balance and coupling of its layers, beside numpy.linalg on its weights."""

import html
import json
import re

import numpy as np
import pytest
import torch
from torch import nn

import flatcore as fc
from flatcore.results import ModuleAnalysis
from flatcore.torch._consecutive import ConsecutiveLayers
from flatcore.torch._weights import analyze

RTOL = {torch.float64: 1e-6, torch.float32: 1e-4}  # what top_svd promises of residuals, and so of values, at least


def seeded(build):
    torch.manual_seed(0)
    return build().eval()


def array(tensor):
    return tensor.detach().double().cpu().numpy()


def unit_gaps(lower, upper, bias=None):
    """The definition of docs/theory.md, 6, for a matrix with channels as rows and one with channels as columns."""
    Y = lower @ lower.T + (0 if bias is None else np.outer(bias, bias))
    X = upper.T @ upper
    gap = np.linalg.norm(X - Y)
    return gap, gap / np.hypot(np.linalg.norm(X), np.linalg.norm(Y))


def assert_pair(pair, lower, upper, bias=None, k=8, rtol=1e-6):
    """Balance and coupling of a pair are those of the dense matrices; vectors by subspace, which ties leave alone."""
    gap, relative = unit_gaps(lower, upper, bias)
    assert pair.gap == pytest.approx(gap, rel=rtol)
    assert pair.relative_gap == pytest.approx(relative, rel=rtol)
    U = np.linalg.svd(lower)[0][:, : min(k, *lower.shape)]
    Vt = np.linalg.svd(upper)[2][: min(k, *upper.shape)]
    assert pair.width == lower.shape[0] == upper.shape[1]
    # Vectors err by the residual over the gap between singular values, a few hundredths here.
    np.testing.assert_allclose(pair.overlaps, np.abs(Vt @ U).T, atol=1e3 * rtol)
    np.testing.assert_allclose(pair.angles, np.minimum(np.linalg.svd(Vt @ U, compute_uv=False), 1), atol=1e3 * rtol)
    d = lower.shape[0]
    assert pair.chance == fc.weights.overlap_chance(d, pair.overlaps.size)
    assert pair.chance_95 == fc.weights.overlap_chance(d, pair.overlaps.size, 0.95)
    assert pair.angle_chance == fc.weights.angle_chance(d, min(pair.overlaps.shape))
    assert pair.largest == pair.overlaps.max()
    assert pair.ratio == pytest.approx(pair.largest / pair.chance)


def assert_spectrum(layer, matrix, k=8, rtol=1e-6):
    expected = np.linalg.svd(matrix, compute_uv=False)[:k]
    np.testing.assert_allclose(layer.values, expected, atol=rtol * expected[0])
    assert layer.converged.all()
    assert np.all(layer.residuals <= rtol * expected[0])
    assert layer.spectral == layer.values[0]
    assert layer.frobenius == pytest.approx(np.linalg.norm(matrix), rel=1e-12)
    assert layer.stable_rank == pytest.approx((layer.frobenius / expected[0]) ** 2, rel=3 * rtol)


def test_linear_layers_agree_with_numpy_and_with_the_analysis_of_their_chain():
    model = seeded(lambda: nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5, bias=False), nn.Tanh(),
                                         nn.Linear(5, 3))).double()  # fmt: skip
    a = analyze(model, k=4)
    assert isinstance(a, ModuleAnalysis)
    assert a.certified
    assert (a.not_consecutive, a.not_analysed, a.tied) == ((), (), ())
    W = [array(model[j].weight) for j in (0, 2, 4)]
    for layer, matrix in zip(a.layers, W, strict=True):
        assert (layer.kind, layer.matrix, layer.shape) == ("Linear", "weight (out, in)", matrix.shape)
        assert_spectrum(layer, matrix, 4)
    assert [(p.lower, p.between, p.upper) for p in a.pairs] == [("0", ("ReLU",), "2"), ("2", ("Tanh",), "4")]
    assert_pair(a.pairs[0], W[0], W[1], array(model[0].bias), 4)
    assert_pair(a.pairs[1], W[1], W[2], None, 4)
    chain = fc.LinearChain(W, [array(model[0].bias), None, array(model[4].bias)])
    np.testing.assert_allclose([p.gap for p in a.pairs], fc.balance(chain).gap, rtol=1e-12)
    coupling = fc.coupling(chain, 4)
    np.testing.assert_allclose([p.largest for p in a.pairs], coupling.largest, atol=1e-3)
    np.testing.assert_allclose([p.chance for p in a.pairs], coupling.chance)


def rows(conv):
    return array(conv.weight).reshape(conv.weight.shape[0], -1)


def columns(conv):
    return np.moveaxis(array(conv.weight), 1, -1).reshape(-1, conv.weight.shape[1])


def test_convolutions_by_their_two_unfoldings_and_flatten_channel_major():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(inplace=True), nn.Conv2d(5, 4, (2, 3), stride=2),
                                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 6, 7))).double()  # fmt: skip
    first, second, head = model[0], model[2], model[5]
    a = analyze(model, k=3)
    assert [layer.matrix for layer in a.layers] == ["kernel reshaped (out, in·kh·kw)"] * 2 + ["weight (out, in)"]
    for layer, matrix in zip(a.layers, (rows(first), rows(second), array(head.weight)), strict=True):
        assert_spectrum(layer, matrix, 3)
    assert_pair(a.pairs[0], rows(first), columns(second), array(first.bias), 3)
    assert a.pairs[0].matrices == ("kernel reshaped (out, in·kh·kw)", "kernel reshaped (out·kh·kw, in)")
    flat = np.concatenate([array(head.weight).reshape(7, 4, 6)[:, :, p] for p in range(6)])
    assert_pair(a.pairs[1], rows(second), flat, array(second.bias), 3)
    assert "(out·positions, channels), 6 positions a channel" in a.pairs[1].matrices[1]
    assert a.pairs[1].between == ("MaxPool2d", "Flatten")


@pytest.mark.parametrize("make", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_one_to_three_dimensions(make):
    model = seeded(lambda: nn.Sequential(make(2, 3, 2), make(3, 4, 2))).double()
    a = analyze(model, k=2)
    assert_spectrum(a.layers[0], rows(model[0]), 2)
    assert_pair(a.pairs[0], rows(model[0]), columns(model[1]), array(model[0].bias), 2)
    assert a.layers[0].kind == make.__name__


def block_diagonal(blocks):
    out = np.zeros(np.sum([b.shape for b in blocks], axis=0))
    r = c = 0
    for block in blocks:
        out[r : r + block.shape[0], c : c + block.shape[1]] = block
        r, c = r + block.shape[0], c + block.shape[1]
    return out


@pytest.mark.parametrize("groups", [2, 6])
def test_grouped_convolutions_are_block_diagonal(groups):
    model = seeded(lambda: nn.Sequential(nn.Conv2d(6, 12, 3, groups=groups), nn.Conv2d(12, 6, 3, groups=groups),
                                         nn.Conv2d(6, 4, 1))).double()  # fmt: skip
    a = analyze(model, k=4)
    R, C = [], []
    for conv in model[:2]:
        parts = np.split(array(conv.weight), groups)
        R.append(block_diagonal([p.reshape(len(p), -1) for p in parts]))
        C.append(block_diagonal([np.moveaxis(p, 1, -1).reshape(-1, p.shape[1]) for p in parts]))
    assert_spectrum(a.layers[0], R[0], 4)
    assert_spectrum(a.layers[1], R[1], 4)
    assert f"{groups} diagonal blocks" in a.layers[0].matrix
    assert_pair(a.pairs[0], R[0], C[1], array(model[0].bias), 4)
    assert_pair(a.pairs[1], R[1], array(model[2].weight)[:, :, 0, 0], array(model[1].bias), 4)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_have_their_channels_exchanged(groups):
    """A transposed convolution stores (in, out/groups, …); out is what its adjoint takes in."""
    model = seeded(lambda: nn.Sequential(nn.Linear(5, 4), nn.ConvTranspose1d(4, 6, 3, groups=groups),
                                         nn.Linear(6, 2))).double()  # fmt: skip
    parts = np.split(array(model[1].weight), groups)  # (in/g, out/g, k) each
    R = block_diagonal([p.swapaxes(0, 1).reshape(p.shape[1], -1) for p in parts])
    C = block_diagonal([np.moveaxis(p, 0, -1).reshape(-1, p.shape[0]) for p in parts])
    a = analyze(model, k=3)
    assert_spectrum(a.layers[1], R, 3)
    assert_pair(a.pairs[0], array(model[0].weight), C, array(model[0].bias), 3)
    assert_pair(a.pairs[1], R, array(model[2].weight), array(model[1].bias), 3)
    assert "transposed convolution's kernel reshaped (out, in·k)" in a.layers[1].matrix


def circular(*shape, **options):
    return nn.Conv2d(*shape, padding="same", padding_mode="circular", **options)


def test_circular_convolutions_add_the_values_of_the_whole_map():
    model = seeded(lambda: nn.Sequential(circular(2, 3, 3), circular(3, 2, 3, dilation=2))).double()
    a = analyze(model, k=5, input_size=(6, 5))
    for layer, conv, inputs in zip(a.layers, model, (2, 3), strict=True):
        with torch.no_grad():
            units = torch.eye(inputs * 30, dtype=torch.float64).reshape(-1, inputs, 6, 5)
            matrix = array(conv(units) - conv(torch.zeros_like(units))).reshape(len(units), -1)
        expected = np.linalg.svd(matrix, compute_uv=False)
        np.testing.assert_allclose(layer.convolution_values, expected[:5], rtol=1e-10)
        np.testing.assert_allclose(layer.convolution_all, expected[: layer.convolution_all.size], atol=1e-10)
        assert layer.convolution == "exact: Fourier, on a grid of 6 × 5 points (input_size)"


@pytest.mark.parametrize(
    ("conv", "grid"),
    [
        (lambda: circular(2, 2, 3), "16 × 16 points (the default"),
        (lambda: circular(2, 2, 18), "18 × 18 points (the default"),
        (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "16 × 16"),
        (lambda: nn.Conv2d(2, 2, 3, padding=1), None),
        (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"), None),
        (lambda: nn.Conv2d(2, 2, 3, padding=2, padding_mode="circular"), None),
        (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular", stride=2), None),
    ],
)
def test_which_convolutions_are_exact_and_on_which_grid(conv, grid):
    (layer,) = analyze(seeded(conv), k=1).layers
    assert (layer.convolution_all.size > 0) == (grid is not None)
    assert layer.convolution.startswith("exact: Fourier" if grid else "")
    assert (grid or "") in layer.convolution


def test_input_size_by_name():
    model = seeded(lambda: nn.Sequential(circular(2, 2, 3), nn.MaxPool2d(2), circular(2, 2, 3)))
    a = analyze(model, k=1, input_size={"0": 8, "2": (4, 3)})
    assert "8 × 8" in a.layers[0].convolution
    assert "4 × 3" in a.layers[1].convolution
    with pytest.raises(ValueError, match=r"input_size names '1'; expected a circular convolution: 0, 2"):
        analyze(model, input_size={"1": 4})
    with pytest.raises(ValueError, match=r"input_size is \(4,\); expected one number, or 2 for the layer 0"):
        analyze(model, input_size=(4,))
    with pytest.raises(ValueError, match="input_size is 0"):
        analyze(model, input_size=0)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.attention = nn.MultiheadAttention(6, 2)
        self.norm = nn.LayerNorm(6)
        self.side = nn.Linear(9, 4)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.again = nn.Linear(6, 11, bias=False)
        self.again.weight = self.head.weight


def test_nothing_is_dropped_silently():
    a = analyze(seeded(Branches), k=2)
    thirds = [f"attention.in_proj_weight {part}" for part in ("queries", "keys", "values")]
    assert [layer.name for layer in a.layers] == [*thirds, "attention.out_proj", "side", "head"]
    assert a.not_analysed == (
        "embedding.weight (11 × 6) of Embedding: no Linear layer and no convolution, tied to head.weight",
    )
    assert a.tied == ("again.weight is head.weight",)
    assert a.not_consecutive == (
        f"{thirds[0]} → {thirds[1]}: side by side in attention",
        f"{thirds[1]} → {thirds[2]}: side by side in attention",
        "attention.out_proj → side: 6 go out, 9 come in",
        "side → head: 4 go out, 6 come in",
    )
    assert [(pair.lower, pair.upper) for pair in a.pairs] == [(thirds[2], "attention.out_proj")]
    for text in (*a.not_analysed, *a.tied, *a.not_consecutive, a.order):
        assert text in a.summary()


@pytest.mark.parametrize("separate", [False, True])
def test_multihead_attention_as_queries_keys_and_values(separate):
    attention = nn.MultiheadAttention(6, 2, kdim=5 if separate else None, vdim=4 if separate else None).double()
    nn.init.normal_(attention.in_proj_bias)
    a = analyze(attention, k=3)
    stacked = None if separate else array(attention.in_proj_weight).reshape(3, 6, 6)
    for index, part in enumerate("qkv"):
        W = array(getattr(attention, f"{part}_proj_weight")) if separate else stacked[index]
        assert_spectrum(a.layers[index], W, 3)
    (pair,) = a.pairs
    assert_pair(pair, W, array(attention.out_proj.weight), array(attention.in_proj_bias)[12:], 3)
    assert a.not_analysed == a.tied == ()


class Conv1D(nn.Module):
    """GPT-2's layer: x ↦ x·weight + bias."""

    def __init__(self, outs, ins):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(ins, outs, dtype=torch.float64))
        self.bias = nn.Parameter(torch.randn(outs, dtype=torch.float64))


def test_transposed_linear_layers_of_gpt2():
    model = nn.ModuleDict({"c_fc": Conv1D(7, 3), "c_proj": Conv1D(3, 7)})
    a = analyze(model, k=2)
    assert_spectrum(a.layers[0], array(model["c_fc"].weight).T, 2)
    assert_pair(a.pairs[0], *(array(m.weight).T for m in model.values()), array(model["c_fc"].bias), 2)
    assert a.not_analysed == ()


@pytest.mark.parametrize("form", ["orthogonal", "weight_norm", "spectral_norm"])
def test_parametrized_weights_are_not_taken_for_tied(form):
    """Each is a new tensor whenever it is asked for: identities of tensors that are gone come again."""
    parametrized = getattr(nn.utils.parametrizations, form)
    model = nn.Sequential(*(parametrized(nn.Linear(4, 4)) for _ in range(8)), nn.ReLU())
    a = analyze(model, k=2)
    assert len(a.layers) == 8
    assert a.tied == a.not_analysed == ()


def pruned(layer):
    nn.utils.prune.l1_unstructured(layer, "bias", 0.5)
    return nn.utils.prune.l1_unstructured(layer, "weight", 0.5)


@pytest.mark.parametrize("form", [nn.utils.weight_norm, nn.utils.spectral_norm, pruned])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weights_that_hooks_compute_are_those_of_the_parameters_as_they_are(form):
    torch.manual_seed(0)
    model, other = (nn.Sequential(form(nn.Linear(5, 4)), nn.ReLU(), nn.Linear(4, 3)).double() for _ in range(2))
    other.load_state_dict(model.eval().state_dict())  # no forward pass since
    a = analyze(other.eval(), k=3)
    model(torch.zeros(1, 5, dtype=torch.float64))
    assert_spectrum(a.layers[0], array(model[0].weight), 3)
    assert_pair(a.pairs[0], array(model[0].weight), array(model[2].weight), array(model[0].bias), 3)
    assert a.not_analysed == ()


def test_branches_known_by_name_and_layers_across_unread_weights_are_no_pairs():
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    block = nn.ModuleDict({name: nn.Linear(4, 4) for name in names})
    a = analyze(nn.Sequential(block, nn.LSTM(4, 4), nn.Linear(4, 4)), k=1)
    pairs = [("v_proj", "o_proj"), ("o_proj", "gate_proj"), ("up_proj", "down_proj")]
    assert [(pair.lower, pair.upper) for pair in a.pairs] == [(f"0.{low}", f"0.{up}") for low, up in pairs]
    assert a.not_consecutive == (
        "0.q_proj → 0.k_proj: side by side in attention",
        "0.k_proj → 0.v_proj: side by side in attention",
        "0.gate_proj → 0.up_proj: side by side in a gated MLP",
        "0.down_proj → 2: 1 between, not analysed",
    )


def test_queries_registered_last_end_in_the_scores():
    block = nn.ModuleDict({name: nn.Linear(4, 4) for name in ("k_proj", "v_proj", "q_proj", "out_proj")})
    a = analyze(block, k=1)
    assert a.pairs == ()
    assert np.isnan(ConsecutiveLayers(block, k=2, seed=0).measure()).all()
    assert a.not_consecutive[-1] == "q_proj → out_proj: queries and keys end in the scores"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_precisions_as_stored(dtype):
    pytest.importorskip("ml_dtypes")
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 3), nn.Linear(5, 4))).to(dtype)
    a = analyze(model, k=2)
    assert [layer.dtype for layer in a.layers] == [str(dtype).removeprefix("torch.")] * 3
    assert_spectrum(a.layers[0], rows(model[0]), 2, 1e-4)
    # The gaps are summed in float64 of float32 Gram matrices at least.
    gap, relative = unit_gaps(rows(model[0]), columns(model[1]), array(model[0].bias))
    assert a.pairs[0].gap == pytest.approx(gap, rel=1e-5)
    assert a.pairs[0].relative_gap == pytest.approx(relative, rel=1e-5)


def test_wrappers_are_taken_off():
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)))
    direct = analyze(model, k=2).to_dict()

    class Compiled(nn.Module):  # what torch.compile returns, without a compiler
        def __init__(self, module):
            super().__init__()
            self._orig_mod = module

    assert analyze(Compiled(nn.DataParallel(model)), k=2).to_dict() == direct
    inside = analyze(nn.Sequential(Compiled(model[0]), model[1]), k=2)
    assert [layer.name for layer in inside.layers] == ["0", "1"]


def test_a_training_model_with_spectral_norm_is_left_as_it_was():
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4)), nn.BatchNorm1d(4)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    a = analyze(model, k=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert_spectrum(a.layers[0], array(model.eval()[0].weight), 2, 1e-4)
    assert a.not_analysed == ()


def test_zero_weights_are_undefined_not_errors():
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    nn.init.zeros_(model[0].weight)
    a = analyze(model, k=2)
    assert np.isnan(a.layers[0].stable_rank)
    assert a.layers[0].frobenius == 0
    assert a.pairs[0].status.startswith("a layer is zero")
    assert a.to_dict()["layers"][0]["stable_rank"] is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: analyze(3), "model is a int; expected a torch.nn.Module"),
        (lambda: analyze(nn.Linear(2, 2), k=0), "k is 0; expected at least 1"),
        (lambda: analyze(nn.ReLU()), "ReLU has no Linear layer and no convolution"),
        (lambda: analyze(nn.Embedding(3, 2)), r"not analysed: weight \(3 × 2\) of Embedding"),
        (lambda: analyze(nn.LazyLinear(2)), "weight has no shape yet; run the model once"),
        (lambda: analyze(nn.Linear(2, 2, device="meta")), "weight is on the meta device"),
        (lambda: analyze(nn.Linear(2, 2), tol=-1.0), "tol is -1"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_not_finite_is_refused_by_name():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight.data[1, 0] = float("nan")
    with pytest.raises(ValueError, match=r"1 contains nan at index \(1, 0\)"):
        analyze(model)


def test_record_as_plain_data_text_and_page(tmp_path):
    model = seeded(lambda: nn.Sequential(circular(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2), nn.Linear(5, 4)))
    a = analyze(model, k=2, input_size=4)
    plain = json.loads(json.dumps(a.to_dict(), allow_nan=False))
    assert plain["pairs"][0]["matrices"] == list(a.pairs[0].matrices)
    assert "convolution_all" not in plain["layers"][0]
    np.testing.assert_allclose(plain["layers"][0]["values"], a.layers[0].values)
    assert "Sequential" in a._repr_html_()
    assert repr(a) == "ModuleAnalysis('Sequential', 3 layers, 1 pairs)"
    a.report(str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "4 × 4 points" in page
    assert "Not consecutive" in page
    assert page.count("<figure") == 4
    assert "all singular triplets are certified" in page


def test_what_misses_the_tolerance_is_not_certified(monkeypatch):
    monkeypatch.setattr("flatcore.spectral._top_svd.DEFAULT_STEPS", 1)
    model = seeded(lambda: nn.Linear(1500, 1500))
    a = analyze(model, k=3)
    assert a.layers[0].status == "max_iterations"
    assert not a.certified


def test_progress_names_layers():
    seen = []
    analyze(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), k=1, progress=lambda what, f: seen.append((what, f)))
    assert seen == [("0", 0.0), ("1", 0.5), ("done", 1.0)]


def test_the_same_seed_gives_the_same_bits():
    model = seeded(lambda: nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 100)))
    assert analyze(model, k=3, seed=4).to_dict() == analyze(model, k=3, seed=4).to_dict()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device():
    model = seeded(lambda: nn.Sequential(circular(2, 3, 3), nn.Flatten(), nn.Linear(12, 2)))
    on_host = analyze(model, k=2, input_size=4)
    on_device = analyze(model.cuda(), k=2, input_size=4)
    np.testing.assert_allclose(on_device.layers[0].convolution_all, on_host.layers[0].convolution_all, rtol=1e-10)
    np.testing.assert_array_equal(on_device.pairs[0].overlaps, on_host.pairs[0].overlaps)


@pytest.mark.parametrize("activation", [nn.Identity, nn.ReLU])
def test_gradient_flow_conserves_what_balance_measures(activation):
    """d/dt (CᵀC − RRᵀ − bbᵀ) is twice the symmetric part of ∇R Rᵀ + ∇b bᵀ − Cᵀ∇C: zero, or zero on its diagonal."""
    model = seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 2), activation(), nn.Conv2d(3, 4, 2), activation(),
                                         nn.MaxPool2d(2) if activation is nn.ReLU else nn.AvgPool2d(2), nn.Flatten(),
                                         nn.Linear(16, 2))).double()  # fmt: skip
    (model(torch.randn(5, 2, 6, 6, dtype=torch.float64)) ** 2).sum().backward()
    first, second, head = model[0], model[2], model[6]

    def unfolded(tensor, conv):
        rows = tensor.reshape(len(tensor), -1).numpy()
        return rows if not conv else np.moveaxis(tensor.numpy(), 1, -1).reshape(-1, tensor.shape[1])

    flat = [
        np.concatenate(np.moveaxis(t.detach().numpy().reshape(2, 4, 4), 2, 0)) for t in (head.weight, head.weight.grad)
    ]
    second_columns = [unfolded(t.detach(), True) for t in (second.weight, second.weight.grad)]
    for layer, (C, dC) in ((first, second_columns), (second, flat)):
        R, dR = (unfolded(t.detach(), False) for t in (layer.weight, layer.weight.grad))
        rate = dR @ R.T + np.outer(layer.bias.grad.numpy(), layer.bias.detach().numpy()) - C.T @ dC
        change = rate + rate.T if activation is nn.Identity else np.diag(rate)
        size = np.linalg.norm(C.T @ dC)
        assert size > 0.1
        np.testing.assert_allclose(change, 0, atol=1e-12 * size)


# fc.analyze of modules


def linear_model():
    return seeded(lambda: nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False))).double()


def test_a_linear_module_is_analysed_as_its_chain():
    model = linear_model()
    x = torch.randn(20, 4, dtype=torch.float64)
    loss = fc.QuadraticLoss(x, torch.randn(20, 3, dtype=torch.float64))
    chain = fc.LinearChain([model[0].weight, model[1].weight])
    assert fc.analyze(model, loss, 2, seed=3).to_dict() == fc.analyze(chain, loss, 2, seed=3).to_dict()
    assert fc.analyze(model, k=2).to_dict() == fc.analyze(chain, k=2).to_dict()


def test_a_nonlinear_module_is_analysed_layer_by_layer_and_has_no_loss():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    assert fc.analyze(model, k=2).to_dict() == analyze(model, k=2).to_dict()
    loss = fc.QuadraticLoss(np.eye(4), np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"flatcore\.torch\.Hessian.* flatcore\.eigsh") as caught:
        fc.analyze(model, loss)
    assert "without a loss its layers are analysed" in str(caught.value)


def test_bad_arguments_of_a_linear_module_are_not_hidden():
    with pytest.raises(ValueError, match="k is 0"):
        fc.analyze(linear_model(), k=0)
    loss = fc.QuadraticLoss(np.eye(5), np.ones((5, 3)))
    with pytest.raises(ValueError, match="5"):
        fc.analyze(linear_model(), loss)


def test_other_things_are_no_chain():
    with pytest.raises(ValueError, match="chain"):
        fc.analyze([np.eye(2)])


def axis_labels(page, figure):
    """Texts of a picture, which stand beside their outlines as comments."""
    part = page.partition(f'id="{figure}"')[2].partition("</figure>")[0]
    return [html.unescape(text) for text in re.findall(r"<!-- (.*?) -->", part)]


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Linear(3, 2),
        lambda: nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)),
        lambda: nn.Sequential(*[nn.Linear(3, 3, bias=False) for _ in range(30)]),
    ],
)
@pytest.mark.parametrize("zero", [False, True])
def test_pages_of_unusual_models(tmp_path, build, zero):
    model = seeded(build)
    if zero:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
    a = analyze(model)
    a.report(str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<figure") == 2 + 2 * bool(a.pairs)
    names = [layer.name for layer in a.layers if layer.name]
    assert axis_labels(page, "ranks")[: len(names) + 1] == [*names, "layer"]
    label = "pair" if len(a.pairs) < 25 else "pair, counted from 1 in the order of the tables"
    assert (label in axis_labels(page, "balance")) == bool(a.pairs)
    for _, part in a.sections():
        for label, text in part._lines():
            assert html.escape(text, quote=False) in page.replace("&#39;", "'").replace("&#34;", '"'), label
    assert ("The first 24 pairs are drawn" in page) == (len(a.pairs) > 24)
