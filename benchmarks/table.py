"""``table``: print a CSV file of results again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import results
from benchmarks.environment import Environment
from benchmarks.results import Result

if TYPE_CHECKING:  # rich is imported when something is printed
    from rich.console import Console


def add_to(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "table",
        help="print a CSV file again",
        description="Prints what `run` or `models` wrote.",
    )
    parser.add_argument("csv", type=Path, metavar="FILE.csv")
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="as Markdown; of the default kernels those at 65,536 and 1 M elements",
    )
    parser.set_defaults(function=_table)


def show(path: Path, console: Console) -> None:
    """Print the tables of a file.

    Raises:
        OSError, ValueError: as `results.read`.
    """
    from benchmarks import tables
    from benchmarks.claims import judge

    facts, rows = results.read(path)
    if facts is None:
        console.print("Nothing was measured.")
        return
    kernels = tables.kernel_tables(rows)
    for table in kernels:
        console.print(table)
    if kernels:
        console.print(tables.kernel_notes(rows), style="dim")
    if compiled := tables.compiled_table(rows):
        console.print(compiled)
    if verdicts := judge(rows):
        console.print(tables.claims_table(verdicts))
    if any(row.cell.network for row in rows):
        from benchmarks import model_tables

        for table in model_tables.model_tables(rows):
            console.print(table)
        console.print(model_tables.NOTES, style="dim")
    console.print(facts.summary())


def _table(args: argparse.Namespace) -> int:
    from rich.console import Console

    try:
        if args.markdown:
            print(_markdown(*results.read(args.csv)))
        else:
            show(args.csv, Console(highlight=False))
    except (OSError, ValueError) as error:
        print(f"python -m benchmarks table: {error}", file=sys.stderr)
        return 1
    return 0


def _markdown(facts: Environment | None, rows: Sequence[Result]) -> str:
    from benchmarks import tables

    if facts is None:
        return "Nothing was measured."
    parts = []
    suites = {row.suite for row in rows}
    if "kernels" in suites:
        parts += [tables.kernel_markdown(rows), tables.markdown_notes(rows)]
    if "compiled" in suites:
        parts.append(tables.compiled_markdown(rows))
    if "models" in suites:
        from benchmarks import model_tables

        parts.append(model_tables.model_markdown(rows))
    return "\n\n".join([*parts, facts.summary()])
