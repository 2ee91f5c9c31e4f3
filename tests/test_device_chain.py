"""Chains on a device against dense autograd derivatives and against the kernels' results on the same numbers.

Everything runs on CPU tensors, and on a CUDA device where there is one.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import CoupledLoss, cases, make_case, make_loss, relative_error

import flatcore as fc
from flatcore.linear import StaleWeightsError

DeviceChain = fc.torch.DeviceChain
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
DEVICES = ["cpu", CUDA]
KINDS = ("batchmean", "mean", "sum", "labels-mean", "labels-sum", "probabilities", "masked")

# Exact formulas in float64 on both sides: rounding of a few hundred operations of 1e-16, magnified by cancellation and
# measured against the largest entry of either curvature matrix, or 1e-3 where these vanish (one class: p − y is zero
# but for rounding, of terms of order one).
TOL = 1e-11


def on_device(case, device="cpu", dtype=torch.float64):
    weights = [torch.tensor(W, dtype=dtype, device=device) for W in case.weights]
    biases = [None if b is None else torch.tensor(b, dtype=dtype, device=device) for b in case.biases]
    return DeviceChain(weights, biases, case.skip)


def host(tensor):
    return tensor.detach().cpu().numpy()


def check_all(case, problem, device="cpu"):
    """Value, gradient, Hessian, Gauss–Newton matrix and both reduced ones."""
    theta = case.theta()
    chain = on_device(case, device)
    H, kernels = chain.hessian(problem.loss), fc.Hessian(case.chain(), problem.loss)
    dense = {False: problem.hessian(theta), True: problem.gauss_newton(theta)}
    scale = max(float(np.abs(matrix).max()) for matrix in dense.values())
    assert H.value == pytest.approx(float(problem.value(theta)), rel=1e-10, abs=1e-12)
    gradient = problem.gradient(theta)
    assert relative_error(host(H.gradient()), gradient, max(float(np.abs(gradient).max()), scale)) <= TOL
    assert relative_error(host(chain.product()), case.chain().product()) <= TOL
    for operator in (H, H.gauss_newton):
        check_operator(operator, dense[operator.is_gauss_newton], max(scale, 1e-3))
    assert H.products.narrow_output == kernels.products.narrow_output
    assert H.reduced().shape == kernels.reduced().shape
    assert H.gauss_newton.reduced().shape == kernels.gauss_newton.reduced().shape


def check_operator(operator, want, scale):
    P = len(want)
    V = torch.randn(P, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(operator.device)
    assert relative_error(host(operator.dense()), want, scale) <= TOL
    assert relative_error(host(operator @ V), want @ host(V), 10 * scale) <= TOL
    assert relative_error(host(operator @ V[:, 1]), want @ host(V[:, 1]), 10 * scale) <= TOL
    R = operator.reduced()
    N = R.shape[0]
    eye = {"dtype": torch.float64, "device": operator.device}
    lift, small = host(R.lift(torch.eye(N, **eye))), host(R.dense())
    assert relative_error(lift.T @ lift, np.eye(N)) <= TOL  # an isometry
    assert relative_error(host(R.project(torch.eye(P, **eye))), lift.T, 1.0) <= TOL  # its adjoint
    assert relative_error(lift @ small @ lift.T, want, 10 * scale) <= TOL  # nothing is lost
    outside = [host(R.annihilated(i)) for i in range(R.num_annihilated)]
    basis = np.vstack([lift.T, *outside])
    assert basis.shape == (P, P)
    assert relative_error(basis @ basis.T, np.eye(P)) <= TOL


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=12)
@given(case=cases(5), n=st.integers(1, 8), rank=st.integers(1, 5))
def test_against_autograd(kind, case, n, rank):
    check_all(case, make_loss(kind, case, n, rank))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["batchmean", "labels-mean", "masked"])
@pytest.mark.parametrize("biases", [False, True, [True, False, True], [False, True, False]])
@pytest.mark.parametrize("dims", [(6, 7, 7, 2), (2, 7, 7, 6), (4, 7, 1, 4)])
def test_both_narrow_ends(kind, biases, dims, device):
    case = make_case(dims, 3, biases, [False, True, False])
    check_all(case, make_loss(kind, case, n=12), device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("biases", [False, True])
@pytest.mark.parametrize(
    ("dims", "zero"),
    [((5, 3), ()), ((3, 5), ()), ((1, 1), ()), ((4, 1, 4), ()), ((5, 6, 6, 3), (1,)), ((3, 3, 3), (0, 1))],
)
def test_depth_one_bottlenecks_and_zero_layers(dims, zero, biases, device):
    case = make_case(dims, 2, biases, zero=zero)
    check_all(case, make_loss("batchmean", case, n=9), device)


@pytest.mark.parametrize("biases", [False, True])
def test_fewer_directions_in_the_data_than_inputs(biases):
    case = make_case((6, 4, 5), 2, biases)
    check_all(case, make_loss("batchmean", case, 9, 2))
    check_all(make_case((3, 2, 2), 0), make_loss("batchmean", make_case((3, 2, 2), 0), 4))


def test_interpolation_and_inputs_that_are_all_zero():
    """Where the loss gradient is exactly zero E falls away, as in the kernels."""
    chain = DeviceChain([torch.eye(4, dtype=torch.float64)] * 3)
    H = chain.hessian(fc.QuadraticLoss(np.eye(4) * 2, np.eye(4) * 2))
    assert H.products.at_interpolation
    assert H.reduced().shape == H.gauss_newton.reduced().shape
    zero = DeviceChain([torch.ones(2, 3)]).hessian(fc.QuadraticLoss(np.zeros((4, 3)), np.ones((4, 2))))
    assert zero.value == 2.0
    assert not zero.dense().any()


def test_samples_in_several_chunks(monkeypatch):
    """The chunks are of a size that small problems never reach; here they are of a single sample."""
    monkeypatch.setattr("flatcore.torch._device_loss._ENTRIES_TOGETHER", 7)
    case = make_case((5, 4, 3), 0, True)
    check_all(case, make_loss("labels-mean", case, 11))


# -- precision, devices, kinds of vectors -------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dims", [(8, 20, 20, 3), (3, 20, 20, 8)])
@pytest.mark.parametrize("kind", ["batchmean", "labels-mean", "masked"])
def test_float32(kind, dims, device):
    """float32 products round at 6e-8 a step, some 1e3 steps; float64 ones see the stored weights exactly."""
    case = make_case(dims, 1, True)
    case.weights = [W.astype(np.float32).astype(np.float64) for W in case.weights]
    case.biases = [b.astype(np.float32).astype(np.float64) for b in case.biases]
    loss = make_loss(kind, case, 30).loss
    kernels = fc.Hessian(case.chain(), loss)
    H = on_device(case, device, torch.float32).hessian(loss)
    assert H.dtype == np.float32
    V = torch.randn(H.shape[0], 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
    want = kernels @ host(V)
    wide, single = H @ V, H @ V.float()
    assert (wide.dtype, single.dtype) == (torch.float64, torch.float32)
    assert wide.device.type == single.device.type == device
    assert relative_error(host(wide), want) <= 1e-11
    assert relative_error(host(single), want) <= 1e-4
    assert relative_error(host(H.gradient()), kernels.gradient()) <= 1e-6
    R = H.reduced()
    z = R.project(V)
    lifted = R.lift(z)
    small = R.project(H @ lifted)
    assert relative_error(host(R @ z), host(small)) <= 1e-11
    assert relative_error(host(R @ z.float()), host(small)) <= 1e-4
    assert relative_error(host(R.lift(z.float())), host(lifted)) <= 1e-5


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, device):
    case = make_case((6, 7, 3), 1, True)
    loss = make_loss("batchmean", case, 20).loss
    chain = on_device(case, device, dtype)
    assert chain.weights[0].dtype == dtype
    assert chain.dtype == np.float32
    stored = DeviceChain([W.double() for W in chain.weights], [b.double() for b in chain.biases])
    v = torch.ones(chain.num_parameters, device=device)
    want = stored.hessian(loss) @ v.double()
    assert relative_error(host(chain.hessian(loss) @ v), host(want)) <= 1e-4
    assert relative_error(host(chain.hessian(loss) @ v.double()), host(want)) <= 1e-11


def test_short_factors_and_autocast_are_switched_off():
    """bfloat16 factors would be wrong in the third digit; what was set before comes back."""
    case = make_case((40, 64, 64, 5), 1, True)
    H = on_device(case, dtype=torch.float32).hessian(make_loss("batchmean", case, 50).loss)
    v = torch.randn(H.shape[0], generator=torch.Generator().manual_seed(0))
    R = H.reduced()
    z = R.project(v)
    want, small = H @ v, R @ z
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(H @ v, want)
            assert torch.equal(R @ z, small)
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("device", DEVICES)
def test_vectors_and_answers_in_kind(device):
    case = make_case((5, 9, 2), 0)
    H = on_device(case, device).hessian(make_loss("batchmean", case, 20).loss)
    P, dense = H.shape[0], host(H.dense())
    V = np.random.default_rng(0).standard_normal((P, 6))
    for given_v in (V, V[:, 0], V[:, ::2], np.asfortranarray(V), V.astype(np.float32)):
        out = H @ given_v
        assert isinstance(out, np.ndarray)
        assert out.dtype == given_v.dtype
        tolerance = 1e-12 if given_v.dtype == np.float64 else 1e-6
        assert relative_error(out, dense @ given_v) <= tolerance
    assert (H @ torch.tensor(V)).device.type == "cpu"  # where it came from
    assert (H @ torch.tensor(V, device=device)).device.type == device
    assert (H @ torch.ones(P, 0, device=device)).shape == (P, 0)
    assert relative_error(host(H @ torch.ones(P, dtype=torch.int64, device=device)), dense.sum(1)) <= 1e-12
    v = torch.ones(P, requires_grad=True, device=device)
    assert not (H @ v).requires_grad
    with pytest.raises(ValueError, match=rf"v has shape \({P + 1},\); expected \({P},\) or \({P}, k\)"):
        H @ torch.ones(P + 1)
    with pytest.raises(ValueError, match="v is complex"):
        H @ torch.ones(P, dtype=torch.complex64)
    R = H.reduced()
    with pytest.raises(ValueError, match=r"z has shape"):
        R.lift(torch.ones(P))
    blocks = list(R.lift_layers(torch.ones(R.shape[0])))
    assert [tuple(b.shape) for b in blocks] == [(9, 5), (2, 9)]


@pytest.mark.parametrize("device", DEVICES)
def test_stale_weights(device):
    weights = [torch.nn.Parameter(torch.ones(3, 3, device=device)), torch.nn.Parameter(torch.ones(2, 3, device=device))]
    chain = DeviceChain(weights)
    assert all(W.data_ptr() == p.data_ptr() for W, p in zip(chain.weights, weights, strict=True))
    H = chain.hessian(fc.QuadraticLoss(np.eye(3), np.ones((3, 2))))
    R = H.reduced()
    H @ torch.ones(15)
    with torch.no_grad():
        weights[1].add_(1.0)
    for ask in (lambda: H @ torch.ones(15), lambda: R @ torch.ones(R.shape[0]), H.gradient):
        with pytest.raises(StaleWeightsError):
            ask()
    with torch.inference_mode():
        frozen = DeviceChain([torch.ones(2, 2, device=device)])
    assert frozen.fingerprint() == (0,)


def test_the_chain_itself():
    case = make_case((4, 3, 3, 2), 0, [True, False, True], [False, True, False])
    chain, same = on_device(case), case.chain()
    assert (chain.depth, chain.dims, chain.num_parameters) == (same.depth, same.dims, same.num_parameters)
    np.testing.assert_array_equal(host(chain.to_vector()), same.to_vector())
    for block, want in zip(chain.blocks(chain.to_vector()), same.blocks(same.to_vector()), strict=True):
        np.testing.assert_array_equal(host(block), want)
    v = torch.arange(chain.num_parameters, dtype=torch.float64)
    np.testing.assert_array_equal(host(chain.with_vector(v).to_vector()), host(v))
    assert chain.with_vector(v).skip == chain.skip
    assert np.shares_memory(chain.cpu().weights[0], host(chain.weights[0]))
    assert repr(chain) == "DeviceChain(4 → 3 → 3 → 2, float64, biases, skip links, 32 parameters, cpu)"
    H = chain.hessian(make_loss("batchmean", case, 9).loss)
    assert repr(H) == "DeviceHessian(32 parameters, float64, cpu, narrow end: output, 2 rows)"
    with pytest.raises(ValueError, match=r"v has shape \(3,\); expected \(32,\)"):
        next(chain.blocks(torch.ones(3)))


W = torch.ones(3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "weights is empty"),
        (([W, torch.ones(2, 4)],), r"weights\[1\] has shape \(2, 4\); its columns must match weights\[0\]'s 3 rows"),
        (([W, np.ones((3, 3))],), r"weights\[1\] is a ndarray; expected a tensor"),
        (([W.to_sparse()],), r"weights\[0\] has layout torch.sparse_coo"),
        (([W.to("meta")],), "lives on meta"),
        (([W.int()],), r"weights\[0\] has dtype torch.int32"),
        (([torch.ones(3)],), r"weights\[0\] has shape \(3,\); expected 2 dimensions and at least one entry"),
        (([W * np.inf],), r"weights\[0\] contains NaN or Inf"),
        (([W], [None, None]), "biases has 2 entries; expected one for each of 1 layers"),
        (([W], [torch.ones(2)]), r"biases\[0\] has shape \(2,\); expected \(3,\)"),
        (([W], None, [True, False]), "skip has 2 entries"),
        (([W], None, [1]), r"skip\[0\] is 1; expected True or False"),
        (([torch.ones(2, 3)], None, True), r"skip\[0\] is True but weights\[0\] has shape \(2, 3\)"),
    ],
)
def test_bad_chains(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeviceChain(*arguments)


def test_bad_losses():
    chain = DeviceChain([W])
    with pytest.raises(ValueError, match="loss is a CoupledLoss; on a device expected a QuadraticLoss"):
        chain.hessian(CoupledLoss())
    with pytest.raises(ValueError, match="the chain maps 3 inputs to 3 outputs; the loss has data for 2 and 3"):
        chain.hessian(fc.QuadraticLoss(np.ones((4, 2)), np.ones((4, 3))))
    with pytest.raises(ValueError, match="NaN or Inf; the chain's output or the loss overflows"):
        DeviceChain([W.double() * 1e200] * 2).hessian(fc.QuadraticLoss(np.eye(3), np.eye(3)))
    with pytest.raises(ValueError, match="chain is a LinearChain; expected a DeviceChain"):
        fc.torch.DeviceHessian(chain.cpu(), fc.QuadraticLoss(np.eye(3), np.eye(3)))


# -- sharpness ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
@pytest.mark.parametrize("dims", [(12, 15, 14, 3), (3, 14, 15, 12), (3, 3, 3)])
def test_sharpness(dims, which, curvature, device):
    """Eigenvalues as the kernels find them and as LAPACK does; vectors are eigenvectors; zeros are counted."""
    case = make_case(dims, 0, True)
    loss = make_loss("labels-mean", case, 30).loss
    chain = on_device(case, device)
    dense = fc.Hessian(case.chain(), loss)
    dense = (dense if curvature == "hessian" else dense.gauss_newton).dense()
    spectrum = np.linalg.eigvalsh(dense)
    order = {"LA": -spectrum, "SA": spectrum, "LM": -np.abs(spectrum)}[which]
    k, top = 5, np.abs(spectrum).max()
    result = fc.torch.sharpness(chain, loss, k, which=which, curvature=curvature, tol=1e-9)
    assert result.status == "converged"
    want = spectrum[np.argsort(order, kind="stable")[:k]]
    np.testing.assert_allclose(np.abs(result.values), np.abs(want), rtol=0, atol=1e-9 * top)
    vectors = result.vectors
    assert vectors.device.type == device
    assert vectors.dtype == torch.float64
    V = host(vectors)
    assert relative_error(V.T @ V, np.eye(k)) <= 1e-9
    assert np.linalg.norm(dense @ V - V * result.values, axis=0).max() <= 1e-8 * top
    for i in (0, k - 1):
        blocks = list(result.layers(i))
        assert [tuple(b.shape) for b in blocks] == [tuple(b.shape) for b in chain.blocks(chain.to_vector())]
        np.testing.assert_allclose(np.concatenate([host(b).ravel() for b in blocks]), V[:, i], rtol=0, atol=1e-15)


@pytest.mark.parametrize("device", DEVICES)
def test_exact_zeros_are_merged(device):
    """More eigenpairs than the reduced matrix has: the rest are exact zeros with orthonormal vectors."""
    case = make_case((6, 7, 2), 0)
    loss = make_loss("batchmean", case, 4, 2).loss
    chain = on_device(case, device)
    H = chain.hessian(loss)
    N, P = H.gauss_newton.reduced().shape[0], chain.num_parameters
    assert N < P
    result = fc.torch.sharpness(chain, loss, P, curvature="ggn")
    spectrum = np.linalg.eigvalsh(host(H.gauss_newton.dense()))[::-1]
    np.testing.assert_allclose(result.values, spectrum, rtol=0, atol=1e-9 * spectrum[0])
    V = host(result.vectors)
    assert relative_error(V.T @ V, np.eye(P)) <= 1e-9
    assert (result.values == 0.0).sum() >= P - N


@pytest.mark.parametrize("device", DEVICES)
def test_routes_starts_and_float32(device):
    case = make_case((20, 30, 30, 3), 0, True)
    loss = make_loss("batchmean", case, 60).loss
    chain = on_device(case, device, torch.float32)
    want = fc.sharpness(chain.cpu(), loss, 2, tol=1e-6).values
    results = [fc.torch.sharpness(chain, loss, 2, route=route, tol=1e-5) for route in ("reduced", "full", "auto")]
    for result in results:
        np.testing.assert_allclose(result.values, want, rtol=1e-5)
        assert result.vectors.dtype == torch.float32
    assert "reduced" not in results[1].method
    warm = fc.torch.sharpness(chain, loss, 2, v0=results[0].vectors, tol=1e-4)
    assert warm.products < results[0].products
    np.testing.assert_allclose(warm.values, want, rtol=1e-4)
    np.testing.assert_allclose(
        fc.torch.sharpness(chain, loss, 2, v0=host(results[0].vectors)[:, 0], route="full").values, want, rtol=1e-4
    )
    stopped = fc.torch.sharpness(chain, loss, 2, route="full", callback=lambda state: True)
    assert stopped.status == "stopped"


@pytest.mark.parametrize("route", ["reduced", "full"])
def test_vectors_never_leave_the_device(route, monkeypatch):
    """The solver multiplies rows of the operator's own home; @, which carries arrays to and fro, is not called."""

    def refuse(self, other):
        raise AssertionError("a product through @")

    monkeypatch.setattr(fc.torch.DeviceHessian, "__matmul__", refuse)
    monkeypatch.setattr(fc.torch.DeviceReduced, "__matmul__", refuse)
    case = make_case((20, 30, 30, 3), 0, True)
    loss = make_loss("batchmean", case, 60).loss
    result = fc.torch.sharpness(on_device(case), loss, 2, route=route)
    assert result.status == "converged"
    assert isinstance(result.vectors, torch.Tensor)


