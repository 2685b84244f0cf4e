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
from benchmarks.timing import Statement, threads

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
    """The call that `cell` times, on `inputs`; compiled first where it is to be."""
    with threads(cell.threads):
        return replace(_RECIPES[cell.provider][cell.direction](inputs), threads=cell.threads)


def call(cell: Cell, inputs: Inputs) -> Any:
    """Runs what `cell` times, once, and returns its result."""
    timed = statement(cell, inputs)
    return eval(timed.text, dict(timed.names))


def naive(x: Tensor) -> Tensor:
    """Mish in three torch calls, each of which keeps a tensor for backward."""
    return x * torch.tanh(F.softplus(x))


def _gradient(g: Tensor, x: Tensor) -> Tensor:
    """g times the derivative of `naive`, by the chain rule."""
    t = torch.tanh(F.softplus(x))
    return g * (t + x * (1 - t * t) * torch.sigmoid(x))


class _MemoryEfficient(torch.autograd.Function):
    """Mish that saves its input alone and computes the rest anew in backward.

    What one did before torch had F.mish, in timm for one:
    https://github.com/huggingface/pytorch-image-models/blob/main/timm/layers/activations_me.py
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return naive(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _gradient(g, x)


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
    if t.x.is_cuda:
        # Autograd would run on the stream of its forward, which is not the one a graph captures.
        return _backward_op(_gradient)(t)
    names = {"grad": torch.autograd.grad, "y": naive(t.leaf), "leaf": t.leaf, "g": t.g}
    return Statement("grad(y, leaf, g, retain_graph=True)", names)


def _copy_forward(t: Inputs) -> Statement:
    return Statement("out.copy_(x)", {"out": t.out, "x": t.x})


def _copy_backward(t: Inputs) -> Statement:
    # The plainest pass with the traffic of a backward: two reads, one write.
    return Statement("add(g, x, out=out)", {"add": torch.add, "g": t.g, "x": t.x, "out": t.out})


def _copy_forward_backward(t: Inputs) -> Statement:
    names = {**_copy_forward(t).names, **_copy_backward(t).names}
    return Statement("out.copy_(x), add(g, x, out=out)", names)


def _kernel(x: Tensor) -> Tensor:
    result: Tensor = torch.ops.mish_cuda.mish(x)  # as compile_with("kernel") has it traced
    return result


def _mish_cuda_gradient(g: Tensor, x: Tensor) -> Tensor:
    return mish_cuda.mish_backward(x, g)


# What Inductor sees first decides what its code is tuned for.
_COMPILED_FOR = {"cpu": 2**20, "cuda": 2**26}  # elements

# Each surrounding as Python.
_EXPRESSIONS = dict(
    zip(
        SURROUNDINGS,
        ("f(x)", "f(2 * x) + 1", "relu(f(2 * x + 1) / 2 + x) * x"),
        strict=True,
    )
)


@functools.cache
def _compiled(
    text: str,
    function: Function,
    dtype: torch.dtype,
    device: torch.device,
    trains: bool,
    threads: int,
) -> Function:
    """torch.compile of the lambda `text`, in which `function` is called f, for all sizes.

    A lambda of its own for each dtype, use and number of threads: torch compiles the same piece of
    code anew eight times and no more.
    """
    inner = eval(text, {"f": function, "relu": torch.relu})
    # fullgraph: else, where it gives up, it goes on in eager calls with a mere warning.
    compiled: Function = torch.compile(inner, dynamic=True, fullgraph=True)
    # Two tensors: of one, given twice, it would make a kernel with one operand.
    size, count = _COMPILED_FOR[device.type], inner.__code__.co_argcount
    compiled(
        *(torch.ones(size, dtype=dtype, device=device).requires_grad_(trains) for _ in range(count))
    )
    return compiled


def _compile(text: str, function: Function, t: Inputs, trains: bool = False) -> Function:
    return _compiled(text, function, t.x.dtype, t.x.device, trains, torch.get_num_threads())


def _compiled_forward_backward(function: Function, expression: str = "f(x)") -> Recipe:
    return lambda t: _forward_backward(
        _compile(f"lambda x: {expression}", function, t, trains=True)
    )(t)


def _compiled_recipes(forward: Function, backward: Function) -> dict[Direction, Recipe]:
    """Not compiled before they are asked for: the compiler takes seconds to import."""
    return {
        "forward": lambda t: _forward(_compile("lambda x: f(x)", forward, t))(t),
        "backward": lambda t: _backward_op(_compile("lambda g, x: f(g, x)", backward, t))(t),
        "forward+backward": _compiled_forward_backward(forward),
    }


_COMPILED: tuple[Function, ...] = (F.mish, mish_cuda.mish, _kernel)  # as COMPILED names them

_RECIPES: dict[str, dict[Direction, Recipe]] = {
    **{
        compiled_provider(name, surrounding): {
            "forward+backward": _compiled_forward_backward(function, expression)
        }
        for name, function in zip(COMPILED, _COMPILED, strict=True)
        for surrounding, expression in _EXPRESSIONS.items()
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
        "forward": _forward(naive),
        "backward": _naive_backward,
        "forward+backward": _forward_backward(naive),
    },
    "memory-efficient": {
        "forward": _forward(_MemoryEfficient.apply),
        "backward": _backward_op(_gradient),
        "forward+backward": _forward_backward(_MemoryEfficient.apply),
    },
    "compiled F.mish": _compiled_recipes(F.mish, torch.ops.aten.mish_backward),
    "compiled mish_cuda": _compiled_recipes(mish_cuda.mish, _mish_cuda_gradient),
    "F.silu": {
        "forward": _forward(F.silu),
        "backward": _backward_op(torch.ops.aten.silu_backward),
        "forward+backward": _forward_backward(F.silu),
    },
    "F.gelu": {
        "forward": _forward(F.gelu),
        "backward": _backward_op(torch.ops.aten.gelu_backward),
        "forward+backward": _forward_backward(F.gelu),
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
