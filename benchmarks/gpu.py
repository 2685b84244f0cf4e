"""``gpu``: build, check, time, test and prove on a GPU, into one folder."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.arguments import FAILED, Refused, add_path
from csrc.cuda import nvcc

ROOT = Path(__file__).parents[1]
LIMIT = 510  # seconds of a step
GRACE = 15  # seconds more for a command to write what it has, after an interrupt
WORKERS = 6  # of the tests at most: each takes some memory of the GPU
MINUTES = "6"  # of the timing within its step, and of the variants with their compilation
NUMBERS = 2**21  # of each interval of fp32: some 300 million in all

DESCRIPTION = """\
Runs these steps, the most valuable first, each within nine minutes; if one fails,
the others go on. Each is a command of its own, and can be run by itself: its name
may be given. All write into one folder, which is packed into FOLDER.tar.gz after
each step. Nothing is fetched: neither network nor git is needed.

  build      the extension, for the GPUs that are here
  smoke      every kernel once, beside the CPU's bits: seconds
  speed      mish_cuda beside its rivals: tables, a CSV file and a page with plots
  variants   the CUDA kernels with other tiles: the fastest on this GPU
  tests      all tests that run on CUDA, the slow ones too
  accuracy   the errors of the CUDA kernels, held to their bounds
  sanitizer  every kernel under compute-sanitizer's memcheck and racecheck
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = f"{', '.join(steps(Path()))} (default: all)"
    parser.add_argument("steps", nargs="*", metavar="STEP", help=names)
    add_path(parser, "--out", "mish_gpu", "folder to write to", "FOLDER")


def run(args: argparse.Namespace) -> int:
    args.out = args.out.absolute()
    known = steps(args.out)
    if unknown := [name for name in args.steps if name not in known]:
        raise Refused(f"expected steps among {', '.join(known)}, got {', '.join(unknown)}")
    if not torch.cuda.is_available():
        raise Refused(f"expected a GPU, but torch {torch.__version__} sees none")
    args.out.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in args.steps or known:
        print(f"{name} ...", flush=True)
        start = time.monotonic()
        outcome = run_step(known[name], args.out / f"{name}.log")
        line = f"{name}: {outcome} ({time.monotonic() - start:.0f} s)"
        print(line, flush=True)
        with (args.out / "summary.txt").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        shutil.make_archive(str(args.out), "gztar", args.out)
        failed |= outcome != "ok"
    print(f"Results: {args.out}, {args.out}.tar.gz")
    return FAILED if failed else 0


def steps(out: Path) -> dict[str, list[str]]:
    """The command lines of each step."""
    python, folder = shlex.quote(sys.executable), shlex.quote(str(out))
    measure = f"{python} -m benchmarks"
    smoke = f"{measure} smoke --device cuda"
    # Without torch's cache of memory, which would hide an access beyond a tensor.
    sanitizer = "PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 1 --tool"
    workers = f"-n {min(WORKERS, os.cpu_count() or 1)}" if find_spec("xdist") else ""
    # Names as tests end, so that they survive a kill.
    tests = f"{python} -m pytest -v --tb=short -p no:cacheprovider -m '' {workers}"
    tests += " -k 'cuda and not build'"
    first = "tests/ops/test_cuda.py"
    return {
        # In this folder, from which the other steps run: needs no pip, and changes no environment.
        "build": [f"{python} setup.py build_ext --inplace", f"{python} -m mish_cuda"],
        "smoke": [smoke],
        "speed": [
            f"{measure} run --device cuda --only gpu --minutes {MINUTES} --csv {folder}/speed.csv",
            f"{measure} report {folder}/speed.csv",
            f"{measure} run --device cuda --only norms --csv {folder}/norms.csv",
        ],
        "variants": [f"{measure} variants --minutes {MINUTES} --csv {folder}/variants.csv"],
        # What no other machine can test comes first.
        "tests": [f"{tests} {first}", f"{tests} --ignore={first} tests"],
        "accuracy": [
            f"{measure} accuracy --device cuda --limit {NUMBERS} --csv {folder}/accuracy.csv"
        ],
        "sanitizer": [
            # Not API errors: torch asks the driver for functions that it may not have.
            f"{sanitizer} memcheck --report-api-errors no {smoke}",
            f"{sanitizer} racecheck {smoke}",
        ],
    }


def run_step(lines: Sequence[str], log: Path, limit: float = LIMIT) -> str:
    """Run the command lines of a step into a log; "ok", or what went wrong first."""
    end = time.monotonic() + limit
    outcomes = []
    with log.open("w", encoding="utf-8") as file:
        for line in lines:
            seconds = f"{max(1, end - time.monotonic()):f}"
            process = subprocess.Popen(
                # An interrupt lets it tell what it has.
                ["timeout", "-s", "INT", "-k", str(GRACE), seconds, "sh", "-c", line],
                cwd=ROOT,
                stdout=file,
                stderr=file,
                env=environment(),
                start_new_session=True,
            )
            try:
                status = process.wait()
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)
                process.wait()
                raise
            finally:
                # Its children, too, would keep the GPU from the next step.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            if time.monotonic() >= end:
                return f"stopped after {limit:g} s, see {log.name}"
            if status:
                told = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                last = f"{told[-1].strip('= ')}, " if told else ""
                outcomes.append(f"FAILED, exit status {status}: {last}see {log.name}")
    return outcomes[0] if outcomes else "ok"


def environment() -> dict[str, str]:
    toolkits, _ = nvcc.find(os.environ, [])
    folders = [os.environ.get("PATH", ""), *(str(toolkit.root / "bin") for toolkit in toolkits)]
    # Code for GPUs that are not here would take minutes to compile.
    capabilities = map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))
    archs = ";".join(f"{major}.{minor}" for major, minor in sorted(set(capabilities)))
    build = {"MISH_CUDA_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": archs}
    more = {"PATH": os.pathsep.join(folders), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **build, **more}
