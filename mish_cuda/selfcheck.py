"""Checks in a fraction of a second that values and gradients keep their error bounds here.

Every result is compared with the textbook formula in float64, within the bounds of `_bounds`, which
docs/numerics.md proves. This check finds faults of a build or a machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from . import functional
from ._bounds import allowed, rows_of
from ._textbook import derivatives

# The limits, and switching points: e^x = 0.7 selects other operands, f' and f'' cross zero,
# tanh(softplus(x)) rounds to 1, e^x leaves the range of float or double, F.mish overflows.
EDGES = (
    *(-math.inf, -0.0, 0.0, math.inf, math.nan),
    *(math.log(0.7), -1.1924312145498955, -2.2563788, 1.4905687, -3.0, 20.0, 22.0, 89.0),
    *(-87.3, -87.34, -87.69, -88.0, -104.0, -708.3, -708.4, -708.75, -709.09, -745.14, -746.0),
)


def inputs(dtype: torch.dtype) -> Tensor:
    """Edges with their neighbours, every third 16-bit number, and random numbers where Mish is
    curved and where it underflows; too few for torch to use several threads."""
    edges = torch.tensor(EDGES, dtype=torch.float64).to(dtype)
    near = [torch.nextafter(edges, torch.full_like(edges, end)) for end in (-math.inf, math.inf)]
    half = torch.float16 if dtype == torch.float16 else torch.bfloat16
    patterns = torch.arange(-(2**15), 2**15, 3).to(torch.int16).view(half).to(dtype)
    generator = torch.Generator().manual_seed(0)
    bends = torch.randn(5000, dtype=torch.float64, generator=generator) * 3
    lowest = -720 if dtype == torch.float64 else -105
    falls = torch.rand(5000, dtype=torch.float64, generator=generator) * lowest
    return torch.cat([edges, *near, patterns, bends.to(dtype), falls.to(dtype)])


def reference(x: Tensor, order: int) -> Tensor:
    """f, f' or f'' of float64 x, limits and NaN included; its error is in `_bounds`."""
    clamped = x.clamp(-1e4, 1e4)  # beyond, results equal the limits, but inf * 0 would be NaN
    result = derivatives(clamped, torch)[order]
    return torch.where(x > 1e4, x, result) if order == 0 else result


def tolerance(
    expected: Tensor, x: Tensor, order: int, factor: Tensor, dtype: torch.dtype, by: str
) -> Tensor:
    """The largest error of `expected` = factor * (f, f' or f'')(x) where "cpu", "cuda" or "eager"
    compute it in `dtype`, the error of `reference` included; the factors are powers of two."""
    error = allowed(by, dtype, order, x, expected, factor)
    if dtype == torch.float64:  # negligible in others
        error += allowed("reference", dtype, order, x, expected, factor)
    return error


VARIANTS = ("forward", "backward", "double_backward", "out", "in_place", "strided")


def _derivatives(x: Tensor, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f(x), g f'(x) and h g f''(x) by autograd."""
    x = x.detach().requires_grad_()
    y = functional.mish(x)
    # Sums, since passing gradients makes torch import sympy, which takes a third of a second.
    (slope,) = torch.autograd.grad((y * g).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad((slope * h).sum(), x)
    return y.detach(), slope.detach(), curvature


def _results(x: Tensor, g: Tensor, h: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """Each of VARIANTS: its name, the order of the derivative, and the result."""
    for order, result in enumerate(_derivatives(x, g, h)):
        yield VARIANTS[order], order, result
    out, in_place = torch.zeros_like(x), x.clone()  # empty memory may hold an earlier result
    functional.mish(x, out=out)
    functional.mish_(in_place)
    yield "out", 0, out
    yield "in_place", 0, in_place
    apart = torch.stack([x, torch.zeros_like(x)], 1)[:, 0]
    for order, result in enumerate(_derivatives(apart, g, h)):
        yield "strided", order, result


@dataclass(frozen=True)
class Worst:
    """The largest error of a result as a share of what is allowed, and where it is."""

    share: float
    x: float
    got: float
    expected: float

    def __str__(self) -> str:
        return f"got {self.got!r} at x = {self.x!r}, expected {self.expected!r}"


def judge(result: Tensor, x: Tensor, order: int, factor: Tensor, by: str) -> Worst:
    """Compares `result` with factor * (f, f' or f'')(x); x and factor in float64 on the CPU."""
    expected = factor * reference(x, order)
    got = result.cpu().double()
    error = (got - expected).abs().nan_to_num(torch.inf, torch.inf)
    error[(got == expected) | (got.isnan() & expected.isnan())] = 0
    if order == 0:  # f has the sign of x, also where it is zero
        error[(got.signbit() != x.signbit()) & ~x.isnan()] = torch.inf
    bound = tolerance(expected, x, order, factor, result.dtype, by)
    share = torch.where(error == 0, 0.0, error / bound)
    at = share.argmax()
    return Worst(*(float(tensor[at]) for tensor in (share, x, got, expected)))


def check(device: str, dtype: torch.dtype) -> dict[str, Worst]:
    """The worst result of each of VARIANTS, computed on that device in that dtype.

    Raises:
        Exception: whatever the device or the library raises.
    """
    x = inputs(dtype)
    # Gradients of either sign that multiply without rounding.
    powers = torch.tensor([-4.0, -1.0, 0.5, 2.0])
    generator = torch.Generator().manual_seed(1)
    g, h = (powers[torch.randint(4, x.shape, generator=generator)] for _ in range(2))
    on_device = x.to(device)
    by = rows_of(functional.backend(on_device), on_device.device)
    factors = (torch.ones_like(g).double(), g.double(), (h * g).double())
    worst: dict[str, Worst] = {}
    for variant, order, result in _results(on_device, g.to(on_device), h.to(on_device)):
        judged = judge(result, x.double(), order, factors[order], by)
        if variant not in worst or judged.share > worst[variant].share:
            worst[variant] = judged
    return worst
