"""Measured rows, and the CSV file that holds them."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, cast, get_args

from benchmarks.cells import DTYPES, LAYOUTS, Cell, Direction, Suite
from benchmarks.environment import REQUIRED, Environment


@dataclass(frozen=True)
class Timing:
    """Time of one call in seconds: median and spread over so many rounds."""

    rounds: int
    median: float
    p20: float
    p80: float


@dataclass(frozen=True)
class Result:
    """What was timed, for which table, and what came out.

    `peak_bytes` is the peak memory of a forward+backward or a training step, above what was
    allocated before it.
    """

    suite: str
    cell: Cell
    timing: Timing
    peak_bytes: int | None = None

    @property
    def gigabytes_per_second(self) -> float:
        """Bytes the call has to move, over its median time, in 1e9 bytes per second."""
        return self.cell.bytes / self.timing.median / 1e9


@dataclass(frozen=True)
class Failure:
    """Why a cell has no time."""

    cell: Cell
    reason: str  # as `describe` gives it

    @property
    def out_of_memory(self) -> bool:
        """Whether a smaller cell may do."""
        return self.reason.startswith("OutOfMemoryError") or "can't allocate" in self.reason


Measured = tuple[list[Result], list[Failure]]


class Interrupted(KeyboardInterrupt):
    """Ctrl-C after enough rounds: `kept` is what the function that raises it would have returned.

    Who does not catch it has a plain interruption.
    """

    def __init__(self, kept: Any) -> None:
        super().__init__()
        self.kept = kept


def describe(error: Exception) -> str:
    """The kind of an error, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


Write = Callable[[Iterable[Result]], None]


@contextmanager
def open_writer(path: Path, environment: Environment) -> Iterator[Write]:
    """A CSV file at `path`, and the function that adds rows to it; the first replace an older file.

    Rows reach the file at once, so that an interrupted run keeps what it measured.

    Raises:
        OSError: it cannot be written; at once, not after the measuring.
    """
    try:
        if not path.parent.exists():  # else mkdir would say of a file there that it exists
            path.parent.mkdir(parents=True, exist_ok=True)
        opened = path.open("a", newline="", encoding="utf-8")  # "w" would empty it at once
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"expected a file that can be written, got {path}: {reason}") from error
    with opened as file:
        table = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        older = file.tell() > 0
        if not older:
            table.writeheader()

        def write(results: Iterable[Result]) -> None:
            nonlocal older
            rows = [_to_row(result) | asdict(environment) for result in results]
            if older and rows:
                file.truncate(0)
                table.writeheader()
                older = False
            table.writerows(rows)
            file.flush()

        yield write


def read(path: Path) -> tuple[Environment | None, list[Result]]:
    """The rows of a CSV file and where they were measured (None if it has no rows).

    Raises:
        OSError: it cannot be read.
        ValueError: it has other columns, or a row of it does not parse.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        try:
            if reader.fieldnames is None:
                raise ValueError("it is empty")
            required = {*_MEASURED_COLUMNS, *REQUIRED} - _ADDED_COLUMNS
            if missing := required - set(reader.fieldnames):
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
            facts, found = None, []
            for row in reader:
                found.append(_from_row(row))
                facts = facts or Environment.from_row(row)
        except (ValueError, csv.Error) as error:
            line = f"line {reader.line_num}: " if reader.line_num > 1 else ""
            raise ValueError(
                f"{path} is no benchmark file, or a damaged one: {line}{error}"
            ) from error
    return facts, found


_MEASURED_COLUMNS = (
    "suite",
    "provider",
    "direction",
    "dtype",
    "shape",
    "numel",
    "layout",
    "threads",
    "rounds",
    "median_s",
    "p20_s",
    "p80_s",
    "bytes",
    "network",
    "peak_bytes",
)
_ADDED_COLUMNS = {"network", "peak_bytes"}  # since the first version: older files lack them
_COLUMNS = (*_MEASURED_COLUMNS, *(field.name for field in fields(Environment)))


def _to_row(result: Result) -> dict[str, object]:
    cell, timing = result.cell, result.timing
    return {
        "suite": result.suite,
        "provider": cell.provider,
        "direction": cell.direction,
        "dtype": cell.dtype,
        "shape": "x".join(map(str, cell.shape)),
        "numel": cell.numel,
        "layout": cell.layout,
        "threads": cell.threads,
        "rounds": timing.rounds,
        "median_s": f"{timing.median:.4e}",
        "p20_s": f"{timing.p20:.4e}",
        "p80_s": f"{timing.p80:.4e}",
        "bytes": cell.bytes,
        "network": cell.network,
        "peak_bytes": "" if result.peak_bytes is None else result.peak_bytes,
    }


_NAMES: dict[str, Collection[str]] = {
    "suite": get_args(Suite),
    "direction": get_args(Direction),
    "dtype": DTYPES,
    "layout": LAYOUTS,
}


def _from_row(row: Mapping[str, str]) -> Result:
    """The result, checked, so that no reader has to.

    Raises:
        ValueError: a text is not what belongs in its column.
    """
    if None in row or None in row.values():
        raise ValueError("expected a text for each column, got more or fewer")
    for column, known in _NAMES.items():
        if row[column] not in known:
            raise ValueError(f"expected one of {', '.join(known)} as {column}, got {row[column]}")
    cell = Cell(
        provider=row["provider"],
        direction=cast(Direction, row["direction"]),
        dtype=row["dtype"],
        shape=tuple(_whole(axis, "an axis of shape") for axis in row["shape"].split("x")),
        layout=row["layout"],
        threads=_whole(row["threads"], "threads"),
        network=row.get("network", ""),
    )
    _check_elements(cell, row)
    p20, median, p80 = (_seconds(row, column) for column in ("p20_s", "median_s", "p80_s"))
    if not p20 <= median <= p80:
        raise ValueError(f"expected p20_s <= median_s <= p80_s, got {p20}, {median}, {p80}")
    peak_bytes = row.get("peak_bytes")
    return Result(
        row["suite"],
        cell,
        Timing(_whole(row["rounds"], "rounds"), median, p20, p80),
        _whole(peak_bytes, "peak_bytes", least=0) if peak_bytes else None,
    )


def _whole(text: str, name: str, least: int = 1) -> int:
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"expected a whole number from {least} on as {name}, got {text}")
    return int(text)


def _seconds(row: Mapping[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"expected seconds above 0 as {column}, got {row[column]}")
    return value


def _check_elements(cell: Cell, row: Mapping[str, str]) -> None:
    try:
        elements = cell.numel
    except (IndexError, RuntimeError, TypeError):  # axes that the layout does not suit
        elements = 0
    if not elements or row["numel"] != str(elements):
        raise ValueError(
            f"expected a shape and its numel in the layout {cell.layout}, "
            f"got {row['shape']} and {row['numel']}"
        )
