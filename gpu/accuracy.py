"""Errors of the ops on a device, against textbook maths in float64 on the same device."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

import mish_cuda
from accuracy import verdicts
from accuracy.bounds import Bound, allowance, edges
from accuracy.errors import Errors
from accuracy.formats import BF16, FP16, FP32, Format
from accuracy.paths import NATIVE
from accuracy.reference import FUNCTIONS
from accuracy.results import Row
from accuracy.verdicts import Verdict

CHUNK = 2**24  # elements at a time: 128 MB in float64
FORMATS = (FP16, BF16, FP32)

# All other bounds are those of the CPU (docs/numerics.md). This is half an ULP more than there, for
# ex2.approx and rcp.approx, of which the PTX ISA promises less than they are expected to give.
F_FP32 = Bound(ulp=3)


def chain_rule(x: Tensor, order: int) -> Tensor:
    """f, f' or f'' of a finite float64 tensor, from x tanh(softplus(x)) by the chain rule."""
    inside = x.clamp(-700, 700)
    e = inside.exp()
    t = e.log1p().tanh()
    if order == 0:
        return x.clamp(min=-700) * t
    sigmoid = 1 / (1 + (-inside).exp())
    # 1 - t^2 loses digits where t is near 1; there sech^2 = (2 / (y + 1/y))^2 with y = 1 + e.
    y = 1 + e
    t1 = torch.where(inside > 0, (2 / (y + 1 / y)) ** 2, 1 - t * t) * sigmoid
    if order == 1:
        return t + inside * t1
    return 2 * t1 + inside * t1 * ((1 - sigmoid) - 2 * t * sigmoid)


def providers(order: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Ours and torch's way to f, f' or f''."""
    ops = torch.ops.mish_cuda
    if order == 0:
        return {"mish_cuda": mish_cuda.mish, NATIVE: F.mish}
    if order == 1:
        return {
            "mish_cuda": lambda x: ops.mish_backward(torch.ones_like(x), x),
            NATIVE: lambda x: torch.ops.aten.mish_backward(torch.ones_like(x), x),
        }
    return {
        "mish_cuda": lambda x: ops.mish_double_backward(torch.ones_like(x), torch.ones_like(x), x)
    }


def inputs(dtype: torch.dtype, count: int, device: str) -> Iterator[Tensor]:
    """All patterns of a 16-bit dtype; else at least `count`, evenly spread over all of them."""
    if dtype.itemsize == 2:
        yield torch.arange(-(2**15), 2**15, device=device).to(torch.int16).view(dtype)
        return
    step = (2**32 // count - 1) | 1  # odd, so that all last bits occur
    for first in range(-(2**31), 2**31, CHUNK * step):
        stop = min(first + CHUNK * step, 2**31)
        bits = torch.arange(first, stop, step, device=device)
        yield bits.to(torch.int32).view(torch.float32)


def spacing(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The unit in the last place of `dtype` at float64 x."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(x.abs().clamp(info.smallest_normal, info.max))
    return torch.ldexp(torch.ones_like(x), exponent - 1) * info.eps


def measure(number_format: Format, order: int, count: int, device: str) -> list[Row]:
    """The errors of each provider between the edges of its bounds. Infinities, NaN and the signs of
    zeros are checked by the tests, not here."""
    function, name, dtype = FUNCTIONS[order], number_format.name, number_format.dtype
    ends = [-math.inf, *sorted(edges(name)), math.inf]
    found: dict[tuple[str, float, float], Errors] = defaultdict(Errors)
    for x in inputs(dtype, count, device):
        x = x[x.isfinite()]
        at = x.double()
        exact = chain_rule(at, order)
        unit = spacing(exact, dtype)
        # Both zeros fall below an edge at 0.
        spans = [(low, high, (at > low) & (at <= high)) for low, high in pairwise(ends)]
        for provider, op in providers(order).items():
            error = (op(x).double() - exact).abs().nan_to_num(math.inf, posinf=math.inf)
            for low, high, inside in spans:
                allowed = allowance(function, name, low, high)
                part = _errors(error[inside], unit[inside], at[inside], allowed)
                found[provider, low, high] |= part
    return [
        Row(function, provider, name, number_format.judged_in, low, high, errors.tried, errors)
        for (provider, low, high), errors in found.items()
    ]


def _errors(error: Tensor, unit: Tensor, at: Tensor, allowed: float) -> Errors:
    if not error.numel():
        return Errors()
    ulps = (error - allowed).clamp(min=0) / unit
    most, farthest = int(ulps.argmax()), int(error.argmax())
    return Errors(
        error.numel(),
        *(float(ulps[most]), float(at[most])),
        *(float(error[farthest]), float(at[farthest])),
        int((error <= unit / 2).sum()),
    )


def judge(rows: list[Row]) -> list[Verdict]:
    """What was measured in each region, with the bound that holds on a GPU."""
    return [
        dataclasses.replace(v, region=dataclasses.replace(v.region, bound=F_FP32))
        if (v.dtype, v.function) == ("fp32", "f") and v.region.bound.ulp is not None
        else v
        for v in verdicts.judge(rows)
    ]
