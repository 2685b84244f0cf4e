"""Values of f, f' and f'' against independent maths: every implementation and dtype. They depend on
no layout, alignment or size, and writes stay in bounds.

In any layout kernels give the same bits; torch's own maths, used by `eager`, rounds tails
differently.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import layouts
import reference
from conftest import ORDERS, Implementation, needs_gpu
from layouts import LAYOUTS, OVERLAPPING
from mish_cuda._bounds import DTYPES, allowed, bounds, rows_of
from mish_cuda._textbook import FUNCTIONS

NAMES = {dtype: name for name, dtype in DTYPES.items()}


@functools.cache
def inputs(dtype: torch.dtype) -> Tensor:
    """All values of 16 bits; of wider dtypes the edges and many at random."""
    if dtype.itemsize == 2:
        return reference.all_patterns(dtype)
    return reference.samples(dtype, 100_000 if dtype == torch.float32 else 1500)


@functools.cache
def expected(dtype: torch.dtype, order: int) -> tuple[Tensor, Tensor]:
    return reference.expected(inputs(dtype), order)


# --- f, f' and f''; limits, and mpmath's own derivatives: test_autograd.py ---


@ORDERS
def test_values(impl: Implementation, device: str, dtype: torch.dtype, order: int) -> None:
    """Within the table of bounds, finite for finite arguments, NaN for NaN only."""
    x, true = inputs(dtype), expected(dtype, order)
    on_device = x.to(device)
    result, by = impl.derivative(on_device, order).cpu(), rows_of(impl.backend(on_device), device)
    assert result.dtype == dtype
    ulp, absolute = reference.error(result, true)
    wrong = ~(absolute <= allowed(by, dtype, order, x, true[0]))
    assert not wrong.any(), (x[wrong], result[wrong], true[0][wrong], ulp[wrong])
    assert torch.equal(result.isnan(), x.isnan())
    assert torch.equal(result.isinf(), x.isposinf() if order == 0 else torch.zeros_like(x.isinf()))
    if order == 0:  # also where it is zero
        numbers = ~x.isnan()
        assert torch.equal(result[numbers].signbit(), x[numbers].signbit())
    right = (result == true[0].to(dtype)) | true[0].isnan()
    for bound in bounds(by, NAMES[dtype], FUNCTIONS[order]):
        assert right.double().mean() >= bound.correct


# --- Times gradients ---


def test_special_gradients_follow_multiplication(
    impl: Implementation, device: str, dtype: torch.dtype
) -> None:
    """0 stays 0, at infinite inputs too; an infinite gradient makes NaN of a slope of 0."""
    x = torch.tensor([-torch.inf, -5.0, 0.0, 2.0, torch.inf], dtype=dtype, device=device)
    for g in map(partial(torch.full_like, x), (0.0, torch.inf, torch.nan)):
        assert reference.same_bits(impl.mish_backward(g, x), g * impl.derivative(x, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_wide_gradients_are_multiplied(
    impl: Implementation, device: str, dtype: torch.dtype
) -> None:
    """So the bounds of f' and f'' hold for both backward ops, plus one rounding a factor."""
    x = inputs(dtype).to(device)
    g = reference.random_patterns(dtype, x.numel(), seed=2).to(device)
    assert reference.same_bits(impl.mish_backward(g, x), g * impl.derivative(x, 1))
    x = x[x.isfinite()]
    h, g = torch.randn(2, x.numel(), dtype=dtype).to(device)
    result, curvature = impl.mish_double_backward(h, g, x), impl.derivative(x, 2)
    # In whichever order they are taken.
    products = [h * (g * curvature), (h * g) * curvature]
    assert any(reference.same_bits(result, product) for product in products)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("scale", [2.0**-20, 1.0, 2.0**14])  # fp16: to subnormals, to infinity
def test_16_bit_gradients_are_rounded_once(
    impl: Implementation, device: str, dtype: torch.dtype, order: int, scale: float
) -> None:
    """Of f' or f'' in float, and products in float, only the result is rounded to 16 bits."""
    x = reference.all_patterns(dtype)
    x = x[x.abs() < 80]
    h, g = ((torch.rand(2, x.numel()) * 4 - 2) * torch.tensor([[1.0], [scale]])).to(dtype)
    factors = [h, g][-order:]
    result = impl.apply(*(factor.to(device) for factor in factors), x.to(device))
    correct = torch.stack(factors).double().prod(0) * reference.mish(x, order)
    _, absolute = reference.error(result, (correct, torch.zeros_like(correct)))
    # Half an ULP for the rounding, and what the float's own error adds: near the zeros of f' and
    # f'' that is absolute, times the largest factors.
    assert (absolute <= 0.51 * reference.spacing(correct, dtype) + 4 * 4e-7 * scale).all()


# --- Strides ---


def assert_equal(impl: Implementation, result: Tensor, expected: Tensor) -> None:
    if impl.backend(result) == "eager":
        torch.testing.assert_close(result, expected, equal_nan=True, check_stride=False)
    else:
        assert reference.same_bits(result, expected)


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


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "step 2", "0-d", "empty"])
def test_out_is_resized(
    impl: Implementation, device: str, layout: str, recwarn: pytest.WarningsRecorder
) -> None:
    """With a warning unless it had no elements."""
    x = layouts.make(layout, torch.float32, device)
    for sizes in ((0,), (2, 3), (70,), ()):
        recwarn.clear()
        out = torch.empty(sizes, device=device)
        refilled = out.numel() > 0 and out.shape != x.shape
        impl.mish(x, out=out)
        assert ["was resized" in str(warning.message) for warning in recwarn] == [True] * refilled
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


@ORDERS
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.large), pytest.param("cuda", marks=needs_gpu)]
)
def test_more_than_2_31_elements(
    kernels: Implementation, device: str, dense: bool, order: int
) -> None:
    """No 32-bit integer counts them. Their number is odd, so the last pack is cut."""
    known = Path("/proc/meminfo").read_text() if Path("/proc/meminfo").exists() else ""
    of_cpu = 1024 * sum(map(int, re.findall(r"MemAvailable: *(\d+) kB", known)))
    free = of_cpu if device == "cpu" else torch.cuda.mem_get_info()[0]
    needed = 5 * (order + 2) + 2
    if free < needed * 2**30:
        pytest.skip(f"{needed} GiB of memory are needed, {free / 2**30:.0f} are free")
    values = torch.linspace(-9, 9, 2**15 - 1, dtype=torch.bfloat16, device=device)
    rows = values.expand(2**16 + 3, -1)
    assert rows.numel() > 2**31
    x = rows.contiguous() if dense else rows.t()
    expected = kernels.derivative(values, order).expand_as(rows)
    assert torch.equal(kernels.derivative(x, order), expected if dense else expected.t())
    if dense and order == 0:
        assert torch.equal(kernels.mish_(x), expected)
