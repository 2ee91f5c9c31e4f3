"""jacobian_path beside dense Jacobians by torch.autograd.functional, and beside the gains of linear chains."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import flatcore as fc
from flatcore.torch._jacobian import jacobian_path


def seeded(build, dtype=torch.float64):
    torch.manual_seed(0)
    return build().to(dtype).eval()


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(width), nn.Linear(width, 9), nn.Linear(9, width)

    def forward(self, x):
        return x + self.outer(torch.tanh(self.inner(self.norm(x))))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return x + self.attention(x, x, x, need_weights=False)[0]


# Network, shape of one input, and the indices of children whose outputs are the default cut.
NETWORKS = {
    "tanh": (lambda: nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 6), nn.Tanh(), nn.Linear(6, 3)),
             (5,), [1, 3, 4]),
    "relu in place": (lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 7), nn.ReLU(inplace=True),
                                            nn.Linear(7, 8)), (5,), [2, 3]),
    "wide output": (lambda: nn.Sequential(nn.Linear(3, 7), nn.GELU(), nn.Linear(7, 9), nn.Softmax(-1)), (3,), [1, 3]),
    "residual": (lambda: nn.Sequential(nn.Linear(4, 6), Residual(6), Residual(6), nn.LayerNorm(6)), (4,), [0, 1, 2, 3]),
    "convolutions": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(),
                                           nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                                           nn.Linear(4, 3)), (2, 6, 5), [0, 2, 6, 7]),
    "attention": (lambda: nn.Sequential(Attention(), nn.Flatten(), nn.Linear(12, 5)), (3, 4), [1, 2]),
    "depth 1": (lambda: nn.Sequential(nn.Linear(4, 3)), (4,), [0]),
}  # fmt: skip


def dense(function, x):
    J = torch.autograd.functional.jacobian(function, x)
    return J.reshape(-1, x.numel()).numpy()


def dense_segments(model, x, ends):
    """Jacobians of the parts of a Sequential at one input."""
    out, start = [], 0
    for end in ends:
        part = model[start : end + 1]
        out.append(dense(lambda t, part=part: part(t.clone()), x))
        with torch.no_grad():
            x = part(x.clone())
        start = end + 1
    return out


@pytest.mark.parametrize("name", NETWORKS)
def test_against_dense_jacobians(name):
    """eigsh leaves ‖JᵀJv − σ²v‖ ≤ 1e-6 σ²: σ is right to 1e-12, vectors and what hangs on them to some 1e-5."""
    build, shape, ends = NETWORKS[name]
    model = seeded(build)
    inputs = torch.randn(3, *shape, dtype=torch.float64)
    path = jacobian_path(model, inputs, k=2)
    assert path.layers == tuple(str(end) for end in ends)
    for i in range(3):
        x = inputs[i : i + 1]
        J = dense(lambda t: model(t.clone()), x)
        s = np.linalg.svd(J, compute_uv=False)
        np.testing.assert_allclose(path.sigma[i, 0], s[0], rtol=1e-10)
        np.testing.assert_allclose(path.sigma[i], s[:2], rtol=1e-6, atol=1e-10 * s[0])
        u, v = path.left[i], path.right[i]
        np.testing.assert_allclose(J @ v.T, u.T * path.sigma[i], atol=1e-10 * s[0])
        np.testing.assert_allclose(np.linalg.norm(J.T @ u.T - v.T * path.sigma[i], axis=0), path.residuals[i],
                                   atol=1e-10 * s[0])  # fmt: skip
        assert path.residuals[i, 0] <= 1e-6 * s[0]
        z, gains, couplings = v[0], [], []
        for J_j in dense_segments(model, x, ends):
            image = J_j @ z
            gains.append(np.linalg.norm(image))
            image /= gains[-1]
            couplings.append(np.linalg.norm(J_j.T @ image - gains[-1] * z) / gains[-1])
            z = image
        # The same v on both sides: what is left is the rounding of a few products.
        np.testing.assert_allclose(path.gains[i], gains, rtol=1e-10)
        np.testing.assert_allclose(path.coupling_residuals[i], couplings, atol=1e-10)
        np.testing.assert_allclose(np.prod(path.gains[i]), s[0], rtol=1e-9)
        assert path.reference[i] == pytest.approx(s[0] ** (1 / len(ends)), rel=1e-9)
        assert path.cut_error[i] < 1e-10
    assert path.certified
    np.testing.assert_allclose(path.mean_gains, path.gains.mean(axis=0))
    np.testing.assert_allclose(path.mean_coupling_residuals, path.coupling_residuals.mean(axis=0))
    assert path.mean_sigma == pytest.approx(path.sigma[:, 0].mean())


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-5), (torch.float32, 1e-2)])
def test_linear_networks_have_the_gains_of_their_chain(dtype, rtol):
    """Coupling residuals are linear in the error of v, which is the solver's tolerance over the gap of σ²."""
    dims = (6, 9, 8, 4)
    model = seeded(lambda: nn.Sequential(*[nn.Linear(a, b) for a, b in pairwise(dims)]), dtype)
    chain = fc.LinearChain([layer.weight.detach().double().numpy() for layer in model])
    expected = fc.gains(chain)
    path = jacobian_path(model, torch.randn(2, 6, dtype=dtype))
    for i in range(2):  # the Jacobian is the same everywhere
        assert path.sigma[i, 0] == pytest.approx(expected.sigma, rel=rtol)
        assert path.reference[i] == pytest.approx(expected.reference, rel=rtol)
        np.testing.assert_allclose(path.gains[i], expected.gains, rtol=rtol)
        np.testing.assert_allclose(path.coupling_residuals[i], expected.residuals, rtol=rtol)


