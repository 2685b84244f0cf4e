"""Mish and its derivatives as independent maths, the inputs to try, and errors in ULP.

The formulas here are the textbook ones, x tanh(softplus(x)) and its derivatives by the chain rule,
not the algebraic ones of the library. They are written once, over a module `m` that brings exp,
log1p, tanh and cosh: numpy for results narrower than float64, mpmath for float64 ones.
"""

from __future__ import annotations

import functools
from typing import Any

import mpmath
import numpy as np
import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}

MINIMUM = -1.1924312145498955  # of f
ZEROS = (MINIMUM, -2.2564263, 1.4905, 0.0)  # of f', f'' and f
# Where implementations turn: what is clamped, where e^x = 0.7 selects other operands, and where
# e^x leaves the range of a dtype.
SWITCHING_POINTS = (
    *(-0.35667494393873245, -3.0, -18.0, 11.2, 20.0, 22.0, 22.5, 44.0, 88.73, 89.0, 709.79),
    *(-87.3, -87.33, -87.34, -87.69, -88.0, -103.98, -104.0),
    *(-708.3, -708.4, -708.75, -709.0895657128241, -745.14, -746.0),
)

# Where sweeps over all floats found the largest errors of f, f' and f''.
HARD_POINTS = (
    *(-0.238379493, -0.588011682, -3.23539019, -3.25056005, 0.000787723286, -7.586663722991943),
    *(-0.0010064824, -0.00597028341, 0.463399112, 0.487193346, -4.83240175, -3.7599422931671143),
    *(-3.16283941, -3.03678513, 0.0173611362, 0.00312798657, -0.250898868),
)


def chain_rule(x: Any, order: int, m: Any) -> Any:
    """The derivative of f of that order at finite x; order 0 is f itself."""
    softplus = m.log1p(m.exp(x))
    t = m.tanh(softplus)
    if order == 0:
        return x * t
    sech_squared = (1 / m.cosh(softplus)) ** 2  # the derivative of tanh
    sigmoid, rest = 1 / (1 + m.exp(-x)), 1 / (1 + m.exp(x))  # of softplus, and 1 - sigmoid
    t1 = sech_squared * sigmoid
    if order == 1:
        return t + x * t1
    return 2 * t1 + x * t1 * (rest - 2 * t * sigmoid)


def limit(x: float, order: int) -> float:
    """What f, f' or f'' is at a large x and tends to at an infinite one."""
    if order == 0:
        return x if x > 0 else -0.0
    return 1.0 if order == 1 and x > 0 else 0.0


def _exact_scalar(x: float, order: int) -> tuple[float, float]:
    if np.isnan(x):
        return x, 0.0
    if abs(x) > 800:  # what is left of e^-|x| is below any float64 and far below an ULP of x
        return limit(x, order), 0.0
    with mpmath.workdps(40):
        value = chain_rule(mpmath.mpf(x), order, mpmath)
        high = float(value)
        return high, float(value - high)


def exact(x: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """f, f' or f'' as the sum of two float64 tensors, good to 30 digits; slow."""
    pairs = [_exact_scalar(value, order) for value in x.double().flatten().tolist()]
    high, low = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2).unbind(1)
    return high.reshape(x.shape), low.reshape(x.shape)


def mish(x: Tensor, order: int = 0) -> Tensor:
    """f, f' or f'' in float64, good to some 1e-15: for results of less precision than that."""
    values = x.detach().cpu().double().numpy()
    with np.errstate(under="ignore", over="ignore"):
        result = np.asarray(chain_rule(np.clip(values, -700, 700), order, np))
    # Not needed for -700 and below: that is 0 for anything narrower than float64.
    high = limit(1.0, order) if order else values
    result = np.where(values > 700, high, result)
    result = np.where(values < -700, limit(-1.0, order), result)
    return torch.from_numpy(result)


def expected(x: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """f, f' or f'' as the sum of two float64 tensors, good to far below an ULP of x's dtype."""
    if x.dtype == torch.float64:
        return exact(x, order)
    high = mish(x, order)
    return high, torch.zeros_like(high)


def spacing(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The unit in the last place of `dtype` at x, as float64."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(x.double().abs().clamp(min=info.smallest_normal, max=info.max))
    # Two factors: the smallest spacing of float64 is not within reach of ldexp(1, n).
    return torch.ldexp(torch.ones_like(x, dtype=torch.float64), exponent - 1) * info.eps


def error(result: Tensor, reference: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """How far `result` is from `reference` = high + low: in ULP of its dtype, and absolutely.

    Where the reference, rounded, is NaN or infinite, the error is 0 if the result is the same and
    infinite if not.
    """
    high, low = reference
    got = result.detach().cpu().double()
    rounded = high.to(result.dtype).double()
    same = (got == rounded) | (got.isnan() & rounded.isnan())
    finite = got.isfinite() & rounded.isfinite()
    absolute = torch.where(finite, ((got - high) - low).abs(), torch.where(same, 0.0, torch.inf))
    return absolute / spacing(high.nan_to_num(), result.dtype), absolute


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree to the last bit, signs of zero included; all NaN are alike."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    a, b = (t.detach().cpu().contiguous() for t in (a, b))
    equal = a.view(INTEGERS[a.itemsize]) == b.view(INTEGERS[b.itemsize])
    return bool((equal | (a.isnan() & b.isnan())).all())


def all_patterns(dtype: torch.dtype) -> Tensor:
    """Every value of a 16-bit dtype."""
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


def random_patterns(dtype: torch.dtype, count: int, seed: int = 0) -> Tensor:
    """Random bits as numbers: all magnitudes are as likely, and NaN and subnormals occur."""
    random = np.random.default_rng(seed)
    data = random.integers(0, 256, count * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(data).view(dtype)


def edges(dtype: torch.dtype) -> Tensor:
    """Zeros, infinities, NaN, the ends of the range, and both neighbours of each turning point."""
    info = torch.finfo(dtype)
    smallest = info.smallest_normal * info.eps
    points = torch.tensor(
        [
            *(torch.inf, torch.nan, smallest, info.smallest_normal, info.max, info.max / 2),
            *(0.5, 1.0, 2.0, info.eps, info.max**0.5, info.smallest_normal**0.5),
            *ZEROS,
            *SWITCHING_POINTS,
            *HARD_POINTS,
        ],
        dtype=torch.float64,
    ).to(dtype)
    points = torch.cat([points, -points])
    neighbours = [
        torch.nextafter(points, torch.full_like(points, end)) for end in (-torch.inf, torch.inf)
    ]
    return torch.cat([points, *neighbours])


@functools.cache
def samples(dtype: torch.dtype, count: int = 1000) -> Tensor:
    """Edges, random bit patterns, and numbers spread over where Mish bends; do not write to it."""
    random = torch.Generator().manual_seed(1)

    def normal(n: int) -> Tensor:
        return torch.randn(n, generator=random, dtype=torch.float64)

    lowest = -720 if dtype == torch.float64 else -105
    spread = [
        normal(count) * 3,
        torch.rand(count, generator=random, dtype=torch.float64) * (25 - lowest) + lowest,
        *(zero + normal(count // 10) * 1e-3 for zero in ZEROS),
    ]
    near = torch.cat(spread).to(dtype)
    return torch.cat([edges(dtype), random_patterns(dtype, count), near])
