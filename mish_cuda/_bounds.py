"""The error bounds: one table, bounds.csv, for every test, check and proof.

A row bounds the error of f, f' or f'' for low < x <= high, computed in `dtype` by `backend`: `ulp`
units in the last place of the true value plus `absolute`. If `correct` is not 0, the row instead
requires that share of all results to be correctly rounded. The rows of the backend "reference"
bound the errors of `_textbook` in float64. At infinity and for NaN results must be exact; but in
torch calls on CUDA f' at +inf may be 1 ULP from 1.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ._textbook import FUNCTIONS

TABLE = Path(__file__).with_name("bounds.csv")
# CUDA's exponential is not the CPU's. These bounds come from the formula in torch calls with an
# exponential 1.5 ULP off; none has been measured on a GPU.
EAGER_ON_CUDA = "eager on cuda"
DTYPES = {
    "fp32": torch.float32,
    "fp64": torch.float64,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@dataclass(frozen=True)
class Bound:
    """One row of the table: the errors that it allows for low < x <= high."""

    low: float
    high: float
    ulp: float
    absolute: float
    correct: float

    def __str__(self) -> str:
        if self.correct:
            return f"{self.correct:.1%} right"
        ulp = f"{self.ulp:g} ULP" if self.ulp else ""
        return " + ".join(filter(None, (ulp, f"{self.absolute:g}" if self.absolute else "")))


def rows_of(backend: str, device: torch.device | str) -> str:
    """The name in the table of what `mish_cuda.backend` says of a tensor on this device."""
    on_cuda = torch.device(device).type == "cuda"
    return EAGER_ON_CUDA if backend == "eager" and on_cuda else backend


@functools.cache
def bounds(backend: str, dtype: str, function: str) -> tuple[Bound, ...]:
    """The rows for "cpu", "cuda", "eager", "eager on cuda" or "reference", a key of DTYPES, and f,
    f' or f''."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return tuple(
            Bound(*(float(row[name]) for name in ("low", "high", "ulp", "absolute", "correct")))
            for row in csv.DictReader(file)
            if (row["backend"], row["dtype"], row["function"]) == (backend, dtype, function)
        )


def spacing(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The unit in the last place of `dtype` at x, as float64."""
    info = torch.finfo(dtype)
    x = x.double().abs().nan_to_num(0, info.max)
    _, exponent = torch.frexp(x.clamp(info.smallest_normal, info.max))
    # Two factors, since ldexp(1, n) does not reach the smallest spacing of float64.
    return torch.ldexp(torch.ones_like(x), exponent - 1) * info.eps


def allowed(
    backend: str,
    dtype: torch.dtype,
    order: int,
    x: Tensor,
    expected: Tensor,
    factor: float | Tensor = 1,
) -> Tensor:
    """The largest error of `expected` = factor * (f, f' or f'')(x), element by element.

    Args:
        backend: as `bounds` takes it.
        dtype: in which f, f' or f'' is computed, and `expected` rounded.
        order: of the derivative: 0 for f, 1 for f', 2 for f''.
        x: of any shape and dtype.
        expected: the true result; of the shape of x.
        factor: the gradients that the derivative was multiplied by, which scale absolute errors.
    """
    name = next(name for name, known in DTYPES.items() if known == dtype)
    at, unit = x.double(), spacing(expected, dtype)
    error = torch.zeros_like(at)
    for bound in bounds(backend, name, FUNCTIONS[order]):
        if not bound.correct:
            inside = at.isfinite() & (at > bound.low) & (at <= bound.high)
            absolute = bound.absolute * torch.as_tensor(factor).abs().double()
            error = torch.where(inside, bound.ulp * unit + absolute, error)
    if backend == EAGER_ON_CUDA and order == 1:
        error = torch.where(at == torch.inf, unit, error)
    return error