def test_inputs_of_a_batch_are_taken_by_themselves():
    model = seeded(NETWORKS["tanh"][0])
    inputs = torch.randn(4, 5, dtype=torch.float64)
    whole = jacobian_path(model, inputs)
    for i in range(4):
        alone = jacobian_path(model, inputs[i : i + 1])
        np.testing.assert_array_equal(alone.gains[0], whole.gains[i])
        np.testing.assert_array_equal(alone.right[0], whole.right[i])


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.block, self.leave = nn.Linear(4, 6), Residual(6), nn.Linear(6, 3)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        return self.leave(torch.relu(self.block(self.enter(x)))).square()


def test_named_layers_in_the_order_in_which_they_run_and_what_is_above_them():
    model = seeded(Named)
    x = torch.randn(1, 4, dtype=torch.float64)
    path = jacobian_path(model, x, ["block", "enter"])
    assert path.layers == ("enter", "block", "(output)")
    np.testing.assert_allclose(np.prod(path.gains[0]), np.linalg.norm(dense(model, x), 2), rtol=1e-9)
    above = jacobian_path(model, x, ["leave"])
    assert above.layers == ("leave", "(output)")
    assert jacobian_path(model, x, ()).layers == ("(output)",)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(self.layer(x))


class Detached(nn.Module):
    def forward(self, x):
        return x.detach() * 2


class Both(nn.Module):
    def forward(self, x):
        return x, 2 * x


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Both()

    def forward(self, x):
        return self.layer(x)


class Noise(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


class TwoInputs(nn.Module):
    def forward(self, x, mask):
        return x * mask


def shared_activation():
    act = nn.Tanh()
    return nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 2), act)


def vector(*shape):
    return torch.ones(1, *shape, dtype=torch.float64)


