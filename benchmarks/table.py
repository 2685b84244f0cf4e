"""``table``: print files of results again."""

from __future__ import annotations

import argparse
from dataclasses import replace

from benchmarks import results, views
from benchmarks.arguments import add_files, add_number

DESCRIPTION = "Prints the tables of files that any other command wrote."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_files(parser)
    parser.add_argument("--markdown", action="store_true", help="as Markdown")
    add_number(
        parser, "--sizes", nargs="+", help="of files of `run`, only rows of so many elements"
    )


def run(args: argparse.Namespace) -> int:
    sources = results.read(args.csv)
    for place, source in enumerate(sources):
        if args.sizes and source.kind == "speed":
            chosen = source.rows[source.rows.numel.isin(args.sizes)]
            sources[place] = replace(source, rows=chosen)
    if args.markdown:
        print(views.markdown(sources))
    else:
        views.show(sources)
    return 0
