r"""Block vectors of the solvers as torch tensors, on the device where an operator's products are taken.

Rows (b, N) never leave the device; what comes to the host are Gram matrices, one small copy each. Arithmetic is that of
the kernels in host memory: products of float32 rows are summed in float32 over 4096 columns and in float64 between
these,

    VWᵀ = Σ_p V_p W_pᵀ,      V_p: columns 4096·p … 4096·(p + 1) − 1,

where all V_pW_pᵀ of a panel are one batched product. Combinations replace their rows panel by panel: temporary memory
is at most `_PANEL_ENTRIES` entries however long the vectors.

Float32 products are taken in float32 whatever the surroundings allow: TF32 (10 bits) and autocast would leave bases
orthogonal to three digits.

cost    gram and update 2·a·b·N flops for a and b rows, combine 2·a·m·N for m combinations; each reads its rows once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from flatcore._checks import FloatArray, is_tensor
from flatcore.spectral._vectors import checked_columns
from flatcore.torch._device import check_memory, exact_products, free_memory

_CHUNK = 4096  # columns of float32 products that are summed in float32
_PANEL_ENTRIES = 1 << 24  # of temporary memory
_LARGEST_BATCH = 1 << 15
_TYPES = {np.dtype(np.float32): torch.float32, np.dtype(np.float64): torch.float64}


class DeviceVectors:
    """Block vectors of one length and precision as tensors on a device.

    Parameters
    ----------
    length
        Entries N of a vector.
    dtype
        float32 or float64.
    device
        What `torch.device` takes.

    Examples
    --------
    >>> import numpy as np
    >>> from flatcore.torch._vectors import DeviceVectors
    >>> vectors = DeviceVectors(5000, np.float32, "cpu")
    >>> rows = vectors.empty(2)
    >>> vectors.random(rows, seed=0)
    >>> bool((np.abs(vectors.gram(rows, rows) / 5000 - np.eye(2)) < 0.1).all())
    True

    """

    def __init__(self, length: int, dtype: Any, device: Any) -> None:
        self.length = length
        self.dtype = np.dtype(dtype)
        if self.dtype not in _TYPES:
            raise ValueError(f"dtype is {self.dtype}; expected float32 or float64")
        self.device = torch.device(device)

    def empty(self, count: int) -> torch.Tensor:
        """Room for `count` vectors; refuses what the device's memory cannot hold."""
        what = f"a basis of {count} vectors of {self.length}"
        self.check_memory(what, count * self.length * self.dtype.itemsize)
        return torch.empty((count, self.length), dtype=_TYPES[self.dtype], device=self.device)

    def copy(self, rows: Any) -> torch.Tensor:
        """A new block with the values of `rows`: tensors on any device, or a NumPy array."""
        if not is_tensor(rows):
            rows = torch.from_numpy(np.array(rows, dtype=self.dtype, order="C"))
        out = torch.empty(rows.shape, dtype=_TYPES[self.dtype], device=self.device)
        return out.copy_(rows.detach())

    def own(self, image: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """The product `image` in the precision of `rows`, in memory that is not theirs and may be written."""
        if image.device != rows.device:
            raise ValueError(f"operator.rows_product(rows) lives on {image.device}; expected {rows.device}")
        out = image.detach().to(rows.dtype).contiguous()
        shared = out.untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()
        return out.clone() if shared or out.is_inference() else out

    def columns(self, name: str, value: Any) -> Any:
        """Start vectors (N,) or (N, b) as columns (N, b): tensors on their device, others in host memory."""
        if not is_tensor(value):
            return checked_columns(name, value, self.length)
        tensor = value.detach()
        if tensor.ndim not in (1, 2) or tensor.shape[0] != self.length or tensor.numel() == 0:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected ({self.length},) or ({self.length}, b)")
        if tensor.layout != torch.strided:
            raise ValueError(f"{name} has layout {tensor.layout}; expected a dense tensor (use .to_dense())")
        if tensor.is_complex():
            raise ValueError(f"{name} is complex ({tensor.dtype}); expected real numbers")
        bad = torch.nonzero(~torch.isfinite(tensor))[:1].tolist()
        if bad:
            position = ", ".join(str(i) for i in bad[0])
            raise ValueError(
                f"{name} contains {tensor[tuple(bad[0])].item()} at index ({position}); expected finite numbers"
            )
        return tensor.reshape(self.length, -1)

    def host(self, rows: torch.Tensor) -> FloatArray:
        """The same numbers as a NumPy array: the only way from the device to the host."""
        return np.asarray(rows.detach().cpu().numpy())

    def random(self, rows: torch.Tensor, seed: int, *, signs: bool = False) -> None:
        """Standard normal entries by the device's own generator, or their signs; a seed gives a block the same bits.

        Another device, or another shape of the block, gives others.
        """
        rows.normal_(generator=torch.Generator(device=self.device).manual_seed(seed))
        if signs:
            rows.ge_(0.0).mul_(2.0).sub_(1.0)

    def sizes(self, rows: torch.Tensor) -> FloatArray:
        """The largest modulus in each row; NaN where it holds one."""
        return self.host(torch.linalg.vector_norm(rows, float("inf"), dim=1))

    def ldexp(self, rows: torch.Tensor, exponent: int) -> None:
        """Multiply by 2^exponent in place, in two factors that are numbers of the precision wherever the product is."""
        rows.mul_(2.0 ** (exponent // 2)).mul_(2.0 ** (exponent - exponent // 2))

    def gram(self, V: torch.Tensor, W: torch.Tensor) -> FloatArray:
        """V Wᵀ, with float64 sums between chunks of columns."""
        total = torch.zeros((len(V), len(W)), dtype=torch.float64, device=self.device)
        if total.numel() == 0:
            return np.zeros((len(V), len(W)))
        chunks = self.length // _CHUNK
        panel = max(1, min(_LARGEST_BATCH, _PANEL_ENTRIES // total.numel()))
        with exact_products(self.device):
            for first in range(0, chunks, panel):
                last = min(first + panel, chunks)
                left, right = (_chunked(X, first, last) for X in (V, W))
                total += torch.bmm(left, right.transpose(1, 2)).sum(0, dtype=torch.float64)
            rest = slice(chunks * _CHUNK, None)
            total += V[:, rest] @ W[:, rest].T
        return self.host(total)

    def update(self, W: torch.Tensor, V: torch.Tensor, C: FloatArray) -> None:
        """W -= Cᵀ V in place."""
        if len(V) and len(W):
            with exact_products(self.device):
                W.addmm_(self._coefficients(C.T), V, alpha=-1.0)

    def combine(self, V: torch.Tensor, C: FloatArray) -> None:
        """Make the first C.shape[1] rows of V the combinations Cᵀ V."""
        m = C.shape[1]
        if m == 0:
            return
        coefficients, width = self._coefficients(C.T), max(1, _PANEL_ENTRIES // (m * _CHUNK)) * _CHUNK
        with exact_products(self.device):
            for first in range(0, self.length, width):
                panel = V[:, first : first + width]
                panel[:m] = coefficients @ panel

    def available(self) -> int | None:
        """Bytes free on the device; None where it does not tell."""
        return free_memory(self.device)

    def check_memory(self, what: str, needed: int) -> None:
        """Refuse what the device's memory cannot hold."""
        check_memory(what, needed, self.device)

    def _coefficients(self, C: FloatArray) -> torch.Tensor:
        return torch.from_numpy(np.array(C, dtype=self.dtype, order="C")).to(self.device)


def _chunked(V: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """Chunks of columns as a batch (last − first, rows, 4096), in V's own memory."""
    return V[:, first * _CHUNK : last * _CHUNK].view(len(V), last - first, _CHUNK).transpose(0, 1)
