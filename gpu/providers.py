"""What is timed on a GPU: the suite's providers, and a compiled and a Triton Mish."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.cells import Cell, Direction
from benchmarks.providers import Inputs, statement

# Backward of naive and compiled Mish is left out: torch runs it on the stream of its forward, which
# a graph of the backward alone has not captured.
PROVIDERS: dict[Direction, tuple[str, ...]] = {
    "forward": ("mish_cuda", "F.mish", "relu", "copy", "F.silu", "naive", "compiled", "triton"),
    "backward": ("mish_cuda", "F.mish", "relu", "copy", "F.silu", "triton"),
}


@functools.cache
def _compiled() -> Callable[..., Any]:
    function: Callable[..., Any] = torch.compile(F.mish, dynamic=True)
    return function


def call(cell: Cell, inputs: Inputs) -> Any:
    """Runs what `cell` times, once, and returns its result."""
    if cell.provider == "compiled":
        return _compiled()(inputs.x)
    if cell.provider == "triton":
        from gpu import triton_mish

        if cell.direction == "forward":
            return triton_mish.forward(inputs.x)
        return triton_mish.backward(inputs.g, inputs.x)
    timed = statement(cell, inputs)
    return eval(timed.text, dict(timed.names))
