"""The statement that each provider runs for each direction."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import mish_cuda
from benchmarks.cells import (
    COMPILED,
    DTYPES,
    LAYOUTS,
    SURROUNDINGS,
    Cell,
    Direction,
    compiled_provider,
)
from benchmarks.timing import Statement

Function = Callable[..., Any]


@dataclass(frozen=True)
class Inputs:
    """The tensors of one kind of input, shared by all providers of a group."""

    x: Tensor
    leaf: Tensor  # x again, requiring grad
    g: Tensor  # the gradient that comes in from above
    out: Tensor


Recipe = Callable[[Inputs], Statement]


def make_inputs(cell: Cell, device: str, seed: int = 0) -> Inputs:
    """Seeded random tensors: activations of standard deviation 3, gradients of 1.

    Never zeros: some kernels are faster on them, and subnormal results slower.
    """
    generator = torch.Generator(device).manual_seed(seed)
    dtype = DTYPES[cell.dtype]
    base = torch.randn(cell.shape, generator=generator, device=device).mul_(3).to(dtype)
    x = LAYOUTS[cell.layout](base)
    # empty_like keeps the strides of dense inputs, as autograd does for the gradients it passes.
    g = torch.empty_like(x).copy_(torch.randn(x.shape, generator=generator, device=device))
    return Inputs(x, x.detach().requires_grad_(), g, torch.empty_like(x))


def statement(cell: Cell, inputs: Inputs) -> Statement:
    """The call that `cell` times, on `inputs`."""
    return replace(_RECIPES[cell.provider][cell.direction](inputs), threads=cell.threads)


def _naive(x: Tensor) -> Tensor:
    return x * torch.tanh(F.softplus(x))


def _forward(function: Function) -> Recipe:
    return lambda t: Statement("f(x)", {"f": function, "x": t.x})


def _forward_out(function: Function) -> Recipe:
    return lambda t: Statement("f(x, out=out)", {"f": function, "x": t.x, "out": t.out})


def _forward_backward(function: Function) -> Recipe:
    names = {"f": function, "grad": torch.autograd.grad}
    return lambda t: Statement("grad(f(leaf), leaf, g)", {**names, "leaf": t.leaf, "g": t.g})


def _backward_op(op: Function, arguments: str = "g, x") -> Recipe:
    return lambda t: Statement(f"op({arguments})", {"op": op, "g": t.g, "x": t.x})


def _mish_cuda_backward(t: Inputs) -> Statement:
    # Without the extension there is no op, and the public function runs the eager maths.
    if mish_cuda.backend(t.x) == "eager":
        return _backward_op(mish_cuda.mish_backward, "x, g")(t)
    return _backward_op(torch.ops.mish_cuda.mish_backward)(t)


def _naive_backward(t: Inputs) -> Statement:
    names = {"grad": torch.autograd.grad, "y": _naive(t.leaf), "leaf": t.leaf, "g": t.g}
    return Statement("grad(y, leaf, g, retain_graph=True)", names)


def _copy_forward(t: Inputs) -> Statement:
    return Statement("out.copy_(x)", {"out": t.out, "x": t.x})


def _copy_backward(t: Inputs) -> Statement:
    # The plainest pass with the traffic of a backward: two reads, one write.
    return Statement("add(g, x, out=out)", {"add": torch.add, "g": t.g, "x": t.x, "out": t.out})


def _copy_forward_backward(t: Inputs) -> Statement:
    names = {**_copy_forward(t).names, **_copy_backward(t).names}
    return Statement("out.copy_(x); add(g, x, out=out)", names)


def _kernel(x: Tensor) -> Tensor:
    result: Tensor = torch.ops.mish_cuda.mish(x)  # as compile_with("kernel") has it traced
    return result


def _surrounded(function: Function, surrounding: str) -> Function:
    if surrounding == "f(x)":
        return lambda x: function(x)
    if surrounding == "f(2x) + 1":
        return lambda x: function(2 * x) + 1
    return lambda x: torch.relu(function(2 * x + 1) / 2 + x) * x


@functools.cache
def _compiled(function: Function, surrounding: str) -> Function:
    """Compiled once for all sizes: sizes of their own would exceed what torch compiles anew."""
    return torch.compile(_surrounded(function, surrounding), dynamic=True, fullgraph=True)


def _compiled_forward_backward(function: Function, surrounding: str) -> Recipe:
    # Not before it is asked for: the compiler takes seconds to import.
    return lambda t: _forward_backward(_compiled(function, surrounding))(t)


_COMPILED: tuple[Function, ...] = (F.mish, mish_cuda.mish, _kernel)  # as COMPILED names them

_RECIPES: dict[str, dict[Direction, Recipe]] = {
    **{
        compiled_provider(name, surrounding): {
            "forward+backward": _compiled_forward_backward(function, surrounding)
        }
        for name, function in zip(COMPILED, _COMPILED, strict=True)
        for surrounding in SURROUNDINGS
    },
    "mish_cuda": {
        "forward": _forward(mish_cuda.mish),
        "forward out=": _forward_out(mish_cuda.mish),
        "backward": _mish_cuda_backward,
        "forward+backward": _forward_backward(mish_cuda.mish),
    },
    "F.mish": {
        "forward": _forward(F.mish),
        "backward": _backward_op(torch.ops.aten.mish_backward),
        "forward+backward": _forward_backward(F.mish),
    },
    "naive": {
        "forward": _forward(_naive),
        "backward": _naive_backward,
        "forward+backward": _forward_backward(_naive),
    },
    "F.silu": {
        "forward": _forward(F.silu),
        "backward": _backward_op(torch.ops.aten.silu_backward),
        "forward+backward": _forward_backward(F.silu),
    },
    "relu": {
        "forward": _forward(torch.relu),
        "backward": _backward_op(torch.ops.aten.threshold_backward, "g, x, 0"),
        "forward+backward": _forward_backward(torch.relu),
    },
    "copy": {
        "forward": _copy_forward,
        "forward out=": _copy_forward,
        "backward": _copy_backward,
        "forward+backward": _copy_forward_backward,
    },
}
