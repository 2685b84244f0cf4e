"""The command line: every step in turn, each with its own file in one folder, then a summary."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console

import mish_cuda
from benchmarks import environment, results
from benchmarks.cells import DTYPES, Cell
from gpu import accuracy, report, timing
from gpu.providers import PROVIDERS

SIZES = tuple(2**n for n in range(10, 31, 2))
FLOAT_PATTERNS = 2**28
SANITIZERS = ("memcheck", "racecheck")


class Missing(Exception):
    """A step cannot run here, and this is what it lacks."""


@dataclass
class Step:
    """What a step came to: one word, and one line that says more."""

    name: str
    outcome: str  # "ok", "FAILED" or "not run"
    detail: str
    seconds: float = 0.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run all steps; exit status 1 if one failed, 2 without a GPU."""
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(
        prog="python -m gpu",
        description="Tests, accuracy, sanitizers and benchmarks on a GPU, in under 8 minutes.",
    )
    parser.add_argument(
        "--folder", type=Path, help="where the results go (default: benchmarks/results/<device>)"
    )
    args = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print(
            f"python -m gpu: expected a GPU, but torch {torch.__version__} sees none. "
            "On a machine without one use make test, make test-cuda-build and make sass.",
            file=sys.stderr,
        )
        return 2
    backend = mish_cuda.backend(torch.empty(0, device="cuda"))
    if backend != "cuda":
        print(
            f"python -m gpu: expected CUDA kernels, but what runs is {backend}. Build them with "
            "MISH_CUDA_BUILD=cuda pip install --no-build-isolation .",
            file=sys.stderr,
        )
        return 2
    name = re.sub(r"\W+", "-", torch.cuda.get_device_name()).strip("-").lower()
    folder: Path = args.folder or Path("benchmarks", "results", name)
    folder.mkdir(parents=True, exist_ok=True)
    return run(folder, environment.collect("cuda", "python -m gpu"))


def run(folder: Path, facts: environment.Environment) -> int:
    """All steps into `folder`."""
    console = Console(highlight=False)
    steps = []
    work: dict[str, Callable[[], str]] = {
        "tests": lambda: run_tests(folder),
        "accuracy": lambda: run_accuracy(folder),
        **{tool: partial(run_sanitizer, tool, folder) for tool in SANITIZERS},
        "benchmarks": lambda: run_benchmarks(folder, facts),
        "launch cost": lambda: run_launch_cost(folder),
    }
    for name, function in work.items():
        console.print(f"{name} ...")
        step = attempt(name, function)
        console.print(f"{name}: {step.outcome}, {step.detail} ({step.seconds:.0f} s)")
        steps.append(step)
    write_summary(folder, facts, steps)
    console.print(f"Results: {folder}")
    return int(any(step.outcome == "FAILED" for step in steps))


def attempt(name: str, function: Callable[[], str]) -> Step:
    """Runs a step; whatever it raises is its outcome, and the next step goes on."""
    start = time.perf_counter()
    try:
        step = Step(name, "ok", function())
    except Missing as error:
        step = Step(name, "not run", str(error))
    except Exception as error:
        step = Step(name, "FAILED", f"{type(error).__name__}: {error}")
    step.seconds = time.perf_counter() - start
    return step


def _run(command: Sequence[str], log: Path, seconds: float, **env: str) -> str:
    """Runs a command into a log file, and returns the last line of its output."""
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            env={**os.environ, **env},
        )
    lines = log.read_text(encoding="utf-8").strip().splitlines()
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}, see {log.name}: {lines[-1:]}")
    return lines[-1].strip("= ") if lines else ""


def run_tests(folder: Path) -> str:
    """All tests on cuda, the slow ones too: graphs, streams, 2^31 elements, other devices."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return _run(
        [*command, "-k", "cuda and not build", "-m", "", "tests"], folder / "tests.log", 200
    )


def run_accuracy(folder: Path) -> str:
    """All 16-bit numbers, and `FLOAT_PATTERNS` floats."""
    rows = accuracy.measure_all("cuda", FLOAT_PATTERNS)
    (folder / "accuracy.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    ours = [row for row in rows if row["provider"] == "mish_cuda"]
    return ", ".join(f"{row['function']} {row['dtype']} {row['ulp']:.2f} ULP" for row in ours)


def run_sanitizer(tool: str, folder: Path) -> str:
    """A small run of every kernel under one of compute-sanitizer's tools."""
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    path = os.pathsep.join([os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes if home)])
    sanitizer = shutil.which("compute-sanitizer", path=path)
    if sanitizer is None:
        raise Missing("compute-sanitizer is neither on PATH nor in CUDA_HOME")
    # API errors are left out, since torch asks the driver for functions that it may not have; and
    # torch's cache of memory, since an access beyond a tensor would stay within it.
    options = ["--report-api-errors", "no"] if tool == "memcheck" else []
    command = [sanitizer, "--tool", tool, *options, "--error-exitcode", "1", sys.executable]
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return _run([*command, "-m", "gpu.exercise"], folder / f"{tool}.log", 120, **uncached)


def run_benchmarks(folder: Path, facts: environment.Environment) -> str:
    """Every provider, size and dtype by graph replay."""
    count = 0
    with results.open_writer(folder / "kernels.csv", facts) as write:
        for dtype in DTYPES:
            for direction, providers in PROVIDERS.items():
                for size in SIZES:
                    cells = [Cell(p, direction, dtype, (size,)) for p in providers]
                    measured = timing.measure(cells, "cuda")
                    write(measured)
                    count += len(measured)
    return f"{count} cells"


def run_launch_cost(folder: Path) -> str:
    """What a call costs where the kernel is nothing."""
    x = torch.zeros(1, device="cuda")
    seconds = {
        "mish_cuda": timing.launch_seconds(lambda: mish_cuda.mish(x)),
        "F.mish": timing.launch_seconds(lambda: F.mish(x)),
    }
    (folder / "launch.json").write_text(json.dumps(seconds, indent=1) + "\n", encoding="utf-8")
    return ", ".join(f"{name} {value * 1e6:.2f} µs" for name, value in seconds.items())


def write_summary(folder: Path, facts: environment.Environment, steps: Sequence[Step]) -> None:
    """SUMMARY.md, from the files of the steps that ran."""
    csv, errors = folder / "kernels.csv", folder / "accuracy.json"
    measured = results.read(csv)[1] if csv.exists() else []
    rows = json.loads(errors.read_text(encoding="utf-8")) if errors.exists() else []
    pictures = "\n".join(f"![{name}]({name})" for name in report.plot(measured, folder))
    step_lines = [
        f"| {s.name} | {s.outcome} | {' '.join(s.detail.replace('|', '/').split())} "
        f"| {s.seconds:.0f} |"
        for s in steps
    ]
    parts = [
        f"# {facts.device}",
        f"{facts.summary()}. Made by `python -m gpu`.",
        "\n".join(["| step | outcome | | s |", "| --- | --- | --- | ---: |", *step_lines]),
        "## Speed",
        report.claims_markdown(measured),
        pictures,
        "## Accuracy",
        report.accuracy_markdown(rows),
    ]
    (folder / "SUMMARY.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
