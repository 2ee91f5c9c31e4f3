"""What Hessian looks at before it starts, and what it says."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import flatcore as fc
from flatcore.linear import StaleWeightsError

LOSS = nn.CrossEntropyLoss()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def batch(n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 4).double(), torch.randint(3, (n,))


def refused(text: str, *args, error=ValueError, **options):
    with pytest.raises(error, match=text):
        fc.torch.Hessian(*args, **options)


# -- determinism ---------------------------------------------------------------------------------------------------


def test_active_dropout_is_refused():
    noisy = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).double()
    refused(r"dropout is active in 1 \(Dropout\).*model.eval\(\)", noisy, LOSS, batch())
    fc.torch.Hessian(noisy.eval(), LOSS, batch())
    refused("dropout is active", nn.Sequential(nn.LSTM(4, 3, num_layers=2, dropout=0.1)), LOSS, batch())


def test_batch_norm_in_training_is_refused_and_its_statistics_stay():
    norm = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    before = norm[1].running_mean.clone()
    refused(r"1 \(BatchNorm1d\) would update running statistics.*eval", norm, LOSS, batch())
    assert torch.equal(norm[1].running_mean, before)


def test_randomness_inside_forward_is_noticed():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3).double()

        def forward(self, x):
            return self.linear(functional.dropout(x, 0.5, training=True))

    refused("loss of the first batch was .* and then .* not deterministic", Noisy(), LOSS, batch())


def test_buffers_that_change_are_noticed_and_restored():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3).double()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.linear(x)

    counting = Counting()
    refused("changes the buffers calls", counting, LOSS, batch())
    assert counting.calls == 0


# -- reductions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reduction", "said", "hint"), [("mean", "sum", "reduction='sum'"), ("sum", "mean", "reduction='mean'")]
)
def test_a_reduction_other_than_said_is_noticed(reduction, said, hint):
    loss = nn.CrossEntropyLoss(reduction=said)
    refused(f"taken twice has .* times the loss; pass {hint}", model(), loss, batch(), reduction=reduction)


def test_a_loss_that_couples_samples_is_noticed():
    coupled = lambda z, y: z.sum(0).square().sum() / len(z)  # noqa: E731
    refused("couples samples|pass reduction", model(), lambda z, y: coupled(z, y) ** 2, batch())


def test_means_that_are_not_over_samples_need_forward():
    x, y = batch()
    refused("weighs its classes", model(), nn.CrossEntropyLoss(weight=torch.ones(3).double()), (x, y))
    y[2] = -100
    refused(r"batch 1 has targets -100, which loss_fn ignores; pass forward=", model(), LOSS, (x, y))
    wide = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (3, 2))).double()
    parts = [(batch()[0], torch.randint(3, (6, 2))), (batch()[0], torch.randint(3, (6, 1)))]
    refused("different numbers of entries", wide, lambda z, y: LOSS(z[..., : y.shape[1]], y), parts)


def test_a_loss_that_is_no_scalar():
    refused(r"loss_fn returned a tensor of shape \(6,\)", model(), nn.CrossEntropyLoss(reduction="none"), batch())
    refused("loss_fn returned a float", model(), lambda z, y: 1.0, batch())
    refused("loss_fn is a str", model(), "mse", batch())


def test_nan_and_infinity_are_named():
    x, y = batch()
    x[2, 1] = float("nan")
    refused("the loss of batch 2 is nan", model(), LOSS, [batch(), (x, y)])
    broken = model()
    with torch.no_grad():
        broken[2].weight[1, 2] = float("inf")
    refused(r"2.weight contains inf at index \(1, 2\)", broken, LOSS, batch())


# -- parameters ------------------------------------------------------------------------------------------------------


def test_choices_that_match_nothing():
    refused("'3.weight', which matches no parameter; there are 0.weight, 0.bias", model(), LOSS, batch(), "3.weight")
    refused("no regular expression either", model(), LOSS, batch(), "(")
    refused("has no parameter in the model", model(), LOSS, batch(), nn.Linear(2, 2))
    refused("that is no parameter of the model", model(), LOSS, batch(), nn.Parameter(torch.ones(2)))
    refused("params is empty", model(), LOSS, batch(), [])
    refused("params is a int", model(), LOSS, batch(), 3)


def test_regular_expressions_match_whole_names():
    H = fc.torch.Hessian(model(), LOSS, batch(), re.compile(r".*bias"))
    assert H.names == ("0.bias", "2.bias")


def test_frozen_parameters():
    frozen = model()
    frozen[0].requires_grad_(False)
    H = fc.torch.Hessian(frozen, LOSS, batch())
    assert H.names == ("2.weight", "2.bias")
    assert H.notes == ("frozen and left out: 0.weight, 0.bias",)
    refused("includes frozen parameters: 0.weight, 0.bias; call .requires_grad_", frozen, LOSS, batch(), "0")
    refused("all 4 parameters of the model are frozen", frozen.requires_grad_(False), LOSS, batch())


def test_tied_parameters_count_once():
    tied = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 3)).double()
    tied[2].weight = tied[0].weight
    H = fc.torch.Hessian(tied, LOSS, batch())
    assert H.shape[0] == 16 + 4 + 4 + 15
    assert H.notes == ("0.weight is tied to 2.weight and counts once",)
    assert fc.torch.Hessian(tied, LOSS, batch(), "2.weight").names == ("0.weight",)


def test_parameters_without_influence_are_named():
    spare = model()
    spare.register_parameter("spare", nn.Parameter(torch.ones(2).double()))
    with pytest.warns(UserWarning, match="does not depend on spare: their rows are zero"):
        H = fc.torch.Hessian(spare, LOSS, batch())
    assert np.all(H.dense()[:2] == 0.0) == (H.names[0] == "spare")
    refused("depends on none of spare", spare, LOSS, batch(), "spare")


def test_parameters_that_cannot_be_used():
    refused("is not initialised", nn.Sequential(nn.LazyLinear(3)), LOSS, batch())
    refused("meta device", nn.Linear(4, 3, device="meta"), LOSS, batch())
    refused("without parameters", nn.Tanh(), LOSS, batch())
    refused("model is a list", [1], LOSS, batch())


def test_sharded_models_are_refused():
    FullyShardedDataParallel = type("FullyShardedDataParallel", (nn.Sequential,), {})
    refused(
        "holds FullyShardedDataParallel at 0: .*full state dict",
        nn.Sequential(FullyShardedDataParallel(model())),
        LOSS,
        batch(),
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch
def test_a_compiled_model_runs_as_it_was_written():
    H = fc.torch.Hessian(torch.compile(inner := model()), LOSS, data := batch())
    assert np.array_equal(H.dense(), fc.torch.Hessian(inner, LOSS, data).dense())


# -- operators without second derivatives --------------------------------------------------------------------------


def test_an_operator_without_second_derivative_is_named():
    """The backward pass of connectionist temporal classification has no derivative; for other parameters it has."""

    def loss(z, y):
        steps = torch.full((z.shape[1],), len(z))
        return functional.ctc_loss(z.log_softmax(-1), y, steps, torch.ones_like(steps), reduction="mean")

    def forward(m, b):
        return m(b[0]).movedim(0, 1), b[1], len(b[1])

    data = torch.randn(2, 5, 4).double(), torch.ones(2, 1, dtype=torch.long)
    refused("no second derivative in PyTorch .*ctc_loss_backward", model(), loss, data, forward=forward)


class Once(torch.autograd.Function):
    """The identity, with a backward pass that may run once."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g.clone()


