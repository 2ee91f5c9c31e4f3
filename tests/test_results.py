"""Records: plain data, text that contains the numbers, and nothing that can be changed."""

import dataclasses
import json

import numpy as np
import pytest
from oracles import make_case, with_spectrum

import flatcore as fc
from flatcore.results import Certificate, Record, number, numbers, plain


def chain():
    return make_case((5, 6, 6, 3), 3).chain()


def loss():
    rng = np.random.default_rng(0)
    return fc.QuadraticLoss(rng.standard_normal((40, 5)), rng.standard_normal((40, 3)))


def zero():
    return fc.LinearChain([np.zeros((3, 3))] * 2)


RECORDS = {
    "dense eigenpairs": lambda: fc.sharpness(chain(), loss(), 3),
    "probed eigenpairs": lambda: fc.eigsh(with_spectrum(np.linspace(-1, 2, 200)), 3),
    "stopped eigenpairs": lambda: fc.eigsh(with_spectrum(np.linspace(-1, 2, 200)), 3, callback=lambda state: True),
    "certificate": lambda: fc.eigsh(with_spectrum(np.linspace(-1, 2, 200)), 3).certificate,
    "balance": lambda: fc.balance(chain()),
    "balance of nothing": lambda: fc.balance(zero()),
    "coupling": lambda: fc.coupling(chain(), 2),
    "coupling of nothing": lambda: fc.coupling(zero(), 2),
    "gains": lambda: fc.gains(chain(), loss()),
    "gains of nothing": lambda: fc.gains(zero()),
    "analysis": lambda: fc.analyze(chain(), loss()),
    "analysis without a loss": lambda: fc.analyze(chain()),
    "analysis of nothing": lambda: fc.analyze(zero(), fc.QuadraticLoss(np.eye(3), np.eye(3))),
}


@pytest.fixture(params=RECORDS, scope="module")
def record(request):
    return RECORDS[request.param]()


def test_to_dict_is_strict_json(record):
    data = record.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    names = {f.name for f in dataclasses.fields(record) if f.repr}
    assert set(data) == names


def test_frozen(record):
    for field in dataclasses.fields(record):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, field.name, None)


def arrays(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, tuple):
        for entry in value:
            yield from arrays(entry)
    elif isinstance(value, Record):
        for field in dataclasses.fields(value):
            yield from arrays(getattr(value, field.name))


def test_arrays_are_read_only(record):
    found = list(arrays(record))
    assert found or isinstance(record, Certificate)
    for array in found:
        assert not array.flags.writeable
    if isinstance(record, fc.analyze(chain()).__class__) and record.sharpness is not None:
        assert not record.sharpness.vectors.flags.writeable


def test_text(record):
    text, page = record.summary(), record._repr_html_()
    assert str(record) == text
    assert page.startswith("<table>")
    assert page.endswith("</table>")
    assert page.count("<tr>") == page.count("</tr>") == len(text.splitlines()) - 1
    assert "nan" not in text.lower().replace("nan(", "")
    assert "<lambda>" not in repr(record)


def shown(values, digits):
    return [f"{v:.{digits}g}" for v in values]


def test_summaries_contain_the_numbers():
    r = fc.sharpness(chain(), loss(), 3)
    for text in (r.summary(), r._repr_html_()):
        for value in shown(r.values, 8) + shown(r.residuals, 2) + [str(r.products), "converged", r.certificate.method]:
            assert value in text
    assert r.status in repr(r)
    assert shown(r.values, 6)[0] in repr(r)
    b = fc.balance(chain())
    for text in (b.summary(), b._repr_html_()):
        for value in shown(b.gap, 4) + shown(b.relative_gap, 4) + shown(b.spectral, 4):
            assert value in text
    g = fc.gains(chain(), loss())
    for value in [*shown(g.gains, 4), *shown(g.partial, 4), *shown(g.weighted_gains, 4), f"{g.sigma:.5g}"]:
        assert value in g.summary()
    c = fc.coupling(chain(), 2)
    for value in [*shown(c.largest, 3), *shown(c.chance, 3), *shown(c.ratio, 3), f"{c.path_strength:.4g}"]:
        assert value in c.summary()
    assert " → ".join(str(i + 1) for i in c.path) in c.summary()
    a = fc.analyze(chain(), loss())
    for value in [f"{a.flattest:.5g}", f"{a.flatness_ratio:.5g}", f"{a.value:.5g}", f"{a.sharpness.values[0]:.5g}"]:
        assert value in a.summary()
        assert value in a._repr_html_()


def test_undefined_numbers():
    b = fc.balance(zero())
    assert "undefined" in b.summary()
    assert b.to_dict()["spectral"] == [None, None]


def test_html_is_escaped():
    page = fc.balance(chain())._repr_html_()
    assert "‖A‖‖B‖" in page

    @dataclasses.dataclass(frozen=True)
    class Sharp(Record):
        def _lines(self):
            yield "<a>", "b & c"

    assert "&lt;a&gt;" in Sharp()._repr_html_()
    assert "b &amp; c" in Sharp()._repr_html_()
    with pytest.raises(NotImplementedError):
        list(Record()._lines())


def test_unpacking_and_vectors():
    r = fc.sharpness(chain(), loss(), 3)
    values, vectors = r
    assert values is r.values
    assert vectors.shape == (chain().num_parameters, 3)
    np.testing.assert_array_equal(vectors, r.vectors)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-10)
    assert np.shares_memory(r.vectors, r.vectors)  # no copy each time


def test_layers():
    c = make_case((5, 6, 3), 3, [True, False]).chain()
    r = fc.sharpness(c, loss(), 2)
    assert [block.shape for block in r.layers(1)] == [(6, 5), (6,), (3, 6)]
    np.testing.assert_array_equal(np.concatenate([b.ravel() for b in r.layers(1)]), r.vectors[:, 1])
    with pytest.raises(IndexError):
        list(r.layers(2))


def test_explain():
    r = fc.eigsh(with_spectrum(np.linspace(-1, 2, 200)), 3, seed=5)
    text = r.explain()
    for part in (r.method, str(r.products), "seed 5", r.message, "probe"):
        assert part in text


def test_plain():
    data = plain({"a": (np.float32(1.5), np.nan, np.int64(3)), 2: np.array([[np.inf, True]]), "s": None})
    assert data == {"a": [1.5, None, 3], "2": [[None, 1.0]], "s": None}


def test_numbers():
    assert number(np.nan) == "undefined"
    assert number(1234.5678) == "1234.6"
    assert numbers([1.0, np.nan]) == "1  undefined"
    assert numbers(np.arange(20.0), most=4) == "0  1  …  18  19"


def test_report_writes_the_sharpness(tmp_path):
    a = fc.analyze(chain(), loss())
    a.report(str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f"{a.sharpness.values[0]:.4g}"[:4] in page
