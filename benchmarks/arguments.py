"""Arguments that several commands take, what a command refuses, and the exit statuses."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

# As `--help` explains them.
FAILED, REFUSED, UNJUDGED, INTERRUPTED = 1, 2, 3, 130


class Refused(Exception):
    """A command cannot do its work; the message says why, line by line. Exit status 2."""


def add_device(parser: argparse.ArgumentParser, *flags: str) -> None:
    """The option --device."""
    parser.add_argument(
        *flags,
        "--device",
        type=device,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda, cuda:N or N, the number of a GPU (default: %(default)s)",
    )


def add_csv(parser: argparse.ArgumentParser, default: str) -> None:
    """The option --csv."""
    parser.add_argument(
        "--csv",
        type=Path,
        default=Path(default),
        metavar="FILE",
        help="file to write, over an older one (default: %(default)s)",
    )


def add_files(parser: argparse.ArgumentParser) -> None:
    """The files of results to read."""
    parser.add_argument("csv", type=Path, nargs="+", metavar="FILE.csv")


def add_number(
    parser: argparse._ActionsContainer,
    *flags: str,
    help: str,
    kind: Callable[[str], float] | None = None,
    default: float | None = None,
    **more: Any,
) -> None:
    """An option that takes a number: by default a whole one above 0."""
    if default is not None:
        help += f" (default: {default})"
    more |= {"type": kind or positive, "default": default, "metavar": "N", "help": help}
    parser.add_argument(*flags, **more)


def add_names(
    parser: argparse._ActionsContainer, flag: str, among: Iterable[str], help: str = ""
) -> None:
    """An option that takes several of these names; None where it is not given."""
    names = tuple(among)
    help = help or f"{', '.join(map(repr, names))} (default: all)"
    parser.add_argument(flag, choices=names, nargs="+", metavar="NAME", help=help)


def device(text: str) -> str:
    """An argument that names the CPU, or a GPU that is here."""
    name = f"cuda:{text}" if text.isdecimal() else text
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise argparse.ArgumentTypeError(f"expected cpu, cuda, cuda:N or N, got {text}")
    if name != "cpu":
        count = torch.cuda.device_count()
        if not count:
            # In one line, without the usage that argparse prints before an error of its own.
            raise Refused(f"expected a GPU for {text}, but torch {torch.__version__} sees none")
        if int(name.partition(":")[2] or 0) >= count:
            raise argparse.ArgumentTypeError(f"expected one of {count} GPUs, got {text}")
    return name


def _number(
    expected: str, fits: Callable[[float], bool], kind: Callable[[float], float] = float
) -> Callable[[str], float]:
    """The type of an argument that is a finite number."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (fits(value) and value < math.inf):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")
        return kind(value)

    return parse


positive = _number("a whole number above 0", lambda value: value > 0 and value % 1 == 0, int)
rate = _number("a number above 0", lambda value: value > 0)
seconds = _number("seconds", lambda value: value >= 0)
_share = _number("a percentage, as 10", lambda value: value >= 0, lambda value: value / 100)


def percent(text: str) -> float:
    """An argument that is a percentage, as a share."""
    return _share(text.removesuffix("%"))