def test_functions_that_are_differentiable_once_are_named():
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3).double()

        def forward(self, x):
            return Once.apply(self.linear(x))

    refused("no second derivative in PyTorch .*once_differentiable", Module(), LOSS, batch())


def test_attention_uses_the_back_end_that_has_them():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Linear(4, 4).double()

        def forward(self, x):
            q = self.q(x)
            return functional.scaled_dot_product_attention(q, q, q).mean(1)

    x = torch.randn(5, 3, 4).double()
    H = fc.torch.Hessian(Attends(), nn.MSELoss(), (x, torch.randn(5, 4).double()))
    dense = H.dense()
    assert np.abs(dense - dense.T).max() <= 1e-12 * np.abs(dense).max()


# -- data ------------------------------------------------------------------------------------------------------------


def test_data_of_the_wrong_kind():
    refused("can be read once", model(), LOSS, iter([batch()]))
    refused("data is a Tensor", model(), LOSS, batch()[0])
    refused("data is a int", model(), LOSS, 3)
    refused("data has no batches", model(), LOSS, [])
    refused("batch 1 has 3 entries", model(), LOSS, (*batch(), 1))
    refused("batch 1 has 6 entries|type Tensor", model(), LOSS, [batch()[0]])
    refused("expected forward=", model(), LOSS, {"x": batch()[0]})
    refused("has 6 outputs for 5 targets", model(), LOSS, (batch(6)[0], batch(5)[1]))


def test_forward_must_return_three_things():
    refused("forward returned a Tensor", model(), LOSS, batch(), forward=lambda m, b: m(b[0]))
    refused("forward is a int", model(), LOSS, batch(), forward=1)
    refused("weight -1.0", model(), LOSS, batch(), forward=lambda m, b: (m(b[0]), b[1], -1))
    refused("all batches have weight 0", model(), LOSS, batch(), forward=lambda m, b: (m(b[0]), b[1], 0))


