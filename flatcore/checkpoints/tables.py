"""The table of a checkpoint's tensors, one row a tensor."""

from __future__ import annotations

import dataclasses
from typing import Any

from flatcore.results import CheckpointAnalysis, FailedTensor, Frame, TensorSpectrum


def tensor_frame(analysis: CheckpointAnalysis) -> Frame:
    """One row for each tensor, failed ones last.

    Columns are the fields of :class:`flatcore.results.TensorSpectrum`, and ``reason``, which is None but for failed
    tensors; of these all else but name, role, shape and dtype is None.
    """
    columns = dict.fromkeys([*(f.name for f in dataclasses.fields(TensorSpectrum)), "reason"])
    cells = [*map(_cells, analysis.tensors), *map(_cells, analysis.failed)]
    return Frame.of_rows(columns, [columns | row for row in cells])


def _cells(part: TensorSpectrum | FailedTensor) -> dict[str, Any]:
    return {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
