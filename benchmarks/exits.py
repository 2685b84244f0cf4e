"""How a program of this suite ends: its exit status, and what it says of what stopped it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection

INTERRUPTED = 130  # exit status of a program that Ctrl-C ended


def watch(
    work: Callable[[], int],
    prog: str,
    optional: Collection[str],
    extra: str,
    interrupted: str = "Interrupted.",
) -> int:
    """The exit status of `work`, of Ctrl-C, or of a Python package that is missing.

    `extra` is that of pyproject.toml which brings the packages `optional`. If another is missing,
    that is an error of ours, and raised.
    """
    try:
        return work()
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in optional:
            raise
        print(
            f"{prog}: expected the Python package {name}, which is not installed. "
            f"It comes with the extra {extra}: pip install --no-build-isolation -e '.[{extra}]'",
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return INTERRUPTED
