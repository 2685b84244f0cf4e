"""Measured rows, and the CSV file that holds them."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from accuracy.errors import Errors
from accuracy.formats import FORMATS
from benchmarks.environment import REQUIRED, Environment


@dataclass(frozen=True)
class Row:
    """The errors of one path in one function, over the numbers low < x <= high of a format, or over
    infinities and NaN if both are NaN."""

    function: str
    path: str
    dtype: str
    reference: str
    low: float
    high: float
    numbers: int  # there are, of which errors.tried were tried
    errors: Errors


def write(path: Path, environment: Environment, rows: Iterable[Row]) -> None:
    """A new CSV file; the environment stands above the table in lines that start with #."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in asdict(environment).items())
        table = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(map(_to_text, rows))


def read(path: Path) -> tuple[Environment, list[Row]]:
    """What `write` wrote.

    Raises:
        OSError: it cannot be read.
        ValueError: it has other columns, or a row of it does not parse.
    """
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(file)
    facts = list(itertools.takewhile(lambda line: line.startswith("#"), lines))
    known = dict(line[2:].rstrip("\n").split(": ", 1) for line in facts if ": " in line)
    reader = csv.DictReader(lines[len(facts) :])
    try:
        if missing := {*_COLUMNS, *REQUIRED} - {*(reader.fieldnames or ()), *known}:
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
        return Environment.from_row(known), [_from_text(row) for row in reader]
    except (ValueError, TypeError, csv.Error) as error:  # TypeError: a row too short
        raise ValueError(f"{path} is no accuracy file, or a damaged one: {error}") from error


_KEYS = ("function", "path", "dtype", "reference")
_COLUMNS = (*_KEYS, "low", "high", "numbers", *(field.name for field in fields(Errors)))
_DIGITS = {number_format.name: number_format.digits for number_format in FORMATS}


def _to_text(row: Row) -> dict[str, object]:
    errors = row.errors
    digits = _DIGITS[row.dtype]
    return {
        **{key: getattr(row, key) for key in _KEYS},
        "low": f"{row.low:.{digits}g}",
        "high": f"{row.high:.{digits}g}",
        "numbers": row.numbers,
        "tried": errors.tried,
        "ulp": f"{errors.ulp:.6g}",
        "ulp_at": f"{errors.ulp_at:.{digits}g}",
        "absolute": f"{errors.absolute:.6g}",
        "absolute_at": f"{errors.absolute_at:.{digits}g}",
        "correct": errors.correct,
    }


def _from_text(row: dict[str, str]) -> Row:
    return Row(
        function=row["function"],
        path=row["path"],
        dtype=row["dtype"],
        reference=row["reference"],
        low=float(row["low"]),
        high=float(row["high"]),
        numbers=int(row["numbers"]),
        errors=Errors(
            tried=int(row["tried"]),
            ulp=float(row["ulp"]),
            ulp_at=float(row["ulp_at"]),
            absolute=float(row["absolute"]),
            absolute_at=float(row["absolute_at"]),
            correct=int(row["correct"]),
        ),
    )
