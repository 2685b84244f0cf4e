"""Rows of results for the tests of the measuring code, and files of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks import cli, environment, results
from benchmarks.cases import KERNEL_DIRECTIONS, SURROUNDINGS, Case, compiled_provider, norm_provider
from benchmarks.timing import quantiles, threads
from project import ROOT

RESULTS = ROOT / "benchmarks" / "results"
FACTS = {name: f"a {name}" for name in environment.NAMES} | {"command": "run --csv 'a file.csv'"}
Row = dict[str, Any]


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
    times = {"median_s": seconds, "p20_s": seconds * (1 - spread), "p80_s": seconds * (1 + spread)}
    known = Case(provider, direction, dtype, shape or (65_536,), **case)
    rounds = quantiles([seconds] * 3) | {name: f"{time:.4e}" for name, time in times.items()}
    return {"suite": suite, **known.row(), **rounds, "peak_bytes": peak}


def pair(ratio: float, direction: str = "forward", *shape: int, **rest: Any) -> list[Row]:
    """F.mish takes `ratio` times as long as ours."""
    return [
        row("mish_cuda", 1e-3, direction, *shape, **rest),
        row("F.mish", ratio * 1e-3, direction, *shape, **rest),
    ]


def network(provider: str, direction: str, seconds: float, peak: int | str = "") -> Row:
    case = {"suite": "networks", "peak": peak, "threads": 2, "network": "se_resnet18"}
    return row(provider, seconds, direction, 8, 3, 32, 32, **case)


def everything(*sizes: int) -> list[Row]:
    """Rows for every kind of table and picture; of these sizes, where no compiler is in it."""
    seconds = {"mish_cuda": 20e-6, "F.mish": 250e-6, "naive": 140e-6, "copy": 10e-6}
    compiled = {"F.mish": 6.0, "mish_cuda": 2.0}
    inputs = itertools.product(KERNEL_DIRECTIONS, sizes or (65_536,), seconds.items())
    both = KERNEL_DIRECTIONS[-1]
    return [
        *(row(name, s, d, n, peak=2**20 if d == both else "") for d, n, (name, s) in inputs),
        *(
            row(compiled_provider(name, surrounding), s, both, 2**20, suite="compiled")
            for surrounding in SURROUNDINGS
            for name, s in compiled.items()
        ),
        *(
            row(norm_provider("BatchNorm", name), s, both, 2, 8, 4, suite="norms")
            for name, s in {"one op": 1.0, "mish_cuda": 3.0, "F.mish": 9.0}.items()
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


def require_scipy() -> None:
    """Skips a test where the command `paper` cannot be run."""
    pytest.importorskip("scipy", reason="no scipy: pip install 'mish_cuda[test]'")


def main(*arguments: object) -> int:
    """The exit status of a command line, also where argparse ends it."""
    if "paper" in arguments[:1]:
        require_scipy()
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message with which a command line is refused."""
    capsys.readouterr()
    assert main(*arguments) == 2
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For the tests of a module that imports it: small networks are slower on several."""
    with threads(1):
        yield
