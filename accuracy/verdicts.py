"""Measured rows against the bounds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from accuracy.bounds import REGIONS, SAME_BITS, Region
from accuracy.checks import DEFINITION
from accuracy.errors import Errors
from accuracy.formats import FORMATS
from accuracy.paths import NATIVE
from accuracy.results import Row


@dataclass(frozen=True)
class Verdict:
    """What was measured in a region."""

    function: str
    path: str
    dtype: str
    reference: str
    region: Region
    numbers: int
    errors: Errors

    @property
    def ok(self) -> bool:
        """Whether the bound is kept."""
        return self.region.bound.allows(self.errors)

    @property
    def required(self) -> bool:
        """Whether the bound has to be kept: of torch's own Mish nothing is required."""
        return self.path != NATIVE


def judge(rows: Iterable[Row]) -> list[Verdict]:
    """One verdict for each path in each region, by format, function and region."""
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.dtype, row.function, row.reference, row.path), []).append(row)
    verdicts = []
    for (dtype, function, reference, path), group in groups.items():
        for region in _regions(dtype, function, reference):
            inside = [row for row in group if region.holds(row.low, row.high)]
            errors = Errors()
            for row in inside:
                errors |= row.errors
            numbers = sum(row.numbers for row in inside)
            if numbers:
                verdicts.append(Verdict(function, path, dtype, reference, region, numbers, errors))
    names = [number_format.name for number_format in FORMATS]
    return sorted(verdicts, key=lambda v: (names.index(v.dtype), len(v.function), v.function))


def _regions(dtype: str, function: str, reference: str) -> tuple[Region, ...]:
    """What is required of a function when it is judged by `reference`."""
    if reference == DEFINITION:
        finite = (r for r in REGIONS[dtype][function] if r.bound.correct is None)
        return tuple(Region(r.low, r.high, r.bound.hundredth()) for r in finite)
    if reference in {number_format.judged_in for number_format in FORMATS}:
        return REGIONS[dtype][function]
    return (SAME_BITS,)
