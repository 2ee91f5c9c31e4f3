r"""spectral_density: stochastic Lanczos quadrature.

For a random unit vector v the measure μ_v(f) = vᵀf(A)v has the mean tr f(A)/N. Lanczos from v,

    A v_j = β_{j−1} v_{j−1} + α_j v_j + β_j v_{j+1},

gives its Gauss quadrature: the nodes θ_k are the eigenvalues of the tridiagonal T, the weights the squared first
components of its eigenvectors y_k; q steps are exact for polynomials of degree 2q − 1. β_q|y_qk| bounds the distance
from θ_k to an eigenvalue.

All probes advance together, each with its own recurrence, so that a step is one block product. Each vector is
orthogonalised twice against all before it. The coefficients against earlier ones, zero where A is symmetric, are the
check that it is.

cost of step j: a block product, and 8·N·j flops and two reads of j vectors for each probe; memory N·probes·(steps + 2).
Source: Golub & Meurant (1994); Ubaru, Chen & Saad (2017).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg

from flatcore._checks import FloatArray, asks_to_stop, check_callback, check_count
from flatcore._memory import check_memory
from flatcore._threads import limit_threads
from flatcore.results import SolverState, SpectralDensity, read_only
from flatcore.spectral._scaled import ScaledOperator, check_symmetric
from flatcore.spectral._trace import Callback
from flatcore.spectral._vectors import norm

_DENSE_MOST = 2000  # rows up to which all eigenvalues are computed where the products would suffice

_ROUNDING = 32.0  # units of rounding below which β is one: the probe's Krylov space is exhausted


def spectral_density(
    operator: Any,
    *,
    probes: int = 8,
    steps: int = 64,
    seed: int = 0,
    callback: Callback | None = None,
    threads: int | None = None,
) -> SpectralDensity:
    """Density of the eigenvalues of a real symmetric operator, with standard errors.

    Parameters
    ----------
    operator
        Anything with ``shape`` (N, N), ``dtype`` and ``@`` on arrays (N, b): a dense or sparse matrix, a SciPy
        ``LinearOperator``, a :class:`flatcore.Hessian`.
    probes
        Random vectors, at least 2: the standard errors are over them and fall with the square root of their number.
    steps
        Lanczos steps from each probe: the resolution. The work is probes·steps products, the memory as many vectors;
        where that is N or more (and N at most 2000) all eigenvalues are computed instead.
    seed
        Of the probes; the same seed, threads and input give the same bits.
    callback
        Called after every step with a :class:`flatcore.results.SolverState` (``values``: the smallest and the largest
        Ritz value; ``residuals``: β of every probe still running); returning True stops.
    threads
        Threads for this call; None leaves the process's setting alone.

    Returns
    -------
    SpectralDensity
        The density (integral 1) on a grid, with standard errors; quadrature nodes and weights; and from these
        ``at(x)``, ``expectation(f)``, ``count(a, b)`` and ``with_zeros(count)``.

    Raises
    ------
    ValueError
        A bad argument, or an operator that is not symmetric, or that returns NaN or a wrong shape.
    MemoryError
        Before starting, where the vectors cannot fit.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> density = fc.spectral_density(np.diag(np.linspace(0, 1, 3000)), steps=20)
    >>> value, stderr = density.count(0.25, 0.75)
    >>> bool(abs(value - 1500) < 3 * stderr), bool(stderr < 150)
    (True, True)

    Source: Ubaru, Chen & Saad (2017), "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature"; see
    docs/theory.md.

    """
    check_callback(callback)
    scaled = ScaledOperator(operator)
    probes, steps = check_count("probes", probes, 2), check_count("steps", steps)
    seed = check_count("seed", seed, 0)
    N, status = scaled.length, "estimated"
    with limit_threads(threads):
        if min(probes * steps, _DENSE_MOST) >= N:
            nodes, weights, residuals = _all_eigenvalues(scaled)
            status, message = "exact", f"all {N} eigenvalues were computed by LAPACK."
        else:
            process = Recurrences(scaled, probes, min(steps, N), seed)
            while process.running:
                process.step()
                if callback is not None and asks_to_stop(callback(process.state())):
                    status = "stopped"
                    break
            nodes, weights, residuals = process.quadrature()
            message = f"{probes} probes, {process.steps} Lanczos steps from each."
            if status == "stopped":
                message = "the callback stopped the run after " + message
    resolution = process.steps if status == "stopped" else steps
    return SpectralDensity.on_a_grid(
        read_only(nodes * scaled.scale),
        read_only(weights),
        read_only(residuals * scaled.scale),
        _broadening(nodes, resolution, scaled.dtype) * scaled.scale,
        size=N,
        zeros=0,
        status=status,
        message=message,
        products=scaled.products,
        seed=seed,
    )


def _broadening(nodes: FloatArray, steps: int, dtype: np.dtype[Any]) -> float:
    """Width over steps, and at least what rounding resolves."""
    size = float(np.abs(nodes).max()) or 1.0
    return max(float(nodes.max() - nodes.min()) / steps, 1e3 * float(np.finfo(dtype).eps) * size)


def _all_eigenvalues(scaled: ScaledOperator) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Nodes, weights and residuals where every eigenvalue is a node."""
    N = scaled.length
    check_memory(f"the eigenvalues of all {N} rows", 16 * N * N)
    matrix = np.empty((N, N))
    for part, image in scaled.identity_blocks():
        matrix[part] = image
    values = scipy.linalg.eigvalsh((matrix + matrix.T) / 2, overwrite_a=True)
    return values[None], np.full((1, N), 1.0 / N), np.zeros((1, N))


