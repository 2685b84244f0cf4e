"""Where and with what a run was measured."""

from __future__ import annotations

import datetime
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

import mish_cuda


@dataclass(frozen=True)
class Environment:
    """Facts that every row of a CSV file carries; empty text where one does not apply."""

    device: str
    cpu_model: str
    cpu_capability: str
    backend: str
    mish_cuda: str
    commit: str
    torch: str
    cuda: str
    driver: str
    python: str
    date: str
    command: str

    def summary(self) -> str:
        """One line for people."""
        parts = [
            self.device,
            self.cpu_capability,
            f"mish_cuda {self.mish_cuda} ({self.backend}{self.commit and f', {self.commit}'})",
            f"torch {self.torch}",
            self.cuda and f"CUDA {self.cuda}",
            self.driver and f"driver {self.driver}",
            f"Python {self.python}",
            self.date,
        ]
        return " · ".join(part for part in parts if part)


def collect(device: str, command: str) -> Environment:
    """The facts of this machine and environment."""
    on_cuda = torch.device(device).type == "cuda"
    return Environment(
        device=torch.cuda.get_device_name(device) if on_cuda else _cpu_model(),
        cpu_model=_cpu_model(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        backend=mish_cuda.backend(torch.empty(0, device=device)),
        mish_cuda=mish_cuda.__version__,
        commit=_output_of("git", "describe", "--always", "--dirty"),
        torch=torch.__version__,
        cuda=torch.version.cuda or "",
        driver=_driver(device) if on_cuda else "",
        python=platform.python_version(),
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        command=command,
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _driver(device: str) -> str:
    # By UUID: nvidia-smi numbers devices its own way and ignores CUDA_VISIBLE_DEVICES.
    uuid = torch.cuda.get_device_properties(device).uuid
    return _output_of(
        "nvidia-smi", f"--id=GPU-{uuid}", "--query-gpu=driver_version", "--format=csv,noheader"
    )


def _output_of(*command: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
