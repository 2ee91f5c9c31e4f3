"""flatcore compare of adapters: updates s·B·A beside dense products in float64, first in text, tables and report."""

import json
import re

import numpy as np
import pyarrow.parquet
import pytest
from checkpoint_files import save_safetensors
from scipy.linalg import subspace_angles
from typer.testing import CliRunner

from flatcore import cli
from flatcore.checkpoints import compare_checkpoints

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


def adapter(folder, B, A, config=None, module=MODULE, **more):
    folder.mkdir()
    tensors = {f"{module}.lora_A.weight": A, f"{module}.lora_B.weight": B, **more}
    save_safetensors(folder / "adapter_model.safetensors", tensors)
    if config:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def run(*arguments):
    result = CliRunner().invoke(cli.app, ["compare", *map(str, arguments)])
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def two(tmp_path, rng):
    """Adapters of rank 4 with s = 2 and of rank 3 with s = 5/√3 on a matrix (24, 32), and both products."""
    factors = [(rng.standard_normal((24, r)), rng.standard_normal((r, 32))) for r in (4, 3)]
    a = adapter(tmp_path / "a", *factors[0], {"r": 4, "lora_alpha": 8})
    b = adapter(tmp_path / "b", *factors[1], {"r": 3, "lora_alpha": 5, "use_rslora": True})
    return a, b, 2.0 * factors[0][0] @ factors[0][1], 5.0 / np.sqrt(3.0) * factors[1][0] @ factors[1][1]


def test_updates_are_those_of_dense_products(two):
    a, b, first, second = two
    (change,) = compare_checkpoints(a, b, k=5).products
    assert (change.name, change.shape, change.ranks) == (MODULE, (24, 32), (4, 3))
    np.testing.assert_allclose(change.scalings, [2.0, 5.0 / np.sqrt(3.0)])
    vectors = []
    for matrix, found in ((first, change.before), (second, change.after), (second - first, change.update)):
        U, s, Vt = np.linalg.svd(matrix)
        vectors.append((U[:, :3], Vt[:3].T))
        np.testing.assert_allclose(found.values, s[:5], atol=1e-12 * s[0])  # LAPACK's rounding, twice
        np.testing.assert_allclose(found.frobenius, np.linalg.norm(matrix), rtol=1e-12)
        np.testing.assert_allclose(found.stable_rank, (s @ s) / s[0] ** 2, rtol=1e-12)
        assert found.certified
        assert (found.residuals <= 1e-12 * s[0]).all()
    np.testing.assert_allclose(change.relative_change, np.linalg.norm(second - first) / np.linalg.norm(first))
    assert (change.rank, change.status) == (3, "computed")
    for side, found in ((0, change.left_angles), (1, change.right_angles)):
        dense = subspace_angles(vectors[0][side], vectors[1][side])[::-1]
        np.testing.assert_allclose(found, dense, atol=change.angle_error + 1e-9)


def test_updates_come_first_everywhere(two, tmp_path):
    a, b, _, _ = two
    files = [tmp_path / f"c.{ending}" for ending in ("json", "parquet", "html")]
    result = run(a, b, "--json", files[0], "--parquet", files[1], "--out", files[2])
    assert result.exit_code == 0
    assert "1 update s·B·A and 0 tensors, 0 of them identical" in result.stdout
    assert f"\n{MODULE}\n  tensor" in result.stdout
    assert "2·B·A of rank 4 in A, 2.8868·B·A of rank 3 in B" in result.stdout
    content = json.loads(files[0].read_text())["comparison"]
    assert list(content).index("products") < list(content).index("tensors")
    assert content["products"][0]["factors"] == [f"{MODULE}.lora_B.weight", f"{MODULE}.lora_A.weight"]
    rows = pyarrow.parquet.read_table(files[1]).to_pylist()
    assert [(row["name"], row["role"]) for row in rows] == [(MODULE, "LoRA s·B·A")]
    page = files[2].read_text(encoding="utf-8")
    assert "What stands out in the updates s·B·A" in page
    assert "Changed updates" in page


