"""Facts about this installation, and a check of its results.

``python -m mish_cuda`` prints them; ``--json`` as one document with these keys:

    versions     mish_cuda, torch, python, os
    paths        mish_cuda, torch, python
    build        mode ("cuda", "cpu" or "none"), reason; remedy: what to install for
                 CUDA, if the build fell back to "cpu"; the versions it was made with
                 and for: torch, python, compiler, cuda, nvcc, architectures
    extension    loaded, reason, remedy (what to do, if anything), file
    cpu          model, cores, threads; kernels, torch: their instruction sets
    cuda         torch, hip: the versions torch is built for; problem: why torch can
                 use no GPU; nvidia_smi: its output as a list
    devices      present: a list of device, backend, name, capability, error (of
                 torch itself)
    environment  the variables that matter
    self_check   passed, failures, skipped, seconds; results: a list of device,
                 dtype and, for each variant of the op, the largest error as a
                 share of its bound (null if infinite)

Unknown and inapplicable facts are null. A part that fails is {"error": message}.
A part in which torch warned also has a list "warnings".
"""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from . import __version__, eager, functional, selfcheck
from ._extension import FACTS, REASON, REMEDY, C

Facts = dict[str, Any]

VARIABLES = (
    *("MISH_CUDA_EAGER", "MISH_CUDA_BUILD", "FORCE_CUDA", "CUDA_HOME", "CUDA_PATH"),
    *("TORCH_CUDA_ARCH_LIST", "MAX_JOBS", "CXX", "CUDA_VISIBLE_DEVICES", "ATEN_CPU_CAPABILITY"),
    *("OMP_NUM_THREADS", "LD_LIBRARY_PATH", "PYTHONPATH"),
)


def diagnose() -> Iterator[tuple[str, Facts]]:
    """The name and the facts of each part, as soon as they are known."""
    known: dict[str, Facts] = {}

    def usable() -> list[str]:
        present = known["devices"].get("present", [])
        return [row["device"] for row in present if row["error"] is None]

    parts: dict[str, Callable[[], Facts]] = {
        "versions": versions,
        "paths": paths,
        "build": build,
        "extension": extension,
        "cpu": cpu,
        "cuda": cuda,
        "devices": devices,
        "environment": lambda: {name: os.environ.get(name) for name in VARIABLES},
        "self_check": lambda: self_check(usable()),
    }
    for name, part in parts.items():
        known[name] = _run_part(part)
        yield name, _without_home(known[name])


def _run_part(part: Callable[[], Facts]) -> Facts:
    with warnings.catch_warnings(record=True) as caught:
        try:
            facts = part()
        except Exception as error:
            facts = {"error": describe(error)}
    if caught:
        facts["warnings"] = list(dict.fromkeys(str(warning.message) for warning in caught))
    return facts


def describe(error: Exception) -> str:
    """An error in one line; those of torch continue with advice and a stack trace."""
    first_line = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__


def _without_home(facts: Any) -> Any:
    """The same facts, with ~ for the user's folder."""
    if isinstance(facts, dict):
        return {key: _without_home(value) for key, value in facts.items()}
    if isinstance(facts, list):
        return [_without_home(value) for value in facts]
    home = os.path.expanduser("~").rstrip(os.sep)
    if isinstance(facts, str) and home:
        return re.sub(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])", "~", facts)
    return facts


def versions() -> Facts:
    try:
        system = f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {platform.platform()}"
    except (OSError, KeyError):  # not Linux
        system = platform.platform()
    return {
        "mish_cuda": __version__,
        "torch": torch.__version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "os": system,
    }


def paths() -> Facts:
    return {
        "mish_cuda": str(Path(__file__).parent),
        "torch": str(Path(torch.__file__).parent),
        "python": sys.executable,
    }


def build() -> Facts:
    """The facts that the build wrote into the extension, in use or not."""
    names = ("mode", "reason", "remedy", "torch", "python", "compiler", "cuda", "nvcc")
    return {name: FACTS.get(name) for name in (*names, "architectures")}


