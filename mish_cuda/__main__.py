"""``python -m mish_cuda``: what is installed, what runs, and whether its results are right."""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from . import diagnostics
from .diagnostics import Facts

TITLES = {
    "versions": "Versions",
    "paths": "Paths",
    "build": "Build",
    "extension": "Compiled extension",
    "cpu": "CPU",
    "cuda": "CUDA",
    "devices": "What runs on each device, as mish_cuda.backend() calls it",
    "environment": "Environment variables",
    "self_check": "Self-check: largest errors, as shares of their bounds",
}
WIDTH = 80
# Exit statuses, besides those of the self-check.
UNWRITTEN = 2
INTERRUPTED = 130  # as of any program that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of paths in another encoding
    args = _parser().parse_args(argv)
    known: dict[str, Facts] = {}
    try:
        for name, facts in diagnostics.diagnose():
            known[name] = facts
            if not args.json:
                print(render(name, facts), flush=True)
    except KeyboardInterrupt:
        return INTERRUPTED
    if args.json:
        print(json.dumps(known, indent=2))
    return 0 if known["self_check"].get("passed") else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mish_cuda",
        description="Shows what is installed, what runs, and whether its results are right.\n"
        "Exit status: 0 when the self-check passes, 1 when it fails, 2 when an option is\n"
        "unknown or the output cannot be written.",
        epilog=diagnostics.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def render(name: str, facts: Facts) -> str:
    """A part as text, without null facts."""
    facts = {key: value for key, value in facts.items() if value not in (None, [])}
    width = max(map(len, facts), default=0)
    lines: list[str] = []
    for key, value in facts.items():
        if isinstance(value, list) and isinstance(value[0], dict):
            lines += _table(value)
        else:
            for item in value if isinstance(value, list) else [value]:
                lines += _wrap(_text(item), f"  {key:<{width}}  ")
    return "\n".join([TITLES[name], *(lines or ["  none"]), ""])


def _wrap(text: str, first: str) -> list[str]:
    """Lines of `text`; the first begins with `first`, the others are indented by its length."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_on_hyphens=False,
    )


def _table(rows: list[Facts]) -> list[str]:
    """Rows with the same keys, as a table with the keys as header."""
    columns = [[key, *(_text(row[key]) for row in rows)] for key in rows[0]]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for cells in zip(*columns, strict=True):
        line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        lines += _wrap(line.rstrip(), "  ")
    return lines


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}"
    return "-" if value is None else str(value)


def _run() -> int:
    """Runs `main`; if the output cannot be written, as to a full disk, prints one line instead."""
    try:
        try:
            return main()
        finally:  # of --help too
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        print(f"python -m mish_cuda: cannot write the output: {error.strerror}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left in the buffer
        return UNWRITTEN


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader like head ends this quietly
    if sys.stderr is not None:
        faulthandler.enable()  # a kernel that kills the process leaves a trace
    sys.exit(_run())