def test_factors_follow_where_their_shapes_agree(tmp_path, rng):
    first, second = ((rng.standard_normal((8, 2)), rng.standard_normal((2, 6))) for _ in range(2))
    a, b = adapter(tmp_path / "a", *first), adapter(tmp_path / "b", *second)
    found = compare_checkpoints(a, b, k=2)
    assert [change.name for change in found.changes] == [
        MODULE, f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight",
    ]  # fmt: skip
    assert found.frame()["name"] == [change.name for change in found.changes]
    assert "scaling is not known, 1 was taken" in found.products[0].note
    found.report(str(tmp_path / "c.html"))
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert page.index("in the updates s·B·A") < page.index("in the factors, tensor by tensor")
    ids = re.findall(r'<figure id="([^"]*)"', page)
    assert len(ids) == len(set(ids)) == 6


def test_other_factors_of_the_same_update_change_nothing(tmp_path, rng):
    """B·S and S⁻¹·A with S of powers of two: the same product to the last bit, though no factor is the same."""
    B, A = rng.standard_normal((9, 2)), rng.standard_normal((2, 7))
    S = np.array([4.0, 0.5])
    (change,) = compare_checkpoints(
        adapter(tmp_path / "a", B, A), adapter(tmp_path / "b", B * S, A / S[:, None]), k=2
    ).products
    assert change.relative_change < 1e-14  # rounding
    np.testing.assert_allclose(change.left_overlap, 1.0)
    assert change.certified


def test_the_same_adapter_and_one_with_another_scaling(tmp_path, rng):
    B, A = rng.standard_normal((9, 2)), rng.standard_normal((2, 7))
    a, b, c = (adapter(tmp_path / name, B, A, {"lora_alpha": alpha}) for name, alpha in (("a", 2), ("b", 2), ("c", 3)))
    same = compare_checkpoints(a, b)
    assert same.products[0].unchanged
    assert [title for title, _ in same.groups()] == [f"{a} and {b}", "Identical"]
    (change,) = compare_checkpoints(a, c).products
    np.testing.assert_allclose(change.relative_change, 0.5)
    np.testing.assert_allclose(change.left_overlap, 1.0)


def test_kernels_embeddings_and_wide_ranges(tmp_path, rng):
    """Convolutions' factors, and entries whose product of two would overflow beside small ones."""
    A, B = rng.standard_normal((2, 3, 3, 3)), rng.standard_normal((5, 2, 1, 1))
    a = adapter(tmp_path / "a", 1e200 * B, 1e-200 * A, module="down.conv")
    b = adapter(tmp_path / "b", 1e-100 * B, 3e100 * A, module="down.conv")
    (change,) = compare_checkpoints(a, b, k=2).products
    s = np.linalg.svd(B.reshape(5, 2) @ A.reshape(2, 27), compute_uv=False)
    np.testing.assert_allclose(change.before.values, s[:2], rtol=1e-12)
    np.testing.assert_allclose(change.update.values, 2.0 * s[:2], rtol=1e-12)
    huge = adapter(tmp_path / "c", 1e200 * B, 1e200 * A, module="down.conv")
    found = compare_checkpoints(a, huge)
    assert "expected them within float64" in found.failed[0].reason
    assert not found.products


def test_what_cannot_be_compared_is_told(tmp_path, rng):
    B, A = rng.standard_normal((9, 2)), rng.standard_normal((2, 7))
    a = adapter(tmp_path / "a", B, A)
    broken = compare_checkpoints(a, adapter(tmp_path / "b", np.where(B > 2.0, B, np.nan), A))
    assert broken.failed[0].name == MODULE
    assert "lora_B.weight: 1" in broken.failed[0].reason
    other = adapter(tmp_path / "c", B, rng.standard_normal((2, 6)))
    assert dict(compare_checkpoints(a, other).not_compared)[MODULE] == "LoRA s·B·A of 9 × 7 in A, 9 × 6 in B"


