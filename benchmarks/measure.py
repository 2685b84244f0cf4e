"""Measuring a group of cells: their times in turn, and the peak memory of those that train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from benchmarks import graphs, memory, providers
from benchmarks.cells import Cell, Group
from benchmarks.providers import Inputs, make_inputs, statement
from benchmarks.results import Failure, Interrupted, Measured, Result, Timing, describe
from benchmarks.timing import Sampler, sampler, take_turns, threads


@dataclass(frozen=True)
class Timed:
    """A cell with its inputs: how to call it once, and how to begin sampling it."""

    call: Callable[[], Any]
    sampler: Callable[[], Sampler]


Way = Callable[[Sequence[Cell], str], Callable[[Cell], Timed]]  # of timing cells on a device


def measure(
    group: Group, device: str, seconds: float, warmup: int = 1, way: Way | None = None
) -> Measured:
    """Sample every cell once per round, for about `seconds` and at least `group.min_rounds`, after
    `warmup` calls of each: on the CPU by the clock, on CUDA by graphs. One that fails leaves the
    others be.

    Raises:
        Interrupted: Ctrl-C after `group.min_rounds`.
    """
    way = way or (by_graphs if torch.device(device).type == "cuda" else by_clock)
    try:
        with_inputs = way(group.cells, device)
    except Exception as error:
        return [], [Failure(cell, describe(error)) for cell in group.cells]
    peaks: dict[Cell, int] = {}

    def prepare(cell: Cell) -> Sampler:
        timed = with_inputs(cell)
        with threads(cell.threads):
            for _ in range(warmup):
                timed.call()
            if cell.direction in ("forward+backward", "training step"):
                peaks[cell] = memory.peak(timed.call, device)
        return timed.sampler()

    def measured(times: Mapping[Cell, Timing], failed: Mapping[Cell, str]) -> Measured:
        return (
            [Result(group.suite, cell, timing, peaks.get(cell)) for cell, timing in times.items()],
            [Failure(cell, reason) for cell, reason in failed.items()],
        )

    try:
        return measured(*take_turns(group.cells, prepare, seconds, group.min_rounds))
    except Interrupted as interruption:
        raise Interrupted(measured(*interruption.kept)) from None


def by_clock(cells: Sequence[Cell], device: str) -> Callable[[Cell], Timed]:
    """Blocks of calls."""
    kinds = {(cell.dtype, cell.shape, cell.layout): cell for cell in cells}
    inputs = {kind: make_inputs(cell, device) for kind, cell in kinds.items()}

    def timed(cell: Cell) -> Timed:
        own = inputs[cell.dtype, cell.shape, cell.layout]
        return Timed(partial(providers.call, cell, own), lambda: sampler(statement(cell, own)))

    return timed


def by_graphs(
    cells: Sequence[Cell], device: str, call: Callable[[Cell, Inputs], Any] = providers.call
) -> Callable[[Cell], Timed]:
    """Graphs of calls, for cells of one dtype, shape and direction."""
    size = cells[0].bytes
    sets = graphs.buffers(size, torch.cuda.get_device_properties(device).L2_cache_size)
    inputs = [make_inputs(cells[0], device, seed) for seed in range(sets)]
    # One pool for all graphs: each may overwrite what another left, since nobody reads results.
    pool = torch.cuda.graph_pool_handle()
    calls = graphs.calls_per_graph(size, sets)
    return lambda cell: Timed(
        partial(call, cell, inputs[0]),
        lambda: graphs.capture(partial(call, cell), inputs, calls, device, pool),
    )
