"""Interleaved timing of a group of cells."""

from __future__ import annotations

import math
import random
import time
from timeit import Timer

import torch
from torch.utils import benchmark

from benchmarks.cells import Group
from benchmarks.providers import make_inputs, statement
from benchmarks.results import Result, Timing

# Long enough that reading the clock costs nothing, short enough for many rounds.
BLOCK_SECONDS = 2e-3


def quantiles(seconds: list[float]) -> Timing:
    """Median, p20 and p80 of the time of one call, in seconds, over the rounds."""
    points = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    p20, median, p80 = torch.tensor(seconds, dtype=torch.float64).quantile(points).tolist()
    return Timing(rounds=len(seconds), median=median, p20=p20, p80=p80)


def measure(group: Group, device: str, seconds: float) -> list[Result]:
    """Time every cell once per round, for about `seconds` and at least `group.min_rounds`."""
    inputs = {
        key: make_inputs(cell, device)
        for key, cell in {(c.dtype, c.shape, c.layout): c for c in group.cells}.items()
    }
    timers = []
    for cell in group.cells:
        call = statement(cell, inputs[cell.dtype, cell.shape, cell.layout])
        # benchmark.timer is the clock of torch.utils.benchmark: it waits for the device.
        # Its own Timer adds two untimed calls to every block, dear at 16 M elements.
        timers.append(Timer(call.text, timer=benchmark.timer, globals=dict(call.names)))

    threads_before = torch.get_num_threads()
    order = list(range(len(timers)))
    shuffle = random.Random(0).shuffle
    times: list[list[float]] = [[] for _ in timers]
    try:
        numbers = []
        for cell, timer in zip(group.cells, timers, strict=True):
            torch.set_num_threads(cell.threads)
            numbers.append(_calls_per_block(timer))
        end = time.perf_counter() + seconds
        while len(times[0]) < group.min_rounds or time.perf_counter() < end:
            # The first 2 ms of a block depend on what ran before it, by up to 15 % (seen with
            # F.mish after copies): so a block goes untimed, and nobody always has the same
            # forerunner. A call as long as a block warms itself.
            shuffle(order)
            for i in order:
                torch.set_num_threads(group.cells[i].threads)
                if numbers[i] > 1:
                    timers[i].timeit(numbers[i])
                times[i].append(timers[i].timeit(numbers[i]) / numbers[i])
    finally:
        torch.set_num_threads(threads_before)
    return [
        Result(group.suite, cell, quantiles(taken))
        for cell, taken in zip(group.cells, times, strict=True)
    ]


def _calls_per_block(timer: Timer) -> int:
    timer.timeit(1)  # the first call of all may load code or allocate
    number = 1
    while (taken := timer.timeit(number)) < BLOCK_SECONDS / 2:
        # At most tenfold at a time: one call is too short a sample to trust further.
        number = min(10 * number, math.ceil(number * BLOCK_SECONDS / taken))
    return number
