"""flatcore compare and compare_checkpoints: beside dense decompositions in float64, planted changes, damaged files."""

import html
import json
import re

import ml_dtypes
import numpy as np
import pyarrow.parquet
import pytest
from checkpoint_files import save_safetensors, save_shards
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from typer.testing import CliRunner

from flatcore import cli
from flatcore.checkpoints import analyze_checkpoint, compare_checkpoints
from flatcore.checkpoints.matching import match_names
from flatcore.io import open_checkpoint
from flatcore.weights import angle_chance

TYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


def as_stored(W, dtype):
    """Floating-point numbers in that precision; others as they are."""
    return (dtype, W.shape, W.astype(TYPES[dtype]).tobytes()) if W.dtype.kind == "f" else W


def save(path, tensors, dtype="F32"):
    return save_safetensors(path, {name: as_stored(W, dtype) for name, W in tensors.items()})


def compared(folder, before, after, k=4, dtypes=("F64", "F64"), **options):
    a, b = save(folder / "a.safetensors", before, dtypes[0]), save(folder / "b.safetensors", after, dtypes[1])
    return compare_checkpoints(a, b, k, **options)


def one(folder, A, B, k=4, dtypes=("F64", "F64"), name="W1", **options):
    (change,) = compared(folder, {name: A}, {name: B}, k, dtypes, **options).tensors
    return change


def orthonormal(rng, n, k):
    return np.linalg.qr(rng.standard_normal((n, k)))[0]


def with_spectrum(rng, m, n, s):
    """A matrix with these singular values, and its vectors."""
    U, V = orthonormal(rng, m, len(s)), orthonormal(rng, n, len(s))
    return (U * s) @ V.T, U, V


# Rounding of the numbers as stored is in the oracle as well: what is left is that of float32 work, and tolerances.
@pytest.mark.parametrize(
    ("dtypes", "digits"),
    [
        (("F64", "F64"), 1e-9),
        (("F32", "F32"), 1e-5),
        (("BF16", "F32"), 1e-5),
        (("F16", "BF16"), 1e-5),
        (("F64", "F32"), 1e-7),
    ],
)
def test_everything_beside_dense_decompositions(tmp_path, rng, dtypes, digits):
    A, _, _ = with_spectrum(rng, 30, 20, np.linspace(4.0, 1.0, 20))
    B = A + 0.2 * rng.standard_normal(A.shape)
    t = one(tmp_path, A, B, dtypes=dtypes)
    A, B = (X.astype(TYPES[d]).astype(float) for X, d in zip((A, B), dtypes, strict=True))
    vectors = []
    for X, found in ((A, t.before), (B, t.after), (B - A, t.update)):
        U, s, Vt = np.linalg.svd(X)
        vectors.append((U, Vt.T))
        np.testing.assert_allclose(found.values, s[:4], rtol=digits)
        np.testing.assert_allclose(found.frobenius, np.linalg.norm(s), rtol=digits)
        np.testing.assert_allclose(found.stable_rank, (s @ s) / s[0] ** 2, rtol=digits)
        np.testing.assert_allclose(found.tail, (s[4:] @ s[4:]) / (s @ s), rtol=10 * digits)
        assert found.certified
    np.testing.assert_allclose(t.relative_change, np.linalg.norm(B - A) / np.linalg.norm(A), rtol=digits)
    assert (t.rank, t.status, t.size, t.dtypes) == (4, "computed", (30, 20), dtypes)
    for side, dimension, found in ((0, 30, t.left_angles), (1, 20, t.right_angles)):
        dense = subspace_angles(vectors[0][side][:, :4], vectors[1][side][:, :4])[::-1]
        np.testing.assert_allclose(found, dense, atol=t.angle_error + 1e-9)
        overlap = (t.left_overlap, t.right_overlap)[side]
        np.testing.assert_allclose(overlap, np.mean(np.cos(found) ** 2))
        assert (t.left_chance, t.right_chance)[side] == pytest.approx(np.arccos(angle_chance(dimension, 4)))
    assert t.stable_rank_change == t.after.stable_rank - t.before.stable_rank


