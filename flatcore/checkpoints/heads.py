r"""Attention heads: spectra of W_QᵀW_K and W_OW_V of every head, and how heads read those of the layer before.

Of a layer with H heads of e entries in a width d, head h has the rows Q_h, K_h, V_h (e, d) of its matrices (out, in)
and the columns O_h (d, e) of the output's; several heads share K and V where there are fewer of these. Products of rank
e are known by e × e Gram matrices (`products.py`): Q_hQ_hᵀ, K_hK_hᵀ, V_hV_hᵀ, O_hᵀO_h. Biases, the norm before and
rotations by position are left out: W_QᵀW_K of a rotary model is that of equal positions.

Composition (Elhage et al. 2021) of head h above with head g below is ‖M O_gV_g‖_F/(‖M‖_F ‖O_gV_g‖_F), where M is

    Q: K_hᵀQ_h,    K: Q_hᵀK_h,    V: O_hV_h,

all of the form M = XᵀY or XY with Y the reader's rows; ‖M O_gV_g‖_F² = tr(T (V_gV_gᵀ) Tᵀ S), S the Gram matrix of X
and T = Y O_g (e × e), so that one product of the reader's rows with O below, (H·e × d)(d × H·e), serves all pairs.

cost    2·H·e²·d flops for each Gram matrix, 2·(H·e)²·d for each kind of composition (less where heads share K and V).
source  Elhage et al. (2021), "A mathematical framework for transformer circuits".
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
import scipy.special
from numpy.typing import NDArray

from flatcore._checks import FloatArray, chunks, common_type
from flatcore._linalg import divided, matmul
from flatcore._threads import limit_threads
from flatcore.checkpoints.products import Gram, norm, product_spectrum, root, scaled_gram
from flatcore.checkpoints.structure import Attention, Part
from flatcore.results import HeadComposition, ProductSpectrum, read_only

_ROWS = 512  # of the readers multiplied together
_DRAWS = 200

Load = Callable[[Part], FloatArray]


class Grams(NamedTuple):
    """Gram matrices 4^exponents · matrices (heads, e, e), one exponent (heads,) each."""

    matrices: FloatArray
    exponents: NDArray[np.int64]

    def each(self) -> Iterator[Gram]:
        """One by one."""
        return (Gram(matrix, int(exponent)) for matrix, exponent in zip(*self, strict=True))


@dataclass(frozen=True)
class Heads:
    """A layer's matrices, which are loaded when they are needed, and the Gram matrices of its heads.

    ``load`` gives the matrix (out, in) of a part. ``query`` and ``output`` are those of so many heads, ``key`` and
    ``value`` of kv_heads; each may be divided by a power of four.
    """

    layer: Attention
    load: Load
    query: Grams
    key: Grams
    value: Grams
    output: Grams

    @classmethod
    def of(cls, layer: Attention, load: Load) -> Heads:
        """With the Gram matrices computed, one matrix in memory at a time."""
        q, k, v = (_grams(load(part), layer.head_dim) for part in (layer.query, layer.key, layer.value))
        return cls(layer, load, q, k, v, _grams(load(layer.output).T, layer.head_dim))

    def shared(self, of_keys: FloatArray) -> FloatArray:
        """One matrix or number a head of those of keys or values."""
        return np.repeat(of_keys, self.layer.heads // self.layer.kv_heads, axis=0)

    def rows(self, part: Part, grams: Grams) -> FloatArray:
        """The matrix (out, in) of a part, its rows divided by the powers of two of these Gram matrices' heads."""
        matrix = self.load(part)
        if not grams.exponents.any():
            return matrix
        return divided(matrix, np.repeat(grams.exponents, self.layer.head_dim)[:, None])

    def written(self) -> FloatArray:
        """The output's matrix (out, in), its columns divided by the powers of two of their heads."""
        matrix = self.load(self.layer.output)
        if not self.output.exponents.any():
            return matrix
        return divided(matrix, np.repeat(self.output.exponents, self.layer.head_dim))

    @functools.cached_property
    def qk_norms(self) -> FloatArray:
        """‖W_QᵀW_K‖_F of every head, of the matrices divided by powers of two."""
        return _norms(self.query.matrices, self.shared(self.key.matrices))

    @functools.cached_property
    def ov_norms(self) -> FloatArray:
        """‖W_OW_V‖_F of every head, of the matrices divided by powers of two."""
        return _norms(self.output.matrices, self.shared(self.value.matrices))


def head_products(heads: Heads, k: int) -> Iterator[ProductSpectrum]:
    """W_QᵀW_K and W_OW_V of every head.

    Raises
    ------
    ArithmeticError
        Singular values beyond float64.

    """
    layer = heads.layer
    kinds = [
        ("QK", (layer.query, layer.key), (layer.query.inputs, layer.key.inputs), heads.query, heads.key),
        ("OV", (layer.output, layer.value), (layer.output.rows, layer.value.inputs), heads.output, heads.value),
    ]
    note = f"{layer.heads // layer.kv_heads} heads share a key and value" if layer.kv_heads < layer.heads else ""
    for kind, factors, shape, left, right in kinds:
        both = Grams(heads.shared(right.matrices), heads.shared(right.exponents))
        for h, (S, T) in enumerate(zip(left.each(), both.each(), strict=True)):
            names = factors[0].name, factors[1].name
            yield product_spectrum(S, T, k, name=layer.name, kind=kind, factors=names, shape=shape, note=note, head=h)


