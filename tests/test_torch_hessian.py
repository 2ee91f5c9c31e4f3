"""Curvature of any model against dense second derivatives by torch's own reverse-over-reverse differentiation.

The oracle computes the loss of all samples at once from one flat vector through ``functional_call`` and
differentiates it with ``torch.autograd.functional.hessian``, which knows nothing of batches, kept graphs or the
derivatives written out for convolutions. In float64 both sides round at some 1e-16 of the largest entry per operation;
1e-9 relative to it leaves room for thousands of terms, while a wrong factor, weight or transpose misses it by orders
of magnitude.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

import flatcore as fc

TOLERANCE = 1e-9
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@dataclass
class Case:
    """A model, its loss and its data."""

    model: nn.Module
    loss: Any
    x: torch.Tensor
    y: torch.Tensor

    @property
    def data(self):
        return self.x, self.y


def classifier(model: nn.Module, *shape: int, n: int = 7, classes: int = 3) -> Case:
    return Case(model.double().eval(), nn.CrossEntropyLoss(), torch.randn(n, *shape).double(), labels(n, classes))


def labels(n: int, classes: int) -> torch.Tensor:
    return torch.randint(classes, (n,))


class Attention(nn.Module):
    """Multi-head attention over a sequence, then a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Tokens(nn.Module):
    """Embedding, a causal transformer layer, and an output layer tied to the embedding."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, 0.1, "gelu", batch_first=True, norm_first=True)
        self.out = nn.Linear(4, 5, bias=False)
        if tied:
            self.out.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], dtype=torch.float64)
        return self.out(self.layer(self.embedding(tokens), src_mask=mask, is_causal=True)).movedim(-1, 1)


class Recurrent(nn.Module):
    """A recurrent layer and its last state."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(2, 3, batch_first=True)
        self.out = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.rnn(x)[0][:, -1])


def with_statistics(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """The model after one training pass has set the running statistics of its normalisation."""
    with torch.no_grad():
        model.double().train()(x.double())
    return model.eval()


def tokens_case(tied: bool) -> Case:
    tokens = torch.randint(5, (3, 4))
    return Case(Tokens(tied).double().eval(), nn.CrossEntropyLoss(), tokens, torch.randint(5, (3, 4)))


def frozen_case() -> Case:
    case = classifier(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), 4)
    case.model[0].weight.requires_grad_(False)
    return case


def regression(loss: Any, y: Callable[[int], torch.Tensor]) -> Case:
    model = nn.Sequential(nn.Linear(4, 5), nn.Softplus(), nn.Linear(5, 2)).double()
    return Case(model, loss, torch.randn(6, 4).double(), y(6))


CASES: dict[str, Callable[[], Case]] = {
    "linear": lambda: classifier(nn.Linear(4, 3), 4),
    "tanh": lambda: classifier(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)), 4),
    "relu": lambda: classifier(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), 4),
    "squared error": lambda: regression(nn.MSELoss(), lambda n: torch.randn(n, 2).double()),
    "logistic": lambda: regression(nn.BCEWithLogitsLoss(), lambda n: torch.rand(n, 2).double()),
    "conv 2d": lambda: classifier(
        nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Conv2d(3, 4, (1, 3), dilation=(1, 1)),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
        2,
        6,
        5,
    ),
    "conv 2d same, grouped": lambda: classifier(
        nn.Sequential(
            nn.Conv2d(2, 4, 3, padding="same", dilation=2, groups=2, bias=False),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        2,
        5,
        5,
    ),
    "conv 2d same, even": lambda: classifier(
        nn.Sequential(nn.Conv2d(1, 2, 2, padding="same"), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)), 1, 4, 4
    ),
    "conv 1d circular": lambda: classifier(
        nn.Sequential(
            nn.Conv1d(2, 3, 3, padding=1, padding_mode="circular"), nn.Sigmoid(), nn.Flatten(), nn.Linear(15, 3)
        ),
        2,
        5,
    ),
    "conv 3d": lambda: classifier(
        nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)), 1, 3, 3, 3, n=4
    ),
    "transposed conv": lambda: classifier(
        nn.Sequential(nn.ConvTranspose2d(2, 2, 2, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)), 2, 2, 2
    ),
    "batch norm in eval": lambda: classifier(
        with_statistics(
            nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)),
            torch.randn(9, 2, 4, 4),
        ),
        2,
        4,
        4,
    ),
    "layer norm": lambda: classifier(nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.GELU(), nn.Linear(5, 3)), 4),
    "attention": lambda: classifier(Attention(), 3, 4),
    "embedding, transformer": lambda: tokens_case(False),
    "tied transformer": lambda: tokens_case(True),
    "lstm": lambda: classifier(Recurrent(nn.LSTM), 3, 2, classes=2),
    "gru": lambda: classifier(Recurrent(nn.GRU), 3, 2, classes=2),
    "frozen": frozen_case,
}


