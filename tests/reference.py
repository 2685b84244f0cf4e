"""Mish and its derivatives as independent maths, the inputs to try, and errors in ULP.

The formulas are the textbook's (`mish_cuda._textbook`): in float64 by torch for results narrower
than float64, by mpmath for float64 ones.
"""

from __future__ import annotations

import functools

import mpmath
import torch
from torch import Tensor

from mish_cuda._bounds import spacing
from mish_cuda._textbook import derivatives

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

MINIMUM = -1.1924312145498955  # of f
ZEROS = (MINIMUM, -2.2564263, 1.4905, 0.0)  # of f', f'' and f
# Switching points of implementations: the clamps, e^x = 0.7, which selects other operands, and
# where e^x leaves the range of a dtype.
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


def definition(x: mpmath.mpf) -> mpmath.mpf:
    return x * mpmath.tanh(mpmath.log(1 + mpmath.exp(x)))


def mish(x: Tensor, order: int = 0) -> Tensor:
    """f, f' or f'' in float64 on the device of x, exact to some 1e-15, for results of lower
    precision."""
    values = x.detach().cpu().double()
    result = derivatives(values.clamp(-700, 700), torch)[order]
    # Not needed for -700 and below: that is 0 for anything narrower than float64.
    high = values if order == 0 else torch.tensor(float(order == 1)).double()
    result = torch.where(values > 700, high, result)
    low = torch.tensor(-0.0 if order == 0 else 0.0).double()
    return torch.where(values < -700, low, result).to(x.device)


def expected(x: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """f, f' or f'' as the sum of two float64 tensors, exact to far below an ULP of x's dtype."""
    high = mish(x.cpu(), order)
    low = torch.zeros_like(high)
    if x.dtype == torch.float64:
        with mpmath.workdps(40):
            for i, value in enumerate(x.flatten().tolist()):
                if abs(value) <= 800:  # else `high` is exact: e^-|x| is far below an ULP of x
                    true = derivatives(mpmath.mpf(value), mpmath)[order]
                    high.view(-1)[i] = float(true)
                    low.view(-1)[i] = float(true - float(true))
    return high, low


def error(result: Tensor, reference: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """How far `result` is from `reference` = high + low: in ULP of its dtype, and absolutely.

    Where the reference, rounded, is NaN or infinite, the error is 0 if the result is the same and
    infinite if not.
    """
    high, low = (part.cpu() for part in reference)
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
    a, b = a.detach().cpu(), b.detach().cpu()
    equal = (a == b) & (a.signbit() == b.signbit())
    return bool((equal | (a.isnan() & b.isnan())).all())


def all_patterns(dtype: torch.dtype) -> Tensor:
    """Every value of a 16-bit dtype."""
    return torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)


def random_patterns(dtype: torch.dtype, count: int, seed: int = 0) -> Tensor:
    """Random bits as numbers: all magnitudes are as likely, and NaN and subnormals occur."""
    random = torch.Generator().manual_seed(seed)
    data = torch.randint(256, (count * dtype.itemsize,), generator=random, dtype=torch.uint8)
    return data.view(dtype)


def edges(dtype: torch.dtype) -> Tensor:
    """Zeros, infinities, NaN, the ends of the range, and both neighbours of switching points."""
    info = torch.finfo(dtype)
    smallest = info.smallest_normal * info.eps
    points = torch.tensor(
        [
            *(torch.inf, torch.nan, smallest, info.smallest_normal, info.max, info.max / 2),
            *(0.5, 1.0, 2.0, info.eps, info.max**0.5, info.smallest_normal**0.5),
            *(*ZEROS, *SWITCHING_POINTS, *HARD_POINTS),
        ],
        dtype=torch.float64,
    ).to(dtype)
    points = torch.cat([points, -points])
    ends = (torch.full_like(points, end) for end in (-torch.inf, torch.inf))
    return torch.cat([points, *(torch.nextafter(points, end) for end in ends)])


@functools.cache
def samples(dtype: torch.dtype, count: int = 1000) -> Tensor:
    """Edges, random bit patterns, and numbers where Mish is curved. Cached: do not write to it."""
    random = torch.Generator().manual_seed(1)
    spread = torch.randn(count, generator=random, dtype=torch.float64)
    falls = torch.rand(count, generator=random, dtype=torch.float64)
    lowest = -720 if dtype == torch.float64 else -105
    near = [zero + spread[: count // 10] * 1e-3 for zero in ZEROS]
    curved = torch.cat([spread * 3, falls * (25 - lowest) + lowest, *near])
    return torch.cat([edges(dtype), random_patterns(dtype, count), curved.to(dtype)])
