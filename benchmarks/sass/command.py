"""``sass``: count the instructions of the CUDA kernels, and hold them to their budgets."""

from __future__ import annotations

import argparse

from rich.console import Console

from benchmarks import environment, results, views
from benchmarks.arguments import add_csv
from benchmarks.display import conclude
from benchmarks.sass import kernels
from benchmarks.sass.tables import judge
from build_config import DEFAULT_ARCHS

DESCRIPTION = """\
Compiles the CUDA kernels, disassembles them, counts the instructions of the vector
kernels and compares them with their budgets. Needs nvcc, but no GPU. The exit
status is 1 if a budget is exceeded.
"""
# The architectures that the budgets were set for. Not 11.0 too: the disassembler of the Triton that
# torch 2.11 installs does not know it.
ARCHS = [arch for arch in DEFAULT_ARCHS if arch not in ("7.5", "8.6", "11.0")]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_csv(parser, "build/sass.csv")


def run(args: argparse.Namespace) -> int:
    toolkit = kernels.find_toolkit(ARCHS)
    cuobjdump = kernels.find_disassembler(toolkit)
    facts = environment.without_kernels(f"nvcc {toolkit.nvcc}", args.command)
    rows = kernels.count_all(toolkit, cuobjdump, [arch.replace(".", "") for arch in ARCHS])
    with results.open_writer(args.csv, "counts", facts) as write:
        write(rows)
    (source,) = found = results.read([args.csv])
    console = Console(highlight=False)
    views.show(found, console)
    return conclude(judge(source.rows), "budgets", str(args.csv), console)