def compositions(below: Heads, above: Heads) -> Iterator[HeadComposition]:
    """Scores of every head above with every head below, for queries, keys and values."""
    d, e = below.layer.output.rows, above.layer.head_dim
    centre, spread = composition_chance(d, e) if e == below.layer.head_dim else (math.nan, math.nan)
    output = below.written()
    written = output.astype(common_type(output), copy=False)
    value_roots = below.shared(_roots(below.value, written.dtype))
    layer = above.layer
    kinds = [
        ("Q", layer.query, above.query, above.shared(_roots(above.key, written.dtype)), above.qk_norms),
        ("K", layer.key, above.key, _roots(above.query, written.dtype), above.qk_norms),
        ("V", layer.value, above.value, _roots(above.output, written.dtype), above.ov_norms),
    ]
    for kind, reader, grams, outer_roots, norms in kinds:
        squares = _squares(above, above.rows(reader, grams), outer_roots, written, value_roots)
        size = norms[:, None] * below.ov_norms
        scores = np.divide(np.sqrt(squares), size, out=np.full(size.shape, math.nan), where=size > 0.0)
        high = float(scipy.special.ndtri(0.95 ** (1.0 / scores.size)))
        yield HeadComposition(
            lower=below.layer.name,
            upper=above.layer.name,
            kind=kind,
            scores=read_only(scores),
            chance=math.exp(centre),
            chance_95=min(math.exp(centre + spread * high), 1.0),
        )


def _squares(
    above: Heads, rows: FloatArray, outer_roots: FloatArray, written: FloatArray, value_roots: FloatArray
) -> FloatArray:
    """tr(T VVᵀ Tᵀ S) (heads above, heads below) of roots of VVᵀ and S, a few reading heads at a time."""
    e, heads = above.layer.head_dim, above.layer.heads
    sharing = heads * e // len(rows)  # heads above that read with the same rows
    width = value_roots.shape[1]
    out = np.empty((heads, len(value_roots)))
    for part in chunks(len(rows) // e, max(1, _ROWS // e)):
        T = matmul(np.ascontiguousarray(rows[part.start * e : part.stop * e], dtype=written.dtype), written)
        with limit_threads(1):
            T = np.hstack([matmul(T[:, g * width : (g + 1) * width], R.T) for g, R in enumerate(value_roots)])
            for h in range(part.start * sharing, part.stop * sharing):
                first = (h // sharing - part.start) * e
                image = matmul(outer_roots[h], T[first : first + e])
                out[h] = np.square(image).reshape(e, len(value_roots), width).sum(axis=(0, 2), dtype=np.float64)
    return out


def _roots(grams: Grams, dtype: np.dtype[Any]) -> FloatArray:
    return np.stack([root(G) for G in grams.matrices]).astype(dtype)


def _grams(rows: FloatArray, e: int) -> Grams:
    """Gram matrices of every head's rows."""
    found = [scaled_gram(rows[part]) for part in chunks(len(rows), e)]
    return Grams(np.stack([g.matrix for g in found]), np.array([g.exponent for g in found]))


def _norms(S: FloatArray, T: FloatArray) -> FloatArray:
    return np.asarray(np.sqrt(np.maximum((S * T).sum(axis=(1, 2)), 0.0)))


@lru_cache(maxsize=32)
def composition_chance(width: int, e: int) -> tuple[float, float]:
    """Mean and standard deviation of the logarithm of a composition score for Gaussian factors of heads (e, width).

    From 200 seeded draws. The scores concentrate near 1/√width (the mean of the square is 1/width for random ranges)
    and their logarithms are close to normal: over 20,000 draws with (e, width) = (12, 96), (32, 256), (64, 768) their
    skewness was −0.08, −0.05, −0.02. The level that the largest of n exceeds once in twenty is taken from the normal
    law, as if the n scores were independent.
    """
    rng = np.random.default_rng(0)
    with limit_threads(1):
        scores = [_draw(rng, width, e) for _ in range(_DRAWS)]
    logarithms = np.log(scores)
    return float(logarithms.mean()), float(logarithms.std(ddof=1))


def _draw(rng: np.random.Generator, d: int, e: int) -> float:
    """One score, from e × e matrices alone: Bartlett's roots of the Gram matrices and two random frames.

    Heads that are larger than the width have no frame in it: their factors are drawn.
    """
    if e > d:
        q, k, o, v = rng.standard_normal((4, e, d))
        M, W = matmul(k.T, q), matmul(o.T, v)
        return norm(matmul(M, W)) / (norm(M) * norm(W))
    Q, K, O, V = (_wishart_root(rng, d, e) for _ in range(4))  # noqa: E741
    M, W = matmul(K, Q.T), matmul(O, V.T)
    return norm(matmul(matmul(M, _frame_overlap(rng, d, e)), W)) / (norm(M) * norm(W))


def _wishart_root(rng: np.random.Generator, d: int, e: int) -> FloatArray:
    """R (e, e) with RᵀR the Gram matrix of e Gaussian vectors of length d (Bartlett); upper triangular."""
    R = np.triu(rng.standard_normal((e, e)), 1)
    R[np.diag_indices(e)] = np.sqrt(rng.chisquare(np.maximum(d - np.arange(e), 1)))
    R[d:] = 0.0  # shorter vectors than there are of them
    return R


def _frame_overlap(rng: np.random.Generator, d: int, e: int) -> FloatArray:
    """Coefficients (e, e) of one random e-dimensional frame of R^d in another, up to a rotation of it.

    They are e rows of a random matrix (d, e) with orthonormal columns: G C⁻¹, CᵀC = GᵀG + RᵀR, G Gaussian and RᵀR the
    Gram matrix of the other d − e rows.
    """
    G, R = rng.standard_normal((e, e)), _wishart_root(rng, d - e, e)
    C = scipy.linalg.cholesky(matmul(G.T, G) + matmul(R.T, R), check_finite=False)
    overlap: FloatArray = scipy.linalg.solve_triangular(C, G.T, trans=1, check_finite=False).T
    return overlap
