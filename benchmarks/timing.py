"""Timing in turns, round after round, so that a slow spell of the machine hits all alike."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from timeit import Timer
from typing import Any, TypeVar

import torch
from torch.utils import benchmark

from benchmarks.results import Interrupted, Timing, describe

# Long enough that reading the clock costs nothing, short enough for many rounds.
BLOCK_SECONDS = 2e-3

Key = TypeVar("Key")
Sampler = Callable[[], float]  # seconds of one call


@dataclass(frozen=True)
class Statement:
    """Source text, the names that it uses, and the CPU threads that it may use.

    Text, since a Python closure around each call would add its own 50 ns, which counts where a
    whole call takes a microsecond.
    """

    text: str
    names: Mapping[str, Any]
    threads: int = 1


def quantiles(seconds: list[float]) -> Timing:
    """Median, p20 and p80 of the time of one call, in seconds, over the rounds."""
    points = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    p20, median, p80 = torch.tensor(seconds, dtype=torch.float64).quantile(points).tolist()
    return Timing(rounds=len(seconds), median=median, p20=p20, p80=p80)


def take_turns(
    keys: Sequence[Key], prepare: Callable[[Key], Sampler], seconds: float, min_rounds: int
) -> tuple[dict[Key, Timing], dict[Key, str]]:
    """Sample each key once per round, for about `seconds` and at least `min_rounds`.

    The order changes from round to round, so that nobody always has the same forerunner. What
    raises is out, with its error, and leaves the others be.

    Raises:
        Interrupted: Ctrl-C after `min_rounds`.
    """
    failed: dict[Key, str] = {}
    samplers: dict[Key, Sampler] = {}
    times: dict[Key, list[float]] = {}
    for key in keys:
        try:
            samplers[key] = prepare(key)
        except Exception as error:
            failed[key] = describe(error)
    shuffle = random.Random(0).shuffle
    rounds = 0
    end = time.perf_counter() + seconds
    interrupted = False
    try:
        while samplers and (rounds < min_rounds or time.perf_counter() < end):
            order = list(samplers)
            shuffle(order)
            for key in order:
                try:
                    times.setdefault(key, []).append(samplers[key]())
                except Exception as error:
                    failed[key] = describe(error)
                    del samplers[key]
            rounds += 1
    except KeyboardInterrupt:
        if rounds < min_rounds:
            raise
        interrupted = True
    found = {key: quantiles(times[key]) for key in keys if key in samplers}, failed
    if interrupted:
        raise Interrupted(found)
    return found


def sampler(statement: Statement) -> Sampler:
    """Samples of a statement: the time of a block of calls, over their number."""
    # benchmark.timer is the clock of torch.utils.benchmark: it waits for the device.
    # Its own Timer adds two untimed calls to every block, dear at 16 M elements.
    timer = Timer(statement.text, timer=benchmark.timer, globals=dict(statement.names))
    with threads(statement.threads):
        number = _calls_per_block(timer)

    def sample() -> float:
        with threads(statement.threads):
            # The first 2 ms of a block depend on what ran before it, by up to 15 % (seen with
            # F.mish after copies): so a block goes untimed. A call as long as a block warms itself.
            if number > 1:
                timer.timeit(number)
            return timer.timeit(number) / number

    return sample


@contextmanager
def threads(number: int) -> Iterator[None]:
    """So many CPU threads within, and afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _calls_per_block(timer: Timer) -> int:
    timer.timeit(1)  # the first call of all may load code or allocate
    number = 1
    while (taken := timer.timeit(number)) < BLOCK_SECONDS / 2:
        # At most tenfold at a time: one call is too short a sample to trust further.
        number = min(10 * number, math.ceil(number * BLOCK_SECONDS / taken))
    return number
