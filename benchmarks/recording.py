"""Measuring group by group into a CSV file, with progress shown; Ctrl-C keeps what was measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import environment, table
from benchmarks.cells import Group
from benchmarks.environment import Environment
from benchmarks.results import Failure, Measured, Result, open_writer

if TYPE_CHECKING:  # rich is imported when something is printed
    from rich.console import Console

INTERRUPTED = 130  # exit status of a program that Ctrl-C ended

Step = tuple[str, Callable[[], Iterable[Result]]]  # what is measured, and the measuring


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
    status = record(steps, args.csv, facts, console)
    table.show(args.csv, console)
    if failures:
        console.print("Not measured, and but for want of memory not tried again:", style="bold red")
    for failure in failures:
        console.print(f"  {failure.cell}: {failure.reason}", markup=False)
    console.print(f"Data: {args.csv}")
    return status or int(bool(failures))


def record(steps: Sequence[Step], path: Path, facts: Environment, console: Console) -> int:
    """Write what each step measures to `path`, and return the exit status: 0 or INTERRUPTED."""
    from rich import progress

    columns = (
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.description}"),
    )
    # No auto-refresh: its thread would compete with what is being timed.
    bar = progress.Progress(*columns, console=console, auto_refresh=False, transient=True)
    try:
        with open_writer(path, facts) as write, bar:
            task = bar.add_task("", total=len(steps))
            for text, measure in steps:
                bar.update(task, description=text, refresh=True)
                write(measure())
                bar.advance(task)
    except KeyboardInterrupt:
        console.print("Interrupted: what was measured is kept.")
        return INTERRUPTED
    return 0


def attempt(
    group: Group, measure: Callable[[Group], Measured], failures: list[Failure]
) -> list[Result]:
    """Measure what has not failed before, since compiling in vain may take seconds; add to
    `failures` what fails now."""
    given_up = {
        (f.cell.provider, f.cell.direction, f.cell.dtype) for f in failures if not f.out_of_memory
    }
    cells = tuple(
        cell for cell in group.cells if (cell.provider, cell.direction, cell.dtype) not in given_up
    )
    if not cells:
        return []
    results, failed = measure(replace(group, cells=cells))
    failures += failed
    return results
