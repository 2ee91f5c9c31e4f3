"""Following eigenpairs, and the monitor: what it measures, and that a training does not notice it."""

import copy
import csv
import itertools
import random
import sys
import types

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import flatcore as fc  # noqa: E402
from flatcore.torch._follow import Follower  # noqa: E402
from flatcore.torch._monitor import FlatnessMonitor  # noqa: E402
from flatcore.torch._stability import stability_limit  # noqa: E402

CROSS_ENTROPY = nn.CrossEntropyLoss()


def classes(n, d=20, seed=0):
    """Ten Gaussian classes with a covariance of rank three beside the noise: learnable, not in one step."""
    generator = torch.Generator().manual_seed(seed)
    centres, shared = torch.randn(10, d, generator=generator), torch.randn(3, d, generator=generator)
    y = torch.randint(10, (n,), generator=generator)
    noise = torch.randn(n, 3, generator=generator) @ shared + 0.5 * torch.randn(n, d, generator=generator)
    return centres[y] + noise, y


def network(width=32, d=20, *, extras=False, dtype=torch.float32):
    """A tanh network; with extras also batch normalisation and dropout."""
    torch.manual_seed(1)
    layers = [nn.Linear(d, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10)]
    if extras:
        layers[1:2] = [nn.BatchNorm1d(width), nn.Tanh(), nn.Dropout(0.3)]
    return nn.Sequential(*layers).to(dtype)


def train(model, optimizer, data, steps, after=lambda step: None):
    """Steps on batches drawn with torch's global generator; Python's and NumPy's are used as well."""
    x, y = data
    for step in range(1, steps + 1):
        batch = torch.randint(len(x), (32,))
        scale = 1.0 + 0.01 * random.random() + 0.01 * np.random.random()  # noqa: NPY002
        optimizer.zero_grad()
        CROSS_ENTROPY(model(x[batch] * scale), y[batch]).backward()
        optimizer.step()
        after(step)


