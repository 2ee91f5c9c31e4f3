r"""Where the loss gradient G is so small that the Gauss–Newton matrix is the Hessian for every practical purpose.

For a quadratic loss in whitened coordinates (Ψ = ΦL, G = 2·scale·(Ψ − T)) the rest of the Hessian couples different
layers through G and has norm at most ‖G‖₂·λ_max(c),

    c_jk = ‖A_k‖ ‖W_{k−1} ⋯ W_{j+1}‖ ‖B_jL‖  (j < k),   c_jj = 0,   c symmetric.

G counts as zero where ‖G‖₂·λ_max(c) ≤ 0.1·tol·λ_1: eigenvalues then move by at most a tenth of the tolerance. All
norms here are bounds on the safe side: the partial products of the narrow end exactly, those that only wide products
would give through ‖W‖₂² ≤ min(‖W‖_F², ‖W‖_1‖W‖_∞), and λ_1 from below by one term of the Gauss–Newton matrix.

Source: docs/theory.md, "The Gauss–Newton part".
"""

from __future__ import annotations

import numpy as np

from flatcore import _core
from flatcore._checks import FloatArray, chunks
from flatcore._linalg import matmul
from flatcore.linear.chain import LinearChain
from flatcore.linear.products import ChainProducts

_ENTRIES_PER_CHUNK = 1 << 21


def negligible_gradient(products: ChainProducts, tol: float) -> bool:
    """Whether G counts as zero at this tolerance; False for losses that are not quadratic."""
    form = products.whitened
    if form is None:
        return False
    Psi = matmul(products.end_to_end, form.factor) if products.narrow_output else products.end_to_end
    G = form.gradient(Psi)
    if not G.any():
        return True
    # Far from interpolation nothing needs to be bounded.
    if np.linalg.norm(G) > tol * 2.0 * form.scale * np.linalg.norm(Psi):
        return False
    links = [_link_norm(products.chain, j) for j in range(products.chain.depth)]
    above, below = _partial_norms(products, form.factor, links)
    exact = 0 if products.narrow_output else -1  # where both norms are
    top = 2.0 * form.scale * (above[exact] * below[exact]) ** 2
    return bool(np.linalg.norm(G, 2) * np.linalg.eigvalsh(_coupling(above, below, links))[-1] <= 0.1 * tol * top)


def _partial_norms(products: ChainProducts, factor: FloatArray, links: list[float]) -> tuple[list[float], list[float]]:
    """Bounds of ‖A_j‖ and ‖B_jL‖, j = 1 … M; the narrow end's side is exact."""
    chain, M = products.chain, products.chain.depth
    if products.narrow_output:
        above = _roots(_core.side_grams(chain.core, None))
        start = factor if chain.biases[0] is not None else factor[: chain.dims[0]]
        below = [float(np.linalg.norm(start, 2))]
        whole = float(np.linalg.norm(factor, 2))
        for j in range(1, M):
            whole *= links[j - 1]
            below.append(whole)
        return above, below
    below = _roots(_core.side_grams(chain.core, np.ascontiguousarray(factor.T)))
    above = [1.0]
    for j in range(M - 1, 0, -1):
        above.insert(0, above[0] * links[j])
    return above, below


def _roots(grams: list[FloatArray]) -> list[float]:
    return [float(np.sqrt(max(0.0, np.linalg.eigvalsh(G)[-1]))) for G in grams]


def _coupling(above: list[float], below: list[float], links: list[float]) -> FloatArray:
    M = len(links)
    c = np.zeros((M, M))
    for j in range(M):
        middle = 1.0
        for k in range(j + 1, M):
            c[j, k] = c[k, j] = above[k] * middle * below[j]
            middle *= links[k]
    return c


def _link_norm(chain: LinearChain, j: int) -> float:
    """A bound of the spectral norm of [[W, b], [0, 1]], or of W on chains without biases; I + W for skip links."""
    W, b = chain.weights[j], chain.biases[j]
    squares, rows, columns = 0.0, 0.0, np.zeros(W.shape[1])
    for part in chunks(W.shape[0], max(1, _ENTRIES_PER_CHUNK // W.shape[1])):
        entries = np.abs(W[part].astype(np.float64))
        squares += float(np.vdot(entries, entries))
        rows = max(rows, float(entries.sum(axis=1).max()))
        columns += entries.sum(axis=0)
    norm = min(np.sqrt(squares), np.sqrt(rows * float(columns.max()))) + chain.skip[j]
    if not chain.has_biases:
        return float(norm)
    return float(np.sqrt(norm**2 + 1.0 + (0.0 if b is None else np.sum(b.astype(np.float64) ** 2))))
