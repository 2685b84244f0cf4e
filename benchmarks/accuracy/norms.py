"""Errors of norms with Mish behind them, beside those of torch's norm and ``F.mish``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import mish_cuda
from benchmarks.accuracy.errors import NATIVE, WITH_FLOAT64, Errors, Row, distance, errors, row
from benchmarks.cases import DTYPES

OURS = "mish_cuda"
# Few elements, images, and a long row for each channel.
SHAPES = ((6, 8, 16), (16, 8, 64, 64), (1, 8, 2**17))
DEVIATION, GROUPS = 2.0, 4
MEANS = {"fp32": (0.5, 1e4), "bf16": (0.5,), "fp16": (0.5,)}  # of fp64 there is no wider format

# From the input, running mean and variance, weight and bias.
_NORMS: dict[str, dict[str, Callable[..., Tensor]]] = {
    "BatchNorm": {
        OURS: lambda *tensors: mish_cuda.batch_norm_mish(*tensors, training=True, momentum=1),  # type: ignore[misc]
        NATIVE: lambda *tensors: F.mish(F.batch_norm(*tensors, training=True, momentum=1)),  # type: ignore[misc]
    },
    "GroupNorm": {
        OURS: lambda x, mean, var, *tensors: mish_cuda.group_norm_mish(x, GROUPS, *tensors),
        NATIVE: lambda x, mean, var, *tensors: F.mish(F.group_norm(x, GROUPS, *tensors)),
    },
}


def rows(device: str) -> Iterator[Row]:
    """Rows of errors: of values, gradients and, of BatchNorm, statistics, by dtype and mean of x;
    one for each of SHAPES.

    Both are compared with torch's in float64. ULP are those of the largest true value: sums of
    terms of either sign lose what small results would keep.
    """
    for (dtype, means), (norm, functions), shape in product(MEANS.items(), _NORMS.items(), SHAPES):
        for mean in means:
            tensors = _inputs(shape, mean, DTYPES[dtype], device)
            exact = _results(functions[NATIVE], [t.double() for t in tensors])
            for name, run in functions.items():
                for what, got in _results(run, tensors).items():
                    function, found = f"{what} of {norm} and Mish", _errors(got, exact[what])
                    names = (function, name, dtype, WITH_FLOAT64)
                    yield row(*names, found=found, low=mean, high=mean)


def _inputs(
    shape: tuple[int, ...], mean: float, dtype: torch.dtype, device: str
) -> tuple[Tensor, ...]:
    """x, the gradient of the result, weight and bias, the latter in float32."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) * DEVIATION

    x, g = draw(*shape) + mean, draw(*shape)
    parameters = (draw(shape[1]).float().to(device) for _ in range(2))
    return x.to(device, dtype), g.to(device, dtype), *parameters


def _results(function: Callable[..., Tensor], tensors: Any) -> dict[str, Tensor]:
    x, g, weight, bias = (tensor.detach().clone().requires_grad_() for tensor in tensors)
    statistics = [torch.zeros_like(weight, requires_grad=False) for _ in range(2)]
    y = function(x, *statistics, weight, bias)
    gradients = torch.autograd.grad(y, (x, weight, bias), g.detach())
    found = dict(zip(("value", "dx", "dweight", "dbias"), (y.detach(), *gradients), strict=True))
    if statistics[1].any():  # not of a GroupNorm
        found |= {"mean": statistics[0], "variance": statistics[1]}
    return found


def _errors(got: Tensor, true: Tensor) -> Errors:
    result, exact = (tensor.double().cpu().numpy().ravel() for tensor in (got, true))
    unit = torch.finfo(got.dtype).eps * np.abs(exact).max()
    nowhere = np.full_like(exact, np.nan)
    return errors(nowhere, distance(exact, result, exact), 1 / unit)
