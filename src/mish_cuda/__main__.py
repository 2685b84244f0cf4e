"""``python -m mish_cuda``: what is installed, what runs, and whether it is right."""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
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
    "self_check": "Self-check: largest errors, as shares of what is allowed",
    "benchmark": "Rough benchmark: 65,536 elements, one thread, in microseconds",
    "advice": "What to do",
}
WIDTH = 80
INTERRUPTED = 130  # exit status of a program that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return its exit status."""
    args = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of paths in another encoding
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
        description="Tells what is installed, what runs, and whether it is right.\n"
        "Exit status: 0 when the self-check passes, 1 when it fails.",
        epilog=diagnostics.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def render(name: str, facts: Facts) -> str:
    """A part as text; what is null is left out."""
    facts = {key: value for key, value in facts.items() if value not in (None, [])}
    width = max(map(len, facts), default=0)
    lines: list[str] = []
    for key, value in facts.items():
        if key == "to_do":
            for advice in value:
                lines += [f"  {advice['text']}", *_command(advice["command"] or "")]
        elif isinstance(value, list) and isinstance(value[0], dict):
            lines += _table(value)
        else:
            for item in value if isinstance(value, list) else [value]:
                lines += _wrap(_text(item), f"  {key:<{width}}  ")
    return "\n".join([TITLES[name], *(lines or ["  none"]), ""])


def _wrap(text: str, first: str) -> list[str]:
    """Lines of `text`, the first of them behind `first`, the others below it."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_on_hyphens=False,
    )


def _command(command: str) -> list[str]:
    """Lines that a shell takes as one command."""
    lines = textwrap.wrap(command, WIDTH - 8, break_on_hyphens=False, break_long_words=False)
    return [f"    {line} \\" for line in lines[:-1]] + [f"    {line}" for line in lines[-1:]]


def _table(rows: list[Facts]) -> list[str]:
    """Rows with the same keys, which stand above them."""
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


if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader like head ends this quietly
    if sys.stderr is not None:
        faulthandler.enable()  # a kernel that kills the process leaves a trace
    sys.exit(main())