def test_a_planted_rotation_comes_back(tmp_path, rng):
    """One left vector turned by 0.3 out of the span, two right ones by 0.2 and 0.5, others within it."""
    s = np.array([5.0, 4.0, 3.0])
    basis_u, basis_v = orthonormal(rng, 40, 6), orthonormal(rng, 25, 6)
    U, V = basis_u[:, :3], basis_v[:, :3]
    turned_u, turned_v = U.copy(), V.copy()
    turned_u[:, 1] = np.cos(0.3) * U[:, 1] + np.sin(0.3) * basis_u[:, 4]
    for j, theta in ((0, 0.2), (2, 0.5)):
        turned_v[:, j] = np.cos(theta) * V[:, j] + np.sin(theta) * basis_v[:, 3 + j]
    within = orthonormal(rng, 3, 3)
    t = one(tmp_path, (U * s) @ V.T, turned_u @ within @ np.diag(s) @ within.T @ turned_v.T, k=3)
    np.testing.assert_allclose(t.left_angles, [0.0, 0.0, 0.3], atol=1e-7)
    np.testing.assert_allclose(t.right_angles, [0.0, 0.2, 0.5], atol=1e-7)
    assert t.angle_error < 1e-7
    np.testing.assert_allclose(t.after.values, s)


def test_updates_of_low_rank_are_seen(tmp_path, rng):
    A = rng.standard_normal((50, 40))
    L, _, _ = with_spectrum(rng, 50, 40, np.array([3.0, 1.0]))
    t = one(tmp_path, A, A + L)
    np.testing.assert_allclose(t.update.values[:2], [3.0, 1.0])
    assert t.update.stable_rank == pytest.approx(10.0 / 9.0)
    assert t.update.tail < 1e-12
    assert t.update.outliers == 2  # the others are rounding
    noisy = one(tmp_path, A, A + L + 0.02 * rng.standard_normal(A.shape))
    assert noisy.update.outliers == 2
    assert noisy.update.tail > 0.02


def test_large_tensors_are_searched_and_angles_within_their_bound(tmp_path, rng):
    """Wide enough for Krylov's search in float32, whose residuals are those of the tolerance."""
    s = 10.0 / (1.0 + np.arange(300)) ** 0.5
    A, U, _ = with_spectrum(rng, 1200, 1000, s)
    B = A + 0.02 * rng.standard_normal(A.shape)
    t = one(tmp_path, A, B, k=3, dtypes=("F32", "F32"))
    dense = np.linalg.svd(B.astype(np.float32).astype(float), full_matrices=False)
    np.testing.assert_allclose(t.after.values, dense[1][:3], rtol=1e-4)
    left = subspace_angles(U[:, :3], dense[0][:, :3])[::-1]
    assert t.certified
    assert 0.0 < t.angle_error < 0.05
    np.testing.assert_allclose(t.left_angles, left, atol=t.angle_error)
    D = np.linalg.norm((B.astype(np.float32) - A.astype(np.float32)).astype(float), 2)
    assert t.update.values[0] == pytest.approx(D, rel=1e-4)


