"""Facts about this installation, and whether it computes what it should.

``python -m mish_cuda`` prints what ``diagnose`` yields, with ``--json`` as one
document of these keys:

    versions     mish_cuda, torch, python, os
    paths        mish_cuda, torch, python
    build        mode ("cuda", "cpu" or "none"), reason; with and for what: torch,
                 compiler, cuda, nvcc, architectures
    extension    loaded, reason, file
    cpu          model, cores, threads; kernels, torch: their instruction sets
    cuda         torch, hip: what torch is built for; problem: why it can use no
                 GPU; nvidia_smi: a list of what that says
    devices      present: a list of device, backend, name, capability, covered
                 (whether the build has code for it), error (of torch itself)
    environment  the variables that matter
    self_check   passed, failures, skipped, seconds; results: a list of device,
                 dtype and, for each way to compute, the largest error as a
                 share of what is allowed (null if infinite)
    benchmark    failures, seconds; results: a list of device, dtype, direction,
                 mish_cuda_us, f_mish_us (microseconds), speed_up
    advice       to_do: a list of text, command

What is unknown or does not apply is null. A part that fails is
{"error": message}. A part during which torch warned has a list "warnings" too.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from . import __version__, eager, functional, selfcheck
from ._extension import _REBUILD, REASON, C

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
        "devices": lambda: devices(known["build"].get("architectures")),
        "environment": lambda: {name: os.environ.get(name) for name in VARIABLES},
        "self_check": lambda: self_check(usable()),
        "benchmark": lambda: benchmark(usable()),
        "advice": lambda: advice(known),
    }
    for name, part in parts.items():
        known[name] = _attempt(part)
        yield name, _without_home(known[name])


def _attempt(part: Callable[[], Facts]) -> Facts:
    with warnings.catch_warnings(record=True) as caught:
        try:
            facts = part()
        except Exception as error:
            facts = {"error": describe(error)}
    if caught:
        facts["warnings"] = list(dict.fromkeys(str(warning.message) for warning in caught))
    return facts


def describe(error: Exception) -> str:
    """An error in one line: torch's go on with advice and a stack trace."""
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


def _has(module: str) -> bool:
    return importlib.util.find_spec(f"mish_cuda.{module}") is not None


def build() -> Facts:
    """What the build wrote down beside the extension; it may be damaged, or of an older version."""
    if _has("_build"):
        written = importlib.import_module("mish_cuda._build")
        mode, reason = getattr(written, "MODE", None), getattr(written, "REASON", None)
    elif _has("_C"):
        raise FileNotFoundError(
            "_build.py, which the build leaves beside the extension, is missing"
        )
    else:
        written, mode, reason = None, "none", "nothing was compiled"
    return {
        "mode": mode,
        "reason": reason,
        "torch": getattr(written, "TORCH", None),
        "compiler": getattr(written, "CXX", None),
        "cuda": getattr(written, "CUDA", None),
        "nvcc": getattr(written, "NVCC", None),
        "architectures": getattr(written, "ARCHS", None),
    }


def extension() -> Facts:
    return {"loaded": C is not None, "reason": REASON, "file": C and Path(str(C.__file__)).name}


def cpu() -> Facts:
    return {
        "model": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": C.cpu_isa() if C is not None else None,
        "torch": torch.backends.cpu.get_cpu_capability(),
    }


