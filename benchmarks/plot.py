"""``plot``: pictures of what files of results hold."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks import environment, plots, results, views
from benchmarks.arguments import Refused, add_files, add_number
from benchmarks.results import Results

DESCRIPTION = """\
Draws what the files hold the data for: an overview, speed-up over F.mish, GB/s over
size, peak memory, norm and Mish as one op, training steps of whole networks, errors
over x, accuracies of the paper's comparison. Says what is left out, and why. Of several
files, the names of the pictures begin with the file's.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_files(parser)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("mish_pictures"),
        metavar="FOLDER",
        help="where the pictures go (default: %(default)s)",
    )
    parser.add_argument(
        "--format", choices=("png", "svg"), default="png", help="default: %(default)s"
    )
    what = "elements, of the speed-up bars; if none of them was measured, the largest that was"
    add_number(parser, "--sizes", nargs="+", help=what)


def run(args: argparse.Namespace) -> int:
    sources = results.read(args.csv)
    drawn = False
    for source in sources:
        prefix = f"{source.name}-" if len(sources) > 1 else ""
        paths, missing = draw(source, args.output, args.format, prefix, args.sizes)
        for path in paths:
            print(path)
        for line in missing:
            print(f"Left out of {source.path}: {line}.")
        drawn |= bool(paths)
    if not drawn:
        raise Refused("expected rows to draw, found none that suit")
    return 0


def draw(
    source: Results,
    folder: Path,
    form: str = "png",
    prefix: str = "",
    sizes: Sequence[int] | None = None,
) -> tuple[list[Path], list[str]]:
    """Writes the pictures of a file and returns their paths, and what is left out and why."""
    found, missing = views.pictures(source, sizes)
    paths = []
    for picture in found:
        plots.sign(picture, environment.summary(source.facts))
        paths.append(folder / f"{prefix}{picture.name}.{form}")
        plots.save(picture, paths[-1])
    return paths, missing