def test_identical_tensors_are_not_decomposed(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("flatcore.checkpoints.comparison.search", None)
    A = rng.integers(-8, 8, (12, 9)).astype(float)  # the same numbers in every precision
    c = compared(tmp_path, {"W1": A, "W2": A.T}, {"W1": A, "W2": A.T}, dtypes=("BF16", "F64"))
    assert c.identical == ("W1", "W2")
    assert c.certified
    t = c.tensors[0]
    assert t.relative_change == t.update.frobenius == t.angle_error == 0.0
    np.testing.assert_array_equal([*t.update.values, *t.left_angles, *t.right_angles], 0.0)
    assert (t.left_overlap, t.rank, len(t.before.values)) == (1.0, 4, 0)
    assert t.before.frobenius == pytest.approx(np.linalg.norm(A))
    assert "W1: identical" not in c.summary()
    assert "2 of them identical" in c.summary()


@pytest.mark.parametrize(
    ("values", "k", "rank"),
    [
        ((5, 4, 2, 2, 2, 1), 2, 2),
        ((5, 4, 2, 2, 2, 1), 3, 2),
        ((5, 4, 2, 2, 2, 1), 4, 2),
        ((5, 4, 2, 2, 2, 1), 5, 5),
        ((5, 4, 2, 2, 2, 1), 6, 6),
        ((5, 4, 0, 0, 0, 0), 4, 2),
        ((1, 1, 1, 1, 1, 1), 3, 0),
        ((1, 1, 1, 1, 1, 1), 6, 6),
        ((0, 0, 0, 0, 0, 0), 3, 0),
    ],
)
@pytest.mark.parametrize("dtype", ["F64", "F32"])
def test_a_cut_inside_a_tie_moves_and_says_so(tmp_path, rng, values, k, rank, dtype):
    A, _, _ = with_spectrum(rng, 9, 7, np.array(values, dtype=float))
    t = one(tmp_path, A, 1.5 * A if A.any() else A + 1.0, k=k, dtypes=(dtype, dtype))
    assert t.rank == len(t.left_angles) == len(t.right_angles) == rank
    expected = "computed" if rank == k else "tied, or too close" if A.any() else "zero in A: no singular subspaces"
    assert expected in t.status
    np.testing.assert_allclose([*t.left_angles, *t.right_angles], 0.0, atol=1e-6 if dtype == "F64" else 1e-3)


def test_ties_leave_whole_subspaces_alone(tmp_path, rng):
    """The span of three tied vectors is known, whatever basis a decomposition takes of it."""
    A, U, V = with_spectrum(rng, 12, 10, np.array([3.0, 3.0, 3.0, 1.0]))
    turn = orthonormal(rng, 3, 3)
    B = 3.0 * (U[:, :3] @ turn) @ (V[:, :3] @ turn).T + 1.1 * np.outer(U[:, 3], V[:, 3])
    t = one(tmp_path, A, B, k=3)
    assert t.rank == 3
    np.testing.assert_allclose(t.left_angles, 0.0, atol=1e-7)


def test_from_b_to_a_is_the_same_way_back(tmp_path, rng):
    A = rng.standard_normal((20, 14))
    B = A + 0.3 * rng.standard_normal(A.shape)
    there, back = one(tmp_path, A, B), one(tmp_path, B, A)
    np.testing.assert_allclose(there.update.values, back.update.values)
    np.testing.assert_allclose(there.left_angles, back.left_angles, atol=1e-7)
    assert there.stable_rank_change == pytest.approx(-back.stable_rank_change)


def test_matrices_stored_transposed_and_kernels(tmp_path, rng):
    """GPT-2's c_attn is stored (in, out): its left vectors are the outputs. Kernels are reshaped (out, in·offsets)."""
    base = {
        "h.0.attn.c_attn.weight": rng.standard_normal((8, 24)), "h.0.attn.c_attn.bias": np.zeros(24),
        "h.0.attn.c_proj.weight": rng.standard_normal((8, 8)), "h.0.attn.c_proj.bias": np.zeros(8),
        "h.0.mlp.c_fc.weight": rng.standard_normal((8, 32)), "h.0.mlp.c_fc.bias": np.zeros(32),
        "conv.weight": rng.standard_normal((5, 3, 2, 2)),
    }  # fmt: skip
    changed = {name: W + 0.3 * rng.standard_normal(W.shape) for name, W in base.items()}
    c = compared(tmp_path, base, changed, k=2)
    found = {t.name: t for t in c.tensors}
    assert set(found) == {name for name in base if name.endswith("weight")}
    name = "h.0.attn.c_attn.weight"
    assert found[name].size == (24, 8)
    assert "stored (in, out)" in found[name].matrix
    spans = [np.linalg.svd(W[name].T)[0][:, :2] for W in (base, changed)]
    np.testing.assert_allclose(found[name].left_angles, subspace_angles(*spans)[::-1], atol=1e-7)
    values = np.linalg.svd(changed["conv.weight"].reshape(5, 12), compute_uv=False)
    np.testing.assert_allclose(found["conv.weight"].after.values, values[:2])
    assert found["conv.weight"].size == (5, 12)


def test_what_is_not_finite_fails_alone(tmp_path, rng):
    W = {f"W{j}": rng.standard_normal((6, 5)) for j in range(1, 6)}
    V = {name: 1.1 * X for name, X in W.items()}
    W["W1"][2, 3], V["W2"][0, 0], W["W3"][0, 1] = np.nan, np.inf, np.nan
    V["W3"] = W["W3"].copy()
    W["W4"], V["W4"] = np.full((6, 5), 3e38), np.full((6, 5), -3e38)
    c = compared(tmp_path, W, V, dtypes=("F32", "F32"))
    reasons = {f.name: f.reason for f in c.failed}
    assert reasons == {
        "W1": "A: 1 entry is NaN, the first at [2, 3]; expected finite numbers",
        "W2": "B: 1 entry is infinite, the first at [0, 0]; expected finite numbers",
        "W3": "A: 1 entry is NaN, the first at [0, 1]; expected finite numbers",
        "W4": "B − A: 30 entries are infinite, the first at [0, 0]; expected finite numbers",
    }
    assert [t.name for t in c.tensors] == ["W5"]
    assert not c.certified
    table = c.frame()
    assert table["name"] == ["W5", *reasons]
    assert table["reason"] == [None, *reasons.values()]


def test_zero_matrices_have_no_ratios(tmp_path, rng):
    t = one(tmp_path, np.zeros((4, 3)), rng.standard_normal((4, 3)), k=2)
    assert np.isnan(t.relative_change)
    assert np.isnan(t.before.stable_rank)
    assert t.status == "zero in A: no singular subspaces"
    assert "undefined" in t.summary()


def test_what_is_not_compared_is_listed(tmp_path, rng):
    W = rng.standard_normal((4, 3))
    before = {"W1": W, "b1": np.zeros(4), "old": W, "W2": W, "ids": np.arange(6).reshape(2, 3)}
    after = {"W1": 2 * W, "b1": np.ones(4), "new": 2 * W[:2], "W2": W[:, :2], "ids": np.arange(6).reshape(2, 3)}
    c = compared(tmp_path, before, after)
    assert dict(c.not_compared) == {
        "old": "only in A", "new": "only in B", "b1": "a vector", "W2": "4 × 3 in A, 4 × 2 in B",
        "ids": "I64: no floating-point numbers",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"share no matrix \(x: only in A; W1: only in B.*expected the same names"):
        compared(tmp_path, {"x": W[:2]}, {"W1": W})
    with pytest.raises(ValueError, match="k is 0"):
        compared(tmp_path, before, after, k=0)


# names past prefixes


@given(
    st.lists(st.from_regex(r"layers\.[0-9]{1,2}\.[a-c]{1,3}", fullmatch=True), min_size=1, max_size=8, unique=True),
    st.sampled_from([("", "module."), ("model.", ""), ("_orig_mod.", "module."), ("a.b.", "c."), ("", "")]),
)
def test_one_prefix_is_seen_through(names, prefixes):
    a, b = ({prefix + name: (j, 2) for j, name in enumerate(names)} for prefix in prefixes)
    matching = match_names(a, b)
    assert sorted(matching.pairs) == sorted((prefixes[0] + name, prefixes[1] + name) for name in names)
    assert matching.only == ()
    assert bool(matching.note) == (prefixes != ("", ""))


@pytest.mark.parametrize(
    ("a", "b", "pairs", "note"),
    [
        (["encoder.x", "decoder.x"], ["x"], [], "ambiguous"),
        (
            ["encoder.x", "encoder.y", "decoder.x"],
            ["x", "y"],
            [("encoder.x", "x"), ("encoder.y", "y")],
            "'encoder.' in A",
        ),
        (["layers.0.x"], ["layers.1.x"], [], ""),
        (["layers.0.x"], ["x"], [], ""),
        (["x", "module.x"], ["x"], [("x", "x")], ""),
        (["model.x", "y"], ["x", "y"], [("y", "y"), ("model.x", "x")], "1 names match without 'model.' in A"),
        (["module.model.x"], ["model.x"], [("module.model.x", "model.x")], "'module.' in A"),
        (["p.x"], ["q.x"], [("p.x", "q.x")], "'p.' in A and 'q.' in B"),
    ],
)
def test_which_prefixes(a, b, pairs, note):
    matching = match_names(dict.fromkeys(a, (2, 2)), dict.fromkeys(b, (2, 2)))
    assert list(matching.pairs) == pairs
    assert note in matching.note
    assert bool(note) == bool(matching.note)
    assert {name for pair in matching.pairs for name in pair} | {n for n, _ in matching.only} == {*a, *b}


def test_prefixes_count_only_where_shapes_agree_and_many_alike_are_no_wrapper():
    assert match_names({"model.x": (2, 2)}, {"x": (2, 3)}).pairs == ()
    many = {f"{c}.weight": (2, 2) for c in "abcdefgh"}
    assert match_names(many, {f"{c}{c}.weight": (2, 2) for c in "abcdefgh"}).pairs == ()


# records, reports, the command line


@pytest.fixture
def files(tmp_path, rng):
    base = {f"layers.{j}.weight": rng.standard_normal((8, 6)) for j in range(3)}
    changed = {f"module.{name}": W + (j > 0) * np.outer(W[:, 0], W[0]) for j, (name, W) in enumerate(base.items())}
    return save(tmp_path / "a.safetensors", base), save(tmp_path / "b.safetensors", changed)


def run(*arguments):
    result = CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])
    assert "Traceback" not in result.stderr
    return result