def test_bad_questions():
    chain = DeviceChain([W.double()])
    loss = fc.QuadraticLoss(np.eye(3), np.eye(3))
    for options, message in [
        ({"k": 10}, "k is 10; expected between 1 and 9"),
        ({"which": "XX"}, "which is 'XX'"),
        ({"curvature": "fisher"}, "curvature is 'fisher'"),
        ({"route": "dual"}, "route is 'dual'; expected one of 'auto', 'reduced', 'full'"),
        ({"v0": torch.ones(4)}, r"v0 has shape \(4,\); expected \(9,\) or \(9, b\)"),
        ({"v0": torch.full((9,), np.nan)}, "v0 contains NaN or Inf"),
    ]:
        with pytest.raises(ValueError, match=message):
            fc.torch.sharpness(chain, loss, **options)


def test_linear_chains_go_to_the_kernels():
    case = make_case((5, 6, 2), 0, True)
    loss = make_loss("batchmean", case, 20).loss
    got, want = fc.torch.sharpness(case.chain(), loss, 3, seed=1), fc.sharpness(case.chain(), loss, 3, seed=1)
    np.testing.assert_array_equal(got.values, want.values)
    assert isinstance(got.vectors, np.ndarray)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_modules_on_a_device():
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Linear(8, 3)).double().cuda()
    chain = fc.torch.chain(model)
    assert isinstance(chain, DeviceChain)
    assert chain.weights[0].data_ptr() == model[0].weight.data_ptr()
    loss = fc.QuadraticLoss(np.ones((4, 6)), np.ones((4, 3)))
    got = fc.torch.sharpness(model, loss, tol=1e-9).values
    np.testing.assert_allclose(got, fc.sharpness(chain.cpu(), loss, tol=1e-9).values, rtol=1e-8)


def test_memory_is_foreseen(monkeypatch):
    monkeypatch.setattr("flatcore._memory.available_memory", lambda: 1000)
    case = make_case((5, 9, 2), 0)
    H = on_device(case).hessian(make_loss("batchmean", case, 20).loss)
    H.dense()  # too small to ask for
    chain = DeviceChain([torch.ones(1500, 2000), torch.ones(2000, 1500)])
    with pytest.raises(MemoryError, match=r"sweeps of 2000 rows through all levels of the chain needs 0\.3 GB"):
        chain.hessian(fc.MaskedQuadraticLoss(np.ones((2000, 2000)), np.eye(2000, dtype=bool)))
