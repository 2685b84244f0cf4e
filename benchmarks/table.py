"""``table``: print a CSV file of results again."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import results

if TYPE_CHECKING:  # rich is imported when something is printed
    from rich.console import Console


def add_to(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "table", help="print a CSV file again", description="Prints what `run` wrote."
    )
    parser.add_argument("csv", type=Path, metavar="FILE.csv")
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="the kernels at 65,536 and 1 M elements as a Markdown table",
    )
    parser.set_defaults(function=_table)


def show(path: Path, console: Console) -> None:
    """Print the tables of a file that `results.read` can read."""
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
    console.print(facts.summary())


def _table(args: argparse.Namespace) -> int:
    from rich.console import Console

    try:
        if args.markdown:
            print(_markdown(args.csv))
        else:
            show(args.csv, Console(highlight=False))
    except (OSError, ValueError) as error:
        print(f"python -m benchmarks table: {error}", file=sys.stderr)
        return 1
    return 0


def _markdown(path: Path) -> str:
    from benchmarks import tables

    facts, rows = results.read(path)
    if facts is None:
        return ""
    parts = (
        tables.kernel_markdown(rows),
        tables.compiled_markdown(rows),
        facts.summary(),
        tables.kernel_notes(rows),
    )
    return "\n\n".join(parts)
