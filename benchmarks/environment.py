"""Where and with what a run was measured."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import torch

import mish_cuda
from mish_cuda.diagnostics import cpu_model

# Facts that every row of a file carries; empty where one does not apply. `clock` is that of a GPU
# and its memory when the run began.
NAMES = (
    *("device", "cpu_model", "cpu_capability", "backend", "mish_cuda", "commit"),
    *("torch", "cuda", "driver", "python", "date", "command", "clock"),
)


def collect(device: str, command: str) -> dict[str, str]:
    """The facts of this machine and of the packages in use."""
    on_cuda = torch.device(device).type == "cuda"
    driver, clock = _driver_and_clocks(device) if on_cuda else ("", "")
    return without_kernels(
        torch.cuda.get_device_name(device) if on_cuda else cpu_model(),
        command,
        cpu_model=cpu_model(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        backend=mish_cuda.backend(torch.empty(0, device=device)),
        mish_cuda=mish_cuda.__version__,
        driver=driver,
        clock=clock,
    )


def without_kernels(device: str, command: str, **facts: str) -> dict[str, str]:
    """The facts where nothing of mish_cuda runs, as when its kernels are compiled and counted."""
    return {
        **dict.fromkeys(NAMES, ""),
        "device": device,
        "commit": os.environ.get("MISH_CUDA_COMMIT") or _commit(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda or "",
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "command": command,
        **facts,
    }


def summary(facts: Mapping[str, str]) -> str:
    build = ", ".join(filter(None, (facts["backend"], facts["commit"])))
    named = {"torch": "torch", "cuda": "CUDA", "driver": "driver", "python": "Python"}
    parts = (
        *(facts[name] for name in ("device", "cpu_capability", "clock")),
        f"mish_cuda {facts['mish_cuda']} ({build})",
        *(f"{called} {facts[name]}" for name, called in named.items() if facts[name]),
        facts["date"],
    )
    return " · ".join(filter(None, parts))


def _commit() -> str:
    """Of this project, and "-dirty" if files differ from it; empty without git. An archive may lie
    within another project, whose commit says nothing."""
    if not (Path(__file__).parents[1] / ".git").exists():
        return ""
    return _output_of("git", "describe", "--always", "--dirty")


def _driver_and_clocks(device: str) -> tuple[str, str]:
    """Version of the driver, and clocks now and at most; empty without nvidia-smi."""
    # By UUID: nvidia-smi numbers devices its own way and ignores CUDA_VISIBLE_DEVICES.
    uuid = torch.cuda.get_device_properties(device).uuid
    query = "--query-gpu=driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem"
    output = _output_of("nvidia-smi", f"--id=GPU-{uuid}", query, "--format=csv,noheader,nounits")
    driver, *clocks = output.split(", ")
    return driver, "SM {} of {} MHz, memory {} of {} MHz".format(*clocks) if clocks else ""


def _output_of(*command: str) -> str:
    try:
        return subprocess.check_output(
            command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, text=True
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
