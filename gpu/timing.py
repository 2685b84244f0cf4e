"""Timing on CUDA: graphs of many calls, replayed between events.

A graph leaves out what a launch costs the processor. Its calls go from one set of buffers to the
next; together they are larger than the L2 cache, so that each call meets memory, not cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.cells import Cell
from benchmarks.providers import Inputs, make_inputs
from benchmarks.results import Result
from benchmarks.timing import quantiles
from gpu.providers import call

CACHES = 3  # the buffers' size over that of the L2 cache
MOST_CALLS = 256  # in a graph: below some 100,000 elements the cache is not left
ROUNDS = 3
SAMPLES = 5  # in a round
SAMPLE_SECONDS = 4e-3


def calls_per_graph(bytes_per_call: int, cache_bytes: int) -> int:
    """How many calls touch `CACHES` times the cache, within bounds."""
    return max(2, min(MOST_CALLS, math.ceil(CACHES * cache_bytes / bytes_per_call)))


def measure(cells: Sequence[Cell], device: str) -> list[Result]:
    """Time cells of one dtype, shape and direction in `ROUNDS` turns.

    A cell for which memory is short is left out.
    """
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    calls = calls_per_graph(cells[0].bytes, cache)
    try:
        inputs = [make_inputs(cells[0], device, seed) for seed in range(calls)]
    except torch.cuda.OutOfMemoryError:
        return []
    times: dict[Cell, list[float]] = {cell: [] for cell in cells}
    for _ in range(ROUNDS):
        for cell in cells:
            try:
                times[cell] += _time(cell, inputs, device)
            except torch.cuda.OutOfMemoryError:
                times[cell].clear()
            torch.cuda.empty_cache()
    return [Result("gpu", cell, quantiles(taken)) for cell, taken in times.items() if taken]


def _time(cell: Cell, inputs: Sequence[Inputs], device: str) -> list[float]:
    """Seconds of one call, `SAMPLES` times."""

    def run() -> list[Any]:
        return [call(cell, one) for one in inputs]

    # As torch asks: the first calls on another stream, since they may allocate or compile.
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()  # each call has a result of its own, in memory of its own
    seconds = elapsed(graph.replay, 1)
    replays = max(1, math.ceil(SAMPLE_SECONDS / seconds))
    samples = [elapsed(graph.replay, replays) / (replays * len(inputs)) for _ in range(SAMPLES)]
    del kept
    return samples


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


def launch_seconds(function: Callable[[], Any], times: int = 2000) -> float:
    """What one call on a tiny tensor costs, launch included: the queue is never full."""
    torch.cuda.synchronize()
    samples = [elapsed(function, times) / times for _ in range(SAMPLES)]
    return quantiles(samples).median
