r"""Losses as functions f of the end-to-end matrix Φ.

A loss is any object with three methods, Φ of shape (d_M, d_0), or (d_M, d_0 + 1) on chains with biases:

- ``value(Phi)``: f(Φ), a float;
- ``gradient(Phi)``: ∇f(Φ), shaped like Φ;
- ``hessian_product(Phi, dPhi)``: ∇²f(Φ)[dΦ]; dΦ may have leading batch axes.

Two optional methods make products faster: ``linearize(Phi)`` returns a function of dΦ alone that may keep what does not
change, and ``whitened(homogeneous)`` returns an equivalent loss of Ψ = Φ·factor whose ``factor`` has fewer columns.

Quadratic losses need the data only through the moments S = (1/n)Σxxᵀ, C = (1/n)Σyxᵀ and (1/n)Σ‖y‖². With S = LLᵀ and
T = C(L⁺)ᵀ they are f(Φ) = scale·(‖ΦL − T‖² + constant); the number of samples never enters again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import scipy
import scipy.linalg

from flatcore._checks import (
    FloatArray,
    as_float_array,
    as_numpy,
    check_choice,
    check_finite,
    check_not_empty,
    chunks,
)
from flatcore._linalg import matmul

HessianProduct = Callable[[FloatArray], FloatArray]
_ROWS_PER_CHUNK = 4096


@runtime_checkable
class Loss(Protocol):
    """What a chain needs of a loss."""

    def value(self, Phi: FloatArray) -> float:
        """The loss at Φ."""

    def gradient(self, Phi: FloatArray) -> FloatArray:
        """Its gradient with respect to Φ."""

    def hessian_product(self, Phi: FloatArray, dPhi: FloatArray) -> FloatArray:
        """Its second derivative at Φ applied to dΦ (…, d_M, d_0)."""


def check_loss_shape(loss: Any, shape: tuple[int, int], homogeneous: bool) -> None:
    """Let the loss refuse an end-to-end matrix it has no data for."""
    if not isinstance(loss, Loss):
        raise ValueError(
            f"loss is a {type(loss).__name__}; expected an object with value, gradient and hessian_product"
        )
    check = getattr(loss, "check_shape", None)
    if check is not None:
        check(shape, homogeneous)


def linearized(loss: Any, Phi: FloatArray) -> HessianProduct:
    """𝓗 at Φ as a function of dΦ."""
    if hasattr(loss, "linearize"):
        return loss.linearize(Phi)  # type: ignore[no-any-return]
    return lambda dPhi: np.asarray(loss.hessian_product(Phi, dPhi))


class MatrixHessian:
    """𝓗[dΦ] = dΦ·matrix for a symmetric matrix, in the precision of dΦ."""

    def __init__(self, matrix: FloatArray) -> None:
        self._matrix = matrix
        self._casts: dict[np.dtype[Any], FloatArray] = {}

    def matrix(self, dtype: np.dtype[Any]) -> FloatArray:
        """The matrix in float32 or float64."""
        if dtype not in self._casts:
            self._casts[dtype] = self._matrix.astype(dtype)
        return self._casts[dtype]

    def __call__(self, dPhi: FloatArray) -> FloatArray:
        """The product, dΦ of shape (…, d_M, d_0)."""
        return matmul(dPhi, self.matrix(dPhi.dtype))


class WhitenedQuadratic:
    """f(Ψ) = scale·(‖Ψ − T‖² + constant) on Ψ = Φ·factor: a quadratic loss in whitened coordinates."""

    def __init__(self, factor: FloatArray, target: FloatArray, constant: float, scale: float) -> None:
        self.factor = factor  # L, (q, r)
        self.target = target  # T, (d_M, r)
        self.constant = constant
        self.scale = scale

    def value(self, Psi: FloatArray) -> float:
        """The loss at Ψ."""
        return self.excess(Psi) + self.scale * self.constant

    def excess(self, Psi: FloatArray) -> float:
        """The loss above its minimum."""
        return self.scale * float(np.sum((Psi - self.target) ** 2))

    def gradient(self, Psi: FloatArray) -> FloatArray:
        """Its gradient with respect to Ψ."""
        return 2.0 * self.scale * (Psi - self.target)

    def hessian_product(self, Psi: FloatArray, dPsi: FloatArray) -> FloatArray:
        """Twice the scale times dΨ."""
        return 2.0 * self.scale * dPsi


Reduction = Literal["batchmean", "mean", "sum"]


class QuadraticLoss:
    """Mean squared error of y ≈ Φx, held as moments of the data.

    Parameters
    ----------
    inputs, targets
        Arrays (n, d_in) and (n, d_out). They are read once, in float64, and not kept.
    reduction
        ``"batchmean"``: (1/n)Σ‖Φx − y‖², the convention of the theory; ``"mean"``: also divided by d_out (torch's
        ``MSELoss``); ``"sum"``: not divided at all.

    Raises
    ------
    ValueError
        Different numbers of samples, NaN or Inf, no samples.

    Examples
    --------
    >>> import numpy as np, flatcore as fc
    >>> loss = fc.QuadraticLoss(np.eye(3), 2 * np.eye(3))
    >>> loss.value(np.zeros((3, 3))), loss.minimum
    (4.0, 0.0)
    >>> loss.minimiser().round(9).diagonal()
    array([2., 2., 2.])

    """

    def __init__(self, inputs: Any, targets: Any, reduction: Reduction = "batchmean") -> None:
        self._set(_moments_of([(inputs, targets)]), reduction)

    @classmethod
    def from_batches(cls, iterable: Iterable[Any], reduction: Reduction = "batchmean") -> QuadraticLoss:
        """Stream pairs (inputs, targets) of any sizes once; only their moments are kept."""
        loss = cls.__new__(cls)
        loss._set(_moments_of(iterable), reduction)
        return loss

    @classmethod
    def from_moments(
        cls,
        sxx: Any,
        syx: Any,
        syy: float,
        *,
        mean_x: Any = None,
        mean_y: Any = None,
        n: int | None = None,
        reduction: Reduction = "batchmean",
    ) -> QuadraticLoss:
        """Build the loss from uncentred moments.

        Parameters
        ----------
        sxx, syx, syy
            (1/n)Σxxᵀ (d_in, d_in), (1/n)Σyxᵀ (d_out, d_in) and the scalar (1/n)Σ‖y‖².
        mean_x, mean_y
            (1/n)Σx and (1/n)Σy, needed for chains with biases.
        n
            The number of samples, needed for ``reduction="sum"``.
        reduction
            As in the class.

        Raises
        ------
        ValueError
            Moments that no data can have: asymmetric or indefinite sxx, targets that vary along directions in which
            the inputs do not (the loss would be unbounded below), or a negative minimum.

        """
        S = as_float_array("sxx", sxx, 2).astype(np.float64)
        C = as_float_array("syx", syx, 2).astype(np.float64)
        if S.shape[0] != S.shape[1]:
            raise ValueError(f"sxx has shape {S.shape}; expected a square matrix")
        if C.shape[1] != S.shape[0]:
            raise ValueError(f"syx has shape {C.shape}; its columns must match sxx's {S.shape[0]} rows")
        check_not_empty("sxx", S)
        check_not_empty("syx", C)
        check_finite("sxx", S)
        check_finite("syx", C)
        if not isinstance(syy, (int, float, np.number)) or not np.isfinite(syy) or syy < 0:
            raise ValueError(f"syy is {syy!r}; expected a finite number that is not negative")
        if n is not None and n < 1:
            raise ValueError(f"n is {n}; expected at least 1")
        means = _checked_means(mean_x, mean_y, C.shape)
        loss = cls.__new__(cls)
        loss._set((S, C, float(syy), means, n), reduction)
        if means is not None:
            loss.whitened(True)  # refuses means that contradict the other moments
        rank = int(np.linalg.matrix_rank(S, tol=1e-6 * np.abs(S).max(), hermitian=True))
        if n is not None and rank > n:
            raise ValueError(f"sxx has rank {rank} but n is {n}; no data have such moments")
        return loss

    def _set(self, moments: _Moments, reduction: Reduction) -> None:
        self.reduction = check_choice("reduction", reduction, ("batchmean", "mean", "sum"))
        self.sxx, self.syx, self.syy, self._means, self.n = moments
        self.num_outputs, self.num_inputs = self.syx.shape
        if reduction == "sum" and self.n is None:
            raise ValueError('n is None; reduction="sum" needs the number of samples')
        self.scale = {"batchmean": 1.0, "mean": 1.0 / self.num_outputs, "sum": float(self.n or 0)}[reduction]
        self._whitened: dict[bool, WhitenedQuadratic] = {}
        self.whitened(False)

    def whitened(self, homogeneous: bool) -> WhitenedQuadratic:
        """The same loss on Ψ = ΦL; `homogeneous` adds the constant input 1."""
        if homogeneous not in self._whitened:
            S, C = self._moment_matrices(homogeneous)
            names = ("sxx with mean_x", "syx with mean_y") if homogeneous else ("sxx", "syx")
            self._whitened[homogeneous] = _whiten(S, C, self.syy, self.scale, names)
        return self._whitened[homogeneous]

    def _moment_matrices(self, homogeneous: bool) -> tuple[FloatArray, FloatArray]:
        if not homogeneous:
            return self.sxx, self.syx
        if self._means is None:
            raise ValueError("the chain has biases; from_moments needs mean_x and mean_y for them")
        mean_x, mean_y = self._means
        S = np.block([[self.sxx, mean_x[:, None]], [mean_x[None, :], np.ones((1, 1))]])
        return S, np.column_stack([self.syx, mean_y])

    @property
    def minimum(self) -> float:
        """The smallest value any Φ reaches (without biases)."""
        form = self.whitened(False)
        return form.scale * form.constant

    def minimiser(self, homogeneous: bool = False) -> FloatArray:
        """Φ* = CS⁺, the minimiser of least norm."""
        form = self.whitened(homogeneous)
        L = form.factor
        return (
            np.asarray(form.target @ scipy.linalg.pinv(L)) if L.shape[1] else np.zeros((self.num_outputs, L.shape[0]))
        )

    def check_shape(self, shape: tuple[int, int], homogeneous: bool) -> None:
        """Refuse an end-to-end matrix the data do not fit."""
        expected = (self.num_outputs, self.num_inputs + homogeneous)
        if shape != expected:
            raise ValueError(
                f"the chain maps {shape[1] - homogeneous} inputs to {shape[0]} outputs; "
                f"the loss has data for {self.num_inputs} and {self.num_outputs}"
            )

    def _form(self, Phi: FloatArray) -> WhitenedQuadratic:
        return self.whitened(Phi.shape[1] == self.num_inputs + 1)

    def value(self, Phi: FloatArray) -> float:
        """The loss at Φ."""
        form = self._form(Phi)
        return form.value(matmul(Phi, form.factor))

    def excess(self, Phi: FloatArray) -> float:
        """The loss at Φ above its minimum, without cancellation."""
        form = self._form(Phi)
        return form.excess(matmul(Phi, form.factor))

    def gradient(self, Phi: FloatArray) -> FloatArray:
        """2·scale·(ΦL − T)Lᵀ."""
        form = self._form(Phi)
        return matmul(form.gradient(matmul(Phi, form.factor)), form.factor.T)

    def hessian_product(self, Phi: FloatArray, dPhi: FloatArray) -> FloatArray:
        """2·scale·dΦ·S."""
        return self.linearize(Phi)(dPhi)

    def linearize(self, Phi: FloatArray) -> HessianProduct:
        """𝓗 at Φ (the same everywhere)."""
        return MatrixHessian(2.0 * self.scale * self._moment_matrices(Phi.shape[1] == self.num_inputs + 1)[0])

    def __repr__(self) -> str:
        rank = self.whitened(False).factor.shape[1]
        return (
            f"QuadraticLoss({self.num_inputs} → {self.num_outputs}, n={self.n}, rank {rank}, "
            f"reduction={self.reduction!r})"
        )


_Moments = tuple[FloatArray, FloatArray, float, "tuple[FloatArray, FloatArray] | None", "int | None"]


def _moments_of(batches: Iterable[Any]) -> _Moments:
    """Moments of all batches, summed in float64 over chunks of rows."""
    n = 0
    S: FloatArray = np.zeros((0, 0))
    C: FloatArray = np.zeros((0, 0))
    mean_x: FloatArray = np.zeros(0)
    mean_y: FloatArray = np.zeros(0)
    syy = 0.0
    try:
        numbered = enumerate(batches)
    except TypeError:
        raise ValueError(f"iterable is a {type(batches).__name__}; expected pairs (inputs, targets)") from None
    for number, batch in numbered:
        name = f" of batch {number}" if number else ""
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(f"batch {number} is a {type(batch).__name__}; expected a pair (inputs, targets)")
        X, Y = _checked_pair(batch[0], batch[1], name)
        if n == 0:
            d_in, d_out = X.shape[1], Y.shape[1]
            S, C = np.zeros((d_in, d_in)), np.zeros((d_out, d_in))
            mean_x, mean_y = np.zeros(d_in), np.zeros(d_out)
        elif (X.shape[1], Y.shape[1]) != (C.shape[1], C.shape[0]):
            raise ValueError(
                f"inputs and targets{name} have {X.shape[1]} and {Y.shape[1]} columns; "
                f"the first batch has {C.shape[1]} and {C.shape[0]}"
            )
        for rows in chunks(X.shape[0], _ROWS_PER_CHUNK):
            x, y = X[rows].astype(np.float64, copy=False), Y[rows].astype(np.float64, copy=False)
            S += matmul(x.T, x)
            C += matmul(y.T, x)
            mean_x += x.sum(axis=0)
            mean_y += y.sum(axis=0)
            syy += float(np.sum(y * y))
        n += X.shape[0]
    if n == 0:
        raise ValueError("the data are empty; expected at least one sample")
    return S / n, C / n, syy / n, (mean_x / n, mean_y / n), n


def _checked_pair(inputs: Any, targets: Any, suffix: str = "") -> tuple[FloatArray, FloatArray]:
    X = as_float_array(f"inputs{suffix}", inputs, 2)
    Y = as_float_array(f"targets{suffix}", targets, 2)
    check_not_empty(f"inputs{suffix}", X)
    check_not_empty(f"targets{suffix}", Y)
    if X.shape[0] != Y.shape[0]:
        raise ValueError(f"inputs{suffix} has {X.shape[0]} rows and targets{suffix} has {Y.shape[0]}; expected as many")
    check_finite(f"inputs{suffix}", X)
    check_finite(f"targets{suffix}", Y)
    return X, Y


def _checked_means(mean_x: Any, mean_y: Any, shape: tuple[int, ...]) -> tuple[FloatArray, FloatArray] | None:
    if mean_x is None and mean_y is None:
        return None
    if mean_x is None or mean_y is None:
        raise ValueError("mean_x and mean_y belong together; one of them is None")
    x = as_float_array("mean_x", mean_x, 1).astype(np.float64)
    y = as_float_array("mean_y", mean_y, 1).astype(np.float64)
    if (y.shape[0], x.shape[0]) != shape:
        raise ValueError(f"mean_x and mean_y have {x.shape[0]} and {y.shape[0]} entries; syx has shape {shape}")
    check_finite("mean_x", x)
    check_finite("mean_y", y)
    return x, y


def _whiten(S: FloatArray, C: FloatArray, syy: float, scale: float, names: tuple[str, str]) -> WhitenedQuadratic:
    """L, T and the minimum from the moments; refuses moments that no data can have.

    Data obey ‖Cq‖² ≤ (qᵀSq)·syy for unit q (Cauchy–Schwarz), so where S has no extent C must have none either, and
    syy ≥ ‖T‖². Both are checked with the rounding of the moments allowed for.
    """
    d = S.shape[0]
    asymmetry = float(np.abs(S - S.T).max())
    size = float(np.abs(S).max())
    if asymmetry > 1e-8 * size:
        raise ValueError(f"{names[0]} is not symmetric (largest difference {asymmetry:.3g}); no data have such moments")
    values, vectors = scipy.linalg.eigh((S + S.T) / 2)
    top = max(float(values[-1]), 0.0)
    cutoff = d * np.finfo(np.float64).eps * top
    slack = 1e-6  # moments handed over in single precision or as printed digits are still data
    if values[0] < -max(cutoff, slack * top):
        raise ValueError(f"{names[0]} has the negative eigenvalue {values[0]:.3g}; no data have such moments")
    kept = values > cutoff
    outside = float(np.linalg.norm(C @ vectors[:, ~kept]))
    if outside > np.sqrt(max(slack * top * syy, 0.0)):
        raise ValueError(
            f"{names[1]} has a part of norm {outside:.3g} along directions in which the inputs do not vary; "
            "no data have such moments, and the loss would be unbounded below"
        )
    roots = np.sqrt(values[kept])
    L = vectors[:, kept] * roots
    T = (C @ vectors[:, kept]) / roots
    constant = syy - float(np.sum(T * T))
    if constant < -1e-6 * syy:
        raise ValueError(
            f"{names[0]}, {names[1]} and syy give the negative minimum {constant:.3g}; no data have such moments"
        )
    return WhitenedQuadratic(np.ascontiguousarray(L), T, max(constant, 0.0), scale)


class CrossEntropyLoss:
    """Softmax cross-entropy of the logits Φx.

    Parameters
    ----------
    inputs
        Array (n, d_in), kept as it is.
    labels
        Class numbers (n,), integers from 0, or probabilities (n, C) whose rows sum to one.
    reduction
        ``"mean"`` over the samples, or ``"sum"``.

    Raises
    ------
    ValueError
        Labels out of range, rows that are no probabilities, different numbers of samples, NaN or Inf.

    Notes
    -----
    A product touches the data once at the narrow end: 4·n·d_in·d_out flops, whatever the chain's width and depth.

    """

    def __init__(self, inputs: Any, labels: Any, reduction: Literal["mean", "sum"] = "mean") -> None:
        self.reduction = check_choice("reduction", reduction, ("mean", "sum"))
        self.inputs = as_float_array("inputs", inputs, 2)
        check_not_empty("inputs", self.inputs)
        check_finite("inputs", self.inputs)
        self.num_samples, self.num_inputs = self.inputs.shape
        self.labels = _checked_labels(labels, self.num_samples)
        self.scale = 1.0 / self.num_samples if reduction == "mean" else 1.0

    def check_shape(self, shape: tuple[int, int], homogeneous: bool) -> None:
        """Refuse an end-to-end matrix the data do not fit."""
        outputs, inputs = shape[0], shape[1] - homogeneous
        if inputs != self.num_inputs:
            raise ValueError(f"the chain takes {inputs} inputs; the loss has data of {self.num_inputs} columns")
        if self.labels.ndim == 2 and self.labels.shape[1] != outputs:
            raise ValueError(f"the chain has {outputs} outputs; labels has shape {self.labels.shape}")
        if self.labels.ndim == 1 and self.labels.max() >= outputs:
            at = int(np.argmax(self.labels))
            raise ValueError(
                f"labels[{at}] is {self.labels[at]}; a chain with {outputs} outputs has classes 0 to {outputs - 1}"
            )

    def _chunks(self, homogeneous: bool, dtype: Any) -> Iterable[tuple[slice, FloatArray]]:
        for rows in chunks(self.num_samples, _ROWS_PER_CHUNK):
            x = self.inputs[rows].astype(dtype, copy=False)
            yield rows, np.column_stack([x, np.ones(len(x), dtype)]) if homogeneous else x

    def _targets(self, rows: slice, classes: int) -> FloatArray:
        if self.labels.ndim == 2:
            return self.labels[rows]
        return np.eye(classes)[self.labels[rows]]

    def _homogeneous(self, Phi: FloatArray) -> bool:
        return bool(Phi.shape[1] == self.num_inputs + 1)

    def value(self, Phi: FloatArray) -> float:
        """The loss at Φ."""
        total = 0.0
        for rows, x in self._chunks(self._homogeneous(Phi), np.float64):
            logits = matmul(x, Phi.T)
            target = self._targets(rows, Phi.shape[0])
            total += float(np.sum(target * (scipy.special.logsumexp(logits, axis=1, keepdims=True) - logits)))
        return self.scale * total

    def gradient(self, Phi: FloatArray) -> FloatArray:
        """scale·Σ(p − y)xᵀ."""
        out = np.zeros(Phi.shape)
        for rows, x in self._chunks(self._homogeneous(Phi), np.float64):
            p = scipy.special.softmax(matmul(x, Phi.T), axis=1)
            out += matmul((p - self._targets(rows, Phi.shape[0])).T, x)
        return self.scale * out

    def hessian_product(self, Phi: FloatArray, dPhi: FloatArray) -> FloatArray:
        """scale·Σ(diag p − ppᵀ)(dΦ x)xᵀ."""
        return self.linearize(Phi)(dPhi)

    def linearize(self, Phi: FloatArray) -> HessianProduct:
        """𝓗 at Φ with the probabilities kept."""
        homogeneous = self._homogeneous(Phi)
        parts = [scipy.special.softmax(matmul(x, Phi.T), axis=1) for _, x in self._chunks(homogeneous, np.float64)]
        probabilities = np.concatenate(parts)

        def product(dPhi: FloatArray) -> FloatArray:
            out = np.zeros(dPhi.shape, dPhi.dtype)
            for rows, x in self._chunks(homogeneous, dPhi.dtype):
                p = probabilities[rows].astype(dPhi.dtype, copy=False).T  # classes × samples
                Z = p * matmul(dPhi, x.T)
                Z -= p * Z.sum(axis=-2, keepdims=True)
                out += matmul(Z, x)
            out *= self.scale
            return out

        return product

    def __repr__(self) -> str:
        return f"CrossEntropyLoss({self.num_inputs} inputs, n={self.num_samples}, reduction={self.reduction!r})"


def _checked_labels(labels: Any, n: int) -> FloatArray:
    array = as_numpy("labels", labels)
    if array.ndim == 2:
        P = as_float_array("labels", array, 2).astype(np.float64)
        if P.shape[0] != n:
            raise ValueError(f"labels has shape {P.shape}; expected {n} rows")
        check_finite("labels", P)
        sums = P.sum(axis=1)
        if (P < 0).any() or not np.allclose(sums, 1.0, rtol=0, atol=1e-5):
            row = int(np.argmax(np.maximum(np.abs(sums - 1.0), -P.min(axis=1))))
            raise ValueError(f"labels[{row}] is no probability vector (sum {sums[row]:.6g}, least {P[row].min():.3g})")
        return P
    if array.shape != (n,):
        raise ValueError(f"labels has shape {array.shape}; expected ({n},) or ({n}, classes)")
    if array.dtype.kind not in "iu":
        raise ValueError(f"labels has dtype {array.dtype}; expected integers, or probabilities of shape ({n}, classes)")
    if array.min() < 0:
        at = int(np.argmin(array))
        raise ValueError(f"labels[{at}] is {array[at]}; expected class numbers from 0")
    return array.astype(np.int64)


class MaskedQuadraticLoss:
    """Matrix completion: Σ (Φ − target)² over the entries where mask is true.

    Parameters
    ----------
    target
        Array shaped like Φ; entries outside the mask are ignored (and may be NaN).
    mask
        Booleans of the same shape, at least one of them true.

    """

    def __init__(self, target: Any, mask: Any) -> None:
        T = as_float_array("target", target, 2).astype(np.float64)
        M = as_numpy("mask", mask)
        if M.shape != T.shape:
            raise ValueError(f"mask has shape {M.shape}; expected target's {T.shape}")
        if M.dtype != np.bool_:
            raise ValueError(f"mask has dtype {M.dtype}; expected booleans")
        if not M.any():
            raise ValueError("mask has no true entry; expected at least one")
        self.mask: FloatArray = M.copy()
        self.target = np.where(M, T, 0.0)
        check_finite("target", self.target)

    def check_shape(self, shape: tuple[int, int], homogeneous: bool) -> None:
        """Refuse an end-to-end matrix of another shape."""
        if shape != self.target.shape:
            raise ValueError(f"the end-to-end matrix has shape {shape}; target has {self.target.shape}")

    def value(self, Phi: FloatArray) -> float:
        """The loss at Φ."""
        return float(np.sum(((Phi - self.target) * self.mask) ** 2))

    def gradient(self, Phi: FloatArray) -> FloatArray:
        """Twice the masked difference."""
        return np.asarray(2.0 * self.mask * (Phi - self.target))

    def hessian_product(self, Phi: FloatArray, dPhi: FloatArray) -> FloatArray:
        """Twice the masked dΦ."""
        return 2.0 * self.mask.astype(dPhi.dtype) * dPhi

    def __repr__(self) -> str:
        return f"MaskedQuadraticLoss({self.target.shape[1]} → {self.target.shape[0]}, {int(self.mask.sum())} entries)"
