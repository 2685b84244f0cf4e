"""Timing on CUDA: graphs of many calls, replayed between events.

A graph leaves out what a launch costs the processor. Its calls go from one set of buffers to the
next, operands and results; together these are larger than the L2 cache, so that each call meets
memory, not cache.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.providers import Inputs
from benchmarks.timing import Sampler

CACHES = 3  # the buffers' size over that of the L2 cache
MOST_CALLS = 256  # in a rotation: below some 100,000 elements the cache is not left
GRAPH_BYTES = 16e9  # 2 ms at 8 TB/s: beside it the gap between two replays is nothing
SAMPLE_SECONDS = 2e-3


def buffers(bytes_per_call: int, cache_bytes: int) -> int:
    """How many sets of operands hold `CACHES` times the cache, within bounds."""
    return max(2, min(MOST_CALLS, math.ceil(CACHES * cache_bytes / bytes_per_call)))


def calls_per_graph(bytes_per_call: int, sets: int) -> int:
    """Whole rotations through the sets: `GRAPH_BYTES`, or of small calls `MOST_CALLS`."""
    wanted = min(MOST_CALLS, math.ceil(GRAPH_BYTES / bytes_per_call))
    return sets * math.ceil(wanted / sets)


def capture(
    call: Callable[[Inputs], Any], inputs: Sequence[Inputs], calls: int, device: str, pool: Any
) -> Sampler:
    """A graph of so many calls, and how to take a sample of it."""
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


def rotate(function: Callable[[Inputs], Any], inputs: Sequence[Inputs], calls: int) -> None:
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