def cpu_model() -> str:
    """As the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        told = _output("sysctl", "-n", "machdep.cpu.brand_string")
        return told[0] if told else platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def _output(*command: str) -> list[str] | None:
    """The lines that a command prints; None if there is no such command."""
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
            torch.cuda.init()  # unlike is_available() it says what is wrong
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


def devices(architectures: str | None) -> Facts:
    """What torch can use, and what runs there. `architectures`: of the build."""
    present = [_device("cpu", architectures)]
    try:
        accelerator = torch.accelerator.current_accelerator()
        if accelerator is not None and torch.accelerator.is_available():
            for i in range(torch.accelerator.device_count()):
                present.append(_device(f"{accelerator.type}:{i}", architectures))
    except Exception as error:
        present.append({**_NO_DEVICE, "device": "accelerator", "error": describe(error)})
    return {"present": present}


_NO_DEVICE = dict.fromkeys(("device", "backend", "name", "capability", "covered", "error"))


def _device(device: str, architectures: str | None) -> Facts:
    row: Facts = {**_NO_DEVICE, "device": device}
    try:
        if device.startswith("cuda"):
            row["name"] = torch.cuda.get_device_name(device)
            capability = torch.cuda.get_device_capability(device)
            row["capability"] = "{}.{}".format(*capability)
            row["covered"] = architectures and covers(architectures, capability)
        row["backend"] = functional.backend(torch.empty(0, device=device))
        _try_torch(device, torch.float32)
    except Exception as error:
        row["error"] = describe(error)
    return row


def _try_torch(device: str, dtype: torch.dtype) -> None:
    """Raises where torch itself cannot compute."""
    torch.ones(1, dtype=dtype, device=device).exp().cpu()


def covers(architectures: str, capability: tuple[int, int]) -> bool | None:
    """Whether code built for a TORCH_CUDA_ARCH_LIST runs on a GPU; None if a name may cover it.

    Code for x.y runs on x.z from z = y on, and PTX on all that is newer
    (https://docs.nvidia.com/cuda/cuda-programming-guide/01-introduction/cuda-platform.html).
    Either, if it is for x.ya, runs on x.y alone, and PTX for x.yf where the code does
    (https://developer.nvidia.com/blog/nvidia-blackwell-and-nvidia-cuda-12-9-introduce-family-specific-architecture-features).
    """
    unknown = False
    for architecture in re.split(r"[;\s]+", architectures.strip()):
        parts = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", architecture)
        if parts is None:
            unknown = True
            continue
        target = int(parts[1]), int(parts[2])
        same_major = capability[0] == target[0] or (parts[4] is not None and not parts[3])
        if capability == target or (parts[3] != "a" and same_major and capability >= target):
            return True
    return None if unknown else False


def self_check(names: list[str]) -> Facts:
    """Values and gradients of every dtype on these devices, see selfcheck.py."""
    start = time.perf_counter()
    threads = torch.get_num_threads()
    # On a busy machine every call that waits for a second thread takes some 15 ms.
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
            row |= dict.fromkeys(selfcheck.WAYS)
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
            for way, found in worst.items():
                row[way] = found.share if math.isfinite(found.share) else None
                if found.share > 1:
                    failures.append(f"{what}, {way}: {found}")
    return {
        "passed": bool(results) and not failures,
        "results": results,
        "failures": failures,
        "skipped": skipped,
    }


def benchmark(names: list[str]) -> Facts:
    """mish_cuda beside F.mish on the CPU and the first accelerator: 65,536 elements, one thread."""
    start = time.perf_counter()
    results: list[Facts] = []
    failures: list[str] = []
    for name in names[:2]:
        try:
            for dtype in (torch.float32, torch.bfloat16):
                results += _benchmark(name, dtype)
        except Exception as error:
            failures.append(f"{name}: {describe(error)}")
    return {"results": results, "failures": failures, "seconds": time.perf_counter() - start}


def _benchmark(device: str, dtype: torch.dtype) -> list[Facts]:
    from torch.utils.benchmark import Timer  # a tenth of a second to import

    x, g = (torch.randn(65_536, device=device).to(dtype) for _ in range(2))
    names = {"ours": functional, "aten": torch.ops.aten, "x": x, "g": g}
    statements = {
        "forward": ("ours.mish(x)", "aten.mish(x)"),
        "backward": ("ours.mish_backward(x, g)", "aten.mish_backward(g, x)"),
    }
    timers = [Timer(text, globals=names) for pair in statements.values() for text in pair]
    # Interleaved, so that what else the machine does falls on all of them: 15 rounds, in which each
    # is called for a millisecond.
    numbers = [max(1, int(1e-3 / timer.timeit(2).mean)) for timer in timers]
    rounds = [
        [timer.timeit(number).mean for timer, number in zip(timers, numbers, strict=True)]
        for _ in range(15)
    ]
    medians = [statistics.median(taken) * 1e6 for taken in zip(*rounds, strict=True)]
    return [
        {
            "device": device,
            "dtype": str(dtype).removeprefix("torch."),
            "direction": direction,
            "mish_cuda_us": ours,
            "f_mish_us": theirs,
            "speed_up": theirs / ours,
        }
        for direction, ours, theirs in zip(statements, medians[::2], medians[1::2], strict=True)
    ]


def advice(known: dict[str, Facts]) -> Facts:
    """What to do about what the other parts found."""
    to_do: list[Facts] = []

    def add(text: str, command: str | None = None) -> None:
        to_do.append({"text": text, "command": command})

    if C is None and REASON.startswith("MISH_CUDA_EAGER"):
        add("No kernels run, since MISH_CUDA_EAGER is set. To let them:", "unset MISH_CUDA_EAGER")
    elif C is None:
        add("No kernels run. Build them, from the source folder, with:", _REBUILD)
    elif "error" in known["build"]:
        add("The installation is damaged. Rebuild it, from the source folder, with:", _REBUILD)
    gpus = [row for row in known["devices"].get("present", []) if row["capability"]]
    if C is not None and torch.version.cuda and any(row["backend"] == "eager" for row in gpus):
        command = f"MISH_CUDA_BUILD=cuda {_REBUILD}"
        add("CUDA tensors get no kernels. Build them, from the source folder, with:", command)
    if any(row["covered"] is False for row in gpus):
        wanted = ";".join(sorted({row["capability"] for row in gpus}))
        command = f"MISH_CUDA_BUILD=cuda TORCH_CUDA_ARCH_LIST='{wanted}' {_REBUILD}"
        add("The build has no code for a GPU here. Rebuild, from the source folder, with:", command)
    if not known["self_check"].get("passed"):
        add("The self-check failed. Please report it, with all of this text.")
        if C is not None:
            add("Until it is mended, compute without kernels:", "export MISH_CUDA_EAGER=1")
    return {"to_do": to_do}
