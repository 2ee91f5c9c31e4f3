"""Block vectors as torch tensors against NumPy in float64, and the solvers on operators that keep theirs on a device.

The same tests run on the CPU, and on a GPU where there is one. Solvers are compared with LAPACK on the dense matrix.
"""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from oracles import random_orthogonal, with_spectrum
from torch.utils._python_dispatch import TorchDispatchMode

import flatcore as fc
from flatcore.spectral._eigsh import solve
from flatcore.spectral._lanczos import BlockLanczos, order_of
from flatcore.spectral._operator import Operator
from flatcore.spectral._vectors import HostVectors
from flatcore.torch import _vectors
from flatcore.torch._device import exact_products
from flatcore.torch._vectors import DeviceVectors

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
DTYPES = [np.float32, np.float64]
HARD = np.r_[1.0 + 0.002 * np.arange(8), np.linspace(0.0, 0.99, 392)]  # small gaps: hundreds of products


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_GPU)])
def device(request):
    return request.param


class Dense:
    """A matrix on a device, multiplied there; its vectors live there too."""

    def __init__(self, A, device):
        self.A = torch.tensor(A, device=device)
        self.shape, self.dtype, self.device = tuple(A.shape), A.dtype, self.A.device

    def block_vectors(self, dtype):
        return DeviceVectors(self.shape[0], dtype, self.device)

    def rows_product(self, rows):
        assert rows.device == self.device
        return rows @ self.A.to(rows.dtype).T


class Diagonal(Dense):
    """diag(d) for long vectors."""

    def __init__(self, d, device):
        self.d = torch.tensor(d, device=device)
        self.shape, self.dtype, self.device = (len(d), len(d)), d.dtype, self.d.device

    def rows_product(self, rows):
        return rows * self.d.to(rows.dtype)


def lanczos(operator, k=6, *, route="block Lanczos", **options):
    """`fc.eigsh` with the iteration forced, where small problems would be solved densely."""
    defaults = {"which": "LA", "tol": None, "seed": 0, "v0": None, "maxiter": None, "callback": None, "threads": None}
    return solve(operator, k, route=route, **(defaults | options))


def numpy_of(tensor):
    return tensor.detach().cpu().numpy().astype(np.float64)


def on(device, array):
    return torch.tensor(array, device=device)


# -- the operations ------------------------------------------------------------------------------------------


@pytest.fixture(params=[None, 1], ids=["one panel", "many panels"])
def panels(request, monkeypatch):
    """The whole width at once, or the smallest panels there are."""
    if request.param is not None:
        monkeypatch.setattr(_vectors, "_PANEL_ENTRIES", request.param)


@pytest.mark.usefixtures("panels")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N", [1, 100, 4096, 3 * 4096 + 17])
@pytest.mark.parametrize(("a", "b"), [(5, 3), (1, 1), (0, 2), (2, 0)])
def test_operations_against_numpy(device, dtype, N, a, b, rng):
    """Sums of n products round by at most n·eps·Σ|v||w|, in practice by √n of it: 4096 columns give 64.

    Updates and combinations sum at most a + 1 terms.
    """
    vectors, eps = DeviceVectors(N, dtype, device), float(np.finfo(dtype).eps)
    v, w, C = rng.standard_normal((a, N)).astype(dtype), rng.standard_normal((b, N)).astype(dtype), None
    V, W = on(device, v), on(device, w)
    G = vectors.gram(V, W)
    assert G.dtype == np.float64
    assert G.shape == (a, b)
    v, w = v.astype(float), w.astype(float)
    assert (np.abs(G - v @ w.T) <= 64 * eps * (np.abs(v) @ np.abs(w).T)).all()
    C = rng.standard_normal((a, b))
    address = W.data_ptr(), V.data_ptr()
    vectors.update(W, V, C)
    bound = 4 * (a + 1) * eps
    assert (np.abs(numpy_of(W) - (w - C.T @ v)) <= bound * (np.abs(w) + np.abs(C.T) @ np.abs(v))).all()
    np.testing.assert_array_equal(numpy_of(V), v)
    M = rng.standard_normal((a, max(0, a - 1)))
    vectors.combine(V, M)
    assert (np.abs(numpy_of(V)[: max(0, a - 1)] - M.T @ v) <= bound * (np.abs(M.T) @ np.abs(v))).all()
    np.testing.assert_array_equal(numpy_of(V)[max(0, a - 1) :], v[max(0, a - 1) :])  # what is not replaced stays
    assert address == (W.data_ptr(), V.data_ptr())


