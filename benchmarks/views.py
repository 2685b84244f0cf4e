"""The tables and pictures of files of results, whatever they hold; ``table`` prints the tables."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks import display, environment, results
from benchmarks.arguments import add_files
from benchmarks.display import Table
from benchmarks.results import Results

if TYPE_CHECKING:  # it needs matplotlib, which tables do not
    from benchmarks.plots import Picture

DESCRIPTION = "Prints the tables of files that any other command wrote."
# Modules with tables(rows), and with pictures(rows), by what a file holds.
_MODULES = {
    "speed": ("speeds", "speed_plots"),
    "errors": ("accuracy.tables", "accuracy.plots"),
    "counts": ("sass.tables", None),
    "epochs": ("paper.tables", "paper.plots"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_files(parser)
    parser.add_argument("--markdown", action="store_true", help="as Markdown")


def run(args: argparse.Namespace) -> int:
    sources = results.read(args.csv)
    if args.markdown:
        print(markdown(sources))
    else:
        show(sources, Console(highlight=False))
    return 0


def tables(source: Results) -> list[Table]:
    """The tables of a file. Of those that share a note only the last has it."""
    module = importlib.import_module(f"benchmarks.{_MODULES[source.kind][0]}")
    found: list[Table] = module.tables(source.rows)
    if not found:
        title = f"No table shows these rows: {len(source.rows)} of {source.path}"
        found = [Table(title, source.rows[results.KINDS[source.kind].split()].map(str))]
    last = {table.note: table for table in found}
    return [table if last[table.note] is table else replace(table, note="") for table in found]


def pictures(source: Results) -> list[Picture]:
    name = _MODULES[source.kind][1]
    if name is None:
        return []
    found: list[Picture] = importlib.import_module(f"benchmarks.{name}").pictures(source.rows)
    return found


def show(sources: Sequence[Results], console: Console) -> None:
    for source in sources:
        display.show(tables(source), console)
        console.print(environment.summary(source.facts), markup=False)


def markdown(sources: Sequence[Results]) -> str:
    parts = []
    for source in sources:
        origin = display.plain(environment.summary(source.facts))
        parts += [display.markdown(tables(source)), origin]
    return "\n\n".join(parts)


def draw(source: Results, folder: Path, form: str = "png", prefix: str = "") -> list[Path]:
    """Write the pictures of a file; returns their paths."""
    from benchmarks import plots

    found = {folder / f"{prefix}{each.name}.{form}": each for each in pictures(source)}
    for path, picture in found.items():
        plots.save(picture, path, environment.summary(source.facts))
    return list(found)
