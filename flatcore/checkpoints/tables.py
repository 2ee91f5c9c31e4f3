"""The table of a checkpoint's tensors, one row a tensor."""

from __future__ import annotations

import dataclasses
from typing import Any

from flatcore.results import CheckpointAnalysis, FailedTensor, TensorSpectrum


def tensor_rows(analysis: CheckpointAnalysis) -> list[dict[str, Any]]:
    """One row for each tensor, failed ones last.

    Columns are the fields of :class:`flatcore.results.TensorSpectrum`, and ``reason``, which is None but for failed
    tensors; of these all else but name, role, shape and dtype is None.
    """
    columns = dict.fromkeys([*(f.name for f in dataclasses.fields(TensorSpectrum)), "reason"])
    return [
        *(columns | _cells(part) for part in analysis.tensors),
        *(columns | _cells(part) for part in analysis.failed),
    ]


def _cells(part: TensorSpectrum | FailedTensor) -> dict[str, Any]:
    found: dict[str, Any] = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in found.items()}
