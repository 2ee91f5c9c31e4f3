"""What Hessian looks at before it starts, and what it says."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import re
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

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

    refused("the forward pass draws random numbers", Noisy(), LOSS, batch())


@pytest.mark.parametrize("seed", [0, 1])
def test_randomness_that_the_loss_does_not_show_is_noticed(seed):
    """Outputs of a last layer of zeros are zero whatever comes before."""

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

        def forward(self, x):
            return self.last(functional.dropout(self.first(x), 0.5, training=True))

    torch.manual_seed(seed)
    refused("draws random numbers", Noisy(), LOSS, batch())


def test_outputs_that_differ_from_call_to_call_are_noticed():
    class Alternating(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(4, 3).double(), 0

        def forward(self, x):
            self.calls += 1
            return self.linear(x) * self.calls

    refused("the output of the first batch came out differently the second time", Alternating(), LOSS, batch())


def test_a_loss_that_changes_what_it_is_given_is_told_so():
    changing = {"outputs": lambda z, y: LOSS(z.mul_(2.0), y), "targets": lambda z, y: LOSS(z, y.fmod_(2))}
    for loss in changing.values():
        refused("loss_fn changes its outputs or targets in place; expected", model(), loss, batch())


def test_a_model_of_two_inputs_is_told_so_and_other_type_errors_stay():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3).double()

        def forward(self, x, mask):
            return self.linear(x * mask)

    refused(r"inputs alone \(missing a required argument: 'mask'\); pass forward=", Two(), LOSS, batch())
    failing = nn.Sequential(nn.Linear(4, 3).double())
    failing.register_forward_hook(lambda *_: len(3))
    refused("has no len", failing, LOSS, batch(), error=TypeError)


@pytest.mark.parametrize(("weight", "told"), [(None, "None"), (torch.ones(2), r"a tensor of shape \(2,\)")])
def test_weights_that_are_no_number_are_told(weight, told):
    def forward(model, batch):
        return model(batch[0]), batch[1], weight

    text = f"forward returned {told} as the weight of batch 1; expected a number"
    refused(text, model(), nn.CrossEntropyLoss(reduction="sum"), batch(), reduction="sum", forward=forward)


def test_a_loss_of_whole_batches_is_told_so():
    target = torch.randn(6, 3).double()
    data = [(torch.randn(6, 4).double(), target) for _ in range(2)]
    refused(
        r"failed on a piece of batch 1 \(RuntimeError: The size", model(), lambda z, y: ((z - target) ** 2).mean(), data
    )


def test_empty_parameters_share_no_memory():
    net = model()
    net.extra = nn.ParameterList([nn.Parameter(torch.empty(0).double()) for _ in range(2)])
    net.forward = lambda x: net[2](net[1](net[0](x)))
    with pytest.warns(UserWarning, match="does not depend on extra.0, extra.1"):
        H = fc.torch.Hessian(net, LOSS, batch())
    assert not any("memory" in note for note in H.notes)


def test_buffers_that_are_replaced_are_noticed_and_restored():
    class Replacing(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3).double()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls = self.calls + 1
            return self.linear(x)

    replacing = Replacing()
    refused("the forward pass changes calls", replacing, LOSS, batch())
    assert replacing.calls == 0


def test_embeddings_that_shorten_their_rows_are_refused():
    data = torch.randint(5, (6,)), torch.randint(3, (6,))
    refused("max_norm to None", nn.Embedding(5, 3, max_norm=0.1), LOSS, data)
    refused("sparse to False", nn.Embedding(5, 3, sparse=True), LOSS, data)


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
    refused("the forward pass changes calls", counting, LOSS, batch())
    assert counting.calls == 0


# -- reductions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reduction", "said", "hint"), [("mean", "sum", "reduction='sum'"), ("sum", "mean", "reduction='mean'")]
)
def test_a_reduction_other_than_said_is_noticed(reduction, said, hint):
    loss = nn.CrossEntropyLoss(reduction=said)
    refused(f"taken twice has .* times the loss; pass {hint}", model(), loss, batch(), reduction=reduction)


def test_a_loss_that_couples_samples_is_noticed():
    def coupled(z, y):
        return (z.sum(0).square().sum() / len(z)) ** 2

    refused("couples its samples", model(), coupled, [batch(), batch()])
    H = fc.torch.Hessian(model(), coupled, batch())  # of one batch there is a Hessian all the same
    assert "couples its samples" in H.notes[-1]


def test_means_that_are_not_over_samples_need_forward():
    x, y = batch()
    refused("weighs its classes", model(), nn.CrossEntropyLoss(weight=torch.ones(3).double()), (x, y))
    y[2] = -100
    refused(r"batch 1 has targets -100, which loss_fn ignores; pass forward=", model(), LOSS, (x, y))
    wide = nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (3, 2))).double()
    parts = [(batch()[0], torch.randint(3, (6, 2))), (batch()[0], torch.randint(3, (6, 1)))]
    refused("different numbers of entries", wide, lambda z, y: LOSS(z[..., : y.shape[1]], y), parts)


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (functional.cross_entropy, "has targets -100, which loss_fn ignores"),
        (lambda z, y: functional.cross_entropy(z, y), "has targets -100, which loss_fn ignores"),
        (lambda z, y: functional.cross_entropy(z, y, ignore_index=1), "by two pieces of it: it is not the mean"),
        (
            lambda z, y: functional.cross_entropy(z, y, weight=torch.tensor([1.0, 5.0, 20.0]).double()),
            "by two pieces of it: it is not the mean",
        ),
    ],
)
def test_means_over_something_else_inside_a_function_are_noticed(loss, text):
    (x, y), other = batch(9), batch(9)
    y[:] = torch.arange(9) % 3
    y[0] = -100 if "ignores" in text else 1
    y[1:3] = 1
    refused(f"{text}.*pass forward=", model(), loss, [(x, y), other])


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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch
def test_modules_compiled_in_place_and_compiled_functions_run_as_they_were_written():
    """The compiler is not called: what it compiled for a training stays what it was."""
    called = []

    def backend(graph, inputs):
        called.append(graph)
        return graph.forward

    data, inside = batch(), torch.compile(lambda h: 2.0 * h, backend=backend)
    m = model()
    expected = 4.0 * fc.torch.Hessian(m, LOSS, data).dense()
    m.compile(backend=backend)
    H = fc.torch.Hessian(m, lambda z, y: 4.0 * LOSS(inside(z) / 2.0, y), data)
    np.testing.assert_allclose(H.dense(), expected, rtol=1e-12)
    assert not called


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


@pytest.mark.parametrize("memory", [None, 0])
@pytest.mark.parametrize("what", ["data", "frozen weight", "other weight", "buffer"])
def test_whatever_else_changes_in_place_is_noticed(what, memory):
    m = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double().eval()
    x, y = batch()
    if what == "frozen weight":
        m[3].weight.requires_grad_(False)
    H = fc.torch.Hessian(m, LOSS, [(x, y)], "0" if what == "other weight" else None, memory=memory)
    with torch.no_grad():
        changed = {"data": x, "buffer": m[1].running_var}.get(what, m[3].weight)
        changed.mul_(1.5)
    error, text = (
        (ValueError, "differs from that of the first pass")
        if what == "data" and memory == 0
        else (StaleWeightsError, "changed")
    )
    with pytest.raises(error, match=text):
        H @ np.ones(H.shape[0])


def test_a_buffer_that_a_loader_refills_is_noticed():
    class Refilling:
        held = torch.zeros(3, 4).double()

        def __iter__(self):
            for number in range(2):
                yield self.held.copy_(torch.full((3, 4), 1.0 + number)), torch.tensor([0, 1, 2])

    H = fc.torch.Hessian(model(), LOSS, Refilling())
    with pytest.raises(StaleWeightsError, match="changed in place since"):
        H @ np.ones(H.shape[0])


def test_values_changed_inside_forward_are_refused_as_torch_does():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 3).double()

        def forward(self, x):
            y = self.linear(x).exp()
            y.add_(1.0)
            return y

    refused("write it out of place", InPlace(), LOSS, batch(), error=StaleWeightsError)


def test_modes_that_change_are_noticed_where_graphs_are_built_again():
    m = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double().eval()
    H = fc.torch.Hessian(m, LOSS, batch(), memory=0)
    before = m[1].running_mean.clone()
    m.train()
    with pytest.raises(StaleWeightsError, match=r"the model.*training mode"):
        H @ np.ones(H.shape[0])
    assert torch.equal(before, m[1].running_mean)


@pytest.mark.parametrize("memory", [None, 0])
def test_graphs_are_freed(memory):
    """A kept one with its operator, others after each product."""
    m = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 3)).double()
    refs = []
    for _ in range(3):
        H = fc.torch.Hessian(m, LOSS, batch(20), memory=memory)
        H._graphs.visit(lambda share, graph: refs.append(weakref.ref(graph)))
        H @ np.ones(H.shape[0])
    gc.collect()
    assert [ref() is not None for ref in refs] == [False, False, memory is None]


def test_memory_does_not_grow():
    """A hundred operators whose graphs save half a megabyte each leave no more than a few of them behind."""
    m = nn.Sequential(nn.Linear(16, 256), nn.Tanh(), nn.Linear(256, 4)).double()
    data = torch.randn(128, 16).double(), torch.randint(4, (128,))

    def resident():
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    for _ in range(20):
        fc.torch.Hessian(m, LOSS, data)
    before = resident()
    for _ in range(100):
        fc.torch.Hessian(m, LOSS, data)
    assert resident() - before < 15e6


def test_the_callers_contexts_do_not_reach_the_products():
    m, (x, y) = model().float(), batch()
    H = fc.torch.Hessian(m, LOSS, (x.float(), y))
    v = torch.randn(H.shape[0])
    exact = H @ v
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(H @ v, exact)
    with torch.no_grad():
        assert torch.equal(H @ v, exact)
    with torch.inference_mode():
        assert torch.equal(H @ torch.clone(v), exact)
        assert torch.equal(fc.torch.Hessian(m, LOSS, (x.float(), y)) @ v, exact)
        made = torch.ones(3, 4), torch.tensor([0, 1, 2])
    fc.torch.Hessian(m, LOSS, made)


def test_integer_vectors_are_numbers():
    H = fc.torch.Hessian(model(), LOSS, batch())
    exact = H @ np.ones(H.shape[0])
    for v in (torch.ones(H.shape[0], dtype=torch.long), torch.ones(H.shape[0], dtype=torch.bool)):
        assert (H @ v).dtype == torch.float64
        assert np.array_equal((H @ v).numpy(), exact)
    with pytest.raises(ValueError, match="v is complex"):
        H @ torch.ones(H.shape[0], dtype=torch.complex64)
    frozen = np.ones(H.shape[0])
    frozen.flags.writeable = False
    assert np.array_equal(H @ frozen, exact)


def test_blocks_come_back_in_their_own_precision():
    H = fc.torch.Hessian(model().float(), LOSS, (batch()[0].float(), batch()[1]))
    blocks = H @ H.blocks(torch.ones(H.shape[0]).double())
    assert all(block.dtype == torch.float64 for block in blocks.values())


def test_an_operator_is_not_copied():
    H = fc.torch.Hessian(model(), LOSS, batch())
    for make in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            make(H)


def test_models_that_differentiate_inside_forward():
    """A gradient penalty: the oracle differentiates the same module three times."""

    class Penalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()

        def forward(self, x):
            x = x.clone().requires_grad_()
            (g,) = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)
            return g.square().sum(1)

    m, x, y = Penalised(), batch()[0], torch.randn(6).double()
    with pytest.warns(UserWarning, match=r"does not depend on net\.2\.bias"):
        H = fc.torch.Hessian(m, nn.MSELoss(), (x, y))
    params = list(m.parameters())
    g = torch.cat([p.reshape(-1) for p in torch.autograd.grad(nn.MSELoss()(m(x), y), params[:3], create_graph=True)])
    v = torch.randn(len(g)).double()
    exact = torch.cat([h.reshape(-1) for h in torch.autograd.grad(g @ v, params[:3])])
    chosen = fc.torch.Hessian(m, nn.MSELoss(), (x, y), params[:3])
    assert (chosen @ v - exact).abs().max() <= 1e-12 * exact.abs().max()
    assert H.cost.flops_per_vector > 0.0


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_activations(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model()

        def forward(self, x):
            return checkpoint(self.net, x.clone().requires_grad_(), use_reentrant=reentrant)

    m, data = Checkpointed(), batch()
    if reentrant:
        refused("use_reentrant=False", m, LOSS, data)
        return
    exact = fc.torch.Hessian(m.net, LOSS, data).dense()
    assert np.abs(fc.torch.Hessian(m, LOSS, data).dense() - exact).max() <= 1e-12


def test_an_empty_first_batch_changes_nothing():
    m, (x, y) = model(), batch()
    ignored = torch.full_like(y, -100)

    def forward(m, b):
        return m(b[0]), b[1], (b[1] != -100).sum()

    first = fc.torch.Hessian(m, LOSS, [(x, ignored), (x, y)], forward=forward)
    last = fc.torch.Hessian(m, LOSS, [(x, y), (x, ignored)], forward=forward)
    assert np.array_equal(first.dense(), last.dense())
    assert first.cost == last.cost


def test_layers_of_parametrized_modules_are_whole():
    m = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))).double()
    H = fc.torch.Hessian(m, LOSS, batch())
    assert [name for name, _ in H.layers()] == ["0"]


def test_dictionaries_as_batches():
    m, (x, y) = model(), batch(8)
    exact = fc.torch.Hessian(m, LOSS, (x, y)).dense()

    def forward(m, b):
        return {"logits": m(b["inputs"])}, b["labels"], len(b["labels"])

    parts = [{"inputs": x[:3], "labels": y[:3]}, {"inputs": x[3:], "labels": y[3:]}]
    H = fc.torch.Hessian(m, lambda z, y: LOSS(z["logits"], y), parts, forward=forward)
    assert np.abs(H.dense() - exact).max() <= 1e-12
    assert "was not verified" in H.notes[-1]


def test_threads_leave_the_settings_as_they_were():
    m, data = model(), batch()
    exact, filters = fc.torch.Hessian(m, LOSS, data, memory=0).dense(), list(warnings.filters)
    state = torch.get_rng_state()

    def work(_):
        return fc.torch.Hessian(m, LOSS, data, memory=0).dense()

    with ThreadPoolExecutor(3) as pool:
        for found in pool.map(work, range(12)):
            assert np.array_equal(found, exact)
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
    assert torch.equal(state, torch.get_rng_state())
    assert list(warnings.filters) == filters


def test_an_interrupt_in_the_middle_restores_everything():
    class Interrupting(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.calls = nn.Linear(4, 3).double(), 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 3:
                raise KeyboardInterrupt
            return self.linear(x)

    interrupting, data = Interrupting(), [batch(), batch()]
    state = torch.get_rng_state()
    refused(None, interrupting, LOSS, data, error=KeyboardInterrupt)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()
    fc.torch.Hessian(model(), LOSS, batch())


@pytest.mark.parametrize("memory", [None, 0])
def test_hooks_on_gradients_do_not_run(memory):
    m, data, calls = model(), batch(), []
    exact = fc.torch.Hessian(m, LOSS, data).dense()
    m[0].weight.register_hook(lambda g: (calls.append(1), 0.5 * g)[1])
    m[2].register_full_backward_hook(lambda *given: calls.append(2))
    assert np.array_equal(fc.torch.Hessian(m, LOSS, data, memory=memory).dense(), exact)
    assert calls == []
    LOSS(m(data[0]), data[1]).backward()
    assert sorted(calls) == [1, 2]


def test_samples_that_a_sampler_doubles_are_named():
    data = TensorDataset(*batch(9))
    loader = DataLoader(data, batch_size=4, sampler=DistributedSampler(data, num_replicas=2, rank=0))
    assert "1 of 9 samples to two ranks" in fc.torch.Hessian(model(), LOSS, loader).notes[-1]


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


class Written(nn.Module):
    """A function of a linear layer's outputs and the inputs."""

    def __init__(self, of):
        super().__init__()
        self.linear, self.of = nn.Linear(4, 3).double(), of

    def forward(self, x):
        return self.of(self.linear(x))