def dense_hessian(case: Case, of: Callable[[torch.Tensor], torch.Tensor] | None = None) -> torch.Tensor:
    """The Hessian of the loss, or the Jacobian of `of(outputs)`, in the trainable parameters, tied ones once."""
    named = {name: p for name, p in case.model.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in named.values()]
    start = torch.cat([p.detach().reshape(-1) for p in named.values()])

    def value(theta: torch.Tensor) -> torch.Tensor:
        parts = theta.split(sizes)
        new = {name: part.reshape(p.shape) for (name, p), part in zip(named.items(), parts, strict=True)}
        outputs = functional_call(case.model, new, (case.x,))
        return case.loss(outputs, case.y) if of is None else of(outputs)

    with sdpa_kernel([SDPBackend.MATH]):
        if of is None:
            return torch.autograd.functional.hessian(value, start)
        return torch.autograd.functional.jacobian(value, start)


def close(found: Any, exact: Any, tolerance: float = TOLERANCE) -> None:
    found, exact = np.asarray(found), np.asarray(exact)
    assert found.shape == exact.shape
    assert np.abs(found - exact).max() <= tolerance * np.abs(exact).max()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(11)


@pytest.mark.parametrize("name", CASES)
def test_products_are_those_of_the_dense_hessian(name):
    case = CASES[name]()
    exact = dense_hessian(case)
    H = fc.torch.Hessian(case.model, case.loss, case.data)
    close(H.dense(), exact)
    v = torch.randn(H.shape[0], 3).double()
    close(H @ v, exact @ v)
    close(H @ v[:, 0], exact @ v[:, 0])


@pytest.mark.parametrize("name", CASES)
def test_vectors_taken_together_and_one_by_one_agree(name):
    case = CASES[name]()
    H = fc.torch.Hessian(case.model, case.loss, case.data)
    V = torch.randn(H.shape[0], 5).double()
    H._together = False
    one_by_one = H @ V
    H._together = True
    close(H @ V, one_by_one, 1e-12)


@pytest.mark.parametrize("memory", [None, 0, 20_000])
def test_batches_of_unequal_size_weigh_by_their_samples(memory):
    case = CASES["tanh"]()
    parts = [(case.x[a:b], case.y[a:b]) for a, b in ((0, 1), (1, 5), (5, 7))]
    H = fc.torch.Hessian(case.model, case.loss, parts, memory=memory)
    close(H.dense(), dense_hessian(case))
    whole = case.loss(case.model(case.x), case.y)
    assert H.value == pytest.approx(whole.item(), rel=1e-13)
    exact = torch.cat([g.reshape(-1) for g in torch.autograd.grad(whole, list(case.model.parameters()))])
    close(H.gradient(), exact, 1e-12)


def test_a_larger_budget_keeps_more_graphs():
    case = CASES["tanh"]()
    parts = [(case.x[a:b], case.y[a:b]) for a, b in ((0, 2), (2, 4), (4, 7))]
    held = []
    for memory in range(0, 20_000, 500):
        H = fc.torch.Hessian(case.model, case.loss, parts, memory=memory)
        held.append(sum(batch.graph is not None for batch in H._graphs.kept))
    assert held == sorted(held)
    assert {held[0], *held, held[-1]} == {0, 1, 2, 3}
    assert "3 batches, 0 kept" in repr(fc.torch.Hessian(case.model, case.loss, parts, memory=0))