def dense_eigenvalues(model, loss_fn, data):
    """All eigenvalues, descending, of torch's own dense Hessian: no code shared with the library."""
    params = [p for p in model.parameters() if p.requires_grad]
    gradient = torch.autograd.grad(loss_fn(model(data[0]), data[1]), params, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    rows = []
    for entry in flat:
        row = torch.autograd.grad(entry, params, retain_graph=True)
        rows.append(torch.cat([h.reshape(-1) for h in row]))
    return np.linalg.eigvalsh(torch.stack(rows).double().numpy())[::-1]


def same(a, b):
    """Bits of nested states."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return a == b


def seed_generators():
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002


def generators():
    return torch.get_rng_state(), random.getstate(), np.random.get_state()  # noqa: NPY002


# -- following ---------------------------------------------------------------------------------------------------------


def drifting(P=120, seed=0):
    """Symmetric matrices with isolated large eigenvalues; each is the last one rotated a little and scaled."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([[10.0, 8.0, 6.0, 4.0], rng.uniform(-0.3, 0.3, P - 4)])
    Q = np.linalg.qr(rng.standard_normal((P, P)))[0]
    while True:
        yield (Q * values) @ Q.T
        skew = rng.standard_normal((P, P)) * 0.003
        Q = np.linalg.qr(Q + (skew - skew.T) @ Q)[0]
        values = values * 1.05


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("tol", [1e-2, 1e-5])
def test_followed_pairs_are_eigenpairs(k, tol):
    """θ is within the residual of an eigenvalue, and these are the top ones: their gaps are 20 times the rotation."""
    matrices = drifting()
    follower = Follower(k, tol=tol)
    assert follower.start(next(matrices)).converged
    for _ in range(6):
        A = next(matrices)
        found = follower.follow(A)
        expected = np.linalg.eigvalsh(A)[::-1][:k]
        assert found.converged
        assert (found.residuals <= tol * expected[0] * (1 + 1e-9)).all()
        assert (np.abs(found.values - expected) <= found.residuals + 1e-12 * expected[0]).all()
        X = follower.columns
        assert np.abs(X.T @ X - np.eye(k)).max() < 1e-10  # combinations of orthonormal rows, in float64
        assert (
            np.linalg.norm(A @ X - X * found.values, axis=0).max() <= 3 * tol * expected[0]
        )  # the model's own vectors


def test_a_matrix_that_is_only_scaled_costs_one_product():
    """The model is scaled as a whole: eigenvectors that stay need nothing but the product that verifies them."""
    A = next(drifting())
    follower = Follower(1, tol=1e-3)
    follower.start(A)
    for factor in (0.9, 3.0, 2.8):
        found = follower.follow(A * factor)
        assert found.products == 1
        assert abs(found.values[0] - 10.0 * factor) <= 1e-3 * 10.0 * factor


def test_what_is_lost_says_so():
    """A matrix that has nothing to do with the model's does not converge in the products allowed."""
    follower = Follower(1, tol=1e-9, keep=4)
    follower.start(next(drifting(seed=0)))
    found = follower.follow(np.diag(np.linspace(0.0, 1.0, 120) ** 0.2))
    assert not found.converged
    assert found.products == follower.most


@pytest.mark.parametrize("top", [8.0, 3.0, 0.1])
def test_a_top_that_falls_below_what_the_model_holds_is_left(top):
    """The second eigenvalue stays and is the largest now: the model remembers it, unscaled."""
    A = np.diag([10.0, 9.0, *np.linspace(0.0, 1.0, 60)])
    follower = Follower(1, tol=1e-6)
    follower.start(A)
    A[0, 0] = top
    assert follower.follow(A).values[0] == pytest.approx(9.0, rel=1e-5)


@pytest.mark.parametrize("P", [1, 2, 5])
def test_tiny_matrices(P):
    rng = np.random.default_rng(P)
    A = rng.standard_normal((P, P))
    A = A + A.T
    follower = Follower(1, tol=1e-8)
    assert follower.start(A).converged
    A = A + 0.01 * np.eye(P)
    assert abs(follower.follow(A).values[0] - np.linalg.eigvalsh(A)[-1]) < 1e-7 * np.abs(A).max()


def test_device_vectors_follow_as_host_vectors_do():
    """The same numbers through tensors: the code path of other devices, on the CPU."""
    from flatcore.torch._vectors import DeviceVectors

    class OnDevice:
        dtype = np.dtype(np.float64)

        def __init__(self, A):
            self.A, self.shape = torch.from_numpy(A), A.shape

        def block_vectors(self, dtype):
            return DeviceVectors(len(self.A), dtype, "cpu")

        def rows_product(self, rows):
            return rows @ self.A

    matrices = drifting()
    A, B = next(matrices), next(matrices)
    host, device = Follower(2, tol=1e-8), Follower(2, tol=1e-8)
    host.start(A)
    device.start(OnDevice(A))
    found, other = host.follow(B), device.follow(OnDevice(B))
    assert isinstance(device.columns, torch.Tensor)
    np.testing.assert_allclose(found.values, other.values, rtol=1e-10)  # both exact to tol² over the gap, and rounding


def test_follower_refuses():
    with pytest.raises(ValueError, match="keep is 1; expected at least 2"):
        Follower(1, keep=1)
    with pytest.raises(ValueError, match="nothing to follow"):
        Follower(1).follow(np.eye(3))
    follower = Follower(1)
    follower.start(np.eye(3))
    with pytest.raises(ValueError, match="operator has 4 rows; expected 3"):
        follower.follow(np.eye(4))
    with pytest.raises(ValueError, match="NaN or Inf"):
        follower.follow(fc_operator(np.full((3, 3), np.nan)))


def fc_operator(A):
    """A matrix behind @, so that its entries are not looked at."""

    class Behind:
        shape, dtype = A.shape, A.dtype

        def __matmul__(self, V):
            return A @ V

    return Behind()


# -- what is measured --------------------------------------------------------------------------------------------------


def test_rows_hold_the_sharpness_within_the_residual():
    """Against the dense Hessian in float64: |θ − λ_1| ≤ ‖r‖ for a certified row, and for followed ones here too."""
    data = classes(64, d=6)
    data = data[0].double(), data[1]
    model = network(6, d=6, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    monitor = FlatnessMonitor(model, CROSS_ENTROPY, data, every=5, k=2, optimizer=optimizer, certify_every=4)
    exact = []

    def after(step):
        if monitor.step() is not None:
            exact.append(dense_eigenvalues(model, CROSS_ENTROPY, data)[:2])

    train(model, optimizer, data, 40, after)
    assert [row["step"] for row in monitor.rows] == list(range(5, 41, 5))
    assert [row["status"] for row in monitor.rows] == ["certified", *["followed"] * 3] * 2
    for row, (first, second) in zip(monitor.rows, exact, strict=True):
        assert row["residual"] <= 1e-2
        error = max(abs(row["sharpness"] - first), abs(row["sharpness_2"] - second))
        assert error <= row["residual"] * first + 1e-9 * first
    assert monitor.rows[-1]["loss"] == pytest.approx(CROSS_ENTROPY(model(data[0]), data[1]).item(), rel=1e-12)
    assert set(monitor.history) == set(monitor.columns)
    np.testing.assert_array_equal(monitor.history["limit"], 40.0)
    np.testing.assert_allclose(monitor.history["ratio"], monitor.history["sharpness"] / 40.0)


def test_coupling_and_balance_are_those_of_the_layers():
    """Against NumPy's full decompositions; vectors sought to 1e-2·σ_1 leave overlaps of some per cent."""
    model, data = network(12), classes(64)
    with torch.no_grad():  # isolated singular values: what is compared is well conditioned
        for layer in model[0::2]:
            layer.weight += torch.outer(torch.randn(layer.out_features), torch.randn(layer.in_features))
    row = FlatnessMonitor(model, CROSS_ENTROPY, data, coupling=1).measure()
    weights = [(layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()) for layer in model[0::2]]
    ratios, gaps = [], []
    for (W, b), (V, _) in itertools.pairwise(weights):
        overlap = abs(np.linalg.svd(W)[0][:, 0] @ np.linalg.svd(V)[2][0])
        ratios.append(overlap / fc.weights.overlap_chance(len(W), 1))
        X, Y = V.T @ V, W @ W.T + np.outer(b, b)
        gaps.append(np.linalg.norm(X - Y) / np.hypot(np.linalg.norm(X), np.linalg.norm(Y)))
    assert row["balance"] == pytest.approx(max(gaps), rel=1e-5)
    assert row["coupling"] == pytest.approx(max(ratios), rel=0.1)


def test_no_pair_of_layers_is_nan_and_zero_vectors_leave_the_columns_out():
    model, data = nn.Linear(20, 10), classes(64)
    row = FlatnessMonitor(model, CROSS_ENTROPY, data).measure()
    assert np.isnan(row["coupling"])
    assert np.isnan(row["balance"])
    assert "coupling" not in FlatnessMonitor(model, CROSS_ENTROPY, data, coupling=0).measure()


class Bowl(nn.Module):
    """Half of Σ a_i x_i²: curvatures a that can be set."""

    def __init__(self, curvatures):
        super().__init__()
        self.x = nn.Parameter(torch.zeros(len(curvatures), dtype=torch.float64))
        self.a = torch.tensor(curvatures, dtype=torch.float64)

    def forward(self, batch):
        return (0.5 * self.a * self.x.square()).sum().expand(len(batch))


def bowl_loss(outputs, targets):
    return outputs.mean()


def test_a_crossing_that_following_misses_is_noticed_at_certification():
    """One eigenvalue grows from nothing, orthogonal to all that the model holds: followed rows cannot see it."""
    model = Bowl([5.0, 4.0, 3.0, *[0.0] * 200])
    data = torch.zeros(4, 1), torch.zeros(4)
    monitor = FlatnessMonitor(model, bowl_loss, data, k=1, certify_every=3, coupling=0)
    assert monitor.measure()["status"] == "certified"
    model.a[100] = 50.0
    statuses = [monitor.measure() for _ in range(3)]
    assert [row["status"] for row in statuses] == ["followed", "followed", "certified"]
    assert [row["sharpness"] for row in statuses] == pytest.approx([5.0, 5.0, 50.0])
    assert statuses[-1]["followed"] == pytest.approx(5.0)
    assert monitor.measure()["sharpness"] == pytest.approx(50.0)  # and it is followed from there


def test_a_jump_is_certified_at_once():
    """Parameters replaced: following does not converge, so the measurement starts anew and is certified."""
    model, data = network(), classes(256)
    monitor = FlatnessMonitor(model, CROSS_ENTROPY, data, tol=1e-4, certify_every=None, keep=2)
    monitor.measure()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    row = monitor.measure()
    assert row["status"] == "certified"
    expected = fc.eigsh(fc.torch.Hessian(model, CROSS_ENTROPY, data), 1).values[0]
    assert row["sharpness"] == pytest.approx(expected, rel=1e-3)


def test_products_of_a_followed_measurement_are_a_quarter_of_a_cold_start():
    """A small training; cold: plain Lanczos from a random vector, to the same tolerance, without any certificate."""
    x, y = classes(1024 + 4096, d=50)
    model = network(64, d=50)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    data = x[:1024], y[:1024]
    monitor = FlatnessMonitor(model, CROSS_ENTROPY, data, every=20, certify_every=None)
    cold = []

    def after(step):
        if step >= 200 and monitor.step(step) is not None:
            H = fc.torch.Hessian(model, CROSS_ENTROPY, data)
            cold.append(Follower(1, seed=step).start(H).products)

    train(model, optimizer, (x[1024:], y[1024:]), 500, after)
    warm = [row["products"] for row in monitor.rows if row["status"] == "followed"]
    assert len(warm) >= 14
    assert 4 * np.median(warm) <= np.median(cold)


# -- training does not notice ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", [False, True])
def test_training_is_the_same_to_the_bit(loader):
    """Dropout, batch normalisation, momentum, and all generators."""
    data, held = classes(512), classes(128, seed=7)
    source = held
    if loader:
        dataset = torch.utils.data.TensorDataset(*held)
        source = torch.utils.data.DataLoader(dataset, batch_size=48, shuffle=True)
    ends = []
    for monitored in (False, True):
        model = network(extras=True)
        model[0].weight.grad = None
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        seed_generators()
        monitor = FlatnessMonitor(model, CROSS_ENTROPY, source, every=5, optimizer=optimizer, certify_every=3)
        train(model, optimizer, data, 30, monitor.step if monitored else lambda step: None)
        assert len(monitor.rows) == 6 * monitored
        grads = [p.grad for p in model.parameters()]
        flags = [module.training for module in model.modules()]
        ends.append((model.state_dict(), optimizer.state_dict(), grads, flags, generators()))
    assert same(*ends)
    assert all(ends[1][3])


class Augmented(torch.utils.data.Dataset):
    """Samples disturbed by generators of the data set's own, one of them in a list of transforms."""

    def __init__(self):
        self.x, self.y = classes(48)
        self.python, self.torch = random.Random(0), torch.Generator().manual_seed(0)
        self.transforms = [{"numpy": np.random.default_rng(0), "legacy": np.random.RandomState(0)}]

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        drawn = self.python.random(), *(g.standard_normal() for g in self.transforms[0].values())
        return self.x[i] + 0.1 * sum(drawn) + 0.1 * torch.randn(20, generator=self.torch), self.y[i]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_that_lends_its_loader_or_data_set_is_the_same_to_the_bit(workers):
    """In the middle of an epoch: private generators, and workers that the loader keeps."""
    ends = []
    for monitored in (False, True):
        model = network(extras=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        dataset = Augmented()
        options = {"batch_size": 16, "shuffle": True, "num_workers": workers, "persistent_workers": workers > 0}
        loader = torch.utils.data.DataLoader(dataset, **options)
        part = torch.utils.data.DataLoader(torch.utils.data.Subset(dataset, range(20)), batch_size=20)
        lent = loader if workers else part
        monitor = FlatnessMonitor(model, CROSS_ENTROPY, lent, every=2, certify_every=None, coupling=0)
        seed_generators()
        steps = 0
        for _ in range(2):
            for x, y in loader:
                optimizer.zero_grad()
                CROSS_ENTROPY(model(x), y).backward()
                optimizer.step()
                steps += 1
                if monitored:
                    monitor.step()
        assert (steps, len(monitor.rows)) == (6, 3 * monitored)
        ends.append((model.state_dict(), generators()))
    assert same(*ends)


def test_mixed_flags_gradients_and_frozen_parameters_stay():
    model, data = network(extras=True), classes(64)
    model[0].weight.requires_grad_(False)
    model[3].eval()
    CROSS_ENTROPY(model(data[0]), data[1]).backward()
    before = copy.deepcopy(model.state_dict()), [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    flags = [module.training for module in model.modules()]
    needs = [p.requires_grad for p in model.parameters()]
    grads = [p.grad for p in model.parameters()]
    FlatnessMonitor(model, CROSS_ENTROPY, data).measure()
    assert same(before[0], model.state_dict())
    assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
    assert same([g for g in before[1] if g is not None], [g for g in grads if g is not None])
    assert [module.training for module in model.modules()] == flags
    assert [p.requires_grad for p in model.parameters()] == needs
    hooks = [module._forward_hooks or module._forward_pre_hooks or module._backward_hooks for module in model.modules()]
    assert not any(hooks)


@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
)
def test_surrounding_contexts_do_not_matter(context):
    """Inside no_grad, inference mode and autocast the row is the one measured outside, to the bit."""
    model, data = network(), classes(64)
    expected = FlatnessMonitor(model, CROSS_ENTROPY, data).measure()
    with context():
        grad, autocast = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")
        row = FlatnessMonitor(model, CROSS_ENTROPY, data).measure()
        assert (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")) == (grad, autocast)
    assert {**row, "seconds": 0, "followed": 0} | {"limit": 0, "ratio": 0} == {
        **expected,
        "seconds": 0,
        "followed": 0,
    } | {"limit": 0, "ratio": 0}


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without torch.distributed")
def test_a_model_in_distributed_data_parallel():
    """One process of gloo: the wrapped model trains as without a monitor, and is measured as the bare one is."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        data, ends = classes(128), []
        for monitored in (False, True):
            model = nn.parallel.DistributedDataParallel(network())
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            seed_generators()
            monitor = FlatnessMonitor(model, CROSS_ENTROPY, data, every=2)
            train(model, optimizer, data, 4, monitor.step if monitored else lambda step: None)
            ends.append(model.state_dict())
        bare = FlatnessMonitor(model.module, CROSS_ENTROPY, data).measure()
    finally:
        torch.distributed.destroy_process_group()
    assert same(*ends)
    assert monitor.rows[-1]["sharpness"] == pytest.approx(bare["sharpness"], rel=1e-2)  # the tolerance of both
    assert monitor.rows[-1]["loss"] == bare["loss"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_cuda_device():
    """The row measured on the CPU, and the device's generator where it was."""
    model, data = network(), classes(64)
    expected = FlatnessMonitor(model, CROSS_ENTROPY, data).measure()
    monitor = FlatnessMonitor(model.cuda(), CROSS_ENTROPY, data, certify_every=3)
    before = torch.cuda.get_rng_state()
    rows = [monitor.measure() for _ in range(4)]
    assert torch.equal(before, torch.cuda.get_rng_state())
    for row in rows:
        assert row["sharpness"] == pytest.approx(expected["sharpness"], rel=1e-2)
        assert row["coupling"] == pytest.approx(expected["coupling"], rel=0.1)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [2, 9])
def test_failures_restore_everything_and_the_next_measurement_works(error, call):
    """The loss raises in its n-th call, while setting up and later, having drawn random numbers and grown a model."""
    model, data = network(extras=True), classes(64)
    calls = [0]

    def loss_fn(outputs, targets):
        calls[0] += 1
        if calls[0] == call:
            torch.rand(3), random.random()
            raise error("now")
        return CROSS_ENTROPY(outputs, targets)

    monitor = FlatnessMonitor(model, loss_fn, data, certify_every=None)
    before = generators()
    if call > 5:
        monitor.measure()
    with pytest.raises(error, match="now"):
        monitor.measure()
    assert same(before, generators())
    assert all(module.training for module in model.modules())
    calls[0] = -1000
    assert monitor.measure()["status"] == "certified"


# -- steps, limits, files ----------------------------------------------------------------------------------------------


def test_steps_are_counted_or_told():
    model, data = network(), classes(64)
    monitor = FlatnessMonitor(model, CROSS_ENTROPY, data, every=3)
    assert [monitor.step() is not None for _ in range(6)] == [False, False, True] * 2
    assert monitor.step(12)["step"] == 12
    assert monitor.step(13) is None
    assert monitor.measure()["step"] == 13


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lr": 0.1}, 20.0),
        ({"lr": 0.1, "momentum": 0.9}, 38.0),
        ({"lr": 0.1, "momentum": 0.5, "dampening": 0.5}, 60.0),
        ({"lr": 0.1, "momentum": 0.9, "nesterov": True}, 38.0 / 2.8),
        ({"lr": 0.1, "weight_decay": 0.5}, 19.5),
    ],
)
def test_the_limit_is_where_sgd_stops_converging(options, expected):
    """SGD on a parabola of curvature just below the limit shrinks, just above it grows."""
    for factor, shrinks in ((0.97, True), (1.03, False)):
        x = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([x], **options)
        limit = stability_limit(optimizer)
        assert limit == pytest.approx(expected)
        for _ in range(2000):
            optimizer.zero_grad()
            (0.5 * factor * limit * x.square()).sum().backward()
            optimizer.step()
        assert (abs(x.item()) < 1e-3) == shrinks


def test_there_is_no_limit_for_adam_for_groups_that_differ_and_without_an_optimizer():
    x, y = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    two = torch.optim.SGD([{"params": [x], "lr": 0.1}, {"params": [y], "lr": 0.2}])
    for optimizer in (None, torch.optim.Adam([x]), two, torch.optim.SGD([x], lr=0.0)):
        assert np.isnan(stability_limit(optimizer))

    class Wrapper:
        optimizer = torch.optim.SGD([x], lr=0.5)

    assert stability_limit(Wrapper()) == 4.0


def test_csv_is_continued_and_another_header_refused(tmp_path):
    model, data, path = network(), classes(64), tmp_path / "rows.csv"
    FlatnessMonitor(model, CROSS_ENTROPY, data, csv=path).measure(1)
    with path.open("a") as file:
        file.write("2,0.5")  # killed while writing
    monitor = FlatnessMonitor(model, CROSS_ENTROPY, data, csv=path)
    monitor.measure(2)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert tuple(rows[0]) == monitor.columns
    assert float(rows[1]["sharpness"]) == monitor.rows[0]["sharpness"]
    with pytest.raises(ValueError, match="has the columns"):
        FlatnessMonitor(model, CROSS_ENTROPY, data, csv=path, k=2)
    with pytest.raises(ValueError, match="in a folder that exists"):
        FlatnessMonitor(model, CROSS_ENTROPY, data, csv=tmp_path / "none" / "rows.csv")


def test_a_resumed_training_makes_its_steps_in_the_file_again(tmp_path):
    """Steps 1, 2, 3, then on from a checkpoint after step 1; one monitor may repeat a step as it likes."""
    path = tmp_path / "rows.csv"
    for steps in ([1, 2, 3], [2, 3, 3]):
        monitor = FlatnessMonitor(network(), CROSS_ENTROPY, classes(64), csv=path, coupling=0)
        for step in steps:
            monitor.measure(step)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2", "3", "3"]
    assert [float(row["seconds"]) for row in rows[1:]] == [row["seconds"] for row in monitor.rows]


def test_a_row_whose_writing_is_interrupted_is_written_whole_later(tmp_path, monkeypatch):
    path = tmp_path / "rows.csv"
    monitor = FlatnessMonitor(network(), CROSS_ENTROPY, classes(64), csv=path, coupling=0)
    monitor.measure(1)
    before, open_ = path.read_text(), type(path).open

    class Interrupted:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, text):
            self.file.write(text[:7])
            raise KeyboardInterrupt

    def opened(path, *given, **options):
        file = open_(path, *given, **options)
        return Interrupted(file) if given == ("a",) else file

    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", opened)
        with pytest.raises(KeyboardInterrupt):
            monitor.measure(2)
    assert path.read_text() == before
    monitor.measure(3)
    with path.open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_a_file_that_is_no_table_is_refused_and_kept(tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("my only line of notes")
    with pytest.raises(ValueError, match="has the columns my only line of notes; expected step"):
        FlatnessMonitor(network(), CROSS_ENTROPY, classes(64), csv=notes)
    assert notes.read_text() == "my only line of notes"
    with pytest.raises(ValueError, match="expected the name of a file"):
        FlatnessMonitor(network(), CROSS_ENTROPY, classes(64), csv="/dev/null")


def test_rows_that_found_no_room_are_written_later(tmp_path, monkeypatch):
    path, model = tmp_path / "rows.csv", network()
    monitor = FlatnessMonitor(model, CROSS_ENTROPY, classes(64), csv=path, coupling=0)
    monitor.measure(1)

    def full(*given, **options):
        raise OSError(28, "No space left on device")

    before = path.read_text()
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.open", full)
        with pytest.warns(UserWarning, match="could not be written, and wait: .*No space left"):
            monitor.measure(2)
    assert path.read_text() == before
    monitor.measure(3)
    with path.open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_a_training_that_diverges_goes_on(tmp_path):
    path, model = tmp_path / "rows.csv", network()
    monitor = FlatnessMonitor(model, CROSS_ENTROPY, classes(64), csv=path)
    monitor.measure(1)
    kept = {name: p.clone() for name, p in model.state_dict().items()}
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    with pytest.warns(UserWarning, match=r"step 2 was not measured: 0\.weight contains nan"):
        row = monitor.measure(2)
    assert row["status"].startswith("not measured: 0.weight contains nan")
    assert np.isnan(row["sharpness"])
    model.load_state_dict(kept)
    assert monitor.measure(3)["status"] == "certified"
    with path.open() as file:
        assert len(list(csv.DictReader(file))) == 3
    broken = network()
    torch.nn.init.constant_(broken[0].weight, float("nan"))
    first = FlatnessMonitor(broken, CROSS_ENTROPY, classes(64))
    with pytest.raises(ValueError, match="contains nan"):
        first.measure(1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_followed(dtype):
    """Products round by some 2⁻⁸ of their entries; residuals to 5e-2 hold all the same."""
    x, y = classes(64)
    model = network(width=8).to(dtype)
    monitor = FlatnessMonitor(model, CROSS_ENTROPY, (x.to(dtype), y), tol=5e-2, coupling=0)
    exact = fc.eigsh(fc.torch.Hessian(copy.deepcopy(model).double(), CROSS_ENTROPY, (x.to(dtype).double(), y)), 1)
    for step in range(3):
        assert monitor.measure(step)["sharpness"] == pytest.approx(exact.values[0], rel=0.1)


def test_layers_may_be_frozen_and_let_go():
    model = network()
    model[0].requires_grad_(False)
    monitor = FlatnessMonitor(model, CROSS_ENTROPY, classes(64))
    monitor.measure(1)
    model[0].requires_grad_(True)
    row = monitor.measure(2)
    assert row["status"] == "certified"
    H = fc.torch.Hessian(model, CROSS_ENTROPY, classes(64))
    assert row["sharpness"] == pytest.approx(fc.eigsh(H, 1).values[0], rel=1e-3)


def test_a_model_may_be_moved_between_measurements():
    """To another precision: the vectors of the last measurement are not those of this operator any more."""
    model, (x, y) = network(8), classes(64)

    def forward(model, batch):
        return model(batch[0].to(model[0].weight.dtype)), batch[1], len(batch[1])

    monitor = FlatnessMonitor(model, CROSS_ENTROPY, (x, y), forward=forward, certify_every=None, coupling=0)
    monitor.measure(1)
    model.double()
    row = monitor.measure(2)
    assert row["status"] == "certified"
    expected = dense_eigenvalues(model, CROSS_ENTROPY, (x.double(), y))[0]
    assert abs(row["sharpness"] - expected) <= row["residual"] * row["sharpness"]  # an eigenvalue within the residual


def test_layers_that_took_the_place_of_others_are_the_ones_measured():
    model, data = network(8), classes(64)
    monitor = FlatnessMonitor(model, CROSS_ENTROPY, data)
    monitor.measure(1)
    model[0], model[2] = nn.Linear(20, 6), nn.Linear(6, 8)
    row, fresh = monitor.measure(2), FlatnessMonitor(model, CROSS_ENTROPY, data).measure()
    assert row["balance"] == fresh["balance"]
    assert row["coupling"] == pytest.approx(fresh["coupling"], rel=0.1)  # vectors sought to 1e-2·σ_1


def test_memory_that_runs_out_costs_a_row():
    calls = [0]

    def loss_fn(outputs, targets):
        calls[0] += 1
        if calls[0] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return CROSS_ENTROPY(outputs, targets)

    monitor = FlatnessMonitor(network(8), loss_fn, classes(64), coupling=0)
    monitor.measure(1)
    calls[0] = -100
    with pytest.warns(UserWarning, match="step 2 was not measured"):
        row = monitor.measure(2)
    assert row["status"] == "not measured: CUDA out of memory. Tried to allocate"  # one line, for the CSV file


def test_there_is_no_ratio_to_a_limit_that_weight_decay_takes_to_zero():
    model = network(8)
    sgd = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=4.0)
    row = FlatnessMonitor(model, CROSS_ENTROPY, classes(64), optimizer=sgd, coupling=0).measure()
    assert row["limit"] == 0.0
    assert np.isnan(row["ratio"])


def test_an_optimizer_whose_gradient_is_damped_away_has_no_limit():
    for dampening in (1.0, 1.5):
        sgd = torch.optim.SGD([torch.zeros(1)], lr=0.1, momentum=0.9, dampening=dampening)
        assert np.isnan(stability_limit(sgd))


def test_scalars_reach_a_summary_writer():
    written = []

    class Writer:
        def add_scalar(self, *entry):
            written.append(entry)

        def flush(self):
            written.append("flush")

    model, data = network(), classes(64)
    with FlatnessMonitor(model, CROSS_ENTROPY, data, tensorboard=Writer()) as monitor:
        row = monitor.measure(4)
    assert ("flatness/sharpness", row["sharpness"], 4) in written
    assert not any(entry[0] == "flatness/limit" for entry in written[:-1])  # NaN without an optimizer
    assert written[-1] == "flush"


def test_tensorboard_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
        FlatnessMonitor(network(), CROSS_ENTROPY, classes(64), tensorboard=tmp_path)


def test_event_files_are_written(tmp_path):
    pytest.importorskip("tensorboard")
    with FlatnessMonitor(network(), CROSS_ENTROPY, classes(64), tensorboard=tmp_path) as monitor:
        monitor.measure(4)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload().Scalars("flatness/sharpness")
    assert [(event.step, event.value) for event in events] == [(4, pytest.approx(monitor.rows[0]["sharpness"]))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every is 0; expected at least 1"),
        ({"k": 0}, "k is 0"),
        ({"tol": 0.0}, "tol is 0.0; expected a number between 0 and 1"),
        ({"certify_every": 0}, "certify_every is 0"),
        ({"keep": 1}, "keep is 1; expected at least 2"),
        ({"coupling": -1}, "coupling is -1"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FlatnessMonitor(network(), CROSS_ENTROPY, classes(64), **options)


# -- other people's loops ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("default")  # the packages' own
@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning(package, tmp_path):
    lightning = pytest.importorskip(package)
    data = classes(96)

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network(extras=True)

        def training_step(self, batch, index):
            return CROSS_ENTROPY(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.net.parameters(), lr=0.1)

    ends = []
    for monitored in (False, True):
        torch.manual_seed(5)
        module = Module()
        monitor = FlatnessMonitor(module.net, CROSS_ENTROPY, data, every=2)
        trainer = lightning.Trainer(
            max_epochs=1,
            accumulate_grad_batches=2,
            accelerator="cpu",
            callbacks=[monitor.lightning_callback()] * monitored,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        dataset = torch.utils.data.TensorDataset(*data)
        trainer.fit(module, torch.utils.data.DataLoader(dataset, batch_size=12, shuffle=True))
        ends.append(module.state_dict())
    assert [(row["step"], row["limit"]) for row in monitor.rows] == [(2, 20.0), (4, 20.0)]
    assert same(*ends)


@pytest.mark.filterwarnings("default")  # the package's own
def test_huggingface(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    x, y = classes(48)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = network(extras=True)

        def forward(self, x, labels):
            logits = self.net(x)
            return {"loss": CROSS_ENTROPY(logits, labels), "logits": logits}

    def forward(model, batch):
        return model(*batch)["logits"], batch[1], len(batch[1])

    samples = [{"x": a, "labels": b} for a, b in zip(x, y, strict=True)]
    ends = []
    for monitored in (False, True):
        model = Model()
        monitor = FlatnessMonitor(model, CROSS_ENTROPY, (x, y), every=2, forward=forward)
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=4,
            per_device_train_batch_size=12,
            optim="sgd",
            learning_rate=0.1,
            lr_scheduler_type="constant",
            report_to=[],
            save_strategy="no",
            use_cpu=True,
            seed=1,
        )
        trainer = transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=samples,
            callbacks=[monitor.huggingface_callback()] * monitored,
        )
        trainer.train()
        ends.append(model.state_dict())
    assert [(row["step"], row["limit"]) for row in monitor.rows] == [(2, 20.0), (4, 20.0)]
    assert same(*ends)


def test_lightning_with_several_optimizers(monkeypatch):
    """Three optimizer steps a batch step past the multiples of `every`; each is measured once, without limit."""
    package = types.ModuleType("lightning.pytorch")
    package.Callback = object
    monkeypatch.setitem(sys.modules, "lightning", types.ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, "lightning.pytorch", package)
    model = network(8)
    monitor = FlatnessMonitor(model, CROSS_ENTROPY, classes(64), every=4, coupling=0)
    callback = monitor.lightning_callback()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(3)]
    trainer = types.SimpleNamespace(global_step=0, optimizers=optimizers)
    callback.on_train_start(trainer, None)
    for trainer.global_step in (3, 3, 6, 9, 12, 15):
        callback.on_train_batch_end(trainer, None, None, None, 0)
    assert [row["step"] for row in monitor.rows] == [6, 9, 12]
    assert np.isnan([row["limit"] for row in monitor.rows]).all()


def test_callbacks_name_what_to_install(monkeypatch):
    for module in ("lightning", "lightning.pytorch", "pytorch_lightning", "transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    monitor = FlatnessMonitor(network(), CROSS_ENTROPY, classes(64))
    with pytest.raises(ModuleNotFoundError, match="pip install lightning"):
        monitor.lightning_callback()
    with pytest.raises(ModuleNotFoundError, match="pip install transformers"):
        monitor.huggingface_callback()
