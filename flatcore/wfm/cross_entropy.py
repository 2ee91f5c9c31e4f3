"""The γ-cross-entropy of a committee with smooth units: value, gradient, Hessian products, trace.

The equations are in src/cpp/core/wfm/cross_entropy.hpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flatcore import _core
from flatcore._checks import as_numpy
from flatcore._memory import check_memory
from flatcore.spectral import OperatorCost
from flatcore.wfm._arguments import check_flag, check_positive
from flatcore.wfm.models import Committee, checked_model, checked_weights, normalised
from flatcore.wfm.patterns import Patterns, checked_patterns

FloatArray = NDArray[np.float64]


class _Point:
    """Fields of all patterns at some weights, and what the loss says of them."""

    def __init__(self, model: Committee, weights: FloatArray, patterns: Patterns, beta: float, gamma: float) -> None:
        P, K = patterns.num_patterns, model.n_hidden
        check_memory("the activations of all patterns", 5 * 8 * P * K)
        self.model, self.patterns, self.beta, self.gamma = model, patterns, beta, gamma
        self.parity = model.activation == "parity"
        self.h: FloatArray = _core.wfm_fields(patterns.words, P, model.fan_in, weights) / np.sqrt(model.fan_in)
        self.terms: dict[str, FloatArray] = _core.wfm_output_terms(self.h, patterns.labels, self.parity, beta, gamma)

    def gradient(self) -> FloatArray:
        """(K, n)."""
        P, n = self.patterns.num_patterns, self.model.fan_in
        g = -self.terms["pull"][:, None] * self.terms["slope"] / (P * np.sqrt(n))
        return _core.wfm_sums(self.patterns.words, P, n, g)

    def product(self, V: FloatArray) -> FloatArray:
        """H V for V (b, K, n)."""
        p = self.patterns
        return _core.wfm_hessian_product(p.words, p.labels, self.parity, self.beta, self.gamma, self.terms, V)


def cross_entropy(
    model: Committee, weights: Any, patterns: Any, *, beta: float = 2.0, gamma: float = 2.0
) -> tuple[float, FloatArray]:
    """Mean γ-cross-entropy of all patterns and its gradient at the weights as they are, not normalised.

    With h_k = w_k·ξ_k/√n: x = Σ tanh(βh_k)/√K for a majority, ∏ tanh(βh_k) for parity, h for a perceptron; each pattern
    contributes log(1 + e^{−2γσx})/(2γ).

    Parameters
    ----------
    model, weights
        A :class:`Committee` and its weights (K, n).
    patterns
        :class:`Patterns`, or arrays (inputs, labels) of ±1.
    beta, gamma
        Sharpness of the units and of the loss, > 0.

    Returns
    -------
    (float, array)
        The loss and its gradient (K, n).

    Raises
    ------
    ValueError
        A bad argument.

    Examples
    --------
    >>> import numpy as np
    >>> from flatcore import wfm
    >>> model = wfm.Committee(45, 5, weights="continuous")
    >>> value, gradient = wfm.cross_entropy(model, np.ones((5, 9)), wfm.random_patterns(model, 20))
    >>> gradient.shape
    (5, 9)

    Source: docs/wide-flat-minima.md; Baldassi, Pittorino and Zecchina, arXiv:1905.07833.

    """
    patterns = checked_patterns(checked_model(model), patterns)
    point = _Point(
        model,
        checked_weights(model, weights),
        patterns,
        check_positive("beta", beta),
        check_positive("gamma", gamma),
    )
    return float(point.terms["value"].mean()), point.gradient()


class CrossEntropyHessian:
    """Hessian of the mean γ-cross-entropy at some weights, as an operator (N, N), N = K·n: ``H @ v``, ``H @ V``.

    Serves :func:`flatcore.eigsh`, :func:`flatcore.trace`, :func:`flatcore.spectral_density`. The full Hessian is that
    of the loss as a function of all weights. The tangent one is that on the spheres ‖w_k‖² = n, with Π the projection
    orthogonal to each w_k and g the gradient: ΠHΠ − Π diag(g_k·w_k/n). Its K zeros along the w_k mean nothing.

    Parameters
    ----------
    model, weights, patterns, beta, gamma
        As in :func:`cross_entropy`. For the tangent Hessian the weights are normalised first.
    tangent
        Which of the two.

    Raises
    ------
    ValueError
        A bad argument, or the tangent Hessian of a binary machine.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> from flatcore import wfm
    >>> model = wfm.Committee(45, 5, weights="continuous")
    >>> H = wfm.CrossEntropyHessian(model, np.ones((5, 9)), wfm.random_patterns(model, 20))
    >>> bool(abs(fc.eigsh(H, k=45).values.sum() - H.trace()) < 1e-12)
    True

    Source: docs/wide-flat-minima.md.

    """

    dtype = np.dtype(np.float64)

    def __init__(
        self,
        model: Committee,
        weights: Any,
        patterns: Any,
        beta: float = 2.0,
        gamma: float = 2.0,
        tangent: bool = False,
    ) -> None:
        patterns = checked_patterns(checked_model(model), patterns)
        W = checked_weights(model, weights)
        if check_flag("tangent", tangent):
            if model.weights != "continuous":
                raise ValueError("tangent is True; a binary machine has no spheres, expected False")
            W = normalised(model, W)
        self.model, self.weights, self.tangent = model, W, bool(tangent)
        self._point = _Point(model, W, patterns, check_positive("beta", beta), check_positive("gamma", gamma))
        self.shape = (model.num_weights, model.num_weights)
        self._normals = normalised(model, W) / np.sqrt(model.fan_in)
        self._pull = np.einsum("ki,ki->k", self._point.gradient(), W) / model.fan_in if tangent else np.zeros(len(W))

    @property
    def cost(self) -> OperatorCost:
        """What a product costs: two passes over the bits, and the activations."""
        P, K, n = self._point.patterns.num_patterns, *self.model.shape
        return OperatorCost(float(self._point.patterns.words.nbytes), 16.0 * P * K, 2.0 * P * K * n)

    def _projected(self, V: FloatArray) -> FloatArray:
        """Π V for V (b, K, n)."""
        along = np.einsum("bki,ki->bk", V, self._normals)
        out: FloatArray = V - along[..., None] * self._normals
        return out

    def _product(self, V: FloatArray) -> FloatArray:
        if not self.tangent:
            return self._point.product(V)
        V = self._projected(V)
        return self._projected(self._point.product(np.ascontiguousarray(V))) - self._pull[:, None] * V

    def __matmul__(self, other: Any) -> FloatArray:
        """Products with a vector (N,) or a block (N, b), in float64."""
        V = as_numpy("v", other)
        if V.ndim not in (1, 2) or V.shape[0] != self.shape[1]:
            raise ValueError(f"v has shape {V.shape}; expected ({self.shape[1]},) or ({self.shape[1]}, b)")
        if V.dtype.kind == "c":
            raise ValueError(f"v is complex ({V.dtype}); expected real numbers")
        if V.dtype.kind in "OSU":
            raise ValueError(f"v has dtype {V.dtype}; expected real numbers")
        if V.size == 0:
            return np.zeros(V.shape)
        rows = np.ascontiguousarray(np.atleast_2d(V.T), dtype=np.float64).reshape(-1, *self.model.shape)
        out: FloatArray = self._product(rows).reshape(len(rows), -1).T
        return out.ravel() if V.ndim == 1 else out

    def trace(self) -> float:
        """The exact trace, from the second derivatives at the fields: ξ² = 1."""
        curvature, n = self._point.terms["curvature"], self.model.fan_in
        full = curvature.sum(axis=1).mean()
        if not self.tangent:
            return float(full)
        along = (curvature * self._point.h**2).sum(axis=1).mean() / n  # Σ_k w_k·H_kk w_k/n
        return float(full - along - self._pull.sum() * (n - 1))

    def dense(self) -> FloatArray:
        """The matrix (N, N), exactly symmetric."""
        N = self.shape[0]
        check_memory("the dense Hessian", 3 * 8 * N * N)
        H = self @ np.eye(N)
        return 0.5 * (H + H.T)
