"""Timing in turns, round after round, so that a slow spell of the machine hits all alike.

On the CPU a sample is a block of calls. On CUDA it is a graph of many calls, replayed between
events, which leaves out what a launch costs the processor. Its calls go from one set of buffers to
the next, operands and results; together these are larger than the L2 cache, so that each call
meets memory, not cache.
"""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from timeit import Timer
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils import benchmark

# Long enough that reading the clock costs nothing, short enough for many rounds.
SAMPLE_SECONDS = 2e-3
CACHES = 3  # the buffers' size over that of the L2 cache
MOST_CALLS = 256  # in a rotation: below some 100,000 elements the cache is not left
GRAPH_BYTES = 16e9  # 2 ms at 8 TB/s: beside it the gap between two replays is nothing

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

    def function(self) -> Callable[[], Any]:
        """The same as a function without arguments."""
        result: Callable[[], Any] = eval(f"lambda: {self.text}", dict(self.names))
        return result


def describe(error: Exception) -> str:
    """The kind of an error, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


def quantiles(seconds: Sequence[float]) -> dict[str, Any]:
    """The columns of a file of results: median and spread of one call over the rounds."""
    p20, median, p80 = (f"{value:.4e}" for value in np.quantile(seconds, (0.2, 0.5, 0.8)))
    return {"rounds": len(seconds), "median_s": median, "p20_s": p20, "p80_s": p80}


def take_turns(
    samplers: Mapping[Key, Sampler],
    seconds: float,
    min_rounds: int,
    on_error: Callable[[Key, Exception], None],
) -> dict[Key, list[float]]:
    """The samples of each key, taken once per round, for about `seconds` and at least `min_rounds`.

    The order is shuffled every round. A key that raises is dropped, and its error handed to
    `on_error`; the others continue.
    """
    found: dict[Key, list[float]] = {key: [] for key in samplers}
    shuffle = random.Random(0).shuffle
    end = time.perf_counter() + seconds
    rounds = 0
    while found and (rounds < min_rounds or time.perf_counter() < end):
        order = list(found)
        shuffle(order)
        for key in order:
            try:
                found[key].append(samplers[key]())
            except Exception as error:
                on_error(key, error)
                del found[key]
        rounds += 1
    return found


def sampler(statement: Statement) -> Sampler:
    """Samples of a statement that was called before: the time of a block of calls, per call."""
    # benchmark.timer is the clock of torch.utils.benchmark: it waits for the device. Its own Timer
    # adds two untimed calls to every block, which cost much at 16 M elements.
    timer = Timer(statement.text, timer=benchmark.timer, globals=dict(statement.names))
    with threads(statement.threads):
        number = 1
        while (taken := timer.timeit(number)) < SAMPLE_SECONDS / 2:
            # At most tenfold at a time: one call is too short a sample to trust further.
            number = min(10 * number, math.ceil(number * SAMPLE_SECONDS / taken))

    def sample() -> float:
        with threads(statement.threads):
            # The first 2 ms of a block depend on what ran before it, by up to 15 % (seen with
            # F.mish after copies), and 1.4 ms of a norm by 25 %, whose memory others had driven
            # from the caches: so a block goes untimed. A call of many blocks warms itself.
            if taken < 10 * SAMPLE_SECONDS:
                timer.timeit(number)
            return timer.timeit(number) / number

    return sample


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def buffer_sets(bytes_per_call: int, cache_bytes: int) -> int:
    """How many sets of operands hold `CACHES` times the cache, within bounds."""
    return max(2, min(MOST_CALLS, math.ceil(CACHES * cache_bytes / bytes_per_call)))


def calls_per_graph(bytes_per_call: int, sets: int) -> int:
    """Whole rotations through the sets: `GRAPH_BYTES`, or of small calls `MOST_CALLS`."""
    wanted = min(MOST_CALLS, math.ceil(GRAPH_BYTES / bytes_per_call))
    return sets * math.ceil(wanted / sets)


def graph_sampler(
    call: Callable[[Key], Any], inputs: Sequence[Key], calls: int, device: str, pool: Any
) -> Sampler:
    """Captures a graph of so many calls; samples are replays of it."""
    # As torch asks: the first calls on another stream, since they may allocate or compile.
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        call(inputs[0])
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        rotate(call, inputs, calls)
    replays = math.ceil(SAMPLE_SECONDS / elapsed(graph.replay, 1))
    return lambda: elapsed(graph.replay, replays) / (replays * calls)


def rotate(function: Callable[[Key], Any], inputs: Sequence[Key], calls: int) -> None:
    """Calls on one set after the other. As many results are alive as there are sets: fewer would
    let their memory stay in the cache, more would not fit at the largest sizes."""
    alive: deque[Any] = deque(maxlen=len(inputs))
    for one in itertools.islice(itertools.cycle(inputs), calls):
        alive.append(function(one))


def elapsed(function: Callable[[], Any], times: int) -> float:
    """Seconds that the device takes for so many calls, after one that is not counted."""
    function()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(times):
        function()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3