@pytest.mark.parametrize(
    ("build", "x", "options", "message"),
    [
        (
            Named,
            vector(4),
            {},
            "layers is None and Named is no Sequential with children; expected names out of enter, ",
        ),
        (Named, vector(4), {"layers": ["enter", "middle"]}, "layers names 'middle', which the model has not; expected"),
        (Named, vector(4), {"layers": ["enter", "enter"]}, "layers names 'enter' twice"),
        (Named, vector(4), {"layers": ["unused"]}, "layers unused are not called"),
        (Named, vector(4), {"layers": ["block.inner", "leave"]}, "information passes around the layers block.inner"),
        (Twice, vector(3), {"layers": ["layer"]}, "layer layer is called more than once"),
        (Pair, vector(3), {"layers": ["layer"]}, "layer layer returns tuple; expected a tensor"),
        (Pair, vector(3), {"layers": []}, "model returns a tuple; expected a tensor"),
        (Detached, vector(3), {"layers": []}, "does not depend on its input"),
        (
            TwoInputs,
            vector(3),
            {"layers": []},
            r"inputs alone \(missing a required argument: 'mask'\); expected a model of",
        ),
        (shared_activation, vector(3), {}, r"layers 1 and 3 are one module \(Tanh\)"),
        (shared_activation, vector(3), {"layers": ["0", "3"]}, "layer 3 is called more than once"),
        (Noise, vector(3), {"layers": []}, "the forward pass draws random numbers: outputs are random"),
        (
            lambda: nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train(),
            vector(3),
            {},
            "dropout is active in 1 .* outputs",
        ),
        (lambda: nn.Sequential(nn.BatchNorm1d(3)).train(), vector(3), {}, "update running statistics"),
        (lambda: nn.BatchNorm1d(3, track_running_stats=False), vector(3), {"layers": []}, "normalises over the batch"),
        (lambda: nn.Sequential(nn.Linear(3, 3)), vector(3), {"k": 0}, "k is 0"),
        (lambda: nn.Sequential(nn.Linear(3, 3)), vector(3), {"k": 4}, "k is 4"),
        (lambda: nn.Sequential(nn.Linear(3, 3)), vector(3)[0], {}, r"inputs has shape \(3,\); expected \(inputs, …\)"),
        (lambda: nn.Sequential(nn.Linear(3, 3)), vector(3).float(), {}, "expected the model's torch.float64 on cpu"),
        (lambda: nn.Sequential(nn.Linear(3, 3)), vector(3).half(), {}, "torch.float16; expected float32 or float64$"),
        (lambda: nn.Sequential(nn.Linear(3, 3)), vector(3).long(), {}, "for tokens pass their embeddings"),
        (lambda: nn.Sequential(nn.Linear(3, 3)), vector(3) / 0, {}, "inputs holds NaN or Inf"),
        (lambda: nn.Sequential(nn.Linear(3, 3)), np.ones((1, 3)), {}, "inputs is a ndarray; expected a tensor"),
    ],
)
def test_bad_arguments(build, x, options, message):
    model = build().double()
    if not message.startswith(("dropout", "update")):
        model.eval()
    with pytest.raises(ValueError, match=message):
        jacobian_path(model, x, **options)


def test_a_function_is_no_model():
    with pytest.raises(ValueError, match=r"model is a function; expected a torch\.nn\.Module"):
        jacobian_path(lambda x: x, vector(3))


def test_half_precision_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"parameters are torch\.bfloat16; .* \(model\.float\(\)\)"):
        jacobian_path(nn.Sequential(nn.Linear(3, 3)).bfloat16(), torch.ones(1, 3))


def test_a_dead_network_has_no_path():
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)))
    nn.init.constant_(model[0].bias, -100.0)
    path = jacobian_path(model, torch.randn(2, 3, dtype=torch.float64))
    assert np.all(path.sigma == 0)
    assert np.isnan(path.gains).all()
    assert "at 2 inputs σ is 0" in path.status
    assert path.to_dict()["gains"] == [[None, None], [None, None]]


def test_a_gain_below_the_precision_s_range_is_not_called_zero():
    layers = [nn.Linear(2, 2, bias=False) for _ in range(4)]
    for layer in layers:
        layer.weight.data = 1e-15 * torch.eye(2)
    path = jacobian_path(nn.Sequential(*layers), torch.ones(1, 2))
    assert path.sigma == 0
    assert "at 1 inputs σ is 0, or too small for float32: no path" in path.status


def test_the_model_and_the_random_numbers_are_left_alone():
    model = seeded(NETWORKS["convolutions"][0])
    before = {name: (tensor.clone(), tensor._version) for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    inputs = torch.ones(1, 2, 6, 5, dtype=torch.float64)
    jacobian_path(model, inputs)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name][0])
        assert tensor._version == before[name][1]
    assert all(p.grad is None for p in model.parameters())
    assert all(not module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="information passes around"):
        jacobian_path(seeded(Named), vector(4), ["block.inner", "leave"])


@pytest.mark.parametrize("spectral_norm", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_spectral_norm_in_training_is_taken_as_stored_and_left_alone(spectral_norm):
    model = seeded(lambda: nn.Sequential(spectral_norm(nn.Linear(4, 6)), nn.Tanh(), spectral_norm(nn.Linear(6, 3))))
    before = {name: tensor.clone() for name, tensor in model.train().state_dict().items()}
    modes = [module.training for module in model.modules()]
    inputs = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 4)
    path = jacobian_path(model, inputs)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval()
    for x, sigma in zip(inputs, path.sigma[:, 0], strict=True):
        exact = np.linalg.norm(dense(model, x[None]), 2)
        np.testing.assert_allclose(sigma, exact, rtol=1e-8)  # eigsh in float64


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        return x.tanh()


