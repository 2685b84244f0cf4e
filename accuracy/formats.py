"""The number formats, each with its numbers in order.

Numbers travel as their bits, since numpy has no bfloat16, and are counted by ordinals:

    ..., -1: -0, 0: +0, 1: the smallest subnormal, ..., infinity, infinity + 1: a NaN, ...

so that all numbers of an interval are a range of integers, and -0 is below +0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bits = NDArray[np.signedinteger[Any]]
Wide = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Format:
    """A binary floating-point format, and the wider one in which its errors are computed."""

    name: str
    dtype: torch.dtype
    bits: type[np.signedinteger[Any]]  # an integer of the same size
    mantissa: int
    digits: int  # decimal ones that tell its numbers apart
    wide: type[np.floating[Any]]
    widen: Callable[[Bits], Wide]

    @property
    def judged_in(self) -> str:
        """What `wide` is called."""
        return "long double" if self.wide is np.longdouble else "double"

    @property
    def infinity(self) -> int:
        """The ordinal of infinity: those above are NaN."""
        exponent_bits = self.dtype.itemsize * 8 - 1 - self.mantissa
        return ((1 << exponent_bits) - 1) << self.mantissa

    @property
    def largest(self) -> int:
        """The largest ordinal; the smallest is -largest - 1."""
        return int(np.iinfo(self.bits).max)

    @property
    def smallest_exponent(self) -> int:
        """Of a normal number."""
        return math.frexp(torch.finfo(self.dtype).smallest_normal)[1] - 1

    def numbers(self, first: int, stop: int, step: int = 1) -> Bits:
        """The numbers with these ordinals, up to but not including `stop`."""
        # Not arange to `stop`, which may be one too many for the integer.
        steps = np.arange((stop - first + step - 1) // step, dtype=self.bits)
        return self.reorder(self.bits(first) + steps * self.bits(step))

    def reorder(self, values: Bits) -> Bits:
        """Ordinals to bits, or bits to ordinals: negative ones count backwards."""
        sign = values >> self.bits(np.iinfo(self.bits).bits - 1)
        result: Bits = values ^ (sign & self.bits(self.largest))
        return result

    def encode(self, values: Wide) -> Bits:
        """The bits of float64 numbers, rounded."""
        return self.from_tensor(torch.from_numpy(values.astype(np.float64)).to(self.dtype))

    def to_tensor(self, bits: Bits) -> Tensor:
        """The numbers as a tensor, in the same memory."""
        return torch.from_numpy(bits).view(self.dtype)

    def from_tensor(self, numbers: Tensor) -> Bits:
        """The bits of a tensor, in the same memory."""
        integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[self.dtype.itemsize]
        bits: Bits = numbers.view(integer).numpy()
        return bits

    def ordinal(self, value: float) -> int:
        """The ordinal of the largest number not above `value`; for a NaN, that of the last one of
        its sign."""
        if np.isnan(value):
            return -self.largest - 1 if np.signbit(value) else self.largest
        bits = self.encode(np.array([value]))
        rounded_up = self.widen(bits)[0] > value
        return int(self.reorder(bits)[0]) - bool(rounded_up)

    def ulps(self, values: Wide) -> Wide:
        """How many units in the last place of this format there are to 1, at finite `values`."""
        _, exponents = np.frexp(values)  # of a number between 1 and 2: 1, of 0: 0
        exponents = np.where(values == 0, self.smallest_exponent, exponents - 1)
        exponents = np.maximum(exponents, self.smallest_exponent)
        ulps: Wide = np.ldexp(self.wide(1), self.mantissa - exponents)
        return ulps


def _widen_single(bits: Bits) -> Wide:
    wide: Wide = bits.view(np.float32).astype(np.float64)
    return wide


def _widen_half(bits: Bits) -> Wide:
    wide: Wide = bits.view(np.float16).astype(np.float64)
    return wide


def _widen_bfloat16(bits: Bits) -> Wide:
    return _widen_single(bits.astype(np.int32) << np.int32(16))


def _widen_double(bits: Bits) -> Wide:
    wide: Wide = bits.view(np.float64).astype(np.longdouble)
    return wide


FP32 = Format("fp32", torch.float32, np.int32, 23, 9, np.float64, _widen_single)
FP16 = Format("fp16", torch.float16, np.int16, 10, 5, np.float64, _widen_half)
BF16 = Format("bf16", torch.bfloat16, np.int16, 7, 4, np.float64, _widen_bfloat16)
FP64 = Format("fp64", torch.float64, np.int64, 52, 17, np.longdouble, _widen_double)

# Where long double is no wider than double (macOS, Windows) there is nothing to judge double by.
FORMATS = (FP32, FP16, BF16, *([FP64] if np.finfo(np.longdouble).nmant >= 63 else []))
