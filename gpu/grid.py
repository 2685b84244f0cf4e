"""Which cells are timed, in which order, and until when."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.cells import DTYPES, Cell
from benchmarks.results import Failure, Result, Write
from gpu.providers import DIRECTIONS, NAMES
from gpu.steps import Deadline

SIZES = tuple(2**n for n in range(30, 8, -2))  # the large ones first: claims are about them
OURS = "mish_cuda"

Measure = Callable[[Sequence[Cell]], tuple[list[Result], list[Failure]]]


@dataclass
class Found:
    """What was measured, what failed, and what time did not suffice for."""

    results: list[Result] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    unreached: list[str] = field(default_factory=list)

    @property
    def broken(self) -> list[Failure]:
        """Failures of ours, but for want of memory."""
        return [f for f in self.failures if f.cell.provider == OURS and not f.out_of_memory]


def walk(found: Found, measure: Measure, write: Write, deadline: Deadline) -> None:
    """Measures size by size into `found`, until all is done or time is up.

    A peer that fails is not tried again in that direction and dtype: compiling may take seconds.
    """
    given_up: set[tuple[str, str, str]] = set()
    for size, dtype, direction in itertools.product(SIZES, DTYPES, DIRECTIONS):
        if deadline.left() <= 0:
            found.unreached.append(f"{direction} {dtype} {size:,}")
            continue
        names = [name for name in NAMES if (name, direction, dtype) not in given_up]
        results, failures = measure([Cell(name, direction, dtype, (size,)) for name in names])
        write(results)
        found.results += results
        found.failures += failures
        given_up |= {
            (f.cell.provider, direction, dtype)
            for f in failures
            if f.cell.provider != OURS and not f.out_of_memory
        }