@pytest.mark.parametrize("draw", [random.random, np.random.random])
def test_draws_of_pythons_and_numpys_generators_are_noticed(draw):
    """As in layers skipped at random: two passes mostly agree."""
    refused("draws random numbers", Written(lambda z: z * (draw() < 2.0)), LOSS, batch())


def test_embeddings_whose_gradients_are_not_those_of_the_loss_are_refused():
    data = torch.randint(5, (6,)), torch.randint(3, (6,))
    refused("scale_grad_by_freq to False", nn.Embedding(5, 3, scale_grad_by_freq=True), LOSS, data)


def test_derivatives_by_torch_func_inside_forward_are_refused():
    slope = torch.func.grad(lambda z: z.sin().sum())
    refused("create_graph=True", Written(slope), LOSS, batch())


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("where", ["data", "buffer"])
def test_sparse_matrices_in_models_and_data(where, layout):
    """A graph's adjacency matrix, against its dense form."""
    m, (x, y) = model(), batch()
    dense = torch.bernoulli(torch.full((6, 6), 0.5)).double()
    sparse = dense.to_sparse(layout=layout)
    exact = fc.torch.Hessian(m, LOSS, (x, y), forward=lambda m, b: (dense @ m(b[0]), b[1], 6)).dense()
    data = (x, y)
    if where == "data":
        data = (x, y, sparse)
    else:
        m.register_buffer("adjacency", sparse)

    def forward(m, b):
        return torch.sparse.mm(b[2] if where == "data" else m.adjacency, m(b[0])), b[1], 6

    found = fc.torch.Hessian(m, LOSS, [data], forward=forward, memory=0).dense()
    assert np.abs(found - exact).max() <= 1e-12 * np.abs(exact).max()


