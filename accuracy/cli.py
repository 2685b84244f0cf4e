"""The command line: measure into a CSV file, or print such a file."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from accuracy import paths, plan, plots, results, tables
from accuracy.sweep import workers
from accuracy.verdicts import judge
from benchmarks import environment

DEFAULT_CSV = Path("mish_accuracy.csv")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    if args.command == "table":
        return _table(args)
    return _run(args, shlex.join(["python", "-m", "accuracy", *argv]))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m accuracy", description="Errors of f, f' and f'' on this CPU."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser(
        "run",
        help="measure, write a CSV file and a plot, print tables",
        description="Tries every number of fp32, fp16 and bf16 and a sample of fp64, in the "
        "kernels of each instruction set. The exit status is 1 if a bound is not kept.",
    )
    run.add_argument(
        "--limit",
        type=_positive,
        metavar="N",
        help="try at most N numbers of each interval of x (default: all; of fp64 "
        f"{plan.LIMIT_FP64:,}; of fp32 in F.mish {plan.LIMIT_NATIVE:,})",
    )
    run.add_argument(
        "--csv",
        type=Path,
        default=DEFAULT_CSV,
        metavar="FILE.csv",
        help="file to write; the plot gets its name with .png (default: %(default)s)",
    )

    table = commands.add_parser(
        "table", help="print a CSV file again", description="Prints and plots what `run` wrote."
    )
    table.add_argument("csv", type=Path, metavar="FILE.csv")
    table.add_argument("--markdown", action="store_true", help="as a Markdown table; no plot")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return value


def _run(args: argparse.Namespace, command: str) -> int:
    if not paths.LIBRARY.exists():
        print(f"{paths.LIBRARY} is not built. Run: make accuracy", file=sys.stderr)
        return 1
    console = Console(highlight=False)
    facts = environment.collect("cpu", command)
    columns = (
        BarColumn(),
        TextColumn("{task.percentage:.0f}%"),
        *(TimeElapsedColumn(), TimeRemainingColumn()),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as progress, workers() as pool:
        rows = plan.Run(progress, args.limit, pool.map).rows()
    results.write(args.csv, facts, rows)
    ok = _print(*results.read(args.csv), console)
    console.print(f"Data: {args.csv}, {_plot(args.csv, facts, rows)}")
    return 0 if ok else 1


def _table(args: argparse.Namespace) -> int:
    try:
        facts, rows = results.read(args.csv)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    if args.markdown:
        print(tables.error_markdown(judge(rows)), facts.summary(), tables.NOTES, sep="\n\n")
    else:
        _print(facts, rows, Console(highlight=False))
        _plot(args.csv, facts, rows)
    return 0


def _print(facts: environment.Environment, rows: Sequence[results.Row], console: Console) -> bool:
    """Prints the tables; whether all bounds are kept."""
    verdicts = judge(rows)
    for table in tables.error_tables(verdicts):
        console.print(table)
    console.print(tables.NOTES, style="dim")
    console.print(tables.agreement_table(verdicts))
    console.print(facts.summary())
    broken = sum(verdict.required and not verdict.ok for verdict in verdicts)
    console.print(f"{broken} bounds are not kept." if broken else "All bounds are kept.")
    return broken == 0


def _plot(csv: Path, facts: environment.Environment, rows: Sequence[results.Row]) -> Path:
    path = csv.with_suffix(".png")
    plots.draw(facts, rows, path)
    return path
