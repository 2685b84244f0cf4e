"""The command line: compile, count, print tables, compare with the budgets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from build_config import BuildError
from sass import budgets, gpus, kernels, tables, toolchain

EXCEEDED, NO_COUNTS = 1, 2  # exit statuses


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sass",
        description="Counts the instructions of the CUDA kernels and compares them with their "
        "budgets. Needs nvcc, but no GPU.",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write all counts to FILE")
    args = parser.parse_args(argv)

    known = gpus.load()
    archs = sorted({gpu.arch for gpu in known}, key=int)
    try:
        tools = toolchain.find(archs)
        compiled = kernels.compile_all(tools, archs)
    except (BuildError, ValueError) as error:
        print(f"sass: {error}", file=sys.stderr)
        return NO_COUNTS

    print(f"nvcc {tools.toolkit.nvcc}\n\n{tables.NOTES}")
    for title, table in {
        "Instructions": tables.instructions(compiled),
        "Other counts, over all architectures": tables.other_counts(compiled),
        "Verdicts": tables.verdicts(compiled, known),
    }.items():
        print(f"\n{title}\n\n{table}")
    if args.csv:
        tables.write_csv(args.csv, compiled)
        print(f"\nData: {args.csv}")

    failures = budgets.exceeded(compiled, known)
    if failures:
        print("\nExceeded budgets:", *failures, sep="\n")
        return EXCEEDED
    print("\nEvery budget holds.")
    return 0
