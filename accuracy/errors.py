"""Errors of results, and what is kept of them: the largest, where they are, how many are right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from accuracy.formats import Bits, Format, Wide


@dataclass(frozen=True)
class Errors:
    """Of so many results: the largest error in ULP of the true value, the largest absolute one, the
    arguments of both, and how many results are correctly rounded.

    NaN instead of a number, or something else instead of NaN or infinity, is an infinite error.
    """

    tried: int = 0
    ulp: float = 0.0
    ulp_at: float = math.nan
    absolute: float = 0.0
    absolute_at: float = math.nan
    correct: int = 0

    def __or__(self, other: Errors) -> Errors:
        """Of both sets of results."""
        ulp = other if other.ulp > self.ulp else self
        absolute = other if other.absolute > self.absolute else self
        return Errors(
            self.tried + other.tried,
            *(ulp.ulp, ulp.ulp_at, absolute.absolute, absolute.absolute_at),
            self.correct + other.correct,
        )


class Judge:
    """Compares results for the arguments `x` with the true values, given in a wider format."""

    def __init__(self, number_format: Format, x: Wide, true: Wide) -> None:
        self._format, self._x, self._true = number_format, x, true
        self._finite = bool(np.isfinite(true).all())
        finite = true if self._finite else np.nan_to_num(true, posinf=0, neginf=0)
        self._ulps = number_format.ulps(finite)

    def __call__(self, result: Bits, allowance: float = 0, keeps_sign: bool = False) -> Errors:
        """ULP count from an absolute error of `allowance` on. With `keeps_sign` a result has to
        have the sign of its argument, zeros included; else that is an infinite error."""
        got = self._format.widen(result)
        with np.errstate(invalid="ignore"):  # inf - inf
            absolute = np.abs(got - self._true)
        if not self._finite:
            same = (got == self._true) | (np.isnan(got) & np.isnan(self._true))
            absolute[same] = 0
        if keeps_sign:
            wrong = np.signbit(got) != np.signbit(self._x)
            absolute[wrong & ~np.isnan(self._x)] = np.inf
        ulp = absolute * self._ulps
        correct = int(np.count_nonzero(ulp <= 0.5))
        if allowance:
            ulp = np.maximum(absolute - allowance, 0) * self._ulps
        return Errors(got.size, *_largest(ulp, self._x), *_largest(absolute, self._x), correct)


def difference(number_format: Format, x: Bits, result: Bits, expected: Bits) -> Errors:
    """Any difference in bits is an infinite error; all NaN are alike."""
    arguments, got, wanted = (number_format.widen(bits) for bits in (x, result, expected))
    same = (result == expected) | (np.isnan(got) & np.isnan(wanted))
    errors = np.where(same, 0.0, np.inf)
    largest = _largest(errors, arguments)
    return Errors(got.size, *largest, *largest, int(np.count_nonzero(same)))


def _largest(errors: Wide, x: Wide) -> tuple[float, float]:
    """The largest error and its argument; NaN, which argmax takes for the largest, as infinity."""
    at = errors.argmax()
    error = float(errors[at])
    return (math.inf if math.isnan(error) else error), float(x[at])