def test_the_command_prints_and_writes_everything(files, tmp_path):
    result = run(
        *files, "-k", 3, "--out", tmp_path / "c.html", "--json", tmp_path / "c.json", "--parquet", tmp_path / "c.pq"
    )
    assert result.exit_code == 0, result.stderr
    assert "3 tensors, 1 of them identical" in result.stdout
    assert "3 names match without 'module.' in B" in result.stdout
    assert "layers.1.weight and module.layers.1.weight" in result.stdout
    said = json.loads((tmp_path / "c.json").read_text())
    direct = compare_checkpoints(*files, 3)
    assert said["certified"] is True
    assert said["comparison"]["tensors"][1]["update"]["values"] == direct.tensors[1].update.values.tolist()
    table = pyarrow.parquet.read_table(tmp_path / "c.pq").to_pylist()
    assert [row["name"] for row in table] == [t.name for t in direct.tensors]
    assert table[1]["update_values"] == direct.tensors[1].update.values.tolist()
    assert table[1]["size"] == [8, 6]
    page = html.unescape((tmp_path / "c.html").read_text(encoding="utf-8"))
    assert re.findall(r'<figure id="(.*?)">', page) == ["rotation", "change", "spectra"]
    assert "In 2 of 2 changed tensors the top singular values hold at least 95 % of ‖B − A‖_F²" in page


