"""The narrow-end Hessian product and the reduced Hessian (docs/theory.md), written once over two kinds of matrices.

``NumpyMatrices`` is what a careful user writes with NumPy, ``ListMatrices`` what plain Python can do: both run the same
formulas as flatcore's kernels, and share no code with them. The output is the narrow end and the loss the mean squared
error, L = (1/nm) Σ‖Φx − y‖²; so G = 2(ΦS − C)/m and 𝓗[X] = 2XS/m with S = XᵀX/n, C = YᵀX/n.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import add, mul, sub
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import scipy.linalg

from benchmarks.contenders.base import Array

if TYPE_CHECKING:
    from benchmarks.hessian_problem import HessianProblem

Matrix = Any
Rows = list[list[float]]


class Matrices(Protocol):
    """Dense matrices of one kind."""

    def take(self, A: Array) -> Matrix:
        """A NumPy array as such a matrix."""

    def give(self, A: Matrix) -> Array:
        """Such a matrix as a NumPy array."""

    def product(self, A: Matrix, B: Matrix) -> Matrix:
        """A B."""

    def transpose(self, A: Matrix) -> Matrix:
        """Aᵀ."""

    def plus(self, A: Matrix, B: Matrix) -> Matrix:
        """A + B."""

    def minus(self, A: Matrix, B: Matrix) -> Matrix:
        """A − B."""


class NumpyMatrices:
    """NumPy arrays."""

    product = staticmethod(np.matmul)
    transpose = staticmethod(np.transpose)
    plus = staticmethod(np.add)
    minus = staticmethod(np.subtract)

    @staticmethod
    def take(A: Array) -> Array:
        """The array itself."""
        return A

    @staticmethod
    def give(A: Array) -> Array:
        """The array itself."""
        return A


class ListMatrices:
    """Lists of rows of Python floats."""

    @staticmethod
    def take(A: Array) -> Rows:
        """The array's rows."""
        rows: Rows = A.tolist()
        return rows

    @staticmethod
    def give(A: Rows) -> Array:
        """An array of the rows."""
        return np.array(A)

    @staticmethod
    def product(A: Rows, B: Rows) -> Rows:
        """A B, each entry a dot product."""
        columns = list(zip(*B, strict=True))
        return [[sum(map(mul, row, column)) for column in columns] for row in A]

    @staticmethod
    def transpose(A: Rows) -> Rows:
        """Aᵀ."""
        return [list(column) for column in zip(*A, strict=True)]

    @staticmethod
    def plus(A: Rows, B: Rows) -> Rows:
        """A + B."""
        return [list(map(add, a, b)) for a, b in zip(A, B, strict=True)]

    @staticmethod
    def minus(A: Rows, B: Rows) -> Rows:
        """A − B."""
        return [list(map(sub, a, b)) for a, b in zip(A, B, strict=True)]


class _Sweeps:
    """Partial products A_j = W_M ⋯ W_{j+1} and b_j = W_{j−1} ⋯ W_1 Gᵀ, and the loss's second derivative."""

    def __init__(self, problem: HessianProblem, matrices: Matrices) -> None:
        W, X, Y = problem.weights, problem.inputs, problem.targets
        n, m = Y.shape
        self.matrices, self.shapes = matrices, [layer.shape for layer in W]
        self.A = list(accumulate(reversed(W[1:]), np.matmul, initial=np.eye(m, dtype=X.dtype)))[::-1]
        S, C, Phi = X.T @ X / n, Y.T @ X / n, self.A[0] @ W[0]
        G = (Phi @ S - C) * (2.0 / m)
        self.b = list(accumulate(W[:-1], lambda b, layer: layer @ b, initial=G.T))
        self.W = [matrices.take(layer) for layer in W]
        self.S = matrices.take(S * X.dtype.type(2.0 / m))

    def split(self, v: Array, shapes: Sequence[tuple[int, int]]) -> list[Matrix]:
        """Consecutive blocks of a flat vector."""
        ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
        return [self.matrices.take(x.reshape(shape)) for x, shape in zip(np.split(v, ends), shapes, strict=True)]

    def joined(self, blocks: Sequence[Matrix]) -> Array:
        """Inverse of `split`."""
        return np.concatenate([self.matrices.give(block).reshape(-1) for block in blocks])


