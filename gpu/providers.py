"""What is timed on a GPU: providers of the suite, and a Triton Mish."""

from __future__ import annotations

from typing import Any

from benchmarks import providers as suite
from benchmarks.cells import Cell, Direction
from benchmarks.providers import Inputs

NAMES = ("mish_cuda", "F.mish", "relu", "copy", "F.silu", "triton", "compiled F.mish", "naive")
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")


def call(cell: Cell, inputs: Inputs) -> Any:
    """Runs what `cell` times, once, and returns its result."""
    backward = cell.direction == "backward"
    operands = (inputs.g, inputs.x) if backward else (inputs.x,)
    if cell.provider == "triton":
        from gpu import triton_mish

        return (triton_mish.backward if backward else triton_mish.forward)(*operands)
    return suite.call(cell, inputs)
