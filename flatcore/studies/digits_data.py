"""Handwritten digits (scikit-learn's bundled set: 1797 images of 8 × 8 pixels) as regression and classification."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flatcore._checks import FloatArray
from flatcore.linear import QuadraticLoss

COMPONENTS = 30


@dataclass(frozen=True)
class Halves:
    """Top whitened principal components of the left and the right half of each image, both (n, 30) with S = I."""

    left: FloatArray
    right: FloatArray

    @property
    def correlation(self) -> FloatArray:
        """Φ* = (1/n) Σ yxᵀ, whose singular values are canonical correlations."""
        return self.right.T @ self.left / len(self.left)

    def loss(self, rotated: bool) -> QuadraticLoss:
        """Left → right; `rotated` turns the targets by the polar factor that makes Φ* symmetric positive definite."""
        return QuadraticLoss(self.left, self.right @ polar_factor(self.correlation) if rotated else self.right)


def polar_factor(A: FloatArray) -> FloatArray:
    """The orthogonal Q of A = Q P with P symmetric positive semidefinite."""
    U, _, Vt = np.linalg.svd(A)
    return np.asarray(U @ Vt)


def whitened_components(rows: FloatArray, count: int) -> FloatArray:
    """The `count` leading principal components of the rows, scaled to unit variance, signs fixed.

    Each component's sign makes the largest entry of its direction positive, so that the result depends on nothing but
    the data.
    """
    centred = rows - rows.mean(axis=0)
    U, s, Vt = np.linalg.svd(centred, full_matrices=False)
    if s[count - 1] <= 1e-10 * s[0]:
        raise ValueError(f"the data have rank {int((s > 1e-10 * s[0]).sum())}; expected at least {count}")
    signs = np.sign(Vt[np.arange(count), np.abs(Vt[:count]).argmax(axis=1)])
    return np.asarray(U[:, :count] * signs * np.sqrt(len(rows)))


def load() -> tuple[FloatArray, FloatArray]:
    """Images (1797, 8, 8) with pixels in [0, 1], and their digits (1797,)."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images / 16.0, digits.target


def halves(images: FloatArray) -> Halves:
    """The first task's data."""
    n = len(images)
    left, right = images[:, :, :4].reshape(n, -1), images[:, :, 4:].reshape(n, -1)
    return Halves(whitened_components(left, COMPONENTS), whitened_components(right, COMPONENTS))
