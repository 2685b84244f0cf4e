"""``table``: print a CSV file of results again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import sources
from benchmarks.environment import Environment
from benchmarks.results import Result
from benchmarks.sources import Unreadable, complain

if TYPE_CHECKING:  # rich is imported when something is printed
    from rich.console import Console


def add_to(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "table",
        help="print a CSV file again",
        description="Prints what `run`, `models` or `python -m gpu` wrote.",
    )
    parser.add_argument("csv", type=Path, metavar="FILE.csv")
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="as Markdown; of the default kernels those at 65,536 and 1 M elements",
    )
    parser.set_defaults(function=_table)


def show(facts: Environment, rows: Sequence[Result], console: Console) -> None:
    """Print the tables of a file, and how to read them."""
    from benchmarks import model_tables, tables
    from benchmarks.claims import judge

    kernels, models = tables.kernel_tables(rows), model_tables.model_tables(rows)
    compiled, verdicts = tables.compiled_table(rows), judge(rows)
    for table in kernels:
        console.print(table)
    if kernels:
        console.print(tables.kernel_notes(rows), style="dim", markup=False)
    if compiled:
        console.print(compiled)
    if verdicts:
        console.print(tables.claims_table(verdicts))
    for table in models:
        console.print(table)
    if models:
        console.print(model_tables.NOTES, style="dim")
    if not (kernels or compiled or verdicts or models):
        console.print(_no_table(rows))
    console.print(facts.summary(), markup=False)


def _table(args: argparse.Namespace) -> int:
    from rich.console import Console

    try:
        facts, rows = sources.speeds(args.csv)
    except Unreadable as error:
        return complain("table", error)
    if args.markdown:
        print(_markdown(facts, rows))
    else:
        show(facts, rows, Console(highlight=False))
    return 0


def _markdown(facts: Environment, rows: Sequence[Result]) -> str:
    from benchmarks import model_tables, tables
    from benchmarks.claims import judge

    parts = []
    if tables.kernel_tables(rows):
        parts += [tables.kernel_markdown(rows), tables.markdown_notes(rows)]
    if tables.compiled_table(rows):
        parts.append(tables.compiled_markdown(rows))
    if verdicts := judge(rows):
        parts.append(tables.claims_markdown(verdicts))
    if model_tables.model_tables(rows):
        parts.append(model_tables.model_markdown(rows))
    return "\n\n".join([*(parts or [_no_table(rows)]), facts.summary()])


def _no_table(rows: Sequence[Result]) -> str:
    suites = ", ".join(dict.fromkeys(row.suite for row in rows))
    return f"Rows that no table has: {len(rows)}, of {suites}. Claims need both sides of a ratio."
