"""What a call costs the processor: calls on one element, which keep no GPU busy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F

import mish_cuda
from benchmarks.graphs import elapsed
from benchmarks.results import Timing
from benchmarks.timing import take_turns

CALLS = 2000
ROUNDS = 21

Key = tuple[str, str]  # direction, provider


def measure(device: str) -> dict[Key, Timing]:
    """Both directions of ours and of torch's, in turn."""
    x = torch.zeros(1, device=device)
    functions: dict[Key, Callable[[], Any]] = {
        ("forward", "mish_cuda"): lambda: mish_cuda.mish(x),
        ("forward", "F.mish"): lambda: F.mish(x),
        ("backward", "mish_cuda"): lambda: torch.ops.mish_cuda.mish_backward(x, x),
        ("backward", "F.mish"): lambda: torch.ops.aten.mish_backward(x, x),
    }
    times, failed = take_turns(
        list(functions), lambda key: lambda: elapsed(functions[key], CALLS) / CALLS, 0, ROUNDS
    )
    if failed:
        raise RuntimeError("; ".join(f"{' '.join(key)}: {why}" for key, why in failed.items()))
    return times


def dearer(times: Mapping[Key, Timing]) -> Sequence[str]:
    """The directions in which a call costs more than F.mish's."""
    return [
        direction
        for direction in ("forward", "backward")
        if times[direction, "mish_cuda"].median > times[direction, "F.mish"].median
    ]