def test_buffers_made_in_inference_mode():
    m = nn.Sequential(nn.Linear(4, 3)).double()
    with torch.inference_mode():
        m.register_buffer("unused", torch.ones(2))
    fc.torch.Hessian(m, LOSS, batch())


def test_a_loss_that_refuses_a_batch_twice_is_not_verified():
    def fixed(z, y):
        assert len(z) == 6
        return LOSS(z, y)

    assert "AssertionError" in fc.torch.Hessian(model(), fixed, batch()).notes[-1]


@pytest.mark.parametrize("curvature", ["ggn", "fisher_mc", "fisher_empirical"])
def test_losses_that_depend_on_parameters_beside_the_outputs_are_refused(curvature):
    def forward(m, b):
        return m(b[0]), m(-b[0]), len(b[0])

    refused("detach the targets", model(), nn.MSELoss(), batch(), None, curvature, forward=forward)


@pytest.mark.parametrize("curvature", ["hessian", "ggn", "fisher_mc", "fisher_empirical"])
@pytest.mark.parametrize("frozen", [True, False])
def test_batches_that_do_not_reach_the_chosen_parameters(curvature, frozen):
    """Of two experts each batch asks one: the chosen one's matrix is half of that of its batch."""

    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])

        def forward(self, x):
            return self.experts[int(x[0, 0] > 0)](x)

    m, (x, y) = Experts().double(), batch()
    m.experts[1].requires_grad_(not frozen)
    first = -x.abs(), y
    exact = 0.5 * fc.torch.Hessian(m, LOSS, first, "experts.0", curvature).dense()
    H = fc.torch.Hessian(m, LOSS, [first, (x.abs(), y)], "experts.0", curvature)
    assert np.abs(H.dense() - exact).max() <= 1e-12 * np.abs(exact).max()
    assert np.abs(H @ np.eye(15)[:, :1] - exact[:, :1]).max() <= 1e-12 * np.abs(exact).max()


def test_losses_derived_from_known_ones_draw_no_labels():
    class Focal(nn.CrossEntropyLoss):
        def forward(self, z, y):
            return 3.0 * super().forward(z, y)

    refused("loss_fn is Focal", model(), Focal(), batch(), None, "fisher_mc")


def test_blocks_of_integers_are_numbers():
    H = fc.torch.Hessian(model(), LOSS, batch())
    v = torch.arange(H.shape[0])
    found = H @ H.blocks(v)
    assert torch.equal(torch.cat([block.reshape(-1) for block in found.values()]), H @ v)
    with pytest.raises(ValueError, match=r"v\['0.weight'\] is complex"):
        H @ H.blocks(v.to(torch.complex128))


def test_blocks_of_half_precision_models_keep_float32():
    """Products of two batches are summed in it."""
    x, y = batch()
    x = x.bfloat16()
    H = fc.torch.Hessian(model().bfloat16(), LOSS, [(x[:1], y[:1]), (x[1:], y[1:])])
    v = torch.ones(H.shape[0])
    assert torch.equal(torch.cat([block.reshape(-1) for block in (H @ H.blocks(v)).values()]), H @ v)