def test_a_model_that_changes_its_buffers_is_refused_by_name_and_gets_them_back():
    model = nn.Sequential(nn.Linear(3, 3), Counts()).double()
    with pytest.raises(ValueError, match=r"the forward pass changes 1\.calls"):
        jacobian_path(model, vector(3))
    assert model[1].calls.item() == 0


class DetachedBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g.detach()


class OnceBackward(DetachedBackward):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * g


class Custom(nn.Module):
    def __init__(self, function, skip):
        super().__init__()
        self.function, self.skip = function, skip

    def forward(self, x):
        return self.function.apply(x) + self.skip * x


@pytest.mark.parametrize("function", [DetachedBackward, OnceBackward])
@pytest.mark.parametrize("skip", [0.0, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operators_that_are_differentiable_once_are_refused(function, skip, dtype):
    model = seeded(lambda: nn.Sequential(nn.Linear(5, 5), Custom(function, skip), nn.Linear(5, 3)), dtype)
    with pytest.raises(ValueError, match="no second derivative"):
        jacobian_path(model, torch.ones(1, 5, dtype=dtype))


def test_autocast_around_the_call_makes_no_difference():
    model = seeded(NETWORKS["tanh"][0], torch.float32)
    inputs = torch.linspace(-1, 1, 5).reshape(1, 5)
    path = jacobian_path(model, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_array_equal(jacobian_path(model, inputs).gains, path.gains)


def test_operators_in_place_leave_the_inputs_alone():
    inputs = torch.tensor([[-1.0, 2.0]])
    jacobian_path(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 2)), inputs)
    assert inputs.tolist() == [[-1.0, 2.0]]


def test_weights_of_nan_are_no_change_of_the_weights():
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    net[0].weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        jacobian_path(net, torch.ones(1, 3))


def test_hooks_on_gradients_neither_run_nor_count():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double(), torch.randn(2, 4, dtype=torch.float64)
    runs = []

    def doubled(module, given, wanted):
        runs.append(module)
        return tuple(None if g is None else 2.0 * g for g in given)

    handle = net[0].register_full_backward_hook(doubled)
    path = jacobian_path(net, x)
    assert runs == []
    handle.remove()
    for z, sigma in zip(x, path.sigma[:, 0], strict=True):
        assert sigma == pytest.approx(np.linalg.norm(torch.func.jacrev(net)(z).detach(), 2), rel=1e-9)


def test_hooks_are_removed_after_a_failure():
    model = seeded(Twice)
    with pytest.raises(ValueError, match="more than once"):
        jacobian_path(model, vector(3), ["layer"])
    assert not model.layer._forward_hooks


def test_works_without_gradients_recorded_and_through_wrappers():
    model = seeded(NETWORKS["tanh"][0])
    inputs = torch.randn(1, 5, dtype=torch.float64)
    with torch.no_grad():
        wrapped = jacobian_path(nn.DataParallel(model), inputs)
    np.testing.assert_array_equal(wrapped.gains, jacobian_path(model, inputs).gains)


def test_record():
    model = seeded(NETWORKS["tanh"][0])
    path = jacobian_path(model, torch.randn(2, 5, dtype=torch.float64), k=2)
    plain = json.loads(json.dumps(path.to_dict(), allow_nan=False))
    np.testing.assert_allclose(plain["sigma"], path.sigma)
    assert "left" not in plain
    assert "Jacobian path at 2 inputs" in path.summary()
    assert "mean gain" in path._repr_html_()
    assert repr(path).startswith("JacobianPath(2 inputs, σ=[")
    assert path.products > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device():
    model = seeded(NETWORKS["convolutions"][0])
    inputs = torch.randn(1, 2, 6, 5, dtype=torch.float64)
    host = jacobian_path(model, inputs)
    np.testing.assert_allclose(jacobian_path(model.cuda(), inputs.cuda()).gains, host.gains, rtol=1e-6)
