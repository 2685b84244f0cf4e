"""Rows of results for the tests of the measuring code, files of them, and what commands print."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import cli, environment, results
from benchmarks.cases import KERNEL_DIRECTIONS, SURROUNDINGS, Case, compiled_provider, norm_provider
from benchmarks.timing import threads
from project import ROOT

RESULTS = ROOT / "benchmarks" / "results"
FACTS = {name: f"a {name}" for name in environment.NAMES} | {"command": "run --csv 'a file.csv'"}
BOTH = "forward+backward"
Row = dict[str, Any]
Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch
Cells = list[list[str]]


def row(
    provider: str,
    seconds: float,
    direction: str = "forward",
    *shape: int,
    dtype: str = "fp32",
    suite: str = "kernels",
    peak: int | str = "",
    spread: float = 0.01,
    **case: Any,
) -> Row:
    """A row of a file of speed."""
    known = Case(provider, direction, dtype, shape or (65_536,), **case)
    times = {"median_s": seconds, "p20_s": seconds * (1 - spread), "p80_s": seconds * (1 + spread)}
    texts = {name: f"{time:.4e}" for name, time in times.items()}
    return {"suite": suite, **known.row(), "rounds": 3, **texts, "peak_bytes": peak}


def pair(ratio: float, direction: str = "forward", *shape: int, **rest: Any) -> list[Row]:
    """F.mish takes `ratio` times as long as ours."""
    times = {"mish_cuda": 1e-3, "F.mish": ratio * 1e-3}
    return [row(name, seconds, direction, *shape, **rest) for name, seconds in times.items()]


def network(provider: str, direction: str, seconds: float, peak: int | str = "") -> Row:
    case = {"suite": "networks", "peak": peak, "threads": 2, "network": "se_resnet18"}
    return row(provider, seconds, direction, 8, 3, 32, 32, **case)


def everything() -> list[Row]:
    """Rows for every kind of table and picture."""
    seconds = {"mish_cuda": 20e-6, "F.mish": 250e-6, "naive": 140e-6, "copy": 10e-6}
    inputs = itertools.product(KERNEL_DIRECTIONS, seconds.items())
    compiled = itertools.product(SURROUNDINGS, {"F.mish": 6.0, "mish_cuda": 2.0}.items())
    blocks = {"one op": 1.0, "mish_cuda": 3.0, "F.mish": 9.0}
    return [
        *(row(name, s, d, peak=2**20 if d == BOTH else "") for d, (name, s) in inputs),
        *(
            row(compiled_provider(name, surrounding), s, BOTH, 2**20, suite="compiled")
            for surrounding, (name, s) in compiled
        ),
        *(
            row(norm_provider("BatchNorm", name), s, BOTH, 2, 8, 4, suite="norms")
            for name, s in blocks.items()
        ),
        *(network(name, "training step", 1.0, 2**20) for name in ("mish_cuda", "F.mish")),
    ]


def write(path: Path, rows: Iterable[Row], kind: str = "speed", **facts: str) -> Path:
    with results.open_writer(path, kind, {**FACTS, **facts}) as add:
        add(rows)
    return path


def frame(rows: Iterable[Row], kind: str = "speed") -> pd.DataFrame:
    """The rows as a file of them is read."""
    texts = [{name: str(value) for name, value in row.items()} for row in rows]
    return results.parse(pd.DataFrame(texts), kind)


def read(path: Path) -> pd.DataFrame:
    (source,) = results.read([path])
    return source.rows


def main(*arguments: object) -> int:
    """The exit status of a command line, also where argparse ends it."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def printed(capsys: Capture, *arguments: object, status: int = 0) -> str:
    """What a command line prints that ends with that status."""
    capsys.readouterr()
    assert main(*arguments) == status
    return capsys.readouterr().out


def refusal(capsys: Capture, *arguments: object) -> str:
    """The message with which a command line is refused."""
    capsys.readouterr()
    assert main(*arguments) == 2
    return capsys.readouterr().err


def tables_in(markdown: str) -> list[tuple[str, Cells]]:
    """The title and the cells of each table, its header first."""
    found = []
    for title, block in re.findall(r"^### (.*)\n\n((?:\|.*\n?)+)", markdown, re.M):
        lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines()]
        del lines[1]  # the rule below the header
        found.append((title, [[re.sub(r"\\(.)", r"\1", c.strip()) for c in x] for x in lines]))
    return found


def tables_of(capsys: Capture, path: Path, *options: object) -> dict[str, Cells]:
    """The tables that `table` prints of a file, without their headers, by their titles."""
    found = tables_in(printed(capsys, "table", path, "--markdown", *options))
    return {title: lines for title, (_, *lines) in found}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For the tests of a module that imports it: small networks are slower on several."""
    with threads(1):
        yield