class NarrowEnd(_Sweeps):
    """H @ v: down the chain da ← da·W_j + A_jD_j, up the chain s ← W_js + D_jb_j."""

    def __init__(self, problem: HessianProblem, matrices: Matrices) -> None:
        super().__init__(problem, matrices)
        self.top = [matrices.take(A) for A in self.A]
        self.top_t = [matrices.take(A.T) for A in self.A]
        self.below = [matrices.take(b) for b in self.b]
        self.below_t = [matrices.take(b.T) for b in self.b]

    def __call__(self, v: Array) -> Array:
        """The product, of the shape of v (P,)."""
        m = self.matrices
        D = self.split(v, self.shapes)
        depth = len(D)
        dA: list[Matrix] = [None] * depth  # A_M = I does not move: its da is zero and left out
        da = m.product(self.top[-1], D[-1])
        for j in reversed(range(depth - 1)):
            dA[j] = da
            da = m.plus(m.product(da, self.W[j]), m.product(self.top[j], D[j]))
        s = m.transpose(m.product(da, self.S))
        out = []
        for j in range(depth):
            block = m.product(self.top_t[j], m.transpose(s))
            if j < depth - 1:
                block = m.plus(block, m.product(m.transpose(dA[j]), self.below_t[j]))
                s = m.plus(m.product(self.W[j], s), m.product(D[j], self.below[j]))
            out.append(block)
        return self.joined(out)


class ReducedEnd(_Sweeps):
    """R @ z in the coordinates v_j = Q_jS_j + E_jP_jᵀ, with A_jᵀ = Q_jR_j, b_j = P_jT_j and Q_jᵀE_j = 0."""

    def __init__(self, problem: HessianProblem, matrices: Matrices) -> None:
        super().__init__(problem, matrices)
        top = [scipy.linalg.qr(A.T, mode="economic") for A in self.A]
        below = [scipy.linalg.qr(b, mode="economic") for b in self.b[:-1]]
        take = matrices.take
        self.Q, self.Qt = [take(Q) for Q, _ in top], [take(Q.T) for Q, _ in top]
        self.R, self.Rt = [take(R) for _, R in top], [take(R.T) for _, R in top]
        self.P, self.Pt = [take(P) for P, _ in below], [take(P.T) for P, _ in below]
        self.T, self.Tt = [take(T) for _, T in below], [take(T.T) for _, T in below]
        self.below, self.below_t = [take(b) for b in self.b], [take(b.T) for b in self.b]
        self.coordinates = [(Q.shape[1], columns) for (Q, _), (_, columns) in zip(top, self.shapes, strict=True)]
        self.coordinates += [(rows, P.shape[1]) for (P, _), (rows, _) in zip(below, self.shapes[:-1], strict=True)]

    def _outside(self, j: int, E: Matrix) -> Matrix:
        """(I − Q_jQ_jᵀ) E."""
        m = self.matrices
        return m.minus(E, m.product(self.Q[j], m.product(self.Qt[j], E)))

    def _halves(self, z: Array) -> tuple[list[Matrix], list[Matrix]]:
        blocks = self.split(z, self.coordinates)
        depth = len(self.shapes)
        return blocks[:depth], [self._outside(j, E) for j, E in enumerate(blocks[depth:])]

    def __call__(self, z: Array) -> Array:
        """The product, of the shape of z (N,)."""
        m = self.matrices
        S, E = self._halves(z)
        depth = len(S)
        dA: list[Matrix] = [None] * depth
        da = m.product(self.Rt[-1], S[-1])
        for j in reversed(range(depth - 1)):
            dA[j] = da
            da = m.plus(m.product(da, self.W[j]), m.product(self.Rt[j], S[j]))
        s = m.transpose(m.product(da, self.S))
        out_S, out_E = [], []
        for j in range(depth):
            block = m.product(self.R[j], m.transpose(s))
            if j < depth - 1:
                dA_t = m.transpose(dA[j])
                block = m.plus(block, m.product(m.product(self.Qt[j], dA_t), self.below_t[j]))
                out_E.append(self._outside(j, m.product(dA_t, self.Tt[j])))
                change = m.plus(m.product(self.Q[j], m.product(S[j], self.below[j])), m.product(E[j], self.T[j]))
                s = m.plus(m.product(self.W[j], s), change)
            out_S.append(block)
        return self.joined([*out_S, *out_E])

    def lift(self, z: Array) -> Array:
        """The vector v (P,) with coordinates z."""
        m = self.matrices
        S, E = self._halves(z)
        blocks = [m.product(Q, x) for Q, x in zip(self.Q, S, strict=True)]
        for j, x in enumerate(E):
            blocks[j] = m.plus(blocks[j], m.product(x, self.Pt[j]))
        return self.joined(blocks)

    def project(self, v: Array) -> Array:
        """Adjoint of `lift`: coordinates (N,) of v (P,)."""
        m = self.matrices
        V = self.split(v, self.shapes)
        S = [m.product(Qt, x) for Qt, x in zip(self.Qt, V, strict=True)]
        E = [self._outside(j, m.product(x, P)) for j, (x, P) in enumerate(zip(V, self.P, strict=False))]
        return self.joined([*S, *E])
