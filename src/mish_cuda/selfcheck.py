"""Do values and gradients keep their bounds on this machine? Takes a fraction of a second.

Every result is compared with the textbook formula in float64. The bounds are those of
docs/numerics.md, which ``make accuracy`` proves, and of tests/test_values.py for ``eager``; this
looks for what a build or a machine may do wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from . import functional


@dataclass(frozen=True)
class Bounds:
    """Largest errors of one dtype. Near their zeros, f' from -3 to 0 and f'' everywhere, they are
    absolute, and `rounding` is the part of an ULP that is allowed besides."""

    value: float  # ULP
    slope_below: float  # ULP, x <= -3
    slope_between: float  # absolute, -3 < x < 0
    slope_above: float  # ULP, x >= 0
    curvature: float  # absolute
    rounding: float = 0.0  # ULP


# Those of cuda in float32 are what tests/cpp/test_cuda_kernels.cpp holds any permitted hardware to.
# In float64 the second term is the error of the reference. bfloat16 has the bounds of float16.
BOUNDS = {
    ("cpu", torch.float32): Bounds(2.5, 6, 1.2e-7, 4, 4e-7),
    ("cpu", torch.float64): Bounds(4 + 3, 8 + 6, 4e-16 + 2e-16, 8 + 2, 1e-15 + 4e-16),
    ("cpu", torch.float16): Bounds(1, 1, 1.2e-7, 1, 4e-7, 0.5),
    ("cuda", torch.float32): Bounds(6, 7.5, 2e-7, 4, 4e-7),
    ("cuda", torch.float64): Bounds(4 + 3, 8 + 6, 4e-16 + 2e-16, 8 + 2, 1e-15 + 4e-16),
    ("cuda", torch.float16): Bounds(1, 1, 2e-6, 1, 2e-6, 0.5),
    ("eager", torch.float32): Bounds(4.5, 9, 1.3e-7, 4, 4e-7),
    ("eager", torch.float64): Bounds(4 + 3, 9 + 6, 4e-16 + 2e-16, 8 + 2, 1e-15 + 4e-16),
    ("eager", torch.float16): Bounds(1, 1, 1.3e-7, 1, 4e-7, 0.5),
}
# The limits, and where implementations turn: e^x = 0.7 selects other operands, f' and f'' cross
# zero, tanh(softplus(x)) rounds to 1, e^x leaves the range of float or double, F.mish overflows.
EDGES = (
    *(-math.inf, -0.0, 0.0, math.inf, math.nan),
    *(math.log(0.7), -1.1924312145498955, -2.2563788, 1.4905687, -3.0, 20.0, 22.0, 89.0),
    *(-87.3, -87.34, -87.69, -88.0, -104.0, -708.3, -708.4, -708.75, -709.09, -745.14, -746.0),
)


def inputs(dtype: torch.dtype) -> Tensor:
    """Edges with their neighbours, every third number of 16 bits, and numbers spread over where
    Mish bends or underflows; fewer than torch would share out among threads."""
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
    """f, f' or f'' of float64 x by the chain rule from x tanh(ln(1 + e^x)).

    Relative errors for x > -708.3, against 40 digits: f 3 ULP; f' 6 ULP for x <= -3, 2 ULP for
    x >= 0. Absolute ones: f' 2e-16 in between, f'' 4e-16.
    """
    inside = x.clamp(-1e4, 1e4)  # what is beyond equals the limits, which are then no inf * 0
    softplus = inside.exp().log1p()
    t = softplus.tanh()
    if order == 0:
        return torch.where(x > 0, x, inside) * t
    sigmoid, rest = 1 / (1 + (-inside).exp()), 1 / (1 + inside.exp())
    t1 = sigmoid / softplus.cosh() ** 2
    if order == 1:
        return t + inside * t1
    return 2 * t1 + inside * t1 * (rest - 2 * t * sigmoid)


def spacing(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The unit in the last place of `dtype` at float64 x."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(x.abs().nan_to_num(0, info.max).clamp(min=info.smallest_normal))
    # Two factors: the smallest spacing of float64 is not within reach of ldexp(1, n).
    return torch.ldexp(torch.ones_like(x), exponent - 1) * info.eps


def allowed(
    expected: Tensor, x: Tensor, order: int, factor: Tensor, dtype: torch.dtype, by: str
) -> Tensor:
    """The largest error of `expected` = factor * (f, f' or f'')(x) where "cpu", "cuda" or "eager"
    compute it in `dtype`; the factors are powers of two. At infinity and for NaN it is 0."""
    b = BOUNDS[by, torch.float16 if dtype == torch.bfloat16 else dtype]
    ulps, absolutes = (
        ((b.value, b.value, b.value), (0.0, 0.0, 0.0)),
        ((b.slope_below, b.rounding, b.slope_above), (0.0, b.slope_between, 0.0)),
        ((b.rounding, b.rounding, b.rounding), (b.curvature, b.curvature, b.curvature)),
    )[order]
    region = (x > -3).long() + (x >= 0)
    ulp, absolute = (torch.tensor(t, dtype=torch.float64)[region] for t in (ulps, absolutes))
    # Where e^x is no longer normal it may be flushed to 0, which takes all of f, f' or f'' with it.
    lowest, lost = (-708.3, 1.2e-305) if dtype == torch.float64 else (-87.3, 1.1e-36)
    absolute[x <= lowest] += lost
    error = ulp * spacing(expected, dtype) + absolute * factor.abs()
    return torch.where(x.isfinite(), error, 0.0)


WAYS = ("forward", "backward", "double_backward", "out", "in_place", "strided")


def _derivatives(x: Tensor, g: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f(x), g f'(x) and h g f''(x) by autograd."""
    x = x.detach().requires_grad_()
    y = functional.mish(x)
    # Sums, since to be given gradients torch would first import sympy, for a third of a second.
    (slope,) = torch.autograd.grad((y * g).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad((slope * h).sum(), x)
    return y.detach(), slope.detach(), curvature


def _ways(x: Tensor, g: Tensor, h: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """Each of WAYS: its name, the order of the derivative, and the result."""
    for order, result in enumerate(_derivatives(x, g, h)):
        yield WAYS[order], order, result
    out, in_place = torch.empty_like(x), x.clone()
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
    bound = allowed(expected, x, order, factor, result.dtype, by)
    share = torch.where(error == 0, 0.0, error / bound)
    at = share.argmax()
    return Worst(*(float(tensor[at]) for tensor in (share, x, got, expected)))


def check(device: str, dtype: torch.dtype) -> dict[str, Worst]:
    """The worst result of each of WAYS, computed on that device in that dtype.

    Raises:
        Exception: whatever the device or the library raises.
    """
    x = inputs(dtype)
    # Gradients of either sign that multiply without rounding.
    powers = torch.tensor([-4.0, -1.0, 0.5, 2.0])
    generator = torch.Generator().manual_seed(1)
    g, h = (powers[torch.randint(4, x.shape, generator=generator)] for _ in range(2))
    on_device = x.to(device)
    by = functional.backend(on_device)
    factors = (torch.ones_like(g).double(), g.double(), (h * g).double())
    worst: dict[str, Worst] = {}
    for way, order, result in _ways(on_device, g.to(on_device), h.to(on_device)):
        found = judge(result, x.double(), order, factors[order], by)
        if way not in worst or found.share > worst[way].share:
            worst[way] = found
    return worst
