"""f, f' and f'' to judge by: in a wider format, and by definition.

The wider format is float64 for results of 24 bits or fewer, long double for float64. Its formulas
are those of csrc/mish_math.h, whose terms for x < 0 do not cancel except at the zeros of f' and
f''. That they are right, and how good they are in floating point, is measured in every run against
the definition: x tanh(ln(1 + e^x)) and numerical derivatives of it, by mpmath in 40 digits.
"""

from __future__ import annotations

import mpmath  # type: ignore[import-untyped]
import numpy as np

from accuracy.formats import Wide

FUNCTIONS = ("f", "f'", "f''")


def evaluate(x: Wide) -> tuple[Wide, Wide, Wide]:
    """f, f' and f'' in the format of `x`; their limits at infinity, NaN for NaN."""
    above = np.maximum(x, x.dtype.type(-1000))  # any format has rounded e^x to 0 there
    inside = np.minimum(above, x.dtype.type(100))  # t is 1 to 80 digits, and D^3 in range
    e = np.exp(inside)
    p = e * (e + 2)
    r = 1 / (p + 2)
    t = p * r
    er4 = 4 * (e * r)
    t1 = er4 * ((e + 1) * r)
    t2 = er4 * (2 + e * (2 - e * (3 + 2 * e))) * (r * r)
    second = 2 * t1 + inside * t2
    second[x > 100] = 0  # where it is below 1e-80
    return above * t, t + inside * t1, second


def definition(x: float, order: int) -> mpmath.mpf:
    """The derivative of f of that order, good to 30 digits."""

    def mish(x: mpmath.mpf) -> mpmath.mpf:
        return x * mpmath.tanh(mpmath.log1p(mpmath.exp(x)))

    with mpmath.workdps(40):
        return mpmath.diff(mish, mpmath.mpf(x), order) if order else mish(mpmath.mpf(x))
