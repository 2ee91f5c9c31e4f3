r"""Orthonormal blocks: Gram–Schmidt passes against known rows, normalisation, and random rows where rank is lost.

A block W that comes from a Krylov recurrence has had the rows that the recurrence knows of taken out of it. Against all
known rows V it takes one more pass,

    W − V·again = C·Q,      again = VᵀW,

whose Gram matrix follows from the one before it; Q is the orthonormal block nearest to the scaled rows: one combination
with the inverse root of their scaled Gram matrix, where that is well conditioned. An ill-conditioned block is
normalised between more passes, and one that may be rank-deficient is rotated first, its norms measured afterwards, and
what is rounding dropped: a Gram matrix is never inverted unrepaired. A block becomes its successor in place.

cost    a pass: 4·N·b·c flops and two reads of the c known rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from flatcore._checks import FloatArray
from flatcore.spectral._small import eigh
from flatcore.spectral._vectors import BlockVectors

_MOST_PASSES = 4
_LONG = 0.5  # what is left of a unit row that was orthogonal up to a small error
_UNTOUCHED = 0.99  # and of its square, where a single pass is enough: coefficients h leave h·‖VᵀV − I‖
_CONDITION = 1e-3  # smallest eigenvalue of a scaled Gram matrix that is inverted before another pass
_WELL_CONDITIONED = 0.3  # and before none: its inverse root enlarges what is left of known rows by less than 2
_TINY = 1e-150  # norms whose squares would vanish


def orthonormal_against(
    vectors: BlockVectors, known: Any, W: Any, H: FloatArray, scale: float
) -> tuple[FloatArray, Any]:
    """C, Q with W = C Q after passes against `known`, whose coefficients are added to H.

    One pass is all that well-conditioned rows need, which it leaves long: their Gram matrix afterwards is known
    from the one before (Pythagoras, without cancellation then), and one combination makes them orthonormal.
    """
    if len(W) == 0:
        return np.zeros((0, 0)), W
    before, left, again = _pass(vectors, known, W)
    H += again
    least = _least(vectors.dtype, scale, float(before.max(initial=0.0)))
    if (left.diagonal() > np.maximum(least**2, _UNTOUCHED * before)).all():
        inverse = _inverse_root(left, _WELL_CONDITIONED)
        if inverse is not None:
            vectors.combine(W, inverse[0])
            return inverse[1], W
    return _carefully_orthonormal(vectors, known, W, H, scale)


def _pass(vectors: BlockVectors, known: Any, W: Any) -> tuple[FloatArray, FloatArray, FloatArray]:
    """One Gram–Schmidt pass: squared norms before it, the Gram matrix after it, and the coefficients."""
    again, G = vectors.gram(known, W), vectors.gram(W, W)
    vectors.update(W, known, again)
    return G.diagonal(), G - again.T @ again, again


def _carefully_orthonormal(
    vectors: BlockVectors, known: Any, W: Any, H: FloatArray, scale: float
) -> tuple[FloatArray, Any]:
    """As `orthonormal_against`: normalised rows, and passes until these stay long.

    Rows that go on shrinking were rounding of the operator's scale: they drop out.
    """
    C, W, norms = normalised(vectors, W, relative_to=scale)
    for _ in range(_MOST_PASSES):
        if len(W) == 0:
            break
        _, left, again = _pass(vectors, known, W)
        H += again @ C.T
        inverse = _inverse_root(left, _WELL_CONDITIONED) if left.diagonal().min() > _LONG**2 else None
        if inverse is not None:
            vectors.combine(W, inverse[0])
            return C @ inverse[1], W
        C2, W, norms = normalised(vectors, W, relative_to=0.0)
        C = C @ C2
    long = norms > _LONG
    vectors.combine(W, np.eye(len(W))[:, long])
    return C[:, long], W[: int(long.sum())]


def normalised(vectors: BlockVectors, W: Any, relative_to: float) -> tuple[FloatArray, Any, FloatArray]:
    """C, Q with W = C Q, Q nearly orthonormal, and norms; what is below the rounding of `relative_to` drops out."""
    if len(W) == 0:
        return np.zeros((0, 0)), W, np.zeros(0)
    G = vectors.gram(W, W)
    if not np.isfinite(G).all():
        raise ValueError("the squares of the operator's products overflow; scale it")
    squares = G.diagonal()
    least = _least(vectors.dtype, relative_to, squares.max())
    inverse = _inverse_root(G, _CONDITION) if squares.min() > least**2 else None
    if inverse is None:
        return _rotated(vectors, W, G, relative_to)
    vectors.combine(W, inverse[0])
    return inverse[1], W, np.sqrt(squares)


def _rotated(vectors: BlockVectors, W: Any, G: FloatArray, relative_to: float) -> tuple[FloatArray, Any, FloatArray]:
    """As `normalised`, for rows that may be dependent or rounding alone.

    W is rotated to the eigenvectors of its Gram matrix and its norms are measured afterwards: the Gram matrix's own
    eigenvalues are noise below eps times the largest. A second call makes the rows orthonormal to rounding.
    """
    _, U = eigh((G + G.T) / 2)
    vectors.combine(W, U)
    norms = np.sqrt(np.diag(vectors.gram(W, W)))
    kept = norms > _least(vectors.dtype, relative_to, float(norms.max()) ** 2)
    vectors.combine(W, np.eye(len(W))[:, kept] / norms[kept])
    return U[:, kept] * norms[kept], W[: int(kept.sum())], norms[kept]


def _least(dtype: np.dtype[Any], relative_to: float, largest_square: float) -> float:
    """Norms at most this are rounding of `relative_to`, or of the largest row."""
    eps = float(np.finfo(dtype).eps)
    return float(max(4.0 * eps * relative_to, 10.0 * eps * np.sqrt(largest_square), _TINY))


def with_random(vectors: BlockVectors, Q: Any, known: Any, missing: int, seeds: Iterator[int]) -> Any:
    """`Q` with `missing` random rows added, all orthonormal and orthogonal to `known`."""
    while missing > 0:
        rows = vectors.empty(len(Q) + missing)
        rows[: len(Q)] = Q
        fresh = rows[len(Q) :]
        vectors.random(fresh, next(seeds))
        for _ in range(2):
            for others in (known, Q):
                vectors.update(fresh, others, vectors.gram(others, fresh))
            _, fresh, _ = normalised(vectors, fresh, relative_to=0.0)
        Q, missing = rows[: len(Q) + len(fresh)], missing - len(fresh)
    return Q


def _inverse_root(G: FloatArray, least: float) -> tuple[FloatArray, FloatArray] | None:
    """M, C with MᵀGM = I and CᵀM = I, from S = D⁻¹GD⁻¹ with unit diagonal; None where an eigenvalue is below `least`.

    M = D⁻¹S^{−1/2} and C = D S^{1/2}: the rows MᵀW are the orthonormal ones nearest to D⁻¹W, and W = C (MᵀW).
    """
    d = np.sqrt(G.diagonal())
    S = G / np.outer(d, d)
    values, U = eigh((S + S.T) / 2)
    if values[0] < least:
        return None
    roots = np.sqrt(values)  # evd: the vectors of MRRR lose orthogonality among nearly equal eigenvalues
    return (U / roots) @ U.T / d[:, None], d[:, None] * ((U * roots) @ U.T)
