"""Rows of results for the tests of the measuring code, files of them, and what commands print."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import cli, environment, results
from benchmarks.cases import KERNEL_DIRECTIONS, SURROUNDINGS, Case
from project import ROOT

RESULTS = ROOT / "benchmarks" / "results"
FACTS = {
    **{name: f"a {name}" for name in environment.NAMES},
    "command": "run --csv 'a file.csv'",
    "cpu_model": "a device",  # which is the CPU
}
BOTH = "forward+backward"
Row = dict[str, Any]
Patch = pytest.MonkeyPatch
Cells = list[list[str]]


def row(
    provider: str,
    seconds: float,
    direction: str = "forward",
    *shape: int,
    spread: float = 0.01,
    suite: str = "kernels",
    peak: int | str = "",
    **case: Any,
) -> Row:
    """A row of a file of speed."""
    known = Case(provider, direction, case.pop("dtype", "fp32"), shape or (65_536,), **case)
    times = {"median_s": seconds, "p20_s": seconds * (1 - spread), "p80_s": seconds * (1 + spread)}
    rounds = {"rounds": 3, **{name: f"{time:.4e}" for name, time in times.items()}}
    return {"suite": suite, **known.row(), **rounds, "peak_bytes": peak}


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
    peaks = {(BOTH, "mish_cuda"): 2 * 2**18, (BOTH, "naive"): 5 * 2**18}
    rows = [
        row(name, s, way, peak=peaks.get((way, name), ""))
        for way, (name, s) in itertools.product(KERNEL_DIRECTIONS, seconds.items())
    ]
    compiled = itertools.product(SURROUNDINGS, {"F.mish": 6.0, "mish_cuda": 2.0}.items())
    for surrounding, (name, s) in compiled:
        rows.append(row(f"compiled {name} in {surrounding}", s, BOTH, 2**20, suite="compiled"))
    for name, s in {"one op": 1.0, "mish_cuda": 3.0, "F.mish": 9.0}.items():
        rows.append(row(f"BatchNorm and Mish by {name}", s, BOTH, 2, 8, 4, suite="norms"))
    steps = {"mish_cuda": (0.8, 3 * 2**20), "F.mish": (1.0, 2**30), "none": (0.6, 1024)}
    rows += [network(name, "training step", *step) for name, step in steps.items()]
    inferences = {"mish_cuda": 0.02, "F.mish": 0.03, "ReLU": 0.5}
    return [*rows, *(network(name, "inference", s) for name, s in inferences.items())]


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
    if "paper" in arguments[:1]:
        pytest.importorskip("scipy", reason="no scipy: pip install 'mish_cuda[test]'")
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def printed(*arguments: object, status: int = 0) -> str:
    """What a command line prints that ends with that status."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        assert main(*arguments) == status
    return output.getvalue()


def refusal(*arguments: object) -> str:
    """The message with which a command line is refused."""
    return printed(*arguments, status=2)


def tables_in(markdown: str) -> list[tuple[str, Cells]]:
    """The title and the cells of each table, its header first."""
    found = []
    for title, block in re.findall(r"^### (.*)\n\n((?:\|.*\n?)+)", markdown, re.M):
        header, _, *lines = (re.split(r"(?<!\\)\|", line)[1:-1] for line in block.splitlines())
        cells = [[re.sub(r"\\(.)", r"\1", c.strip()) for c in line] for line in (header, *lines)]
        found.append((title, cells))
    return found


def tables_of(path: Path, *options: object) -> dict[str, Cells]:
    """The tables that `table` prints of a file, without their headers, by their titles."""
    found = tables_in(printed("table", path, "--markdown", *options))
    return {title: lines for title, (_, *lines) in found}