def test_tables_have_products_tensors_and_what_failed(tmp_path, rng):
    B, A = rng.standard_normal((9, 2)), rng.standard_normal((2, 7))
    more = {"w.weight": rng.standard_normal((3, 3)), "bad.weight": np.full((2, 2), np.nan)}
    a = adapter(tmp_path / "a", B, A, **more)
    b = adapter(tmp_path / "b", B + 1.0, A, **{name: 2.0 * W for name, W in more.items()})
    found = compare_checkpoints(a, b, 2)
    names = [MODULE, f"{MODULE}.lora_A.weight", f"{MODULE}.lora_B.weight", "w.weight", "bad.weight"]
    assert found.frame()["name"] == names
    assert found.frame()["ranks"] == [[2, 2], None, None, None, None]
    assert found.frame("products")["name"] == names[:1]
    assert found.frame("tensors")["name"] == names[1:]


def test_other_factors_of_the_same_update_differ_by_rounding(tmp_path, rng):
    """B·S and S⁻¹·A with any S: what is left is rounding, and neither a change nor of a rank."""
    B, A, S = rng.standard_normal((9, 2)), rng.standard_normal((2, 7)), rng.standard_normal((2, 2))
    a, b = adapter(tmp_path / "a", B, A), adapter(tmp_path / "b", B @ S, np.linalg.inv(S) @ A)
    found = compare_checkpoints(a, b, k=3)
    (change,) = found.products
    assert (change.relative_change, change.update.frobenius, change.update.outliers) == (0.0, 0.0, 0)
    np.testing.assert_array_equal(change.update.values, np.zeros(3))
    assert change.certified
    assert change.status == "the same up to rounding"
    assert "update's rank" not in change.summary()
    found.report(str(tmp_path / "c.html"))
    (words,) = re.findall(r"What stands out in the updates.*?</section>", page_of(tmp_path / "c.html"), re.DOTALL)
    assert f"The same up to rounding, of other factors: {MODULE}." in words
    assert "changed most" not in words
    assert "low rank" not in words


def page_of(path):
    return path.read_text(encoding="utf-8")


def test_values_beyond_the_rank_of_an_update_are_zero(tmp_path, rng):
    """The same factors scaled otherwise, and a fresh adapter with B = 0: updates of rank 2, not of 4."""
    B, A = rng.standard_normal((9, 2)), rng.standard_normal((2, 7))
    a, b = (adapter(tmp_path / name, B, A, {"lora_alpha": alpha}) for name, alpha in (("a", 2), ("b", 3)))
    fresh = adapter(tmp_path / "c", 0.0 * B, rng.standard_normal((2, 7)))
    for first, second in ((a, b), (fresh, b)):
        values = compare_checkpoints(first, second, k=4).products[0].update.values
        assert (values[:2] > 0.0).all()
        np.testing.assert_array_equal(values[2:], np.zeros(2))


def test_updates_stand_beside_the_rank_they_can_have_not_beside_noise(two, tmp_path):
    """With k = 1 most of ‖B − A‖_F² is beyond the values, though no update has a rank above 4 + 3."""
    a, b, first, second = two
    found = compare_checkpoints(a, b, k=1)
    (change,) = found.products
    for spectrum in (change.before, change.after, change.update):
        assert np.isnan(spectrum.edge)
        assert spectrum.outliers == 0
    assert "noise" not in change.summary()
    found.report(str(tmp_path / "c.html"))
    page = page_of(tmp_path / "c.html")
    assert "no update is of low rank" not in page
    assert "above noise" not in page
    s = np.linalg.svd(second - first, compute_uv=False)
    assert f"in {MODULE}: {(s @ s) / s[0] ** 2:.4g} of 7." in page
