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
from benchmarks.cases import DIRECTIONS, DTYPES, LAYOUTS, SUITES


@dataclass(frozen=True)
class Column:
    """The contents of a column in words, and a check of its values: texts, or numbers.

    As a number an empty text is NaN.
    """

    expected: str
    fits: Callable[[pd.Series], pd.Series]
    numeric: bool = True


def _one_of(*names: str) -> Column:
    return Column(f"one of {', '.join(names)}", lambda texts: texts.isin(names), numeric=False)


def _whole(least: int) -> Column:
    expected = f"a whole number from {least} on"
    return Column(expected, lambda v: (v >= least) & (v % 1 == 0))


def _all(names: str, column: Column) -> dict[str, Column]:
    """The same for each of these names."""
    return dict.fromkeys(names.split(), column)


TEXT = Column("a text", lambda texts: texts.notna(), numeric=False)
SHAPE = Column(
    "axes of 1 and more, as 8x64x32x32",
    lambda texts: texts.str.fullmatch(r"[1-9]\d*(x[1-9]\d*)*"),
    numeric=False,
)
ABOVE_0 = Column("a number above 0", lambda v: (v > 0) & (v < math.inf))
FROM_0 = Column("a number from 0 on", lambda v: v >= 0)
NUMBER = Column("a number", lambda v: v.isna() | v.notna())

# The columns of each kind of file, in their order.
_NAMES = {
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
# What belongs in the columns of these names; in all others a text.
_COLUMNS = {
    "suite": _one_of(*SUITES),
    "dtype": _one_of(*DTYPES),
    "shape": SHAPE,
    "layout": _one_of(*LAYOUTS),
    "formula": _one_of("ours", "plain"),
    "dataset": _one_of("digits", "cifar10", "cifar100"),
    "activation": _one_of("Mish", "Swish", "ReLU", "GELU"),
    **_all("numel threads rounds numbers epoch epochs width batch_size", _whole(1)),
    **_all("bytes tried correct elements registers spill_bytes checks branches", _whole(0)),
    **_all("local_accesses stored_elements late_loads seed", _whole(0)),
    **_all("median_s p20_s p80_s learning_rate", ABOVE_0),
    **_all("ulp absolute seconds", FROM_0),
    **_all("instructions_least instructions_most mufu_least mufu_most", FROM_0),
    **_all("low high ulp_at absolute_at", NUMBER),
    "peak_bytes": Column("a whole number from 0 on", lambda v: ~(v < 0) & ~(v % 1 > 0)),
    "train_loss": Column("a number from 0 on", lambda v: ~(v < 0)),  # NaN: diverged
    "test_accuracy": Column("a percentage", lambda v: v.between(0, 100)),
}
KINDS = {
    kind: {name: _COLUMNS.get(name, TEXT) for name in names.split()}
    for kind, names in _NAMES.items()
}
KINDS["speed"]["direction"] = _one_of(*DIRECTIONS)


@dataclass(frozen=True)
class Results:
    """A file: a name that tells it from others, its kind, its first row's environment, its rows."""

    path: Path
    name: str
    kind: str
    facts: dict[str, str]
    rows: pd.DataFrame


def read(paths: Sequence[Path], kind: str | None = None) -> list[Results]:
    """The files in their order, each once.

    Raises:
        Refused: a file cannot be read, is damaged, holds no rows, or not those of `kind`.
    """
    paths = list({path.absolute(): path for path in paths}.values())
    found, problems = [], []
    for path, name in zip(paths, _names(paths), strict=True):
        try:
            found.append(_read(path, name, kind))
        except Refused as refused:
            problems.append(str(refused))
    if problems:
        raise Refused("\n".join(problems))
    return found


def columns(kind: str) -> list[str]:
    """The names of all columns of a kind of file."""
    return [*KINDS[kind], *environment.NAMES]


@contextmanager
def open_writer(
    path: Path, kind: str, facts: Mapping[str, str]
) -> Iterator[Callable[[Iterable[Mapping[str, Any]]], None]]:
    """A file at `path`, and the function that adds rows to it; the first replace an older file.

    Rows reach the file at once, so that an interrupted run keeps what it measured.

    Raises:
        Refused: it cannot be written; at once, not after the measuring.
    """
    try:
        if not path.parent.exists():  # else mkdir would say of a file there that it exists
            path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", newline="", encoding="utf-8")  # "w" would empty it at once
    except OSError as error:
        reason = error.strerror or error
        raise Refused(f"expected a file that can be written, got {path}: {reason}") from error
    with file:
        table = csv.DictWriter(file, columns(kind), lineterminator="\n")
        older = file.tell() > 0
        if not older:
            table.writeheader()

        def write(rows: Iterable[Mapping[str, Any]]) -> None:
            nonlocal older
            rows = [{**row, **facts} for row in rows]
            if older and rows:
                file.truncate(0)
                table.writeheader()
                older = False
            table.writerows(rows)
            file.flush()

        yield write


def parse(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    """Texts as the numbers that they stand for; an empty one as NaN.

    Raises:
        ValueError: a text is not what belongs in its column.
    """

    def require(fits: pd.Series, expected: str, texts: pd.Series) -> None:
        if not fits.all():
            place = fits.to_numpy().argmin()
            raise ValueError(f"line {place + 2}: expected {expected}, got {texts.iloc[place]!r}")

    for name, column in KINDS[kind].items():
        values = texts = frame[name]
        if column.numeric:
            values = pd.to_numeric(texts.replace("", "nan"), errors="coerce")
        known = values.notna() | texts.isin(("", "nan"))
        require(known & column.fits(values), f"{column.expected} as {name}", texts)
        frame = frame.assign(**{name: values})
    if kind == "speed":
        ordered = frame.median_s.between(frame.p20_s, frame.p80_s)
        require(ordered, "p20_s <= median_s <= p80_s", frame.median_s)
    return frame


def _read(path: Path, name: str, kind: str | None) -> Results:
    what = f"{path} is no file of results, or a damaged one"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file)) or [[]]
    except OSError as error:
        raise Refused(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, csv.Error) as error:
        raise Refused(f"{what}: {error}") from error
    lacking = {k: [c for c in columns(k) if c not in header] for k in KINDS}
    found = min(lacking, key=lambda k: len(lacking[k]))
    if lacking[found]:
        raise Refused(f"{what}: it lacks {', '.join(lacking[found])}")
    if found != (kind or found):
        raise Refused(f"{path} holds {found}, expected a file of {kind}")
    if not lines:
        raise Refused(f"{path} holds no rows: nothing was measured")
    try:
        for number, line in enumerate(lines, 2):
            if len(line) != len(header):
                raise ValueError(f"line {number}: expected a text for each column")
        rows = parse(pd.DataFrame(lines, columns=header, dtype=str), found)
    except ValueError as error:
        raise Refused(f"{path} is damaged: {error}") from error
    return Results(
        path, name, found, {fact: str(rows[fact].iloc[0]) for fact in environment.NAMES}, rows
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """The names of the files, with as many of their folders as it takes to tell them apart."""
    parts = [path.absolute().with_suffix("").parts[1:] for path in paths]
    depths = range(1, max(map(len, parts)) + 1)
    names = [["-".join(part[-depth:]) for part in parts] for depth in depths]
    return next((found for found in names if len(set(found)) == len(found)), names[-1])
