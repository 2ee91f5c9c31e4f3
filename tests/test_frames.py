"""Frames: every result as flat tables that pandas, Polars and Arrow take, with nothing left out."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Mapping

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from oracles import make_case

import flatcore as fc
from flatcore.results import Frame, Record
from flatcore.results.frame import cell


def record_classes():
    """All kinds of results in the package, those of optional rooms too."""
    for module in pkgutil.walk_packages(fc.__path__, "flatcore."):
        if not module.name.endswith("._core"):
            importlib.import_module(module.name)
    found, new = set(), {Record}
    while new:
        found |= new
        new = {sub for kind in new for sub in kind.__subclasses__() if sub.__module__.startswith("flatcore.")} - found
    return sorted(found - {Record}, key=lambda kind: kind.__name__)


NUMBERS = itertools.count(3)


def example(hint, n):
    """A value of the type that no other field has, n long where it has a length."""
    origin, entries = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return example(entries[0], n)
    if origin is tuple:
        return (
            tuple(example(entries[0], n) for _ in range(n))
            if entries[-1] is ...
            else tuple(example(entry, n) for entry in entries)
        )
    if origin is np.ndarray:
        return next(NUMBERS) + np.arange(n) / 8.0
    if origin in (dict, Mapping):
        return {"loss": next(NUMBERS) + np.arange(n) / 8.0}
    if origin is Callable or hint is type(None):
        return None
    if dataclasses.is_dataclass(hint):
        return filled(hint, n) if issubclass(hint, Record) else hint(9, 3)
    made = next(NUMBERS)
    return {str: f"text {made}", int: made, float: made + 0.5, bool: True}.get(hint)


def filled(kind, n):
    """A record with every field filled."""
    hints = typing.get_type_hints(kind)
    return kind(**{f.name: example(hints[f.name], n) for f in dataclasses.fields(kind)})


CLASSES = record_classes()


@pytest.fixture(params=CLASSES, ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


def test_there_are_records():
    names = {kind.__name__ for kind in CLASSES}
    assert {"EigenResult", "Analysis", "CheckpointAnalysis", "ModuleAnalysis", "WfmResult", "Products"} <= names


@pytest.mark.parametrize("n", [0, 1, 3])
def test_every_table_is_flat(kind, n):
    if n == 0 and kind is fc.results.Analysis:
        pytest.skip("a sharpness has at least one value")
    record = filled(kind, n)
    tables = record._tables()
    assert "summary" in tables
    assert list(record.frame()) == list(record.frame(next(iter(tables))))
    for name in tables:
        frame = record.frame(name)
        assert isinstance(frame, Frame)
        assert {len(column) for column in frame.values()} == {frame.num_rows}
        for column in frame.values():
            assert isinstance(column, list) or (column.ndim == 1 and column.dtype.kind in "biuf")
        table = pyarrow.table(frame)
        assert table.num_rows == frame.num_rows
        assert table.column_names == list(frame)
    assert record.frame("summary").num_rows == 1


def test_no_field_is_left_out(kind):
    """Values, arrays and settings stand in the summary; records, and series, in tables of their own."""
    record = filled(kind, 3)
    summary = record.frame("summary")
    for name, value in ((f.name, getattr(record, f.name)) for f in dataclasses.fields(record) if f.repr):
        if isinstance(value, tuple) and isinstance(value[0], Record):
            check_table_of_records(record.frame(name), value)
        elif isinstance(value, Record):
            assert_same(record.frame(name), value.frame())
        elif isinstance(value, Mapping):
            assert_same({column: record.frame()[column] for column in value}, value)
        elif dataclasses.is_dataclass(value):
            settings = {f"{name}_{f.name}": [getattr(value, f.name)] for f in dataclasses.fields(value)}
            assert_same({column: summary[column] for column in settings}, settings)
        elif value is not None:
            assert_same({name: summary[name]}, {name: [value]})


def check_table_of_records(frame, records):
    """A row a record, in order, with all that the record's own summary says."""
    rows = [record.frame("summary") for record in records]
    for column in rows[0]:
        said = [cell(value) for value in list(frame[column])[: len(rows)]]
        assert said == [cell(row[column][0]) for row in rows], column


