"""The one format of all files of results: CSV, a row for each thing measured, with its environment.

A file holds rows of one kind: "speed" (of `run`, `networks`), "errors" (of `accuracy`), "counts"
(of `sass`) or "epochs" (of `paper`).
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import environment
from benchmarks.arguments import Refused
from benchmarks.cases import DTYPES, shape_of

# The columns of each kind of file, in their order, before those of the environment.
KINDS = {
    "speed": "suite network provider direction dtype shape numel layout threads rounds "
    "median_s p20_s p80_s bytes peak_bytes",
    "errors": "function implementation dtype reference low high numbers tried ulp ulp_at "
    "absolute absolute_at correct",
    "counts": "arch direction dtype formula elements registers spill_bytes checks branches "
    "local_accesses stored_elements late_loads access_bits instructions_least "
    "instructions_most mufu_least mufu_most",
    "epochs": "dataset activation seed epoch train_loss test_accuracy seconds epochs width "
    "batch_size threads learning_rate",
}
_TEXTS = (
    *("suite", "network", "provider", "direction", "dtype", "shape", "layout", "function"),
    *("implementation", "reference", "arch", "formula", "dataset", "activation", "access_bits"),
)
# The numbers that a row may lack. Of a training that diverged the loss is nan.
_OPTIONAL = ("peak_bytes", "low", "high", "ulp_at", "absolute_at", "train_loss")


@dataclass(frozen=True)
class Results:
    """A file: a name that tells it from others, its kind, its first row's environment, its rows."""

    path: Path
    name: str
    kind: str
    facts: dict[str, str]
    rows: pd.DataFrame


def columns(kind: str) -> list[str]:
    return [*KINDS[kind].split(), *environment.NAMES]


def read(paths: Sequence[Path], kind: str | None = None) -> list[Results]:
    """The files in their order, each once.

    Raises:
        OSError: a file cannot be read.
        Refused: it is damaged, holds no rows, or not those of `kind`.
    """
    paths = list({path.absolute(): path for path in paths}.values())
    # As many folders as it takes to tell the names apart.
    parts = [path.absolute().with_suffix("").parts[1:] for path in paths]
    depth = next((d for d in range(1, 99) if len({p[-d:] for p in parts}) == len(parts)), 99)
    return [_read(path, "-".join(p[-depth:]), kind) for path, p in zip(paths, parts, strict=True)]


@contextmanager
def open_writer(
    path: Path, kind: str, facts: Mapping[str, str]
) -> Iterator[Callable[[Iterable[Mapping[str, Any]]], None]]:
    """A file at `path`, and the function that adds rows to it; the first replace an older file.

    Rows reach the file at once, so that an interrupted run keeps what it measured.

    Raises:
        OSError: it cannot be written; at once, not after the measuring.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:  # "w" would empty it at once
        table = csv.DictWriter(file, columns(kind), lineterminator="\n")
        begun = False

        def write(rows: Iterable[Mapping[str, Any]]) -> None:
            nonlocal begun
            rows = [{**row, **facts} for row in rows]
            if rows and not begun:
                file.truncate(0)
                table.writeheader()
                begun = True
            table.writerows(rows)
            file.flush()

        yield write


def parse(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Texts as the numbers that they stand for; an empty one as NaN.

    Raises:
        ValueError: a text is not what belongs in its column.
    """
    numbers = {}
    for name in KINDS[kind].split():
        if name not in _TEXTS:
            numbers[name] = pd.to_numeric(frame[name], errors="coerce")
            lacking = frame[name].isin(("", "nan")) & (name in _OPTIONAL)
            least = -math.inf if name in _OPTIONAL else 0
            wrong = (~(numbers[name] >= least) & ~lacking).to_numpy()
            if wrong.any():
                place = wrong.argmax()
                got = frame[name].iloc[place]
                raise ValueError(f"line {place + 2}: expected a number as {name}, got {got!r}")
    for name, check in {"dtype": list(DTYPES).index, "shape": shape_of}.items():
        frame.get(name, pd.Series(dtype=str)).map(check)  # raises
    return frame.assign(**numbers)


def _read(path: Path, name: str, kind: str | None) -> Results:
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        lacking = {k: [c for c in columns(k) if c not in frame] for k in KINDS}
        found = min(KINDS, key=lambda k: len(lacking[k]))
        if lacking[found]:
            raise ValueError(f"it lacks the columns {', '.join(lacking[found])}")
        rows = parse(frame, found)
        if (rows.date == "").any():  # a late column that is never empty
            raise ValueError("a line is cut off")
    except ValueError as error:
        raise Refused(f"{path} is no file of results, or a damaged one: {error}") from error
    if found != (kind or found):
        raise Refused(f"{path} holds {found}, expected a file of {kind}")
    if rows.empty:
        raise Refused(f"{path} holds no rows: nothing was measured")
    return Results(path, name, found, rows[list(environment.NAMES)].iloc[0].to_dict(), rows)