def test_rows_of_one_block_are_updated_by_each_other(device, rng):
    """As the solvers do: slices of one basis."""
    given = rng.standard_normal((7, 5000))
    rows, vectors = on(device, given), DeviceVectors(5000, np.float64, device)
    H = vectors.gram(rows[:4], rows[4:])
    vectors.update(rows[4:], rows[:4], H)
    np.testing.assert_allclose(numpy_of(rows[4:]), given[4:] - H.T @ given[:4], rtol=1e-12, atol=1e-9)


def test_sums_between_chunks_are_in_double(device):
    """2²⁴ + 3 is no number of float32."""
    v = np.zeros((1, 3 * 4096 + 100), np.float32)
    v[0, [0, 4096, 2 * 4096, 3 * 4096 + 5]] = 4096.0, 1.0, 1.0, 1.0
    V = on(device, v)
    assert DeviceVectors(v.shape[1], np.float32, device).gram(V, V)[0, 0] == 2**24 + 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_entries(device, dtype):
    vectors = DeviceVectors(20_000, dtype, device)

    def drawn(seed, **options):
        rows = vectors.empty(3)
        vectors.random(rows, seed, **options)
        return numpy_of(rows)

    one, again, other = drawn(2**62 + 1), drawn(2**62 + 1), drawn(3)
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    # of 60,000 normal entries: the mean within 5 standard errors, moments 2 and 4 within 5 of theirs
    assert abs(one.mean()) <= 5 / 60_000**0.5
    assert abs((one**2).mean() - 1) <= 5 * (2 / 60_000) ** 0.5
    assert abs((one**4).mean() - 3) <= 5 * (96 / 60_000) ** 0.5
    np.testing.assert_array_equal(drawn(2**62 + 1, signs=True), np.sign(one))


def test_random_leaves_the_global_generators_alone(device):
    before = torch.get_rng_state()
    vectors = DeviceVectors(100, np.float32, device)
    vectors.random(vectors.empty(2), 7)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_and_powers_of_two(device, dtype, rng):
    given = rng.standard_normal((3, 5000)).astype(dtype)
    given[0, 7], given[1, 9] = -9.0, np.nan
    rows, vectors = on(device, given), DeviceVectors(5000, dtype, device)
    sizes = vectors.sizes(rows)
    assert sizes[0] == 9.0
    assert np.isnan(sizes[1])
    assert sizes[2] == np.abs(given[2]).max()
    for exponent in (-3, 5, 90, -180):  # together 2^−88, the extremes beyond what float32 holds as one factor
        vectors.ldexp(rows, exponent)
    np.testing.assert_array_equal(numpy_of(rows)[0], np.ldexp(given[0].astype(float), -88))


def test_ldexp_of_numbers_too_small_for_one_factor(device):
    """2¹⁴⁹ is no number of float32, its product with the smallest one is 1."""
    rows = torch.full((1, 4), 2.0**-149, dtype=torch.float32, device=device)
    DeviceVectors(4, np.float32, device).ldexp(rows, 149)
    np.testing.assert_array_equal(numpy_of(rows), 1.0)


def test_copies_and_host(device, rng):
    given = rng.standard_normal((2, 300))
    given.flags.writeable = False  # arrays that may not be written are read all the same
    wide, narrow = DeviceVectors(300, np.float64, device), DeviceVectors(300, np.float32, device)
    rows = wide.copy(given)
    assert rows.device.type == device
    np.testing.assert_array_equal(wide.host(rows), given)
    other = narrow.copy(rows.requires_grad_())
    assert other.dtype == torch.float32
    assert not other.requires_grad
    np.testing.assert_array_equal(narrow.host(other), given.astype(np.float32))
    same = narrow.copy(other)
    same += 1.0
    np.testing.assert_array_equal(narrow.host(other), given.astype(np.float32))


def test_products_are_owned(device):
    """What the solvers overwrite is neither the rows that were multiplied nor anything torch forbids to write."""
    rows, vectors = torch.ones((2, 10), device=device), DeviceVectors(10, np.float32, device)
    with torch.inference_mode():
        frozen = rows * 2.0
    parameter = torch.ones((2, 10), device=device, requires_grad=True)
    fresh = torch.ones((2, 10), device=device)
    assert vectors.own(fresh, rows).data_ptr() == fresh.data_ptr()
    images = (rows, rows[:, :], rows[:1].expand(2, 10), frozen, parameter * 3.0, fresh.double())
    for image in images:
        own = vectors.own(image, rows)
        assert own.dtype == torch.float32
        own.zero_()
        assert (rows == 1.0).all()