def assert_same(columns, expected):
    assert {name: [cell(x) for x in v] for name, v in columns.items()} == {
        name: [cell(x) for x in v] for name, v in expected.items()
    }


@pytest.mark.parametrize("name", ["CheckpointAnalysis", "CheckpointComparison"])
@pytest.mark.parametrize("none_left", [False, True])
def test_failed_tensors_have_rows(name, none_left):
    record = filled(getattr(fc.results, name), 3)
    done = () if none_left else record.tensors
    frame = dataclasses.replace(record, tensors=done).frame("tensors")
    assert list(frame) == list(record.frame("tensors"))
    assert frame["name"] == [part.name for part in (*done, *record.failed)]
    assert frame["reason"] == [None] * len(done) + [part.reason for part in record.failed]
    known = {f.name for f in dataclasses.fields(record.failed[0])}
    for column in set(record.tensors[0]._row()) - known:  # such as seconds, which the whole has as well
        assert list(frame[column])[len(done) :] == [None] * len(record.failed), column


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames(kind, library):
    library = pytest.importorskip(library)
    record = filled(kind, 3)
    for name in record._tables():
        frame = record.frame(name)
        made = library.DataFrame(frame)
        assert made.shape == (frame.num_rows, len(frame))
        assert list(made.columns) == list(frame)
        for column, values in frame.items():
            if isinstance(values, np.ndarray):
                np.testing.assert_array_equal(made[column].to_numpy(), values)


def test_parquet_holds_the_table(kind, tmp_path):
    frame = filled(kind, 3).frame()
    frame.to_parquet(tmp_path / "table.parquet")
    read = pyarrow.parquet.read_table(tmp_path / "table.parquet")
    assert read.column_names == list(frame)
    assert read.to_pydict() == {name: list(column) for name, column in frame.items()}


# -- what the rows say -----------------------------------------------------------------------------------------


def loss():
    rng = np.random.default_rng(0)
    return fc.QuadraticLoss(rng.standard_normal((40, 5)), rng.standard_normal((40, 3)))


def test_eigenpairs_and_triplets():
    chain = make_case((5, 6, 6, 3), 3).chain()
    r = fc.sharpness(chain, loss(), 3)
    frame = r.frame()
    assert frame.num_rows == 3
    for name in ("values", "residuals", "converged"):
        np.testing.assert_array_equal(frame[name], getattr(r, name))
    assert frame["status"] == [r.status] * 3
    np.testing.assert_array_equal(frame["certificate_delta"], [r.certificate.delta] * 3)
    s = fc.top_svd(np.diag([3.0, 2.0, 1.0]), 2, callback=lambda state: True)
    bare = dataclasses.replace(s, certificate=None).frame()
    assert np.isnan(bare["certificate_delta"]).all()
    assert list(bare) == list(s.frame())  # the same columns, whatever is known


def test_an_analysis_has_a_row_a_layer():
    a = fc.analyze(make_case((5, 6, 6, 3), 3).chain(), loss())
    frame = a.frame()
    np.testing.assert_array_equal(frame["layer"], [1, 2, 3])
    np.testing.assert_array_equal(frame["inputs"], [5, 6, 6])
    np.testing.assert_array_equal(frame["outputs"], [6, 6, 3])
    np.testing.assert_array_equal(frame["gap"], [*a.balance.gap, np.nan])  # of a layer and the one after it
    np.testing.assert_array_equal(frame["spectral"], a.balance.spectral)
    np.testing.assert_array_equal(frame["overlap"], [*a.coupling.largest, np.nan])
    np.testing.assert_array_equal(frame["sharpness"], [a.sharpness.values[0]] * 3)
    assert list(a.frame("coupling")) == list(a.coupling.frame())
    assert a.frame("coupling")["overlaps"] == [pair.tolist() for pair in a.coupling.overlaps]
    without = fc.analyze(make_case((5, 6, 6, 3), 3).chain()).frame()
    assert np.isnan(without["sharpness"]).all()
    assert list(without) == list(frame)


