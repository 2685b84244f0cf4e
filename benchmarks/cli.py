"""The command line: what the commands are, and how each of them ends."""

from __future__ import annotations

import argparse
import importlib
import shlex
import sys
from collections.abc import Sequence

from benchmarks.arguments import INTERRUPTED, REFUSED, Refused

PROG = "python -m benchmarks"

# Each command is a module of that name or the one of _MODULES, with DESCRIPTION,
# add_arguments(parser) and run(args).
COMMANDS = {
    "run": "time mish_cuda beside its rivals; write a CSV file, print tables",
    "networks": "time training steps and inference of whole networks",
    "accuracy": "try the kernels on all numbers, and hold their errors to the bounds",
    "sass": "count the instructions of the CUDA kernels, and hold them to their budgets",
    "paper": "train the networks of the Mish paper with four activations",
    "smoke": "run every kernel of a GPU once, beside the CPU's bits",
    "variants": "time the CUDA kernels with other tiles, and print the fastest",
    "gpu": "build, time, test and prove on a GPU, into one folder",
    "table": "print files of results again",
    "plot": "draw files of results",
    "report": "make one HTML page of files of results",
    "compare": "say what got slower or faster between two files",
}
_MODULES = {
    **{name: f"{name}.command" for name in ("accuracy", "paper", "sass")},
    "table": "views",
}

EPILOG = """\
exit status of every command:
  0    all went well
  1    something failed: it could not be measured, breaks its bound or budget, or got slower
  2    an argument, a file or this machine is not what was expected, or a package is missing
  3    compare: nothing got slower, but a provider of the old file, or one asked for, has no row
       in both files
  130  Ctrl-C; what was measured is kept

MISH_CUDA_COMMIT, where set, is the commit in files of results: for a tree without .git, as in
MISH_CUDA_COMMIT=$(git describe --always --dirty)
"""


def main(argv: Sequence[str] | None = None) -> int:
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        import mish_cuda  # noqa: F401  # tells in a line what is wrong with torch
    except ImportError as error:
        return _refuse(PROG, str(error))
    overview = argparse.ArgumentParser(
        prog=PROG,
        usage=f"{PROG} COMMAND [options]",
        description="Everything that measures mish_cuda. `COMMAND --help` says more of each.\n\n"
        + "\n".join(f"  {name:<10}{what}" for name, what in COMMANDS.items()),
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    overview.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    name = overview.parse_args(argv[:1]).command
    prog = f"{PROG} {name}"
    try:
        module = importlib.import_module(f"benchmarks.{_MODULES.get(name, name)}")
        parser = argparse.ArgumentParser(
            prog=prog,
            description=module.DESCRIPTION,
            epilog=getattr(module, "EPILOG", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(parser)
        args = parser.parse_args(argv[1:])
        args.command = shlex.join([*PROG.split(), *argv])  # for the file of results
        return int(module.run(args))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "benchmarks", "mish_cuda", *sys.stdlib_module_names):
            raise
        pip = {"sklearn": "scikit-learn"}.get(package, package)
        return _refuse(prog, f"needs the Python package {package}: pip install {pip}")
    except Refused as refused:
        return _refuse(prog, str(refused))
    except OSError as error:
        what = error.filename or "the output"  # whose disk is full
        return _refuse(prog, f"{what}: {error.strerror or error}")
    except KeyboardInterrupt:
        print("Interrupted: what was measured is kept.", file=sys.stderr)
        return INTERRUPTED


def _refuse(prog: str, problems: str) -> int:
    for line in problems.splitlines():
        print(f"{prog}: {line}", file=sys.stderr)
    return REFUSED
