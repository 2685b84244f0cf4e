"""The command line: every step in turn, each with its own file in one folder, and a summary."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import mish_cuda
from benchmarks import environment
from gpu import devices, report, work
from gpu.steps import Deadline, Step, attempt

SECONDS = 460  # a last cell and the summary fit into the rest of 8 minutes


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
    parser.add_argument(
        "--started",
        type=float,
        default=time.time(),
        metavar="TIME",
        help=f"when its {SECONDS} s began, in seconds since 1970 (default: now)",
    )
    args = parser.parse_args(argv)
    devices.require()
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
    facts = environment.collect("cuda", "python -m gpu")
    return run(work.steps(folder, facts), folder, facts, Deadline(args.started + SECONDS))


def run(
    steps: Mapping[str, Step], folder: Path, facts: environment.Environment, deadline: Deadline
) -> int:
    """All steps. The summary is written after each, so that an interrupted run has one."""
    done = []
    for name, step in steps.items():
        print(f"{name} ...", flush=True)
        start = deadline.clock()
        outcome = attempt(step, deadline)
        seconds = deadline.clock() - start
        print(f"{name}: {outcome.word}, {outcome.detail} ({seconds:.0f} s)", flush=True)
        done.append((name, outcome, seconds))
        (folder / "SUMMARY.md").write_text(report.summary(facts, done), encoding="utf-8")
    print(f"Results: {folder}")
    return int(any(outcome.word == "FAILED" for _, outcome, _ in done))
