"""Where and with what a run was measured."""

from __future__ import annotations

import datetime
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import torch

import mish_cuda
from mish_cuda.diagnostics import cpu_model


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
    clock: str = ""  # CPU, or of a GPU also its memory; when the run began

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> Environment:
        """The facts in a row of a file. Those with a default may be missing: older files are."""
        return cls(**{field.name: row[field.name] for field in fields(cls) if field.name in row})

    def summary(self) -> str:
        """One line for people."""
        parts = [
            self.device,
            self.cpu_capability,
            self.clock,
            f"mish_cuda {self.mish_cuda} ({self.backend}{self.commit and f', {self.commit}'})",
            f"torch {self.torch}",
            self.cuda and f"CUDA {self.cuda}",
            self.driver and f"driver {self.driver}",
            f"Python {self.python}",
            self.date,
        ]
        return " · ".join(part for part in parts if part)


REQUIRED = tuple(field.name for field in fields(Environment) if field.default is MISSING)


def collect(device: str, command: str) -> Environment:
    """The facts of this machine and environment."""
    on_cuda = torch.device(device).type == "cuda"
    driver, clock = _driver_and_clocks(device) if on_cuda else ("", _cpu_clock())
    return Environment(
        device=torch.cuda.get_device_name(device) if on_cuda else cpu_model(),
        cpu_model=cpu_model(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        backend=mish_cuda.backend(torch.empty(0, device=device)),
        mish_cuda=mish_cuda.__version__,
        commit=_output_of("git", "describe", "--always", "--dirty"),
        torch=torch.__version__,
        cuda=torch.version.cuda or "",
        driver=driver,
        python=platform.python_version(),
        date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        command=command,
        clock=clock,
    )


def _cpu_clock() -> str:
    """That of the fastest core now, in MHz, and the highest there is where the kernel tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return ""
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    if not clocks:
        return ""
    try:
        highest = Path("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq").read_text()  # kHz
    except OSError:  # as in most virtual machines
        return f"{max(clocks):.0f} MHz"
    return f"{max(clocks):.0f} of {int(highest) / 1000:.0f} MHz"


def _driver_and_clocks(device: str) -> tuple[str, str]:
    """Version of the driver, and clocks now and at most; empty without nvidia-smi."""
    # By UUID: nvidia-smi numbers devices its own way and ignores CUDA_VISIBLE_DEVICES.
    uuid = torch.cuda.get_device_properties(device).uuid
    query = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem"
    output = _output_of(
        *("nvidia-smi", f"--id=GPU-{uuid}"),
        *(f"--query-gpu={query}", "--format=csv,noheader,nounits"),
    )
    if not output:
        return "", ""
    driver, sm, max_sm, memory, max_memory = output.split(", ")
    return driver, f"SM {sm} of {max_sm} MHz, memory {memory} of {max_memory} MHz"


def _output_of(*command: str) -> str:
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
