"""Measured rows, and the CSV file that holds them."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import cast

from benchmarks.cells import DTYPES, LAYOUTS, Cell, Direction
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


def describe(error: Exception) -> str:
    """The kind of an error, and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]])


Write = Callable[[Iterable[Result]], None]


@contextmanager
def open_writer(path: Path, environment: Environment) -> Iterator[Write]:
    """A new CSV file at `path`, replacing an older one, and the function that adds rows to it.

    Rows reach the file at once, so that an interrupted run keeps what it measured.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        table.writeheader()

        def write(results: Iterable[Result]) -> None:
            table.writerows(_to_row(result) | asdict(environment) for result in results)
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
            required = {*_MEASURED_COLUMNS, *REQUIRED} - _ADDED_COLUMNS
            if missing := required - set(reader.fieldnames or ()):
                raise ValueError(f"it lacks {', '.join(sorted(missing))}")
            rows = list(reader)
            found = [_from_row(row) for row in rows]
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path} is no benchmark file, or a damaged one: {error}") from error
    return (Environment.from_row(rows[0]) if rows else None), found


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


def _from_row(row: dict[str, str]) -> Result:
    if None in row.values():
        raise ValueError("a row is too short")
    for column, known in (("dtype", DTYPES), ("layout", LAYOUTS)):
        if row[column] not in known:
            raise ValueError(f"expected one of {', '.join(known)} as {column}, got {row[column]}")
    cell = Cell(
        provider=row["provider"],
        direction=cast(Direction, row["direction"]),
        dtype=row["dtype"],
        shape=tuple(map(int, row["shape"].split("x"))),
        layout=row["layout"],
        threads=int(row["threads"]),
        network=row.get("network", ""),
    )
    timing = Timing(
        rounds=int(row["rounds"]),
        median=float(row["median_s"]),
        p20=float(row["p20_s"]),
        p80=float(row["p80_s"]),
    )
    if not 0 < timing.median < math.inf:
        raise ValueError(f"expected seconds as median_s, got {row['median_s']}")
    peak_bytes = row.get("peak_bytes")
    return Result(row["suite"], cell, timing, int(peak_bytes) if peak_bytes else None)
