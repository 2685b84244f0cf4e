"""``run``: measure into a CSV file and print its tables."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment
from benchmarks.cells import DTYPES, KERNEL_SIZES, Group, compiled_groups, kernel_groups
from benchmarks.claims import claim_groups
from benchmarks.measure import measure

DEFAULT_CSV = Path("mish_benchmark.csv")


def add_to(commands: Any) -> None:
    """Register the command with argparse's subparsers."""
    parser = commands.add_parser(
        "run",
        help="measure, write a CSV file, print tables",
        description="Times mish_cuda beside F.mish, naive Mish, F.silu, torch.relu and a copy.",
    )
    parser.add_argument(
        "--device",
        type=device,
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="cpu, cuda or cuda:N (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        choices=("kernels", "compiled", "claims"),
        help="one of the tables; claims are about the CPU (default: all)",
    )
    parser.add_argument(
        "--sizes",
        type=positive,
        nargs="+",
        default=KERNEL_SIZES,
        metavar="N",
        help=f"elements, kernels table (default: {' '.join(map(str, KERNEL_SIZES))})",
    )
    parser.add_argument(
        "--dtypes",
        choices=DTYPES,
        nargs="+",
        default=tuple(DTYPES),
        metavar="DTYPE",
        help=f"kernels table (default: {' '.join(DTYPES)})",
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=1,
        metavar="N",
        help="CPU threads, kernels table (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.4,
        metavar="S",
        help="time for each group of cells timed in turn; large inputs take longer "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--csv",
        type=Path,
        default=DEFAULT_CSV,
        metavar="FILE",
        help="file to write (default: %(default)s)",
    )
    parser.set_defaults(function=_run)


def device(text: str) -> str:
    """An argument that names a device which is here."""
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise argparse.ArgumentTypeError(str(error).splitlines()[0]) from error
    return text


def positive(text: str) -> int:
    """An argument that is a whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def _run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from benchmarks import table, tables
    from benchmarks.recording import record

    console = Console(highlight=False)
    facts = environment.collect(args.device, args.command)
    if facts.backend == "eager":
        console.print(
            f"mish_cuda has no kernels for {args.device} here (not built, or switched off): "
            "measuring its eager fallback."
        )
    steps = [
        (tables.group_title(group), partial(measure, group, args.device, args.seconds))
        for group in _groups(args)
    ]
    status = record(steps, args.csv, facts, console)
    table.show(args.csv, console)
    console.print(f"Data: {args.csv}")
    return status


def _groups(args: argparse.Namespace) -> list[Group]:
    groups = []
    if args.only in (None, "kernels"):
        groups += kernel_groups(args.sizes, args.dtypes, args.threads)
    if args.only in (None, "compiled"):
        groups += compiled_groups()
    if args.only in (None, "claims") and torch.device(args.device).type == "cpu":
        groups += claim_groups()
    return groups
