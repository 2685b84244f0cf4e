"""``plot``: pictures of what files of results hold."""

from __future__ import annotations

import argparse

from benchmarks import plots, results, views  # noqa: F401  # a missing matplotlib is told at once
from benchmarks.arguments import Refused, add_files, add_path

DESCRIPTION = """\
Draws what the files hold the data for: an overview, speed-up over F.mish, GB/s over
size, peak memory, norm and Mish as one op, training steps of whole networks, errors
over x, accuracies of the paper's comparison. Of several files, the names of the
pictures begin with the file's.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_files(parser)
    add_path(parser, "--output", "mish_pictures", "where the pictures go", "FOLDER")
    what = "default: %(default)s"
    parser.add_argument("--format", choices=("png", "svg"), default="png", help=what)


def run(args: argparse.Namespace) -> int:
    sources = results.read(args.csv)
    paths = []
    for source in sources:
        prefix = f"{source.name}-" if len(sources) > 1 else ""
        paths += views.draw(source, args.output, args.format, prefix)
    if not paths:
        raise Refused("expected rows to draw, found none that suit")
    print(*paths, sep="\n")
    return 0
