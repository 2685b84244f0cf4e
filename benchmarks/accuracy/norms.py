"""Errors of norms with Mish behind them, beside those of torch's norm and ``F.mish``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import mish_cuda
from benchmarks.accuracy.errors import NATIVE, WITH_FLOAT64, Row, distance, errors, row
from benchmarks.cases import DTYPES

OURS = "mish_cuda"
# Few elements, images, and a long row for each channel.
SHAPES = ((6, 8, 16), (16, 8, 64, 64), (1, 8, 2**17))
DEVIATION, GROUPS = 2.0, 4
MEANS = {"fp32": (0.5, 1e4), "bf16": (0.5,), "fp16": (0.5,)}  # of fp64 there is no wider format

Function = Callable[..., Tensor]
# From the input, running mean and variance, weight and bias.
NORMS: dict[str, dict[str, Function]] = {
    "BatchNorm": {
        OURS: partial(mish_cuda.batch_norm_mish, training=True, momentum=1),
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
    for (dtype, means), (norm, functions), shape in product(MEANS.items(), NORMS.items(), SHAPES):
        for mean in means:
            tensors = inputs(shape, mean, DTYPES[dtype], device)
            exact = results(functions[NATIVE], [t.double() for t in tensors])
            for name, function in functions.items():
                for what, got in results(function, tensors).items():
                    names = (f"{what} of {norm} and Mish", name, dtype, WITH_FLOAT64)
                    yield row(*names, errors=_errors(got, exact[what]), low=mean, high=mean)


def inputs(shape: tuple[int, ...], mean: float, dtype: torch.dtype, device: str) -> list[Tensor]:
    """x, the gradient of the result, weight and bias, the latter in float32 or wider."""
    generator = torch.Generator().manual_seed(0)
    x, g, *parameters = (
        torch.randn(size, generator=generator, dtype=torch.float64) * DEVIATION
        for size in (shape, shape, shape[1:2], shape[1:2])
    )
    wide = torch.promote_types(dtype, torch.float32)
    both = (tensor.to(device, dtype) for tensor in (x + mean, g))
    return [*both, *(tensor.to(device, wide) for tensor in parameters)]


def results(function: Function, tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    """The value, the gradients and, of a BatchNorm, the statistics."""
    x, g, weight, bias = (tensor.detach().clone().requires_grad_() for tensor in tensors)
    mean, variance = (torch.zeros_like(weight, requires_grad=False) for _ in range(2))
    y = function(x, mean, variance, weight, bias)
    gradients = torch.autograd.grad(y, (x, weight, bias), g.detach())
    found = dict(zip(("value", "dx", "dweight", "dbias"), (y.detach(), *gradients), strict=True))
    return found | ({"mean": mean, "variance": variance} if variance.any() else {})


def _errors(got: Tensor, true: Tensor) -> Row:
    result, exact = (tensor.double().cpu().numpy().ravel() for tensor in (got, true))
    unit = torch.finfo(got.dtype).eps * np.abs(exact).max()
    nowhere = np.full_like(exact, np.nan)
    return errors(nowhere, distance(exact, result, exact), 1 / unit)
