"""Files of results, of speed and of accuracy, for the commands that show them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import results
from benchmarks.environment import Environment
from benchmarks.results import Result

if TYPE_CHECKING:
    from accuracy.results import Row


@dataclass(frozen=True)
class Source:
    """A file, a name that tells it from the others, and what it holds: `speeds` or `errors`."""

    path: Path
    name: str
    facts: Environment
    speeds: list[Result]
    errors: list[Row]


class Unreadable(Exception):
    """Files that cannot be shown; a line on each."""


def read(paths: Sequence[Path]) -> list[Source]:
    """The files in their order, each once.

    Raises:
        Unreadable: a file cannot be read, is none of ours, or holds no rows.
    """
    paths = list({path.absolute(): path for path in paths}.values())
    sources, problems = [], []
    for path, name in zip(paths, _names(paths), strict=True):
        try:
            sources.append(_read(path, name))
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}")
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise Unreadable("\n".join(problems))
    return sources


def speeds(path: Path) -> tuple[Environment, list[Result]]:
    """Where a file of `run` or `models` was measured, and its rows.

    Raises:
        Unreadable: as `read`, or it is a file of `python -m accuracy`.
    """
    (source,) = read([path])
    if source.errors:
        raise Unreadable(
            f"{path} is a file of `python -m accuracy`, expected one of `run` or `models`. "
            "Show it with `python -m accuracy table`, `plot` or `report`."
        )
    return source.facts, source.speeds


def complain(command: str, problems: object) -> int:
    """Print what keeps a command from its work, line by line, and return the exit status."""
    for line in str(problems).splitlines():
        print(f"python -m benchmarks {command}: {line}", file=sys.stderr)
    return 2


def _read(path: Path, name: str) -> Source:
    with path.open("rb") as file:
        is_accuracy = file.read(9) == b"# device:"  # its facts stand above the table
    if not is_accuracy:
        facts, speeds = results.read(path)
        if facts is None:
            raise ValueError(f"{path} holds no rows: nothing was measured")
        return Source(path, name, facts, speeds, [])
    from accuracy import results as accuracy_results

    facts, errors = accuracy_results.read(path)
    if not errors:
        raise ValueError(f"{path} holds no rows: nothing was measured")
    return Source(path, name, facts, [], errors)


def _names(paths: Sequence[Path]) -> list[str]:
    """The names of the files, with as many of their folders as it takes to tell them apart."""
    parts = [path.absolute().with_suffix("").parts[1:] for path in paths]
    names: list[str] = []
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["-".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names