def test_many_chains_have_a_row_each():
    weights = np.random.default_rng(1).standard_normal((4, 2, 3, 3))
    r = fc.analyze_many(weights, fc.QuadraticLoss(np.eye(3), np.eye(3)), k=2)
    frame = r.frame()
    assert frame["values"] == r.values.tolist()
    assert frame["status"] == r.status.tolist()
    np.testing.assert_array_equal(frame["loss"], r.loss)


def test_modules_have_a_row_a_layer_and_tables_of_the_rest():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    a = fc.torch.analyze(model, k=2)
    frame, pairs = a.frame(), a.frame("pairs")
    assert frame["name"] == [layer.name for layer in a.layers]
    assert frame["values"] == [layer.values.tolist() for layer in a.layers]
    assert frame["shape"] == [[5, 4], [3, 5]]
    assert frame["model"] == [a.model] * 2
    np.testing.assert_array_equal(pairs["relative_gap"], [pair.relative_gap for pair in a.pairs])
    assert list(a.layers[0].frame()) == [
        "value",
        "values",
        "residuals",
        "converged",
        "convolution_values",
        *(name for name in a.layers[0]._scalars()),
    ]


def test_the_history_of_a_solver_has_a_row_a_look():
    model = fc.wfm.Committee(45, 5)
    r = fc.wfm.least_action(model, fc.wfm.random_patterns(model, 20, seed=1), seed=0)
    frame = r.frame()
    assert frame.num_rows == len(r.history["errors"])
    np.testing.assert_array_equal(frame["errors"], r.history["errors"])
    assert frame["solver"] == [r.solver] * frame.num_rows
    assert frame["model_n_hidden"].tolist() == [5] * frame.num_rows
    assert r.frame("summary")["errors"].tolist() == [r.errors]


# -- frames themselves -----------------------------------------------------------------------------------------


def test_unknown_tables_and_unequal_columns():
    balance = fc.balance(make_case((5, 6, 3), 3).chain())
    with pytest.raises(ValueError, match="table is 'pairs'; expected one of 'layers', 'summary'"):
        balance.frame("pairs")
    with pytest.raises(ValueError, match=r"columns have different lengths \(a 1, b 2\)"):
        Frame({"a": [1], "b": [1, 2]})


def test_columns_keep_what_they_are():
    frame = Frame({"a": [True, False], "b": (1, 2), "c": [1, 2.5], "d": ["x", None], "e": np.eye(2), "f": [None, 1]})
    assert [column.dtype.kind for column in list(frame.values())[:3]] == ["b", "i", "f"]
    assert [frame[name] for name in "def"] == [["x", None], [[1.0, 0.0], [0.0, 1.0]], [None, 1]]
    values = np.arange(3.0)
    assert Frame({"a": values})["a"] is values
    assert cell(("a", (1, "b"), np.int64(3))) == ["a", "['1', 'b']", "3"]
    assert repr(frame) == "Frame(2 rows: a, b, c, d, e, f)"
    assert repr(Frame({})) == "Frame(0 rows: )"


def test_arrow_streams():
    frame = Frame({"a": np.arange(3), "b": ["x", "y", "z"], "c": [[1.0], [], [2.0, 3.0]]})
    reader = pyarrow.RecordBatchReader.from_stream(frame)
    assert reader.read_all().to_pydict() == {name: list(column) for name, column in frame.items()}


def test_without_pyarrow(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for call in (lambda f: f.to_arrow(), lambda f: f.__arrow_c_stream__(), lambda f: f.to_parquet(tmp_path / "a")):
        with pytest.raises(ModuleNotFoundError, match=r"Arrow tables need pyarrow: pip install 'flatcore\[files\]'"):
            call(Frame({"a": [1]}))


def test_parquet_files_appear_whole_or_not_at_all(monkeypatch, tmp_path):
    path = tmp_path / "table.parquet"
    Frame({"a": [1]}).to_parquet(path)
    before = path.read_bytes()

    def broken(table, handle):
        handle.write(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(pyarrow.parquet, "write_table", broken)
    with pytest.raises(OSError, match="the disk is full"):
        Frame({"a": [2]}).to_parquet(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
