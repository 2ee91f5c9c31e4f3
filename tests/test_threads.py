"""threads= for the length of a call, and Ctrl-C inside one."""

import itertools
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from oracles import make_case, make_loss, with_spectrum

import flatcore as fc
from flatcore import _core
from flatcore._threads import limit_threads


@pytest.fixture
def settings():
    """Thread counts before; the test must leave them so."""
    before = _core.max_threads(), _core.get_blas_threads()
    yield before
    assert (_core.max_threads(), _core.get_blas_threads()) == before


def seen_threads(settings, threads):
    """Thread counts inside a loss, hence inside products and eigensolvers called with threads=."""
    seen = set()

    class Watching(make_loss("coupled", make_case((4, 3, 2))).loss.__class__):
        def hessian_product(self, Phi, dPhi):
            seen.add((_core.max_threads(), _core.get_blas_threads()))
            return super().hessian_product(Phi, dPhi)

    return Watching(), seen


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_inside_calls(settings, threads):
    chain = make_case((4, 3, 2)).chain()
    loss, seen = seen_threads(settings, threads)
    H = fc.Hessian(chain, loss, threads=threads)
    for call in (
        lambda: H @ np.ones(18),
        lambda: H.gauss_newton @ np.ones((18, 2)),
        H.dense,
        lambda: fc.sharpness(chain, loss, threads=threads),
        lambda: fc.eigsh(fc.Hessian(chain, loss), 1, threads=threads),
        lambda: fc.analyze(chain, loss, threads=threads),
    ):
        seen.clear()
        call()
        assert {omp for omp, _ in seen} == {threads}
        # a BLAS without a thread setting reports zero
        assert {blas for _, blas in seen} <= {threads, 0}
        assert (_core.max_threads(), _core.get_blas_threads()) == settings


@pytest.mark.parametrize("route", ["reduced", "full"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_seed_gives_the_same_bits_on_two_threads(route, dtype):
    """Vectors of 10⁴ and 10⁵ entries: products, Gram matrices and combinations are shared by the threads."""
    dims = (100, 300, 300, 300, 8)
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((d, c)).astype(dtype) / np.sqrt(dtype(c)) for c, d in itertools.pairwise(dims)]
    loss = fc.QuadraticLoss(rng.standard_normal((200, 100)), rng.standard_normal((200, 8)))
    chain = fc.LinearChain(weights)
    one, two, other = (fc.sharpness(chain, loss, 4, seed=seed, threads=2, route=route) for seed in (3, 3, 4))
    assert "Block Lanczos" in one.method
    np.testing.assert_array_equal(one.values, two.values)
    np.testing.assert_array_equal(one.vectors, two.vectors)
    np.testing.assert_array_equal(one.residuals, two.residuals)
    assert (one.vectors != other.vectors).any()


def test_none_leaves_the_setting_alone(settings):
    chain = make_case((4, 3, 2)).chain()
    loss, seen = seen_threads(settings, None)
    fc.Hessian(chain, loss) @ np.ones(18)
    assert seen == {settings}


def test_settings_come_back_after_an_exception(settings):
    def fail(state):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fc.eigsh(with_spectrum(np.linspace(0, 1, 200)), 1, threads=1, callback=fail)
    with pytest.raises(ZeroDivisionError), limit_threads(1):
        1 / 0  # noqa: B018


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True])
def test_bad_threads(settings, threads):
    chain, loss = make_case((4, 3, 2)).chain(), make_loss("coupled", make_case((4, 3, 2))).loss
    with pytest.raises(ValueError, match="threads is "):
        fc.Hessian(chain, loss, threads=threads)
    with pytest.raises(ValueError, match="threads is "):
        fc.sharpness(chain, loss, threads=threads)


def test_answers_do_not_depend_on_threads():
    """Sums are split differently: rounding only."""
    case = make_case((60, 70, 80, 50), 0, True)
    loss = make_loss("batchmean", case, 200, 60).loss
    v = np.random.default_rng(0).standard_normal((case.chain().num_parameters, 3))
    one, two = (fc.Hessian(case.chain(), loss, threads=t) @ v for t in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-12 * np.abs(one).max())
    again = fc.Hessian(case.chain(), loss, threads=2) @ v
    np.testing.assert_array_equal(two, again)


# -- Ctrl-C --------------------------------------------------------------------------------------------------

SETUP = """
import time
import numpy as np, flatcore as fc
rng = np.random.default_rng(0)
def chain(*dims, dtype=np.float32):
    pairs = zip(dims[:-1], dims[1:])
    return fc.LinearChain([rng.standard_normal((b, a), dtype=dtype) / a**0.5 for a, b in pairs])
"""
WORK = {
    # wide ends: one product is about 130 Gflop of dense products, many seconds of work
    "one wide product": """
c = chain(*[1400] * 6)
loss = fc.MaskedQuadraticLoss(np.ones((1400, 1400)), np.ones((1400, 1400), bool))
H, v = fc.Hessian(c, loss), np.ones(c.num_parameters)
print("started", flush=True)
H @ v
H @ v
H @ v
""",
    # a narrow end: blocks of vectors through the skinny kernels
    "one skinny product": """
c = chain(784, 800, 800, 800, 10)
H = fc.Hessian(c, fc.QuadraticLoss(rng.standard_normal((100, 784)), rng.standard_normal((100, 10))))
V = np.ones((c.num_parameters, 24))
print("started", flush=True)
for _ in range(1000):
    H @ V
""",
    # tol = 0 in double precision on a flat spectrum
    "eigsh": """
c = chain(784, 800, 800, 800, 10, dtype=np.float64)
H = fc.Hessian(c, fc.QuadraticLoss(rng.standard_normal((1000, 784)), rng.standard_normal((1000, 10))))
print("started", flush=True)
fc.eigsh(H, 12, tol=0.0, maxiter=100000)
fc.eigsh(H, 12, tol=0.0, which="SA", maxiter=100000)
fc.eigsh(H, 12, tol=0.0, which="LM", maxiter=100000)
""",
    "building a Hessian": """
c = chain(*[1400] * 12)
loss = fc.MaskedQuadraticLoss(np.ones((1400, 1400)), np.ones((1400, 1400), bool))
print("started", flush=True)
for _ in range(100):
    fc.Hessian(c, loss)
""",
}


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("work", WORK)
def test_ctrl_c(work):
    """Kernels look for signals every 50 ms between pieces of work; 1 s includes the interpreter's own end."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", SETUP + WORK[work] + "print('finished', flush=True)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "started\n"
        time.sleep(0.7)
        assert process.poll() is None, "the work was over before the signal"
        sent = time.perf_counter()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        taken = time.perf_counter() - sent
    finally:
        process.kill()
        process.communicate()
    assert "finished" not in out
    assert err.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode != 0
    assert taken <= 1.0, f"stopped after {taken:.2f} s"


@pytest.mark.parametrize(
    ("capsule", "signature"),
    [
        ("void (char *, int *, __pyx_t_5scipy_6linalg_11cython_blas_d *)", "void(char*,int*,double*)"),
        ("void (int *, __pyx_t_5scipy_6linalg_11cython_blas_s *)", "void(int*,float*)"),
        ("void (npy_int64 *, double *)", "void(npy_int64*,double*)"),  # 64-bit integers stay visible, hence refused
        ("void (__pyx_t_5scipy_other *)", "void(unknown*)"),
    ],
)
def test_signatures_of_the_blas_are_read(capsule, signature):
    assert _core.normalised_signature(capsule) == signature
