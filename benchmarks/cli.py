"""The command line: each subcommand is a module of its own."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from benchmarks import compare, models, plot, report, run, table
from benchmarks.recording import INTERRUPTED

# What only some commands import, and only when they run.
_OPTIONAL = ("jinja2", "matplotlib", "numpy", "rich")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Benchmarks of mish_cuda. `COMMAND --help` says more of each.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (run, models, table, compare, plot, report):
        module.add_to(commands)
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", "-m", "benchmarks", *argv])  # for the file of results
    try:
        status: int = args.function(args)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in _OPTIONAL:
            raise
        print(
            f"{parser.prog}: expected the Python package {name}, which is not installed. "
            "It comes with the extra bench: pip install --no-build-isolation -e '.[bench]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:  # while drawing: `run` and `models` see to their own
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return status
