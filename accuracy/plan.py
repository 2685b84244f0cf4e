"""What a run measures: which paths, on which numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rich.progress import Progress

from accuracy import bounds, checks, paths
from accuracy.formats import FORMATS, FP32, FP64, Format
from accuracy.paths import Path
from accuracy.reference import FUNCTIONS
from accuracy.results import Row
from accuracy.sweep import Interval, Map, intervals, sweep

ALL = 2**32
LIMIT_FP64 = 2**17
LIMIT_NATIVE = 2**20  # for F.mish in fp32: its second derivative is slow
ODD_PLACES = 500  # numbers of each interval that are tried in odd places
DEFINITION_POINTS = 2000  # beside the worst, for the reference

# Where the kernels change over: the operands at e^x = 0.7, the range reduction of e^x between two
# multiples of ln 2, the clamps; where e^x leaves the normal range; the zeros of f, f' and f''.
_HARD_POINTS = (
    math.log(0.7),
    *((k + 0.5) * math.log(2) for k in range(-8, 8)),
    *(22.0, -709.0895657128241, -708.3964185322641),
    *(0.0, -1.1924312145154952, -2.2563763963607931, 1.4905711794854285),
)


def spans(number_format: Format) -> list[Interval]:
    """The intervals that a format is cut into: regions of a bound, and for a plot finer ones."""
    edges = bounds.edges(number_format.name)
    if number_format is FP32:
        edges |= {*np.arange(-105.0, 26.0), *np.arange(-4.0, 4.0, 0.25)}
    if number_format is FP64:
        edges |= {*np.arange(-750.0, -15.0, 15.0), *np.arange(-15.0, 26.0)}
        around = (1024 * float(np.spacing(abs(point))) for point in _HARD_POINTS)
        for point, distance in zip(_HARD_POINTS, around, strict=True):
            edges |= {point - distance, point + distance}
    return intervals(number_format, edges)


@dataclass(frozen=True)
class Run:
    """How to measure: at most `limit` numbers of each interval, or as many as is usual."""

    progress: Progress
    limit: int | None = None
    map: Map = map

    def rows(self) -> list[Row]:
        """Of all formats."""
        # "invalid" is raised by signalling NaN among the arguments, "over" and "under" by e^x.
        with np.errstate(all="ignore"):
            return [row for number_format in FORMATS for row in self._measure(number_format)]

    def _measure(self, number_format: Format) -> Iterator[Row]:
        kernels, native = paths.kernels(), paths.torch_native()
        every = spans(number_format)
        worst: dict[str, set[float]] = {function: set() for function in FUNCTIONS}
        for alike, usual in _sweeps(number_format, kernels, native):
            for row in self._sweep(number_format, alike, every, self.limit or usual):
                worst[row.function] |= {row.errors.ulp_at, row.errors.absolute_at}
                yield row
        spread = checks.sample(number_format, every, DEFINITION_POINTS // len(every))
        for order, function in enumerate(FUNCTIONS):
            hard = number_format.encode(np.array(list(worst[function])))
            points = np.concatenate([hard, spread])
            yield from checks.against_definition(number_format, order, points)

        count = ODD_PLACES if number_format.dtype.itemsize > 2 else ALL
        x = checks.sample(number_format, every, min(count, self.limit or count))
        for path in kernels:
            yield from checks.products(number_format, path, x)
            for moved in paths.odd_places(path):
                yield from checks.agreement(number_format, moved, path, x)
        yield from checks.agreement(number_format, paths.installed(), kernels[-1], x)

    def _sweep(
        self, number_format: Format, alike: list[Path], every: list[Interval], limit: int
    ) -> list[Row]:
        tried = sum(len(range(span.first, span.stop, span.step(limit))) for span in every)
        names = ", ".join(path.name for path in alike)
        task = self.progress.add_task(f"{number_format.name}: {names}", total=tried)

        def advance(numbers: int) -> None:
            self.progress.advance(task, numbers)

        return sweep(number_format, alike, every, limit, advance, self.map)


def _sweeps(
    number_format: Format, kernels: list[Path], native: Path
) -> list[tuple[list[Path], int]]:
    """Paths to try together, and how many numbers of each interval."""
    if number_format is FP32:
        return [(kernels, ALL), ([native], LIMIT_NATIVE)]
    return [([*kernels, native], LIMIT_FP64 if number_format is FP64 else ALL)]