def test_a_sum_over_batches():
    case = CASES["squared error"]()
    case.loss = nn.MSELoss(reduction="sum")
    parts = [(case.x[:2], case.y[:2]), (case.x[2:], case.y[2:])]
    close(fc.torch.Hessian(case.model, case.loss, parts, reduction="sum").dense(), dense_hessian(case))


def test_tokens_that_are_ignored_weigh_nothing():
    """Two batches with different numbers of counted tokens, one of them with none."""
    case = tokens_case(True)
    case.y[0, 1:] = -100
    case.y[2, 0] = -100
    empty = torch.full_like(case.y[:1], -100)

    def forward(model, batch):
        x, y = batch
        return model(x), y, (y != -100).sum()

    parts = [(case.x[:1], case.y[:1]), (case.x[:1], empty), (case.x[1:], case.y[1:])]
    for memory in (None, 0):
        H = fc.torch.Hessian(case.model, case.loss, parts, forward=forward, memory=memory)
        close(H.dense(), dense_hessian(case))


def test_chosen_parameters_are_a_block_of_the_whole():
    case = CASES["tanh"]()
    exact = dense_hessian(case).numpy()
    model, first = case.model, case.model[0].weight.numel() + case.model[0].bias.numel()
    for params, part in (
        ("0.weight", slice(0, 24)),
        ("0", slice(0, first)),
        (model[0], slice(0, first)),
        (model[2].bias, slice(-3, None)),
        (r"2\..*", slice(first, None)),
        (["2.weight", "2.bias"], slice(first, None)),
    ):
        H = fc.torch.Hessian(case.model, case.loss, case.data, params)
        close(H.dense(), exact[part, part])
    layers = dict(fc.torch.Hessian(case.model, case.loss, case.data).layers())
    assert list(layers) == ["0", "2"]
    close(layers["2"].dense(), exact[first:, first:])


@pytest.mark.parametrize("name", ["tanh", "squared error", "logistic", "conv 2d", "tied transformer"])
def test_gauss_newton_matrix(name):
    """JᵀHJ from the dense Jacobian of all outputs and the dense Hessian of the loss at them."""
    case = CASES[name]()
    J = dense_hessian(case, of=lambda outputs: outputs.reshape(-1))
    z = case.model(case.x).detach()
    inner = torch.autograd.functional.hessian(lambda u: case.loss(u.reshape(z.shape), case.y), z.reshape(-1))
    G = fc.torch.Hessian(case.model, case.loss, case.data, curvature="ggn")
    close(G.dense(), J.T @ inner @ J)
    v = torch.randn(G.shape[0], 3).double()
    G._together = False
    alone = G @ v
    G._together = True
    close(G @ v, alone, 1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_empirical_fisher_is_the_mean_of_gradient_products(reduction):
    case = CASES["tanh"]()
    case.loss = nn.CrossEntropyLoss(reduction=reduction)
    rows = []
    for i in range(len(case.x)):
        loss = case.loss(case.model(case.x[i : i + 1]), case.y[i : i + 1])
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(case.model.parameters()))]))
    S = torch.stack(rows)
    exact = S.T @ S / (len(S) if reduction == "mean" else 1)
    parts = [(case.x[:3], case.y[:3]), (case.x[3:], case.y[3:])]
    F = fc.torch.Hessian(case.model, case.loss, parts, curvature="fisher_empirical", reduction=reduction)
    close(F.dense(), exact)


@pytest.mark.parametrize("name", ["tanh", "squared error", "logistic"])
def test_drawn_fisher_is_unbiased(name):
    """The mean over 200 seeds lies within five standard errors of the Gauss–Newton matrix, entry by entry.

    With some 10³ entries the largest of so many normal deviations is near 3.3; five leaves a chance below 1e-3.
    """
    case = CASES[name]()
    exact = fc.torch.Hessian(case.model, case.loss, case.data, curvature="ggn").dense()
    v = np.random.default_rng(3).standard_normal((len(exact), 2))
    draws = np.stack(
        [fc.torch.Hessian(case.model, case.loss, case.data, None, "fisher_mc", seed=s) @ v for s in range(200)]
    )
    error = draws.std(axis=0, ddof=1) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(axis=0) - exact @ v) <= 5.0 * error + 1e-12).all()


