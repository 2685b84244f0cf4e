"""Steps that are programs of their own: the tests, and compute-sanitizer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gpu.steps import Deadline, Missing, Outcome, OutOfTime


def run(command: Sequence[str], log: Path, deadline: Deadline, **env: str) -> str:
    """Runs a command into a log file, and returns the last line of its output."""
    limit = deadline.left()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
        except BaseException as error:
            # With its children, which would keep the GPU from the next step.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            stopped = f"stopped after {limit:.0f} s, see {log.name}"
            if deadline.shortened:
                raise OutOfTime(stopped) from None
            raise RuntimeError(f"{stopped}: that is its limit") from None
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
    if status:
        raise RuntimeError(f"exit status {status}, see {log.name}: {lines[-1]}")
    return lines[-1].strip("= ")


def run_tests(folder: Path, deadline: Deadline) -> Outcome:
    """All tests on cuda, the slow ones too: graphs, streams, 2^31 elements, other devices."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    selected = ["-k", "cuda and not build", "-m", "", "tests"]
    return Outcome("ok", run([*command, *selected], folder / "tests.log", deadline))


def run_sanitizer(tool: str, folder: Path, deadline: Deadline) -> Outcome:
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
    exercise = [*command, "-m", "gpu.exercise"]
    return Outcome("ok", run(exercise, folder / f"{tool}.log", deadline, **uncached))
