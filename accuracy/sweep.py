"""Tries paths on numbers of a format, interval by interval."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from accuracy import reference
from accuracy.bounds import allowance
from accuracy.errors import Errors, Judge
from accuracy.formats import Format
from accuracy.paths import Path
from accuracy.reference import FUNCTIONS
from accuracy.results import Row

CHUNK = 2**14  # numbers computed at once: larger temporaries would be fetched from the system anew
PIECE = 2**20  # numbers in one job

Found = defaultdict[tuple[str, str], Errors]  # by function and path
Map = Callable[..., Iterable[Found]]  # map, or that of an executor


@dataclass(frozen=True)
class Interval:
    """The numbers low < x <= high and their ordinals; -inf and +inf stand for the largest numbers.
    With low and high both NaN: infinities and NaN."""

    low: float
    high: float
    first: int
    stop: int

    @property
    def numbers(self) -> int:
        return self.stop - self.first

    def step(self, limit: int) -> int:
        """So that at most `limit` numbers are tried; odd, so that all last bits occur."""
        step = math.ceil(self.numbers / limit)
        return step if step == 1 else step | 1


def intervals(number_format: Format, edges: Iterable[float]) -> list[Interval]:
    """All numbers of a format, cut at the edges; no interval is empty."""
    # A cut at 0 falls between -0 and +0.
    ends = [-math.inf, *sorted({edge or -0.0 for edge in edges}), math.inf]
    inside = [number_format.ordinal(edge) for edge in ends[1:-1]]
    infinity = number_format.infinity
    cuts = [-infinity - 1, *inside, infinity - 1]
    finite = [
        Interval(low, high, first + 1, last + 1)
        for (low, high), (first, last) in zip(
            itertools.pairwise(ends), itertools.pairwise(cuts), strict=True
        )
        if first < last
    ]
    cuts = [-number_format.largest - 1, -infinity - 1, -infinity]
    cuts += [infinity, infinity + 1, number_format.largest + 1]
    nan_and_infinity = [
        Interval(math.nan, math.nan, first, stop)
        for first, stop in itertools.pairwise(cuts)
        if first != -infinity
    ]
    return finite + nan_and_infinity


def workers() -> ProcessPoolExecutor:
    """A process for each core."""
    # A forked process would inherit torch's threads, which do not survive that.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(os.cpu_count(), context, torch.set_num_threads, (1,))


def sweep(
    number_format: Format,
    paths: Sequence[Path],
    spans: Sequence[Interval],
    limit: int,
    advance: Callable[[int], None],
    run: Map = map,
) -> list[Row]:
    """Rows of each function, path and interval, with at most `limit` numbers tried of each.

    `advance` is told how many numbers have been tried since the last time.
    """
    jobs = [
        (span, range(start, min(start + PIECE * step, span.stop), step))
        for span in spans
        for step in [span.step(limit)]
        for start in range(span.first, span.stop, PIECE * step)
    ]
    total = {span: _nothing() for span in spans}
    results = run(partial(measure, number_format, paths), *zip(*jobs, strict=True))
    for (span, ordinals), found in zip(jobs, results, strict=True):
        for key, errors in found.items():
            total[span][key] |= errors
        advance(len(ordinals))
    fixed = (number_format.name, number_format.judged_in)
    return [
        Row(function, path, *fixed, span.low, span.high, span.numbers, errors)
        for span, found in total.items()
        for (function, path), errors in found.items()
    ]


def measure(number_format: Format, paths: Sequence[Path], span: Interval, ordinals: range) -> Found:
    """The errors of each function and path on these numbers of one interval."""
    found = _nothing()
    allowances = [
        allowance(function, number_format.name, span.low, span.high) for function in FUNCTIONS
    ]
    for start in range(0, len(ordinals), CHUNK):
        part = ordinals[start : start + CHUNK]
        bits = number_format.numbers(part.start, part.stop, part.step)
        # "invalid" is raised by signalling NaN among the arguments, "over" and "under" by e^x.
        with np.errstate(all="ignore"):
            x = number_format.widen(bits)
            truth = reference.evaluate(x)
            for order, function in enumerate(FUNCTIONS):
                judge = Judge(number_format, x, truth[order])
                for path in paths:
                    result = path.derivative(number_format, order, bits)
                    errors = judge(result, allowances[order], keeps_sign=order == 0)
                    found[function, path.name] |= errors
    return found


def _nothing() -> Found:
    return defaultdict(Errors)