def test_drawn_fisher_depends_on_the_seed_alone():
    case = CASES["tanh"]()
    first, again, other = (
        fc.torch.Hessian(case.model, case.loss, case.data, None, "fisher_mc", seed=s).dense() for s in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_every_kind_of_vector_is_answered_in_kind():
    case = CASES["tanh"]()
    H = fc.torch.Hessian(case.model, case.loss, case.data)
    exact = dense_hessian(case)
    V = torch.randn(H.shape[0], 2).double()
    for array in (V.numpy(), V.numpy().astype(np.float32), np.asfortranarray(V.numpy())):
        answer = H @ array
        assert isinstance(answer, np.ndarray)
        assert answer.dtype == array.dtype
        close(answer, exact @ V, 1e-6 if array.dtype == np.float32 else TOLERANCE)
    named = H @ H.blocks(V)
    assert list(named) == list(H.names)
    close(torch.cat([named[n].reshape(-1, 2) for n in H.names]), exact @ V)
    listed = H @ list(H.blocks(V[:, 0]).values())
    close(torch.cat([block.reshape(-1) for block in listed]), exact @ V[:, 0])
    operator = H.to_scipy()
    assert operator.dtype == np.float64
    close(operator @ V.numpy(), exact @ V)


def test_half_precision_answers_in_float32():
    case = CASES["tanh"]()
    model = copy.deepcopy(case.model).bfloat16()
    H = fc.torch.Hessian(model, case.loss, (case.x.bfloat16(), case.y))
    assert H.dtype == np.float32
    v = np.random.default_rng(0).standard_normal(H.shape[0]).astype(np.float32)
    rounded = Case(copy.deepcopy(model).double(), case.loss, case.x.bfloat16().double(), case.y)
    exact = dense_hessian(rounded).numpy() @ v
    assert np.abs(H @ v - exact).max() <= 0.05 * np.abs(exact).max()  # eight bits


@pytest.mark.parametrize("name", ["tanh", "conv 2d", "tied transformer"])
def test_the_solvers_run_on_it(name):
    case = CASES[name]()
    exact = np.linalg.eigvalsh(dense_hessian(case).numpy())
    H = fc.torch.Hessian(case.model, case.loss, case.data)
    top = fc.eigsh(H, 3, tol=1e-8)
    assert top.status == "converged"
    assert np.abs(top.values - exact[::-1][:3]).max() <= 1e-8 * np.abs(exact).max()
    trace = fc.trace(H, products=40)
    assert abs(trace.value - exact.sum()) <= max(6.0 * trace.stderr, 1e-9)
    diagonal = fc.diagonal(H)
    close(diagonal.values, np.diag(dense_hessian(case)), 0.5 if diagonal.status != "exact" else 1e-9)
    density = fc.spectral_density(H)
    assert density.expectation(lambda t: t)[0] == pytest.approx(exact.mean(), abs=1e-9)


def test_block_lanczos_on_a_model_too_large_for_the_dense_route():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 5)).double()
    case = Case(model, nn.CrossEntropyLoss(), torch.randn(50, 20).double(), labels(50, 5))
    H = fc.torch.Hessian(case.model, case.loss, case.data)
    top = fc.eigsh(H, 4, tol=1e-8)
    exact = np.linalg.eigvalsh(dense_hessian(case).numpy())[::-1][:4]
    assert "Lanczos" in top.method
    assert np.abs(top.values - exact).max() <= 1e-8 * exact[0]
    assert [block.shape for block in top.layers(1)] == [p.shape for p in model.parameters()]
    again = fc.eigsh(H, 4, tol=1e-8)
    assert np.array_equal(again.vectors, top.vectors)


@pytest.mark.parametrize("inplace", [False, True])
def test_hard_sigmoids_have_second_derivatives(inplace):
    """torch's own has none: the oracle is the same function by clamping, relu6(x + 3)/6."""

    class Clamped(nn.Module):
        def forward(self, x):
            return functional.relu6(x + 3.0) / 6.0

    case = classifier(nn.Sequential(nn.Linear(4, 5), nn.Hardsigmoid(inplace), nn.Linear(5, 3)), 4)
    H = fc.torch.Hessian(case.model, case.loss, case.data)
    case.model[1] = Clamped()
    close(H.dense(), dense_hessian(case))