def extension() -> Facts:
    file = C and Path(str(C.__file__)).name
    return {"loaded": C is not None, "reason": REASON, "remedy": REMEDY, "file": file}


def cpu() -> Facts:
    return {
        "model": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": C.cpu_isa() if C is not None else None,
        "torch": torch.backends.cpu.get_cpu_capability(),
    }


def cpu_model() -> str:
    """The system's name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        told = _output("sysctl", "-n", "machdep.cpu.brand_string")
        return told[0] if told else platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _output(*command: str) -> list[str] | None:
    """The lines that a command prints; None if the command does not exist."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5)
    except OSError:
        return None
    except subprocess.TimeoutExpired:
        return [f"{command[0]} did not answer within 5 seconds"]
    return (done.stdout + done.stderr).strip().splitlines()


def cuda() -> Facts:
    problem = None
    if torch.version.cuda or torch.version.hip:
        try:
            torch.cuda.init()  # unlike is_available(), it raises the reason
        except Exception as error:
            problem = describe(error)
    return {
        "torch": torch.version.cuda,
        "hip": torch.version.hip,
        "problem": problem,
        "nvidia_smi": _output(
            "nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"
        ),
    }


def devices() -> Facts:
    """What torch can use, and what runs there."""
    present = [_device("cpu")]
    try:
        accelerator = torch.accelerator.current_accelerator()
        if accelerator is not None and torch.accelerator.is_available():
            for i in range(torch.accelerator.device_count()):
                present.append(_device(f"{accelerator.type}:{i}"))
    except Exception as error:
        present.append({**_NO_DEVICE, "device": "accelerator", "error": describe(error)})
    return {"present": present}


_NO_DEVICE = dict.fromkeys(("device", "backend", "name", "capability", "error"))


def _device(device: str) -> Facts:
    row: Facts = {**_NO_DEVICE, "device": device}
    try:
        if device.startswith("cuda"):
            row["name"] = torch.cuda.get_device_name(device)
            row["capability"] = "{}.{}".format(*torch.cuda.get_device_capability(device))
        row["backend"] = functional.backend(torch.empty(0, device=device))
        _try_torch(device, torch.float32)
    except Exception as error:
        row["error"] = describe(error)
    return row


def _try_torch(device: str, dtype: torch.dtype) -> None:
    """Raises if torch itself cannot compute there."""
    torch.ones(1, dtype=dtype, device=device).exp().cpu()


def self_check(names: list[str]) -> Facts:
    """Checks values and gradients of every dtype on these devices, see selfcheck.py."""
    start = time.perf_counter()
    threads = torch.get_num_threads()
    # On a busy machine each call that waits for a second thread takes some 15 ms.
    torch.set_num_threads(1)
    try:
        return {**_self_check(names), "seconds": time.perf_counter() - start}
    finally:
        torch.set_num_threads(threads)


def _self_check(names: list[str]) -> Facts:
    results: list[Facts] = []
    failures: list[str] = []
    skipped: list[str] = []
    for name in names:
        for dtype in eager.DTYPES:
            row: Facts = {"device": name, "dtype": str(dtype).removeprefix("torch.")}
            row |= dict.fromkeys(selfcheck.VARIANTS)
            what = f"{name}, {row['dtype']}"
            try:
                _try_torch(name, dtype)  # not every device has float64
            except Exception as error:
                skipped.append(f"{what}: {describe(error)}")
                continue
            results.append(row)
            try:
                worst = selfcheck.check(name, dtype)
            except Exception as error:
                failures.append(f"{what}: {describe(error)}")
                continue
            for variant, result in worst.items():
                row[variant] = result.share if math.isfinite(result.share) else None
                if result.share > 1:
                    failures.append(f"{what}, {variant}: {result}")
    return {
        "passed": bool(results) and not failures,
        "results": results,
        "failures": failures,
        "skipped": skipped,
    }
