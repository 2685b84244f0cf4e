"""What is timed on a GPU: the suite's providers, and a compiled and a Triton Mish."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cells import Cell, Direction
from benchmarks.providers import Inputs, statement

NAMES = ("mish_cuda", "F.mish", "relu", "copy", "F.silu", "triton", "compiled", "naive")
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")

# What Inductor sees first decides what its code is tuned for.
COMPILED_FOR = 2**26  # elements


def call(cell: Cell, inputs: Inputs) -> Any:
    """Runs what `cell` times, once, and returns its result."""
    backward = cell.direction == "backward"
    operands = (inputs.g, inputs.x) if backward else (inputs.x,)
    if cell.provider == "triton":
        from gpu import triton_mish

        return (triton_mish.backward if backward else triton_mish.forward)(*operands)
    if cell.provider == "compiled":
        return _compiled(cell.direction, inputs.x.dtype, inputs.x.device)(*operands)
    if cell.provider == "naive" and backward:
        return _naive_backward(*operands)
    timed = statement(cell, inputs)
    return eval(timed.text, dict(timed.names))


def _naive_backward(g: Tensor, x: Tensor) -> Tensor:
    """By formula, not by autograd: that would run on the stream of its forward, which is not the
    one that a graph captures."""
    t = F.softplus(x).tanh()
    return g * (t + x * (1 - t * t) * x.sigmoid())


def _mish(x: Tensor) -> Tensor:
    return F.mish(x)


def _mish_backward(g: Tensor, x: Tensor) -> Tensor:
    result: Tensor = torch.ops.aten.mish_backward(g, x)
    return result


@functools.cache
def _compiled(
    direction: Direction, dtype: torch.dtype, device: torch.device
) -> Callable[..., Tensor]:
    """F.mish by Inductor, which takes both directions apart and fuses them into one kernel."""
    backward = direction == "backward"
    # fullgraph: else, where it gives up, it goes on in eager calls with a mere warning.
    function: Callable[..., Tensor] = torch.compile(
        _mish_backward if backward else _mish, dynamic=True, fullgraph=True
    )
    # Two tensors: of one, given twice, it would make a kernel with one operand.
    function(*(torch.ones(COMPILED_FOR, dtype=dtype, device=device) for _ in range(1 + backward)))
    return function
