"""Exact singular values of circular convolutions, beside the dense matrix of torch's own convolution."""

import numpy as np
import pytest
import torch

from flatcore.torch._convolution import circular_singular_values

MODULES = {1: torch.nn.Conv1d, 2: torch.nn.Conv2d, 3: torch.nn.Conv3d}


def dense(module, grid):
    """The matrix of the linear map, one column a unit input."""
    channels = module.in_channels
    size = channels * int(np.prod(grid))
    with torch.no_grad():
        images = module(torch.eye(size, dtype=torch.float64).reshape(size, channels, *grid))
    return images.reshape(size, -1).T.numpy()


CASES = [
    ((3, 2, (3,)), {}, (7,)),
    ((2, 4, (3,)), {}, (8,)),
    ((3, 3, (4,)), {}, (6,)),
    ((2, 3, (3,)), {"dilation": 2}, (9,)),
    ((2, 2, (5,)), {}, (3,)),
    ((3, 2, (3, 3)), {}, (5, 4)),
    ((2, 5, (2, 3)), {}, (4, 6)),
    ((4, 4, (3, 3)), {"groups": 2}, (4, 5)),
    ((4, 4, (3, 1)), {"groups": 4}, (5, 5)),
    ((2, 2, (3, 2)), {"dilation": (2, 3)}, (7, 6)),
    ((3, 2, (1, 1)), {}, (3, 3)),
    ((2, 3, (2, 3, 3)), {}, (3, 4, 3)),
]


@pytest.mark.parametrize(("shape", "options", "grid"), CASES)
def test_values_are_those_of_the_dense_matrix(shape, options, grid):
    """float64 LAPACK on both sides: errors of some 1e-15 times the largest value; 1e-10 leaves room."""
    torch.manual_seed(0)
    inputs, outputs, extent = shape
    module = MODULES[len(extent)](
        inputs, outputs, extent, padding="same", padding_mode="circular", bias=False, dtype=torch.float64, **options
    )
    found = circular_singular_values(module.weight, grid, dilation=module.dilation, groups=options.get("groups", 1))
    expected = np.linalg.svd(dense(module, grid), compute_uv=False)
    count = min(inputs, outputs) * int(np.prod(grid))  # the others are zeros of the shape
    assert found.shape == (count,)
    np.testing.assert_allclose(found, expected[:count], rtol=0, atol=1e-10 * expected[0])
    assert np.all(expected[count:] <= 1e-10 * expected[0])


def test_panels_do_not_matter(monkeypatch):
    weight = torch.randn(3, 2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole = circular_singular_values(weight, (6, 5))
    monkeypatch.setattr("flatcore.torch._convolution._PANEL_ENTRIES", 20)
    np.testing.assert_allclose(circular_singular_values(weight, (6, 5)), whole, rtol=1e-12)


def test_squares_add_up_to_the_norm_of_the_map():
    """Every entry of the kernel stands at N places of the matrix: Σσ² = N‖w‖²."""
    weight = torch.randn(6, 5, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    values = circular_singular_values(weight, (11, 9))
    assert np.sum(values**2) == pytest.approx(99 * float(weight.square().sum()), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_precisions_are_read_exactly(dtype):
    weight = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(3)).to(dtype)
    np.testing.assert_array_equal(
        circular_singular_values(weight, (8,)), circular_singular_values(weight.double(), (8,))
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": (4,)}, r"grid is \(4,\); expected 2 numbers"),
        ({"grid": (4, 0)}, r"grid is \(4, 0\); expected 2 numbers of at least 1"),
        ({"grid": (4, 4), "dilation": (1,)}, r"dilation is \(1,\); expected 2 numbers"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        circular_singular_values(torch.zeros(2, 2, 3, 3), **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_device():
    weight = torch.randn(3, 2, 3, 3, generator=torch.Generator().manual_seed(4))
    np.testing.assert_allclose(
        circular_singular_values(weight.cuda(), (5, 5)), circular_singular_values(weight, (5, 5)), rtol=1e-10
    )
