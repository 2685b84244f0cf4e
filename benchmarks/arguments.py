"""Arguments that several commands take, what a command refuses, and the exit statuses."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

# As `--help` explains them.
FAILED, REFUSED, UNJUDGED, INTERRUPTED = 1, 2, 3, 130


class Refused(Exception):
    """A command cannot do its work; the message says why, line by line. Exit status 2."""


def add_device(parser: argparse.ArgumentParser, *flags: str) -> None:
    import torch

    usual = "cuda" if torch.cuda.is_available() else "cpu"
    help = "cpu, cuda, cuda:N or N, the number of a GPU (default: %(default)s)"
    parser.add_argument(*flags, "--device", type=device, default=usual, help=help)


def add_path(
    parser: argparse.ArgumentParser,
    flag: str,
    default: str | None,
    help: str,
    metavar: str = "FILE",
) -> None:
    """An option that takes a file or folder to write."""
    path = Path(default) if default else None
    help += " (default: %(default)s)" if default else ""
    parser.add_argument(flag, type=Path, default=path, metavar=metavar, help=help)


def add_csv(parser: argparse.ArgumentParser, default: str) -> None:
    add_path(parser, "--csv", default, "file to write, over an older one")


def add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("csv", type=Path, nargs="+", metavar="FILE.csv")


def add_number(
    parser: argparse._ActionsContainer,
    *flags: str,
    help: str,
    kind: Callable[[str], float] | None = None,
    default: float | str | None = None,
    **more: Any,
) -> None:
    """An option that takes a number: by default a whole one above 0."""
    if default is not None:
        help += f" (default: {default})"
    more |= {"type": kind or whole_number, "default": default, "metavar": "N", "help": help}
    parser.add_argument(*flags, **more)


def add_names(
    parser: argparse._ActionsContainer,
    flags: Sequence[str],
    among: Iterable[str],
    help: str = "",
    **more: Any,
) -> None:
    """An option that takes several of these names; None where it is not given."""
    names = tuple(among)
    help = help or f"{', '.join(map(repr, names))} (default: all)"
    parser.add_argument(*flags, choices=names, nargs="+", metavar="NAME", help=help, **more)


def device(text: str) -> str:
    """An argument that names the CPU, or a GPU that is here."""
    import torch

    name = f"cuda:{text}" if text.isdecimal() else text
    try:
        known = name == "cpu" or torch.empty(0, device=name).is_cuda
        assert known, f"expected cpu, cuda, cuda:N or N, got {text}"
    except (AssertionError, RuntimeError) as error:
        raise argparse.ArgumentTypeError(str(error).partition("\n")[0]) from None
    return name


def whole_number(text: str) -> int:
    """An argument that is above 0. argparse names the function if it raises a ValueError."""
    return int(_at_least(1, int(text)))


def number(text: str) -> float:
    """An argument from 0 on."""
    return _at_least(0, float(text))


def _at_least(least: float, value: float) -> float:
    if not least <= value < math.inf:
        raise ValueError(value)
    return value