def test_json_on_standard_output_is_alone(files):
    result = run(*files, "--json", "-")
    assert json.loads(result.stdout)["comparison"]["k"] == 8
    assert "compared" in result.stderr


def test_exit_codes(files, tmp_path, rng, monkeypatch):
    broken = save(
        tmp_path / "broken.safetensors", {f"layers.{j}.weight": np.full((8, 6), [1.0, np.nan][j]) for j in (0, 1)}
    )
    result = run(files[0], broken, "--parquet", tmp_path / "c.pq")
    assert result.exit_code == 3
    assert "B: 48 entries are NaN" in result.stdout
    why = "layers.1.weight: B: 48 entries are NaN, the first at [0, 0]; expected finite numbers"
    assert result.stderr == f"flatcore: not certified: {why}\n"
    assert pyarrow.parquet.read_table(tmp_path / "c.pq").column("reason").to_pylist()[0] is None
    for arguments, message in (
        ((files[0], tmp_path / "none"), "none"),
        ((files[0], save(tmp_path / "c.safetensors", {"v": np.ones(3)})), "share no matrix"),
        ((*files, "-k", 0), "k is 0"),
        ((*files, "--out", files[1]), "is given twice"),
    ):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr
    with monkeypatch.context() as patch:
        patch.setattr("flatcore.cli.compare.compare_checkpoints", interrupted)
        assert run(*files).exit_code == 130
    monkeypatch.setattr("flatcore.spectral._top_svd.DEFAULT_STEPS", 1)
    big = [save(tmp_path / f"{j}.safetensors", {"W1": rng.standard_normal((1500, 1400))}) for j in (0, 1)]
    result = run(*big, "-k", 2)
    assert result.exit_code == 3
    assert "a singular triplet misses the tolerance" in result.stderr


