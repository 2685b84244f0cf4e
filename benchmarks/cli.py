"""The command line: measure into a CSV file, or print such a file."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import environment, results, tables
from benchmarks.cells import DTYPES, KERNEL_SIZES, Group, compiled_groups, kernel_groups
from benchmarks.claims import claim_groups, judge
from benchmarks.timing import measure

DEFAULT_CSV = Path("mish_benchmark.csv")
INTERRUPTED = 130  # exit status of a program that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    if args.command == "table":
        return _table(args)
    return _run(args, shlex.join(["python", "-m", "benchmarks", *argv]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Microbenchmarks of mish_cuda."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser(
        "run",
        help="measure, write a CSV file, print tables",
        description="Times mish_cuda beside F.mish, naive Mish, F.silu, torch.relu and a copy.",
    )
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    run.add_argument(
        "--device",
        type=_device,
        default=default_device,
        help="cpu, cuda or cuda:N (default: %(default)s)",
    )
    run.add_argument(
        "--only",
        choices=("kernels", "compiled", "claims"),
        help="one of the tables; claims are about the CPU (default: all)",
    )
    run.add_argument(
        "--sizes",
        type=_positive,
        nargs="+",
        default=KERNEL_SIZES,
        metavar="N",
        help=f"elements, kernels table (default: {' '.join(map(str, KERNEL_SIZES))})",
    )
    run.add_argument(
        "--dtypes",
        choices=DTYPES,
        nargs="+",
        default=tuple(DTYPES),
        metavar="DTYPE",
        help=f"kernels table (default: {' '.join(DTYPES)})",
    )
    run.add_argument(
        "--threads",
        type=_positive,
        default=1,
        metavar="N",
        help="CPU threads, kernels table (default: %(default)s)",
    )
    run.add_argument(
        "--seconds",
        type=float,
        default=0.4,
        metavar="S",
        help="time for each group of cells timed in turn; large inputs take longer "
        "(default: %(default)s)",
    )
    run.add_argument(
        "--csv",
        type=Path,
        default=DEFAULT_CSV,
        metavar="FILE",
        help="file to write (default: %(default)s)",
    )

    table = commands.add_parser(
        "table", help="print a CSV file again", description="Prints what `run` wrote."
    )
    table.add_argument("csv", type=Path, metavar="FILE.csv")
    table.add_argument(
        "--markdown",
        action="store_true",
        help="the kernels at 65,536 and 1 M elements as a Markdown table",
    )
    return parser


def _device(text: str) -> str:
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise argparse.ArgumentTypeError(str(error).splitlines()[0]) from error
    return text


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def _run(args: argparse.Namespace, command: str) -> int:
    console = _console()
    facts = environment.collect(args.device, command)
    if facts.backend == "eager":
        console.print(
            f"mish_cuda has no kernels for {args.device} here (not built, or switched off): "
            "measuring its eager fallback."
        )
    status = 0
    with results.open_writer(args.csv, facts) as write:
        try:
            _measure_all(_groups(args), args, write, console)
        except KeyboardInterrupt:
            console.print("Interrupted: what was measured is kept.")
            status = INTERRUPTED
    _print_rows(*results.read(args.csv), console)
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


def _measure_all(
    groups: Sequence[Group], args: argparse.Namespace, write: results.Write, console: Console
) -> None:
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    # No auto-refresh: its thread would compete with what is being timed.
    with Progress(*columns, console=console, auto_refresh=False, transient=True) as progress:
        task = progress.add_task("", total=len(groups))
        for group in groups:
            cell = group.cells[0]
            size = tables.format_size(cell.numel)
            text = f"{group.suite}: {cell.direction}, {cell.dtype}, {size}"
            progress.update(task, description=text, refresh=True)
            write(measure(group, args.device, args.seconds))
            progress.advance(task)


def _table(args: argparse.Namespace) -> int:
    try:
        facts, rows = results.read(args.csv)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if not args.markdown:
        _print_rows(facts, rows, _console())
    elif facts is not None:
        parts = (
            tables.kernel_markdown(rows),
            tables.compiled_markdown(rows),
            facts.summary(),
            tables.kernel_notes(rows),
        )
        print(*parts, sep="\n\n")
    return 0


def _console() -> Console:
    return Console(highlight=False)


def _print_rows(
    facts: environment.Environment | None, rows: Sequence[results.Result], console: Console
) -> None:
    if facts is None:
        console.print("Nothing was measured.")
        return
    kernels = tables.kernel_tables(rows)
    for table in kernels:
        console.print(table)
    if kernels:
        console.print(tables.kernel_notes(rows), style="dim")
    if compiled := tables.compiled_table(rows):
        console.print(compiled)
    if verdicts := judge(rows):
        console.print(tables.claims_table(verdicts))
    console.print(facts.summary())
