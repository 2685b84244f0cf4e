"""The GPU suite, as far as it runs without a GPU: what it counts, judges and writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.cells import Cell
from benchmarks.environment import collect
from benchmarks.results import Result, Timing, open_writer
from gpu import accuracy, cli, exercise, report, timing
from gpu.providers import PROVIDERS

ENVIRONMENT = collect("cpu", "python -m gpu")


def result(provider: str, seconds: float, size: int = 2**24, dtype: str = "bf16") -> Result:
    cell = Cell(provider, "forward", dtype, (size,))
    return Result("gpu", cell, Timing(rounds=3, median=seconds, p20=seconds, p80=seconds))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and it would be used")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run([sys.executable, "-m", "gpu"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "expected a GPU" in done.stderr


def test_graphs_leave_the_cache_within_bounds() -> None:
    cache = 50 * 2**20
    assert timing.calls_per_graph(2**33, cache) == 2
    assert timing.calls_per_graph(2**10, cache) == timing.MOST_CALLS
    calls = timing.calls_per_graph(2**24, cache)
    assert calls * 2**24 >= timing.CACHES * cache > (calls - 1) * 2**24


def test_claims_take_the_worst_large_size() -> None:
    rows = [
        result("mish_cuda", 1.0, 2**24),
        result("F.mish", 1.9, 2**24),
        result("mish_cuda", 2.0, 2**26),
        result("F.mish", 3.0, 2**26),
        result("F.mish", 0.1, 2**20),
        result("mish_cuda", 1.0, 2**20),
    ]
    found = {
        (c.over, c.direction, c.dtype): ratio
        for c, ratio in report.judge(rows)
        if ratio is not None
    }
    assert found == {("F.mish", "forward", "bf16"): 1.5}
    table = report.claims_markdown(rows)
    assert "| forward bf16: F.mish / mish_cuda | 1.8 | 1.500 | NO |" in table
    assert "| forward fp32: relu / mish_cuda | 1 | not measured |  |" in table


def test_a_step_that_fails_is_written_down(tmp_path: Path) -> None:
    def broken() -> str:
        raise RuntimeError("no such kernel")

    def missing() -> str:
        raise cli.Missing("no such tool")

    steps = [cli.attempt("a", broken), cli.attempt("b", missing), cli.attempt("c", lambda: "fine")]
    assert [step.outcome for step in steps] == ["FAILED", "not run", "ok"]
    cli.write_summary(tmp_path, ENVIRONMENT, steps)
    text = (tmp_path / "SUMMARY.md").read_text(encoding="utf-8")
    assert "| a | FAILED | RuntimeError: no such kernel |" in text
    assert "| b | not run | no such tool |" in text


def test_the_summary_has_what_was_measured(tmp_path: Path) -> None:
    with open_writer(tmp_path / "kernels.csv", ENVIRONMENT) as write:
        write([result(p, 1e-3 * (i + 1)) for i, p in enumerate(PROVIDERS["forward"])])
    cli.write_summary(tmp_path, ENVIRONMENT, [])
    text = (tmp_path / "SUMMARY.md").read_text(encoding="utf-8")
    assert "| forward bf16: F.mish / mish_cuda | 1.8 | 2.000 | yes |" in text
    assert (tmp_path / "forward-bf16.png").stat().st_size > 0


def test_accuracy_rows_on_the_cpu() -> None:
    rows = accuracy.measure_all("cpu", 2**16)
    ours = {(r["function"], r["dtype"]): r for r in rows if r["provider"] == "mish_cuda"}
    assert ours["f", "float16"]["inputs"] == 65536 - 2048  # but NaN and infinities
    for (function, dtype), row in ours.items():
        if dtype != "float32" and function != "f''":
            assert row["ulp"] <= 1, (function, dtype, row)
    assert ours["f", "float32"]["ulp"] <= 2.5
    assert ours["f''", "float32"]["absolute"] <= 4e-7


def test_the_sanitizers_exercise_runs() -> None:
    exercise.main("cpu")
