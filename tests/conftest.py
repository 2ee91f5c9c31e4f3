"""Hypothesis runs the same examples everywhere, and never times one: slow machines are not failures."""

import signal

import hypothesis
import numpy as np
import pytest
import threadpoolctl

import flatcore as fc

hypothesis.settings.register_profile(
    "flatcore",
    derandomize=True,
    deadline=None,
    max_examples=25,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.differing_executors],
)
hypothesis.settings.load_profile("flatcore")

# Where the tests run in the background Ctrl-C is ignored, and children would inherit that; a handled signal they start
# with its default action.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def single_threaded_blas():
    """Matrices here are small and pools of threads that spin on busy cores would multiply the suite's time.

    flatcore's own kernels keep their threads, and calls with threads= set BLAS threads themselves.
    """
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(20240607)


@pytest.fixture(scope="session")
def identity_workload():
    """Four identity layers of width 12 with Y = X: the top eigenvalue 8·λ_max(S) is exactly 12-fold (P = 576)."""
    X = np.random.default_rng(0).standard_normal((60, 12))
    top = 8.0 * float(np.linalg.eigvalsh(X.T @ X / 60)[-1])
    return fc.LinearChain([np.eye(12)] * 4), fc.QuadraticLoss(X, X), top
