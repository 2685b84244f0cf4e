"""Values of f, f' and f'' against independent maths: every implementation and dtype."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import mpmath
import pytest
import torch
from torch import Tensor

import reference
from conftest import ORDERS, Path

HALVES = pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])


@dataclass(frozen=True)
class Accuracy:
    """Largest errors, in ULP of the result or absolute. f' crosses zero between -3 and 0, and f''
    on both sides of 0, so that errors count absolutely there."""

    value: float  # ULP
    slope_below: float  # ULP, x < -3
    slope_between: float  # absolute, -3 <= x < 0
    slope_above: float  # ULP, x >= 0
    curvature_below: float  # ULP, x < -3
    curvature: float  # absolute, x >= -3


# By what computes. "cuda" allows ex2.approx an error of 2 ULP and rcp.approx one of 1 ULP.
ACCURACY = {
    ("cpu", torch.float32): Accuracy(2.5, 6, 1.2e-7, 4, 12, 4e-7),
    ("cpu", torch.float64): Accuracy(4, 8, 4e-16, 8, 12, 1e-15),
    ("eager", torch.float32): Accuracy(4.5, 9, 1.3e-7, 4, 12, 4e-7),
    ("eager", torch.float64): Accuracy(4, 9, 4e-16, 8, 12, 1e-15),
    ("cuda", torch.float32): Accuracy(3, 12, 4e-7, 8, 16, 8e-7),
    ("cuda", torch.float64): Accuracy(4, 8, 4e-16, 8, 11, 1e-15),
}

# Below, e^x is subnormal and may be flushed to 0; then the error is all of |f|, |f'| or |f''|.
UNDERFLOW = {torch.float32: (-87.3, 1.1e-36), torch.float64: (-708.3, 1.2e-305)}


def within_bounds(
    result: Tensor, x: Tensor, expected: tuple[Tensor, Tensor], order: int, by: str
) -> Tensor:
    """Where `result` is as near to `expected` as its implementation promises."""
    ulp, absolute = reference.error(result, expected)
    at = x.double()
    # Half types are computed in float and rounded once: 1 ULP, or the float's absolute error.
    half = result.dtype.itemsize == 2
    wide = torch.float32 if half else result.dtype
    accuracy = ACCURACY[by, wide]
    ulps, absolutes = {
        0: ((accuracy.value,) * 3, (0, 0, 0)),
        1: ((accuracy.slope_below, 0, accuracy.slope_above), (0, accuracy.slope_between, 0)),
        2: ((accuracy.curvature_below, 0, 0), (0, accuracy.curvature, accuracy.curvature)),
    }[order]
    region = (at >= -3).long() + (at >= 0)
    limit, absolute_limit = (
        torch.tensor(t, dtype=torch.float64)[region] for t in (ulps, absolutes)
    )
    if half:
        limit = torch.ones_like(limit)
    lowest, flushed = UNDERFLOW[wide]
    absolute_limit = torch.where(at < lowest, flushed, absolute_limit)
    return (ulp <= limit) | (absolute <= absolute_limit)


def report(ok: Tensor, result: Tensor, x: Tensor, expected: tuple[Tensor, Tensor]) -> str:
    """The worst of the elements that are not ok."""
    ulp, absolute = reference.error(result, expected)
    worst = torch.where(ok, -1.0, ulp).argmax()
    return (
        f"{int((~ok).sum())} of {ok.numel()} are outside the bounds; at x = {x[worst].item()!r}: "
        f"{result[worst].item()!r} for {expected[0][worst].item()!r}, an error of "
        f"{ulp[worst].item():.3f} ULP, {absolute[worst].item():.2e}"
    )


def check(result: Tensor, x: Tensor, expected: tuple[Tensor, Tensor], order: int, by: str) -> None:
    result = result.cpu()
    ok = within_bounds(result, x, expected, order, by)
    assert ok.all(), report(ok, result, x, expected)


@functools.cache
def inputs(dtype: torch.dtype) -> Tensor:
    if dtype.itemsize == 2:
        return reference.all_patterns(dtype)
    return reference.samples(dtype, 100_000 if dtype == torch.float32 else 1500)


@functools.cache
def expected(dtype: torch.dtype, order: int) -> tuple[Tensor, Tensor]:
    return reference.expected(inputs(dtype), order)


@ORDERS
def test_reference_is_the_derivative_of_the_definition(order: int) -> None:
    points = [-30, -18, reference.MINIMUM, -1, -1e-3, 0, 0.5, 1.5, 8, 19]
    exact, _ = reference.exact(torch.tensor(points, dtype=torch.float64), order)
    with mpmath.workdps(60):

        def definition(x: mpmath.mpf) -> mpmath.mpf:
            return x * mpmath.tanh(mpmath.log(1 + mpmath.exp(x)))

        derivatives = [float(mpmath.diff(definition, point, order)) for point in points]
    torch.testing.assert_close(exact.tolist(), derivatives, rtol=1e-15, atol=0)


@ORDERS
def test_references_agree(order: int) -> None:
    x = reference.samples(torch.float64, 100)
    torch.testing.assert_close(
        reference.mish(x, order),
        reference.exact(x, order)[0],
        rtol=1e-13,
        atol=1e-15,
        equal_nan=True,
    )


@ORDERS
def test_values(path: Path, device: str, dtype: torch.dtype, order: int) -> None:
    x = inputs(dtype)
    on_device = x.to(device)
    result = path.derivative(on_device, order)
    assert result.dtype == dtype
    check(result, x, expected(dtype, order), order, path.backend(on_device))


@HALVES
@ORDERS
def test_almost_every_16_bit_value_is_correctly_rounded(
    path: Path, device: str, half: torch.dtype, order: int
) -> None:
    x = inputs(half)
    result = path.derivative(x.to(device), order)
    correct, _ = expected(half, order)
    right = (result.cpu() == correct.to(half)) | correct.isnan()
    assert right.double().mean() >= (0.999 if order == 0 else 0.99)


@ORDERS
def test_nan_for_nan_only(path: Path, device: str, dtype: torch.dtype, order: int) -> None:
    x = inputs(dtype)
    result = path.derivative(x.to(device), order).cpu()
    assert torch.equal(result.isnan(), x.isnan())
    may_be_infinite = (x == torch.inf) if order == 0 else torch.zeros_like(x, dtype=torch.bool)
    assert torch.equal(result.isinf(), may_be_infinite)


def test_value_has_the_sign_of_its_argument(path: Path, device: str, dtype: torch.dtype) -> None:
    """Also where it is zero."""
    x = inputs(dtype)
    x = x[~x.isnan()]
    assert torch.equal(path.mish(x.to(device)).cpu().signbit(), x.signbit())


@pytest.mark.parametrize(
    ("order", "x", "limit"),
    [
        (0, -torch.inf, -0.0),
        (0, torch.inf, torch.inf),
        (0, -0.0, -0.0),
        (0, 0.0, 0.0),
        (1, -torch.inf, 0.0),
        (1, torch.inf, 1.0),
        (1, -0.0, 0.6),
        (1, 0.0, 0.6),
        (2, -torch.inf, 0.0),
        (2, torch.inf, 0.0),
        (2, -0.0, 0.64),
        (2, 0.0, 0.64),
    ],
)
def test_limits(
    path: Path, device: str, dtype: torch.dtype, order: int, x: float, limit: float
) -> None:
    result = path.derivative(torch.full((3,), x, dtype=dtype, device=device), order)
    expected = torch.full((3,), limit, dtype=dtype)
    torch.testing.assert_close(result.cpu(), expected, rtol=torch.finfo(dtype).eps, atol=0)
    if order == 0:
        assert reference.same_bits(result, expected)


@pytest.mark.parametrize("x", [1e10, 1e30, 3.4e38])
def test_huge_arguments_saturate(path: Path, device: str, x: float) -> None:
    t = torch.tensor([x, -x], device=device)
    assert path.derivative(t, 0).tolist() == [t[0].item(), 0.0]
    assert path.derivative(t, 1).tolist() == [1.0, 0.0]
    assert path.derivative(t, 2).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_backward_is_the_slope_times_the_gradient_rounded_once_more(
    path: Path, device: str, wide: torch.dtype
) -> None:
    """So the bounds of the slope hold for the backward pass, plus one rounding."""
    x = inputs(wide).to(device)
    g = reference.random_patterns(wide, x.numel(), seed=2).to(device)
    assert reference.same_bits(path.mish_backward(g, x), g * path.derivative(x, 1))


@HALVES
@pytest.mark.parametrize("operands", ["g", "hg"])
def test_16_bit_gradients_are_rounded_once(
    path: Path, device: str, half: torch.dtype, operands: str
) -> None:
    """Of f' or f'' in float, and products in float, only the result is rounded to 16 bits."""
    x = reference.all_patterns(half)
    x = x[x.abs() < 80]
    random = torch.Generator().manual_seed(5)
    factors = [
        (torch.rand(x.shape, generator=random) * 4 - 2).to(half).to(device) for _ in operands
    ]
    on_device = x.to(device)
    if operands == "g":
        result = path.mish_backward(*factors, on_device)
    else:
        result = path.mish_double_backward(*factors, on_device)
    product = torch.stack([f.cpu().double() for f in factors]).prod(0)
    correct = product * reference.mish(x, len(operands))
    _, absolute = reference.error(result, (correct, torch.zeros_like(correct)))
    # Half an ULP for the rounding, and what the float's own error adds: near the zeros of f' and
    # f'' that is absolute, times the largest factors.
    assert (absolute <= 0.51 * reference.spacing(correct, half) + 4 * 4e-7).all()


@pytest.mark.parametrize("wide", [torch.float32, torch.float64], ids=["fp32", "fp64"])
def test_double_backward_is_the_curvature_times_both_gradients(
    path: Path, device: str, wide: torch.dtype
) -> None:
    x = inputs(wide)
    x = x[x.isfinite()]
    h, g = (torch.randn(x.shape, dtype=wide) for _ in range(2))
    h, g, x = h.to(device), g.to(device), x.to(device)
    result, curvature = path.mish_double_backward(h, g, x), path.derivative(x, 2)
    # Rounded once for each factor, in whichever order they are taken.
    orders = [h * (g * curvature), (h * g) * curvature]
    assert any(reference.same_bits(result, product) for product in orders)


def test_special_gradients_follow_multiplication(
    path: Path, device: str, dtype: torch.dtype
) -> None:
    """0 stays 0, at infinite inputs too; an infinite gradient makes NaN of a slope of 0."""
    x = torch.tensor([-torch.inf, -5.0, 0.0, 2.0, torch.inf], dtype=dtype, device=device)
    for g in (0.0, torch.inf, torch.nan):
        slope = path.derivative(x, 1)
        gradient = torch.full_like(x, g)
        assert reference.same_bits(path.mish_backward(gradient, x), gradient * slope)
