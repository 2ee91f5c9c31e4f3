r"""The reduced Hessian of a chain on a device: every nonzero eigenpair in N ≤ P coordinates, in torch operations.

Every image of the Hessian has blocks aᵀ(·) + (·)b, with near rows a (m × left) and far rows b (m × right) of the layer
(`_device_products.py`). With aᵀ = Q [R; 0] and bᵀ = P [T; 0], Q and P orthogonal, the direction of a layer is

    D̃ = Q [ S      ]        S: r × right,  E: (left − r) × ρ,
          [ E Pᵀ_ρ ]

r = min(m, left), ρ = min(m, right), P_ρ the first ρ columns: an isometry. In these coordinates

    a·D̃ = Rᵀ S,   b·D̃ᵀ = [b Sᵀ, Tᵀ Eᵀ]·Q,   S' = R σ + αᵀ b,   E' = γᵀ Tᵀ  with [α, γ] = da·Q,

da and σ swept as in a full product; no E where there are no terms in b (Gauss–Newton matrix, loss gradient zero).

Q is a block reflector, Q = I − Y Yᵀ (symmetric): with orthonormal rows' columns Q₁ from Householder QR in float64, top
block Q₁ₜ = U Σ Vᵀ and the orthogonal K = −U Vᵀ, Y = (Q₁ − [K; 0]) V (I + Σ)^{−1/2} gives YᵀY = 2I and Q [I; 0] = Q₁ Kᵀ:
nothing is divided by less than one, whatever the rank. Q = I where m ≥ left.

cost    4·m·P flops a direction and two reads of the weights; some ten products of m × m by m × d a layer beside that
memory  3·m·Σd entries in float64 and, once asked for, in float32
source  docs/theory.md, "The reduced Hessian"; block reflectors: Schreiber & Parlett (1988)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flatcore.spectral import OperatorCost
from flatcore.torch._device import exact_products
from flatcore.torch._device_operator import DeviceOperator
from flatcore.torch._device_products import Crossing, DeviceProducts


@dataclass(frozen=True)
class Frame:
    """rowsᵀ = Q [R; 0] with Q = I − Y Yᵀ."""

    reflector: Tensor | None  # Y, (width, rank); None where Q = I
    factor: Tensor  # R, (rank, m)
    width: int

    @classmethod
    def of(cls, rows: Tensor) -> Frame:
        """For rows (m, width) in float64."""
        m, width = rows.shape
        if m >= width:
            return cls(None, rows.mT, width)
        basis, R = torch.linalg.qr(rows.mT)
        U, sigma, Vt = torch.linalg.svd(basis[:m])
        K = -(U @ Vt)
        difference = basis.clone()
        difference[:m] -= K
        return cls((difference @ Vt.mT) / (1.0 + sigma).sqrt(), K @ R, width)

    @classmethod
    def empty(cls, rows: Tensor) -> Frame:
        """Of rank zero."""
        return cls(None, rows.new_empty(0, len(rows)), rows.shape[1])

    @property
    def rank(self) -> int:
        """Columns of Q that hold the rows."""
        return len(self.factor)

    def rotated(self, rows: Tensor) -> Tensor:
        """Rows (…, width) times Q."""
        return rows if self.reflector is None else rows - (rows @ self.reflector) @ self.reflector.mT

    def column(self, index: int) -> Tensor:
        """Column `index` of Q."""
        unit = self.factor.new_zeros(self.width)
        unit[index] = 1.0
        return self.rotated(unit)

    def to(self, dtype: torch.dtype) -> Frame:
        """In another precision."""
        reflector = None if self.reflector is None else self.reflector.to(dtype)
        return Frame(reflector, self.factor.to(dtype), self.width)


@dataclass(frozen=True)
class Piece:
    """One layer's coordinates: S in z at `first`, E behind it."""

    crossing: Crossing
    near: Frame  # of a
    far: Frame  # of b
    b: Tensor  # (m, right)
    first: int

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return self.near.rank * self.far.width + (self.near.width - self.near.rank) * self.far.rank

    @property
    def num_annihilated(self) -> int:
        """Directions of this layer outside the subspace."""
        return (self.near.width - self.near.rank) * (self.far.width - self.far.rank)

    def parts(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Views S (k, r, right) and E (k, left − r, ρ) of rows z (k, N)."""
        k, middle = len(z), self.first + self.near.rank * self.far.width
        S = z[:, self.first : middle].view(k, self.near.rank, self.far.width)
        return S, z[:, middle : self.first + self.size].view(k, self.near.width - self.near.rank, self.far.rank)

    def to(self, dtype: torch.dtype) -> Piece:
        """In another precision."""
        return Piece(self.crossing, self.near.to(dtype), self.far.to(dtype), self.b.to(dtype), self.first)


class DeviceReduced(DeviceOperator):
    """A Hessian, or Gauss–Newton matrix, on the subspace that holds its nonzero eigenvalues.

    Its spectrum is that of the full matrix without P − N of the zeros. ``lift`` is an isometry and ``project`` its
    adjoint, as in :class:`flatcore.linear.Reduced`; vectors stay on the device.

    Examples
    --------
    >>> import torch, flatcore as fc
    >>> from flatcore.torch import DeviceChain
    >>> chain = DeviceChain([torch.randn(40, 30), torch.randn(40, 40), torch.randn(2, 40)])
    >>> R = chain.hessian(fc.QuadraticLoss(torch.randn(50, 30), torch.ones(50, 2))).reduced()
    >>> R
    DeviceReduced(372 of 2880 parameters, float32, cpu, narrow end: output, 2 rows)
    >>> bool((R.project(R.lift(torch.ones(372))) - 1).abs().max() < 1e-4)
    True

    """

    def __init__(self, products: DeviceProducts, gauss_newton: bool) -> None:
        self._curved = not (gauss_newton or products.at_interpolation)
        pieces: list[Piece] = []
        first = 0
        with exact_products(products.chain.device):
            for crossing, a, b in zip(products.crossings, *products.sides(torch.float64), strict=True):
                near, far = a[:, : crossing.near], b[:, : crossing.far]
                far_frame = Frame.of(far) if self._curved else Frame.empty(far)
                pieces.append(Piece(crossing, Frame.of(near), far_frame, far, first))
                first += pieces[-1].size
        self._pieces = {torch.float64: pieces}
        super().__init__(first, products)

    @property
    def cost(self) -> OperatorCost:
        """4·m·P flops and two reads of the weights; some ten products of m × m by m × d a layer beside that."""
        products, N, m = self._products, self.shape[0], self._products.narrow_width
        return OperatorCost(
            shared_bytes=2.0 * products.weight_bytes,
            bytes_per_vector=6.0 * N * self.dtype.itemsize,
            flops_per_vector=4.0 * m * self.chain.num_parameters + 10.0 * m * N + products.loss_flops,
            workspace_bytes=3.0 * m * sum(self.chain.dims) * self.dtype.itemsize,
        )

    def lift(self, z: Any) -> Any:
        """Full directions (P,) or (P, k) that reduced ones (N,) or (N, k) stand for."""
        return self._mapped("z", z, self.shape[0], self._lifted)

    def project(self, v: Any) -> Any:
        """Reduced directions (N,) or (N, k) of full ones (P,) or (P, k): the adjoint of `lift`."""
        return self._mapped("v", v, self.chain.num_parameters, self._projected)

    @property
    def num_annihilated(self) -> int:
        """P − N: orthonormal directions outside the subspace, each with image zero."""
        return self.chain.num_parameters - self.shape[0]

    def annihilated(self, index: int) -> Tensor:
        """Number `index` of these directions (P,), in the chain's precision; it lies in a single layer."""
        out = torch.zeros(1, self.chain.num_parameters, dtype=torch.float64, device=self.device)
        for piece in self._pieces[torch.float64]:
            count = piece.num_annihilated
            if 0 <= index < count:
                u, w = divmod(index, piece.far.width - piece.far.rank)
                near, far = piece.near.column(piece.near.rank + u), piece.far.column(piece.far.rank + w)
                piece.crossing.write(near[None, None], far[None, None], out)
            index -= count
        return out[0].to(self.chain.torch_dtype)

    def lift_layers(self, z: Any) -> Iterator[Any]:
        """One lifted direction (N,) as blocks shaped like W_1, b_1, W_2 and so on."""
        return self.chain.blocks(self.lift(z))

    def annihilated_layers(self, index: int) -> Iterator[Any]:
        """Number `index` of the annihilated directions, as blocks."""
        return self.chain.blocks(self.annihilated(index))

    def _in(self, dtype: torch.dtype) -> list[Piece]:
        if dtype not in self._pieces:
            self._pieces[dtype] = [piece.to(dtype) for piece in self._pieces[torch.float64]]
        return self._pieces[dtype]

    def _products_of(self, z: Tensor) -> Tensor:
        self._products.check_fresh()
        pieces, out = self._in(z.dtype), torch.empty_like(z)
        changes: list[Tensor] = []  # da of every layer
        da = self._products.sides(z.dtype)[0][0].new_zeros(1)
        for piece in pieces:
            S, _ = piece.parts(z)
            moved = piece.crossing.pad_far(piece.near.factor.mT @ S)
            changes.append(da)
            da = piece.crossing.to_far(da) + moved if len(changes) > 1 else moved
        sigma = self._products.loss_hessian(da)
        for i in reversed(range(len(pieces))):
            piece, crossing = pieces[i], pieces[i].crossing
            (S, E), (S_out, E_out) = piece.parts(z), piece.parts(out)
            S_out.copy_(piece.near.factor @ sigma[..., : crossing.far])
            if self._curved and i > 0:
                turned = piece.near.rotated(changes[i][..., : crossing.near])
                S_out += turned[..., : piece.near.rank].mT @ piece.b
                E_out.copy_(turned[..., piece.near.rank :].mT @ piece.far.factor.mT)
            else:
                E_out.zero_()
            if i > 0:
                sigma = crossing.to_near(sigma)
                if self._curved:
                    met = torch.cat([piece.b @ S.mT, piece.far.factor.mT @ E.mT], -1)
                    sigma = sigma + crossing.pad_near(piece.near.rotated(met))
        return out

    def _lifted(self, z: Tensor) -> Tensor:
        out = z.new_empty(len(z), self.chain.num_parameters)
        for piece in self._in(z.dtype):
            S, E = piece.parts(z)
            spread = torch.nn.functional.pad(E, (0, piece.far.width - piece.far.rank))
            columns = torch.cat([S, piece.far.rotated(spread)], 1)
            piece.crossing.write_block(piece.near.rotated(columns.mT).mT, out)
        return out

    def _projected(self, v: Tensor) -> Tensor:
        out = v.new_empty(len(v), self.shape[0])
        for piece in self._in(v.dtype):
            S, E = piece.parts(out)
            columns = piece.near.rotated(piece.crossing.read_block(v).mT).mT
            S.copy_(columns[:, : piece.near.rank])
            E.copy_(piece.far.rotated(columns[:, piece.near.rank :])[..., : piece.far.rank])
        return out
