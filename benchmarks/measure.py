"""Measuring groups of cases into a file: times in turns, and peak memory where they train."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import environment, memory, providers, results, timing, views
from benchmarks.arguments import FAILED, INTERRUPTED
from benchmarks.cases import Case, Group
from benchmarks.display import progress_bar
from benchmarks.providers import make_inputs, statement
from benchmarks.timing import Sampler, describe, quantiles, sampler, take_turns, threads

# How to call a case once, and how to begin sampling it.
Prepared = tuple[Callable[[], Any], Callable[[], Sampler]]
# From the cases of a group and the device.
Prepare = Callable[[Sequence[Case], str], Callable[[Case], Prepared]]
# Rows of a file of results, and why other cases failed.
Measured = tuple[list[dict[str, Any]], dict[Case, str]]


def out_of_memory(reason: str) -> bool:
    """Whether a smaller case may do where this one failed."""
    return reason.startswith("OutOfMemoryError") or "can't allocate" in reason


def measure(
    group: Group, device: str, seconds: float, warmup: int = 1, prepare: Prepare | None = None
) -> Measured:
    """Sample every case once per round, for about `seconds` and at least `group.min_rounds`, after
    `warmup` calls of each. A case that fails is dropped; the others continue."""
    if prepare is None:
        # A graph would leave out what a launch costs.
        prepare = by_clock if device == "cpu" or group.suite == "launch" else by_graphs
    samplers, peaks, failures = {}, {}, {}

    def fail(case: Case, error: Exception) -> None:
        failures[case] = describe(error)

    prepared: Callable[[Case], Prepared] | None = None
    for case in group.cases:
        try:
            prepared = prepared or prepare(group.cases, device)
            call, start = prepared(case)
            with threads(case.threads):
                for _ in range(warmup):
                    call()
                if case.trains:
                    peaks[case] = memory.peak(call, device)
            samplers[case] = start()
        except Exception as error:
            fail(case, error)
    times = take_turns(samplers, seconds, group.min_rounds, fail)
    rows = [
        {"suite": group.suite, **c.row(), **quantiles(t), "peak_bytes": peaks.get(c, "")}
        for c, t in times.items()
    ]
    return rows, failures


def by_clock(cases: Sequence[Case], device: str) -> Callable[[Case], Prepared]:
    """Blocks of calls, for cases of one dtype, shape and layout."""
    inputs = make_inputs(cases[0], device)

    def prepared(case: Case) -> Prepared:
        timed = statement(case, inputs)
        return timed.function(), lambda: sampler(timed)

    return prepared


def by_graphs(cases: Sequence[Case], device: str) -> Callable[[Case], Prepared]:
    """CUDA graphs of calls, for cases of one dtype, shape and direction."""
    size = cases[0].bytes
    sets = timing.buffer_sets(size, torch.cuda.get_device_properties(device).L2_cache_size)
    inputs = [make_inputs(cases[0], device, seed) for seed in range(sets)]
    # One pool for all graphs: each may overwrite what another left, since nobody reads results.
    pool = torch.cuda.graph_pool_handle()
    calls = timing.calls_per_graph(size, sets)
    return lambda case: (
        partial(providers.call, case, inputs[0]),
        lambda: timing.graph_sampler(partial(providers.call, case), inputs, calls, device, pool),
    )


def record(
    groups: Sequence[Group],
    measure: Callable[[Group], Measured],
    device: str,
    command: str,
    path: Path,
    minutes: float | None = None,
    rivals_may_fail: bool = False,
) -> int:
    """Measure every group into the file, print its tables and what failed; return the exit status.

    A case that failed is not tried again in another size, unless memory was short: compiling in
    vain may take seconds. After so many minutes no further group is begun. Where `rivals_may_fail`,
    only failures of mish_cuda count, but not for want of memory.
    """
    console = Console(highlight=False)
    memory.keep_freed()
    facts = environment.collect(device, command)
    if facts["backend"] == "eager":
        console.print(f"mish_cuda has no kernels for {device} here: measuring its eager fallback.")
    # No auto-refresh: its thread would compete with what is being timed.
    bar = progress_bar(console, auto_refresh=False)
    failures: list[tuple[Case, str]] = []
    unreached: list[str] = []
    count, status = 0, 0
    end = time.monotonic() + 60 * minutes if minutes else None
    try:
        with results.open_writer(path, "speed", facts) as write, bar:
            task = bar.add_task("", total=len(groups))
            for group in groups:
                bar.update(task, description=str(group), refresh=True)
                if end and time.monotonic() > end:
                    unreached.append(str(group))
                    continue
                given_up = {_kind(case) for case, why in failures if not out_of_memory(why)}
                cases = tuple(case for case in group.cases if _kind(case) not in given_up)
                rows, failed = measure(replace(group, cases=cases)) if cases else ([], {})
                write(rows)
                count += len(rows)
                failures += failed.items()
                bar.advance(task)
    except KeyboardInterrupt:
        console.print("Interrupted: what was measured is kept.")
        status = INTERRUPTED
    if count:
        views.show(results.read([path]), console)
    if failures:
        console.print("Failed (not retried, unless out of memory):", style="bold red")
    for case, reason in failures:
        console.print(f"  {case}: {reason}", markup=False)
        counts = case.provider == "mish_cuda" and not out_of_memory(reason)
        status = status or (FAILED if counts or not rivals_may_fail else 0)
    if unreached:
        console.print(f"Not reached in {minutes:g} minutes: {'; '.join(unreached)}", markup=False)
    console.print(f"Data: {path}" if count else f"Nothing was measured, no row written to {path}.")
    return status


def _kind(case: Case) -> tuple[str, str, str]:
    """What has failed in all sizes when it has failed in one."""
    return case.provider, case.direction, case.dtype
