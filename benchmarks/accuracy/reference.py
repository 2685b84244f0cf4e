"""f, f' and f'' to judge by: the textbook formulas in a wider format, and the definition.

The wider format is float64 for results of 24 bits or fewer, long double for float64. Every run
measures the errors of the formulas in that format against the definition, x tanh(ln(1 + e^x)) and
its numerical derivatives, by mpmath in 40 digits.
"""

from __future__ import annotations

from typing import Any

import mpmath  # type: ignore[import-untyped]
import numpy as np

from benchmarks.accuracy.numbers import Wide
from mish_cuda._textbook import derivatives


def evaluate(x: Wide) -> tuple[Wide, Wide, Wide]:
    """f, f' and f'' in the format of `x`; their limits at infinity, NaN for NaN."""
    edge = x.dtype.type(1e4)  # beyond, results equal the limits, and inf * 0 would be NaN
    value, slope, curvature = derivatives(np.clip(x, -edge, edge), np)
    return np.where(x > edge, x, value), slope, curvature


def error(x: float, value: np.floating[Any], order: int) -> float:
    """How far a value, maybe a long double, is from the derivative of f of that order at x."""

    def mish(x: mpmath.mpf) -> mpmath.mpf:
        return x * mpmath.tanh(mpmath.log1p(mpmath.exp(x)))

    high = float(value)
    with mpmath.workdps(40):  # good to 30 digits
        known = mpmath.mpf(high) + float(value - high)
        return float(abs(known - mpmath.diff(mish, float(x), order)))
