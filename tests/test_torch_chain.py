"""chain(module): what is read, what is tested, what is refused; shared memory; staleness; sharpness of modules."""

import copy

import numpy as np
import pytest
import torch
from oracles import make_case, make_loss, relative_error
from torch import nn

import flatcore as fc
from flatcore.linear import StaleWeightsError

chain = fc.torch.chain
Residual = fc.torch.Residual


def linear(a, b, bias=True, dtype=torch.float64):
    return nn.Linear(a, b, bias=bias, dtype=dtype)


def agrees(module, found, width=None):
    """The chain's end-to-end matrix does to random inputs what the module does; both sum in float64."""
    width = found.dims[0] if width is None else width
    x = torch.randn(6, width, dtype=torch.float64)
    Phi = torch.as_tensor(found.product())
    homogeneous = torch.cat([x, torch.ones(6, 1, dtype=torch.float64)], 1) if found.has_biases else x
    with torch.no_grad():
        assert relative_error((homogeneous @ Phi.mT).numpy(), module(x).numpy()) <= 1e-12


class Block(nn.Module):
    """A user's block: what it computes stands in its code alone."""

    def __init__(self, how, width=4, out=None):
        super().__init__()
        self.inner = linear(width, width if out is None else out)
        self.how = how

    def forward(self, x):
        return self.how(x, self.inner(x))


# -- what is a chain -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [
        linear(4, 3),
        linear(4, 3, bias=False),
        nn.Sequential(linear(4, 5), linear(5, 2, bias=False)),
        nn.Sequential(nn.Identity(), nn.Sequential(linear(4, 5), nn.Identity()), nn.Dropout(0.5), linear(5, 2)).eval(),
        nn.Sequential(linear(4, 4), nn.Dropout(0.0), Residual(linear(4, 4)), linear(4, 2)),
        nn.Sequential(Residual(nn.Sequential(linear(4, 4, bias=False))), Residual(linear(4, 4))),
        nn.Sequential(Block(lambda x, y: x + y), linear(4, 2)),
        nn.Sequential(Block(lambda x, y: y, 4, 7), linear(7, 2)),
        nn.Sequential(nn.Flatten(), linear(4, 2)),
        nn.ModuleList([nn.Sequential(linear(4, 2))])[0],
    ],
)
def test_the_chain_computes_what_the_module_does(module):
    found = chain(module)
    assert isinstance(found, fc.LinearChain)
    agrees(module, found)
    parameters = list(module.parameters())
    assert found.num_parameters == sum(p.numel() for p in parameters)
    want = torch.cat([p.detach().flatten() for p in parameters]).numpy()
    np.testing.assert_array_equal(found.to_vector(), want)  # the order of parameters()


def test_skip_links_are_seen():
    model = nn.Sequential(Residual(linear(4, 4)), Block(lambda x, y: x + y), Block(lambda x, y: y), linear(4, 2))
    assert chain(model).skip == (True, True, False, False)


def test_inputs_are_flattened_in_front():
    model = nn.Sequential(nn.Flatten(), linear(12, 3))
    found = chain(model)
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    got = np.column_stack([x.flatten(1).numpy(), np.ones(5)]) @ found.product().T
    assert relative_error(got, model(x).detach().numpy()) <= 1e-12


