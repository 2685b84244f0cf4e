"""Every layout of inputs and outputs gives the values of contiguous memory, and nothing else."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import layouts
import reference
from conftest import ORDERS, Path
from layouts import LAYOUTS, OVERLAPPING

EVERY_LAYOUT = pytest.mark.parametrize("layout", [*LAYOUTS, *OVERLAPPING])
WRITABLE_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS)


def assert_equal(path: Path, result: Tensor, expected: Tensor) -> None:
    """To the last bit for kernels; torch's own maths, which `eager` uses, has tails of its own."""
    if path.backend(result) == "eager":
        torch.testing.assert_close(result, expected, equal_nan=True, check_stride=False)
    else:
        assert reference.same_bits(result, expected)


@EVERY_LAYOUT
@ORDERS
def test_values(path: Path, device: str, dtype: torch.dtype, layout: str, order: int) -> None:
    x = layouts.make(layout, dtype, device)
    result = path.derivative(x, order)
    assert result.dtype == dtype
    assert result.stride() == F.mish(x).stride()
    assert_equal(path, result, path.derivative(x.contiguous(), order))


@EVERY_LAYOUT
def test_gradients_of_other_strides(
    path: Path, device: str, dtype: torch.dtype, layout: str
) -> None:
    """Any gradient may meet any input; that of sum() is one element, expanded."""
    x = layouts.make(layout, dtype, device)
    other = layouts.filled(tuple(x.shape), dtype, device, seed=1)
    one = torch.full((), 3.0, dtype=dtype, device=device)
    for g in (layouts.make(layout, dtype, device, seed=1), other, one.expand(x.shape)):
        results = path.mish_backward(g, x), path.mish_double_backward(x, g, x)
        if path.backend(x) != "eager" or g.stride() == x.stride():
            assert results[0].stride() == torch.mul(g, x).stride()
        g, dense = g.contiguous(), x.contiguous()
        expected = path.mish_backward(g, dense), path.mish_double_backward(dense, g, dense)
        for result, value in zip(results, expected, strict=True):
            assert_equal(path, result, value)


@WRITABLE_LAYOUT
def test_inplace(path: Path, device: str, dtype: torch.dtype, layout: str) -> None:
    x = layouts.make(layout, dtype, device)
    expected, around = path.mish(x), layouts.surroundings(x).clone()
    strides = x.stride()
    assert path.mish_(x) is x
    assert x.stride() == strides
    assert_equal(path, x, expected)
    assert reference.same_bits(layouts.surroundings(x), around)


@WRITABLE_LAYOUT
def test_out(path: Path, device: str, dtype: torch.dtype, layout: str) -> None:
    """An `out` of the right shape keeps its strides, whatever those of the input."""
    out = layouts.make(layout, dtype, device)
    around, strides = layouts.surroundings(out).clone(), out.stride()
    for x in (layouts.like(out), layouts.filled(tuple(out.shape), dtype, device, seed=1)):
        assert path.mish_out(x, out) is out
        assert out.stride() == strides
        assert_equal(path, out, path.mish(x))
        assert reference.same_bits(layouts.surroundings(out), around)


@EVERY_LAYOUT
def test_out_without_elements_is_resized(
    path: Path, device: str, dtype: torch.dtype, layout: str
) -> None:
    x = layouts.make(layout, dtype, device)
    out = torch.empty(0, dtype=dtype, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path.mish_out(x, out)
    assert out.shape == x.shape
    assert_equal(path, out, path.mish(x))


@pytest.mark.parametrize("sizes", [(2, 3), (70,), ()])
def test_out_of_another_shape_is_resized_with_a_warning(
    path: Path, device: str, sizes: tuple[int, ...]
) -> None:
    x = torch.randn(4, 5, device=device)
    out = torch.empty(sizes, device=device)
    with pytest.warns(UserWarning, match="was resized"):
        path.mish_out(x, out)
    assert_equal(path, out, path.mish(x))


def test_out_may_be_the_input(path: Path, device: str, dtype: torch.dtype) -> None:
    x = layouts.make("contiguous", dtype, device)
    expected = path.mish(x)
    assert path.mish_out(x, x) is x
    assert_equal(path, x, expected)


@st.composite
def views(draw: st.DrawFn) -> Tensor:
    """A permuted, cropped and stepped view of a float tensor."""
    sizes = draw(st.lists(st.integers(1, 24), min_size=1, max_size=4))
    x = layouts.filled(tuple(sizes), torch.float32, "cpu", seed=draw(st.integers(0, 99)))
    x = x.permute(draw(st.permutations(range(len(sizes)))))
    crop = [
        slice(draw(st.integers(0, 3)), -draw(st.integers(0, 3)) or None, draw(st.integers(1, 4)))
        for _ in sizes
    ]
    return x[tuple(crop)]


# The fixtures are constants: nothing of one example is left for the next.
@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(x=views())
def test_any_view(path: Path, device: str, x: Tensor) -> None:
    x = layouts.memory(x).to(device).as_strided(x.shape, x.stride(), x.storage_offset())
    expected, around = path.mish(x.contiguous()), layouts.surroundings(x).clone()
    assert_equal(path, path.mish(x), expected)
    assert_equal(path, path.mish_out(x, torch.empty_like(expected)), expected)
    path.mish_(x)
    assert_equal(path, x, expected)
    assert reference.same_bits(layouts.surroundings(x), around)


def test_elements_far_apart(path: Path, device: str) -> None:
    """Offsets beyond 2^32 bytes. Memory that is not written to costs nothing."""
    step = 2**20 + 1
    far = torch.empty(2**31 + 2**21, dtype=torch.bfloat16, device=device)[::step]
    assert far.storage_offset() + far.stride(0) * (far.numel() - 1) > 2**31
    x = torch.linspace(-9, 9, far.numel(), dtype=torch.bfloat16, device=device)
    far.copy_(x)
    assert_equal(path, path.mish(far), path.mish(x))
    path.mish_(far)
    assert_equal(path, far.clone(), path.mish(x))


@pytest.mark.slow
def test_more_than_2_31_elements(path: Path, device: str) -> None:
    if path.name == "eager":
        pytest.skip("torch's own maths, and several times the memory")
    values = torch.linspace(-9, 9, 2**20, dtype=torch.bfloat16, device=device)
    x = torch.empty(2**31 + 2**20 + 3, dtype=torch.bfloat16, device=device)
    x[: 2**31 + 2**20].view(-1, 2**20)[:] = values
    x[-3:] = values[:3]
    path.mish_(x)
    expected = path.mish(values)
    assert torch.equal(x[-3:], expected[:3])
    for row in x[: 2**31 + 2**20].view(-1, 2**20):
        assert torch.equal(row, expected)
