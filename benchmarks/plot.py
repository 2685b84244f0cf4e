"""``plot``: pictures of what CSV files of results hold."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots, sources
from benchmarks.arguments import positive
from benchmarks.plots import Picture
from benchmarks.sources import Source, Unreadable, complain

DEFAULT_FOLDER = Path("mish_pictures")


def add_to(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "plot",
        help="draw pictures of CSV files",
        description="Draws what the files hold the data for: GB/s over size, speed-up over F.mish, "
        "peak memory, training steps of whole networks, errors over x (of a file of "
        "`python -m accuracy`), and an overview. Says what is left out, and why. Of several files, "
        "the names of the pictures begin with the file's.",
    )
    parser.add_argument("csv", type=Path, nargs="+", metavar="FILE.csv")
    parser.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_FOLDER,
        metavar="FOLDER",
        help="where the pictures go (default: %(default)s)",
    )
    parser.add_argument(
        "--format", choices=("png", "svg"), default="png", help="default: %(default)s"
    )
    parser.add_argument(
        "--sizes",
        type=positive,
        nargs="+",
        default=plots.SIZES,
        metavar="N",
        help="elements, of the speed-up bars; if none of them was measured, the largest that was "
        f"(default: {' '.join(map(str, plots.SIZES))})",
    )
    parser.set_defaults(function=_plot)


def draw(source: Source, sizes: Sequence[int] = plots.SIZES) -> tuple[list[Picture], list[str]]:
    """The pictures of a file but the overview, and which kinds are missing and why."""
    if not source.errors:
        return plots.draw(source.speeds, sizes)
    from accuracy.plots import pictures

    drawn = pictures(source.errors)
    return drawn, [] if drawn else ["error over x: no rows of mish_cuda in fp32"]


def _plot(args: argparse.Namespace) -> int:
    try:
        found = sources.read(args.csv)
    except Unreadable as error:
        return complain("plot", error)
    drawn = 0
    for source in found:
        prefix = f"{source.name}-" if len(found) > 1 else ""
        pictures, missing = draw(source, args.sizes)
        for picture in [*plots.overview(source.speeds, args.sizes), *pictures]:
            path = args.output / f"{prefix}{picture.name}.{args.format}"
            plots.sign(picture, source.facts.summary())
            try:
                args.output.mkdir(parents=True, exist_ok=True)
                plots.save(picture, path)
            except OSError as error:
                return complain("plot", f"{path} cannot be written: {error.strerror}")
            print(path)
            drawn += 1
        for line in missing:
            print(f"Left out of {source.path}: {line}.")
    if not any(source.errors for source in found):
        print("Left out: error over x, which files of `python -m accuracy run` hold.")
    return 0 if drawn else complain("plot", "expected rows to draw, found none that suit")
