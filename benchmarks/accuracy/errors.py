"""Errors of results, and whether they keep a bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

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


def errors(x: Wide, absolute: Wide, ulps: Wide | float, allowance: float = 0) -> Row:
    """The errors of results for x that are off by `absolute`, with units as `Format.ulps` says.

    ULP count from an absolute error of `allowance` on.

    Returns:
        Columns of a file of results: how many results, the largest error in ULP of the true value,
        the largest absolute one, the arguments of both, and how many are correctly rounded.
    """
    ulp = absolute * ulps
    correct = int(np.count_nonzero(ulp <= 0.5))
    if allowance:
        ulp = np.maximum(absolute - allowance, 0) * ulps
    largest: Row = {"tried": x.size, "correct": correct}
    for name, error in (("ulp", ulp), ("absolute", absolute)):
        at = error.argmax()
        largest |= {name: float(error[at]), f"{name}_at": float(x[at])}
    return largest


def distance(x: Wide, result: Wide, true: Wide, keeps_sign: bool = False) -> Wide:
    """How far results for x are from the true values: infinitely where NaN or infinity is wrong.

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


def row(*names: str, errors: Row, low: float = -math.inf, high: float = math.inf) -> Row:
    """A row of a file of results, of x from `low` to `high`, of which all numbers were tried.

    The names are those of function, implementation, dtype and reference.
    """
    columns = ("function", "implementation", "dtype", "reference")
    ends = {"low": low, "high": high, "numbers": errors["tried"]}
    return {**dict(zip(columns, names, strict=True)), **ends, **errors}


def together(several: Sequence[Row]) -> Row:
    """The errors of several sets of results."""
    found = {name: sum(each[name] for each in several) for name in ("tried", "correct")}
    for error in ("ulp", "absolute"):
        worst = max(several, key=itemgetter(error))
        found |= {name: worst[name] for name in (error, f"{error}_at")}
    return found


def keep(rows: pd.DataFrame, bound: Bound) -> bool:
    """Whether errors that were counted in ULP beyond the bound's absolute part keep it."""
    if bound.correct:
        return bool(rows.correct.sum() >= bound.correct * rows.tried.sum())
    return bool(rows.ulp.max() <= bound.ulp if bound.ulp else rows.absolute.max() <= bound.absolute)


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
