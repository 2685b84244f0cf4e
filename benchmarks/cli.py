"""The command line: each subcommand is a module of its own."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from benchmarks import compare, models, plot, report, run, table
from benchmarks.exits import watch
from benchmarks.sources import Unreadable

# What only some commands import, and only when they run.
_OPTIONAL = ("jinja2", "matplotlib", "numpy", "rich")

EPILOG = """\
exit status:
  0    all went well
  1    run, models: something could not be measured; compare: something got slower
  2    an argument or a file is not what was expected, or a package is missing
  3    compare: nothing got slower, but a provider has no row in both files
  130  Ctrl-C; what was measured is kept
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Benchmarks of mish_cuda. `COMMAND --help` says more of each.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for module in (run, models, table, compare, plot, report):
        module.add_to(commands)
    args = parser.parse_args(argv)
    args.command = shlex.join(["python", "-m", "benchmarks", *argv])  # for the file of results
    try:
        # `run` and `models` see to Ctrl-C themselves, but for while they draw their tables.
        return watch(lambda: args.function(args), parser.prog, _OPTIONAL, "bench")
    except (OSError, Unreadable) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
