"""Results depend on no layout, alignment, size or number of threads, and writes stay in bounds.

Kernels give the same bits; torch's own maths, used by `eager`, rounds tails differently.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import layouts
import reference
from conftest import ORDERS, Implementation
from layouts import LAYOUTS, OVERLAPPING


def assert_equal(impl: Implementation, result: Tensor, expected: Tensor) -> None:
    if impl.backend(result) == "eager":
        torch.testing.assert_close(result, expected, equal_nan=True, check_stride=False)
    else:
        assert reference.same_bits(result, expected)


# --- Strides ---


@pytest.mark.parametrize("layout", [*LAYOUTS, *OVERLAPPING])
def test_values_and_strides(
    impl: Implementation, device: str, dtype: torch.dtype, layout: str
) -> None:
    """Any layout of gradient with any of input; the gradient of sum() is one expanded element."""
    x = layouts.make(layout, dtype, device)
    other = layouts.filled(tuple(x.shape), dtype, device, seed=1)
    one = torch.full((), 3.0, dtype=dtype, device=device)
    calls: list[tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = [(F.mish, (x,))]
    for g in (layouts.make(layout, dtype, device, seed=1), other, one.expand(x.shape)):
        calls += [(torch.mul, (g, x)), (torch.addcmul, (x, g, x))]
    for torchs, operands in calls:
        result = impl.apply(*operands)
        assert result.dtype == dtype
        if impl.backend(x) != "eager" or all(t.stride() == x.stride() for t in operands):
            assert result.stride() == torchs(*operands).stride()
        assert_equal(impl, result, impl.apply(*(t.contiguous() for t in operands)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_writes(impl: Implementation, device: str, dtype: torch.dtype, layout: str) -> None:
    """What is written to keeps its strides, and the memory around it; `out` may be the input."""
    target = layouts.make(layout, dtype, device)
    strides, around = target.stride(), layouts.surroundings(target).clone()
    other = layouts.filled(tuple(target.shape), dtype, device, seed=1)
    for x in (target, layouts.like(target), other, None):
        expected = impl.mish(target if x is None else x)
        assert (impl.mish_(target) if x is None else impl.mish(x, out=target)) is target
        assert target.stride() == strides
        assert_equal(impl, target, expected)
        assert reference.same_bits(layouts.surroundings(target), around)


@pytest.mark.parametrize("sizes", [(0,), (2, 3), (70,), ()])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "step 2", "0-d", "empty"])
def test_out_is_resized(
    impl: Implementation, device: str, layout: str, sizes: tuple[int, ...]
) -> None:
    """With a warning unless it had no elements."""
    x = layouts.make(layout, torch.float32, device)
    out = torch.empty(sizes, device=device)
    refilled = out.numel() > 0 and out.shape != x.shape
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        impl.mish(x, out=out)
    assert ["was resized" in str(warning.message) for warning in caught] == [True] * refilled
    assert out.shape == x.shape
    assert_equal(impl, out, impl.mish(x))


# --- Places and sizes; the longest in several threads ---


SIZES = [*range(68), *range(120, 136), *range(505, 520), *range(1020, 1030), *range(4090, 4100)]


@ORDERS
def test_any_size_and_alignment(
    kernels: Implementation, device: str, dtype: torch.dtype, order: int
) -> None:
    """Pointers aligned to one element only, alike or unlike those of other operands and of what is
    written to, whose surroundings stay."""
    operands = [layouts.filled((2**16 + 1,), dtype, device, seed) for seed in range(order + 1)]
    whole = kernels.apply(*operands)
    for start in range(64 // dtype.itemsize + 1):
        for size in SIZES[start % 3 :: 3]:
            part = slice(start, start + size)
            alike = [x[part] for x in operands]
            unlike = [moved(x, i * start % 9) for i, x in enumerate(alike)]
            for arguments in (alike, unlike):
                assert reference.same_bits(kernels.apply(*arguments), whole[part])
            if order == 0:
                x, out = moved(alike[0], start), moved(alike[0], start * 5 % 9)
                kernels.mish(x, out=out)
                for written in (kernels.mish_(x), out):
                    assert reference.same_bits(written, whole[part])
                    assert layouts.surroundings(written).eq(7).all()
    alone = [
        kernels.apply(*elements) for elements in zip(*(x[:300] for x in operands), strict=True)
    ]
    assert reference.same_bits(torch.stack(alone), whole[:300])


def moved(x: Tensor, by: int) -> Tensor:
    """A copy with other elements before and behind it."""
    return torch.cat([x.new_full((by,), 7), x, x.new_full((32,), 7)])[by : by + x.numel()]


# --- Large offsets and counts ---


def test_elements_far_apart(impl: Implementation, device: str) -> None:
    """Offsets beyond 2^32 bytes. Untouched memory takes no space."""
    step = 2**20 + 1
    far = torch.empty(2**31 + 2**21, dtype=torch.bfloat16, device=device)[::step]
    assert far.storage_offset() + far.stride(0) * (far.numel() - 1) > 2**31
    x = torch.linspace(-9, 9, far.numel(), dtype=torch.bfloat16, device=device)
    far.copy_(x)
    assert_equal(impl, impl.mish(far), impl.mish(x))
    impl.mish_(far)
    assert_equal(impl, far.clone(), impl.mish(x))


@pytest.mark.slow
def test_more_than_2_31_elements(kernels: Implementation, device: str) -> None:
    values = torch.linspace(-9, 9, 2**20, dtype=torch.bfloat16, device=device)
    x = torch.empty(2**31 + 2**20 + 3, dtype=torch.bfloat16, device=device)
    rows = x[: 2**31 + 2**20].view(-1, 2**20)
    rows[:] = values
    x[-3:] = values[:3]
    kernels.mish_(x)
    expected = kernels.mish(values)
    assert torch.equal(x[-3:], expected[:3])
    assert all(torch.equal(row, expected) for row in rows)
