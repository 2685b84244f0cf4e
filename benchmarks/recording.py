"""Measuring group by group into a CSV file, with progress shown; Ctrl-C keeps what was measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import environment, sources, table
from benchmarks.cells import Group
from benchmarks.environment import Environment
from benchmarks.exits import INTERRUPTED
from benchmarks.results import Failure, Interrupted, Measured, Result, open_writer

if TYPE_CHECKING:  # rich is imported when something is printed
    from rich.console import Console

# What is measured, and the measuring: its rows, and what cut it short.
Step = tuple[str, Callable[[], tuple[list[Result], Interrupted | None]]]


def carry_out(steps: Sequence[Step], failures: Sequence[Failure], args: argparse.Namespace) -> int:
    """Measure into the file, print its tables and what failed, and return the exit status."""
    from rich.console import Console

    console = Console(highlight=False)
    facts = environment.collect(args.device, args.command)
    if facts.backend == "eager":
        console.print(
            f"mish_cuda has no kernels for {args.device} here (not built, or switched off): "
            "measuring its eager fallback."
        )
    status, rows = record(steps, args.csv, facts, console)
    if rows:
        table.show(*sources.speeds(args.csv), console)
    if failures:
        console.print("Not measured, and but for want of memory not tried again:", style="bold red")
    for failure in failures:
        console.print(f"  {failure.cell}: {failure.reason}", markup=False)
    if rows:
        console.print(f"Data: {args.csv}")
    else:
        console.print(f"Nothing was measured, and no row written to {args.csv}.")
    return status or int(bool(failures))


def record(
    steps: Sequence[Step], path: Path, facts: Environment, console: Console
) -> tuple[int, int]:
    """Write what each step measures to `path`.

    Returns:
        The exit status, 0 or INTERRUPTED, and the number of rows.

    Raises:
        OSError: `path` cannot be written.
    """
    from rich import progress

    columns = (
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.description}"),
    )
    # No auto-refresh: its thread would compete with what is being timed.
    bar = progress.Progress(*columns, console=console, auto_refresh=False, transient=True)
    rows = 0
    try:
        with open_writer(path, facts) as write, bar:
            task = bar.add_task("", total=len(steps))
            for text, measure in steps:
                bar.update(task, description=text, refresh=True)
                measured, interruption = measure()
                write(measured)
                rows += len(measured)
                if interruption:
                    raise interruption
                bar.advance(task)
    except KeyboardInterrupt:
        console.print("Interrupted: what was measured is kept.")
        return INTERRUPTED, rows
    return 0, rows


def attempt(
    group: Group, measure: Callable[[Group], Measured], failures: list[Failure]
) -> tuple[list[Result], Interrupted | None]:
    """Measure what has not failed before, since compiling in vain may take seconds; add to
    `failures` what fails now.

    Returns:
        The rows, and the interruption if there are those only that were measured before it.
    """
    given_up = {
        (f.cell.provider, f.cell.direction, f.cell.dtype) for f in failures if not f.out_of_memory
    }
    cells = tuple(
        cell for cell in group.cells if (cell.provider, cell.direction, cell.dtype) not in given_up
    )
    if not cells:
        return [], None
    interruption = None
    try:
        results, failed = measure(replace(group, cells=cells))
    except Interrupted as error:
        interruption = error
        results, failed = error.kept
    failures += failed
    return results, interruption