def test_names_that_match_in_two_ways_are_told_where_nothing_else_is_shared(tmp_path, rng):
    W = rng.standard_normal((3, 3))
    a, b = save(tmp_path / "a.safetensors", {"W1": W}), save(tmp_path / "b.safetensors", {"x.W1": W, "y.W1": W})
    with pytest.raises(ValueError, match=r"share no matrix \(names may match without 'x.' in B .*ambiguous.*; W1"):
        compare_checkpoints(a, b)


def test_updates_of_which_all_values_are_known_are_not_called_of_low_rank(tmp_path, rng):
    found = compared(tmp_path, {"W1": rng.standard_normal((9, 3))}, {"W1": rng.standard_normal((9, 3))}, k=3)
    found.report(str(tmp_path / "c.html"))
    assert "low rank" not in (tmp_path / "c.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: compare_checkpoints(path, None), "b is None; expected a checkpoint or a path"),
        (lambda path: compare_checkpoints(7, path), "a is 7; expected a checkpoint or a path"),
        (lambda _: analyze_checkpoint(3), "checkpoint is 3; expected a checkpoint or a path"),
        (lambda _: open_checkpoint(5), "path is 5; expected a path"),
    ],
)
def test_what_is_no_path_is_told_by_its_name(files, call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call(files[0])


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_a_checkpoint_beside_itself(files, tmp_path):
    result = run(files[0], files[0], "--out", tmp_path / "c.html")
    assert result.exit_code == 0
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert "All tensors compared are identical." in page
    assert "All updates are zero." in page


def test_a_page_says_what_failed_and_where_cuts_moved(tmp_path, rng):
    tied, _, _ = with_spectrum(rng, 8, 6, np.array([2.0, 1.0, 1.0, 0.5]))
    W = {"tied": tied, "<script>": tied, "bad": tied}
    V = {"tied": 1.5 * tied, "<script>": 2.0 * tied + 0.1, "bad": np.full((8, 6), np.nan)}
    compared(tmp_path, W, V, k=2).report(str(tmp_path / "c.html"))
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert page.index("1 tensor could not be compared") < page.index("What stands out")
    assert "too close, where subspaces were to end: &lt;script&gt;, tied; see the table." in page
    assert page.count("<script") == 1
    assert "&lt;script&gt;" in page


def test_what_an_index_promises_in_vain_has_failed(tmp_path, rng):
    W = {f"W{i}": rng.standard_normal((4, 3)) for i in range(2)}
    for name, shard in (("a", W), ("b", {"W0": W["W0"]})):
        save_shards(tmp_path / name, {"1.safetensors": shard}, W1="1.safetensors")
    result = run(tmp_path / "a", tmp_path / "b", "--json", "-")
    assert result.exit_code == 3
    found = json.loads(result.stdout)["comparison"]
    assert [(part["name"], part["reason"]) for part in found["failed"]] == [
        ("W1", "B: the index has it in '1.safetensors', which does not hold it")
    ]
    assert found["not_compared"] == []


@pytest.mark.filterwarnings("error")
def test_ratios_beyond_float64_are_undefined(tmp_path, rng):
    """Denormal numbers beside 1e200: no quotient of the two is a float64, in either direction."""
    W = rng.standard_normal((6, 5))
    a, b = (
        save(tmp_path / f"{name}.safetensors", {"W1": scale * W}, "F64")
        for name, scale in (("a", 1e-310), ("b", 1e200))
    )
    for first, second in ((a, b), (b, a)):
        found = compare_checkpoints(first, second, k=2)
        found.report(str(tmp_path / "c.html"))
        assert "inf" not in re.findall(r"<td[^>]*>([^<]*)</td>", (tmp_path / "c.html").read_text(encoding="utf-8"))
    (change,) = compare_checkpoints(a, b, k=2).tensors
    assert np.isnan(change.relative_change)
    assert change.status == "computed; ‖B − A‖_F/‖A‖_F is beyond float64"
    assert "‖B − A‖_F/‖A‖_F is undefined" in change.summary()
