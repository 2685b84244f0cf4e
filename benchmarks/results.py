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
from benchmarks.cases import DTYPES, KERNEL_DIRECTIONS, LAYOUTS

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
# What belongs in the columns of these names, as texts or as numbers; in all others any text does.
_ONE_OF: dict[str, Iterable[str]] = {
    "suite": ("kernels", "compiled", "norms", "claims", "gpu", "launch", "networks", "variants"),
    "dtype": DTYPES,
    "layout": LAYOUTS,
    "formula": ("ours", "plain"),
    "dataset": ("digits", "cifar10", "cifar100"),
    "activation": ("Mish", "Swish", "ReLU", "GELU"),
}
# Of "speed".
_DIRECTIONS = (*KERNEL_DIRECTIONS, "double backward", "forward out=", "training step", "inference")
# A text that is empty or nan is NaN, which fails comparisons other than !=.
_CHECKS: dict[str, tuple[str, Callable[[pd.Series], pd.Series]]] = {
    "numel threads rounds numbers epoch epochs width batch_size": (
        "a whole number above 0",
        lambda v: (v >= 1) & (v % 1 == 0),
    ),
    "bytes tried correct elements registers spill_bytes checks branches local_accesses "
    "stored_elements late_loads seed": ("a whole number", lambda v: (v >= 0) & (v % 1 == 0)),
    "median_s p20_s p80_s learning_rate": (
        "a number above 0",
        lambda v: (v > 0) & (v < math.inf),
    ),
    "ulp absolute seconds instructions_least instructions_most mufu_least mufu_most": (
        "a number from 0 on",
        lambda v: v >= 0,
    ),
    "low high ulp_at absolute_at": ("a number or nothing", lambda v: v.isna() | v.notna()),
    "peak_bytes": ("a whole number or nothing", lambda v: v.isna() | (v >= 0) & (v % 1 == 0)),
    "train_loss": ("a number from 0 on", lambda v: ~(v < 0)),  # NaN: diverged
    "test_accuracy": ("a percentage", lambda v: v.between(0, 100)),
}
_NUMBERS = {name: check for names, check in _CHECKS.items() for name in names.split()}


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
    return [_read(path, name, kind) for path, name in zip(paths, _names(paths), strict=True)]


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
        begun = not file.tell()
        if begun:
            table.writeheader()

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

    def require(fits: pd.Series, name: str, expected: str) -> None:
        if not fits.all():
            place = fits.to_numpy().argmin()
            got = texts[name].iloc[place]
            raise ValueError(f"line {place + 2}: expected {expected} as {name}, got {got!r}")

    texts = frame
    for name in KINDS[kind].split():
        if name in _NUMBERS:
            expected, check = _NUMBERS[name]
            values = pd.to_numeric(texts[name].replace("", "nan"), errors="coerce")
            known = values.notna() | texts[name].isin(("", "nan"))
            require(known & check(values), name, expected)
            frame = frame.assign(**{name: values})
        elif name in _ONE_OF:
            require(texts[name].isin(_ONE_OF[name]), name, f"one of {', '.join(_ONE_OF[name])}")
    if kind == "speed":
        axes = texts["shape"].str.fullmatch(r"[1-9]\d*(x[1-9]\d*)*")
        require(axes, "shape", "axes of 1 and more, as 8x64x32x32,")
        require(texts.direction.isin(_DIRECTIONS), "direction", f"one of {', '.join(_DIRECTIONS)}")
        ordered = frame.median_s.between(frame.p20_s, frame.p80_s)
        require(ordered, "median_s", "a time from p20_s to p80_s")
    return frame


def _read(path: Path, name: str, kind: str | None) -> Results:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file)) or [[]]
        found = next((k for k in KINDS if {*columns(k)} <= {*header}), None)
        if found is None:
            raise ValueError("it lacks columns")
    except (ValueError, csv.Error) as error:
        raise Refused(f"{path} is no file of results, or a damaged one: {error}") from error
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
    return Results(path, name, found, rows[list(environment.NAMES)].iloc[0].to_dict(), rows)


def _names(paths: Sequence[Path]) -> list[str]:
    """The names of the files, with as many of their folders as it takes to tell them apart."""
    parts = [path.absolute().with_suffix("").parts[1:] for path in paths]
    depths = range(1, max(map(len, parts)) + 1)
    names = [["-".join(part[-depth:]) for part in parts] for depth in depths]
    return next((found for found in names if len(set(found)) == len(found)), names[-1])
