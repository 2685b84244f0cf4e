"""The errors that are allowed, by format, function and region of x."""

from __future__ import annotations

import math
from dataclasses import dataclass

from accuracy.errors import Errors

INF, NAN = math.inf, math.nan


@dataclass(frozen=True)
class Bound:
    """One of four: an error of at most `ulp` ULP; or of that and `absolute` together; or of
    `absolute` alone; or a share of results correctly rounded."""

    ulp: float | None = None
    absolute: float | None = None
    correct: float | None = None

    def __str__(self) -> str:
        if self.correct is not None:
            return f"{self.correct:.1%} right"
        if self.ulp is None:
            return f"{self.absolute:g}" if self.absolute else "exact"
        return f"{self.ulp:g} ULP" + (f" + {self.absolute:.2g}" if self.absolute else "")

    @property
    def allowance(self) -> float:
        """The absolute error from which on ULP count."""
        return self.absolute or 0 if self.ulp is not None else 0

    def allows(self, errors: Errors) -> bool:
        """Whether errors, which were counted in ULP with this allowance, keep this bound."""
        if self.correct is not None:
            return errors.correct >= self.correct * errors.tried
        if self.ulp is not None:
            return errors.ulp <= self.ulp
        return errors.absolute <= (self.absolute or 0)

    def hundredth(self) -> Bound:
        """What the reference may be off, to judge by it."""
        return Bound(*(bound and bound / 100 for bound in (self.ulp, self.absolute)))


@dataclass(frozen=True)
class Region:
    """low < x <= high, or all that is not finite if both are NaN, and what is required there.

    An end of 0 is between -0 and +0.
    """

    low: float
    high: float
    bound: Bound

    def holds(self, low: float, high: float) -> bool:
        """Whether this region contains all from `low` to `high`."""
        if math.isnan(self.low):
            return math.isnan(low)
        return self.low <= low and high <= self.high


def _ulp(value: float) -> Bound:
    return Bound(ulp=value)


def _absolute(value: float) -> Bound:
    return Bound(absolute=value)


# Any difference in bits counts as infinite.
SAME_BITS = Region(-INF, INF, _absolute(0))
# The limits at infinity are exact, and only NaN gives NaN.
_LIMITS = Region(NAN, NAN, _absolute(0))
# Below the first figure e^x is subnormal, and it is flushed to 0 from -87.7 or -709.09 on: then all
# of |f|, |f'| or |f''| is lost, which the second figure bounds.
_FLUSHED_32 = Region(-INF, -87.3, _absolute(1.1e-36))
_FLUSHED_64 = Region(-INF, -708.3, _absolute(1.2e-305))
_SLOPE, _CURVATURE = 1.2e-7, 4e-7


def _halves(*flushed: Region) -> dict[str, tuple[Region, ...]]:
    """Results are computed in float and rounded once. f' crosses zero at -1.19, f'' at -2.26 and
    1.49: there an ULP of the result falls below the error of the float. So the bound is what these
    two errors add up to, which is within 1 ULP wherever that of the float is within half of one.
    """
    lowest = flushed[0].high if flushed else -INF
    nearly_all, most = (Region(-INF, INF, Bound(correct=share)) for share in (0.999, 0.99))
    return {
        "f": (*flushed, Region(lowest, INF, _ulp(1)), nearly_all, _LIMITS),
        "f'": (
            *flushed,
            Region(lowest, -3, _ulp(1)),
            Region(-3, 0, Bound(0.5, _SLOPE)),
            Region(0, INF, _ulp(1)),
            *(most, _LIMITS),
        ),
        "f''": (
            *flushed,
            Region(lowest, -3, _ulp(1)),
            Region(-3, 3, Bound(0.5, _CURVATURE)),
            Region(3, 20, _ulp(1)),
            Region(20, INF, _absolute(7e-16)),  # the kernels give 0, the limit
            *(most, _LIMITS),
        ),
        # Away from the zeros the float adds little. |g|, |h| < 4.
        "g f'": (
            Region(-87.3, -3, _ulp(0.51)),
            Region(-3, 0, Bound(0.5, 4 * _SLOPE)),
            Region(0, INF, _ulp(0.51)),
        ),
        "h g f''": (
            Region(-87.3, -3, _ulp(0.51)),
            Region(-3, 3, Bound(0.5, 16 * _CURVATURE)),
            Region(3, 20, _ulp(0.51)),
        ),
    }


REGIONS: dict[str, dict[str, tuple[Region, ...]]] = {
    "fp32": {
        "f": (_FLUSHED_32, Region(-87.3, INF, _ulp(2.5)), _LIMITS),
        "f'": (
            _FLUSHED_32,
            Region(-87.3, -3, _ulp(6)),
            Region(-3, 0, _absolute(_SLOPE)),
            Region(0, INF, _ulp(4)),
            _LIMITS,
        ),
        "f''": (Region(-INF, INF, _absolute(_CURVATURE)), _LIMITS),
    },
    "fp16": _halves(),
    "bf16": _halves(_FLUSHED_32),
    "fp64": {
        "f": (_FLUSHED_64, Region(-708.3, INF, _ulp(4)), _LIMITS),
        "f'": (
            _FLUSHED_64,
            Region(-708.3, -3, _ulp(8)),
            Region(-3, 0, _absolute(4e-16)),
            Region(0, INF, _ulp(8)),
            _LIMITS,
        ),
        "f''": (Region(-INF, INF, _absolute(1e-15)), _LIMITS),
    },
}


def edges(dtype: str) -> set[float]:
    """The finite ends of all regions of a format."""
    ends = {end for regions in REGIONS[dtype].values() for r in regions for end in (r.low, r.high)}
    return {end for end in ends if math.isfinite(end)}


def allowance(function: str, dtype: str, low: float, high: float) -> float:
    """The absolute error from which on ULP count, between `low` and `high`."""
    regions = (r for r in REGIONS[dtype][function] if r.holds(low, high))
    return max((region.bound.allowance for region in regions), default=0)