class Recurrences:
    """Lanczos from several random vectors at once.

    ``alpha`` and ``beta`` (probes, steps) are the coefficients so far, ``lengths`` (probes,) how many of them each
    probe has: one whose Krylov space is exhausted has ended.
    """

    def __init__(self, operator: ScaledOperator, probes: int, steps: int, seed: int) -> None:
        N = operator.length
        self._operator, self._vectors = operator, operator.vectors
        what = f"a basis of {probes} probes times {steps} steps of {N} (fewer of either need less)"
        self._vectors.check_memory(what, probes * (steps + 2) * N * operator.dtype.itemsize)
        self._basis = self._vectors.empty(probes * steps).reshape(probes, steps, N)
        start = self._vectors.empty(probes)
        self._vectors.random(start, int(np.random.default_rng(seed).integers(0, 2**63)))
        for i in range(probes):
            self._basis[i, 0] = start[i] / norm(self._vectors, start[i : i + 1])
        self.alpha, self.beta = np.zeros((probes, steps)), np.zeros((probes, steps))
        self.lengths = np.zeros(probes, int)
        self._going = np.ones(probes, bool)
        self._size = 0.0  # the largest coefficient seen
        self.steps = 0

    @property
    def running(self) -> bool:
        """Whether a probe can go on and there is room for it."""
        return bool(self._going.any()) and self.steps < self._basis.shape[1]

    def step(self) -> None:
        """One block product, and the next coefficients of every probe still running."""
        j = self.steps
        active = np.flatnonzero(self._going)
        images = self._operator(self._basis[active, j])
        for position, i in enumerate(active):
            self._advance(int(i), j, images[position : position + 1])
        self.steps += 1

    def _advance(self, i: int, j: int, image: Any) -> None:
        known = self._basis[i, : j + 1]
        h = self._vectors.gram(known, image)
        expected = np.zeros(j)
        expected[j - 1 :] = self.beta[i, j - 1 : j]
        self._size = max(self._size, float(np.abs(h).max()))
        check_symmetric(h[:j, 0], expected, self._size)
        self._vectors.update(image, known, h)
        again = self._vectors.gram(known, image)
        self._vectors.update(image, known, again)
        beta = norm(self._vectors, image)
        self.alpha[i, j] = h[j, 0] + again[j, 0]
        self.beta[i, j] = beta
        self.lengths[i] = j + 1
        self._size = max(self._size, beta)
        if beta <= _ROUNDING * float(np.finfo(self._vectors.dtype).eps) * self._size:  # an invariant subspace
            self._going[i] = False
        elif j + 1 < self._basis.shape[1]:
            image /= beta
            self._basis[i, j + 1] = image[0]

    def state(self) -> SolverState:
        """What the callback sees."""
        nodes, _, _ = self.quadrature()
        extremes = np.array([nodes.min(), nodes.max()]) * self._operator.scale
        last = self.beta[self._going, self.steps - 1] * self._operator.scale
        return SolverState(self.steps, extremes, last, self._operator.products)

    def quadrature(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Nodes, weights and residuals, (probes, steps); shorter probes repeat their last node with weight 0."""
        shape = (len(self.lengths), int(self.lengths.max()))
        nodes, weights, residuals = np.empty(shape), np.zeros(shape), np.zeros(shape)
        for i, n in enumerate(self.lengths):
            values, Y = scipy.linalg.eigh_tridiagonal(self.alpha[i, :n], self.beta[i, : n - 1])
            nodes[i, :n], nodes[i, n:] = values, values[-1]
            weights[i, :n] = Y[0] ** 2
            residuals[i, :n] = self.beta[i, n - 1] * np.abs(Y[-1])
        return nodes, weights, residuals
