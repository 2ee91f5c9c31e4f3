"""Exact singular values of a multi-channel circular convolution of stride one, by the Fourier transform.

On a grid of n_1 × … × n_r points with circular padding and dilation d,

    y[o, t] = Σ_{i,s} w[o, i, s] x[i, t + d·s − p mod n]

commutes with translations. On the functions e^{2πi⟨f, t/n⟩}, f on the grid of frequencies, it is the o × i matrix

    Ŵ(f) = Σ_s w[:, :, s] e^{2πi Σ_a f_a d_a s_a / n_a}

times a phase from the padding p. These functions are orthogonal, so the singular values of the whole map (o·N × i·N,
N = Πn_a) are those of the N matrices Ŵ(f) together. The map is real: Ŵ(−f) is the conjugate of Ŵ(f), and one of each
pair is decomposed. Groups are diagonal blocks of Ŵ(f).

The transform is evaluated at a panel of frequencies as a product with the K offsets: exact for kernels that wrap around
the grid, and no array of all frequencies is held. Cost: o·i·K·N multiplications and N/2 complex SVDs of o × i matrices
in float64, on the kernel's device.

Source: Sedghi, Gupta & Long, "The singular values of convolutional layers", ICLR 2019, theorem 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from flatcore._checks import FloatArray

_PANEL_ENTRIES = 1 << 21  # complex entries of the matrices decomposed together


def circular_singular_values(
    weight: torch.Tensor, grid: Sequence[int], *, dilation: Sequence[int] | None = None, groups: int = 1
) -> FloatArray:
    """All singular values of a circular convolution of stride one on a grid.

    Parameters
    ----------
    weight
        (out, in/groups, k_1, …, k_r), the layout of ``torch.nn.Conv1d`` to ``Conv3d``; on any device.
    grid
        n_1, …, n_r points.
    dilation
        Of the kernel along each dimension; None means 1.
    groups
        Groups of channels.

    Returns
    -------
    FloatArray
        N·groups·min(out, in)/groups values in float64, descending, each as often as it occurs.

    Raises
    ------
    ValueError
        A grid or dilation of another length, or with entries below 1.

    Examples
    --------
    >>> import torch
    >>> circular_singular_values(torch.tensor([[[1.0, -1.0]]]), (4,)).round(6)  # differences of neighbours
    array([2.      , 1.414214, 1.414214, 0.      ])

    """
    extent = tuple(weight.shape[2:])
    steps = (1,) * len(extent) if dilation is None else tuple(dilation)
    for name, value in (("grid", tuple(grid)), ("dilation", steps)):
        if len(value) != len(extent) or min(value, default=1) < 1:
            raise ValueError(f"{name} is {value}; expected {len(extent)} numbers of at least 1")
    out, inner = weight.shape[0] // groups, weight.shape[1]
    kernel = weight.detach().to(torch.float64).reshape(groups * out * inner, -1).to(torch.complex128)
    shifts = torch.cartesian_prod(*(torch.arange(k) * d for k, d in zip(extent, steps, strict=True)))
    shifts = shifts.reshape(-1, len(extent))
    frequencies, counts = _half(tuple(grid))
    panel = max(1, _PANEL_ENTRIES // kernel.shape[0])
    values = [np.zeros(0)]
    for first in range(0, len(frequencies), panel):
        part = frequencies[first : first + panel]
        phases = _phases(shifts, part, tuple(grid)).to(kernel.device)
        blocks = (kernel @ phases).reshape(groups, out, inner, len(part)).movedim(-1, 0)
        s = torch.linalg.svdvals(blocks).reshape(len(part), -1).cpu().numpy()
        values.append(np.repeat(s, counts[first : first + panel], axis=0).ravel())
    return np.sort(np.concatenate(values))[::-1].copy()


def _half(grid: tuple[int, ...]) -> tuple[torch.Tensor, FloatArray]:
    """One frequency of each pair f, −f mod n, and how many frequencies it stands for."""
    kept, counts = [], []
    for f in product(*(range(n) for n in grid)):
        mirror = tuple(-a % n for a, n in zip(f, grid, strict=True))
        if f <= mirror:
            kept.append(f)
            counts.append(1 + (f != mirror))
    return torch.tensor(kept), np.array(counts)


def _phases(shifts: torch.Tensor, frequencies: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """e^{2πi Σ f_a s_a / n_a}, one row an offset, one column a frequency; fₐsₐ is reduced mod nₐ."""
    turns = torch.zeros(len(shifts), len(frequencies), dtype=torch.float64)
    for a, n in enumerate(grid):
        turns += (torch.outer(shifts[:, a], frequencies[:, a]) % n).to(torch.float64) / n
    return torch.polar(torch.ones_like(turns), 2.0 * math.pi * turns)
