"""Errors of results, and whether they keep a bound."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from benchmarks.accuracy.numbers import Wide
from mish_cuda._bounds import Bound, bounds

Row = dict[str, Any]
NATIVE = "F.mish"
DEFINITION = "mpmath"
WITH_FLOAT64 = "torch in float64"  # the reference of norms
WIDER = ("double", "long double")  # the references in a wider format
LARGEST_GRADIENT = 4  # of those that the proof multiplies by
# The limits at infinity are exact, and only NaN gives NaN.
LIMITS = Bound(math.nan, math.nan, 0, 0, 0)
# Any difference in bits counts as infinite.
SAME_BITS = Bound(-math.inf, math.inf, 0, 0, 0)


class Errors(NamedTuple):
    """Columns of a file of results: the largest error of so many results in ULP of the true value,
    the largest absolute one, the arguments of both, and how many results are correctly rounded.

    NaN instead of a number, or something else instead of NaN or infinity, is an infinite error.
    """

    tried: int
    ulp: float
    ulp_at: float
    absolute: float
    absolute_at: float
    correct: int


def errors(x: Wide, absolute: Wide, ulps: Wide | float, allowance: float = 0) -> Errors:
    """The errors of results for x that are off by `absolute`, with units as `Format.ulps` says.

    ULP count from an absolute error of `allowance` on.
    """
    ulp = absolute * ulps
    correct = int(np.count_nonzero(ulp <= 0.5))
    if allowance:
        ulp = np.maximum(absolute - allowance, 0) * ulps
    at, there = ulp.argmax(), absolute.argmax()
    largest, most = float(ulp[at]), float(absolute[there])
    return Errors(x.size, largest, float(x[at]), most, float(x[there]), correct)


def distance(x: Wide, result: Wide, true: Wide, keeps_sign: bool = False) -> Wide:
    """How far results for x are from the true values.

    With `keeps_sign` a result has to have the sign of its argument, zeros included; else that is an
    infinite error.
    """
    with np.errstate(invalid="ignore"):  # inf - inf
        absolute: Wide = np.abs(result - true)
    if (odd := ~np.isfinite(absolute)).any():
        right = (result == true) | (np.isnan(result) & np.isnan(true))
        absolute[odd] = np.where(right[odd], 0, np.inf)
    if keeps_sign:
        absolute[(np.signbit(result) != np.signbit(x)) & ~np.isnan(x)] = np.inf
    return absolute


def row(*names: str, found: Errors, low: float = -math.inf, high: float = math.inf) -> Row:
    """A row of a file of results, of x from `low` to `high`, of which all numbers were tried.

    The names are those of function, implementation, dtype and reference.
    """
    columns = ("function", "implementation", "dtype", "reference")
    ends = {"low": low, "high": high, "numbers": found.tried}
    return {**dict(zip(columns, names, strict=True)), **ends, **found._asdict()}


def together(found: Iterable[Any]) -> Errors:
    """The errors of several sets of results: `Errors`, or rows of a file, which have the same."""
    found = list(found)
    ulp = max(found, key=lambda errors: errors.ulp)
    absolute = max(found, key=lambda errors: errors.absolute)
    tried, correct = (sum(getattr(each, name) for each in found) for name in ("tried", "correct"))
    return Errors(tried, ulp.ulp, ulp.ulp_at, absolute.absolute, absolute.absolute_at, correct)


def keep(found: Errors, bound: Bound) -> bool:
    """Whether errors that were counted in ULP beyond the bound's absolute part keep it."""
    if bound.correct:
        return found.correct >= bound.correct * found.tried
    return found.ulp <= bound.ulp if bound.ulp else found.absolute <= bound.absolute


def required(backend: str, dtype: str, function: str) -> list[Bound]:
    """The bounds of f, f', f'', "g f'" or "h g f''"; gradients scale absolute errors."""
    *gradients, name = function.split()
    scale = LARGEST_GRADIENT ** len(gradients)
    found = bounds(backend, dtype, name)
    return [*(replace(bound, absolute=bound.absolute * scale) for bound in found), LIMITS]


def covers(bound: Bound, low: float, high: float) -> bool:
    """Whether a bound is about all from `low` to `high`, or both are about infinities and NaN."""
    if math.isnan(bound.low):
        return math.isnan(low)
    return bound.low <= low and high <= bound.high
