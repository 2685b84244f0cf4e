"""``plot``: pictures of what files of results hold."""

from __future__ import annotations

import argparse

from benchmarks import plots, results, views  # noqa: F401  # a missing matplotlib is told at once
from benchmarks.arguments import Refused, add_files, add_path

DESCRIPTION = """\
Draws what the files hold the data for: an overview, speed-up over F.mish, GB/s over
size, peak memory, norm and Mish as one op, training steps of whole networks, errors
over x, accuracies of the paper's comparison. Says what is left out, and why. Of several
files, the names of the pictures begin with the file's.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_files(parser)
    add_path(parser, "--output", "mish_pictures", "where the pictures go", "FOLDER")
    forms = {"choices": ("png", "svg"), "default": "png"}
    parser.add_argument("--format", **forms, help="default: %(default)s")


def run(args: argparse.Namespace) -> int:
    sources = results.read(args.csv)
    drawn = False
    for source in sources:
        prefix = f"{source.name}-" if len(sources) > 1 else ""
        paths, missing = views.draw(source, args.output, args.format, prefix)
        print(*paths, *(f"Left out of {source.path}: {line}." for line in missing), sep="\n")
        drawn |= bool(paths)
    if not drawn:
        raise Refused("expected rows to draw, found none that suit")
    return 0