@contextmanager
def matmul_precision(setting):
    """What a training script may have set."""
    try:
        if setting == "new":
            torch.backends.cuda.matmul.fp32_precision = "tf32"
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        else:
            torch.set_float32_matmul_precision(setting)
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("setting", ["autocast", "high", "medium", "new"])
def test_float32_products_are_not_rounded_further(device, setting, rng):
    """Neither TF32 nor autocast, which round to 8 or 10 bits; and what was set stays set."""
    given = rng.standard_normal((64, 64 * 64)).astype(np.float32)
    V, vectors = on(device, given), DeviceVectors(4096, np.float32, device)
    exact, C = given.astype(float) @ given.T.astype(float), rng.standard_normal((64, 64))

    def errors():
        G = vectors.gram(V, V)
        W, U = V.clone(), V.clone()
        vectors.update(W, V, C)
        vectors.combine(U, C)
        combined = C.T @ given.astype(float)
        return [
            np.abs(G - exact).max() / exact.max(),
            np.abs(numpy_of(W) - (given - combined)).max() / np.abs(combined).max(),
            np.abs(numpy_of(U) - combined).max() / np.abs(combined).max(),
        ]

    if setting == "autocast":
        with torch.autocast(device, dtype=torch.bfloat16):
            assert max(errors()) <= 1e-5
            assert (V @ V.T).dtype == torch.bfloat16  # it came back
        return
    with matmul_precision(setting):
        cuda, cpu = torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
        assert cuda == "tf32"
        assert max(errors()) <= 1e-5
        assert torch.backends.cuda.matmul.fp32_precision == cuda
        assert torch.backends.mkldnn.matmul.fp32_precision == cpu
        if setting != "new":
            assert torch.get_float32_matmul_precision() == setting


@pytest.mark.parametrize("setting", ["high", "new"])
def test_the_setting_is_the_exact_one_while_products_are_taken(device, setting):
    backend = torch.backends.cuda.matmul if device == "cuda" else torch.backends.mkldnn.matmul
    with matmul_precision(setting), exact_products(torch.device(device)):
        assert backend.fp32_precision in ("ieee", "none")


def test_memory_that_is_not_there(device):
    vectors = DeviceVectors(10**11, np.float32, device)
    assert vectors.available() > 0
    with pytest.raises(MemoryError, match=r"a basis of 30 vectors of 100000000000 needs 12000\.0 GB; .* GB are"):
        vectors.empty(30)


def test_precisions_there_are():
    with pytest.raises(ValueError, match="dtype is float16; expected float32 or float64"):
        DeviceVectors(10, np.float16, "cpu")


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_process_on_tensors_is_the_process_on_arrays(device, dtype):
    """From the same rows the same Ritz values to rounding, restarts included."""
    A = with_spectrum(HARD).astype(dtype)
    start = random_orthogonal(400, 1)[:3].astype(dtype)
    on_device = DeviceVectors(400, dtype, device)
    options = {"capacity": 40, "block": 3}
    tensor = on(device, A)
    one = BlockLanczos(lambda rows: rows @ A.T, HostVectors(400, dtype), seeds=iter(range(99)), start=start, **options)
    two = BlockLanczos(
        lambda rows: rows @ tensor.T, on_device, seeds=iter(range(99)), start=on(device, start), **options
    )
    for process in (one, two):
        for _ in range(20):
            process.step()
            process.restart_if_full(order_of("LA"), 4)
    tolerance = 1e-4 if dtype == np.float32 else 1e-10  # rounding grows with the gaps' inverse
    np.testing.assert_allclose(one.values[-4:], two.values[-4:], atol=tolerance)


# -- eigsh ---------------------------------------------------------------------------------------------------


def expected(values, which, k):
    order = {"LA": -values, "SA": values, "LM": -np.abs(values)}[which]
    return values[np.argsort(order, kind="stable")][:k]