def test_batches_that_differ_from_pass_to_pass():
    class Drifting:
        def __iter__(self):
            yield tuple(torch.from_numpy(a) for a in (rng.standard_normal((3, 4)), np.array([0, 1, 2])))

    rng = np.random.default_rng(0)
    H = fc.torch.Hessian(model(), LOSS, Drifting(), memory=0)
    with pytest.raises(ValueError, match="batch 1 of data differs from that of the first pass"):
        H @ np.ones(H.shape[0])


def test_a_shuffling_loader_gives_the_same_batches_every_time():
    x, y = batch(11)
    m = model()
    loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
    exact = fc.torch.Hessian(m, LOSS, (x, y)).dense()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    H = fc.torch.Hessian(m, LOSS, loader, memory=0)
    assert np.abs(H.dense() - exact).max() <= 1e-12
    assert np.array_equal(H.dense(), H.dense())
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1] == random.getstate()
    assert np.array_equal(states[2], np.random.get_state()[1])  # noqa: NPY002


def test_a_loaders_own_generator_is_left_alone():
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(*batch(9)), batch_size=4, shuffle=True, generator=generator)
    before = generator.get_state()
    fc.torch.Hessian(model(), LOSS, loader)
    assert torch.equal(before, generator.get_state())


# -- vectors, staleness, memory ------------------------------------------------------------------------------------


def test_vectors_of_the_wrong_form():
    H = fc.torch.Hessian(model(), LOSS, batch())
    P = H.shape[0]
    for v in (np.ones(P + 1), np.ones((2, P)), np.ones((P, 1, 1)), torch.ones(3)):
        with pytest.raises(ValueError, match=rf"v has shape .*; expected \({P},\) or \({P}, k\)"):
            H @ v
    with pytest.raises(ValueError, match="complex"):
        H @ np.ones(P, complex)
    blocks = H.blocks(torch.ones(P))
    with pytest.raises(ValueError, match=r"v lacks 0.bias"):
        H @ {name: block for name, block in blocks.items() if name != "0.bias"}
    with pytest.raises(ValueError, match="unknown names other"):
        H @ {**blocks, "other": torch.ones(1)}
    with pytest.raises(ValueError, match="v has 1 tensors; expected 4"):
        H @ [torch.ones(2)]
    with pytest.raises(ValueError, match=r"v\['0.bias'\] has shape \(4,\); expected a tensor of shape \(5,\)"):
        H @ {**blocks, "0.bias": torch.ones(4)}


@pytest.mark.parametrize("change", ["step", "data", "swap"])
def test_a_stale_operator_says_so(change):
    m = model()
    H = fc.torch.Hessian(m, LOSS, batch())
    with torch.no_grad():
        if change == "step":
            m[0].weight.add_(1.0)
        elif change == "data":
            m[0].weight.data.mul_(2.0)
        else:
            m[0].weight.data = torch.zeros(5, 4).double()
    with pytest.raises(StaleWeightsError, match=r"0\.weight changed since this operator was built"):
        H @ np.ones(H.shape[0])


def test_memory_that_is_missing_is_foreseen(monkeypatch):
    monkeypatch.setattr("flatcore._memory._SMALL", 0)
    monkeypatch.setattr("flatcore._memory.available_memory", lambda: 1000)
    refused(
        "graph of one batch needs .* GB; .* are available: pass the data in smaller",
        model(),
        LOSS,
        batch(),
        error=MemoryError,
    )
    refused("memory is -1", model(), LOSS, batch(), memory=-1)


def test_bad_choices():
    refused("curvature is 'fisher'", model(), LOSS, batch(), None, "fisher")
    refused("reduction is 'none'", model(), LOSS, batch(), reduction="none")
    refused("seed is -1", model(), LOSS, batch(), seed=-1)
    refused("torch.distributed is not initialised", model(), LOSS, batch(), group=object())


def test_fisher_needs_a_loss_it_knows():
    refused("draws labels and expected CrossEntropyLoss", model(), nn.MultiMarginLoss(), batch(), None, "fisher_mc")
    smooth = nn.CrossEntropyLoss(label_smoothing=0.1)
    refused("smooths labels", model(), smooth, batch(), None, "fisher_mc")


def test_rounding_is_measured():
    x, y = batch()
    H = fc.torch.Hessian(model(), LOSS, (x, y))
    assert H.noise_floor < 1e-14
    single = fc.torch.Hessian(model().float(), LOSS, (x.float(), y))
    assert 1e-9 < single.noise_floor < 1e-5
    half = fc.torch.Hessian(model().bfloat16(), LOSS, (x.bfloat16(), y))
    assert half.noise_floor > 1e-3
