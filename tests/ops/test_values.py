"""Values of f, f' and f'' against independent maths: every implementation and dtype."""

from __future__ import annotations

import functools
from functools import partial

import pytest
import torch
from torch import Tensor

import reference
from conftest import ORDERS, Implementation
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
    worst = torch.where(wrong, ulp, -1.0).argmax()
    assert not wrong.any(), (
        f"{int(wrong.sum())} outside the bounds; f({x[worst].item()!r}) is {result[worst].item()!r}"
        f" instead of {true[0][worst].item()!r}, an error of {ulp[worst].item():.3f} ULP"
    )
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
