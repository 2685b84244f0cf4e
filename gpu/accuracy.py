"""Errors of the ops on a device, against textbook maths in float64 on the same device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import mish_cuda

CHUNK = 2**24  # elements at a time: 128 MB in float64


@dataclass
class Worst:
    """The largest error of one function over all inputs tried."""

    function: str
    dtype: str
    provider: str
    inputs: int = 0
    ulp: float = 0.0  # where the result is normal and the error is counted in ULP
    ulp_at: float = 0.0
    absolute: float = 0.0  # elsewhere; f' of float crosses zero in [-3, 0], f'' on both sides of 0
    rounded_correctly: float = 0.0  # share of the inputs


def chain_rule(x: Tensor, order: int) -> Tensor:
    """f, f' or f'' of a float64 tensor, from x tanh(softplus(x)) by the chain rule."""
    x = x.clamp(-700, 700)
    e = x.exp()
    t = e.log1p().tanh()
    sigmoid = 1 / (1 + (-x).exp())
    t1 = (1 - t * t) * sigmoid
    # 1 - t^2 loses digits where t is near 1; there sech^2 = (2 / (y + 1/y))^2 with y = 1 + e.
    y = 1 + e
    t1 = torch.where(x > 0, (2 / (y + 1 / y)) ** 2 * sigmoid, t1)
    if order == 0:
        return x * t
    if order == 1:
        return t + x * t1
    return 2 * t1 + x * t1 * ((1 - sigmoid) - 2 * t * sigmoid)


def providers(order: int) -> dict[str, Callable[[Tensor], Tensor]]:
    """Ours and torch's way to f, f' or f''."""
    ops = torch.ops.mish_cuda
    if order == 0:
        return {"mish_cuda": mish_cuda.mish, "F.mish": F.mish}
    if order == 1:
        return {
            "mish_cuda": lambda x: ops.mish_backward(torch.ones_like(x), x),
            "F.mish": lambda x: torch.ops.aten.mish_backward(torch.ones_like(x), x),
        }
    return {
        "mish_cuda": lambda x: ops.mish_double_backward(torch.ones_like(x), torch.ones_like(x), x)
    }


def inputs(dtype: torch.dtype, count: int, device: str) -> Iterator[Tensor]:
    """All patterns of a 16-bit dtype; else `count` patterns, evenly spread over all of them."""
    if dtype.itemsize == 2:
        yield torch.arange(-(2**15), 2**15, device=device).to(torch.int16).view(dtype)
        return
    step = 2**32 // count
    for first in range(-(2**31), 2**31, CHUNK * step):
        stop = min(first + CHUNK * step, 2**31)
        bits = torch.arange(first, stop, step, device=device)
        yield bits.to(torch.int32).view(torch.float32)


def spacing(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The unit in the last place of `dtype` at float64 x."""
    info = torch.finfo(dtype)
    _, exponent = torch.frexp(x.abs().clamp(info.smallest_normal, info.max))
    return torch.ldexp(torch.ones_like(x), exponent - 1) * info.eps


def measure(dtype: torch.dtype, order: int, count: int, device: str) -> list[Worst]:
    """The worst errors of each provider; infinite ones are checked by the tests, not here."""
    name = ("f", "f'", "f''")[order]
    worst = {
        provider: Worst(name, str(dtype).removeprefix("torch."), provider)
        for provider in providers(order)
    }
    lowest = -87.3  # below, e^x is subnormal in float
    for x in inputs(dtype, count, device):
        x = x[x.isfinite()]
        at = x.double()
        exact = chain_rule(at, order)
        exact = torch.where(at > 700, at if order == 0 else float(order == 1), exact)
        relative = at > lowest
        if order == 1 and dtype.itemsize > 2:
            relative &= (at < -3) | (at >= 0)
        elif order == 2:
            relative &= False
        for provider, function in providers(order).items():
            result = function(x)
            error = (result.double() - exact).abs().nan_to_num(torch.inf)
            ulps = torch.where(relative, error / spacing(exact, dtype), 0)
            row = worst[provider]
            place = int(ulps.argmax())
            if float(ulps[place]) > row.ulp:
                row.ulp, row.ulp_at = float(ulps[place]), float(at[place])
            row.absolute = max(row.absolute, float(torch.where(relative, 0, error).max()))
            row.rounded_correctly += int((result == exact.to(dtype)).sum())
            row.inputs += x.numel()
    for row in worst.values():
        row.rounded_correctly /= max(row.inputs, 1)
    return list(worst.values())


def measure_all(device: str, float_count: int) -> list[dict[str, object]]:
    """Rows for fp32 (`float_count` patterns), fp16 and bf16 (all), and f, f', f''."""
    return [
        asdict(row)
        for dtype in (torch.float32, torch.float16, torch.bfloat16)
        for order in range(3)
        for row in measure(dtype, order, float_count, device)
    ]
