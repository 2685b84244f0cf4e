"""The number formats, and intervals of their numbers.

The numbers of a format are counted by ordinals:

    ..., -1: -0, 0: +0, 1: the smallest subnormal, ..., infinity, infinity + 1: a NaN, ...

so that all numbers of an interval are a range of integers, and -0 is below +0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mish_cuda._bounds import DTYPES

Wide = NDArray[np.floating[Any]]


class Format:
    """A binary floating-point format, and the wider one in which its errors are computed."""

    def __init__(self, name: str, wide: type[np.floating[Any]], reference: str) -> None:
        self.name = name
        self.dtype = DTYPES[name]
        self.bits = getattr(torch, f"int{8 * self.dtype.itemsize}")
        self.largest = torch.iinfo(self.bits).max  # ordinal, a NaN; the smallest: -largest - 1
        self.wide = wide
        self.reference = reference  # the name of `wide` in files of results

    def numbers(self, ordinals: range) -> Tensor:
        """The numbers with these ordinals."""
        # Not arange to the end of them, which may be one too many for an int64.
        found = torch.arange(len(ordinals)) * ordinals.step + ordinals.start
        return self._reorder(found.to(self.bits)).view(self.dtype)

    def ordinal(self, value: float) -> int:
        """The ordinal of the largest number not above `value`."""
        number = self.round(np.array([value]))
        return int(self._reorder(number.view(self.bits))) - bool(number.double() > value)

    def round(self, values: Wide) -> Tensor:
        """The numbers nearest to float64 ones."""
        return torch.from_numpy(values.astype(np.float64)).to(self.dtype)

    def widen(self, numbers: Tensor) -> Wide:
        """The same numbers in the wider format."""
        wide: Wide = numbers.double().numpy().astype(self.wide)
        return wide

    def ulps(self, values: Wide) -> Wide:
        """How many units in the last place of this format there are to 1, at `values`; at infinity
        and NaN as at the largest number."""
        info = torch.finfo(self.dtype)
        finite = np.fmax(np.fmin(np.abs(values), info.max), info.smallest_normal)
        _, exponents = np.frexp(finite)  # of a number between 1 and 2: 1
        ulps: Wide = np.ldexp(self.wide(1), 2 - math.frexp(info.eps)[1] - exponents)
        return ulps

    def _reorder(self, values: Tensor) -> Tensor:
        """Ordinals to bits, or bits to ordinals: negative ones count backwards."""
        return torch.where(values < 0, values ^ self.largest, values)


FP32, FP16, BF16 = (Format(name, np.float64, "double") for name in ("fp32", "fp16", "bf16"))
FP64 = Format("fp64", np.longdouble, "long double")
# Where long double is no wider than double (macOS, Windows) there is nothing to judge double by.
FORMATS = (FP32, FP16, BF16, *([FP64] if np.finfo(np.longdouble).nmant >= 63 else []))


@dataclass(frozen=True)
class Interval:
    """The numbers low < x <= high, by their ordinals from `first` to before `stop`.

    low = -inf and high = inf stand for the largest finite numbers. With both NaN: infinities, NaN.
    """

    low: float
    high: float
    first: int
    stop: int

    def ordinals(self, limit: int) -> range:
        """All ordinals, or `limit` of them, evenly spread."""
        step = math.ceil((self.stop - self.first) / limit)
        return range(self.first, self.stop, step if step == 1 else step | 1)  # odd: all last bits


def intervals(number_format: Format, edges: Iterable[float]) -> list[Interval]:
    """All numbers of a format, cut at the edges; no interval is empty."""
    # A cut at 0 falls between -0 and +0.
    ends = sorted({edge or -0.0 for edge in edges})
    infinity, largest = number_format.ordinal(math.inf), number_format.largest
    cuts = [-infinity, *(number_format.ordinal(edge) + 1 for edge in ends), infinity]
    values = [-math.inf, *ends, math.inf]
    finite = [Interval(*x, *pair) for x, pair in zip(pairwise(values), pairwise(cuts), strict=True)]
    beyond = (-largest - 1, -infinity - 1, -infinity), (infinity, infinity + 1, largest + 1)
    others = [Interval(math.nan, math.nan, *pair) for cuts in beyond for pair in pairwise(cuts)]
    return [span for span in (*finite, *others) if span.first < span.stop]