@pytest.mark.parametrize("biases", [False, True])
def test_the_hessian_is_that_of_the_parameters(biases):
    """Against the dense Hessian of the module's own forward pass by autograd (float64: rounding of some 100 terms)."""
    model = nn.Sequential(linear(5, 4, biases), Residual(linear(4, 4, biases)), linear(4, 2, biases))
    X, Y = torch.randn(9, 5, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]

    def value(theta):
        parts = theta.split([s.numel() for s in shapes])
        state = {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        return nn.functional.mse_loss(torch.func.functional_call(model, state, X), Y)

    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    want = torch.autograd.functional.hessian(value, theta).numpy()
    H = fc.Hessian(chain(model), fc.QuadraticLoss(X, Y, "mean"))
    assert relative_error(H.dense(), want) <= 1e-10
    assert fc.torch.sharpness(model, fc.QuadraticLoss(X, Y, "mean")).values[0] == pytest.approx(
        np.linalg.eigvalsh(want)[-1], rel=1e-6
    )


# -- memory ----------------------------------------------------------------------------------------------------


def test_weights_are_shared_and_training_is_seen():
    model = nn.Sequential(linear(5, 4), Residual(linear(4, 4)), linear(4, 2))
    found = chain(model)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    for W, b, layer in zip(found.weights, found.biases, layers, strict=True):
        assert np.shares_memory(W, layer.weight.detach().numpy())
        assert np.shares_memory(b, layer.bias.detach().numpy())
        assert not W.flags.writeable
    X, Y = torch.randn(9, 5, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64)
    loss = fc.QuadraticLoss(X, Y, "mean")
    H = fc.Hessian(found, loss)
    before = H.value
    assert before == pytest.approx(float(nn.functional.mse_loss(model(X), Y).detach()), rel=1e-12)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    nn.functional.mse_loss(model(X), Y).backward()
    optimizer.step()
    with pytest.raises(StaleWeightsError):
        H @ np.ones(H.shape[0])
    fresh = fc.Hessian(found, loss)  # the chain itself goes on
    assert fresh.value == pytest.approx(float(nn.functional.mse_loss(model(X), Y).detach()), rel=1e-12)
    assert fresh.value < before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    """Read as stored: products are those of the stored numbers in float32 (rounding 6e-8 a step)."""
    model = nn.Sequential(linear(6, 5, dtype=dtype), linear(5, 3, dtype=dtype))
    found = chain(model)
    assert found.dtype == np.float32
    assert np.shares_memory(found.weights[0].view(np.int16), model[0].weight.detach().view(torch.int16).numpy())
    wide = chain(copy.deepcopy(model).double())
    X, Y = torch.randn(8, 6), torch.randn(8, 3)
    H, want = (fc.Hessian(c, fc.QuadraticLoss(X, Y)) for c in (found, wide))
    assert relative_error(H.dense(), want.dense()) <= 1e-10
    v = np.ones(H.shape[0], np.float32)
    assert relative_error(H @ v, want @ v) <= 1e-4


def test_the_generator_of_the_process_is_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    block = Block(lambda x, y: x + nn.functional.dropout(y, 0.5, training=True))
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="neither"):
        chain(block)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(state, before)  # initialising the block drew numbers: the test would see a change


# -- what is refused -----------------------------------------------------------------------------------------

INSTEAD = r"flatcore\.torch\.Hessian"
SHARED = linear(4, 4)
TIED = [linear(4, 4), linear(4, 4)]
TIED[1].weight = TIED[0].weight


def hooked():
    layer = linear(4, 4)
    layer.register_forward_hook(lambda module, args, out: out)
    return layer


def replaced(module):
    """The module with another forward on the instance."""
    original = module.forward
    module.forward = lambda x: 3 * original(x)
    return module


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = linear(4, 4), linear(4, 4)

    def forward(self, x):
        return self.b(self.a(x))


class Scaled(Block):
    def __init__(self):
        super().__init__(lambda x, y: x + y)
        self.gain = nn.Parameter(torch.ones(()))


class OwnLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x).clamp(-5, 5)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Sequential(linear(4, 4), nn.ReLU(), linear(4, 2)), rf"^1 \(ReLU\) is not linear.*{INSTEAD}"),
        (nn.Sequential(linear(4, 4), nn.Sequential(nn.LayerNorm(4))), rf"^1\.0 \(LayerNorm\).*{INSTEAD}"),
        (nn.Sequential(linear(4, 4), nn.Dropout(0.1)), r"^1 \(Dropout\) is switched on; call eval\(\)"),
        (nn.Sequential(linear(4, 4), nn.Flatten(), linear(4, 2)), r"^1 \(Flatten\) reshapes between layers"),
        (nn.Sequential(nn.Flatten(0), linear(4, 2)), r"^0 \(Flatten\)"),
        (Two(), rf"^module \(Two\) holds 2 Linear layers.*nn\.Sequential.*{INSTEAD}"),
        (Scaled(), rf"parameters beside its Linear layer \(gain\).*{INSTEAD}"),
        (Block(lambda x, y: x + y.relu()), r"computes neither Linear\(x\) nor x \+ Linear\(x\)"),
        (Block(lambda x, y: x + y.clamp(-40, 40)), "neither"),  # seen by the largest inputs alone
        (Block(lambda x, y: x + torch.sin(y / 1e2) * 1e2), "neither"),
        (Block(lambda x, y: 2 * x + y), "neither"),
        (Block(lambda x, y: x + 1.0001 * y), "neither"),
        (Block(lambda x, y: x - y), "neither"),
        (Block(lambda x, y: y.sum()), "neither"),
        (Block(lambda x, y: x @ y), "could not be run on inputs of shape"),
        (OwnLinear(4, 4), "neither"),
        (Residual(nn.Sequential(linear(4, 3), linear(3, 4))), rf"holds 2 Linear layers.*{INSTEAD}"),
        (Residual(Residual(linear(4, 4))), "holds a residual block"),
        (Residual(linear(4, 3)), r"shape \(3, 4\); a residual block needs a square one"),
        (nn.Sequential(SHARED, SHARED), rf"^1\.weight is the same tensor as 0\.weight.*separately.*{INSTEAD}"),
        (nn.Sequential(*TIED), r"^1\.weight is the same tensor as 0\.weight"),
        (nn.Sequential(linear(4, 3), linear(4, 2)), "1 takes 4 inputs but 0 gives 3"),
        (nn.Sequential(), "no Linear layer"),
        (hooked(), "has forward hooks"),
        (nn.Sequential(linear(4, 4), replaced(linear(4, 4))), rf"^1 \(Linear\) has a forward of its own.*{INSTEAD}"),
        (nn.Sequential(replaced(nn.Sequential(linear(4, 4)))), r"^0 \(Sequential\) has a forward of its own"),
        (nn.Sequential(replaced(nn.Identity()), linear(4, 4)), r"^0 \(Identity\) has a forward of its own"),
        (nn.Sequential(replaced(nn.Flatten()), linear(4, 4)), r"^0 \(Flatten\) has a forward of its own"),
        (nn.Sequential(replaced(nn.Dropout(0.0)), linear(4, 4)), r"^0 \(Dropout\) has a forward of its own"),
        (replaced(Residual(linear(4, 4))), r"^module \(Residual\) has a forward of its own"),
        (Residual(replaced(linear(4, 4))), r"^module \(Linear\) has a forward of its own"),
        (nn.utils.parametrizations.weight_norm(linear(4, 4)), "is parametrized"),
        (nn.LazyLinear(3), "has no weights yet"),
        (torch.zeros(3), "module is a Tensor; expected a torch.nn.Module"),
        (linear(4, 4).to("meta"), "lives on meta; it has no data"),
    ],
)
def test_refused(module, message):
    with pytest.raises(ValueError, match=message):
        chain(module)


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(
    "how", [torch.relu, lambda y: y.clamp(-1e5, 1e5), lambda y: nn.functional.softshrink(y, 1e-5), torch.zeros_like]
)
@pytest.mark.parametrize(("weight", "bias"), [(0.0, 0.0), (0.0, 1e6), (1.0, 1e6), (1e-9, 0.0)])
def test_weights_that_hide_a_nonlinearity(how, skip, weight, bias):
    """Zero weights make any f(Wx) with f(0) = 0 vanish, large biases keep relu(Wx + b) on one side of its kink."""
    block = Block(lambda x, y: x + how(y) if skip else how(y))
    with torch.no_grad():
        block.inner.weight.mul_(weight)
        block.inner.bias.fill_(bias)
    before = copy.deepcopy(block.state_dict())
    with pytest.raises(ValueError, match="neither"):
        chain(block)
    linear_block = Block(lambda x, y: x + y if skip else y)
    linear_block.load_state_dict(before)
    assert chain(linear_block).skip == (skip,)
    for name, p in linear_block.state_dict().items():
        assert torch.equal(p, before[name])  # the test's weights went into a copy


def test_a_block_in_training_mode_is_told_so():
    class Dropping(Block):
        def __init__(self):
            super().__init__(lambda x, y: x + nn.functional.dropout(y, 0.5, self.training))

    block = Dropping()
    with pytest.raises(ValueError, match="in training mode"):
        chain(block)
    assert chain(block.eval()).skip == (True,)


def test_several_devices():
    with pytest.raises(ValueError, match="1 lives on meta and 0 on cpu"):
        chain(nn.Sequential(linear(4, 3), linear(3, 2).to("meta")))


LOSS = fc.QuadraticLoss(np.eye(4), np.eye(4))


@pytest.mark.parametrize(
    "ask",
    [
        lambda chain: fc.Hessian(chain, LOSS),
        lambda chain: fc.sharpness(chain, LOSS),
        lambda chain: fc.flattest_sharpness(chain, LOSS),
        fc.balance,
        fc.coupling,
        fc.gains,
    ],
)
def test_what_is_no_linear_chain_is_told_where_to_go(ask):
    model = linear(4, 4)
    with pytest.raises(ValueError, match=r"chain is a Linear; expected a LinearChain .*flatcore\.torch\.chain"):
        ask(model)
    device_chain = fc.torch.DeviceChain([model.weight])
    with pytest.raises(ValueError, match=r"chain is a DeviceChain.*chain\.hessian\(loss\).*chain\.cpu\(\)"):
        ask(device_chain)
    with pytest.raises(ValueError, match=r"chain is a int; expected a LinearChain$"):
        ask(3)


def test_wrapped_models():
    model = nn.Sequential(linear(4, 3), linear(3, 2))
    assert chain(nn.DataParallel(model)).dims == (4, 3, 2)


# -- other entrances --------------------------------------------------------------------------------------------


def test_sharpness_of_a_module_and_of_its_chain():
    case = make_case((6, 8, 3), 0, True)
    loss = make_loss("labels-mean", case, 20).loss
    model = nn.Sequential(linear(6, 8), linear(8, 3))
    got = fc.torch.sharpness(model, loss, 2, tol=1e-10)
    np.testing.assert_array_equal(got.values, fc.sharpness(chain(model), loss, 2, tol=1e-10).values)
