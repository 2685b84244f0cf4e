"""Memory of calls: the most that one takes, and freed memory kept for the next."""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch.autograd.profiler import profile

from benchmarks.arguments import Refused
from benchmarks.units import format_bytes


def peak(function: Callable[[], object], device: str) -> int:
    """The most bytes that torch had allocated during a call, above those allocated before it.

    Call `function` before, so that what it allocates once and keeps is not counted. On CUDA bytes
    come in the allocator's blocks of 512.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    return max(itertools.accumulate(_allocations(function)), default=0)


def keep_freed() -> None:
    """Have glibc keep freed memory for the next call, as torch's allocator on a GPU does.

    By default it gives large blocks back to the system, or not, as they lie, and new pages cost
    more than the arithmetic: docs/benchmarks.md has figures.
    """
    if platform.libc_ver()[0] == "glibc":
        m_trim_threshold, m_mmap_max = -1, -4  # of malloc.h
        libc = ctypes.CDLL(None)
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, -1)


def require(device: str, what: str, needed: int, option: str) -> None:
    """Refuse what the CPU's memory cannot hold: Linux would kill the process without a word.

    CUDA says so itself, and the next case goes on.
    """
    free = _available()
    if device == "cpu" and free is not None and needed > free:
        raise Refused(
            f"{what} takes about {format_bytes(needed)}, of which {format_bytes(free)} are free: "
            f"give a smaller {option}"
        )


def _available() -> int | None:
    """Bytes of the machine's memory, or of the container's, that are free; None if not known."""
    try:
        known = re.search(r"MemAvailable: *(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:  # not Linux
        return None
    free = int(known[1]) * 1024 if known else None
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no control group, or "max": no limit
        return free
    return min(free or limit, limit - used)


def _allocations(function: Callable[[], object]) -> list[int]:
    """Bytes of each allocation on the CPU, negative where one is freed, in their order."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # else the profiler tells when it starts
    with profile(profile_memory=True) as profiler:
        function()
    # Not profiler.events(), in which what an op allocates and what it frees is one number.
    events = profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]
