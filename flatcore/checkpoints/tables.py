"""The table of a checkpoint's tensors as Parquet."""

from __future__ import annotations

import dataclasses
from typing import Any

from flatcore._atomic import PathLike, atomic_file
from flatcore.results import CheckpointAnalysis, FailedTensor, TensorSpectrum


def write_tensors_parquet(analysis: CheckpointAnalysis, path: PathLike) -> None:
    """Write one row a tensor, failed ones among them, whole or not at all (needs the extra ``files``).

    Columns are the fields of :class:`flatcore.results.TensorSpectrum`, and ``reason``, which is null but for failed
    tensors; of these all else but name, role, shape and dtype is null.

    Raises
    ------
    OSError
        The file cannot be written.

    """
    import pyarrow as pa
    import pyarrow.parquet

    kinds = {"str": pa.string(), "float": pa.float64(), "int": pa.int64()}
    lists = {"shape": pa.int64(), "values": pa.float64(), "residuals": pa.float64(), "converged": pa.bool_()}
    fields = [
        pa.field(f.name, pa.list_(lists[f.name]) if f.name in lists else kinds[str(f.type)])
        for f in dataclasses.fields(TensorSpectrum)
    ]
    schema = pa.schema([*fields, pa.field("reason", pa.string())])
    rows = [*map(_row, analysis.tensors), *map(_row, analysis.failed)]
    with atomic_file(path) as handle:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows, schema=schema), handle)


def _row(part: TensorSpectrum | FailedTensor) -> dict[str, Any]:
    row: dict[str, Any] = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in row.items()}