def test_the_loss_of_the_library_gives_the_same_products():
    """A linear chain as a module: products equal those of the chain's own Hessian, which shares no code with these."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 3)).double()
    x, y = torch.randn(30, 6).double(), torch.randn(30, 3).double()
    chain = fc.LinearChain([m.weight for m in model], [m.bias for m in model])
    exact = fc.Hessian(chain, fc.QuadraticLoss(x, y, reduction="mean")).dense()
    close(fc.torch.Hessian(model, nn.MSELoss(), (x, y)).dense(), exact)


# torch's forward derivative of the backward pass of layer normalisation, which curvlinops takes, leaves out a term: its
# products differ from dense Hessians in float64 by a few per cent. Recurrent layers have no forward derivative.
FORWARD_MODE_FAILS = {"layer norm", "embedding, transformer", "tied transformer", "lstm", "gru"}


@pytest.mark.filterwarnings("ignore")  # of deprecations inside curvlinops
@pytest.mark.parametrize("name", [name for name in CASES if name not in FORWARD_MODE_FAILS])
def test_agrees_with_curvlinops(name):
    """In float32, to the 1e-5 of the largest entry that rounding of both sides leaves."""
    curvlinops = pytest.importorskip("curvlinops")
    case = CASES[name]()
    model, x = case.model.float(), case.x.float()
    y = case.y.float() if case.y.dtype == torch.float64 else case.y
    params = [p for p in model.parameters() if p.requires_grad]
    with sdpa_kernel([SDPBackend.MATH]):
        theirs = curvlinops.HessianLinearOperator(model, case.loss, params, [(x, y)], check_deterministic=False)
        v = torch.randn(theirs.shape[0])
        exact = (theirs @ v).detach()
    close(fc.torch.Hessian(model, case.loss, (x, y)) @ v, exact, 1e-5)


def test_the_model_is_left_as_it_was():
    case = CASES["batch norm in eval"]()
    before = {name: t.clone() for name, t in case.model.state_dict().items()}
    state = torch.get_rng_state()
    versions = [p._version for p in case.model.parameters()]
    H = fc.torch.Hessian(case.model, case.loss, case.data, curvature="fisher_mc")
    H @ torch.ones(H.shape[0]).double()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, before[name]) for name, t in case.model.state_dict().items())
    assert versions == [p._version for p in case.model.parameters()]
    assert all(p.grad is None for p in case.model.parameters())
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_cuda_device():
    case = CASES["tied transformer"]()
    exact = dense_hessian(case)
    H = fc.torch.Hessian(case.model.cuda(), case.loss, case.data)
    assert H.device.type == "cuda"
    v = torch.randn(H.shape[0], 2).double()
    close((H @ v.cuda()).cpu(), exact @ v)
    top = fc.eigsh(H, 2)
    assert top.values[0] == pytest.approx(float(torch.linalg.eigvalsh(exact)[-1]), rel=1e-6)


def test_functional_losses_and_lists_of_batches():
    case = CASES["tanh"]()
    H = fc.torch.Hessian(case.model, functional.cross_entropy, [case.data])
    close(H.dense(), dense_hessian(case))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the older of the two is deprecated
@pytest.mark.parametrize("normalised", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_weight_normalisation(normalised):
    """Against dense autograd of g·v/‖v‖ written out: torch's own second derivative of it is not even symmetric."""
    torch.manual_seed(2)
    model = nn.Sequential(normalised(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 2)).double()
    x, y = torch.randn(7, 4).double(), torch.randint(2, (7,))
    shapes = [p.shape for p in model.parameters()]

    def loss(theta):
        parts = torch.split(theta, [s.numel() for s in shapes])
        b, g, v, W, c = (part.reshape(s) for part, s in zip(parts, shapes, strict=True))
        z = torch.tanh(x @ (g * v / v.norm(dim=1, keepdim=True)).T + b) @ W.T + c
        return nn.functional.cross_entropy(z, y)

    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert loss(theta) == pytest.approx(nn.functional.cross_entropy(model(x), y).item(), rel=1e-14)
    expected = torch.autograd.functional.hessian(loss, theta).numpy()
    H = fc.torch.Hessian(model, nn.CrossEntropyLoss(), (x, y))
    np.testing.assert_allclose(H.dense(), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
