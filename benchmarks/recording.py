"""Measuring step by step into a CSV file, with progress shown; Ctrl-C keeps what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.environment import Environment
from benchmarks.results import Result, open_writer

INTERRUPTED = 130  # exit status of a program that Ctrl-C ended

Step = tuple[str, Callable[[], Iterable[Result]]]  # what is measured, and the measuring


def record(steps: Sequence[Step], path: Path, facts: Environment, console: Console) -> int:
    """Write what each step measures to `path`, and return the exit status: 0 or INTERRUPTED."""
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    # No auto-refresh: its thread would compete with what is being timed.
    progress = Progress(*columns, console=console, auto_refresh=False, transient=True)
    try:
        with open_writer(path, facts) as write, progress:
            task = progress.add_task("", total=len(steps))
            for text, measure in steps:
                progress.update(task, description=text, refresh=True)
                write(measure())
                progress.advance(task)
    except KeyboardInterrupt:
        console.print("Interrupted: what was measured is kept.")
        return INTERRUPTED
    return 0