def check_pairs(A, result, which, device):
    """Values against LAPACK to tol, residuals against their definition, orthonormal vectors on the device."""
    A, k = A.astype(float), len(result.values)
    exact = np.linalg.eigvalsh(A)
    size = np.abs(exact).max()
    got, want = result.values, expected(exact, which, k)
    got, want = (np.sort(np.abs(x)) if which == "LM" else np.sort(x) for x in (got, want))
    assert np.abs(got - want).max() <= 1.1 * result.tol * size
    assert isinstance(result.vectors, torch.Tensor)
    assert result.vectors.device.type == device
    assert tuple(result.vectors.shape) == (len(A), k)
    V = numpy_of(result.vectors)
    eps = 1e-6 if result.vectors.dtype == torch.float32 else 1e-13
    assert np.abs(V.T @ V - np.eye(k)).max() <= 20 * eps
    V = V / np.linalg.norm(V, axis=0)
    residuals = np.linalg.norm(A @ V - V * result.values, axis=0)
    np.testing.assert_allclose(result.residuals, residuals, atol=2 * eps * size)
    assert isinstance(result.values, np.ndarray)
    assert result.values.dtype == np.float64


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("multiplicity", [1, 12])
def test_eigsh_against_lapack(device, dtype, which, multiplicity):
    values = np.r_[np.full(multiplicity, 2.0), 1.5, np.linspace(-1.0, 1.0, 300), np.full(multiplicity, -2.5)]
    A = with_spectrum(values).astype(dtype)
    result = lanczos(Dense(A, device), multiplicity + 1, which=which)
    assert result.status == "converged"
    assert "Lanczos" in result.method
    assert result.vectors.dtype == (torch.float32 if dtype == np.float32 else torch.float64)
    check_pairs(A, result, which, device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_identity_workload(device, dtype, identity_workload):
    """A 12-fold top eigenvalue of a real Hessian."""
    chain, loss, top = identity_workload
    A = fc.Hessian(chain, loss).dense().astype(dtype)
    for seed in range(3):
        result = lanczos(Dense(A, device), 12, seed=seed)
        assert result.status == "converged"
        assert np.abs(result.values - top).max() <= 2 * result.tol * top
        check_pairs(A, result, "LA", device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("N", [1, 7, 300])
def test_the_dense_route(device, dtype, N):
    A = with_spectrum(np.linspace(-1.0, 2.0, N) if N > 1 else np.array([2.0])).astype(dtype)
    result = lanczos(Dense(A, device), min(3, N), route="dense")
    assert result.certificate.method == "dense"
    assert result.products == N
    check_pairs(A, result, "LA", device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_seed_gives_the_same_bits(device, dtype):
    A = Dense(with_spectrum(HARD).astype(dtype), device)
    one, two, other = (lanczos(A, 4, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(one.residuals, two.residuals)
    assert torch.equal(one.vectors, two.vectors)
    assert not torch.equal(one.vectors, other.vectors)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["array", "tensor", "parameter", "host tensor", "frozen"])
def test_started_at_the_answer_one_block_product_is_left(device, dtype, kind):
    A = with_spectrum(HARD).astype(dtype)
    exact = np.ascontiguousarray(np.linalg.eigh(A.astype(float))[1][:, ::-1][:, :4])
    frozen = exact.copy()
    frozen.flags.writeable = False
    v0 = {
        "array": exact,
        "tensor": on(device, exact),
        "parameter": on(device, exact.astype(np.float32)).requires_grad_(),
        "host tensor": torch.tensor(exact),
        "frozen": frozen,
    }[kind]
    before = v0.clone() if torch.is_tensor(v0) else v0.copy()
    result = lanczos(Dense(A, device), 4, v0=v0)
    probe = result.certificate
    assert result.status == "converged"
    assert probe.hits == 0
    if kind != "parameter" or dtype == np.float32:  # float32 vectors are no eigenvectors to 1e-6
        assert result.products == 4 + probe.steps * probe.block
    assert (before == v0).all()  # start vectors are not worked in
    check_pairs(A, result, "LA", device)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", [1, 3, 9])
def test_a_start_near_the_answer(device, dtype, given, rng):
    """More and fewer vectors than are wanted: their products are the first step."""
    A = with_spectrum(HARD).astype(dtype)
    exact = np.linalg.eigh(A.astype(float))[1][:, ::-1][:, :given]
    start = exact + 1e-3 * rng.standard_normal(exact.shape)
    v0 = on(device, start if given > 1 else start[:, 0])
    check_pairs(A, lanczos(Dense(A, device), 4, v0=v0), "LA", device)


@pytest.mark.parametrize(
    ("v0", "message"),
    [
        (torch.ones(399), r"v0 has shape \(399,\); expected \(400,\) or \(400, b\)"),
        (torch.ones(400, 0), r"v0 has shape \(400, 0\); expected \(400,\) or \(400, b\)"),
        (torch.ones(400, 1, 1), r"v0 has shape \(400, 1, 1\); expected"),
        (torch.ones(400, dtype=torch.complex64), r"v0 is complex \(torch.complex64\); expected real numbers"),
        (torch.eye(400).to_sparse(), r"v0 has layout torch.sparse_coo; expected a dense tensor"),
        (torch.eye(400).index_fill(1, torch.tensor([5]), torch.nan), r"v0 contains nan at index \(0, 5\)"),
        (np.ones(399), r"v0 has shape \(399,\); expected \(400,\) or \(400, b\)"),
        (np.full(400, np.inf), r"v0 contains inf at index \(0\)"),
    ],
)
def test_start_vectors_that_are_refused(device, v0, message):
    v0 = v0.to(device) if torch.is_tensor(v0) else v0
    with pytest.raises(ValueError, match=message):
        lanczos(Dense(with_spectrum(HARD), device), 4, v0=v0)


def test_callback_sees_the_run_and_stops_it(device):
    A, states = with_spectrum(HARD), []

    def three_steps(state):
        states.append(state)
        return len(states) == 3

    result = lanczos(Dense(A, device), 2, callback=three_steps)
    assert result.status == "stopped"
    assert [s.iteration for s in states] == [1, 2, 3]
    assert isinstance(states[2].values, np.ndarray)
    assert result.certificate is None
    V = numpy_of(result.vectors)
    np.testing.assert_allclose(result.residuals, np.linalg.norm(A @ V - V * result.values, axis=0), atol=1e-12)


@pytest.mark.parametrize("call", [lanczos, fc.eigsh, fc.trace, fc.diagonal, fc.spectral_density])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_asymmetry_shapes_and_complex_products_are_refused(device, dtype, call, rng):
    A = with_spectrum(HARD).astype(dtype)

    class Spoilt(Dense):
        def __init__(self, spoil):
            super().__init__(A, device)
            self.spoil = spoil

        def rows_product(self, rows):
            return self.spoil(super().rows_product(rows))

    with pytest.raises(ValueError, match="the operator returned NaN or Inf"):
        call(Spoilt(lambda rows: rows / 0.0))
    with pytest.raises(ValueError, match=r"operator\.rows_product\(rows\) has shape \(\d+, 200\); expected \(\d+, 400"):
        call(Spoilt(lambda rows: rows[:, :200]))
    with pytest.raises(ValueError, match=r"operator\.rows_product\(rows\) is complex; expected a real"):
        call(Spoilt(lambda rows: rows * 1j))
    with pytest.raises(ValueError, match="the operator is not symmetric: xᵀAy and yᵀAx differ by"):
        call(Dense((A + np.triu(rng.standard_normal((400, 400)))).astype(dtype), device))
    complex_one = Dense(A.astype(np.complex64), device)
    with pytest.raises(ValueError, match=r"operator is complex \(complex64\); expected a real symmetric one"):
        call(complex_one)


def test_an_operator_that_returns_its_argument(device):
    """The identity without a copy: what is overwritten is a copy all the same."""

    class Identity(Dense):
        def rows_product(self, rows):
            return rows

    A = np.eye(300)
    result = lanczos(Identity(A, device), 3)
    np.testing.assert_allclose(result.values, 1.0, atol=1e-12)
    check_pairs(A, result, "LA", device)
    assert fc.trace(Identity(A, device), products=40).value == pytest.approx(300.0, rel=1e-10)


def test_homes_of_another_length(device):
    class Wrong(Dense):
        def block_vectors(self, dtype):
            return DeviceVectors(7, dtype, self.device)

    with pytest.raises(ValueError, match=r"operator\.block_vectors holds vectors of 7; expected 400"):
        fc.eigsh(Wrong(with_spectrum(HARD), device), 1)


def test_memory_of_a_run_is_foreseen(device):
    class Huge(Diagonal):
        def __init__(self):
            super().__init__(np.ones(3, np.float32), device)
            self.shape = (10**11, 10**11)

    for call in (fc.eigsh, fc.trace, fc.diagonal, fc.spectral_density):
        with pytest.raises(MemoryError, match=r"of 100000000000.* needs \d+\.\d GB; .* GB are|estimates of a diagonal"):
            call(Huge())


@pytest.mark.parametrize("home", ["device", "host"])
def test_the_noise_floor_raises_tolerances(device, home):
    """Read once; a tolerance above both floors stays; the message says which floor it was."""
    A, reads = with_spectrum(np.r_[5.0, 4.0, 3.0, np.linspace(-1, 1, 297)]), []

    class Noisy(Dense):
        floor = 1e-3

        @property
        def noise_floor(self):
            reads.append(1)
            return self.floor

        def rows_product(self, rows):  # noise of a tenth of the floor times the norm
            return super().rows_product(rows) + 0.5 * self.floor * torch.sin(1e6 * rows)

    class OnHost:
        shape, dtype, noise_floor = A.shape, A.dtype, Noisy.noise_floor
        floor = 1e-3

        def __matmul__(self, V):
            return A @ V + 0.5 * self.floor * np.sin(1e6 * V)

    operator = Noisy(A, device) if home == "device" else OnHost()
    for tol in (0.0, 1e-13, 1e-5, None):
        reads.clear()
        result = lanczos(operator, 2, tol=tol)
        assert reads == [1]
        assert result.tol == 1e-3
        assert "tol was below the floor of the operator's own rounding; 0.001 was used" in result.message
        assert np.abs(result.values - [5.0, 4.0]).max() <= 2e-3 * 5.0
    result = lanczos(operator, 2, tol=1e-2)
    assert result.tol == 1e-2
    assert "floor" not in result.message
    operator.floor = 1e-20  # below the precision's own, which holds
    assert "below the floor of this precision; 1e-13 was used" in lanczos(operator, 2, tol=0.0, maxiter=30).message
    operator.floor = "small"
    with pytest.raises(ValueError, match=r"operator.noise_floor is 'small'; expected a number that is not negative"):
        lanczos(operator, 2)


def test_pairs_limited_by_the_operator_s_noise_say_so(device):
    """Products with more noise than is stated: residuals stay above the tolerance."""
    A = with_spectrum(np.r_[5.0, 4.0, np.linspace(-1, 1, 298)])

    class Rounded(Dense):
        noise_floor = 1e-5

        def rows_product(self, rows):  # 2e-5·√(400/2) a row, and at most 5e-5 is asked for
            return super().rows_product(rows) + 2e-5 * torch.sin(1e6 * rows)

    result = lanczos(Rounded(A, device), 2, tol=1e-8, maxiter=300)
    assert result.status in ("precision_limited", "max_iterations")
    assert result.status == "max_iterations" or "at the rounding of the operator's products" in result.message


# -- density, trace, diagonal --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1.0, 1e-20, 3e20])
def test_trace_and_diagonal(device, dtype, scale):
    """Within five standard errors of the truth, and exact where there are products enough."""
    A = (with_spectrum(np.r_[0.8 ** np.arange(60), np.linspace(-0.01, 0.01, 340)]) * scale).astype(dtype)
    exact, operator = A.astype(float), Dense(A, device)
    estimate = fc.trace(operator, products=80)
    assert abs(estimate.value - np.trace(exact)) <= 5 * estimate.stderr
    assert estimate.stderr <= 0.02 * np.trace(exact)
    diagonal = fc.diagonal(operator, products=80)
    assert isinstance(diagonal.values, np.ndarray)
    assert diagonal.values.dtype == np.float64
    error = diagonal.values - np.diag(exact)
    # 400 entries: of normal errors over their standard error, estimated from 40 samples, 5 is exceeded by 1e-5 of them
    assert (np.abs(error) <= 6 * diagonal.stderr).all()
    assert np.linalg.norm(error) <= 2 * np.linalg.norm(diagonal.stderr) <= 0.2 * np.linalg.norm(np.diag(exact))
    everything = fc.diagonal(operator, products=400)
    assert everything.status == fc.trace(operator, products=400).status == "exact"
    np.testing.assert_allclose(everything.values, np.diag(exact), rtol=0.0, atol=1e-6 * scale)
    assert fc.trace(operator, products=400).value == pytest.approx(np.trace(exact), rel=1e-5)


def test_diagonal_of_low_rank_is_found_whole(device):
    """As on the host: where the range is found nothing is left to estimate."""
    u = np.arange(300.0)
    result = fc.diagonal(Dense(np.outer(u, u), device), products=8)
    np.testing.assert_allclose(result.values, u**2, rtol=1e-10, atol=1e-8)
    seen = []
    stopped = fc.diagonal(Dense(np.outer(u, u), device), callback=lambda state: seen.append(state) or len(seen) == 2)
    assert stopped.status == "stopped"
    assert all(isinstance(state.values, np.ndarray) for state in seen)
    assert fc.diagonal(Dense(with_spectrum(HARD), device), rtol=0.2).status == "converged"


@pytest.mark.parametrize("dtype", DTYPES)
def test_density(device, dtype):
    values = np.r_[np.full(5, 3.0), np.random.default_rng(0).uniform(-1.0, 1.0, 895)]
    operator = Dense(with_spectrum(values).astype(dtype), device)
    density = fc.spectral_density(operator, probes=6, steps=40)
    assert density.status == "estimated"
    count, stderr = density.count(-0.5, 0.5)
    assert abs(count - ((values > -0.5) & (values < 0.5)).sum()) <= 5 * stderr
    # each probe's top node has converged to the top eigenvalue: a gap of 2 over 40 steps
    assert np.abs(density.nodes.max() - 3.0) <= (1e-4 if dtype == np.float32 else 1e-9)
    small = Dense(with_spectrum(values[:60]).astype(dtype), device)
    whole = fc.spectral_density(small)
    assert whole.status == "exact"
    np.testing.assert_allclose(np.sort(whole.nodes[0]), np.sort(values[:60]), atol=1e-5)


# -- what leaves the device ----------------------------------------------------------------------------------


class Transfers(TorchDispatchMode):
    """Entries of every tensor that is copied from a GPU to the host."""

    def __init__(self, entries):
        super().__init__()
        self.entries = entries

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [x for x in args if isinstance(x, torch.Tensor)]
        if isinstance(out, torch.Tensor) and out.device.type == "cpu" and any(x.is_cuda for x in given):
            self.entries.append(out.numel())
        return out


@pytest.fixture
def read_on_host(monkeypatch):
    """Entries of every tensor that Python or NumPy reads, on any device."""
    entries = []
    for name in ("numpy", "tolist", "item", "__array__"):
        method = getattr(torch.Tensor, name)

        def counted(self, *args, _method=method, **kwargs):
            entries.append(self.numel())
            return _method(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)
    with Transfers(entries):
        yield entries


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["eigsh", "warm", "trace", "density", "diagonal"])
def test_long_vectors_stay_on_the_device(device, dtype, kind, read_on_host):
    """What comes to the host are small matrices; of a diagonal its values and errors, once."""
    N = 30_000
    operator = Diagonal(np.r_[np.linspace(3.0, 2.0, 6), np.linspace(-1.0, 1.0, N - 6)].astype(dtype), device)
    v0 = torch.zeros((N, 3), device=device)
    v0[[0, 1, 2], [0, 1, 2]] = 1.0
    read_on_host.clear()
    call = {
        "eigsh": lambda: fc.eigsh(operator, 3),
        "warm": lambda: fc.eigsh(operator, 3, v0=v0),
        "trace": lambda: fc.trace(operator, products=40),
        "density": lambda: fc.spectral_density(operator, probes=2, steps=20),
        "diagonal": lambda: fc.diagonal(operator, products=40, rtol=1e-9),
    }[kind]
    call()
    assert read_on_host
    long = [entries for entries in read_on_host if entries > 5000]
    if kind == "diagonal":
        copies = 1 if device == "cpu" else 2  # a GPU's copy is seen as it is made and as NumPy reads it
        assert long == [N] * (2 * copies)
    else:
        assert not long


def test_host_operators_know_no_other_home():
    assert isinstance(Operator(np.eye(3)).vectors(np.float32), HostVectors)


def test_a_home_in_host_memory(rng):
    """Rows in NumPy arrays: the same protocol on the kernels, the same bits as through @."""
    A = with_spectrum(HARD)

    class Rows:
        shape, dtype = A.shape, A.dtype

        def block_vectors(self, dtype):
            return HostVectors(400, dtype)

        def rows_product(self, rows):
            return (A @ rows.T).T

    class Columns:
        shape, dtype = A.shape, A.dtype

        def __matmul__(self, V):
            return A @ V

    one, two = lanczos(Rows(), 3), lanczos(Columns(), 3)
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(one.vectors, two.vectors)
